"""A schedule that a clairvoyant would follow: feasible, worth its exact utility, guided by the bound's prices.

Lanes are filled by a beam search over time. A state is when each lane is free and what has lately been run; its score
is what it has lost against the bound so far: the reduced cost of each run, lanes left idle at the going price, tasks
whose last start has passed. States meet in slices of time, and the best few of each go on. The uplink then takes what
is left, the most utility per byte first, in order of latest departure.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.bound_ways import Prices, Ways, cheapest
from offload.scenario import ColdStarts, Day

Array = NDArray[Any]

SLICE_NS = 25_000_000
BEAM = 12


@dataclass(frozen=True)
class Run:
    """One task that is run: row of the day, position of the option, when its board's part and its upload begin (-1:
    none), and what it earns.
    """

    row: int
    option: int
    lane_ns: int
    upload_ns: int
    utility: float


def clairvoyant_schedule(day: Day, box: int, ways: Ways, prices: Prices, *, beam: int = BEAM) -> list[Run]:
    """Runs of one box in the order in which they begin on the lanes, then of uploads. The rest is dropped.

    Each is timed as `offload.simulator` times it. With cold starts, a run that is late for one is sent all the same: it
    warms an instance.
    """
    link_price = cheapest(ways.link, prices.link_edges_bytes, prices.link)
    on_lanes = _fill_lanes(ways, prices, ways.gain - link_price, beam)
    rows = np.flatnonzero(day.box == box)
    runs, tails = [], {}
    for way, start_ns in on_lanes:
        if ways.link.used[way]:
            tails[way] = start_ns
        else:
            runs.append(Run(int(rows[ways.task[way]]), int(ways.option[way]), start_ns, -1, float(ways.gain[way])))
    busy = {int(ways.task[way]) for way, _ in on_lanes}
    return runs + _time_uploads(day, box, rows, ways, _order_uploads(ways, busy, tails), tails)


# --- lanes ---------------------------------------------------------------------------------------------------------


class _LaneLosses:
    """What runs and waiting lose against the bound, at the bound's prices."""

    def __init__(self, ways: Ways, prices: Prices, value: Array) -> None:
        lane_price = cheapest(ways.lane, prices.lane_edges_ns, prices.lane)
        best, rest = np.zeros(ways.tasks), np.zeros(ways.tasks)
        np.maximum.at(best, ways.task, value - lane_price)
        np.maximum.at(rest, ways.task[~ways.lane.used], value[~ways.lane.used])
        last = np.full(ways.tasks, -1.0)
        np.maximum.at(last, ways.task[ways.lane.used], ways.lane.last[ways.lane.used])
        self._grid_ns = float(prices.lane_edges_ns[1]) if len(prices.lane) else 1.0
        self._price: list[float] = [*prices.lane.tolist(), 0.0]
        self._worth: list[float] = np.concatenate(
            [[0.0], np.cumsum(prices.lane * np.diff(prices.lane_edges_ns))]
        ).tolist()
        self._excess: list[float] = (best[ways.task] - value).tolist()
        self.length: list[float] = ways.lane.length.tolist()
        self._miss = (best - rest).tolist()
        self._last = last.tolist()
        order = np.argsort(last, kind="stable")
        self._lasts = last[order].tolist()
        self._missed: list[float] = np.concatenate([[0.0], np.cumsum((best - rest)[order])]).tolist()

    def worth(self, time_ns: float) -> float:
        """Price of a lane from the run's start to then."""
        cell = min(int(time_ns // self._grid_ns), len(self._price) - 1)
        return self._worth[cell] + (time_ns - cell * self._grid_ns) * self._price[cell]

    def run(self, way: int, start_ns: float, worth: float) -> float:
        """Of running a way from then on, worth being that of its start."""
        return self._excess[way] + self.worth(start_ns + self.length[way]) - worth

    def passed(self, from_ns: float, to_ns: float, done: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        """Of tasks whose last start lies in [from_ns, to_ns), but those done; and which of these still matter."""
        low, high = bisect_left(self._lasts, from_ns), bisect_left(self._lasts, to_ns)
        loss = self._missed[high] - self._missed[low]
        if loss > 0:
            loss -= sum(self._miss[task] for task in done if from_ns <= self._last[task] < to_ns)
        return loss, tuple(task for task in done if self._last[task] >= to_ns)


_State = tuple[float, tuple[float, ...], tuple[int, ...], Any]
"""Loss; when each lane is free, ascending; tasks run that could start again; (the node before, way, start)."""


def _fill_lanes(ways: Ways, prices: Prices, value: Array, beam: int) -> list[tuple[int, int]]:
    """(way, start in ns) of what is run on lanes, in order of start."""
    losses = _LaneLosses(ways, prices, value)
    usable = np.flatnonzero(ways.lane.used)
    usable = usable[np.argsort(ways.lane.first[usable], kind="stable")]
    firsts = ways.lane.first[usable].tolist()
    live: list[tuple[int, float, float, int]] = []
    coming = list(
        zip(usable.tolist(), firsts, ways.lane.last[usable].tolist(), ways.task[usable].tolist(), strict=True)
    )
    slices: dict[int, dict[Any, _State]] = {0: {None: (0.0, (0.0,) * ways.lanes, (), None)}}
    queue, seen = [0], 0
    finished: _State | None = None
    while queue:
        now = heapq.heappop(queue)
        while seen < len(coming) and coming[seen][1] < (now + 1) * SLICE_NS:
            live.append(coming[seen])
            seen += 1
        live = [entry for entry in live if entry[2] >= now * SLICE_NS]
        waiting = sorted(slices.pop(now).values(), key=lambda state: state[0])[:beam]
        for state in waiting:  # grows while it is gone through, by states of the same slice
            next_first = bisect_right(firsts, state[1][0])
            if next_first == len(firsts) and not any(entry[2] >= state[1][0] for entry in live):
                end = losses.passed(state[1][0], float("inf"), state[2])[0] + state[0]
                finished = (end, *state[1:]) if finished is None or end < finished[0] else finished
                continue
            wait_ns = firsts[next_first] if next_first < len(firsts) else float(ways.end_ns + 1)
            for child in _followers(state, live, losses, wait_ns):
                slice_ = int(child[1][0] // SLICE_NS)
                if slice_ == now:
                    waiting.append(child)
                    continue
                if slice_ not in slices:
                    slices[slice_] = {}
                    heapq.heappush(queue, slice_)
                known = slices[slice_].get(child[1:3])
                if known is None or child[0] < known[0]:
                    slices[slice_][child[1:3]] = child
    return _trail(finished[3] if finished else None)


def _followers(
    state: _State, live: list[tuple[int, float, float, int]], losses: _LaneLosses, wait_ns: float
) -> list[_State]:
    """What can come next on the lane that is free first: any task that is there, or waiting for the next one."""
    loss, free, done, node = state
    now_ns = free[0]
    worth = losses.worth(now_ns)
    following: list[tuple[float, float, tuple[int, ...], Any]] = [(losses.worth(wait_ns) - worth, wait_ns, done, node)]
    for way, first_ns, last_ns, task in live:
        if first_ns <= now_ns <= last_ns and task not in done:
            end_ns = now_ns + losses.length[way]
            following.append((losses.run(way, now_ns, worth), end_ns, (*done, task), (node, way, now_ns)))
    states: list[_State] = []
    for lost, lane_ns, ran, trail in following:
        lanes = tuple(sorted((*free[1:], lane_ns)))
        passed, still = losses.passed(now_ns, lanes[0], ran)
        states.append((loss + lost + passed, lanes, tuple(sorted(still)), trail))
    return states


def _trail(node: Any) -> list[tuple[int, int]]:
    runs = []
    while node is not None:
        node, way, start_ns = node
        runs.append((way, int(start_ns)))
    return runs[::-1]


# --- uplink --------------------------------------------------------------------------------------------------------


def _order_uploads(ways: Ways, busy: set[int], tails: dict[int, int]) -> list[int]:
    """Ways whose uploads fit one after another on the link's axis, in that order; tails first of all."""
    length = np.maximum(ways.link.length, 1e-9)
    only_link = np.flatnonzero(ways.link.used & ~ways.lane.used)
    density = ways.gain[only_link] / length[only_link]
    candidates = [*tails, *only_link[np.argsort(-density, kind="stable")].tolist()]
    released = ways.link.first.copy()
    for way, start_ns in tails.items():
        released[way] = ways.carried(np.array([start_ns + ways.lane.length[way]]))[0]
    first, last, size = released.tolist(), ways.link.last.tolist(), ways.link.length.tolist()
    due: list[float] = []
    order: list[int] = []
    begins: list[float] = []
    taken = set(busy)
    for way in candidates:
        task = int(ways.task[way])
        if task in taken and way not in tails:
            continue
        at = bisect_right(due, last[way] + size[way])
        pushed: list[float] = []
        free = begins[at - 1] + size[order[at - 1]] if at else 0.0
        for following in [way, *order[at : at + 1000]]:
            begin = max(first[following], free)
            position = at + len(pushed) - 1
            if pushed and begin <= begins[position]:
                break
            pushed.append(begin)
            if begin > last[following]:
                break
            free = begin + size[following]
        if pushed[-1] > last[([way, *order[at : at + len(pushed)]])[len(pushed) - 1]]:
            continue
        due.insert(at, last[way] + size[way])
        order.insert(at, way)
        begins[at : at + len(pushed) - 1] = pushed
        taken.add(task)
    return order


def _time_uploads(day: Day, box: int, rows: Array, ways: Ways, order: list[int], tails: dict[int, int]) -> list[Run]:
    """The uploads as the link carries them, those left out that would be late after all."""
    link, free_ns = day.links[box], 0
    warm = _Warm(day.cold) if day.cold else None
    runs = []
    for way in order:
        row, option = int(rows[ways.task[way]]), day.kinds[day.kind[rows[ways.task[way]]]].options[ways.option[way]]
        lane_ns = tails.get(way, -1)
        ready_ns = int(day.created_ns[row]) if lane_ns < 0 else lane_ns + int(ways.lane.length[way])
        deadline_ns = int(ways.deadline_ns[ways.task[way]])
        begin_ns = max(ready_ns, free_ns)
        sent_ns = link.sent_ns(begin_ns, option.upload_bytes or int(day.size_bytes[row]))
        if begin_ns >= deadline_ns or sent_ns is None or sent_ns >= deadline_ns:
            continue
        rtt_ns, server_ns = link.rtt_ns(sent_ns), round(option.server_ns * float(day.server_factor[row]))
        if sent_ns + rtt_ns + server_ns > deadline_ns:
            continue
        if warm:
            server_ns += warm.wait_ns(int(day.kind[row]), sent_ns + rtt_ns // 2, server_ns)
        in_time = sent_ns + rtt_ns + server_ns <= deadline_ns
        runs.append(Run(row, int(ways.option[way]), lane_ns, begin_ns, option.utility if in_time else -option.cost))
        free_ns = sent_ns
    return runs


class _Warm:
    """When the instances of each kind are free, the last one first to be used again."""

    def __init__(self, cold: ColdStarts) -> None:
        self._cold = cold
        self._free_ns: dict[int, list[int]] = {}

    def wait_ns(self, kind: int, at_ns: int, server_ns: int) -> int:
        """For an instance, by a request that comes then; takes it."""
        kept = [free_ns for free_ns in self._free_ns.get(kind, []) if free_ns > at_ns - self._cold.keep_ns]
        idle = [free_ns for free_ns in kept if free_ns <= at_ns]
        wait_ns = 0 if idle else self._cold.start_ns
        if idle:
            kept.remove(max(idle))
        self._free_ns[kind] = [*kept, at_ns + wait_ns + server_ns]
        return wait_ns
