"""GEMS: DEMS that also cares for kinds which fall behind their target (arXiv 2412.20860).

Time is cut into windows. In each, a kind lags while fewer of its tasks that have ended were in time than the kind's
target wants. At each event, what a lagging kind has in the board's queue goes to the cloud at once, if it is expected
in time there and earns something. Times are not adapted, as in the authors' code.

Departures: windows follow each other without gaps from the start (the authors' code begins the next one with the first
result after a window's end, which it does not count). A task counts in the window in which it was created, as for
`offload.scores`; there, in the one in which it ends. Deferred tasks keep their trigger, as in that code.
"""

from __future__ import annotations

from collections.abc import Sequence

from offload.policies.dems import Dems
from offload.policies.policy import Decision, PolicyContext
from offload.tasks import Outcome, TaskKind


class Gems(Dems):
    """Guaranteed experience: DEMS with a target for each kind."""

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self._start_ns = context.start_ns
        self._window_ns = context.window_ns
        self._window = 0
        self._counts: dict[TaskKind, tuple[int, int]] = {}
        self._lagging: set[TaskKind] = set()

    def ended(self, now_ns: int, outcome: Outcome) -> Sequence[Decision]:
        """Count a task of its kind, if it belongs to this window."""
        self._roll(now_ns)
        if self._window_of(outcome.task.created_ns) == self._window:
            self._count(outcome.task.kind, on_time=outcome.on_time)
        return super().ended(now_ns, outcome)

    def _count(self, kind: TaskKind, *, on_time: bool) -> None:
        in_time, of = self._counts.get(kind, (0, 0))
        in_time, of = in_time + on_time, of + 1
        self._counts[kind] = (in_time, of)
        if in_time < kind.qoe_target * of:
            self._lagging.add(kind)
        else:
            self._lagging.discard(kind)

    def _window_of(self, at_ns: int) -> int:
        return (at_ns - self._start_ns) // self._window_ns

    def _roll(self, now_ns: int) -> None:
        """Begin a new window if its time has come."""
        window = self._window_of(now_ns)
        if window != self._window:
            self._window = window
            self._counts.clear()
            self._lagging.clear()

    def _after_lanes(self, now_ns: int, decisions: list[Decision]) -> None:
        super()._after_lanes(now_ns, decisions)
        self._roll(now_ns)
        if not self._lagging or not self._queue:
            return
        stay = []
        for entry in self._queue:
            task = entry.task
            goes = task.kind in self._lagging and self._why_never_cloud(task) is None
            if goes and self._cloud_in_time(now_ns, task):
                self._start_cloud(task, decisions)
            else:
                stay.append(entry)
        self._queue = stay
