"""What became of every request: received = done + refused + cancelled + expired + failed + under way, always."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass
class Durations:
    """A histogram of durations: counts up to each of BUCKETS_S and above, and the sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total_ns: int = 0

    def add(self, took_ns: int) -> None:
        """One more."""
        self.total_ns += took_ns
        self.counts[sum(took_ns > limit_s * 1e9 for limit_s in BUCKETS_S)] += 1


@dataclass
class Account:
    """Of one model. refused and failed by reason; late: done, but after the deadline; runs: of the model, of which a
    batch is one."""

    received: int = 0
    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    expired: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    late: int = 0
    runs: int = 0
    queued: Durations = field(default_factory=Durations)
    computed: Durations = field(default_factory=Durations)

    @property
    def under_way(self) -> int:
        """Admitted and not ended."""
        ended = self.done + sum(self.refused.values()) + self.cancelled + self.expired + sum(self.failed.values())
        return self.received - ended

    def summary(self) -> dict[str, Any]:
        """The numbers by name, refusals and failures also by reason."""
        return {
            "received": self.received,
            "done": self.done,
            "refused": sum(self.refused.values()),
            "cancelled": self.cancelled,
            "expired": self.expired,
            "failed": sum(self.failed.values()),
            "late": self.late,
            "runs": self.runs,
            "reasons": dict(sorted((self.refused + self.failed).items())),
        }
