"""EDF: the board alone, earliest deadline first. A baseline of DEMS (arXiv 2412.20860).

Departure: deadlines are compared as points in time; the authors' code compares how long after arrival they are.
"""

from __future__ import annotations

from offload.policies.edge_cloud import EdgeOnlyPolicy
from offload.tasks import Task


class Edf(EdgeOnlyPolicy):
    """Earliest deadline first."""

    def key(self, task: Task, edge_ns: int) -> float:  # noqa: ARG002
        """The deadline."""
        return task.deadline_ns
