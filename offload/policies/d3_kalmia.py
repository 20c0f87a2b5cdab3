"""SOTA1 of DEMS (arXiv 2412.20860): a variant of D3 and of Kalmia (Fu et al., INFOCOM 2022), rules as in its code.

First come, first served on the board, if in time there; otherwise the cloud, if in time there and whatever it costs;
otherwise a task that is not urgent is given a tenth more time than its deadline and tried again in both places.

Departures: the code lists the three kinds that are not urgent, with 75, 85 and 90 ms, tenths of their deadlines; here
they are the half of the kinds with the lower benefit, which are the same three of its six. The code also moves the
deadline by which such a task is judged; here the deadline that counts stays, so a task of that sort earns only by being
faster than expected, and is not started once its deadline has passed.
"""

from __future__ import annotations

from bisect import insort

from offload.policies.edge_cloud import EdgeCloudPolicy
from offload.policies.policy import NO_PLACE, Decision, PolicyContext
from offload.tasks import Task, TaskKind

EXTENSION_DIVISOR = 10


class D3Kalmia(EdgeCloudPolicy):
    """First come, first served; what is not urgent gets more time."""

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        by_benefit = sorted(context.kinds, key=_benefit_then_name)
        relaxed = by_benefit[: len(by_benefit) // 2]
        self._extension_ns = {kind: kind.deadline_ns // EXTENSION_DIVISOR for kind in relaxed}

    def key(self, task: Task, edge_ns: int) -> float:  # noqa: ARG002
        """The time of arrival."""
        return task.created_ns

    def _place(self, now_ns: int, task: Task, decisions: list[Decision]) -> None:
        if self._try_both(now_ns, task, task.deadline_ns, decisions):
            return
        extension_ns = self._extension_ns.get(task.kind, 0)
        if not extension_ns or not self._try_both(now_ns, task, task.deadline_ns + extension_ns, decisions):
            self._drop(task, NO_PLACE, decisions)

    def _try_both(self, now_ns: int, task: Task, due_ns: int, decisions: list[Decision]) -> bool:
        """The board, else the cloud, if expected to end there by due_ns and to start before the deadline."""
        entry = self._entry(task, due_ns)
        if entry is not None and entry.latest_ns >= now_ns and self._end_ns(now_ns, entry) <= due_ns:
            insort(self._queue, entry)
            return True
        if task.kind in self._cloud and now_ns + self._cloud_ns[task.kind] <= due_ns and now_ns < task.deadline_ns:
            self._start_cloud(task, decisions)
            return True
        return False


def _benefit_then_name(kind: TaskKind) -> tuple[float, str]:
    return max(option.benefit for option in kind.options), kind.name
