"""Executors for the replay host: real results of the board's own models, in the time that the offload file states.

On the board and in the cloud alike the network runs here and now, and the virtual clock then stands where it would have
stood: the file's times by a log-normal factor with the file's spread, drawn from a seed, and the link asked for what
the upload takes. The n-th task has the n-th factors whatever the policy does with it, so policies can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from offload.executors import Ran
from offload.link import Link
from offload.models import BoardModels, Hint, OffloadedModels, always_one
from offload.scenario import Day
from offload.setup import OffloadSetup
from offload.simulator import SimulatedEdge, SimulatedRemote
from offload.tasks import Option, Task, lognormal_factor
from tercel.core.clock import VirtualClock


class _Factors:
    """Log-normal factors of mean one, drawn as far as they are asked for."""

    def __init__(self, spread: float, seed: int, stream: int) -> None:
        self._spread = spread
        self._generator = np.random.default_rng([seed, stream])
        self._drawn: list[float] = []

    def __getitem__(self, number: int) -> float:
        while number >= len(self._drawn):
            self._drawn.append(lognormal_factor(float(self._generator.standard_normal()), self._spread))
        return self._drawn[number]

    def tolist(self) -> _Factors:
        """Itself: a Day's arrays are made lists by those who read them often."""
        return self


@dataclass(frozen=True)
class _LinkSince:
    """A link whose own time begins at start_ns of the board's clock."""

    link: Link
    start_ns: int

    def rtt_ns(self, now_ns: int) -> int:
        return self.link.rtt_ns(now_ns - self.start_ns)

    def sent_ns(self, now_ns: int, size_bytes: int) -> int | None:
        sent_ns = self.link.sent_ns(now_ns - self.start_ns, size_bytes)
        return None if sent_ns is None else sent_ns + self.start_ns

    def capacity_bytes(self, from_ns: int, to_ns: int) -> float:
        return self.link.capacity_bytes(from_ns - self.start_ns, to_ns - self.start_ns)


class _ProfiledEdge(SimulatedEdge):
    def __init__(self, clock: VirtualClock, day: Day, board: BoardModels) -> None:
        super().__init__(clock, day)
        self._board = board

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        """A head's output is its input: the whole network runs in the tail's place."""
        ran = await super().run(task, option, payload)
        return ran if option.place == "split" else await _with_outputs(ran, self._board, task, option)


class _ProfiledRemote(SimulatedRemote):
    def __init__(self, clock: VirtualClock, day: Day, board: BoardModels) -> None:
        super().__init__(clock, day, box=0)
        self._board = board

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        return await _with_outputs(await super().run(task, option, payload), self._board, task, option)


async def _with_outputs(ran: Ran, board: BoardModels, task: Task, option: Option) -> Ran:
    return replace(ran, outputs=await board.infer(option.name or task.kind.name, task.payload))


def profiled_models(
    setup: OffloadSetup, clock: VirtualClock, board: BoardModels, seed: int, *, hint: Hint = always_one
) -> OffloadedModels:
    """The board's models under the setup's policy, in its times and over its link, which begins now.

    The same setup, calls and seed give the same answers at the same times.
    """
    nothing = np.zeros(0, np.int64)
    factors: Any = [
        _Factors(spread, seed, stream) for stream, spread in enumerate((setup.spread.edge, setup.spread.cloud))
    ]
    day = Day(
        kinds=tuple(setup.kinds.values()),
        created_ns=nothing,
        kind=nothing,
        source=nothing,
        box=nothing,
        size_bytes=nothing,
        edge_factor=factors[0],
        server_factor=factors[1],
        links=(_LinkSince(setup.link, clock.now_ns),),
        duration_ns=0,
        lanes=setup.lanes,
        window_ns=setup.window_ns,
    )
    return OffloadedModels(
        setup, clock, _ProfiledEdge(clock, day, board), _ProfiledRemote(clock, day, board), board, hint=hint
    )
