from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.executors import Ran, TaskLost, TaskTooLate
from offload.manager import BROKEN, CLOSED, Manager
from offload.policies.policy import Decision, Drop, Start
from offload.tasks import Fate, Option, Outcome, Task
from tercel.core.errors import Rejected
from tests.unit.manager_bench import CLOUD, EDGE, MS_NS, SPLIT, Bench, Place, task_at

FOREIGN = Option("edge", 1.0, 0.0, 1, 1, name="of another kind")


@pytest.mark.parametrize(
    ("decide", "message"),
    [
        (lambda task: [Start(task, EDGE), Start(task, CLOUD)], "not waiting"),
        (lambda task: [Start(task, EDGE), Drop(task, "after all not")], "not waiting"),
        (lambda task: [Drop(task, "no"), Drop(task, "no")], "not waiting"),
        (lambda task: [Drop(task, "no"), Start(task, EDGE)], "not waiting"),
        (lambda _task: [Start(task_at(9), EDGE)], "not waiting"),
        (lambda task: [Start(task_at(task.id), EDGE)], "not waiting"),
        (lambda task: [Start(task, FOREIGN)], "in a way that kind does not have"),
    ],
)
def test_a_policy_that_misbehaves_is_a_value_error_and_no_task_is_lost(
    decide: Callable[[Task], Sequence[Decision]], message: str
) -> None:
    bench = Bench()

    async def main() -> None:
        bench.submit(0, CLOUD)
        bench.policy.replies["arrived"] = decide
        with pytest.raises(ValueError, match=message):
            bench.submit(1)
        with pytest.raises(ValueError, match=message):
            await bench.manager.drain()
        with pytest.raises(ValueError, match=message):
            bench.submit(2)
        with pytest.raises(ValueError, match=message):
            await bench.manager.close()

    bench.until(main())
    assert sorted(outcome.task.id for outcome in bench.outcomes) == [0, 1]
    assert bench.outcomes[-1].fate is Fate.DROPPED


@pytest.mark.parametrize("option", [CLOUD, SPLIT])
def test_a_policy_that_sends_to_a_cloud_that_is_not_there_is_a_value_error(option: Option) -> None:
    bench = Bench()
    manager = Manager(bench.policy, bench.clock, bench.edge, None, bench.outcomes.append)
    with pytest.raises(ValueError, match="not there"):
        manager.submit(task_at(0, payload=deque([option])))
    assert [outcome.reason for outcome in bench.outcomes] == [BROKEN]


@pytest.mark.parametrize(
    ("where", "event"),
    [("edge", None), ("remote", None)] + [(None, event) for event in ("returned", "lane_freed", "uploaded", "ended")],
)
def test_an_unexpected_error_reaches_all_who_wait_and_every_task_is_accounted_for(
    where: str | None, event: str | None
) -> None:
    """In an executor, or in the policy at any event, of which most come in tasks that nobody waits for."""
    bench = Bench()
    bench.remote.upload_ms, bench.remote.took_ms = 20, {None: 450, 0: 200}  # the others are still under way
    if where:
        getattr(bench, where).ends[0] = ZeroDivisionError("a bug")
    else:
        assert event is not None

        def fail(_task: Task) -> Sequence[Decision]:
            raise ZeroDivisionError("a bug")

        bench.policy.replies[event] = fail
        if event == "returned":
            bench.remote.ends[0] = TaskLost("refused")

    async def main() -> None:
        bench.submit(0, SPLIT, EDGE)
        bench.submit(1, CLOUD)
        other = asyncio.create_task(bench.manager.run(task_at(2, payload=deque([CLOUD]))))
        with pytest.raises(ZeroDivisionError):
            await bench.manager.drain()
        with pytest.raises(ZeroDivisionError):
            await other
        with pytest.raises(ZeroDivisionError):
            await bench.manager.run(task_at(3))
        with pytest.raises(ZeroDivisionError):
            await bench.manager.close()

    bench.until(main())
    assert sorted(outcome.task.id for outcome in bench.outcomes) == [0, 1, 2]
    assert bench.manager.open_tasks == 0
    assert bench.outcomes[-1].reason == BROKEN


def test_an_error_of_the_policy_at_an_upload_does_not_reach_the_connections_reader() -> None:
    bench = Bench()

    async def main() -> None:
        def fail(_task: Task) -> Sequence[Decision]:
            raise ZeroDivisionError("a bug")

        bench.policy.replies["uploaded"] = fail
        task = bench.submit(0, CLOUD)
        bench.remote.on_upload(task)
        with pytest.raises(ZeroDivisionError):
            await bench.manager.drain()

    bench.until(main())


def test_an_error_of_the_outcomes_listener_is_not_lost_and_the_others_are_still_told() -> None:
    bench = Bench()
    seen: list[int] = []

    def listen(outcome: Outcome) -> None:
        seen.append(outcome.task.id)
        if outcome.task.id == 0:
            raise ZeroDivisionError("a bug in the listener")

    manager = Manager(bench.policy, bench.clock, bench.edge, bench.remote, listen)

    async def main() -> None:
        for number in range(3):
            manager.submit(task_at(number, payload=deque([EDGE])))
        with pytest.raises(ZeroDivisionError):
            await manager.drain()
        with pytest.raises(ZeroDivisionError):
            await manager.close()

    bench.until(main())
    assert seen == [0, 1, 2]


def test_a_run_that_its_executor_cancels_is_an_error_and_no_hang() -> None:
    bench = Bench()
    bench.edge.ends[0] = asyncio.CancelledError()
    with pytest.raises(RuntimeError, match="executor cancelled"):
        bench.run((0, (EDGE,)))
    assert [outcome.reason for outcome in bench.outcomes] == [BROKEN]


# --- closing


@pytest.mark.parametrize("at_ms", [0, 10, 30, 60, 120, 150, 250, 290])
def test_closing_at_any_time_ends_every_task_once_and_cancels_what_runs(at_ms: int) -> None:
    bench = Bench()
    bench.remote.upload_ms = 50
    bench.remote.ends[1] = TaskLost("refused")
    bench.policy.wake_ns = 200 * MS_NS

    async def main() -> None:
        for number, options in enumerate([(EDGE,), (CLOUD, EDGE), (SPLIT,), (CLOUD,)]):
            bench.submit(number, *options)
        bench.policy.replies["arrived"] = lambda _task: ()
        waiter = asyncio.create_task(bench.manager.run(task_at(4)))
        await asyncio.sleep(0)
        await bench.clock.sleep_until_ns(at_ms * MS_NS)
        events = len(bench.policy.log)
        await bench.manager.close()
        assert len(bench.policy.log) == events, "a closed manager asks nobody"
        assert (await waiter).reason == CLOSED
        await bench.manager.drain()
        await bench.manager.close()
        with pytest.raises(ValueError, match="closed"):
            bench.submit(9, EDGE)

    bench.until(main())
    assert sorted(outcome.task.id for outcome in bench.outcomes) == [0, 1, 2, 3, 4]
    closed = {outcome.task.id for outcome in bench.outcomes if outcome.reason == CLOSED}
    assert set(bench.edge.cancelled + bench.remote.cancelled) <= closed
    assert all(outcome.ended_ns == at_ms * MS_NS for outcome in bench.outcomes if outcome.task.id in closed)


def test_a_run_that_ends_while_the_manager_closes_counts_as_it_ended() -> None:
    class Stubborn(Place):
        async def run(self, task: Task, option: Option, payload: Any) -> Ran:
            try:
                return await super().run(task, option, payload)
            except asyncio.CancelledError:
                return Ran("done all the same")

    bench = Bench()
    manager = Manager(bench.policy, bench.clock, Stubborn(bench.clock), bench.remote, bench.outcomes.append)

    async def main() -> None:
        manager.submit(task_at(0, payload=deque([EDGE])))
        manager.submit(task_at(1, payload=deque([CLOUD])))
        await bench.clock.sleep_until_ns(20 * MS_NS)
        await manager.close()

    bench.until(main())
    assert [outcome.fate for outcome in bench.outcomes] == [Fate.DONE_EDGE, Fate.DROPPED]


def test_a_close_that_is_cancelled_can_be_called_again() -> None:
    class Slow(Place):
        async def run(self, task: Task, option: Option, payload: Any) -> Ran:
            try:
                return await super().run(task, option, payload)
            finally:
                await self.clock.sleep_until_ns(700 * MS_NS)

    bench = Bench()
    manager = Manager(bench.policy, bench.clock, Slow(bench.clock, 9999), bench.remote, bench.outcomes.append)

    async def main() -> None:
        manager.submit(task_at(0, payload=deque([EDGE])))
        await bench.clock.sleep_until_ns(20 * MS_NS)
        closing = asyncio.create_task(manager.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await manager.close()

    bench.until(main())
    assert [outcome.reason for outcome in bench.outcomes] == [CLOSED]


# --- any mixture


MIXTURES = st.lists(
    st.tuples(
        st.integers(0, 300),  # when it comes
        st.lists(st.sampled_from([EDGE, CLOUD, SPLIT]), max_size=3),
        st.integers(0, 700),  # how long each run takes
        st.sampled_from(["", "", "lost", "late", "unsent", "rejected"]),
        st.booleans(),  # whether somebody waits, and is cancelled
    ),
    max_size=12,
)


@given(mixture=MIXTURES, close_ms=st.none() | st.integers(0, 900))
@settings(max_examples=150, deadline=None)
def test_in_any_mixture_each_task_has_one_fate_and_lanes_are_freed_as_often_as_taken(
    mixture: list[tuple[int, list[Option], int, str, bool]], close_ms: int | None
) -> None:
    bench = Bench()
    errors: dict[str, BaseException] = {
        "lost": TaskLost("lost"), "late": TaskTooLate(), "unsent": TaskTooLate(sent=False), "rejected": Rejected("bad"),
    }  # fmt: skip
    taken: Counter[int] = Counter()
    began: set[int] = set()

    async def feed() -> None:
        for number, (at_ms, options, took_ms, how, waited_for) in sorted(enumerate(mixture), key=lambda m: m[1][0]):
            await bench.clock.sleep_until_ns(at_ms * MS_NS)
            bench.edge.took_ms[number] = bench.remote.took_ms[number] = took_ms
            if how:
                bench.remote.ends[number] = errors[how]
                if how == "rejected":
                    bench.edge.ends[number] = errors[how]
            task = task_at(number, at_ms, payload=deque(options))
            began.add(number)
            if waited_for:
                waiting = asyncio.create_task(bench.manager.run(task))
                await asyncio.sleep(0)
                waiting.cancel()
            else:
                bench.manager.submit(task)
            if close_ms is not None and bench.clock.now_ns >= close_ms * MS_NS:
                return

    async def main() -> None:
        await feed()
        if close_ms is None:
            await bench.manager.drain()
        else:
            await bench.clock.sleep_until_ns(close_ms * MS_NS)
            await bench.manager.close()

    bench.until(main())
    assert Counter(outcome.task.id for outcome in bench.outcomes) == Counter(began)
    for event, number in bench.policy.log:
        taken[number] += event == "lane_freed"
    for outcome in bench.outcomes:
        options = mixture[outcome.task.id][1]
        assert taken[outcome.task.id] <= sum(option.place != "cloud" for option in options)
        usual = 0.0 if outcome.option is None else outcome.task.utility(outcome.option)
        spent = 0.0 if outcome.option is None else -outcome.option.cost
        assert outcome.utility == {Fate.LATE: spent, Fate.DROPPED: 0.0}.get(outcome.fate, usual)
        assert outcome.reason or outcome.on_time
