"""Networks on this machine: one interface over onnxruntime and OpenVINO, and the `Models` of a board on its own.

A file is checked when it is loaded, so that a wrong one is a line for the user at the start and not a failure in
flight. Backends are imported when the first network is loaded. On one backend the same file, thread count and tensor
give the same bits; two backends agree to about 1e-4. That is why "auto", which takes the faster one here, must be asked
for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from perception.backend_choice import (
    Candidate,
    cache_folder,
    cache_key,
    candidates,
    fastest,
    remember,
    remembered,
    trial_tensor,
)
from perception.model_card import ModelCard, card_beside, network_spec
from perception.model_spec import ModelSpec
from perception.network_file import InputTensor, NetworkFile, checked_input, checked_sha256
from tercel.core.errors import Rejected, UserError, nearest_hint

Array = NDArray[Any]
Backend = Literal["onnxruntime", "openvino", "auto"]


class Session(Protocol):
    """A file that a backend has prepared for runs."""

    def run(self, tensor: Array) -> list[Any]:
        """All outputs, new ones each time."""
        ...


class Network:
    """A loaded ONNX file with one input. Made by load_network. May be run by several threads at once.

    path, sha256 (of the file, in hex), input_shape, input_dtype; output_names and output_shapes as the warm-up run
    gave them; metadata as the file has it; backend and threads that run it.
    """

    def __init__(
        self, file: NetworkFile, sha256: str, tensor: InputTensor, session: Session, *, backend: str, threads: int
    ) -> None:
        self.path = file.path
        self.sha256 = sha256
        self.backend = backend
        self.threads = threads
        self.input_shape = tensor.shape
        self.input_dtype = tensor.dtype
        self.metadata: dict[str, str] = dict(file.metadata)
        self.output_names: tuple[str, ...] = tuple(output.name for output in file.outputs)
        self._session = session
        try:
            outputs = self.run(np.zeros(self.input_shape, self.input_dtype))  # the first run is also the slowest
        except Rejected:
            raise UserError(f"{self.path}: the model fails on a tensor of zeros; export it again") from None
        self.output_shapes: tuple[tuple[int, ...], ...] = tuple(output.shape for output in outputs)

    def run(self, tensor: Array) -> list[Array]:
        """All outputs, in the file's order; arrays of their own, which later runs leave alone.

        Raises ValueError for a wrong tensor, Rejected if the network fails.
        """
        if tensor.shape != self.input_shape or tensor.dtype != self.input_dtype:
            wanted = f"{self.input_shape} {np.dtype(self.input_dtype)}"
            raise ValueError(f"{self.path.name}: tensor is {tensor.shape} {tensor.dtype}, not {wanted}")
        try:
            outputs = self._session.run(np.asarray(tensor, order="C"))
        except Exception as error:  # the backends' errors share no base class of their own
            raise Rejected("model run failed") from error
        if not all(isinstance(output, np.ndarray) for output in outputs):
            raise Rejected("model output is not a tensor")
        return outputs


def load_network(
    path: str | Path,
    *,
    threads: int = 1,
    backend: Backend = "onnxruntime",
    providers: Sequence[str] | None = None,
    sha256: str | None = None,
    input_size: tuple[int, int] | None = None,
    cache_dir: Path | None = None,
    say: Callable[[str], Any] = warnings.warn,
) -> Network:
    """Load, check and warm up an ONNX file.

    threads: for one run. backend: "auto" takes the fastest on this machine (perception.backend_choice), with at most so
    many threads; it is timed when a model is first loaded, and remembered in cache_dir, the user's own by default.
    providers: onnxruntime's, best first; None: the CPU alone, or with "auto" all that there are. sha256: of the file,
    in hex; else the model card's, where it has one. input_size: (height, width) for a model that leaves them free, and
    neither its card nor its metadata say them. say: hears of what the user should know and that is no error.

    Raises UserError, in one line, for a file that is missing, empty, unreadable, not ONNX or not the one that sha256
    names, for a model that has operators unknown to the backend, several inputs or sizes that are not fixed (the first,
    the batch, is run with 1), and for a backend or provider that is not installed. Raises ValueError for threads below
    1.
    """
    if threads < 1:
        raise ValueError(f"threads {threads} must be at least 1")
    if backend not in get_args(Backend):
        raise UserError(f"no backend is named {backend!r}; {nearest_hint(backend, get_args(Backend))}")
    path = Path(path)
    card = card_beside(path) or ModelCard()
    found = checked_sha256(path, sha256 or card.sha256)
    folder = cache_dir or cache_folder()

    def check(file: NetworkFile) -> InputTensor:
        return checked_input(file, input_size, card.input_size)

    def opened(how: Candidate, *, quantized: bool = True) -> Network:
        return _open(path, found, how, check, folder, quantized=quantized)

    if backend != "auto":
        return opened(Candidate(backend, threads, tuple(providers or ())))
    return _open_fastest(
        opened, cache_key(found, input_size or card.input_size, threads), folder, threads, providers, say
    )


def _open(
    path: Path,
    sha256: str,
    how: Candidate,
    check: Callable[[NetworkFile], InputTensor],
    cache_dir: Path,
    *,
    quantized: bool = True,
) -> Network:
    session: Session
    if how.backend == "openvino":
        from perception.backend_openvino import open_openvino

        session, file, tensor = open_openvino(path, how.threads, check)
    else:
        from perception.backend_onnxruntime import open_onnxruntime

        session, file, tensor = open_onnxruntime(
            path, how.threads, check, providers=how.providers, cache_dir=cache_dir, quantized=quantized
        )
    return Network(file, sha256, tensor, session, backend=how.backend, threads=how.threads)


def _open_fastest(
    opened: Callable[..., Network],
    key: str,
    folder: Path,
    threads: int,
    providers: Sequence[str] | None,
    say: Callable[[str], Any],
) -> Network:
    """The network as it runs fastest here; see load_network."""
    from perception.backend_onnxruntime import usable_providers

    has_openvino = importlib.util.find_spec("openvino") is not None
    known = candidates(threads, usable_providers(providers), openvino=has_openvino)
    memory = folder / "backends.json"
    if how := remembered(memory, key, known, say):
        with contextlib.suppress(UserError):
            return opened(how)
    networks = {known[0]: opened(known[0])}  # onnxruntime's CPU, which says what is wrong with a file
    for candidate in known[1:]:
        with contextlib.suppress(UserError):
            networks[candidate] = opened(candidate)
    reference = opened(known[0], quantized=False)
    try:
        winner, medians_ms = fastest(networks, reference, trial_tensor(reference.input_shape, reference.input_dtype))
    except Rejected as error:
        say(f"{reference.path}: the fastest backend cannot be told ({error}); onnxruntime runs it")
        return networks[known[0]]
    remember(memory, key, winner, medians_ms, say)
    return networks[winner]


class LocalModels:
    """The `Models` of a board that runs every network itself, one at a time, when it is asked.

    infer computes inline, in the caller's thread: a host that must not wait puts the component into a thread. specs
    overrides what a detector's outputs say about it, for networks of our own training. Raises UserError if a spec
    does not fit its network.
    """

    def __init__(self, networks: Mapping[str, Network], specs: Mapping[str, ModelSpec] | None = None) -> None:
        self._networks = dict(networks)
        self._specs = dict(specs or {})
        for model, spec in self._specs.items():
            network = self._network(model)
            if network.input_shape != spec.input_shape:
                raise UserError(f"{network.path}: takes {network.input_shape}, not {spec.input_shape} as its spec says")

    async def infer(self, model: str, tensor: Array, *, deadline_ns: int | None = None) -> list[Array]:
        """All outputs of the named model. The deadline is not looked at: there is no other place to run."""
        del deadline_ns
        return self._network(model).run(tensor)

    def spec(self, model: str) -> ModelSpec:
        """The named model as a camera detector. Raises UserError for an unknown name and for one that is none."""
        network = self._network(model)
        if model not in self._specs:
            self._specs[model] = network_spec(network)
        return self._specs[model]

    def _network(self, model: str) -> Network:
        if model not in self._networks:
            raise UserError(f"no model is named {model!r}; {nearest_hint(model, self._networks)}")
        return self._networks[model]
