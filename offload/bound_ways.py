"""What each task of a box asks of its lanes and of its uplink, and what that costs at given prices: the ground of the
clairvoyant bound (`offload.bound`).

Two axes: a lane's is time (ns); the link's is what it can carry from the run's start on (bytes), where an upload of b
bytes takes exactly b. Durations and rounding are those of `offload.simulator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.link import Link
from offload.scenario import Day
from offload.tasks import Option

Array = NDArray[Any]

RTT_STEP_NS = 1_000_000
FOREVER_NS = 2**52  # exact in float64
SLACK_BYTES = 1e-3  # more than float64 loses on either side of a subtraction


@dataclass(frozen=True)
class Requests:
    """Stretches of one axis that W ways ask for: length, begun between first and last, where used (W,) is true."""

    used: Array
    first: Array
    last: Array
    length: Array

    def select(self, rows: Array) -> Requests:
        """Those of some ways."""
        return Requests(self.used[rows], self.first[rows], self.last[rows], self.length[rows])


@dataclass(frozen=True)
class Ways:
    """W ways to run the N tasks of a box in time, for a gain above 0.

    task, option (W,) int: positions in the box's order of arrival and in the kind's options. gain (W,): utility in
    time. lane, link: what they ask for. created_ns, deadline_ns (N,). end_ns: the last deadline. carried: times in ns
    to places on the link's axis.
    """

    task: Array
    option: Array
    gain: Array
    lane: Requests
    link: Requests
    created_ns: Array
    deadline_ns: Array
    end_ns: int
    lanes: int
    carried: Callable[[Array], Array]

    @property
    def tasks(self) -> int:
        """How many tasks there are, with a way or without."""
        return len(self.created_ns)

    def select(self, rows: Array) -> Ways:
        """Some of the ways, of the same tasks."""
        return replace(
            self,
            task=self.task[rows],
            option=self.option[rows],
            gain=self.gain[rows],
            lane=self.lane.select(rows),
            link=self.link.select(rows),
        )


@dataclass(frozen=True)
class Prices:
    """lane (C,): per ns of a lane in each cell between lane_edges_ns (C+1,); link (C,): per byte, alike."""

    lane_edges_ns: Array
    lane: Array
    link_edges_bytes: Array
    link: Array


def find_ways(day: Day, box: int, *, worthless: bool = False) -> Ways:
    """All ways in time to run the tasks of one box, each as if it were alone; worthless: also those that gain nothing.

    Of the round trip its least value in each ms is taken (from samples: a dip between two of them would be missed).
    """
    tasks = _Tasks(day, box)
    table = [np.zeros((len(_COLUMNS), 0))]
    for index, kind in enumerate(day.kinds):
        mine = np.flatnonzero(tasks.kind == index)
        for position, option in enumerate(kind.options):
            if option.utility > 0 or worthless:
                table += [tasks.ways(mine, position, option, pace) for pace in _paces(day, option)]
    column = dict(zip(_COLUMNS, np.concatenate(table, axis=1), strict=True))
    return Ways(
        task=column["task"].astype(np.int64),
        option=column["option"].astype(np.int64),
        gain=column["gain"],
        lane=Requests(column["on_lane"] > 0, column["first_ns"], column["last_ns"], column["took_ns"]),
        link=Requests(column["on_link"] > 0, column["first_bytes"], column["last_bytes"], column["size_bytes"]),
        created_ns=tasks.created_ns,
        deadline_ns=tasks.deadline_ns,
        end_ns=tasks.end_ns,
        lanes=day.lanes,
        carried=tasks.carried,
    )


_COLUMNS = (
    *("task", "option", "gain", "on_lane", "first_ns", "last_ns", "took_ns"),
    *("on_link", "first_bytes", "last_bytes", "size_bytes"),
)


class _Tasks:
    """The tasks of one box and what decides when they can be run."""

    def __init__(self, day: Day, box: int) -> None:
        rows = np.flatnonzero(day.box == box)
        self.kind = day.kind[rows]
        self.created_ns = day.created_ns[rows].astype(np.int64)
        self.deadline_ns = self.created_ns + np.array([kind.deadline_ns for kind in day.kinds], np.int64)[self.kind]
        self.end_ns = int(self.deadline_ns.max(initial=0))
        self._edge_factor, self._server_factor = day.edge_factor[rows], day.server_factor[rows]
        self._size_bytes = day.size_bytes[rows].astype(np.float64)
        self.carried = _carried(day.links[box])
        self._latest_sent = _latest_sent(day.links[box], self.end_ns)

    def ways(self, tasks: Array, position: int, option: Option, pace: tuple[int, int, float]) -> Array:
        """Those of some tasks by one option at one pace of the board: rows of _COLUMNS, without those out of time."""
        from_ns, to_ns, factor = pace
        first_ns = np.maximum(self.created_ns[tasks], from_ns)
        took_ns = np.rint(option.edge_ns * self._edge_factor[tasks] * factor)
        last_ns = np.minimum(self.deadline_ns[tasks] - took_ns, to_ns - 1)
        size_bytes = first_bytes = last_bytes = np.zeros(len(tasks))
        if option.place != "edge":
            server_ns = np.rint(option.server_ns * self._server_factor[tasks])
            sent_ns = self._latest_sent(self.deadline_ns[tasks] - server_ns)
            last_ns = np.minimum(last_ns, sent_ns - took_ns)
            given_bytes = float(option.upload_bytes)
            size_bytes = np.full(len(tasks), given_bytes) if option.upload_bytes else self._size_bytes[tasks]
            first_bytes = self.carried(first_ns + took_ns)
            last_bytes = self.carried(np.maximum(sent_ns, 0)) - size_bytes + SLACK_BYTES
        fits = (last_ns >= first_ns) & (last_bytes >= first_bytes)
        constants = (np.full(len(tasks), v) for v in (position, option.utility, option.place != "cloud"))
        rows = (tasks, *constants, first_ns, last_ns, took_ns)
        on_link = np.full(len(tasks), option.place != "edge")
        return np.stack([*rows, on_link, first_bytes, last_bytes, size_bytes]).astype(np.float64)[:, fits]


def _paces(day: Day, option: Option) -> list[tuple[int, int, float]]:
    """From when to when a run that starts there takes how much longer than stated."""
    if option.place == "cloud":
        return [(0, FOREVER_NS, 0.0)]
    borders = sorted(
        {0, FOREVER_NS, *(edge for slow in day.slowdowns for edge in (slow.from_ns, slow.to_ns) if edge > 0)}
    )
    return [(start, end, day.slowdown(start)) for start, end in pairwise(borders)]


def _carried(link: Link) -> Callable[[Array], Array]:
    """Times in ns to what the link has carried until then, in bytes."""

    def carried(times_ns: Array) -> Array:
        times, where = np.unique(np.asarray(times_ns, np.int64), return_inverse=True)
        return np.array([link.capacity_bytes(0, time) for time in times.tolist()], np.float64)[where]

    return carried


def _latest_sent(link: Link, end_ns: int) -> Callable[[Array], Array]:
    """Times in ns to when, at the latest, an upload may end whose round trip ends by then; -1: never."""
    times_ns = np.arange(0, end_ns + 2 * RTT_STEP_NS, RTT_STEP_NS)
    rtt_ns = np.array([link.rtt_ns(time) for time in times_ns.tolist()], np.int64)
    least_ns = np.minimum(rtt_ns[:-1], rtt_ns[1:])
    # The earliest arrival of what is sent in a step or after it.
    arrival_ns = np.minimum.accumulate((times_ns[:-1] + least_ns)[::-1])[::-1]

    def latest(by_ns: Array) -> Array:
        step = np.searchsorted(arrival_ns, by_ns, side="right") - 1
        inside = np.maximum(step, 0)
        return np.where(step < 0, -1, np.minimum(times_ns[inside + 1], by_ns - least_ns[inside]))

    return latest


def reach(day: Day, box: int) -> Array:
    """Whether each task of a box could be done in time by some option, if it were alone: (N,) bool."""
    ways = find_ways(day, box, worthless=True)
    return np.bincount(ways.task, minlength=ways.tasks) > 0


def possible_starts(requests: Requests, edges: Array) -> tuple[Array, Array]:
    """Where a stretch can be cheapest whatever the cells' prices: (way, start), S each, in order of way and start.

    Its price is linear in its start but where either end crosses a border of a cell.
    """
    rows = np.flatnonzero(requests.used)
    first, last, length = requests.first[rows], requests.last[rows], requests.length[rows]
    borders = np.unique(edges)
    ways, starts = [rows, rows], [first, last]
    for offset in (np.zeros(len(rows)), length):
        begin = np.searchsorted(borders, first + offset, side="left")
        count = np.maximum(0, np.searchsorted(borders, last + offset, side="right") - begin)
        position, step = _ragged(count)
        ways.append(rows[position])
        found = borders[begin[position] + step] - offset[position]
        starts.append(np.clip(found, first[position], last[position]))
    pairs = np.stack([np.concatenate(ways).astype(np.float64), np.concatenate(starts)])
    pairs = pairs[:, np.lexsort(pairs[::-1])]
    fresh = np.ones(pairs.shape[1], bool)
    fresh[1:] = (np.diff(pairs) != 0).any(axis=0)
    return pairs[0, fresh].astype(np.int64), pairs[1, fresh]


def place(way: Array, start: Array, requests: Requests, edges: Array) -> tuple[Array, Array, Array]:
    """What S stretches cover: (cell, row into way and start, part of the cell), one entry for each cell touched."""
    end = start + requests.length[way]
    begin = np.searchsorted(edges, start, side="right") - 1
    beyond = np.minimum(np.searchsorted(edges, end, side="left"), len(edges) - 1)
    row, step = _ragged(np.maximum(0, beyond - begin))
    cell = begin[row] + step
    width = edges[cell + 1] - edges[cell]
    covered = np.minimum(edges[cell + 1], end[row]) - np.maximum(edges[cell], start[row])
    touched = covered > 0
    return cell[touched], row[touched], covered[touched] / width[touched]


def _ragged(count: Array) -> tuple[Array, Array]:
    """Rows of different lengths, laid end to end: the row and the position in it of each entry."""
    row = np.repeat(np.arange(len(count)), count)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)


def cheapest(requests: Requests, edges: Array, price: Array) -> Array:
    """The least price of each way's stretch, over all its starts: (W,), 0 where it asks for none."""
    way, start = possible_starts(requests, edges)
    worth = np.concatenate([[0.0], np.cumsum(price * np.diff(edges))])
    paid = np.interp(start + requests.length[way], edges, worth) - np.interp(start, edges, worth)
    least = np.where(requests.used, np.inf, 0.0)
    np.minimum.at(least, way, paid)
    return least
