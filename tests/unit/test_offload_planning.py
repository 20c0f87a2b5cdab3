from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.policies.planning import Job, Lane, plan


def ends_ns(jobs: list[Job] | tuple[Job, ...], free_ns: int) -> list[int] | None:
    """When each of a row of jobs ends; None if one is late."""
    ends = []
    for job in jobs:
        free_ns = max(free_ns, job.ready_ns) + job.took_ns
        if free_ns > job.due_ns:
            return None
        ends.append(free_ns)
    return ends


def best_gain(jobs: list[Job], free_ns: list[int]) -> float:
    """By trying every sequence of jobs, cut into rows for the lanes in every way."""
    best = 0.0
    tasks = sorted({job.id for job in jobs})
    ways = [[None, *[job for job in jobs if job.id == task]] for task in tasks]
    for chosen in itertools.product(*ways):
        some = [job for job in chosen if job is not None]
        gain = sum(job.gain for job in some)
        if gain > best and any(fits(list(row), free_ns) for row in itertools.permutations(some)):
            best = gain
    return best


def fits(row: list[Job], free_ns: list[int]) -> bool:
    """Whether a sequence can be cut into rows that are in time."""
    if not free_ns:
        return not row
    return any(
        ends_ns(row[:cut], free_ns[0]) is not None and fits(row[cut:], free_ns[1:]) for cut in range(len(row) + 1)
    )


def check(lanes: list[Lane], jobs: list[Job], free_ns: list[int]) -> float:
    """Every row is in time, no task is in twice, and only jobs that gain; the gain."""
    chosen = [job for lane in lanes for job in lane.jobs]
    assert len({job.id for job in chosen}) == len(chosen)
    assert all(job in jobs and job.gain > 0 for job in chosen)
    for lane, at_ns in zip(lanes, free_ns, strict=True):
        assert lane.ends_ns == [at_ns, *(ends_ns(lane.jobs, at_ns) or [])]
        check_latest(lane)
    return sum(job.gain for job in chosen)


def check_latest(lane: Lane) -> None:
    """latest_ns: a row begun then is in time, and one begun a nanosecond later is not."""
    for place in range(len(lane.jobs)):
        rest = [job._replace(ready_ns=0) for job in lane.jobs[place:]]
        assert ends_ns(rest, lane.latest_ns[place]) is not None
        assert ends_ns(rest, lane.latest_ns[place] + 1) is None
    assert len(lane.latest_ns) == len(lane.ends_ns) == len(lane.jobs) + 1


JOBS = st.lists(
    st.builds(
        lambda number, ready, spare, took, gain: Job(number, ready, ready + took + spare, took, float(gain)),
        st.integers(0, 5), st.sampled_from([0, 0, 3, 10]), st.integers(-2, 12), st.integers(1, 9), st.integers(-3, 20),
    ),
    max_size=6,
)  # fmt: skip


@given(jobs=JOBS, free_ns=st.lists(st.integers(0, 6), min_size=1, max_size=2).map(sorted))
@settings(max_examples=300, deadline=None)
def test_a_plan_is_in_time_takes_each_task_once_and_never_gains_more_than_the_best(
    jobs: list[Job], free_ns: list[int]
) -> None:
    assert check(plan(jobs, free_ns), jobs, free_ns) <= best_gain(jobs, free_ns)


@given(jobs=JOBS, free_ns=st.lists(st.integers(0, 6), min_size=1, max_size=2).map(sorted))
@settings(max_examples=100, deadline=None)
def test_a_plan_does_not_depend_on_the_order_of_different_jobs(jobs: list[Job], free_ns: list[int]) -> None:
    jobs = list({job[:4]: job for job in jobs}.values())

    def key(job: Job) -> tuple[float, int, int, int]:
        return -job.gain / (job.took_ns + max(0, job.ready_ns - free_ns[0])), job.due_ns, job.id, job.took_ns

    if len({key(job) for job in jobs}) == len(jobs):
        rows = [lane.jobs for lane in plan(jobs, free_ns)]
        assert [lane.jobs for lane in plan(reversed(jobs), free_ns)] == rows


@pytest.mark.parametrize("lanes", [1, 2])
def test_plans_gain_at_least_93_percent_of_the_best_on_average(lanes: int) -> None:
    chance = np.random.default_rng(lanes)
    gained = best = 0.0
    for _ in range(100):
        jobs = []
        for number in range(5):
            took, due = int(chance.integers(2, 10)), int(chance.integers(5, 20))
            jobs.append(Job(number, 0, due, took, chance.uniform(1, 10)))
            if chance.uniform() < 0.4:
                jobs.append(Job(number, 0, due, max(1, took // 2), 0.8 * jobs[-1].gain))
        free_ns = sorted(int(chance.integers(0, 5)) for _ in range(lanes))
        gained += check(plan(jobs, free_ns), jobs, free_ns)
        best += best_gain(jobs, free_ns)
    assert 0.93 * best <= gained <= best


def test_a_job_takes_the_place_of_neighbours_that_gain_less_together() -> None:
    small = [Job(number, 0, 12, 4, 2.0 + number) for number in range(3)]
    large = Job(9, 0, 12, 12, 9.5)
    assert plan([*small, large], [0])[0].jobs == [large]
    assert len(plan([*small, large._replace(gain=6.9)], [0])[0].jobs) == 3


def test_of_a_tasks_ways_the_better_one_is_taken_where_it_fits_and_the_quicker_where_not() -> None:
    quick, good = Job(1, 0, 20, 4, 8.0), Job(1, 0, 20, 10, 10.0)
    other = Job(2, 0, 12, 10, 9.0)
    assert plan([quick, good], [0])[0].jobs == [good]
    rows = plan([quick, good, other], [0])[0].jobs
    assert {job.id for job in rows} == {1, 2}
    assert sum(job.gain for job in rows) == best_gain([quick, good, other], [0])


def test_an_expected_job_keeps_its_place_free_only_if_it_gains_more() -> None:
    now, soon = Job(1, 0, 100, 50, 5.0), Job(-1, 20, 75, 50, 50.0)
    assert [job.id for job in plan([now, soon], [0])[0].jobs] == [-1]
    assert [job.id for job in plan([now, soon._replace(gain=4.0)], [0])[0].jobs] == [1]


def test_two_ways_that_are_worth_the_same_are_not_compared_by_what_the_caller_hangs_on_them() -> None:
    tags = [object(), object()]
    jobs = [Job(1, 0, 10, 5, 3.0, tag) for tag in tags]
    assert plan(jobs, [0])[0].jobs[0].tag is tags[0]


def test_nothing_to_plan_is_an_empty_row_for_each_lane() -> None:
    assert [lane.jobs for lane in plan([], [3, 4])] == [[], []]
