"""Stamps that rise, stragglers, and clocks that leap."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registration.stamps import StampOrder, longest_rising
from tercel.core.errors import Rejected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=9))
def test_the_longest_rising_part_is_as_long_as_brute_force_finds(stamps: list[int]) -> None:
    rows = longest_rising(stamps)
    part = [stamps[row] for row in rows]
    assert rows == sorted(set(rows))
    assert part == sorted(set(part))
    rising = (
        size
        for size in range(len(stamps), -1, -1)
        for chosen in combinations(stamps, size)
        if list(chosen) == sorted(set(chosen))
    )
    assert len(part) == next(rising)


def test_the_third_late_stamp_that_rises_says_that_the_clock_has_leapt_and_how_long_ago_the_last_message_came() -> None:
    order = StampOrder()
    assert order.step_ns(0) is None
    order.accept(0)
    assert order.step_ns(100) == 100
    order.accept(9_900)
    for late in (200, 300):
        with pytest.raises(Rejected, match="stamp not after"):
            order.step_ns(late)
    assert order.step_ns(400) is None
    assert order.since_leap_ns() == 300
    order.accept(400)
    assert order.step_ns(500) == 100


def test_late_stamps_that_fall_or_come_between_others_are_stragglers() -> None:
    order = StampOrder("IMU stamp")
    order.accept(1_000)
    for late in (300, 200, 100, 200, 50):
        with pytest.raises(Rejected, match="IMU stamp not after"):
            order.step_ns(late)
    assert order.step_ns(1_001) == 1
    for late in (60, 70):
        with pytest.raises(Rejected):
            order.step_ns(late)
