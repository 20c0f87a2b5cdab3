"""Where tasks run: the board's lanes and the far side of a link, simulated or real, behind one method.

    TaskLost       the far side gave no answer: refused, unavailable, connection lost. The task is the policy's again.
    TaskTooLate    the deadline passed while a remote run was under way; its cost is spent.

An edge executor ends when the run has ended, in time or not, for the lane is busy until then. A remote one ends at the
task's deadline at the latest: a result after it cannot matter. A run that is cancelled leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from offload.tasks import Option, Task


@dataclass(frozen=True)
class Ran:
    """A run that gave a result, and where its time went; see `offload.tasks.Timing`."""

    outputs: Any = None
    edge_ns: int = 0
    upload_ns: int = 0
    upload_bytes: int = 0
    rtt_ns: int = 0
    server_ns: int = 0


class TaskLost(Exception):
    """No answer can be had from the far side. reason: short and without numbers, so that it can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TaskTooLate(Exception):
    """The deadline passed. sent: whether anything of the task has gone up the link, so that its cost is spent."""

    def __init__(self, *, sent: bool = True) -> None:
        super().__init__("deadline passed")
        self.sent = sent


class Clock(Protocol):
    """Time of the board, nanoseconds: `tercel.core.clock.VirtualClock`, or `WallClock`."""

    @property
    def now_ns(self) -> int:
        """Now."""
        ...

    async def sleep_until_ns(self, when_ns: int) -> None:
        """Wait; a point that has come does not wait."""
        ...


class Executor(Protocol):
    """One place where tasks run."""

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        """Run the board's part (edge executors) or the rest (remote ones) of an option. Raises TaskLost, TaskTooLate."""
        ...


Infer = Callable[[str, Any], Any]
"""(model, payload) -> outputs, in the calling thread; `perception.runtime.Network.run` behind a name."""
