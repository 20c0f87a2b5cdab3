from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import pytest

from offload.executors import TaskLost, TaskTooLate
from offload.manager import BROKEN, MOST_RINGS, NEVER_SENT, STARTED_LATE, Manager
from offload.policies.policy import Decision, Drop, Start
from offload.tasks import Fate, Option, Outcome, Task
from tercel.core.errors import Rejected
from tests.unit.manager_bench import CLOUD, EDGE, KIND, MS_NS, SPLIT, Bench, Scripted, task_at


def test_each_way_to_run_a_task_ends_in_its_fate_with_its_utility_and_times() -> None:
    ended = Bench().run((0, (EDGE,)), (1, (CLOUD,)), (2, (SPLIT,)), (3, ()))
    assert [ended[n].fate for n in range(4)] == [Fate.DONE_EDGE, Fate.DONE_CLOUD, Fate.DONE_SPLIT, Fate.DROPPED]
    assert [ended[n].utility for n in range(4)] == [9.0, 6.0, 6.0, 0.0]
    assert [ended[n].ended_ns // MS_NS for n in range(4)] == [100, 200, 300, 0]
    split = ended[2].timing
    assert split is not None
    assert (split.edge_ns, split.server_ns, split.rtt_ns) == (100 * MS_NS, 7, 5)
    assert ended[3].reason == "nothing left"
    assert ended[3].option is None


def test_a_split_run_frees_its_lane_after_the_head_and_its_tail_gets_the_heads_outputs() -> None:
    bench = Bench()
    bench.run((0, (SPLIT,)))
    assert bench.policy.log == [("arrived", 0), ("lane_freed", 0), ("ended", 0)]
    assert bench.remote.payloads == {0: "outputs 0"}


def test_a_result_at_the_deadline_is_in_time_and_one_a_nanosecond_after_it_late_and_costs() -> None:
    bench = Bench()
    bench.edge.took_ms = {None: 500}
    assert bench.run((0, (EDGE,)))[0].fate is Fate.DONE_EDGE
    bench = Bench()

    async def main() -> None:
        task = Task(0, KIND, 0, deadline_ns=100 * MS_NS - 1, payload=deque([EDGE]))
        bench.manager.submit(task)
        await bench.manager.drain()

    bench.until(main())
    assert (bench.outcomes[0].fate, bench.outcomes[0].utility) == (Fate.LATE, -1.0)
    assert bench.outcomes[0].reason == "late on the board"


def test_a_task_that_the_far_side_refuses_goes_back_to_the_policy_and_may_run_on_the_board() -> None:
    bench = Bench()
    bench.remote.ends[0] = TaskLost("refused")
    ended = bench.run((0, (CLOUD, EDGE)), (1, (CLOUD,)))
    assert bench.policy.log[:3] == [("arrived", 0), ("arrived", 1), ("returned", 0)]
    assert [ended[n].fate for n in (0, 1)] == [Fate.DONE_EDGE, Fate.DONE_CLOUD]
    assert ended[0].ended_ns == 300 * MS_NS


def test_a_lost_tail_returns_the_task_after_its_lane_was_freed_once() -> None:
    bench = Bench()
    bench.remote.ends[0] = TaskLost("connection lost")
    ended = bench.run((0, (SPLIT, EDGE)))
    assert [event for event, _ in bench.policy.log] == ["arrived", "lane_freed", "returned", "lane_freed", "ended"]
    assert ended[0].fate is Fate.DONE_EDGE


@pytest.mark.parametrize(
    ("option", "sent", "fate", "utility", "reason"),
    [
        (CLOUD, True, Fate.LATE, -3.0, "late in the cloud"),
        (CLOUD, False, Fate.DROPPED, 0.0, NEVER_SENT),
        (SPLIT, True, Fate.LATE, -2.0, "late in the cloud"),
        (SPLIT, False, Fate.LATE, -2.0, "late in the cloud"),
    ],
)
def test_a_deadline_that_passes_costs_what_was_spent(
    option: Option, sent: bool, fate: Fate, utility: float, reason: str
) -> None:
    bench = Bench()
    bench.remote.ends[0] = TaskTooLate(sent=sent)
    outcome = bench.run((0, (option,)))[0]
    assert (outcome.fate, outcome.utility, outcome.reason) == (fate, utility, reason)
    assert outcome.timing is not None


@pytest.mark.parametrize("option", [EDGE, CLOUD, SPLIT])
@pytest.mark.parametrize("where", ["edge", "remote"])
def test_an_input_that_a_network_rejects_is_dropped_with_the_reason_and_leaves_the_lane_free(
    option: Option, where: str
) -> None:
    bench = Bench()
    getattr(bench, where).ends[0] = Rejected("empty image")
    ended = bench.run((0, (option,)))
    if (where, option.place) in (("edge", "cloud"), ("remote", "edge")):
        assert ended[0].on_time
    else:
        assert (ended[0].fate, ended[0].reason) == (Fate.DROPPED, "empty image")
    assert bench.policy.log.count(("lane_freed", 0)) == (option.place != "cloud")
    assert bench.policy.log[-1] == ("ended", 0)


def test_the_policy_hears_of_a_complete_upload_while_the_task_runs_and_not_after() -> None:
    bench = Bench()
    bench.remote.upload_ms = 30
    bench.run((0, (CLOUD,)))
    assert bench.policy.log == [("arrived", 0), ("uploaded", 0), ("ended", 0)]
    bench.remote.on_upload(bench.outcomes[0].task)
    bench.remote.on_upload(task_at(0))
    bench.remote.on_upload(task_at(77))
    assert len(bench.policy.log) == 3


def test_an_upload_of_a_task_whose_number_was_given_again_is_not_taken_for_the_new_ones() -> None:
    bench = Bench()

    async def main() -> None:
        old = bench.submit(0)
        bench.submit(0, CLOUD)
        bench.remote.on_upload(old)
        await bench.manager.drain()

    bench.until(main())
    assert ("uploaded", 0) not in bench.policy.log
    assert [outcome.fate for outcome in bench.outcomes] == [Fate.DROPPED, Fate.DONE_CLOUD]


def test_decisions_made_while_others_are_carried_out_come_after_them() -> None:
    bench = Bench()
    first, second, third = (task_at(number, payload=deque([EDGE])) for number in range(3))

    async def main() -> None:
        bench.policy.replies["arrived"] = lambda _task: ()
        bench.manager.submit(first)
        bench.manager.submit(second)
        # `third`'s arrival drops the first, at whose end the policy starts the third; the second was decided before it.
        bench.policy.replies["ended"] = lambda task: [Start(third, EDGE)] if task is first else []
        bench.policy.replies["arrived"] = lambda _task: [Drop(first, "no room"), Drop(second, "no room")]
        bench.manager.submit(third)
        await bench.manager.drain()

    bench.until(main())
    assert [outcome.task.id for outcome in bench.outcomes] == [0, 1, 2]
    assert bench.outcomes[2].fate is Fate.DONE_EDGE


def test_a_start_whose_deadline_came_meanwhile_is_a_drop_that_the_policy_is_told_of() -> None:
    bench = Bench()

    async def main() -> None:
        bench.policy.replies["arrived"] = lambda _task: ()
        task = bench.submit(0)
        await bench.clock.sleep_until_ns(500 * MS_NS)
        bench.policy.replies["arrived"] = lambda other: [Start(task, EDGE), Drop(other, "enough")]
        bench.submit(1, at_ms=500)
        await bench.manager.drain()

    bench.until(main())
    assert [(outcome.reason, outcome.utility) for outcome in bench.outcomes] == [(STARTED_LATE, 0.0), ("enough", 0.0)]
    assert bench.policy.log[-2:] == [("ended", 0), ("ended", 1)]


# --- waiting


def test_run_gives_the_outcome_to_whoever_waits_and_to_the_callback_once() -> None:
    bench = Bench()
    outcome = bench.until(bench.manager.run(task_at(3, payload=deque([CLOUD]))))
    assert outcome.fate is Fate.DONE_CLOUD
    assert bench.outcomes == [outcome]


def test_a_caller_that_is_cancelled_leaves_the_task_which_ends_and_is_counted_once() -> None:
    bench = Bench()

    async def main() -> None:
        waiting = asyncio.create_task(bench.manager.run(task_at(0, payload=deque([CLOUD]))))
        await bench.clock.sleep_until_ns(50 * MS_NS)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert bench.manager.open_tasks == 1
        assert not bench.remote.cancelled
        await bench.manager.drain()

    bench.until(main())
    assert [outcome.fate for outcome in bench.outcomes] == [Fate.DONE_CLOUD]


def test_a_number_that_is_still_open_is_refused_and_whoever_waits_for_the_first_still_gets_it() -> None:
    bench = Bench()

    async def main() -> Outcome:
        first = asyncio.create_task(bench.manager.run(task_at(0, payload=deque([EDGE]))))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="already here"):
            await bench.manager.run(task_at(0, payload=deque([EDGE])))
        with pytest.raises(ValueError, match="already here"):
            bench.submit(0, EDGE)
        return await first

    assert bench.until(main()).fate is Fate.DONE_EDGE
    assert len(bench.outcomes) == 1


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused_before_it_confuses_a_policy(weight: float) -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="weight"):
        bench.manager.submit(task_at(0, weight=weight))
    assert bench.manager.open_tasks == 0


# --- alarms


class Sleepy(Scripted):
    """Wants to be woken at each of these times, one after another."""

    def __init__(self, *wakes_ms: int | None) -> None:
        super().__init__()
        self._wakes = deque(wakes_ms)
        self._set()

    def _set(self) -> None:
        wake_ms = self._wakes.popleft() if self._wakes else None
        self.wake_ns = None if wake_ms is None else wake_ms * MS_NS

    def arrived(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """Each arrival asks for the next time."""
        self._set()
        return super().arrived(now_ns, task)

    def woken(self, now_ns: int) -> Sequence[Decision]:
        """Each alarm too."""
        super().woken(now_ns)
        self._set()
        return ()


@pytest.mark.parametrize(
    ("wakes_ms", "woken_ms"),
    [
        ((None, 50, 20, 80), [20, 80]),  # earlier than the one that was set; then later than that
        ((None, 20, 50), [50]),  # later than the one that was set: the earlier does not ring for nothing
        ((None, 20, None), []),  # no longer wanted
        ((None, 0, 0), [0, 0]),  # has come already
        ((None, None, 30, 30, 30), [30, 30, 30]),
    ],
)
def test_the_policy_is_woken_when_it_last_wanted_to_be(wakes_ms: tuple[int | None, ...], woken_ms: list[int]) -> None:
    bench = Bench()
    policy = Sleepy(*wakes_ms)
    manager = Manager(policy, bench.clock, bench.edge, bench.remote)

    async def main() -> None:
        manager.submit(task_at(0, payload=deque([EDGE])))
        await bench.clock.sleep_until_ns(10 * MS_NS)
        manager.submit(task_at(1, payload=deque([EDGE])))
        await bench.clock.sleep_until_ns(1000 * MS_NS)
        await manager.close()

    bench.until(main())
    assert [at for event, at in policy.log if event == "woken"] == woken_ms


def test_a_policy_that_wants_to_be_woken_for_ever_is_an_error_and_no_hang() -> None:
    bench = Bench()
    policy = Sleepy(*[0] * (MOST_RINGS + 10))
    manager = Manager(policy, bench.clock, bench.edge, bench.remote, bench.outcomes.append)

    async def main() -> None:
        manager.submit(task_at(0, payload=deque([EDGE])))
        await manager.drain()

    with pytest.raises(ValueError, match="again and again"):
        bench.until(main())
    assert [outcome.reason for outcome in bench.outcomes] == [BROKEN]
