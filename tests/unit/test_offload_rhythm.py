"""What is expected of sources, and what a kind's bonus makes a task worth: both are kept in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from offload.policies.qoe import Windows
from offload.policies.rhythm import FORGOTTEN_NS, MOST_SOURCES, Rhythm
from offload.tasks import Option, Task, TaskKind

MS_NS = 1_000_000
SECOND_NS = 1_000_000_000

KIND = TaskKind("kind", 500 * MS_NS, (Option("edge", 10.0, 1.0, MS_NS, MS_NS),), qoe_bonus=100.0, qoe_target=0.9)
OTHER = TaskKind("other", 500 * MS_NS, KIND.options, qoe_bonus=0.0)


def hear(rhythm: Rhythm, times_ms: list[int], source: int = 0) -> None:
    """Tasks of a source at these times."""
    for number, at_ms in enumerate(times_ms):
        rhythm.arrived(Task(number, KIND, at_ms * MS_NS, source=source, size_bytes=number))


def expected_ms(rhythm: Rhythm, now_ms: int, ahead_ms: int = 2000) -> list[tuple[int, int]]:
    """(when, source)."""
    expected = rhythm.expected(now_ms * MS_NS, (now_ms + ahead_ms) * MS_NS)
    return [(one.at_ns // MS_NS, one.source) for one in expected]


def test_two_gaps_that_agree_make_a_period_and_one_does_not() -> None:
    rhythm = Rhythm()
    hear(rhythm, [0, 1000])
    assert expected_ms(rhythm, 1000) == []
    hear(rhythm, [2000])
    assert expected_ms(rhythm, 2000) == [(3000, 0)]
    assert expected_ms(rhythm, 3000) == []
    assert expected_ms(rhythm, 2000, 999) == []


def test_a_source_that_trembles_is_expected_about_when_it_comes() -> None:
    chance = np.random.default_rng(0)
    rhythm = Rhythm()
    misses = []
    for number in range(200):
        at_ms = 1000 * number + int(chance.integers(-40, 41))
        guess = expected_ms(rhythm, at_ms - 500, 1000)
        if number > 3:
            assert len(guess) == 1
            misses.append(abs(guess[0][0] - at_ms))
        hear(rhythm, [at_ms])
    assert max(misses) <= 160
    assert sorted(misses)[100] <= 40


def test_lost_tasks_do_not_break_a_period_and_a_doubled_one_is_one() -> None:
    rhythm = Rhythm()
    hear(rhythm, [0, 1000, 2000, 4000])
    assert expected_ms(rhythm, 4000) == [(5000, 0)]
    hear(rhythm, [8000, 8000, 8010])
    assert expected_ms(rhythm, 8010) == [(9000, 0)]
    hear(rhythm, [13_000])
    assert expected_ms(rhythm, 13_000) == [], "five periods of silence: it must be learnt anew"
    hear(rhythm, [14_000, 15_000])
    assert expected_ms(rhythm, 15_000) == [(16_000, 0)]


def test_a_source_that_changes_its_pace_is_followed() -> None:
    rhythm = Rhythm()
    hear(rhythm, [0, 1000, 2000, *range(2030, 2400, 30)])
    assert expected_ms(rhythm, 2390, 100) == [(2420, 0)]


def test_a_source_without_a_period_is_not_expected() -> None:
    rhythm = Rhythm()
    hear(rhythm, [0, 100, 1000, 1300, 5000, 5050, 7000])
    assert expected_ms(rhythm, 7000, 60_000) == []


def test_a_stamp_from_the_past_is_survived() -> None:
    rhythm = Rhythm()
    hear(rhythm, [5000, 6000, 7000, 100, 8000, 9000, 10_000])
    assert expected_ms(rhythm, 10_000) == [(11_000, 0)]


def test_what_is_expected_comes_in_order_of_time_and_of_all_sources() -> None:
    rhythm = Rhythm()
    for source, phase_ms in ((0, 700), (1, 100), (2, 400)):
        hear(rhythm, [phase_ms, 1000 + phase_ms, 2000 + phase_ms], source)
    assert expected_ms(rhythm, 2750) == [(3100, 1), (3400, 2), (3700, 0)]


def test_sources_that_fall_silent_are_forgotten() -> None:
    rhythm = Rhythm()
    for source in range(500):
        hear(rhythm, [0, 1000, 2000], source)
    assert len(rhythm._seen) == len(rhythm._next) == 500
    hear(rhythm, [2000 + FORGOTTEN_NS // MS_NS + 1], 1000)
    assert len(rhythm._seen) == 1
    assert not rhythm._next


def test_more_sources_than_are_remembered_leave_the_latest() -> None:
    rhythm = Rhythm()
    for source in range(3 * MOST_SOURCES):
        hear(rhythm, [source, source + 1000, source + 2000], source)
        assert len(rhythm._next) <= len(rhythm._seen) <= MOST_SOURCES
    assert min(source for _, source in rhythm._seen) == 2 * MOST_SOURCES


# --- windows


def tasks(count: int, window: int = 0, kind: TaskKind = KIND) -> list[Task]:
    """Tasks spread over a window of 20 s."""
    return [Task(n, kind, (20 * window * SECOND_NS) + n * SECOND_NS // 2) for n in range(count)]


def filled(failed: int, count: int, window: int = 0, windows: Windows | None = None) -> Windows:
    """A window in which so many of a count of tasks have failed and the others were in time."""
    windows = windows or Windows(20 * SECOND_NS)
    for task in tasks(count, window):
        windows.created(task)
    for number, task in enumerate(tasks(count, window)):
        windows.ended(task, number >= failed)
    return windows


def test_while_nothing_fails_a_task_is_worth_its_share_of_the_bonus() -> None:
    assert filled(0, 40).price(tasks(1)[0]) == pytest.approx(100 / (0.9 * 40))


def test_the_first_window_counts_only_what_has_come_and_the_second_expects_as_many_as_the_first() -> None:
    windows = filled(0, 40)
    first_of_second = tasks(1, window=1)[0]
    windows.created(first_of_second)
    assert windows.price(first_of_second) >= 100 / (0.9 * 40)


def test_failures_that_use_the_budget_up_make_the_next_dearer_and_a_lost_window_is_worth_nothing() -> None:
    windows = filled(0, 40)
    prices = [filled(failed, 40, 1, filled(0, 40)).price(tasks(1, 1)[0]) for failed in range(6)]
    assert prices[0] == prices[1] == prices[2] == windows.price(tasks(1)[0])
    assert prices[4] > prices[0]  # four of forty may fail, the next one would lose the bonus
    assert prices[5] == 0.0


def test_a_kind_that_failed_by_far_and_begins_to_fail_again_is_given_up_for_a_window() -> None:
    windows = filled(20, 40)
    begun = tasks(5, window=1)
    for task in begun:
        windows.created(task)
    assert windows.price(begun[0]) > 0.0
    windows.ended(begun[0], on_time=False)
    assert windows.price(begun[1]) == 0.0


def test_a_kind_without_a_bonus_is_worth_nothing_more() -> None:
    windows = Windows(20 * SECOND_NS)
    task = tasks(1, kind=OTHER)[0]
    windows.created(task)
    assert windows.price(task) == 0.0


def test_windows_begin_where_the_run_does() -> None:
    begun_ns = 7 * SECOND_NS
    windows = Windows(20 * SECOND_NS, begun_ns)
    last, first = (Task(number, OTHER, begun_ns + 20 * SECOND_NS - 1 + number) for number in range(2))
    assert [windows.window(last), windows.window(first)] == [0, 1]


def test_windows_that_are_over_are_forgotten_also_when_tasks_come_out_of_order() -> None:
    windows = Windows(20 * SECOND_NS)
    for window in [*range(1000), *range(2000, 1000, -1)]:
        task = tasks(1, window)[0]
        windows.created(task)
        windows.ended(task, on_time=False)
        assert windows.price(task) >= 0.0
        assert len(windows._counts["kind"]) <= 3
