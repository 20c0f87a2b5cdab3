from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload.bound import upper_bound
from offload.fleets import read_fleets
from offload.link import ConstantLink, TraceLink
from offload.policies.policy import Decision, PolicyContext, Start
from offload.policies.tercel import Tercel
from offload.scenario import SECOND_NS, Day, Slowdown, draw_day
from offload.simulator import FATES, Run, simulate
from offload.tasks import Fate, Option, Outcome, Task, TaskKind
from offload.traces import steps_trace
from tests.unit.policy_driver import MS_NS, Driver, make_kind, make_task

FLEETS = Path(__file__).resolve().parents[2] / "launch" / "fleets"
LATE, CLOUD = FATES.index(Fate.LATE), FATES.index(Fate.DONE_CLOUD)


def day_of(workload: str, duration_s: int, file: str = "dems.yaml", seed: int = 0) -> Day:
    """A shortened day of a workload on its own link."""
    read = read_fleets(FLEETS / file)[workload]
    return replace(read, fleet=replace(read.fleet, duration_ns=duration_s * SECOND_NS)).day(seed)


def by_second(day: Day, values: Any) -> list[float]:
    """Sums over the tasks that were created in each second."""
    seconds = day.created_ns // SECOND_NS
    return [float(total) for total in np.bincount(seconds, values, minlength=day.duration_ns // SECOND_NS)]


# --- quality


@pytest.mark.parametrize(("workload", "least"), [("2D-P", 0.97), ("4D-P", 0.97), ("2D-A", 0.94), ("4D-A", 0.94)])
def test_on_a_quiet_link_it_reaches_nearly_all_that_is_possible(workload: str, least: float) -> None:
    day = day_of(workload, 60)
    assert simulate(day, Tercel).utility.sum() >= least * upper_bound(day, schedule=False).utility


@pytest.mark.parametrize("workload", ["1D", "2D", "4D"])
def test_smaller_models_early_exits_and_split_points_are_used_and_gain(workload: str) -> None:
    day = day_of(workload, 60, "variants.yaml")
    run = simulate(day, Tercel)
    plain = tuple(replace(kind, options=tuple(o for o in (kind.edge, kind.cloud) if o)) for kind in day.kinds)
    assert run.utility.sum() > 1.1 * simulate(replace(day, kinds=plain), Tercel).utility.sum()
    used = Counter(day.kinds[kind].options[option].name for kind, option in zip(day.kind, run.option, strict=True))
    assert sum(count for name, count in used.items() if "split" in name) > 0
    assert sum(count for name, count in used.items() if name.endswith(("-n", "-s"))) > 0
    if workload == "1D":
        assert sum(count for name, count in used.items() if "exit" in name) > 0


def test_a_task_that_the_tracker_says_matters_less_gives_way_to_its_like() -> None:
    kind = make_kind("k", 150, edge=(100, 50))
    for light in range(2):
        tasks = [make_task(number, kind, 0, 0.8 if number == light else 1.0) for number in range(2)]
        assert [one.task.id for one in starts(Tercel(PolicyContext((kind,))), 0, tasks)] == [1 - light]


# --- faults


@pytest.mark.parametrize(("workload", "begin_s"), [("2D-A", 20), ("4D-P", 20), ("4D-A", 20), ("4D-P", 25)])
@pytest.mark.parametrize("outage_s", [10, 120])
def test_two_seconds_after_an_outage_the_link_is_in_use_again_and_meanwhile_little_is_paid(
    workload: str, begin_s: int, outage_s: int
) -> None:
    back_s = begin_s + outage_s
    day = day_of(workload, back_s + 12)
    edges_ns = [0, begin_s * SECOND_NS, back_s * SECOND_NS, 10_000 * SECOND_NS]
    link = TraceLink(steps_trace(edges_ns, [20_000_000, 0, 20_000_000]), 40 * MS_NS)
    run = simulate(replace(day, links=(link,)), Tercel)
    utility = by_second(day, run.utility)
    before = float(np.mean(utility[10:begin_s]))
    assert np.mean(utility[back_s + 2 : back_s + 7]) > 0.8 * before
    in_cloud = by_second(day, run.fate == CLOUD)
    assert sum(in_cloud[back_s + 2 : back_s + 4]) > 0
    never = simulate(replace(day, links=(ConstantLink(0, 40 * MS_NS),)), Tercel)
    least = float(np.mean(by_second(day, never.utility)[5:]))
    assert np.mean(utility[begin_s + 2 : back_s]) > 0.9 * least
    late = by_second(day, run.fate == LATE)
    assert np.mean(late[begin_s + 2 : back_s]) < 1.5


@pytest.mark.parametrize("workload", ["2D-A", "4D-P"])
def test_a_server_that_is_ten_times_slower_is_soon_not_paid_for_and_used_again_when_it_recovers(workload: str) -> None:
    day = day_of(workload, 60)
    slow = (day.created_ns >= 20 * SECOND_NS) & (day.created_ns < 40 * SECOND_NS)
    run = simulate(replace(day, server_factor=np.where(slow, 10, 1) * day.server_factor), Tercel)
    late, in_cloud = by_second(day, run.fate == LATE), by_second(day, run.fate == CLOUD)
    assert sum(late[20:22]) < 20
    assert max(late[22:40]) <= 2
    assert np.mean(in_cloud[42:50]) > 0.5 * np.mean(in_cloud[10:20])


@pytest.mark.parametrize("factor", [3, 10, 30])
def test_a_board_that_was_stuck_for_a_second_is_used_again(factor: float) -> None:
    day = replace(day_of("2D-P", 50), links=(ConstantLink(0, 40 * MS_NS),))
    run = simulate(replace(day, slowdowns=(Slowdown(20 * SECOND_NS, 21 * SECOND_NS, factor),)), Tercel)
    utility = by_second(day, run.utility)
    assert np.mean(utility[40:]) > 0.95 * np.mean(utility[10:20])


def test_after_a_storm_of_refusals_the_cloud_is_tried_again_and_the_board_works_all_the_while() -> None:
    kind = make_kind("k", 900, edge=(300, 60), cloud=(400, 40))
    tasks = [make_task(number, kind, 100 * number) for number in range(300)]
    stormy = range(100, 200)
    driver = Driver(
        Tercel(PolicyContext((kind,))), cloud_ns=lambda task: None if task.id in stormy else 400 * MS_NS
    )  # fmt: skip
    log = driver.run(tasks)
    lost_ms = [at for at, what, _ in log if what == "lost"]
    assert lost_ms
    in_second = Counter(int(at // 1000) for at in lost_ms)
    assert max(in_second.values()) <= 8
    assert max(count for second, count in in_second.items() if second > 11) <= 3, "then one at a time asks for it"
    done = [number for number, outcome in driver.outcomes.items() if outcome.fate is Fate.DONE_CLOUD]
    assert len([number for number in done if number < 100]) > 40
    assert min(number for number in done if number >= 200) <= 220
    storm = [outcome for outcome in driver.outcomes.values() if outcome.task.id in stormy]
    assert sum(outcome.fate is Fate.DONE_EDGE for outcome in storm) >= 30


def test_refused_tasks_are_never_sent_again_and_nothing_of_the_ended_is_kept() -> None:
    kind = make_kind("k", 900, edge=(300, 60), cloud=(400, 40))
    policy = Tercel(PolicyContext((kind,)))
    driver = Driver(policy, cloud_ns=lambda task: None if task.id % 3 == 0 else 700 * MS_NS, lost_after_ns=50 * MS_NS)
    log = driver.run([make_task(number, kind, 37 * number) for number in range(400)])
    sent = Counter(number for _, what, number in log if what == "cloud")
    assert max(sent.values()) == 1
    for kept in (policy._waiting, policy._running, policy._by_due, policy._by_worth, policy._expiries):
        assert not kept
    assert policy._remote.under_way == 0
    assert not policy._remote.link._flights
    assert policy._remote.link.backlog_bytes == 0


def test_a_start_that_came_too_late_gives_its_lane_to_the_next_at_once() -> None:
    kind = make_kind("k", 900, edge=(300, 60))
    policy = Tercel(PolicyContext((kind,)))
    tasks = [make_task(number, kind, 0) for number in range(2)]
    started = starts(policy, 0, tasks)
    assert len(started) == 1
    decisions = policy.ended(MS_NS, Outcome(started[0].task, Fate.DROPPED, MS_NS, "started late", started[0].option))
    assert [one.task for one in decisions if isinstance(one, Start)] == [t for t in tasks if t is not started[0].task]


def starts(policy: Tercel, now_ns: int, tasks: Sequence[Task]) -> list[Start]:
    """What is started of tasks that arrive at one instant."""
    for task in tasks:
        assert not policy.arrived(now_ns, task)
    assert policy.wake_ns == now_ns
    decisions: Sequence[Decision] = policy.woken(now_ns)
    return [one for one in decisions if isinstance(one, Start)]


def test_two_networks_that_are_alike_in_all_but_name_are_no_problem() -> None:
    edge = Option("edge", 60.0, 1.0, 100 * MS_NS, 100 * MS_NS, name="a")
    kind = TaskKind("k", 500 * MS_NS, (edge, replace(edge, name="b")))
    assert [one.option.name for one in starts(Tercel(PolicyContext((kind,))), 0, [Task(0, kind, 0)])] == ["a"]


@pytest.mark.parametrize("weight", [0.0, 1e-9, 1e9])
def test_weights_of_any_size_are_survived(weight: float) -> None:
    day = day_of("2D-A", 5)
    driver = Driver(Tercel(PolicyContext(day.kinds)))
    tasks = [Task(task.id, task.kind, task.created_ns, weight=weight) for task in day.tasks()]
    driver.run(tasks)
    assert len(driver.outcomes) == len(tasks)


def test_bonuses_buy_windows_with_utility() -> None:
    day = day_of("4D-A", 60)

    def windows_met(run: Run) -> int:
        done = (run.fate != LATE) & (run.fate != FATES.index(Fate.DROPPED))
        keys = day.kind * 10 + day.created_ns // day.window_ns
        return sum(done[keys == key].mean() >= 0.9 for key in np.unique(keys))

    plain, dear = (simulate(day, partial(Tercel, qoe_weight=weight)) for weight in (0.0, 3.0))
    assert windows_met(dear) >= windows_met(plain)
    assert dear.utility.sum() <= 1.02 * plain.utility.sum()


def test_drones_in_thousands_are_survived_and_decisions_stay_cheap() -> None:
    fleet = replace(read_fleets(FLEETS / "dems.yaml")["2D-P"].fleet, drones=1000, drones_per_box=1000)
    day = draw_day(replace(fleet, duration_ns=2 * SECOND_NS), [ConstantLink(20_000_000, 40 * MS_NS)], 0)
    run = simulate(day, Tercel)
    assert len(run.fate) == 8000
    assert (run.fate != LATE).mean() > 0.99
