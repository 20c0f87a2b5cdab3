"""A schedule that a clairvoyant would follow: feasible, worth its exact utility, guided by the bound's prices.

Each axis, lanes and uplink, is filled by a beam search along it. A state is where each lane is free and what has lately
been run; its score is what it has lost so far against the bound: the reduced cost of each run, stretches left idle at
the going price, tasks whose last start has passed. States meet in slices of the axis, and the best few of each go on.
Lanes come first, then the uplink with what is left; then lanes again, knowing what the uplink could take.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from heapq import nsmallest
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.bound_ways import Prices, Requests, Ways, cheapest
from offload.scenario import ColdStarts, Day

Array = NDArray[Any]

SLICE_NS = 25_000_000
BEAM = 12
BRANCHES = 6
CROWD = 4
IDLING = 1e-4
ROUNDS = 2


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
    """Runs of one box: those on lanes in order of start, then uploads. The rest is dropped.

    Each is timed as `offload.simulator` times it. With cold starts, a run that is late for one is sent all the same: it
    warms an instance.
    """
    link_price = cheapest(ways.link, prices.link_edges_bytes, prices.link)
    value = ways.gain - link_price
    elsewhere = _best_of(ways, ~ways.lane.used, value)
    best: list[Run] = []
    for _ in range(ROUNDS):
        on_lanes = _fill(
            ways.lane, ways, prices.lane_edges_ns, prices.lane, value, elsewhere, beam, SLICE_NS, ways.lanes
        )
        uploads, all_fit = _order_uploads(ways, prices, on_lanes, beam)
        runs = _timed(day, box, ways, on_lanes, uploads)
        if sum(run.utility for run in runs) > sum(run.utility for run in best):
            best = runs
        if all_fit:
            break
        sent = np.zeros(len(ways.task), bool)
        sent[uploads] = True
        elsewhere = _best_of(ways, sent & ~ways.lane.used, ways.gain)
    return best


def _best_of(ways: Ways, which: Array, value: Array) -> Array:
    """The best value among some ways of each task, at least 0."""
    best = np.zeros(ways.tasks)
    np.maximum.at(best, ways.task[which], value[which])
    return best


# --- one axis ------------------------------------------------------------------------------------------------------


class _Losses:
    """What runs and idle stretches lose against the bound, at its prices.

    value (W,): of each way before this axis is paid for; elsewhere (N,): what each task earns if it is not run here.
    """

    def __init__(
        self, requests: Requests, ways: Ways, edges: Array, price: Array, value: Array, elsewhere: Array
    ) -> None:
        used = requests.used
        best = np.maximum(elsewhere, _best_of(ways, used, value - cheapest(requests, edges, price)))
        last = np.full(ways.tasks, -1.0)
        np.maximum.at(last, ways.task[used], requests.last[used])
        order = np.argsort(last, kind="stable")
        self.length: list[float] = requests.length.tolist()
        self._edges: list[float] = edges.tolist()
        self._price: list[float] = [*price.tolist(), 0.0]
        self._worth: list[float] = np.concatenate([[0.0], np.cumsum(price * np.diff(edges))]).tolist()
        self._excess: list[float] = (best[ways.task] - value).tolist()
        self._miss: list[float] = (best - elsewhere).tolist()
        self._last: list[float] = last.tolist()
        self._lasts: list[float] = last[order].tolist()
        self._missed: list[float] = np.concatenate([[0.0], np.cumsum((best - elsewhere)[order])]).tolist()

    def worth(self, where: float) -> float:
        """Price of the axis from its start to there."""
        cell = bisect_right(self._edges, where) - 1
        return self._worth[cell] + (where - self._edges[cell]) * self._price[cell]

    def run(self, way: int, start: float, worth: float) -> float:
        """Of running a way from there on, worth being that of its start."""
        return self._excess[way] + self.worth(start + self.length[way]) - worth

    def passed(self, begin: float, end: float, done: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        """Of tasks whose last start lies in [begin, end), but those done; and which of these could start again."""
        low, high = bisect_left(self._lasts, begin), bisect_left(self._lasts, end)
        loss = self._missed[high] - self._missed[low]
        if loss > 0:
            loss -= sum(self._miss[task] for task in done if begin <= self._last[task] < end)
        return loss, tuple(task for task in done if self._last[task] >= end)


_State = tuple[float, tuple[float, ...], tuple[int, ...], Any]
"""Loss; where each lane is free, ascending; tasks run that could start again; (the node before, way, start)."""
_Live = list[tuple[int, float, float, int]]
"""Way, first and last start, task of what can be begun about here."""


def _fill(
    requests: Requests,
    ways: Ways,
    edges: Array,
    price: Array,
    value: Array,
    elsewhere: Array,
    beam: int,
    slice_length: float,
    lanes: int = 1,
) -> list[tuple[int, float]]:
    """(way, start) of what is run on an axis, in order of start."""
    rows = np.flatnonzero(requests.used)
    if not len(rows):
        return []
    shortest, longest = float(requests.length[rows].min()), float(requests.length[rows].max())
    slice_length = max(slice_length / 5, min(slice_length, shortest))
    # A price on top of all prices: of two states that have lost the same, the one that has idled less goes on.
    price = price + IDLING * float(value[rows].max()) / max(1.0, longest)
    losses = _Losses(requests, ways, edges, price, value, elsewhere)
    rows = rows[np.argsort(requests.first[rows], kind="stable")]
    columns = (rows, requests.first[rows], requests.last[rows], ways.task[rows])
    coming: _Live = list(zip(*(column.tolist() for column in columns), strict=True))
    firsts = [entry[1] for entry in coming]
    live: _Live = []
    slices: dict[int, dict[Any, _State]] = {0: {None: (0.0, (0.0,) * lanes, (), None)}}
    queue, seen = [0], 0
    finished: _State | None = None
    while queue:
        now = heapq.heappop(queue)
        while seen < len(coming) and coming[seen][1] < (now + 1) * slice_length:
            live.append(coming[seen])
            seen += 1
        live = [entry for entry in live if entry[2] >= now * slice_length]
        meeting = sorted(slices.pop(now).values(), key=lambda state: state[0])[:beam]
        for state in meeting:  # grows while it is gone through, by states of the same slice
            following = bisect_right(firsts, state[1][0])
            if following == len(firsts) and not any(entry[2] >= state[1][0] for entry in live):
                lost = state[0] + losses.passed(state[1][0], float("inf"), state[2])[0]
                finished = (lost, *state[1:]) if finished is None or lost < finished[0] else finished
                continue
            wait = firsts[following] if following < len(firsts) else max(float(edges[-1]), state[1][0]) + 1
            for child in _followers(state, live, losses, wait):
                at = int(child[1][0] // slice_length)
                if at == now:
                    meeting += [child] if len(meeting) < CROWD * beam else []
                    continue
                if at not in slices:
                    slices[at] = {}
                    heapq.heappush(queue, at)
                known = slices[at].get(child[1:3])
                if known is None or child[0] < known[0]:
                    slices[at][child[1:3]] = child
    return _trail(finished[3] if finished else None)


def _followers(state: _State, live: _Live, losses: _Losses, wait: float) -> list[_State]:
    """What can come next on the lane that is free first: any task that is there, or waiting for the next one."""
    loss, free, done, node = state
    now = free[0]
    worth = losses.worth(now)
    following: list[tuple[float, float, tuple[int, ...], Any]] = [(losses.worth(wait) - worth, wait, done, node)]
    for way, first, last, task in live:
        if first <= now <= last and task not in done:
            end = now + losses.length[way]
            following.append((losses.run(way, now, worth), end, (*done, task), (node, way, now)))
    states: list[_State] = []
    for lost, end, ran, trail in nsmallest(BRANCHES, following, key=itemgetter(0)):
        lanes = tuple(sorted((*free[1:], end)))
        passed, still = losses.passed(now, lanes[0], ran)
        states.append((loss + lost + passed, lanes, tuple(sorted(still)), trail))
    return states


def _trail(node: Any) -> list[tuple[int, float]]:
    runs = []
    while node is not None:
        node, way, start = node
        runs.append((way, start))
    return runs[::-1]


# --- uplink --------------------------------------------------------------------------------------------------------


def _order_uploads(ways: Ways, prices: Prices, on_lanes: list[tuple[int, float]], beam: int) -> tuple[list[int], bool]:
    """Ways that fit one after another on the link's axis, in that order, tails of what was run on lanes among them; and
    whether that is all that there was to send.
    """
    heads = np.array([way for way, _ in on_lanes], np.int64)
    tails = heads[ways.link.used[heads]]
    used = ways.link.used & ~ways.lane.used & ~np.isin(ways.task, ways.task[heads])
    used[tails] = True
    first = ways.link.first.copy()
    starts = dict(on_lanes)
    ended_ns = np.array([starts[way] + ways.lane.length[way] for way in tails.tolist()])
    first[tails] = ways.carried(ended_ns)
    requests = replace(ways.link, used=used & (first <= ways.link.last), first=first)
    order = _in_order_of_departure(requests)
    if order is not None and len(np.unique(ways.task[order])) == len(order):
        return order, True
    end = prices.link_edges_bytes[-1]
    slice_length = max(1.0, end * SLICE_NS / max(1, ways.end_ns))
    nothing = np.zeros(ways.tasks)
    filled = _fill(requests, ways, prices.link_edges_bytes, prices.link, ways.gain, nothing, beam, slice_length)
    return [way for way, _ in filled], False


def _in_order_of_departure(requests: Requests) -> list[int] | None:
    """All of them by latest departure, if each can depart in time; None: not so."""
    order = np.flatnonzero(requests.used)
    order = order[np.lexsort((order, requests.last[order] + requests.length[order]))]
    free = 0.0
    for way in order.tolist():
        begin = max(free, float(requests.first[way]))
        if begin > requests.last[way]:
            return None
        free = begin + float(requests.length[way])
    return [int(way) for way in order]


def _timed(day: Day, box: int, ways: Ways, on_lanes: list[tuple[int, float]], uploads: list[int]) -> list[Run]:
    rows = np.flatnonzero(day.box == box)
    runs, heads = [], {}
    for way, start_ns in on_lanes:
        if ways.link.used[way]:
            heads[way] = int(start_ns)
        else:
            row, option = int(rows[ways.task[way]]), int(ways.option[way])
            runs.append(Run(row, option, int(start_ns), -1, float(ways.gain[way])))
    return runs + _time_uploads(day, box, rows, ways, uploads, heads)


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
