"""What a live host says of itself: its workers' and topics' accounts as plain numbers, and what is new in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from tercel.hosts.live_worker import Worker

RECENT_S = 10.0
"""Latencies and losses of the last so many seconds tell how it goes now."""

_HINTS = {
    "queue full": ": slower than its input; the newest are kept",
    "duplicate stamp": ": are there two publishers?",
    "stamp went back": ": are there two publishers, or was a clock set back?",
}


def component_status(worker: Worker, names: Mapping[str, str], now_s: float) -> dict[str, Any]:
    """One component's numbers. names: of topics on the wire.

    Its inputs' sums hold at one moment: received = processed + dropped + rejected + waiting. latency_ms: from the
    sensor's stamp to the output's leaving, lately; took_ms: in its handlers.
    """
    account, counts = worker.account, worker.counts()
    rows = counts["inputs"].values()
    for row in [*rows, *counts["outputs"].values()]:
        row["topic"] = names[row["topic"]]
    return {
        "component": worker.node.component.__name__,
        "received": sum(row["received"] for row in rows),
        "processed": sum(row["processed"] for row in rows),
        "dropped": sum(sum(row["dropped"].values()) for row in rows),
        "rejected": sum(sum(row["rejected"].values()) for row in rows),
        "calls": account.took_ms.count,
        "rate_in_hz": account.received.rate_hz(now_s),
        "rate_hz": account.sent.rate_hz(now_s),
        "latency_ms": account.latency_ms.quantiles(now_s - RECENT_S),
        "took_ms": account.took_ms.quantiles(),
        **counts,
    }


class Lately:
    """What was lost in the last RECENT_S, by comparing statuses that are taken once a second."""

    def __init__(self) -> None:
        self._rows: deque[tuple[float, Mapping[str, Any]]] = deque()

    def note(self, status: Mapping[str, Any], now_s: float) -> None:
        """One more status."""
        self._rows.append((now_s, status))
        while len(self._rows) > 1 and self._rows[0][0] < now_s - RECENT_S:
            self._rows.popleft()

    def since(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """received, dropped and rejected of each component since the oldest status that is kept, and the problems
        that have grown since.
        """
        before: Mapping[str, Any] = self._rows[0][1] if self._rows else {"components": {}, "problems": {}}
        return {
            "components": {
                name: {key: row[key] - before["components"].get(name, _NOTHING)[key] for key in _NOTHING}
                for name, row in status["components"].items()
            },
            "problems": [
                reason for reason, count in problems_of(status).items() if count > problems_of(before).get(reason, 0)
            ],
        }


_NOTHING = {"received": 0, "dropped": 0, "rejected": 0}


def problems_of(status: Mapping[str, Any]) -> dict[str, int]:
    """All problems of a status: the host's, its transport's, and bytes that were no messages."""
    return {**status["problems"], **status.get("undecodable", {})}


class News:
    """Says each reason for which a component's input lost messages, once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: set[tuple[str, str, str]] = set()

    def tell(self, status: Mapping[str, Any]) -> None:
        """Say what is new in a status."""
        for name, component in status["components"].items():
            for port, row in component["inputs"].items():
                for reason in [*row["dropped"], *row["rejected"]]:
                    if (name, port, reason) not in self._told:
                        self._told.add((name, port, reason))
                        self._say(f"{name}: {port} from {row['topic']}: {reason}{_HINTS.get(reason, '')}")
