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
AGE_NS = 3_000_000_000
"""An estimate looks back on so many runs, and so far: a machine that was slow for a while is soon fast again."""
QUANTILE = 0.99


class RunTimes:
    """A quantile of the last times of a model's runs, for each number of rows (rounded up to a power of two).

    known_ns: rows -> time, as measured when the model was loaded; what stands in until a run has shown it.
    """

    def __init__(self, known_ns: Mapping[int, int], now_ns: int) -> None:
        self._order: dict[int, deque[tuple[int, int]]] = {}
        self._sorted: dict[int, list[int]] = {}
        for rows, took_ns in known_ns.items():
            self.add(rows, took_ns, now_ns)

    def add(self, rows: int, took_ns: int, now_ns: int) -> None:
        """A run has ended."""
        bucket = _bucket(rows)
        order = self._order.setdefault(bucket, deque())
        order.append((now_ns, took_ns))
        insort(self._sorted.setdefault(bucket, []), took_ns)
        if len(order) > WINDOW:
            self._drop_oldest(bucket)

    def estimate_ns(self, rows: int, now_ns: int) -> int:
        """What a run is taken to take; for rows never seen, in proportion to the nearest; 0 before the first run."""
        bucket = _bucket(rows)
        if bucket in self._order:
            order, ordered = self._order[bucket], self._sorted[bucket]
            while len(order) > 1 and now_ns - order[0][0] > AGE_NS:
                self._drop_oldest(bucket)
            quantile_ns = ordered[int(QUANTILE * (len(ordered) - 1) + 0.5)]
            if len(order) < 3:
                return quantile_ns
            # Two slow runs of three are no accident, and need not first fill a twentieth of the window.
            return max(quantile_ns, sorted((order[-1][1], order[-2][1], order[-3][1]))[1])
        if not self._sorted:
            return 0
        nearest = min(self._sorted, key=lambda seen: (abs(seen.bit_length() - bucket.bit_length()), seen))
        return self.estimate_ns(nearest, now_ns) * bucket // nearest

    def _drop_oldest(self, bucket: int) -> None:
        ordered = self._sorted[bucket]
        del ordered[bisect_left(ordered, self._order[bucket].popleft()[1])]

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
