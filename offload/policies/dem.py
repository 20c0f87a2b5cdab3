"""DEM: EDF-E+C with migration, from DEMS (arXiv 2412.20860).

A task that would make queued ones late is queued all the same if their scores add up to less than its own; they are
then tried in the cloud. The score is what a task loses if it leaves the board: |uC - uE| if it can still make it in the
cloud and earns something there, |uE| otherwise.

Departures: deadlines are compared as points in time; the first task behind the new one counts like all others (the
authors' code begins with the second).
"""

from __future__ import annotations

from collections.abc import Sequence

from offload.policies.edge_cloud import DisplacingPolicy, Queued
from offload.tasks import Task


class Dem(DisplacingPolicy):
    """Deadline-driven, edge and cloud, with migration."""

    def key(self, task: Task, edge_ns: int) -> float:  # noqa: ARG002
        """The deadline."""
        return task.deadline_ns

    def better(self, now_ns: int, entry: Queued, late: Sequence[Queued]) -> bool:
        """Whether less is lost by moving the late ones than by moving the new one."""
        return sum(self.score(now_ns, one.task) for one in late) < self.score(now_ns, entry.task)

    def score(self, now_ns: int, task: Task) -> float:
        """What is lost if a task leaves the board, or does not get there. Its kind has an edge option."""
        on_edge = task.utility(self._edge[task.kind])
        if self._why_never_cloud(task) is None and self._cloud_in_time(now_ns, task):
            return abs(task.utility(self._cloud[task.kind]) - on_edge)
        return abs(on_edge)
