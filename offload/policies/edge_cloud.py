"""The frame of the published policies: one queue for the board's lanes, and the cloud, whose room is not bounded.

As in DEMS (arXiv 2412.20860): an arrival goes to the board if it is expected to end there in time behind
what is queued ahead of it, otherwise to the cloud if it is expected to end there in time and to earn more than it
costs, otherwise it is dropped. A policy says in which order the queue stands (`key`) and overrides what it does
otherwise. With several lanes (the paper has one) tasks are expected on the lane that is free first.

Departures for all of them: expected times may be quantiles (`PolicyContext.deviate`). What can no longer make it is
dropped as expired at the very moment, not when its turn comes, so that the queue is bounded and nobody waits behind it;
it is counted. A task that the cloud refused or lost is tried on the board, and never in the cloud again. Ties are
broken by the task's id.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Iterable, Sequence
from heapq import heapreplace
from typing import NamedTuple

from offload.policies.policy import EXPIRED, FAILED, NO_PLACE, NOT_WORTH, Decision, Drop, PolicyContext, Start
from offload.tasks import Option, Outcome, Task


class Queued(NamedTuple):
    """A task in the board's queue. due_ns: when it must have ended; latest_ns: when it must have started."""

    key: float
    id: int
    task: Task
    edge_ns: int
    due_ns: int
    latest_ns: int


class EdgeCloudPolicy:
    """The board if it is in time there, otherwise the cloud; a `Policy` once `key` is defined."""

    def __init__(self, context: PolicyContext) -> None:
        deviate = context.deviate
        self.wake_ns: int | None = None
        self._lanes = context.lanes
        self._edge = {kind: kind.edge for kind in context.kinds if kind.edge}
        self._cloud = {kind: kind.cloud for kind in context.kinds if kind.cloud}
        self._edge_ns = {kind: max(1, edge.quantile_ns(deviate)) for kind, edge in self._edge.items()}
        self._cloud_ns = {kind: max(1, cloud.quantile_ns(deviate)) for kind, cloud in self._cloud.items()}
        self._queue: list[Queued] = []
        self._running_until_ns: dict[int, int] = {}
        self._refused: set[int] = set()

    def key(self, task: Task, edge_ns: int) -> float:
        """What the board's queue is sorted by, least first."""
        raise NotImplementedError

    # Events.

    def arrived(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """A new task."""
        decisions = self._expired(now_ns)
        self._place(now_ns, task, decisions)
        return self._settle(now_ns, decisions)

    def returned(self, now_ns: int, task: Task, option: Option, reason: str) -> Sequence[Decision]:  # noqa: ARG002
        """The cloud refused or lost a task: the board if it is in time there."""
        decisions = self._expired(now_ns)
        self._refused.add(task.id)
        if not self._to_edge(now_ns, task, decisions):
            self._drop(task, FAILED, decisions)
        return self._settle(now_ns, decisions)

    def lane_freed(self, now_ns: int, task: Task, took_ns: int) -> Sequence[Decision]:  # noqa: ARG002
        """A lane has become free."""
        del self._running_until_ns[task.id]
        return self._settle(now_ns, self._expired(now_ns))

    def uploaded(self, now_ns: int, task: Task) -> Sequence[Decision]:  # noqa: ARG002
        """Of no use here."""
        return ()

    def ended(self, now_ns: int, outcome: Outcome) -> Sequence[Decision]:
        """Nothing is learnt from it here. The lane is given back also if the task never came to run on it."""
        self._running_until_ns.pop(outcome.task.id, None)
        return self._settle(now_ns, self._expired(now_ns))

    def woken(self, now_ns: int) -> Sequence[Decision]:
        """Something is due."""
        return self._settle(now_ns, self._expired(now_ns))

    # Where a task goes.

    def _place(self, now_ns: int, task: Task, decisions: list[Decision]) -> None:
        """Find an arrival its place, or drop it."""
        if not self._to_edge(now_ns, task, decisions):
            self._to_cloud(now_ns, task, decisions)

    def _to_edge(self, now_ns: int, task: Task, decisions: list[Decision]) -> bool:  # noqa: ARG002
        """Queue a task for the board if it is expected to be in time there; return whether it was."""
        entry = self._entry(task, task.deadline_ns)
        if entry is None or self._end_ns(now_ns, entry) > entry.due_ns:
            return False
        insort(self._queue, entry)
        return True

    def _to_cloud(self, now_ns: int, task: Task, decisions: list[Decision]) -> None:
        """Start a task in the cloud, or drop it."""
        reason = self._why_never_cloud(task)
        if reason is None and not self._cloud_in_time(now_ns, task):
            reason = NO_PLACE
        if reason is None:
            self._start_cloud(task, decisions)
        else:
            self._drop(task, reason, decisions)

    def _why_never_cloud(self, task: Task) -> str | None:
        """The reason why the cloud is no place for a task at any time; None: it is one."""
        cloud = task.kind.cloud
        if cloud is None:
            return NO_PLACE
        if task.id in self._refused:
            return FAILED
        return None if self._worth(task, cloud) else NOT_WORTH

    def _worth(self, task: Task, option: Option) -> bool:
        """Whether the cloud's result would earn more than it costs."""
        return task.utility(option) > 0

    def _cloud_in_time(self, now_ns: int, task: Task) -> bool:
        """Whether a task that may go to the cloud would be in time if it started now."""
        return now_ns + self._cloud_ns[task.kind] <= task.deadline_ns

    def _next(self, now_ns: int) -> Task | None:  # noqa: ARG002
        """Take out the task that a free lane is to run."""
        return self._queue.pop(0).task if self._queue else None

    def _after_lanes(self, now_ns: int, decisions: list[Decision]) -> None:
        """What else is to be done at each event, once no lane is free that could be used."""

    def _due_ns(self) -> int | None:
        """When a policy wants to be woken, the queue aside."""
        return None

    # The queue and the lanes.

    def _entry(self, task: Task, due_ns: int) -> Queued | None:
        """A task as it would stand in the queue; None if its kind cannot run on the board."""
        edge_ns = self._edge_ns.get(task.kind)
        if edge_ns is None:
            return None
        # One that is given more time than it has (due_ns) must still start before its deadline.
        latest_ns = min(due_ns - edge_ns, task.deadline_ns - 1)
        return Queued(self.key(task, edge_ns), task.id, task, edge_ns, due_ns, latest_ns)

    def _free_ns(self, now_ns: int) -> list[int]:
        """When each lane is expected to be free, soonest first (so that it is a heap)."""
        busy = sorted(max(now_ns, until_ns) for until_ns in self._running_until_ns.values())
        return [now_ns] * (self._lanes - len(busy)) + busy

    def _end_ns(self, now_ns: int, entry: Queued) -> int:
        """When an entry that is not in the queue yet would end behind what stands ahead of it."""
        free_ns = self._free_ns(now_ns)
        run(free_ns, self._queue[: bisect(self._queue, entry)])
        return free_ns[0] + entry.edge_ns

    def _expired(self, now_ns: int) -> list[Decision]:
        """Drop what can no longer make it."""
        decisions: list[Decision] = []
        if any(entry.latest_ns < now_ns for entry in self._queue):
            for entry in self._queue:
                if entry.latest_ns < now_ns:
                    self._drop(entry.task, EXPIRED, decisions)
            self._queue = [entry for entry in self._queue if entry.latest_ns >= now_ns]
        return decisions

    def _settle(self, now_ns: int, decisions: list[Decision]) -> list[Decision]:
        """Fill the lanes, do what else is due, and say when to be woken."""
        while len(self._running_until_ns) < self._lanes:
            task = self._next(now_ns)
            if task is None:
                break
            self._start_edge(now_ns, task, decisions)
        self._after_lanes(now_ns, decisions)
        due_ns = self._due_ns()
        if self._queue:
            expires_ns = min(entry.latest_ns for entry in self._queue) + 1
            due_ns = expires_ns if due_ns is None else min(due_ns, expires_ns)
        self.wake_ns = due_ns
        return decisions

    # Decisions.

    def _start_edge(self, now_ns: int, task: Task, decisions: list[Decision]) -> None:
        self._refused.discard(task.id)
        self._running_until_ns[task.id] = now_ns + self._edge_ns[task.kind]
        decisions.append(Start(task, self._edge[task.kind]))

    def _start_cloud(self, task: Task, decisions: list[Decision]) -> None:
        decisions.append(Start(task, self._cloud[task.kind]))

    def _drop(self, task: Task, reason: str, decisions: list[Decision]) -> None:
        self._refused.discard(task.id)
        decisions.append(Drop(task, reason))


class EdgeOnlyPolicy(EdgeCloudPolicy):
    """The board alone, without admission: all arrivals are queued, and dropped when they can no longer make it."""

    def _place(self, now_ns: int, task: Task, decisions: list[Decision]) -> None:
        entry = self._entry(task, task.deadline_ns)
        if entry is None or entry.latest_ns < now_ns:
            self._drop(task, NO_PLACE, decisions)
        else:
            insort(self._queue, entry)


class DisplacingPolicy(EdgeCloudPolicy):
    """Edge and cloud, where an arrival may push those out of the queue that it would make late, if it is `better`."""

    def better(self, now_ns: int, entry: Queued, late: Sequence[Queued]) -> bool:
        """Whether to queue an entry although it makes others late, which are at least one."""
        raise NotImplementedError

    def _to_edge(self, now_ns: int, task: Task, decisions: list[Decision]) -> bool:
        entry = self._entry(task, task.deadline_ns)
        if entry is None:
            return False
        at = bisect(self._queue, entry)
        free_ns = self._free_ns(now_ns)
        run(free_ns, self._queue[:at])
        end_ns = free_ns[0] + entry.edge_ns
        if end_ns > entry.due_ns:
            return False
        heapreplace(free_ns, end_ns)
        late = split_late(free_ns, self._queue[at:])
        if late and not self.better(now_ns, entry, late):
            return False
        for displaced in late:
            self._queue.remove(displaced)
        insort(self._queue, entry)
        for displaced in late:
            self._to_cloud(now_ns, displaced.task, decisions)
        return True


def run(free_ns: list[int], entries: Iterable[Queued]) -> None:
    """Let lanes, a heap of when each is free, take entries in order, each on the lane that is free first."""
    for entry in entries:
        heapreplace(free_ns, free_ns[0] + entry.edge_ns)


def split_late(free_ns: list[int], entries: Iterable[Queued]) -> list[Queued]:
    """Those of the entries that would be late on these lanes, if each that would is left out. Lanes as in `run`."""
    late = []
    for entry in entries:
        end_ns = free_ns[0] + entry.edge_ns
        if end_ns > entry.due_ns:
            late.append(entry)
        else:
            heapreplace(free_ns, end_ns)
    return late
