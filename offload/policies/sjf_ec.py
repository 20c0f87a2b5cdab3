"""SJF-E+C: shortest expected time first on the board; what is not in time there goes to the cloud at once.

A baseline of DEMS (arXiv 2412.20860). Nobody in the queue gives way, as in `edf_ec`.
"""

from __future__ import annotations

from offload.policies.edge_cloud import EdgeCloudPolicy
from offload.tasks import Task


class SjfEc(EdgeCloudPolicy):
    """Shortest job first, edge and cloud."""

    def key(self, task: Task, edge_ns: int) -> float:  # noqa: ARG002
        """The expected time on the board."""
        return edge_ns
