"""When the next task of each kind and source will come: cameras film in step with clocks of their own."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import NamedTuple

from offload.tasks import Task, TaskKind

MOST_JITTER = 0.15
"""A gap between two tasks that differs from the one before by more than this share of it is no period."""


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
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._next: list[Expected] = []

    def arrived(self, task: Task) -> None:
        """Take note of an arrival."""
        key = (task.kind.name, task.source)
        before = self._seen.get(key)
        if before is None:
            self._seen[key] = _Seen(task.created_ns, 0, None)
            return
        if before.next is not None:
            del self._next[bisect_left(self._next, before.next[:3], key=_order)]
        gap_ns = task.created_ns - before.last_ns
        steady = before.period_ns > 0 and abs(gap_ns - before.period_ns) <= MOST_JITTER * before.period_ns
        period_ns = (3 * before.period_ns + gap_ns) // 4 if steady else gap_ns
        expected = None
        if steady:
            expected = Expected(task.created_ns + period_ns, task.source, task.kind.name, task.kind, task.size_bytes)
            insort(self._next, expected, key=_order)
        self._seen[key] = _Seen(task.created_ns, period_ns, expected)

    def expected(self, now_ns: int, until_ns: int) -> list[Expected]:
        """Tasks that are expected after now_ns and by until_ns, soonest first."""
        first = bisect_right(self._next, now_ns, key=_at_ns)
        return self._next[first : bisect_right(self._next, until_ns, key=_at_ns)]


def _order(expected: Expected) -> tuple[int, int, str]:
    return expected[:3]


def _at_ns(expected: Expected) -> int:
    return expected.at_ns
