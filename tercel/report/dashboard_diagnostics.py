"""What `/diagnostics` says, for the dashboard: components with their numbers, offload decisions over time, alarms.

Any node's diagnostics are shown with level and message; those of Tercel's live hosts (`tercel.ros.diagnostics`) also
with rates, latencies and counts, which stand under names with dots: "latency_ms.p50", "fates.done-cloud".
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tercel.core.errors import Rejected
from tercel.report.dashboard_alarms import Alarm, Level
from tercel.report.dashboard_topics import MAX_LATENCY_S
from tercel.ros.convert import STORE
from tercel.ros.transport import Data

DIAGNOSTICS_TYPE = "diagnostic_msgs/msg/DiagnosticArray"
MAX_BYTES = 1 << 20
MAX_STATUSES = 200
MAX_VALUES = 200
MAX_TEXT = 200
SILENT_AFTER_NS = 5_000_000_000
FORGOTTEN_AFTER_NS = 600_000_000_000
HISTORY_S = 120

_LEVELS: dict[int, Literal["ok"] | Level] = {0: "ok", 1: "warn", 2: "error", 3: "stale"}
_NUMBERS = (
    "received", "processed", "dropped", "rejected", "rate_in_hz", "rate_hz", "latency_ms.p50", "latency_ms.p99",
    "took_ms.p50", "took_ms.p99",
)  # fmt: skip
_REASON = re.compile(r"(?:^|\.)(dropped|rejected|restarts)\.(.+)$")
_FATE = "fates."


@dataclass(frozen=True)
class Status:
    """One DiagnosticStatus, as text."""

    name: str
    level: Literal["ok"] | Level
    message: str
    values: Mapping[str, str]


def read_statuses(data: Data) -> list[Status]:
    """The statuses of a serialised DiagnosticArray, bounded in number and length. Raises Rejected."""
    if len(data) > MAX_BYTES:
        raise Rejected("diagnostics are too large")
    try:
        array: Any = STORE.deserialize_cdr(memoryview(data), DIAGNOSTICS_TYPE)
    except Exception:  # the decoder is generated code: a damaged message can raise anything
        raise Rejected("diagnostics do not decode") from None
    return [
        Status(
            name=status.name[:MAX_TEXT],
            level=_LEVELS.get(_byte(status.level), "error"),
            message=status.message[:MAX_TEXT],
            values={pair.key[:MAX_TEXT]: pair.value[:MAX_TEXT] for pair in status.values[:MAX_VALUES]},
        )
        for status in array.status[:MAX_STATUSES]
    ]


def _byte(level: Any) -> int:
    return level[0] if isinstance(level, bytes) else int(level)


@dataclass
class _Heard:
    status: Status
    at_ns: int


class Diagnosis:
    """The newest status of each name, and what the offload manager decided second by second."""

    def __init__(self) -> None:
        self.heard: dict[str, _Heard] = {}
        self.unreadable: Counter[str] = Counter()
        self.offload = OffloadHistory()

    def receive(self, data: Data, now_ns: int) -> None:
        """One DiagnosticArray. What does not decode is counted."""
        try:
            statuses = read_statuses(data)
        except Rejected as rejected:
            self.unreadable[str(rejected)] += 1
            return
        for status in statuses:
            if status.name in self.heard or len(self.heard) < MAX_STATUSES:
                self.heard[status.name] = _Heard(status, now_ns)
            self.offload.receive(status, now_ns)

    def forget(self, now_ns: int) -> None:
        """Names that have been silent for ten minutes are gone for good: another graph runs."""
        for name in [n for n, heard in self.heard.items() if now_ns - heard.at_ns > FORGOTTEN_AFTER_NS]:
            del self.heard[name]

    def alarms(self, now_ns: int) -> Iterable[Alarm]:
        """What the newest statuses complain of, and who has fallen silent."""
        for name, heard in self.heard.items():
            if now_ns - heard.at_ns > SILENT_AFTER_NS:
                yield Alarm(name, "stale", _silent_words(heard.status), since_ns=heard.at_ns)
            elif heard.status.level != "ok":
                yield Alarm(name, heard.status.level, heard.status.message or "no reason is given")
        for reason in self.unreadable:
            yield Alarm("/diagnostics", "warn", reason)

    def rows(self, now_ns: int) -> list[dict[str, Any]]:
        """The statuses by name. JSON; numbers that are not given are None."""
        rows = []
        for name, heard in sorted(self.heard.items()):
            values = heard.status.values
            if _fates(values):
                continue  # the offload manager has a panel of its own
            silent = now_ns - heard.at_ns > SILENT_AFTER_NS
            rows.append(
                {
                    "name": name,
                    "kind": values.get("component", ""),
                    "level": "stale" if silent else heard.status.level,
                    "message": _silent_words(heard.status) if silent else heard.status.message,
                    "age_s": round((now_ns - heard.at_ns) / 1e9, 1),
                    "is_measured": "received" in values,
                    "reasons": _reasons(values),
                }
                | {key.replace(".", "_"): _shown(key, values) for key in _NUMBERS}
            )
        return rows


class OffloadHistory:
    """Decisions by fate: totals, and how many in each of the last HISTORY_S seconds, over all managers."""

    def __init__(self) -> None:
        self.totals: dict[str, dict[str, int]] = {}
        self.policies: dict[str, str] = {}
        self._seconds: deque[tuple[int, Counter[str]]] = deque(maxlen=HISTORY_S)
        self._other: dict[str, float | None] = {}
        self._at_ns: int | None = None

    def receive(self, status: Status, now_ns: int) -> None:
        """Counts that only grow; where they shrink the manager began anew."""
        fates = _fates(status.values)
        if not fates or (status.name not in self.totals and len(self.totals) >= 16):
            return
        known = self.totals.get(status.name)
        self.totals[status.name] = fates
        self.policies[status.name] = status.values.get("policy", "")
        self._at_ns = now_ns
        self._other = {key: number_of(status.values.get(key)) for key in ("response_ms.p50", "response_ms.p90")}
        if known is None:
            return  # what came before we looked has no time
        began_anew = any(count < known.get(fate, 0) for fate, count in fates.items())
        grown = Counter({f: n if began_anew else n - known.get(f, 0) for f, n in fates.items()})
        second = now_ns // 10**9
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1].update(grown)
        else:
            self._seconds.append((second, grown))

    def row(self, now_ns: int) -> dict[str, Any] | None:
        """JSON: totals by fate, by policy, and the time line, oldest second first; None if there is no manager."""
        if self._at_ns is None:
            return None
        totals: Counter[str] = Counter()
        by_policy: dict[str, Counter[str]] = {}
        for name, fates in self.totals.items():
            totals.update(fates)
            by_policy.setdefault(self.policies[name] or "policy not told", Counter()).update(fates)
        second = now_ns // 10**9
        line = {fate: [0] * HISTORY_S for fate in totals}
        for at, grown in self._seconds:
            if 0 <= (place := HISTORY_S - 1 - (second - at)) < HISTORY_S:
                for fate, count in grown.items():
                    line.setdefault(fate, [0] * HISTORY_S)[place] += count
        return {
            "fates": dict(totals),
            "policies": {policy: dict(fates) for policy, fates in sorted(by_policy.items())},
            "line": line,
            "response_p50_ms": self._other["response_ms.p50"],
            "response_p90_ms": self._other["response_ms.p90"],
            "age_s": round((now_ns - self._at_ns) / 1e9, 1),
        }


def _silent_words(status: Status) -> str:
    last = f"; the last was: {status.message}" if status.level != "ok" else ""
    return f"says nothing any more{last}"


def _shown(key: str, values: Mapping[str, str]) -> float | None:
    """A number, or None where there is none, or where it is the distance between two clocks."""
    number = number_of(values.get(key))
    is_distance = number is not None and key.startswith("latency_ms") and abs(number) > MAX_LATENCY_S * 1e3
    return None if is_distance else number


def number_of(text: str | None) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _fates(values: Mapping[str, str]) -> dict[str, int]:
    return {
        key[len(_FATE) :]: int(value)
        for key, value in list(values.items())
        if key.startswith(_FATE) and value.isascii() and value.isdigit() and len(value) < 16
    }


def _reasons(values: Mapping[str, str]) -> list[str]:
    """Why messages were dropped or rejected: "cloud: queue full 12"."""
    reasons = []
    for key, value in values.items():
        match = _REASON.search(key)
        if match and number_of(value):
            port = key[: match.start()].rpartition(".")[2]
            reasons.append(f"{port + ': ' if port else ''}{match[1]}, {match[2]}: {value}")
    return reasons[:8]
