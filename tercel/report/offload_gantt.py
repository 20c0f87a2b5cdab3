"""Gantt charts of one box under each policy: what held the board's lanes and the uplink, and what was in flight.

The charts are drawn by offload.js from this data. A few stretches of the day are in the page: of each part of the day
the one in which it mattered most which policy was at work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.scenario import SECOND_NS, Day
from offload.scores import Held
from offload.simulator import FATES, Run
from offload.tasks import Fate

Array = NDArray[Any]

STRETCH_NS = 6 * SECOND_NS
STRETCHES = 6
TICK_NS = 100_000
"""Times in the page are whole numbers of these."""
MAX_TASKS = 600
"""In one stretch of one policy; more would be too narrow to be seen."""


def choose_stretches(day: Day, runs: Sequence[Run], box: int) -> tuple[list[int], int]:
    """Where stretches begin, in ns, and which of them is the most telling.

    A task tells as much as its utilities differ between policies, and a little if it was not done in time.
    """
    utilities = np.stack([run.utility for run in runs])
    undone = np.stack([run.fate >= FATES.index(Fate.LATE) for run in runs]).any(axis=0)
    telling = np.where(day.box == box, np.ptp(utilities, axis=0) + undone, 0.0)
    starts_ns = np.arange(0, max(1, day.duration_ns - STRETCH_NS + 1), SECOND_NS)
    until = np.concatenate([[0.0], np.cumsum(telling)])
    first, end = (np.searchsorted(day.created_ns, at) for at in (starts_ns, starts_ns + STRETCH_NS))
    scores = until[end] - until[first]
    parts = [part.tolist() for part in np.array_split(np.arange(len(starts_ns)), STRETCHES) if len(part)]
    chosen: list[int] = []
    for part in sorted(parts, key=lambda part: -float(scores[part].max())):  # the most telling first, so it is whole
        free = [i for i in part if all(abs(starts_ns[i] - starts_ns[other]) >= STRETCH_NS for other in chosen)]
        if free:
            chosen.append(max(free, key=lambda i: (scores[i], -i)))
    best = chosen[0]
    chosen.sort()
    return [int(starts_ns[i]) for i in chosen], chosen.index(best)


def stacked(spans: Sequence[tuple[int, int]]) -> list[int]:
    """A row for each span (from, to), in order of from, so that no two in a row overlap; the lowest that is free."""
    free_at: list[int] = []
    rows = []
    for begin, end in spans:
        row = next((i for i, at in enumerate(free_at) if at <= begin), len(free_at))
        if row == len(free_at):
            free_at.append(end)
        free_at[row] = end
        rows.append(row)
    return rows


def gantt_of(day: Day, run: Run, held: Held, box: int, from_ns: int, reasons: Mapping[str, int]) -> list[list[int]]:
    """The tasks of one box that were anywhere in the stretch, as rows of whole numbers, times in ticks from from_ns:

    id, kind, fate, reason (-1: none), created, deadline, ended, lane (-1: none) with from and to, uplink from and to
    (equal: not used), row in the cloud (-1: never there).
    """
    to_ns = from_ns + STRETCH_NS
    deadline_ns = day.created_ns + np.array([kind.deadline_ns for kind in day.kinds], np.int64)[day.kind]
    near = (day.box == box) & (run.ended_ns >= from_ns) & (day.created_ns < to_ns)
    chosen = np.flatnonzero(near)[:MAX_TASKS]
    on_lane = chosen[held.lane_ns[chosen] > 0]
    on_lane = on_lane[np.argsort(held.lane_from_ns[on_lane], kind="stable")]
    aloft = chosen[(held.uplink_ns[chosen] > 0) & (run.ended_ns[chosen] > held.uplink_to_ns[chosen])]
    aloft = aloft[np.argsort(held.uplink_to_ns[aloft], kind="stable")]
    lanes = stacked(list(zip(held.lane_from_ns[on_lane].tolist(), held.lane_to_ns[on_lane].tolist(), strict=True)))
    rows = stacked(list(zip(held.uplink_to_ns[aloft].tolist(), run.ended_ns[aloft].tolist(), strict=True)))
    lane_of = dict(zip(on_lane.tolist(), lanes, strict=True))
    row_of = dict(zip(aloft.tolist(), rows, strict=True))

    def ticks(at_ns: Array, row: int) -> int:
        return round((int(at_ns[row]) - from_ns) / TICK_NS)

    return [
        [
            row,
            int(day.kind[row]),
            int(run.fate[row]),
            reasons.get(run.reasons[row], -1),
            *(ticks(times, row) for times in (day.created_ns, deadline_ns, run.ended_ns)),
            lane_of.get(row, -1),
            *((ticks(held.lane_from_ns, row), ticks(held.lane_to_ns, row)) if row in lane_of else (0, 0)),
            *((ticks(held.uplink_from_ns, row), ticks(held.uplink_to_ns, row)) if held.uplink_ns[row] else (0, 0)),
            row_of.get(row, -1),
        ]
        for row in chosen.tolist()
    ]
