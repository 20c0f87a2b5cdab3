"""A virtual clock: an asyncio event loop that jumps to the next event instead of waiting for it.

The loop is asyncio's own; only its selector differs. Where the real one would block until the next timer, this one
sets the clock to the next event and returns at once. Time is kept in integer nanoseconds from the run's start, and
`sleep_until_ns` has its own timers: asyncio's are floats of seconds, which stop being exact after some weeks.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")
_Waiter = asyncio.Future[None]


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: what would be waiting advances `elapsed_ns`. Before that it wakes whoever waits for the instant's
    end."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed_ns = 0
        self.idle_waiters: list[_Waiter] = []
        self.timers: list[tuple[int, int, _Waiter]] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._go_on(timeout)
        return super().select(0)

    def _go_on(self, timeout: float | None) -> None:
        """Nothing more can happen at this instant: end it, or jump to the next timer, ours or asyncio's."""
        if self.idle_waiters:
            waiters, self.idle_waiters = self.idle_waiters, []
            for waiter in waiters:
                _wake(waiter)
            return
        asyncios_ns = None if timeout is None else self.elapsed_ns + max(1, round(timeout * 1e9))
        if self.timers and (asyncios_ns is None or self.timers[0][0] <= asyncios_ns):
            self.elapsed_ns = max(self.elapsed_ns, self.timers[0][0])
            while self.timers and self.timers[0][0] <= self.elapsed_ns:
                _wake(heapq.heappop(self.timers)[2])
        elif asyncios_ns is not None:
            self.elapsed_ns = asyncios_ns
        else:
            raise RuntimeError("the graph is deadlocked: no task can go on and no timer is set")


def _wake(waiter: _Waiter) -> None:
    if not waiter.done():
        waiter.set_result(None)


class VirtualClock(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual. `now_ns` is what a robot's clock would show."""

    def __init__(self, start_ns: int = 0) -> None:
        self._jumping = _JumpingSelector()
        self._order = count()
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
        """Wait for a point in virtual time; one that has come does not wait. Equal points wake in order of asking."""
        if when_ns <= self.now_ns:
            return
        waiter: _Waiter = self.create_future()
        heapq.heappush(self._jumping.timers, (when_ns - self.start_ns, next(self._order), waiter))
        await waiter

    async def idle(self) -> None:
        """Wait until everything that can happen at this instant has happened."""
        waiter: _Waiter = self.create_future()
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
