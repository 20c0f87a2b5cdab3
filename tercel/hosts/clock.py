"""A virtual clock: an asyncio event loop that jumps to the next event instead of waiting for it.

The loop is asyncio's own; only its selector differs. Where the real one would block until the next timer, this one
adds the waiting time to the clock and returns at once. Time is kept in integer nanoseconds from the run's start, so
that no rounding depends on the date.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: a timeout advances `elapsed_ns`. Before it does, it wakes whoever waits for the instant's end."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed_ns = 0
        self.idle_waiters: list[asyncio.Future[None]] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self.idle_waiters:
            waiters, self.idle_waiters = self.idle_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            return super().select(0)
        if timeout is None:
            # Nothing left to happen in virtual time: every task waits for another one.
            raise RuntimeError("the graph is deadlocked: no task can go on and no timer is set")
        self.elapsed_ns += max(1, round(timeout * 1e9))
        return super().select(0)


class VirtualClock(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual. `now_ns` is what a robot's clock would show."""

    def __init__(self, start_ns: int = 0) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self.start_ns = start_ns

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._jumping.elapsed_ns / 1e9

    @property
    def now_ns(self) -> int:
        """The virtual time in nanoseconds since the epoch."""
        return self.start_ns + self._jumping.elapsed_ns

    async def sleep_until_ns(self, when_ns: int) -> None:
        """Wait for a point in virtual time; one in the past does not wait."""
        # Rounding a float timer may wake a nanosecond early: go on until the clock has really reached it.
        while (remaining_ns := when_ns - self.now_ns) > 0:
            await asyncio.sleep(remaining_ns / 1e9)

    async def idle(self) -> None:
        """Wait until everything that can happen at this instant has happened."""
        waiter: asyncio.Future[None] = self.create_future()
        self._jumping.idle_waiters.append(waiter)
        await waiter


def run_virtual(main: Coroutine[Any, Any, T], clock: VirtualClock) -> T:
    """Run a coroutine to its end on a virtual clock, then cancel what is left and close the loop."""
    try:
        return clock.run_until_complete(main)
    finally:
        leftover = asyncio.all_tasks(clock)
        for task in leftover:
            task.cancel()
        if leftover:
            clock.run_until_complete(asyncio.gather(*leftover, return_exceptions=True))
        clock.close()
