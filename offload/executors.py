"""Where tasks run: the board's lanes and the far side of a link, simulated or real, behind one method.

    TaskLost       the far side gave no answer: refused, unavailable, connection lost. The task is the policy's again.
    TaskTooLate    the deadline passed while a remote run was under way; its cost is spent.

An edge executor ends when the run has ended, in time or not, for the lane is busy until then. A remote one ends at the
task's deadline at the latest: a result after it cannot matter. A run that is cancelled leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
        """Run the board's part of an option (edge executors) or the rest (remote ones)."""
        ...


class Remote(Executor, Protocol):
    """The far side of a link. on_upload is called with a task when the far side has said that it has all of it.

    Not every server says so; the manager sets the attribute.
    """

    on_upload: Callable[[Task], None]


def nothing_heard(_task: Task) -> None:
    """The on_upload of a remote executor that has no manager yet."""


Infer = Callable[[str, Any], Any]
"""(model, payload) -> outputs, in the calling thread; `perception.runtime.Network.run` behind a name."""


class LocalExecutor:
    """The board's own networks, on as many threads as it has lanes.

    A run takes a thread until it has ended; close() waits for those. A network that fails raises Rejected.
    """

    def __init__(self, infer: Infer, clock: Clock, lanes: int = 1) -> None:
        self._infer = infer
        self._clock = clock
        self._threads = ThreadPoolExecutor(lanes, thread_name_prefix="lane")

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        """Outputs of the model `option.name`, or of the kind's name where that is empty."""
        began_ns = self._clock.now_ns
        loop = asyncio.get_running_loop()
        outputs = await loop.run_in_executor(self._threads, self._infer, option.name or task.kind.name, payload)
        return Ran(outputs, edge_ns=self._clock.now_ns - began_ns)

    def close(self) -> None:
        """Wait for the runs under way and end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


class WallClock:
    """Nanoseconds since the epoch that never go back: the epoch is read once, then a monotonic clock counts on."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    @property
    def now_ns(self) -> int:
        """Now."""
        return time.monotonic_ns() + self._offset_ns

    async def sleep_until_ns(self, when_ns: int) -> None:
        """Wait; asyncio may wake up to a millisecond early, so the rest is waited for again."""
        while (left_ns := when_ns - self.now_ns) > 0:
            await asyncio.sleep(left_ns / 1e9)
