"""GEMS's tumbling windows as prices: what one more task in time is worth to its kind's bonus.

A window earns its kind's bonus if at least the target share of its tasks were in time (arXiv 2412.20860). So a kind has
a budget of failures in each window. While it fails no faster than the budget allows, a task in time is worth its even
share of the bonus; when faster, its share of what is left of the budget, so that the last failures that can be afforded
are dear. A window that is lost, or of a kind that failed by far in the last window and does so again, is worth nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from offload.tasks import Task

HOPELESS = 0.2
"""Share of failures in the last window from which on a kind that begins to fail again is given up."""

SPARE = 5.0
"""Failures that a budget is taken to have beside its own: with less, kinds that fail now and then cost too much."""


_ROUNDING = 1e-12
"""1 - 0.9 is less than 0.1 in floating point; four failures of forty tasks are within a target of 0.9."""


@dataclass
class _Count:
    created: int = 0
    failed: int = 0


class Windows:
    """Counts each kind's tasks by the window in which they were created."""

    def __init__(self, window_ns: int, start_ns: int = 0) -> None:
        self._window_ns = window_ns
        self._start_ns = start_ns
        self._counts: dict[str, dict[int, _Count]] = {}

    def window(self, task: Task) -> int:
        """The number of the window that a task counts in."""
        return (task.created_ns - self._start_ns) // self._window_ns

    def created(self, task: Task) -> None:
        """A task has come."""
        window = self.window(task)
        counts = self._counts.setdefault(task.kind.name, {})
        if window not in counts:
            counts[window] = _Count()
        counts[window].created += 1
        for old in [number for number in counts if number < max(counts) - 2]:
            del counts[old]

    def ended(self, task: Task, on_time: bool) -> None:
        """A task has ended. One whose window is long over no longer counts."""
        count = self._counts[task.kind.name].get(self.window(task))
        if count is not None and not on_time:
            count.failed += 1

    def price(self, task: Task) -> float:
        """What it is worth, beside its own benefit, that this task is in time."""
        kind = task.kind
        window = self.window(task)
        count = self._counts[kind.name].get(window)
        if not kind.qoe_bonus or count is None:
            return 0.0
        before = self._counts[kind.name].get(window - 1)
        wanted = max(count.created, before.created if before else 0)
        may_fail = 1.0 - kind.qoe_target + _ROUNDING
        budget = may_fail * wanted - count.failed
        if budget < 0.0 and before is not None:
            return 0.0
        too_fast = count.failed > may_fail * count.created
        if too_fast and before is not None and before.failed > HOPELESS * before.created:
            return 0.0
        price = kind.qoe_bonus / max(1.0, kind.qoe_target * wanted)
        if count.failed + 1 > may_fail * count.created:
            price = max(price, kind.qoe_bonus / (SPARE + max(budget, 0.0)))
        return price
