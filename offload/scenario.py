"""A fleet's day, drawn once: which tasks arrive when, how long each would take where, and the links.

Everything that is random is drawn here, from one seed, so that every policy meets the same tasks, durations and links,
and the clairvoyant bound knows what it must know. Drones film in segments of one period; at the end of each segment the
box that they are linked to gets one task of every kind of its workload, in a drawn order. Drones are not in step: each
has a drawn phase.

The kinds and workloads of `launch/fleets` are those of DEMS (arXiv 2412.20860, table 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.link import Link
from offload.tasks import Task, TaskKind

Array = NDArray[Any]

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Slowdown:
    """The board runs slower for a while, as when it is hot: from from_ns to to_ns its times are `factor` as long."""

    from_ns: int
    to_ns: int
    factor: float


@dataclass(frozen=True)
class ColdStarts:
    """The cloud's instances, one for each task of a kind that runs at once: a new one takes start_ns more, and one that
    has been idle for keep_ns is gone. Scaling is per kind and per box.
    """

    start_ns: int
    keep_ns: int


@dataclass(frozen=True)
class Day:
    """All that happens to one fleet in one run. N tasks in order of created_ns; times in ns since the run's start.

    kind, source, box (N,) int: indices of the kind, the drone and the box; size_bytes (N,) int64. edge_factor,
    server_factor (N,) float64: the task's time on the board and of the server over those that its option states.
    links: one for each box.
    """

    kinds: tuple[TaskKind, ...]
    created_ns: Array
    kind: Array
    source: Array
    box: Array
    size_bytes: Array
    edge_factor: Array
    server_factor: Array
    links: tuple[Link, ...]
    duration_ns: int
    lanes: int = 1
    slowdowns: tuple[Slowdown, ...] = ()
    cold: ColdStarts | None = None
    window_ns: int = 20 * SECOND_NS

    def slowdown(self, now_ns: int) -> float:
        """How much longer than stated the board takes at this time."""
        factor = 1.0
        for slow in self.slowdowns:
            if slow.from_ns <= now_ns < slow.to_ns:
                factor *= slow.factor
        return factor

    def tasks(self, box: int | None = None) -> list[Task]:
        """The tasks, or those of one box, in order of arrival; ids are rows."""
        rows = range(len(self.created_ns)) if box is None else np.flatnonzero(self.box == box).tolist()
        created, kinds = self.created_ns.tolist(), self.kind.tolist()
        sizes, sources = self.size_bytes.tolist(), self.source.tolist()
        return [
            Task(row, self.kinds[kinds[row]], created[row], size_bytes=sizes[row], source=sources[row]) for row in rows
        ]


@dataclass(frozen=True)
class Fleet:
    """What a day is drawn from. kinds: one task of each in a segment. period_ns: of a segment; jitter_ns: how late its
    task may come. size_bytes: least and greatest input. drones are dealt to boxes of drones_per_box.
    """

    kinds: tuple[TaskKind, ...]
    drones: int
    drones_per_box: int
    duration_ns: int = 300 * SECOND_NS
    period_ns: int = SECOND_NS
    jitter_ns: int = 0
    size_bytes: tuple[int, int] = (14_000, 44_000)
    lanes: int = 1
    slowdowns: tuple[Slowdown, ...] = ()
    cold: ColdStarts | None = None
    window_ns: int = 20 * SECOND_NS

    def __post_init__(self) -> None:
        if min(self.drones, self.drones_per_box, self.lanes, self.period_ns, self.window_ns) < 1 or not self.kinds:
            raise ValueError("drones, drones_per_box, lanes, period_ns and window_ns must be at least 1; name a kind")
        if self.duration_ns < self.period_ns or self.jitter_ns < 0:
            raise ValueError("duration_ns must be at least one period_ns and jitter_ns at least 0")
        if not 0 <= self.size_bytes[0] <= self.size_bytes[1]:
            raise ValueError(f"size_bytes is (least, greatest), not {self.size_bytes}")

    @property
    def boxes(self) -> int:
        """How many boards there are."""
        return -(-self.drones // self.drones_per_box)


def draw_day(fleet: Fleet, links: Sequence[Link], seed: int) -> Day:
    """Draw a day of a fleet. Each quantity has its own stream, so that none moves another.

    links: one for each box. A task whose kind has no cloud option, or only split ones, has the server's stated time.
    Raises ValueError if there are fewer or more links than boxes.
    """
    if len(links) != fleet.boxes:
        raise ValueError(f"{fleet.boxes} boxes need as many links, not {len(links)}")
    phase, order, jitter, size, edge, server = (np.random.default_rng([seed, stream]) for stream in range(6))
    segments = fleet.duration_ns // fleet.period_ns
    phases_ns = phase.integers(0, fleet.period_ns, fleet.drones)
    shape = (int(segments), fleet.drones, len(fleet.kinds))
    begin_ns = np.arange(segments)[:, None] * fleet.period_ns + phases_ns
    late_ns = jitter.integers(0, fleet.jitter_ns + 1, shape[:2])
    created_ns = np.broadcast_to((begin_ns + late_ns)[..., None], shape)
    kind = order.permuted(np.broadcast_to(np.arange(shape[2]), shape), axis=2)
    source = np.broadcast_to(np.arange(fleet.drones)[None, :, None], shape)
    # One segment is filmed once: its tasks have one size.
    sizes = np.broadcast_to(size.integers(*fleet.size_bytes, shape[:2], endpoint=True)[..., None], shape)
    edge_spread = np.array([k.edge.edge_spread if k.edge else 0.0 for k in fleet.kinds])
    remote_spread = np.array([k.cloud.remote_spread if k.cloud else 0.0 for k in fleet.kinds])
    rows = np.argsort(created_ns.ravel(), kind="stable")
    kinds = kind.ravel()[rows]
    edge_factor = _lognormal(edge, edge_spread[kinds])
    server_factor = _lognormal(server, remote_spread[kinds])
    sources = source.ravel()[rows]
    return Day(
        kinds=fleet.kinds,
        created_ns=created_ns.ravel()[rows],
        kind=kinds,
        source=sources,
        box=sources // fleet.drones_per_box,
        size_bytes=sizes.ravel()[rows],
        edge_factor=edge_factor,
        server_factor=server_factor,
        links=tuple(links),
        duration_ns=fleet.duration_ns,
        lanes=fleet.lanes,
        slowdowns=fleet.slowdowns,
        cold=fleet.cold,
        window_ns=fleet.window_ns,
    )


def _lognormal(generator: np.random.Generator, spread: Array) -> Array:
    """Factors of mean one with the given standard deviations."""
    variance = np.log1p(spread * spread)
    factors: Array = np.exp(generator.standard_normal(len(spread)) * np.sqrt(variance) - variance / 2)
    return factors
