"""SOTA2 of DEMS (arXiv 2412.20860): a variant of Dedas (Meng et al., INFOCOM 2019), rules as in its code.

Shortest expected time first. A task that makes nobody late is queued. If it makes exactly one late, it takes that one's
place if the mean completion time of the queue improves, and the other is tried in the cloud. Otherwise it goes to the
cloud itself, if in time there and whatever it costs.

In this order the mean improves if and only if the displaced task is the longer one, so that is what is asked. The code
asks for it also when nobody is displaced, of running totals that are zero at first; that is not followed, nor does the
first task behind the new one go uncounted.
"""

from __future__ import annotations

from collections.abc import Sequence

from offload.policies.edge_cloud import DisplacingPolicy, Queued
from offload.tasks import Option, Task


class Dedas(DisplacingPolicy):
    """Shortest job first, displacing one at most."""

    def key(self, task: Task, edge_ns: int) -> float:  # noqa: ARG002
        """The expected time on the board."""
        return edge_ns

    def better(self, now_ns: int, entry: Queued, late: Sequence[Queued]) -> bool:  # noqa: ARG002
        """Whether one alone is late, and the longer one."""
        return len(late) == 1 and late[0].edge_ns > entry.edge_ns

    def _worth(self, task: Task, option: Option) -> bool:  # noqa: ARG002
        return True
