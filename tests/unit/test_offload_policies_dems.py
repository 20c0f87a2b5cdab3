"""DEM, DEMS, DEMS-A and GEMS on schedules worked out by hand.

Times are milliseconds; a kind's edge and cloud are (expected time, utility).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from offload.policies.dem import Dem
from offload.policies.dems import Dems
from offload.policies.dems_a import CloudTimes, DemsA
from offload.policies.edge_cloud import EdgeCloudPolicy
from offload.policies.gems import Gems
from offload.policies.policy import EXPIRED, FAILED, NO_PLACE, NOT_WORTH, PolicyContext
from offload.tasks import Fate, Option, Outcome, Task, TaskKind
from tests.unit.policy_driver import MS_NS, Driver, Log, decisions_at, done_in_cloud, make_kind, make_task

BUSY = make_kind("busy", 5000, edge=(100, 5))


def context_of(*kinds: TaskKind, deviate: float | None = None, window_ms: int = 1000) -> PolicyContext:
    return PolicyContext(kinds, 1, deviate, window_ms * MS_NS)


def replay(
    policy: type[EdgeCloudPolicy],
    tasks: list[Task],
    *,
    deviate: float | None = None,
    lanes: int = 1,
    edge_ms: dict[int, int] | None = None,
    cloud_ns: Callable[[Task], int | None] | None = None,
) -> Log:
    """The log of a policy. edge_ms: how long tasks really take, by id, where that is not as expected."""
    kinds = tuple(dict.fromkeys(task.kind for task in tasks))

    def edge_ns(task: Task) -> int:
        expected_ns = 0 if task.kind.edge is None else task.kind.edge.edge_ns
        return (edge_ms or {}).get(task.id, 0) * MS_NS or expected_ns

    return Driver(
        policy(PolicyContext(kinds, lanes, deviate)), lanes=lanes, edge_ns=edge_ns, cloud_ns=cloud_ns
    ).run(tasks)  # fmt: skip


# --- DEM: migration


def migration(victim: TaskKind, new: TaskKind, victims: int = 1) -> Log:
    """Behind a task that runs until 100, victims are queued at 0 and a new task comes at 10."""
    tasks = [make_task(0, BUSY, 0), *(make_task(n + 1, victim, 0) for n in range(victims)), make_task(9, new, 10)]
    return replay(Dem, tasks)


VICTIM_LEAVES = [(10, "cloud", 1), (100, "edge", 9)]
NEW_LEAVES = [(10, "cloud", 9), (100, "edge", 1)]


def test_a_new_task_displaces_the_first_behind_it_if_that_one_scores_less() -> None:
    # The new one ends at 220 <= 260, the other then at 320 > 300, and loses 4 in the cloud where the new would lose 5.
    victim, new = make_kind("victim", 300, (100, 10), (120, 6)), make_kind("new", 250, (120, 10), (100, 5))
    assert migration(victim, new) == [(0, "edge", 0), (10, "cloud", 1), (100, "edge", 9)]


def test_a_new_task_goes_to_the_cloud_if_those_it_would_displace_score_as_much() -> None:
    victim, new = make_kind("victim", 300, (100, 10), (120, 6)), make_kind("new", 250, (120, 10), (100, 6))
    assert migration(victim, new) == [(0, "edge", 0), (10, "cloud", 9), (100, "edge", 1)]


@pytest.mark.parametrize(("cloud_ms", "displaced"), [(290, True), (291, False)])
def test_one_that_could_not_make_it_in_the_cloud_scores_what_it_earns_on_the_board(
    cloud_ms: int, displaced: bool
) -> None:
    victim, new = make_kind("victim", 300, (100, 10), (cloud_ms, 6)), make_kind("new", 250, (120, 10), (100, 5))
    assert migration(victim, new)[1:] == (VICTIM_LEAVES if displaced else NEW_LEAVES)


@pytest.mark.parametrize(("cloud_utility", "displaced"), [(1, True), (-1, False)])
def test_one_that_would_earn_nothing_in_the_cloud_scores_what_it_earns_on_the_board(
    cloud_utility: int, displaced: bool
) -> None:
    # Worth 3 on the board: 2 are lost where the cloud earns 1; 3, not 4, where it earns -1. The new one scores 3.
    victim = make_kind("victim", 300, (100, 3), (120, cloud_utility))
    new = make_kind("new", 250, (120, 10), (100, 7))
    assert migration(victim, new)[1:] == (VICTIM_LEAVES if displaced else NEW_LEAVES)


@pytest.mark.parametrize(("cloud_utility", "displaced"), [(1, True), (2, False)])
def test_the_scores_of_all_displaced_count_together(cloud_utility: int, displaced: bool) -> None:
    # Queued until 200 and 300; behind the new one both are late, and lose 4 each. It would lose 9, or 8.
    victim = make_kind("victim", 300, (100, 10), (120, 6))
    new = make_kind("new", 250, (150, 10), (100, cloud_utility))
    log = migration(victim, new, victims=2)
    if displaced:
        assert log == [(0, "edge", 0), (10, "cloud", 1), (10, "cloud", 2), (100, "edge", 9)]
    else:
        assert log == [(0, "edge", 0), (10, "cloud", 9), (100, "edge", 1), (200, "edge", 2)]


def test_those_behind_a_displaced_one_move_up_and_may_stay() -> None:
    victim, new = make_kind("victim", 300, (100, 10), (120, 6)), make_kind("new", 250, (120, 10), (100, 5))
    behind = make_kind("behind", 330, (100, 10), (200, 6))  # ends at 320 if the victim leaves, at 420 otherwise
    tasks = [make_task(0, BUSY, 0), make_task(1, victim, 0), make_task(2, behind, 0), make_task(9, new, 10)]
    assert replay(Dem, tasks) == [(0, "edge", 0), (10, "cloud", 1), (100, "edge", 9), (220, "edge", 2)]


def test_a_displaced_task_that_has_no_place_left_is_dropped_with_the_reason() -> None:
    victim, new = make_kind("victim", 300, (100, 1), (120, -6)), make_kind("new", 250, (120, 10), (100, 5))
    assert migration(victim, new) == [(0, "edge", 0), (10, NOT_WORTH, 1), (100, "edge", 9)]


# --- DEMS: the deferred queue and stealing


def test_a_task_for_the_cloud_starts_ten_milliseconds_before_its_last_moment() -> None:
    late = make_kind("late", 500, (450, 10), (200, 6))
    assert replay(Dems, [make_task(0, BUSY, 0), make_task(1, late, 0)]) == [(0, "edge", 0), (290, "cloud", 1)]


def test_one_that_comes_between_its_trigger_and_its_last_moment_starts_at_once() -> None:
    assert replay(Dems, [make_task(1, make_kind("k", 205, cloud=(200, 6)), 7)]) == [(7, "cloud", 1)]
    assert replay(Dems, [make_task(1, make_kind("k", 200, cloud=(200, 6)), 7)]) == [(7, "cloud", 1)]
    assert replay(Dems, [make_task(1, make_kind("k", 199, cloud=(200, 6)), 7)]) == [(7, NO_PLACE, 1)]


def test_the_trigger_counts_with_the_quantile_where_one_is_asked_for() -> None:
    kind = make_kind("kind", 500, cloud=(200, 6), spread=0.1)
    assert kind.cloud is not None
    trigger_ms = 490 - kind.cloud.quantile_ns(1.645) / MS_NS
    assert 255 < trigger_ms < 260  # 16 to 18 % more than 200
    [(at_ms, what, _)] = replay(Dems, [make_task(0, kind, 0)], deviate=1.645)
    assert at_ms == pytest.approx(trigger_ms)
    assert what == "cloud"


def test_a_deferred_task_is_stolen_by_a_board_that_is_idle_before_its_trigger() -> None:
    late = make_kind("late", 500, (450, 10), (200, 6))
    tasks = [make_task(0, BUSY, 0), make_task(1, late, 0)]
    assert replay(Dems, tasks, edge_ms={0: 50}) == [(0, "edge", 0), (50, "edge", 1)]  # 50 + 450 <= 500
    assert replay(Dems, tasks, edge_ms={0: 51}) == [(0, "edge", 0), (290, "cloud", 1)]


@pytest.mark.parametrize(("queued_until_ms", "stolen"), [(310, True), (309, False)])
def test_a_task_is_stolen_only_if_nobody_in_the_queue_is_late_for_it(queued_until_ms: int, stolen: bool) -> None:
    # Free at 50; then 200 for the stolen one, and 60 for the queued one: 310.
    late, queued = make_kind("late", 299, (200, 10), (230, 6)), make_kind("queued", queued_until_ms, (60, 10))
    tasks = [make_task(0, BUSY, 0), make_task(1, late, 0), make_task(2, queued, 0)]
    if stolen:
        expected = [(0, "edge", 0), (50, "edge", 1), (250, "edge", 2)]
    else:
        expected = [(0, "edge", 0), (50, "edge", 2), (59, "cloud", 1)]
    assert replay(Dems, tasks, edge_ms={0: 50}) == expected


def test_the_highest_gain_per_time_is_stolen_first_whatever_comes_first_in_the_queue() -> None:
    # Gains 4 in 50 (0.08), 9 in 100 (0.09), 10 in 200 (0.05); triggers at 690, 700 and 710.
    spent = [(50, 4, 500), (100, 9, 490), (200, 10, 480)]
    kinds = [make_kind(f"k{n}", 1200, (edge, 20), (cloud, 20 - gain)) for n, (edge, gain, cloud) in enumerate(spent)]
    full = make_kind("full", 1200, (1190, 10))
    tasks = [make_task(0, full, 0), *(make_task(n, kind, 0) for n, kind in enumerate(kinds, 1))]
    log = replay(Dems, tasks, edge_ms={0: 100})
    assert log == [(0, "edge", 0), (100, "edge", 2), (200, "edge", 1), (250, "edge", 3)]


def test_what_the_cloud_would_not_pay_for_is_stolen_first_even_at_a_lower_rank() -> None:
    unpaid = make_kind("unpaid", 1200, (400, 1), (300, -1))  # 0.005
    paid = make_kind("paid", 1200, (50, 20), (500, 1))  # 0.38
    full = make_kind("full", 1200, (1190, 10))
    tasks = [make_task(0, full, 0), make_task(1, paid, 0), make_task(2, unpaid, 0)]
    assert replay(Dems, tasks, edge_ms={0: 100}) == [(0, "edge", 0), (100, "edge", 2), (500, "edge", 1)]


@pytest.mark.parametrize(("cloud", "reason"), [((300, -1.0), NOT_WORTH), ((300, 0.0), NOT_WORTH), (None, NO_PLACE)])
def test_what_the_cloud_would_not_pay_for_waits_to_be_stolen_and_is_dropped_before_its_last_moment(
    cloud: tuple[int, float] | None, reason: str
) -> None:
    full, unpaid = make_kind("full", 1200, (1190, 10)), make_kind("unpaid", 1200, (400, 1), cloud)
    tasks = [make_task(0, full, 0), make_task(1, unpaid, 0)]
    assert replay(Dems, tasks, edge_ms={0: 791}) == [(0, "edge", 0), (790, reason, 1)]
    assert replay(Dems, tasks, edge_ms={0: 789}) == [(0, "edge", 0), (789, "edge", 1)]


def test_a_trigger_that_is_met_too_late_is_a_counted_drop() -> None:
    kind = make_kind("kind", 500, cloud=(200, 6))
    policy = Dems(context_of(kind))
    policy.arrived(0, make_task(0, kind, 0))
    assert policy.wake_ns == 290 * MS_NS
    assert decisions_at(301, policy.woken(301 * MS_NS)) == [(301, EXPIRED, 0)]
    assert policy.wake_ns is None


def test_a_displaced_task_waits_for_its_trigger_and_may_come_back() -> None:
    victim, new = make_kind("victim", 300, (100, 10), (120, 6)), make_kind("new", 250, (120, 10), (100, 5))
    tasks = [make_task(0, BUSY, 0), make_task(1, victim, 0), make_task(9, new, 10)]
    assert replay(Dems, tasks) == [(0, "edge", 0), (100, "edge", 9), (170, "cloud", 1)]
    assert replay(Dems, tasks, edge_ms={9: 50}) == [(0, "edge", 0), (100, "edge", 9), (150, "edge", 1)]


def test_what_the_cloud_lost_never_goes_there_again() -> None:
    # Lost at 10 and queued until 200. The new one ends at 380 <= 385 and displaces it; 20 + 380 <= 400, and still it
    # only waits to be stolen, until 400 - 100 - 10.
    kind, new = make_kind("kind", 400, (100, 1), (380, 6)), make_kind("new", 365, (280, 20), (700, 5))
    tasks = [make_task(0, BUSY, 0), make_task(2, new, 20)]
    policy = Dems(context_of(BUSY, kind, new))
    policy.arrived(0, tasks[0])
    lost = make_task(1, kind, 0)
    assert kind.cloud is not None
    assert policy.returned(10 * MS_NS, lost, kind.cloud, "refused") == []
    assert policy.arrived(20 * MS_NS, tasks[1]) == []
    assert decisions_at(100, policy.lane_freed(100 * MS_NS, tasks[0], 100 * MS_NS)) == [(100, "edge", 2)]
    assert policy.wake_ns == 290 * MS_NS
    assert decisions_at(290, policy.woken(290 * MS_NS)) == [(290, FAILED, 1)]


# --- DEMS-A: adaptation

CLOUD = Option("cloud", 110, 100, 200 * MS_NS)


def test_the_mean_of_ten_replaces_the_expected_time_when_it_differs_by_more_than_ten_milliseconds() -> None:
    times = CloudTimes(CLOUD, None)
    for took_ms in [210] * 10:
        times.add(took_ms * MS_NS)
    assert times.expected_ns == 200 * MS_NS
    times.add(220 * MS_NS)  # the first of the 210 goes: 211
    assert times.expected_ns == 211 * MS_NS
    times.add(310 * MS_NS)  # 221: ten away from 211
    assert times.expected_ns == 211 * MS_NS
    times.add(110 * MS_NS)  # 211
    times.add(110 * MS_NS)  # 201: ten away below
    assert times.expected_ns == 211 * MS_NS
    times.add(200 * MS_NS)  # 200
    assert times.expected_ns == 200 * MS_NS


def test_nine_results_change_nothing() -> None:
    times = CloudTimes(CLOUD, None)
    for _ in range(9):
        times.add(900 * MS_NS)
    assert times.expected_ns == 200 * MS_NS
    times.add(900 * MS_NS)
    assert times.expected_ns == 900 * MS_NS


def test_a_quantile_keeps_its_ratio_to_the_mean() -> None:
    option = Option("cloud", 110, 100, 200 * MS_NS, remote_spread=0.2)
    times = CloudTimes(option, 1.645)
    times.add(300 * MS_NS, times=10)
    assert times.expected_ns == pytest.approx(1.5 * option.quantile_ns(1.645), rel=1e-6)


def test_one_run_that_was_cut_off_counts_as_it_stands_and_more_in_a_row_as_twice() -> None:
    times = CloudTimes(CLOUD, None)
    times.add(200 * MS_NS, times=10)
    times.add_cut_off(210 * MS_NS)
    assert times.expected_ns == 200 * MS_NS
    times.add_cut_off(210 * MS_NS)  # (8 * 200 + 210 + 420) / 10
    assert times.expected_ns == 223 * MS_NS
    times.add(200 * MS_NS)
    times.add_cut_off(210 * MS_NS)  # (6 * 200 + 210 + 420 + 200 + 210) / 10 = 224
    assert times.expected_ns == 223 * MS_NS


KIND = make_kind("kind", 500, cloud=(200, 6))


def taught(took_ms: int) -> DemsA:
    """A policy that has seen ten results of that time."""
    policy = DemsA(context_of(KIND))
    for number in range(10):
        policy.ended(0, done_in_cloud(make_task(number, KIND, -took_ms), took_ms))
    return policy


def test_the_trigger_follows_what_the_cloud_takes() -> None:
    policy = taught(300)
    policy.arrived(0, make_task(50, KIND, 0))
    assert policy.wake_ns == 190 * MS_NS
    assert decisions_at(190, policy.woken(190 * MS_NS)) == [(190, "cloud", 50)]


def test_after_ten_seconds_of_cooling_one_probe_is_judged_by_the_time_that_was_expected_first() -> None:
    policy = taught(600)
    for at_ms in (0, 5_000, 10_000):
        task = make_task(at_ms + 100, KIND, at_ms)
        assert decisions_at(at_ms, policy.arrived(at_ms * MS_NS, task)) == [(at_ms, NO_PLACE, task.id)]
    assert policy.arrived(10_001 * MS_NS, make_task(1, KIND, 10_001)) == []
    assert policy.wake_ns == (10_001 + 290) * MS_NS
    # The next begins to cool again: no second probe before 20,003.
    assert decisions_at(0, policy.arrived(10_002 * MS_NS, make_task(2, KIND, 10_002))) == [(0, NO_PLACE, 2)]
    assert decisions_at(0, policy.woken(10_291 * MS_NS)) == [(0, "cloud", 1)]
    assert decisions_at(0, policy.arrived(20_002 * MS_NS, make_task(3, KIND, 20_002))) == [(0, NO_PLACE, 3)]
    assert policy.arrived(20_003 * MS_NS, make_task(4, KIND, 20_003)) == []


def test_a_probe_in_time_ends_the_cooling_and_is_all_that_is_known() -> None:
    policy = taught(600)
    policy.arrived(0, make_task(100, KIND, 0))
    probe = make_task(101, KIND, 10_001)
    policy.arrived(probe.created_ns, probe)
    policy.arrived(10_010 * MS_NS, make_task(102, KIND, 10_010))  # cools again
    policy.woken(10_291 * MS_NS)
    policy.ended(10_491 * MS_NS, done_in_cloud(probe, 250))
    assert not policy._probes
    assert policy.arrived(10_500 * MS_NS, make_task(103, KIND, 10_500)) == []
    assert policy.wake_ns == (10_500 + 500 - 250 - 10) * MS_NS


def test_a_probe_that_was_late_leaves_the_kind_to_cool_again() -> None:
    policy = taught(600)
    policy.arrived(0, make_task(100, KIND, 0))
    probe = make_task(101, KIND, 10_001)
    policy.arrived(probe.created_ns, probe)
    policy.woken(10_291 * MS_NS)
    policy.ended(10_501 * MS_NS, done_in_cloud(probe, 500, on_time=False))
    for at_ms, reason in ((10_600, NO_PLACE), (20_600, NO_PLACE)):
        task = make_task(at_ms, KIND, at_ms)
        assert decisions_at(at_ms, policy.arrived(at_ms * MS_NS, task)) == [(at_ms, reason, task.id)]
    assert policy.arrived(20_601 * MS_NS, make_task(1, KIND, 20_601)) == []


def test_any_result_in_time_ends_cooling_so_that_the_next_infeasible_task_begins_it_anew() -> None:
    policy = taught(600)
    policy.arrived(0, make_task(100, KIND, 0))
    policy.ended(9_000 * MS_NS, done_in_cloud(make_task(101, KIND, 8_400), 600))
    for at_ms in (10_001, 20_001):  # cools from 10,001
        task = make_task(at_ms, KIND, at_ms)
        assert decisions_at(at_ms, policy.arrived(at_ms * MS_NS, task)) == [(at_ms, NO_PLACE, task.id)]
    assert policy.arrived(20_002 * MS_NS, make_task(1, KIND, 20_002)) == []


def test_a_cloud_that_slows_down_is_followed_by_earlier_triggers_until_results_are_in_time() -> None:
    kind = make_kind("kind", 1000, cloud=(200, 6))
    tasks = [make_task(n, kind, 2000 * n) for n in range(40)]

    def late_share(policy: type[EdgeCloudPolicy]) -> float:
        log = replay(policy, tasks, cloud_ns=lambda task: 400 * MS_NS)
        return sum(what == "late" for _, what, _ in log) / len(tasks)

    assert late_share(Dems) == 1.0
    assert late_share(DemsA) < 0.5


# --- GEMS: windows

LONG = make_kind("long", 5000, edge=(500, 5))


def lagging_queue(kind: TaskKind) -> Gems:
    """A policy with a task of the kind in the queue, at 0."""
    policy = Gems(context_of(LONG, kind))
    policy.arrived(0, make_task(0, LONG, 0))
    assert policy.arrived(0, make_task(1, kind, 0)) == []
    return policy


def dropped(number: int, kind: TaskKind, at_ms: int) -> Outcome:
    return Outcome(make_task(number, kind, at_ms), Fate.DROPPED, at_ms * MS_NS, NO_PLACE)


def test_what_a_lagging_kind_has_queued_goes_to_the_cloud_at_once() -> None:
    kind = make_kind("kind", 900, (100, 10), (200, 6))
    policy = lagging_queue(kind)
    assert decisions_at(10, policy.ended(10 * MS_NS, dropped(2, kind, 10))) == [(10, "cloud", 1)]
    # Also what comes later, if no lane is free for it; others stay.
    assert decisions_at(20, policy.arrived(20 * MS_NS, make_task(3, kind, 20))) == [(20, "cloud", 3)]
    assert policy.arrived(20 * MS_NS, make_task(4, LONG, 20)) == []


@pytest.mark.parametrize("cloud", [(891, 6.0), (200, 0.0), (200, -1.0), None])
def test_a_lagging_kind_stays_if_it_is_not_in_time_in_the_cloud_or_earns_nothing(
    cloud: tuple[int, float] | None,
) -> None:
    kind = make_kind("kind", 900, (100, 10), cloud)
    assert lagging_queue(kind).ended(10 * MS_NS, dropped(2, kind, 10)) == []


def test_a_kind_lags_below_its_target_and_not_at_it() -> None:
    kind = make_kind("kind", 900, (100, 10), (200, 6), qoe_target=0.75)
    policy = lagging_queue(kind)
    for number in range(3):
        assert policy.ended(10 * MS_NS, done_in_cloud(make_task(10 + number, kind, 1), 9)) == []
    assert policy.ended(11 * MS_NS, dropped(20, kind, 11)) == []  # 3 of 4
    assert decisions_at(12, policy.ended(12 * MS_NS, dropped(21, kind, 12))) == [(12, "cloud", 1)]


def test_a_kind_that_has_caught_up_stays_on_the_board() -> None:
    kind = make_kind("kind", 900, (100, 10), (200, 6), qoe_target=0.5)
    policy = lagging_queue(kind)
    assert decisions_at(10, policy.ended(10 * MS_NS, dropped(2, kind, 10))) == [(10, "cloud", 1)]
    policy.ended(20 * MS_NS, done_in_cloud(make_task(3, kind, 1), 19))
    assert policy.arrived(30 * MS_NS, make_task(4, kind, 30)) == []


@pytest.mark.parametrize(("at_ms", "lags"), [(999, True), (1000, False), (1999, False)])
def test_a_new_window_begins_at_its_border_and_forgets(at_ms: int, lags: bool) -> None:
    kind = make_kind("kind", 9000, (100, 10), (200, 6))
    policy = Gems(context_of(LONG, kind))
    policy.arrived(900 * MS_NS, make_task(0, LONG, 900))
    policy.ended(910 * MS_NS, dropped(2, kind, 910))
    log = decisions_at(at_ms, policy.arrived(at_ms * MS_NS, make_task(1, kind, at_ms)))
    assert log == ([(at_ms, "cloud", 1)] if lags else [])


def test_a_new_window_counts_from_nothing() -> None:
    kind = make_kind("kind", 9000, (100, 10), (200, 6))
    policy = Gems(context_of(LONG, kind))
    policy.ended(990 * MS_NS, dropped(2, kind, 990))
    policy.arrived(1000 * MS_NS, make_task(0, LONG, 1000))
    policy.ended(1010 * MS_NS, done_in_cloud(make_task(3, kind, 1001), 9))  # one of one, not of two
    assert policy.arrived(1020 * MS_NS, make_task(1, kind, 1020)) == []


def test_a_task_counts_in_the_window_in_which_it_was_created() -> None:
    kind = make_kind("kind", 9000, (100, 10), (200, 6))
    policy = Gems(context_of(LONG, kind))
    policy.arrived(1000 * MS_NS, make_task(0, LONG, 1000))
    policy.arrived(1000 * MS_NS, make_task(1, kind, 1000))
    old = Outcome(make_task(2, kind, 999), Fate.DROPPED, 1001 * MS_NS, NO_PLACE)
    assert policy.ended(1001 * MS_NS, old) == []
    assert decisions_at(1002, policy.ended(1002 * MS_NS, dropped(3, kind, 1000))) == [(1002, "cloud", 1)]


def test_windows_are_counted_from_the_start_that_is_given() -> None:
    kind = make_kind("kind", 9000, (100, 10), (200, 6))
    for start_ms, lags in ((300, True), (301, False)):  # borders at 1300 or 1301; asked at 1300, dropped at 1299
        policy = Gems(PolicyContext((LONG, kind), 1, None, 1000 * MS_NS, start_ms * MS_NS))
        policy.arrived(1200 * MS_NS, make_task(0, LONG, 1200))
        policy.ended(1299 * MS_NS, dropped(2, kind, 1299))
        assert bool(policy.arrived(1300 * MS_NS, make_task(1, kind, 1300))) != lags


def test_gems_is_dems_where_nobody_lags() -> None:
    kinds = [make_kind("a", 600, (100, 10), (300, 6)), make_kind("b", 700, (150, 10), (200, 8))]
    tasks = [make_task(n, kinds[n % 2], 40 * n) for n in range(60)]
    gems, dems = replay(Gems, tasks), replay(Dems, tasks)
    assert gems == dems
    assert {"edge", "cloud"} <= {what for _, what, _ in gems}
