"""CLD: everything at once to the cloud, if it earns more there than it costs and is expected in time.

A baseline of DEMS (arXiv 2412.20860). The board is not used, also not for what the cloud refused or lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from offload.policies.edge_cloud import EdgeCloudPolicy
from offload.policies.policy import FAILED, Decision, Drop
from offload.tasks import Option, Task


class CloudOnly(EdgeCloudPolicy):
    """The cloud alone."""

    def returned(self, now_ns: int, task: Task, option: Option, reason: str) -> Sequence[Decision]:  # noqa: ARG002
        """There is no other place."""
        return [Drop(task, FAILED)]

    def _place(self, now_ns: int, task: Task, decisions: list[Decision]) -> None:
        self._to_cloud(now_ns, task, decisions)
