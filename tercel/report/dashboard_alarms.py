"""What is wrong, since when, and what was: alarms that begin and end.

An alarm is known by its subject (a component, a topic). It begins when something says so, changes when its level does,
and ends when nothing says so any more. Time is now_ns, a clock that never goes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Level = Literal["warn", "error", "stale"]
MAX_ALARMS = 200
MAX_PAST = 20
_RANK: dict[Level, int] = {"error": 0, "stale": 1, "warn": 2}


@dataclass(frozen=True)
class Alarm:
    """One thing that is wrong: its level is "error", "stale" (it should speak and does not) or "warn"."""

    subject: str
    level: Level
    text: str
    since_ns: int = 0
    ended_ns: int | None = None


class Alarms:
    """The alarms that are on, and the last ones that were."""

    def __init__(self) -> None:
        self.on: dict[str, Alarm] = {}
        self.past: deque[Alarm] = deque(maxlen=MAX_PAST)

    def update(self, found: Mapping[str, Alarm], now_ns: int) -> None:
        """What is wrong now, by subject; `since_ns` of these is when it began, or 0 for now."""
        for subject in [subject for subject in self.on if subject not in found]:
            self.past.appendleft(replace(self.on.pop(subject), ended_ns=now_ns))
        for subject, alarm in list(found.items())[:MAX_ALARMS]:
            known = self.on.get(subject)
            same = known is not None and known.level == alarm.level
            since_ns = known.since_ns if known is not None and same else alarm.since_ns or now_ns
            self.on[subject] = replace(alarm, since_ns=since_ns)

    def rows(self, now_ns: int) -> list[dict[str, Any]]:
        """Those that are on, the worst first, who speaks for himself before topics, the newest first.

        JSON; for_s: how long it has lasted.
        """
        order = sorted(
            self.on.values(), key=lambda a: (_RANK[a.level], a.subject.startswith("/"), -a.since_ns, a.subject)
        )
        return [_row(alarm) | {"for_s": _seconds(now_ns - alarm.since_ns)} for alarm in order]

    def past_rows(self, now_ns: int) -> list[dict[str, Any]]:
        """Those that have ended, the newest first. JSON; how long ago in seconds, and how long they lasted."""
        return [
            _row(alarm)
            | {
                "ended_s": _seconds(now_ns - (alarm.ended_ns or now_ns)),
                "for_s": _seconds((alarm.ended_ns or now_ns) - alarm.since_ns),
            }
            for alarm in self.past
        ]


def _row(alarm: Alarm) -> dict[str, Any]:
    return {"subject": alarm.subject, "level": alarm.level, "text": alarm.text}


def _seconds(span_ns: int) -> float:
    return round(max(span_ns, 0) / 1e9, 1)
