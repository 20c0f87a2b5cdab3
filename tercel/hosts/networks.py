"""The networks that a graph asks for: loaded on this machine, and, live, run wherever the offload manager decides."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from perception.model_catalog import model_file
from tercel.core.component import Models
from tercel.core.errors import UserError, nearest_hint
from tercel.core.messages import Message, NextLook
from tercel.hosts.graph import Graph

if TYPE_CHECKING:
    from offload.models import Hint, OffloadedModels
    from perception.runtime import Backend, Network

T = TypeVar("T")
_ANSWER_WITHIN_S = 5.0


def load_networks(
    graph: Graph,
    given: Mapping[str, str],
    threads: int,
    backend: Backend = "onnxruntime",
    say: Callable[[str], None] = print,
) -> dict[str, Network]:
    """The networks of a graph, by name. given: files, or names of shipped or pulled models, as on the command line.

    say hears which backend "auto" took. Raises UserError.
    """
    files = graph.model_files({name: model_file(word) for name, word in given.items()})
    if not files:
        return {}
    from perception.runtime import load_network

    networks = {}
    for name, path in files.items():
        networks[name] = network = load_network(path, threads=threads, backend=backend, say=say)
        if backend == "auto":
            say(f"network {name}: {network.backend}, {network.threads} thread{'s' * (network.threads > 1)}")
    return networks


def open_models(
    graph: Graph,
    given: Mapping[str, str],
    threads: int,
    offload: Path | None,
    stack: contextlib.ExitStack,
    say: Callable[[str], None],
    backend: Backend = "onnxruntime",
) -> tuple[Models | None, Callable[[str, Message], None]]:
    """A graph's networks, on this board or, with an offload file, wherever its manager decides; None if it has none.

    Also an ear for all outputs: the manager weighs frames by the tracker's wish when to look next. Raises UserError.
    """
    networks = load_networks(graph, given, threads, backend, say)
    if offload is None:
        if not networks:
            return None, lambda _topic, _message: None
        from perception.runtime import LocalModels

        return LocalModels(networks), lambda _topic, _message: None
    if not networks:
        raise UserError(f"graph {graph.name} runs no networks: leave --offload out (of a ROS node: offload.file)")
    from offload.models import LookHint

    hint = LookHint()

    def hear(_topic: str, message: Message) -> None:
        if isinstance(message, NextLook):
            hint.heard(message)

    return stack.enter_context(offloaded(offload, graph, networks, hint=hint, say=say)), hear


class LoopModels:
    """`Models` that belong to the event loop of another thread, for components that have loops of their own."""

    def __init__(self, models: OffloadedModels, loop: asyncio.AbstractEventLoop) -> None:
        self._models = models
        self._loop = loop

    async def infer(self, model: str, tensor: np.ndarray, *, deadline_ns: int | None = None) -> list[np.ndarray]:
        """See Models. Called in the component's loop; the task lives in the models' own."""
        answer = self._models.infer(model, tensor, deadline_ns=deadline_ns)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answer, self._loop))

    def spec(self, model: str) -> Any:
        """As the board's own models say."""
        return self._models.spec(model)

    def call(self, function: Callable[[OffloadedModels], T]) -> T:
        """Call a function with the models in their own loop, where nothing else touches them, and wait for its result.

        What it raises is raised here; TimeoutError if the loop does not get to it.
        """

        async def called() -> T:
            return function(self._models)

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(_ANSWER_WITHIN_S)

    def summary(self) -> dict[str, Any]:
        """The manager's account, and the policy that it follows."""
        return self.call(lambda models: {"policy": models.policy, **models.account.summary()})


@contextlib.contextmanager
def offloaded(
    path: Path, graph: Graph, networks: Mapping[str, Network], *, hint: Hint, say: Callable[[str], None]
) -> Iterator[LoopModels]:
    """The networks under an offload file's manager, in a thread with a loop of their own, until the end of the block.

    Raises UserError for a file that cannot be used, and one that lacks a network of the graph.
    """
    from offload.models import live_models
    from offload.setup import read_setup
    from perception.runtime import LocalModels

    setup = read_setup(path)
    for name in graph.models:
        if name not in setup.kinds:
            raise UserError(f"{path}: models: the graph runs {name!r}; {nearest_hint(name, setup.kinds)}")
    names = {name: network.output_names for name, network in networks.items()}
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tercel-offload", daemon=True)
    thread.start()

    def wait_for(step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, loop).result()

    def infer(model: str, tensor: np.ndarray) -> list[np.ndarray]:
        return networks[model].run(tensor)

    try:
        manager = live_models(setup, LocalModels(networks), infer, output_names=names, hint=hint, say=say)
        models = wait_for(manager.__aenter__())
        try:
            yield LoopModels(models, loop)
        finally:
            wait_for(manager.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
