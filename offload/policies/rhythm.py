"""When the next task of each kind and source will come: cameras film in step with clocks of their own.

A period is known after two gaps that agree. It outlives a few tasks that were lost (a gap of so many periods) and one
that came twice. Sources that have fallen silent are forgotten, those silent for longest first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from typing import NamedTuple

from offload.tasks import Task, TaskKind

MOST_JITTER = 0.15
"""A gap between two tasks that differs from the one before by more than this share of it is no period."""
MOST_LOST = 3
"""So many tasks in a row may be missing before a source must be learnt anew."""
LEAST_GAP = 0.05
"""A task that follows the last by less than this share of the period is the same one again."""
FORGOTTEN_NS = 60_000_000_000
MOST_SOURCES = 4096
"""Pairs of kind and source that are remembered."""


class Expected(NamedTuple):
    """A task that is expected to come, like the last one of its source."""

    at_ns: int
    source: int
    kind_name: str
    kind: TaskKind
    size_bytes: int


class _Seen(NamedTuple):
    last_ns: int
    period_ns: int
    next: Expected | None


class Rhythm:
    """Learns the periods of sources. One that is not in step, or that has fallen silent, is not expected."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, int], _Seen] = OrderedDict()  # the one that was silent for longest first
        self._next: list[Expected] = []

    def arrived(self, task: Task) -> None:
        """Take note of an arrival."""
        key = (task.kind.name, task.source)
        before = self._seen.get(key, _Seen(task.created_ns, 0, None))
        gap_ns, period_ns = task.created_ns - before.last_ns, before.period_ns
        if 0 <= gap_ns < LEAST_GAP * period_ns:
            return
        self._withdraw(before)
        expected = None
        gaps = max(1, round(gap_ns / period_ns)) if period_ns > 0 else 1
        if period_ns > 0 and gaps <= 1 + MOST_LOST and abs(gap_ns - gaps * period_ns) <= MOST_JITTER * period_ns:
            period_ns = (3 * period_ns + gap_ns // gaps) // 4
            expected = Expected(task.created_ns + period_ns, task.source, task.kind.name, task.kind, task.size_bytes)
            insort(self._next, expected, key=_order)
        else:
            period_ns = gap_ns
        self._seen[key] = _Seen(task.created_ns, period_ns, expected)
        self._seen.move_to_end(key)
        self._forget(task.created_ns)

    def _withdraw(self, seen: _Seen) -> None:
        if seen.next is not None:
            del self._next[bisect_left(self._next, seen.next[:3], key=_order)]

    def _forget(self, now_ns: int) -> None:
        while len(self._seen) > MOST_SOURCES or next(iter(self._seen.values())).last_ns < now_ns - FORGOTTEN_NS:
            self._withdraw(self._seen.popitem(last=False)[1])

    def expected(self, now_ns: int, until_ns: int) -> list[Expected]:
        """Tasks that are expected after now_ns and by until_ns, soonest first."""
        first = bisect_right(self._next, now_ns, key=_at_ns)
        return self._next[first : bisect_right(self._next, until_ns, key=_at_ns)]


def _order(expected: Expected) -> tuple[int, int, str]:
    return expected[:3]


def _at_ns(expected: Expected) -> int:
    return expected.at_ns
