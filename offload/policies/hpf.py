"""HPF: the board alone, highest utility there first. A baseline of DEMS (arXiv 2412.20860)."""

from __future__ import annotations

from offload.policies.edge_cloud import EdgeOnlyPolicy
from offload.tasks import Task


class Hpf(EdgeOnlyPolicy):
    """Highest priority first, the priority being the utility."""

    def key(self, task: Task, edge_ns: int) -> float:  # noqa: ARG002
        """Less the utility, as the least comes first."""
        return -task.utility(self._edge[task.kind])
