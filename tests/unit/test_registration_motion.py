"""What to expect of a moving sensor when stamps jitter and poses lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registration.motion import Motion
from tercel.core.geometry import from_rotation_translation, se3_exp

Array = NDArray[Any]


def at(x_m: float, z_m: float = 0.0) -> Array:
    return from_rotation_translation(np.eye(3), np.array([x_m, 0.0, z_m]))


def driven(count: int = 10) -> Motion:
    """Ten scans at 10 m/s."""
    motion = Motion(1.0, 50.0)
    for k in range(1, count):
        motion.advance(0.1)
        motion.believe(at(1.0 * k), found_again=False)
    return motion


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6), st.lists(st.floats(0.02, 0.3), min_size=2, max_size=9))
def test_a_constant_twist_is_found_and_foreseen_whatever_the_intervals(
    twist: list[float], steps_s: list[float]
) -> None:
    motion, true, pose = Motion(1.0, 50.0), np.array(twist), np.eye(4)
    for step_s in steps_s:
        motion.advance(step_s)
        np.testing.assert_allclose(motion.ahead(true), pose @ se3_exp(true * step_s), atol=1e-9)
        pose = pose @ se3_exp(true * step_s)
        assert not motion.doubts(pose)
        motion.believe(pose, found_again=False)
        np.testing.assert_allclose(motion.twist, true, atol=1e-6)


def test_a_pose_that_lies_is_doubted_and_the_next_true_one_believed_without_a_swing() -> None:
    motion = driven()
    motion.advance(0.1)
    assert motion.doubts(at(10.0, 1.8))
    motion.go_on(motion.ahead(motion.twist))
    motion.advance(0.1)
    assert not motion.clears_doubt(at(11.0))
    assert not motion.doubts(at(11.0))
    motion.believe(at(11.0), found_again=False)
    np.testing.assert_allclose(motion.twist[:3], [10.0, 0.0, 0.0], atol=1e-9)


def test_a_jump_that_the_next_pose_confirms_is_taken_from_where_it_led() -> None:
    motion = driven()
    motion.advance(0.1)
    assert motion.doubts(at(11.9))
    motion.go_on(motion.ahead(motion.twist))
    motion.advance(0.1)
    assert any(np.allclose(guess, at(14.8), atol=1e-9) for guess in motion.guesses(motion.twist, 2.0))
    assert motion.clears_doubt(at(14.8))
    motion.believe(at(14.8), found_again=False)
    np.testing.assert_allclose(motion.twist[:3], [29.0, 0.0, 0.0], atol=1e-9)


@pytest.mark.parametrize("late_s", [0.03, 0.08])
def test_a_late_stamp_is_no_reason_to_doubt_nor_to_foresee_nonsense(late_s: float) -> None:
    motion = driven()
    for k, step_s in ((10, 0.1 + late_s), (11, 0.1 - late_s), (12, 0.1)):
        motion.advance(step_s)
        assert not motion.doubts(at(1.0 * k))
        assert abs(motion.ahead(motion.twist)[0, 3] - k) < 1.0
        motion.believe(at(1.0 * k), found_again=False)
    np.testing.assert_allclose(motion.twist[:3], [10.0, 0.0, 0.0], atol=1e-6)


def test_after_a_gap_the_sensor_is_sought_along_its_way_and_its_mean_speed_is_not_held_against_it() -> None:
    motion = driven()
    motion.advance(5.0)
    xs = sorted(guess[0, 3] for guess in motion.guesses(motion.twist, 2.0))
    assert xs[0] == pytest.approx(9.0)
    assert xs[-1] == pytest.approx(19.0)  # the last velocity is trusted for a second
    assert max(np.diff(xs)) <= 2.0
    assert not motion.doubts(at(10.0))
    motion.believe(at(10.0), found_again=False)
    np.testing.assert_allclose(motion.last_twist(leapt=True)[:3], [10.0, 0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(motion.last_twist(leapt=False)[:3], [0.2, 0.0, 0.0], atol=1e-9)
