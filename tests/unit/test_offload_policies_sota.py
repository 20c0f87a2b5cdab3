"""The two earlier policies that DEMS was compared with, on schedules worked out by hand.

Times are milliseconds; a kind's edge and cloud are (expected time, utility).
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from offload.policies.d3_kalmia import D3Kalmia
from offload.policies.dedas import Dedas
from offload.policies.edge_cloud import EdgeCloudPolicy
from offload.policies.policy import EXPIRED, NO_PLACE, PolicyContext
from offload.tasks import Task, TaskKind
from tests.unit.policy_driver import MS_NS, Driver, Log, decisions_at, make_kind, make_task

BUSY = make_kind("busy", 5000, edge=(450, 50))
URGENT = make_kind("urgent", 1000, (600, 90), (1200, 90))


def replay(policy: type[EdgeCloudPolicy], tasks: list[Task], **edge_ms: int) -> Log:
    """The log of a policy. edge_ms: how long tasks of a kind really take, where that is not as expected."""
    kinds = tuple(dict.fromkeys(task.kind for task in tasks))

    def edge_ns(task: Task) -> int:
        assert task.kind.edge is not None
        return edge_ms.get(task.kind.name, task.kind.edge.edge_ns // MS_NS) * MS_NS

    return Driver(policy(PolicyContext(kinds, 1, None)), edge_ns=edge_ns).run(tasks)


# --- SOTA1: D3 and Kalmia


def relaxed_behind(busy_ms: int, cloud_ms: int = 1200, **edge_ms: int) -> Log:
    """A task of 600 that should end by 1000, and may by 1100, behind one that is expected until busy_ms."""
    relaxed = make_kind("relaxed", 1000, (600, 10), (cloud_ms, 10))
    busy = make_kind("busy", 5000, edge=(busy_ms, 50))
    # Of four kinds, the two with the lower benefit are not urgent.
    others = [make_task(8, URGENT, 4000), make_task(9, make_kind("low", 1000, (1, 1)), 4000)]
    log = replay(D3Kalmia, [make_task(0, busy, 0), make_task(1, relaxed, 0), *others], **edge_ms)
    return [event for event in log if event[2] == 1]


def test_a_relaxed_task_that_is_late_in_both_places_is_given_a_tenth_more() -> None:
    assert relaxed_behind(400) == [(400, "edge", 1)]
    assert relaxed_behind(500) == [(500, "edge", 1), (1100, "late", 1)]
    assert relaxed_behind(500, relaxed=499) == [(500, "edge", 1)]  # faster than expected, and in time after all
    assert relaxed_behind(501) == [(0, NO_PLACE, 1)]


def test_the_cloud_comes_before_more_time_and_again_after_it() -> None:
    assert relaxed_behind(500, cloud_ms=1000) == [(0, "cloud", 1)]
    assert relaxed_behind(500, cloud_ms=1001) == [(500, "edge", 1), (1100, "late", 1)]
    assert relaxed_behind(501, cloud_ms=1100) == [(0, "cloud", 1), (1000, "late", 1)]
    assert relaxed_behind(501, cloud_ms=1101) == [(0, NO_PLACE, 1)]


def test_an_urgent_task_is_not_given_more_time() -> None:
    low = make_kind("low", 9000, (1, 1))
    log = replay(D3Kalmia, [make_task(0, BUSY, 0), make_task(1, URGENT, 0), make_task(2, low, 0)])
    assert log == [(0, "edge", 0), (0, NO_PLACE, 1), (450, "edge", 2)]


@pytest.mark.parametrize(
    ("names", "relaxed"), [("HV DEV MD BP CD DEO", {"DEV", "MD", "BP"}), ("HV DEV MD BP", {"MD", "BP"}), ("HV", set())]
)
def test_the_half_of_the_kinds_that_earns_less_is_not_urgent(names: str, relaxed: set[str]) -> None:
    benefits = {"HV": 125, "DEV": 100, "MD": 75, "BP": 40, "CD": 175, "DEO": 250}  # table 1 of DEMS
    kinds = tuple(make_kind(name, 1000, (100, benefits[name])) for name in names.split())
    assert {kind.name for kind in D3Kalmia(PolicyContext(kinds))._extension_ns} == relaxed


def test_the_first_to_come_is_the_first_to_run_and_the_cloud_is_used_at_any_cost() -> None:
    long, short = make_kind("long", 1000, (300, 5), (900, -5)), make_kind("short", 800, (50, 5), (700, -5))
    tasks = [make_task(0, BUSY, 0), make_task(1, long, 1), make_task(2, short, 2), make_task(3, long, 3)]
    assert replay(D3Kalmia, tasks) == [(0, "edge", 0), (3, "cloud", 3), (450, "edge", 1), (750, "edge", 2)]


def test_a_relaxed_task_is_not_started_once_its_deadline_has_passed() -> None:
    relaxed = make_kind("relaxed", 1000, (50, 10), (1200, 10))  # may end by 1100, and so start by 1050
    low = make_kind("low", 9000, (1, 1))
    tasks = [make_task(0, make_kind("busy", 5000, edge=(1000, 50)), 0), make_task(1, relaxed, 0), make_task(2, low, 0)]
    tasks.append(make_task(3, URGENT, 4000))
    log = replay(D3Kalmia, tasks)
    assert [what for _, what, number in log if number == 1] == [EXPIRED]


def test_a_relaxed_task_that_comes_after_its_deadline_is_not_started_anywhere() -> None:
    relaxed, low = make_kind("relaxed", 1000, (10, 10), (10, 10)), make_kind("low", 9000, (1, 1))
    for at_ms, expected in ((995, "edge"), (999, "edge"), (1000, NO_PLACE)):
        policy = D3Kalmia(PolicyContext((relaxed, low, URGENT, BUSY), 1, None))
        assert decisions_at(0, policy.arrived(at_ms * MS_NS, make_task(1, relaxed, 0))) == [(0, expected, 1)]


# --- SOTA2: Dedas


def test_a_shorter_task_takes_the_place_of_the_one_that_it_would_make_late() -> None:
    long, short = make_kind("long", 800, (300, 5), (600, -5)), make_kind("short", 700, (60, 5), (650, 5))
    tasks = [make_task(0, BUSY, 0), make_task(1, long, 0), make_task(2, short, 10)]
    # 450 + 60 + 300 > 800: the long one goes to the cloud, whatever it costs.
    assert replay(Dedas, tasks) == [(0, "edge", 0), (10, "cloud", 1), (450, "edge", 2)]


@pytest.mark.parametrize(("last_deadline_ms", "two"), [(1360, True), (1370, False)])
def test_a_task_that_would_make_two_late_goes_to_the_cloud(last_deadline_ms: int, two: bool) -> None:
    # Queued until 750, 1051 and 1353. The running task overruns: at 700, behind another 60, they would end at 1060, at
    # 1361 (late), and without that one at 1362 (late or not).
    first, second = make_kind("first", 1300, (300, 5), (1300, 5)), make_kind("second", 1051, (301, 5), (600, 5))
    last, new = make_kind("last", last_deadline_ms, (302, 5), (2000, 5)), make_kind("new", 700, (60, 5), (650, 5))
    tasks = [make_task(0, BUSY, 0), make_task(1, first, 0), make_task(2, second, 0), make_task(3, last, 0)]
    log = replay(Dedas, [*tasks, make_task(4, new, 700)], busy=740)
    if two:
        assert log == [
            (0, "edge", 0), (700, "cloud", 4), (740, "edge", 1), (750.000001, EXPIRED, 2), (1040, "edge", 3)
        ]  # fmt: skip
    else:
        assert log == [
            (0, "edge", 0), (700, NO_PLACE, 2), (740, "edge", 4), (800, "edge", 1), (1068.000001, EXPIRED, 3)
        ]  # fmt: skip


def test_one_that_makes_nobody_late_is_queued_whoever_it_is() -> None:
    long, short = make_kind("long", 900, (300, 5), (600, 5)), make_kind("short", 700, (60, 5), (650, 5))
    tasks = [make_task(0, BUSY, 0), make_task(1, long, 0), make_task(2, short, 10)]
    assert replay(Dedas, tasks) == [(0, "edge", 0), (450, "edge", 2), (510, "edge", 1)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 50), st.data())
def test_displacing_improves_the_mean_completion_time_exactly_if_the_displaced_task_is_longer(
    times: list[int], new: int, data: st.DataObject
) -> None:
    queue = sorted(times)
    displaced = data.draw(st.integers(0, len(queue) - 1))
    assume(queue[displaced] >= new)  # it stands behind the new one
    changed = sorted([*queue[:displaced], *queue[displaced + 1 :], new])

    def mean_completion(order: list[int]) -> float:
        return sum(sum(order[: n + 1]) for n in range(len(order))) / len(order)

    assert (mean_completion(changed) < mean_completion(queue)) == (queue[displaced] > new)


def test_a_task_as_long_as_the_one_it_would_displace_does_not_improve_the_mean_and_goes_to_the_cloud() -> None:
    def kinds(first_ms: int) -> tuple[TaskKind, TaskKind]:
        return make_kind("first", 760, (first_ms, 5), (600, 5)), make_kind("second", 800, (300, 5), (700, 5))

    for first_ms, sent in ((300, 1), (301, 0)):
        first, second = kinds(first_ms)
        # The second has the smaller id, so that at equal times it stands in front.
        tasks = [make_task(5, BUSY, 0), make_task(1, first, 0), make_task(0, second, 10)]
        log = replay(Dedas, tasks)
        assert ((10, "cloud", 1) in log) == (sent == 0)
        assert ((10, "cloud", 0) in log) == (sent == 1)
