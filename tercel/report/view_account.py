"""What `tercel view` tells at its end: what was shown, what was not, and why."""

from __future__ import annotations

from typing import Any

from tercel.report.view_door import Door
from tercel.report.view_feed import ViewFeed


def summarize(feed: ViewFeed, door: Door, source: str, duration_s: float) -> dict[str, Any]:
    """The account as JSON. Messages count once for each viewer.

    What a viewer leaves in its queue when it goes counts as not taken, too. A viewer may get one message more than the
    account says, at the moment when it begins to look at a topic that another looks at already.
    """
    not_taken = max(0, feed.handed_over - door.shown)
    return {
        "source": source,
        "duration_s": round(duration_s, 3),
        "received": dict(sorted(feed.received.items())),
        "shown": door.shown,
        "not_shown": {**({"viewer took no more": not_taken} if not_taken else {}), **dict(feed.not_drawn)},
        "viewers": {"let_in": door.let_in, "ended": dict(door.ended), "refused": dict(door.refused)},
        "left_out_topics": feed.left_out,
        "problems": {**feed.problems, **feed.transport_problems()},
    }


def account_lines(summary: dict[str, Any]) -> list[str]:
    """The account for people."""
    viewers = summary["viewers"]
    lines = [f"{topic:<28}{count:>8}" for topic, count in summary["received"].items()]
    lines += [f"not shown: {reason} ({count})" for reason, count in summary["not_shown"].items() if count]
    lines += [f"refused: {reason} ({count})" for reason, count in viewers["refused"].items()]
    lines += [f"problem: {problem} ({count})" for problem, count in summary["problems"].items()]
    if summary["left_out_topics"]:
        lines.append(f"left out: {summary['left_out_topics']} topics, too many or with too long a name")
    people = f"{viewers['let_in']} viewer{'' if viewers['let_in'] == 1 else 's'}"
    return [*lines, f"showed {summary['shown']} messages to {people} in {summary['duration_s']:.1f} s"]
