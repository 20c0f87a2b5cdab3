"""DEMS: DEM with a deferred cloud queue and work stealing (arXiv 2412.20860).

A task for the cloud waits until its trigger, 10 ms before the last moment at which it is expected to make it there, so
that the board can still steal it. One that the cloud would not pay for waits only to be stolen, until 10 ms before the
last moment for the board. Whenever a lane is free, the board takes, ahead of its own queue, the deferred task of the
highest rank that makes it there and makes nobody in the queue late. The rank is (uE - uC) / tE; those that the cloud
would not pay for come first.

Departures: a rank is each candidate's own (the authors' code carries it over from the candidate before); any slack that
suffices is used (theirs must exceed the fastest network's time, and leaves the head of the queue 10 ms); a trigger is
met exactly, not up to 50 ms early; a deferred task whose time has passed is dropped and counted. A kind without a cloud
option waits like one that the cloud would not pay for, with uC = 0. What the cloud refused and the board then pushed
out waits likewise.
"""

from __future__ import annotations

from bisect import insort
from heapq import heapreplace
from typing import NamedTuple

from offload.policies.dem import Dem
from offload.policies.edge_cloud import split_late
from offload.policies.policy import EXPIRED, NO_PLACE, Decision, PolicyContext
from offload.tasks import Task

MARGIN_NS = 10_000_000


class Deferred(NamedTuple):
    """A task that waits for its trigger, at due_ns. cloud_ns: its expected time in the cloud; why_not: why it is not
    sent there; None: it is. rank: least first.
    """

    due_ns: int
    id: int
    task: Task
    cloud_ns: int
    why_not: str | None
    rank: tuple[bool, float, int]


class Dems(Dem):
    """Deadline-driven, edge and cloud, with migration and stealing."""

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self._deferred: list[Deferred] = []

    def _to_cloud(self, now_ns: int, task: Task, decisions: list[Decision]) -> None:
        """Defer a task, or drop it."""
        why_not = self._why_never_cloud(task)
        if why_not is not None:
            self._keep_to_steal(task, why_not, decisions)
        elif self._cloud_in_time(now_ns, task):
            self._defer(task, self._cloud_ns[task.kind])
        else:
            self._too_late_for_cloud(now_ns, task, decisions)

    def _too_late_for_cloud(self, now_ns: int, task: Task, decisions: list[Decision]) -> None:  # noqa: ARG002
        """A task is not expected to be in time anywhere."""
        self._drop(task, NO_PLACE, decisions)

    def _keep_to_steal(self, task: Task, why_not: str, decisions: list[Decision]) -> None:
        edge_ns = self._edge_ns.get(task.kind)
        if edge_ns is None:
            self._drop(task, why_not, decisions)
        else:
            due_ns = task.deadline_ns - edge_ns - MARGIN_NS
            insort(self._deferred, Deferred(due_ns, task.id, task, 0, why_not, self._rank(task, pays=False)))

    def _defer(self, task: Task, cloud_ns: int) -> None:
        due_ns = task.deadline_ns - cloud_ns - MARGIN_NS
        insort(self._deferred, Deferred(due_ns, task.id, task, cloud_ns, None, self._rank(task, pays=True)))

    def _rank(self, task: Task, *, pays: bool) -> tuple[bool, float, int]:
        """What candidates for stealing are sorted by, least first. pays: whether the cloud is worth its cost."""
        edge, cloud = self._edge.get(task.kind), self._cloud.get(task.kind)
        if edge is None:
            return True, 0.0, task.id  # never stolen
        gain = task.utility(edge) - (task.utility(cloud) if cloud else 0.0)
        return pays, -gain / self._edge_ns[task.kind], task.id

    def _next(self, now_ns: int) -> Task | None:
        stolen = self._steal(now_ns) if self._deferred else None
        return stolen or super()._next(now_ns)

    def _steal(self, now_ns: int) -> Task | None:
        """Take out the best deferred task that fits in front of the queue."""
        fits: dict[int, bool] = {}
        for entry in sorted(self._deferred, key=lambda entry: entry.rank):
            edge_ns = self._edge_ns.get(entry.task.kind)
            if edge_ns is None or now_ns + edge_ns > entry.task.deadline_ns:
                continue
            if edge_ns not in fits:
                fits[edge_ns] = self._fits_first(now_ns, edge_ns)
            if fits[edge_ns]:
                self._deferred.remove(entry)
                return entry.task
        return None

    def _fits_first(self, now_ns: int, edge_ns: int) -> bool:
        """Whether nobody in the queue would be late if a free lane were busy for that long first."""
        free_ns = self._free_ns(now_ns)
        heapreplace(free_ns, now_ns + edge_ns)
        return not split_late(free_ns, self._queue)

    def _after_lanes(self, now_ns: int, decisions: list[Decision]) -> None:
        """Let go of those whose trigger has come."""
        while self._deferred and self._deferred[0].due_ns <= now_ns:
            entry = self._deferred.pop(0)
            if entry.why_not is not None:
                self._drop(entry.task, entry.why_not, decisions)
            elif now_ns + entry.cloud_ns > entry.task.deadline_ns:
                self._drop(entry.task, EXPIRED, decisions)
            else:
                self._start_cloud(entry.task, decisions)

    def _due_ns(self) -> int | None:
        return self._deferred[0].due_ns if self._deferred else None
