"""The plain policies and the frame they share, on schedules worked out by hand.

Times are milliseconds; a kind's edge and cloud are (expected time, utility).
"""

from __future__ import annotations

import pytest

from offload.policies import make_policy
from offload.policies.policy import EXPIRED, FAILED, NO_PLACE, NOT_WORTH, PolicyContext
from offload.tasks import Fate, Outcome, Task
from tercel.core.errors import UserError
from tests.unit.policy_driver import MS_NS, Driver, Log, decisions_at, make_kind, make_task


def replay(name: str, tasks: list[Task], *, lanes: int = 1, deviate: float | None = None, **results: object) -> Log:
    """The log of a policy by its name."""
    kinds = list(dict.fromkeys(task.kind for task in tasks))
    policy = make_policy(name, PolicyContext(tuple(kinds), lanes, deviate))
    return Driver(policy, lanes=lanes, **results).run(tasks)  # type: ignore[arg-type]


def test_a_task_is_queued_if_it_ends_at_its_deadline_and_goes_to_the_cloud_if_a_millisecond_later() -> None:
    def third(deadline_ms: int) -> Log:
        first = make_kind("first", 500, edge=(40, 5))
        last = make_kind("last", deadline_ms, edge=(40, 5), cloud=(50, 5))
        return replay("edf_ec", [make_task(0, first, 0), make_task(1, last, 0), make_task(2, last, 0)])

    assert third(120) == [(0, "edge", 0), (40, "edge", 1), (80, "edge", 2)]
    assert third(119) == [(0, "edge", 0), (0, "cloud", 2), (40, "edge", 1)]


def test_the_remaining_time_of_the_running_task_counts_and_is_none_once_it_is_overdue() -> None:
    long = make_kind("long", 2000, edge=(100, 5))
    short = make_kind("short", 100, edge=(50, 5), cloud=(60, 5))
    # At 49 the long one is expected to run 51 more: 51 + 50 > 100. At 50, 50 more; but it overruns, and 100 is the last
    # moment for the task of 50. At 140 nothing of it should be left.
    tasks = [make_task(0, long, 0), make_task(1, short, 49), make_task(2, short, 50), make_task(3, short, 140)]
    log = replay("edf_ec", tasks, edge_ns=lambda task: (150 if task.id == 0 else 50) * MS_NS)
    assert log == [(0, "edge", 0), (49, "cloud", 1), (100.000001, EXPIRED, 2), (150, "edge", 3)]


def test_earliest_deadline_first_compares_points_in_time_and_not_lengths() -> None:
    busy, patient = make_kind("busy", 900, edge=(150, 5)), make_kind("patient", 400, edge=(50, 5))
    hasty = make_kind("hasty", 350, edge=(50, 5))
    tasks = [make_task(0, busy, 0), make_task(1, patient, 0), make_task(2, hasty, 100)]  # due at 400 and at 450
    for name in ("edf", "edf_ec", "dem", "dems"):
        assert replay(name, tasks) == [(0, "edge", 0), (150, "edge", 1), (200, "edge", 2)], name


def test_each_board_only_policy_has_its_own_order() -> None:
    busy = make_kind("busy", 1000, edge=(100, 1))
    kinds = {1: (300, 120, 10.0), 2: (400, 110, 30.0), 3: (600, 90, 20.0)}  # deadline, time, utility
    tasks = [make_task(0, busy, 0)]
    tasks += [make_task(n, make_kind(f"k{n}", d, edge=(t, u)), 0) for n, (d, t, u) in kinds.items()]

    def order(name: str) -> list[int]:
        return [number for _, what, number in replay(name, tasks) if what == "edge"][1:]

    assert order("edf") == [1, 2, 3]
    assert order("sjf") == [3, 2]  # 90, then 110 until 300: the third cannot make 300 any more
    assert order("hpf") == [2, 3]


def test_highest_utility_first_weighs_the_benefit_with_the_task() -> None:
    busy, kind = make_kind("busy", 1000, edge=(100, 1)), make_kind("kind", 1000, edge=(50, 50))
    tasks = [make_task(0, busy, 0), make_task(1, kind, 0, weight=0.9), make_task(2, kind, 0)]
    assert [number for _, _, number in replay("hpf", tasks)] == [0, 2, 1]


def test_the_board_alone_drops_with_a_reason_what_it_can_no_longer_make() -> None:
    kind, elsewhere = make_kind("kind", 100, edge=(60, 5), cloud=(10, 5)), make_kind("elsewhere", 100, cloud=(10, 5))
    tasks = [make_task(0, kind, 0), make_task(1, kind, 10), make_task(2, elsewhere, 20)]
    for name in ("edf", "sjf", "hpf"):  # 50 is the last moment for the second, which arrived at 10
        assert replay(name, tasks) == [(0, "edge", 0), (20, NO_PLACE, 2), (50.000001, EXPIRED, 1)], name


def test_cloud_only_sends_what_is_in_time_and_pays_and_never_uses_the_board() -> None:
    pays, costs = make_kind("pays", 100, (1, 9), (100, 1)), make_kind("costs", 100, (1, 9), (50, 0))
    slow, near = make_kind("slow", 100, (1, 9), (101, 5)), make_kind("near", 100, (1, 9))
    tasks = [make_task(n, kind, 0) for n, kind in enumerate((pays, costs, slow, near, pays))]
    log = replay("cloud_only", tasks, cloud_ns=lambda task: None if task.id == 4 else MS_NS)
    assert log == [
        (0, "cloud", 0), (0, NOT_WORTH, 1), (0, NO_PLACE, 2), (0, NO_PLACE, 3), (0, "cloud", 4), (0, "lost", 4),
        (0, FAILED, 4),
    ]  # fmt: skip


def test_what_the_cloud_lost_runs_on_the_board_if_in_time_there_and_is_dropped_otherwise() -> None:
    busy = make_kind("busy", 900, edge=(100, 5))
    kind = make_kind("kind", 149, edge=(50, 5), cloud=(60, 5))  # 100 + 50 > 149

    def lost(after_ms: int, busy_ms: int) -> Log:
        tasks = [make_task(0, busy, 0), make_task(1, kind, 0)]
        return replay(
            "edf_ec",
            tasks,
            edge_ns=lambda task: (busy_ms if task.id == 0 else 50) * MS_NS,
            cloud_ns=lambda task: None,
            lost_after_ns=after_ms * MS_NS,
        )

    assert lost(30, 100) == [(0, "edge", 0), (0, "cloud", 1), (30, "lost", 1), (30, FAILED, 1)]
    assert lost(30, 20) == [(0, "edge", 0), (0, "cloud", 1), (30, "lost", 1), (30, "edge", 1)]


def test_two_lanes_are_filled_and_a_task_is_expected_on_the_one_that_is_free_first() -> None:
    long, short = make_kind("long", 900, edge=(100, 5)), make_kind("short", 100, edge=(30, 5), cloud=(40, 5))
    tasks = [make_task(0, long, 0), *(make_task(n, short, 1) for n in range(1, 6))]
    # Beside the long one, shorts end at 31, 61, 91 (due 101); the next would at 121; after 100, at 130.
    assert replay("edf_ec", tasks, lanes=2) == [
        (0, "edge", 0), (1, "edge", 1), (1, "cloud", 4), (1, "cloud", 5), (31, "edge", 2), (61, "edge", 3)
    ]  # fmt: skip


def test_expected_times_are_means_or_quantiles_of_both_places() -> None:
    kind = make_kind("kind", 110, edge=(100, 5), cloud=(100, 5), spread=0.1)
    assert kind.edge is not None
    assert 110 * MS_NS < kind.edge.quantile_ns(1.645) < 120 * MS_NS  # about 117
    assert replay("edf_ec", [make_task(0, kind, 0)]) == [(0, "edge", 0)]
    assert replay("edf_ec", [make_task(0, kind, 0)], deviate=1.645) == [(0, NO_PLACE, 0)]
    roomy = make_kind("roomy", 120, cloud=(100, 5), spread=0.1)
    assert replay("cloud_only", [make_task(0, roomy, 0)], deviate=1.645) == [(0, "cloud", 0)]


def test_one_that_can_no_longer_make_it_holds_nobody_up() -> None:
    busy, doomed = make_kind("busy", 900, edge=(50, 5)), make_kind("doomed", 120, edge=(60, 5))
    patient = make_kind("patient", 200, edge=(150, 5))
    policy = make_policy("edf_ec", PolicyContext((busy, doomed, patient), 1, None))
    first = make_task(0, busy, 0)
    policy.arrived(0, first)
    policy.arrived(0, make_task(1, doomed, 0))
    assert policy.wake_ns == 60 * MS_NS + 1
    # The first overruns and the policy is woken late: 61 + 150 <= 261, but not behind another 60.
    assert decisions_at(61, policy.arrived(61 * MS_NS, make_task(2, patient, 61))) == [(61, EXPIRED, 1)]
    assert decisions_at(70, policy.lane_freed(70 * MS_NS, first, 70 * MS_NS)) == [(70, "edge", 2)]


def test_a_lane_is_free_again_also_if_a_started_task_never_came_to_run() -> None:
    kind = make_kind("kind", 100, edge=(60, 5))
    policy = make_policy("edf", PolicyContext((kind,), 1, None))
    first = make_task(0, kind, 0)
    policy.arrived(0, first)
    policy.ended(MS_NS, Outcome(first, Fate.DROPPED, MS_NS, "started after its deadline"))
    assert decisions_at(2, policy.arrived(2 * MS_NS, make_task(1, kind, 2))) == [(2, "edge", 1)]


def test_an_unknown_policy_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(UserError, match="no policy 'dens': did you mean 'dem"):
        make_policy("dens", PolicyContext(()))


@pytest.mark.parametrize("name", ["edf_ec", "sjf_ec", "dem", "dems", "dems_a", "gems", "d3_kalmia", "dedas"])
def test_a_kind_may_know_one_place_only(name: str) -> None:
    here, there = make_kind("here", 100, edge=(60, 5)), make_kind("there", 100, cloud=(60, 5))
    log = replay(name, [make_task(0, here, 0), make_task(1, there, 0)])
    deferred = name in ("dems", "dems_a", "gems")
    assert log == [(0, "edge", 0), (30 if deferred else 0, "cloud", 1)]
