"""EDF-E+C: earliest deadline first on the board; what is not in time there goes to the cloud at once.

A baseline of DEMS (arXiv 2412.20860). Nobody in the queue gives way: what an arrival of an earlier
deadline has made late expires there. Departure: deadlines are compared as points in time, as in `edf`.
"""

from __future__ import annotations

from offload.policies.edge_cloud import EdgeCloudPolicy
from offload.tasks import Task


class EdfEc(EdgeCloudPolicy):
    """Earliest deadline first, edge and cloud."""

    def key(self, task: Task, edge_ns: int) -> float:  # noqa: ARG002
        """The deadline."""
        return task.deadline_ns
