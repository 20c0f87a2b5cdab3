"""What `tercel replay --offload` adds: the manager between a graph's components and the board's networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offload.models import BoardModels, LookHint
from offload.profiled import profiled_models
from offload.setup import read_setup
from tercel.core.clock import VirtualClock
from tercel.core.errors import UserError, nearest_hint
from tercel.core.messages import Message, NextLook
from tercel.hosts.graph import Graph

Sink = Callable[[str, int, Message], None]


class Offloading:
    """The models that a graph's components ask, under the manager, on the replay's clock.

    trace: another link than the file's, as on the command line. Raises UserError.
    """

    def __init__(
        self, path: Path, trace: str | None, graph: Graph, board: BoardModels, start_ns: int, seed: int
    ) -> None:
        setup = read_setup(path, link=trace, seed=seed)
        for name in graph.models:
            if name not in setup.kinds:
                raise UserError(f"{path}: models: the graph runs {name!r}; {nearest_hint(name, setup.kinds)}")
        self.clock = VirtualClock(start_ns)
        self._hint = LookHint()
        self.models = profiled_models(setup, self.clock, board, seed, hint=self._hint)
        self._told = {"file": path.name, "policy": setup.policy, **({"trace": Path(trace).name} if trace else {})}

    def listening(self, sink: Sink) -> Sink:
        """The sink, with an ear for the tracker's wish when to look next."""

        def write(topic: str, now_ns: int, message: Message) -> None:
            if isinstance(message, NextLook):
                self._hint.heard(message)
            sink(topic, now_ns, message)

        return write

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        return self._told | self.models.account.summary()


def offload_line(summary: Mapping[str, Any]) -> str:
    """The offloading in a line of the table."""
    fates = ", ".join(f"{count} {fate}" for fate, count in summary["fates"].items() if count) or "none"
    return (
        f"offload: {summary['policy']}, {summary['tasks']} tasks: {fates}; {summary['completion']:.1%} in time, "
        f"{summary['upload_bytes'] / 1e6:.2f} MB up, p90 {summary['response_ms']['p90']:.0f} ms"
    )
