from __future__ import annotations

import asyncio
import time

import pytest

from tercel.core.clock import VirtualClock, run_virtual

START_NS = 1_700_000_000_123_456_789


def test_an_hour_of_sleeping_takes_no_time_and_is_exact() -> None:
    clock = VirtualClock(START_NS)
    seen: list[tuple[str, int]] = []

    async def sleeper(name: str, period_s: float) -> None:
        while clock.now_ns < START_NS + 3600 * 10**9:
            await asyncio.sleep(period_s)
            seen.append((name, clock.now_ns - START_NS))

    async def main() -> None:
        await asyncio.gather(sleeper("a", 600), sleeper("b", 900))

    began_s = time.monotonic()
    run_virtual(main(), clock)
    assert time.monotonic() - began_s < 1.0
    minutes = [(name, elapsed / 60e9) for name, elapsed in seen]
    assert minutes == [
        ("a", 10), ("b", 15), ("a", 20), ("b", 30), ("a", 30), ("a", 40), ("b", 45), ("a", 50), ("b", 60), ("a", 60)
    ]  # fmt: skip


def test_the_clock_reaches_a_nanosecond_stamp_exactly() -> None:
    clock = VirtualClock(START_NS)

    async def main() -> int:
        await clock.sleep_until_ns(START_NS + 987_654_321_987)
        return clock.now_ns

    assert run_virtual(main(), clock) == START_NS + 987_654_321_987


def test_idle_waits_for_all_that_can_happen_now_and_for_nothing_later() -> None:
    clock = VirtualClock(0)
    done: list[str] = []

    async def chain() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        done.append("now")
        await asyncio.sleep(1)
        done.append("later")

    async def main() -> list[str]:
        task = asyncio.create_task(chain())
        await clock.idle()
        snapshot = list(done)
        await task
        return snapshot

    assert run_virtual(main(), clock) == ["now"]
    assert done == ["now", "later"]


def test_a_deadlock_is_an_error_and_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlocked"):
        run_virtual(main(), VirtualClock())


def test_a_hundred_thousand_tasks_finish_in_seconds() -> None:
    async def task() -> None:
        for _ in range(3):
            await asyncio.sleep(0.01)

    async def main() -> None:
        await asyncio.gather(*(task() for _ in range(20_000)))

    began_s = time.monotonic()
    run_virtual(main(), VirtualClock())
    assert time.monotonic() - began_s < 10.0


def test_a_century_is_reached_to_the_nanosecond_among_other_timers() -> None:
    clock = VirtualClock(0)
    century_ns = 100 * 365 * 86_400 * 10**9
    woken: list[tuple[str, int]] = []

    async def until(name: str, when_ns: int) -> None:
        await clock.sleep_until_ns(when_ns)
        woken.append((name, clock.now_ns))

    async def main() -> None:
        stamps = {"b": century_ns + 1, "a": century_ns, "c": century_ns + 1, "first": 5}
        await asyncio.gather(*(until(name, when_ns) for name, when_ns in stamps.items()), asyncio.sleep(3))

    run_virtual(main(), clock)
    assert woken == [("first", 5), ("a", century_ns), ("b", century_ns + 1), ("c", century_ns + 1)]
