"""Admission by deadline: what a run will take, and whether one more request lets all of them be in time.

The queue is served earliest deadline first by several workers, which cannot be interrupted. A request is admitted if,
served in that order with each run taking a high quantile of what such runs took of late, neither it nor any that was
admitted before it ends after its deadline. Pure functions and one small estimator; no clock.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

WINDOW = 64
"""Runs that an estimate looks back on."""
QUANTILE = 0.95


class RunTimes:
    """A quantile of the last times of a model's runs, for each number of rows (rounded up to a power of two).

    known_ns: rows -> time, as measured when the model was loaded; what stands in until a run has shown it.
    """

    def __init__(self, known_ns: Mapping[int, int], window: int = WINDOW, quantile: float = QUANTILE) -> None:
        self._window = window
        self._quantile = quantile
        self._order: dict[int, deque[int]] = {}
        self._sorted: dict[int, list[int]] = {}
        for rows, took_ns in known_ns.items():
            self.add(rows, took_ns)

    def add(self, rows: int, took_ns: int) -> None:
        """A run has ended."""
        bucket = _bucket(rows)
        order = self._order.setdefault(bucket, deque())
        ordered = self._sorted.setdefault(bucket, [])
        order.append(took_ns)
        insort(ordered, took_ns)
        if len(order) > self._window:
            del ordered[bisect_left(ordered, order.popleft())]

    def estimate_ns(self, rows: int) -> int:
        """What a run is taken to take; for rows never seen, in proportion to the nearest; 0 before the first run."""
        bucket = _bucket(rows)
        ordered = self._sorted.get(bucket)
        if ordered:
            return ordered[int(self._quantile * (len(ordered) - 1) + 0.5)]
        if not self._sorted:
            return 0
        nearest = min(self._sorted, key=lambda seen: (abs(seen.bit_length() - bucket.bit_length()), seen))
        return self.estimate_ns(nearest) * bucket // nearest

    def fastest_ns(self) -> int:
        """The shortest of the last times, of any number of rows: who has less left than this is late for certain."""
        return min((ordered[0] for ordered in self._sorted.values()), default=0)


def _bucket(rows: int) -> int:
    return 1 << max(0, rows - 1).bit_length()


Job = tuple[int, int]
"""Deadline and duration, ns."""


def all_in_time(jobs: Iterable[Job], free_at_ns: Sequence[int], first: int = 0) -> bool:
    """Whether jobs, started in this order, each by the worker that is free first, end by their deadlines.

    first: the index of the first that is asked about; those before it only take their time.
    """
    free = list(free_at_ns)
    heapq.heapify(free)
    for index, (deadline_ns, duration_ns) in enumerate(jobs):
        ended_ns = free[0] + duration_ns
        if index >= first and ended_ns > deadline_ns:
            return False
        heapq.heapreplace(free, ended_ns)
    return True
