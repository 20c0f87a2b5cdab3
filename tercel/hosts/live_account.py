"""What a live host keeps of what it did: counts for ever, durations of the newest messages only."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tercel.hosts.ports import PortAccount

KEPT = 4096
"""So many of the newest values are kept of a stream: of an image topic at 30 Hz those of two minutes."""
RATE_WINDOW_S = 5.0
MAX_REASONS = 200
"""So many reasons are counted apart: strangers' words are in some, and must fill neither memory nor log."""


def bounded(counts: Mapping[str, int], reason: str) -> str:
    """The reason, or a common name for all beyond the first MAX_REASONS."""
    return reason if reason in counts or len(counts) < MAX_REASONS else "further reasons"


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and max, zeros if there are no values."""
    if not len(values):
        return {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
    p50, p90, p99, largest = np.quantile(np.asarray(values), [0.5, 0.9, 0.99, 1.0]).round(3).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": largest}


class Recent:
    """The newest values of a stream and when they came. Any thread may add and ask."""

    def __init__(self, kept: int = KEPT) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._began_s: float | None = None
        self._rows: deque[tuple[float, float]] = deque(maxlen=kept)

    def add(self, now_s: float, value: float = 0.0) -> None:
        """One more; now_s by time.monotonic()."""
        with self._lock:
            self.count += 1
            self._began_s = now_s if self._began_s is None else self._began_s
            self._rows.append((now_s, value))

    def rate_hz(self, now_s: float) -> float:
        """How often they came in the last RATE_WINDOW_S, or since the first one."""
        with self._lock:
            if self._began_s is None:
                return 0.0
            oldest_s = self._rows[0][0]  # where more come than are kept, the window is shorter
            span_s = min(RATE_WINDOW_S, max(now_s - self._began_s, 1e-3))
            if len(self._rows) == self._rows.maxlen:
                span_s = min(span_s, max(now_s - oldest_s, 1e-3))
            newest = 0
            for came_s, _ in reversed(self._rows):
                if came_s <= now_s - span_s:
                    break
                newest += 1
        return round(newest / span_s, 2)

    def age_s(self, now_s: float) -> float | None:
        """Time since the newest one; None if there was none."""
        with self._lock:
            return now_s - self._rows[-1][0] if self._rows else None

    def period_s(self) -> float:
        """The mean time between two of those that are kept; 0 if there are not two."""
        with self._lock:
            if len(self._rows) < 2:
                return 0.0
            return (self._rows[-1][0] - self._rows[0][0]) / (len(self._rows) - 1)

    def quantiles(self, since_s: float = float("-inf")) -> dict[str, float]:
        """p50, p90, p99 and max of what is kept, or of what came since then; zeros if there is nothing."""
        with self._lock:
            values = [value for came_s, value in self._rows if came_s >= since_s]
        return quantiles(values)


@dataclass
class LiveNodeAccount:
    """What one component did. sent: calls that had outputs; latency_ms: from the sensor's stamp to the output's
    leaving; took_ms: in its handlers.
    """

    ports: dict[str, PortAccount]
    received: Recent = field(default_factory=Recent)
    outputs: Counter[str] = field(default_factory=Counter)
    sent: Recent = field(default_factory=Recent)
    took_ms: Recent = field(default_factory=Recent)
    latency_ms: Recent = field(default_factory=Recent)
    restarts: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    failed: str | None = None


@dataclass(frozen=True)
class LiveAccount:
    """What became of everything in one run of a live host, from start to stop.

    components: as `LiveHost.status()` has them; topics: what came in, by topic; undecodable: by topic and reason;
    problems: of the host and its transport.
    """

    duration_s: float
    components: dict[str, dict[str, Any]]
    topics: dict[str, dict[str, Any]]
    undecodable: dict[str, int]
    problems: dict[str, int]

    @property
    def failed(self) -> dict[str, str]:
        """The components that failed, with what they raised."""
        return {name: row["failed"] for name, row in self.components.items() if row["failed"]}


class Problems:
    """Reasons counted, each said once. Any thread may count."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self._say = say
        self._lock = threading.Lock()

    def count(self, reason: str, *, hint: str = "", is_said: bool = False) -> None:
        """Count a reason; the first time it is said, with the hint behind it, unless somebody has said it."""
        with self._lock:
            known = bounded(self.counts, reason)
            reason, hint = known, hint if known == reason else ""
            self.counts[reason] += 1
            is_new = self.counts[reason] == 1
        if is_new and not is_said:
            self._say(reason + hint)

    def told(self) -> Counter[str]:
        """A copy, by reason."""
        with self._lock:
            return self.counts.copy()

    def clear(self) -> None:
        """Begin anew; what comes again is said again."""
        with self._lock:
            self.counts.clear()
