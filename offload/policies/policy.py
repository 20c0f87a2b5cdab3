"""What a policy is: events in, decisions out; no clock, no I/O, nothing drawn at random.

The manager tells a policy of each event with the time it happened at, and carries out what it decides. A policy holds
every task from `arrived` (or `returned`) until it starts or drops it. It may start a task that needs the board (edge,
split) only while one of its lanes is free, counts lanes itself, and never starts a task at or after its deadline.

`edge_cloud.py` is the frame that the published policies share: one queue for the board, and the bookkeeping of lanes. A
policy of that family says where an arrival goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from offload.tasks import Option, Outcome, Task, TaskKind

EXPIRED = "expired in queue"
NO_PLACE = "nowhere in time"
NOT_WORTH = "not worth its cost"
FAILED = "the cloud failed"


@dataclass(frozen=True)
class Start:
    """Run a task in this way, now."""

    task: Task
    option: Option


@dataclass(frozen=True)
class Drop:
    """Give a task up."""

    task: Task
    reason: str


Decision = Start | Drop


class Policy(Protocol):
    """What the manager needs of a policy. All calls come in order of time."""

    wake_ns: int | None
    """When it wants `woken` to be called at the latest; read after each event."""

    def arrived(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """A new task."""
        ...

    def returned(self, now_ns: int, task: Task, option: Option, reason: str) -> Sequence[Decision]:
        """A task that was started on the cloud (or its tail) was refused or lost there; it is the policy's again."""
        ...

    def lane_freed(self, now_ns: int, task: Task, took_ns: int) -> Sequence[Decision]:
        """The board's part of a task is over."""
        ...

    def uploaded(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """The far side has said that it has all of a task. Not every server says so."""
        ...

    def ended(self, now_ns: int, outcome: Outcome) -> Sequence[Decision]:
        """A task that was started or dropped has ended."""
        ...

    def woken(self, now_ns: int) -> Sequence[Decision]:
        """wake_ns has come."""
        ...


@dataclass(frozen=True)
class PolicyContext:
    """What a policy is told at the start.

    lanes: how many tasks the board runs at once. deviate: where in their distribution expected times are taken, as a
    normal deviate (1.645: the 95th percentile; None: the mean, as published), by policies that estimate nothing
    themselves. window_ns: GEMS's tumbling window.
    """

    kinds: tuple[TaskKind, ...]
    lanes: int = 1
    deviate: float | None = 1.645
    window_ns: int = 20_000_000_000
    start_ns: int = 0
