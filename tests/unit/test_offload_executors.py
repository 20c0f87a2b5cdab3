from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from offload.executors import LocalExecutor, Ran, Remote, TaskLost, WallClock, nothing_heard
from offload.manager import Manager
from offload.policies import make_policy
from offload.policies.policy import PolicyContext
from offload.remote import RemoteExecutor
from offload.tasks import Fate, Option, Outcome, Task, TaskKind
from tercel.core.errors import Rejected
from tests.unit.manager_bench import MS_NS


class NoRemote:
    """A far side that is not there."""

    on_upload: Callable[[Task], None] = staticmethod(nothing_heard)

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        """Raises TaskLost at once."""
        raise TaskLost("no connection")


def live_kind(edge_ms: int, deadline_ms: int) -> TaskKind:
    """A kind for the wall clock."""
    edge = Option("edge", 10.0, 1.0, edge_ms * MS_NS, edge_ms * MS_NS, name="net")
    cloud = Option("cloud", 10.0, 2.0, edge_ms * MS_NS, server_ns=MS_NS)
    return TaskKind("live", deadline_ms * MS_NS, (edge, cloud))


@pytest.mark.parametrize("name", ["tercel", "dems_a", "edf_ec"])
def test_live_on_threads_a_policy_runs_a_stream_and_loses_nothing(name: str) -> None:
    kind = live_kind(4, 3000)
    outcomes: list[Outcome] = []
    threads: set[str] = set()

    def infer(model: str, payload: Any) -> Any:
        threads.add(threading.current_thread().name)
        assert model == "net"
        if payload == 5:
            raise Rejected("a bad frame")
        return payload * 2

    async def main() -> list[Outcome]:
        clock = WallClock()
        executor = LocalExecutor(infer, clock, lanes=2)
        remote: Remote = NoRemote()
        manager = Manager(make_policy(name, PolicyContext((kind,), 2)), clock, executor, remote, outcomes.append)
        try:
            waits = [manager.run(Task(n, kind, clock.now_ns, size_bytes=10, payload=n)) for n in range(40)]
            ended = await asyncio.gather(*waits)
            await manager.drain()
            await manager.close()
        finally:
            executor.close()
        return ended

    ended = asyncio.run(asyncio.wait_for(main(), 30))
    assert sorted(outcome.task.id for outcome in outcomes) == list(range(40))
    assert [outcome.task.id for outcome in ended] == list(range(40))
    done = [outcome for outcome in ended if outcome.on_time]
    assert len(done) >= 30
    assert all(outcome.outputs == 2 * outcome.task.id for outcome in done)
    assert ended[5].fate is Fate.DROPPED
    assert 1 <= len(threads) <= 2


def test_live_a_network_with_a_bug_ends_the_manager_with_its_error() -> None:
    kind = live_kind(1, 1000)

    def infer(model: str, payload: Any) -> Any:
        raise IndexError("a bug in the network's code")

    async def main() -> None:
        clock = WallClock()
        executor = LocalExecutor(infer, clock)
        manager = Manager(make_policy("edf", PolicyContext((kind,))), clock, executor)
        try:
            with pytest.raises(IndexError):
                await manager.run(Task(0, kind, clock.now_ns))
            with pytest.raises(IndexError):
                await manager.close()
        finally:
            executor.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_the_wall_clock_sleeps_to_the_point_and_never_goes_back() -> None:
    async def main() -> None:
        clock = WallClock()
        before_ns = clock.now_ns
        await clock.sleep_until_ns(before_ns - 1)
        for ahead_ns in (1, 1_000, 3 * MS_NS):
            until_ns = clock.now_ns + ahead_ns
            await clock.sleep_until_ns(until_ns)
            assert clock.now_ns >= until_ns
        assert clock.now_ns > before_ns

    asyncio.run(main())


def test_what_ends_the_keeper_of_a_connection_is_raised_and_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def opened(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a programmer's mistake")

    monkeypatch.setattr("offload.remote.open_connection", opened)

    async def main() -> None:
        async with RemoteExecutor("127.0.0.1:1", WallClock()):
            pass

    with pytest.raises(ZeroDivisionError):
        asyncio.run(asyncio.wait_for(main(), 5))
