"""Another policy while tasks run and wait: every task ends once, no lane is taken twice, nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.executors import Ran, TaskLost, nothing_heard
from offload.manager import STARTED_LATE, Manager
from offload.models import OffloadedModels
from offload.policies import POLICIES, make_policy
from offload.policies.policy import PolicyContext
from offload.profiled import profiled_models
from offload.tasks import Fate, Option, Outcome, Task
from tercel.core.clock import VirtualClock, run_virtual
from tercel.core.errors import Rejected, UserError
from tests.unit.manager_bench import CLOUD, EDGE, KIND, MS_NS, SPLIT, Bench, Scripted, task_at
from tests.unit.test_offload_models import START_NS, Board, setup_of


def test_what_waits_goes_to_the_new_policy_once_the_board_is_free_and_what_runs_is_accounted_for() -> None:
    bench, new = Bench(), Scripted()

    async def main() -> None:
        bench.submit(0, EDGE)  # runs until 100 ms
        bench.policy.replies["arrived"] = lambda _task: ()
        waiting = bench.submit(1, CLOUD)
        await bench.clock.sleep_until_ns(40 * MS_NS)
        bench.manager.change_policy(new)
        assert new.log == []
        late = task_at(2, 50)
        late.payload = waiting.payload.copy()
        await bench.clock.sleep_until_ns(50 * MS_NS)
        bench.manager.submit(late)
        assert new.log == []  # the lane is still taken
        await bench.manager.drain()

    bench.until(main())
    assert new.log == [("arrived", 1), ("arrived", 2), ("ended", 1), ("ended", 2)]
    assert bench.policy.log == [("arrived", 0), ("arrived", 1)]
    ended = {outcome.task.id: (outcome.fate, outcome.ended_ns // MS_NS) for outcome in bench.outcomes}
    assert ended == {0: (Fate.DONE_EDGE, 100), 1: (Fate.DONE_CLOUD, 300), 2: (Fate.DONE_CLOUD, 300)}


def test_with_no_lane_taken_the_change_is_at_once_and_the_cloud_is_not_waited_for() -> None:
    bench, new = Bench(), Scripted()
    bench.remote.upload_ms = 150

    async def main() -> None:
        bench.submit(0, CLOUD)  # until 200 ms
        await bench.clock.sleep_until_ns(100 * MS_NS)
        bench.manager.change_policy(new)
        bench.submit(1, EDGE)
        assert new.log == [("arrived", 1)]
        await bench.manager.drain()

    bench.until(main())
    assert {o.task.id: o.fate for o in bench.outcomes} == {0: Fate.DONE_CLOUD, 1: Fate.DONE_EDGE}
    assert ("uploaded", 0) not in new.log + bench.policy.log
    assert ("ended", 0) not in new.log + bench.policy.log


def test_a_split_run_of_the_old_policy_frees_its_lane_after_its_head() -> None:
    bench, new = Bench(), Scripted()

    async def main() -> None:
        bench.submit(0, SPLIT)  # head until 100 ms, tail until 300 ms
        await asyncio.sleep(0)
        bench.manager.change_policy(new)
        bench.submit(1, EDGE)
        await bench.manager.drain()

    bench.until(main())
    assert {o.task.id: (o.fate, o.ended_ns // MS_NS) for o in bench.outcomes} == {
        0: (Fate.DONE_SPLIT, 300),
        1: (Fate.DONE_EDGE, 200),
    }


def test_a_task_that_the_cloud_loses_after_the_change_is_a_new_one_for_the_new_policy() -> None:
    bench, new = Bench(), Scripted()
    bench.remote.ends[0] = TaskLost("connection lost")

    async def main() -> None:
        bench.submit(0, CLOUD, EDGE)
        await bench.clock.sleep_until_ns(10 * MS_NS)
        bench.manager.change_policy(new)
        await bench.manager.drain()

    bench.until(main())
    assert new.log == [("arrived", 0), ("lane_freed", 0), ("ended", 0)]
    assert [(o.fate, o.ended_ns // MS_NS) for o in bench.outcomes] == [(Fate.DONE_EDGE, 300)]


def test_what_passes_its_deadline_while_the_lanes_are_handed_over_is_dropped_and_counted() -> None:
    bench, new = Bench(), Scripted()
    bench.edge.took_ms[0] = 450

    async def main() -> None:
        bench.submit(0, EDGE)
        await asyncio.sleep(0)
        bench.manager.change_policy(new)
        bench.manager.submit(Task(1, KIND, 0, deadline_ns=400 * MS_NS))
        await bench.manager.drain()

    bench.until(main())
    assert [(o.task.id, o.fate, o.reason) for o in bench.outcomes] == [
        (1, Fate.DROPPED, STARTED_LATE),
        (0, Fate.DONE_EDGE, ""),
    ]
    assert new.log == []


def test_a_change_from_within_an_outcome_and_a_second_one_lose_nothing() -> None:
    bench = Bench()
    policies = [Scripted(), Scripted()]

    def on_outcome(outcome: Outcome) -> None:
        bench.outcomes.append(outcome)
        if policies:
            bench.manager.change_policy(policies.pop())

    bench.manager = Manager(bench.policy, bench.clock, bench.edge, bench.remote, on_outcome)
    ended = bench.run((0, ()), (1, (EDGE,)), (2, (CLOUD,)), (3, (EDGE,)))
    assert [ended[n].fate for n in range(4)] == [Fate.DROPPED, Fate.DONE_EDGE, Fate.DONE_CLOUD, Fate.DONE_EDGE]


def test_a_policy_that_fails_at_the_change_ends_the_manager_with_its_error() -> None:
    bench, new = Bench(), Scripted()

    def fail(_task: Task) -> Any:
        raise RuntimeError("a bug")

    new.replies["arrived"] = fail

    async def main() -> None:
        bench.policy.replies["arrived"] = lambda _task: ()
        bench.submit(0)
        with pytest.raises(RuntimeError, match="a bug"):
            bench.manager.change_policy(new)
        with pytest.raises(RuntimeError, match="a bug"):
            bench.manager.change_policy(Scripted())

    bench.until(main())
    assert len(bench.outcomes) == 1
    assert bench.manager.open_tasks == 0


def test_a_closed_manager_takes_no_policy() -> None:
    bench = Bench()

    async def main() -> None:
        await bench.manager.close()
        with pytest.raises(ValueError, match="closed"):
            bench.manager.change_policy(Scripted())

    bench.until(main())


class Lanes:
    """The board, which counts how many tasks it runs at once, and a cloud that loses some."""

    def __init__(self, clock: VirtualClock, took_ms: dict[int, int], lost: frozenset[int] = frozenset()) -> None:
        self.clock, self.took_ms, self.lost = clock, took_ms, lost
        self.on_upload = nothing_heard
        self.running = self.most = 0

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.clock.sleep_until_ns(self.clock.now_ns + self.took_ms[task.id % len(self.took_ms)] * MS_NS)
        finally:
            self.running -= 1
        if task.id in self.lost:
            raise TaskLost("lost")
        return Ran(payload)


@given(
    names=st.lists(st.sampled_from(sorted(POLICIES)), min_size=2, max_size=5),
    times_ms=st.lists(st.integers(1, 600), min_size=3, max_size=3),
    gaps_ms=st.lists(st.sampled_from([0, 0, 20, 90, 300]), min_size=1, max_size=25),
    changes_ms=st.lists(st.integers(0, 1500), min_size=4, max_size=4),
    lanes=st.integers(1, 2),
    lost=st.frozensets(st.integers(0, 24)),
)
@settings(max_examples=60, deadline=None)
def test_under_any_policies_and_changes_every_task_ends_once_and_no_lane_is_taken_twice(
    names: list[str], times_ms: list[int], gaps_ms: list[int], changes_ms: list[int], lanes: int, lost: frozenset[int]
) -> None:
    clock = VirtualClock()
    edge = Lanes(clock, dict(enumerate(times_ms)))
    remote = Lanes(clock, dict(enumerate(reversed(times_ms))), lost)
    outcomes: list[Outcome] = []
    manager = Manager(make_policy(names[0], PolicyContext((KIND,), lanes)), clock, edge, remote, outcomes.append)

    async def arrive() -> None:
        at_ms = 0
        for number, gap_ms in enumerate(gaps_ms):
            at_ms += gap_ms
            await clock.sleep_until_ns(at_ms * MS_NS)
            manager.submit(Task(number, KIND, clock.now_ns))

    async def change() -> None:
        for name, at_ms in zip(names[1:], sorted(changes_ms), strict=False):
            await clock.sleep_until_ns(at_ms * MS_NS)
            manager.change_policy(make_policy(name, PolicyContext((KIND,), lanes, start_ns=clock.now_ns)))

    async def main() -> None:
        await asyncio.gather(arrive(), change())
        await manager.drain()
        await manager.close()

    run_virtual(main(), clock)
    assert Counter(outcome.task.id for outcome in outcomes) == Counter(range(len(gaps_ms)))
    assert edge.most <= lanes
    assert manager.open_tasks == 0


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_models_change_to_every_policy_in_flight_and_their_account_stays_whole(tmp_path: Path, name: str) -> None:
    clock = VirtualClock(START_NS)
    models: OffloadedModels = profiled_models(setup_of(tmp_path), clock, Board(), 0)
    ends: list[str] = []

    async def ask(number: int) -> None:
        try:
            await models.infer("a" if number % 2 else "b", np.array([number], np.float32))
            ends.append("answered")
        except Rejected as rejection:
            ends.append(str(rejection))

    async def main() -> None:
        asked = []
        for number in range(40):
            asked.append(asyncio.ensure_future(ask(number)))
            await clock.sleep_until_ns(clock.now_ns + 60 * MS_NS)
            if number == 20:
                models.set_policy(name)
        await asyncio.gather(*asked)
        await models.close()

    assert models.policy == "tercel"
    run_virtual(main(), clock)
    summary = models.account.summary()
    assert models.policy == name
    assert summary["tasks"] == len(ends) == 40
    assert sum(summary["fates"].values()) == 40
    assert ends.count("answered") == round(summary["completion"] * 40)
    assert ends.count("answered") > 10


def test_a_policy_that_there_is_not_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    models = profiled_models(setup_of(tmp_path), VirtualClock(START_NS), Board(), 0)
    with pytest.raises(UserError, match="did you mean 'dems_a'"):
        models.set_policy("demsa")
    assert models.policy == "tercel"
