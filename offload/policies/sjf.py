"""SJF: the board alone, shortest expected time first. A baseline of DEMS (arXiv 2412.20860)."""

from __future__ import annotations

from offload.policies.edge_cloud import EdgeOnlyPolicy
from offload.tasks import Task


class Sjf(EdgeOnlyPolicy):
    """Shortest job first."""

    def key(self, task: Task, edge_ns: int) -> float:  # noqa: ARG002
        """The expected time on the board."""
        return edge_ns
