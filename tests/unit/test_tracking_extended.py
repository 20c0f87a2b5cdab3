from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.geometry import from_rotation_translation, se3_exp, so3_exp, wrap_angle
from tracking import extended, kalman
from tracking.motion_models import constant_velocity

filters = pytest.importorskip("filterpy.kalman", reason="filterpy>=2.0 is not installed")

Array = np.ndarray[Any, Any]

INTRINSICS = np.array([[700.0, 0.3, 620.0], [0.0, 690.0, 180.0], [0.0, 0.0, 1.0]])
WORLD_T_CAMERA = from_rotation_translation(
    np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.array([1.0, 2.0, 1.5])
)  # looks along x
PIXEL_NOISE = np.diag([4.0, 4.0])


def random_pose(rng: np.random.Generator) -> Array:
    return np.asarray(se3_exp(np.concatenate([rng.normal(0, 5, 3), rng.normal(0, 2, 3)])))


def random_planar_pose(rng: np.random.Generator) -> Array:
    yaw = rng.uniform(-np.pi, np.pi)
    pose = np.eye(3)
    pose[:2, :2], pose[:2, 2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]], rng.normal(0, 5, 2)
    return pose


# name: a model at a random pose, and the rows of its measurement that are angles
MODELS: dict[str, tuple[Callable[[np.random.Generator], extended.Measure], tuple[int, ...]]] = {
    "bearings": (lambda rng: extended.bearings(random_pose(rng)), (0,)),
    "bearings and range": (lambda rng: extended.bearings(random_pose(rng), ranges=True), (0,)),
    "planar bearing": (lambda rng: extended.planar_bearings(random_planar_pose(rng)), (0,)),
    "planar bearing and range": (lambda rng: extended.planar_bearings(random_planar_pose(rng), ranges=True), (0,)),
    "pixels": (lambda rng: extended.pixels(random_pose(rng), INTRINSICS), ()),
    "pixels and height": (lambda rng: extended.pixels(random_pose(rng), INTRINSICS, heights_m=1.7), ()),
}


def random_spd(rng: np.random.Generator, size: int, count: int, scale: float = 1.0) -> Array:
    factor = scale * rng.normal(size=(count, size, size))
    return np.moveaxis(factor @ np.swapaxes(factor, 1, 2) + 0.05 * scale**2 * np.eye(size), 0, -1)


def random_state(rng: np.random.Generator, count: int = 6) -> kalman.KalmanState:
    return kalman.KalmanState(rng.normal(0, 15, (6, count)), random_spd(rng, 6, count))


@pytest.mark.parametrize("name", MODELS)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_jacobians_are_those_of_finite_differences(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    make, angles = MODELS[name]
    measure, mean = make(rng), rng.normal(0, 15, (6, 5))
    _, jacobian = measure(mean)
    for row in range(6):
        step = np.zeros((6, 1))
        step[row] = 1e-5
        slope = kalman.wrap_rows(measure(mean + step)[0] - measure(mean - step)[0], angles) / 2e-5
        scale = 1.0 + np.abs(jacobian).max(axis=(0, 1))  # near the sensor, slopes are steep and so is their change
        both = np.isfinite(slope).all(axis=0) & (scale < 3e3)
        assert (np.abs(slope - jacobian[:, row])[:, both] < 1e-6 * scale[both] ** 2).all()


@pytest.mark.parametrize("name", MODELS)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_update_gate_and_likelihood_equal_filterpy(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    make, angles = MODELS[name]
    state, measure = random_state(rng), make(rng)
    predicted, _ = measure(state.mean)
    d = len(predicted)
    z = np.nan_to_num(predicted) + rng.normal(0, 2, predicted.shape)
    R = random_spd(rng, d, len(state))
    ours, measurable = extended.extended_update(state, z, R, measure, angles=angles)
    squared = extended.extended_squared_mahalanobis(state, z, R, measure, angles=angles)
    logs = extended.extended_log_likelihood(state, z, R, measure, angles=angles)

    def residual(one: Array, other: Array) -> Array:
        difference = one - other
        difference[list(angles)] = wrap_angle(difference[list(angles)])
        return np.asarray(difference)

    np.testing.assert_array_equal(measurable, np.isfinite(predicted).all(axis=0))
    for track in np.flatnonzero(measurable):
        theirs = filters.ExtendedKalmanFilter(dim_x=6, dim_z=d)
        theirs.x, theirs.P = state.mean[:, track : track + 1].copy(), state.covariance[:, :, track].copy()
        theirs.update(
            z[:, track : track + 1],
            lambda x: measure(x)[1][:, :, 0],
            lambda x: measure(x)[0],
            R=R[:, :, track],
            residual=residual,
        )
        scale = max(1.0, np.abs(theirs.x).max())
        np.testing.assert_allclose(ours.mean[:, track], theirs.x[:, 0], rtol=1e-9, atol=1e-9 * scale)
        np.testing.assert_allclose(ours.covariance[:, :, track], theirs.P, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(squared[track], theirs.mahalanobis**2, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(logs[track], theirs.log_likelihood, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_bearings_and_range_give_the_point_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pose, mean = random_pose(rng), rng.normal(0, 15, (3, 8))
    azimuth, elevation, distance = extended.bearings(pose, ranges=True)(mean)[0]
    local = distance * np.stack([
        np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)
    ])  # fmt: skip
    np.testing.assert_allclose(pose[:3, :3] @ local + pose[:3, 3:], mean, atol=1e-9)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_pixels_and_depth_give_the_point_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pose = random_pose(rng)
    local = np.stack([rng.normal(0, 3, 8), rng.normal(0, 3, 8), rng.uniform(0.2, 30, 8)])
    mean = pose[:3, :3] @ local + pose[:3, 3:]
    u, v, height = extended.pixels(pose, INTRINSICS, heights_m=2.0)(mean)[0]
    rays = np.linalg.solve(INTRINSICS, np.stack([u, v, np.ones(8)]))
    np.testing.assert_allclose(rays * local[2], local, atol=1e-8)
    np.testing.assert_allclose(height, 690.0 * 2.0 / local[2])


def ahead(*depths_m: float) -> kalman.KalmanState:
    """Points one metre left of the camera's axis at these depths, at rest, each uncertain by 1 m."""
    mean = np.zeros((6, len(depths_m)))
    mean[:3] = np.array([[1.0], [3.0], [1.5]]) + np.array([[1.0], [0.0], [0.0]]) * np.array(depths_m)
    return kalman.KalmanState(mean, np.repeat(np.eye(6)[:, :, None], len(depths_m), axis=2))


def test_points_behind_the_camera_stay_as_they_are_and_are_named() -> None:
    state = ahead(10.0, -10.0, 0.05, 0.0, 20.0)
    z = np.tile([[550.0], [180.0]], 5)
    measure = extended.pixels(WORLD_T_CAMERA, INTRINSICS)
    updated, measurable = extended.extended_update(state, z, PIXEL_NOISE, measure)
    assert measurable.tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(updated.mean[:, ~measurable], state.mean[:, ~measurable])
    np.testing.assert_array_equal(updated.covariance[:, :, 1:4], state.covariance[:, :, 1:4])
    assert (updated.covariance[1, 1, [0, 4]] < 0.02).all()  # of 1; what is left is that of the depth
    assert extended.extended_squared_mahalanobis(state, z, PIXEL_NOISE, measure)[1:4].tolist() == [np.inf] * 3
    assert extended.extended_log_likelihood(state, z, PIXEL_NOISE, measure)[1:4].tolist() == [-np.inf] * 3


def test_the_point_itself_and_the_axis_above_a_sensor_have_no_bearing() -> None:
    state = kalman.KalmanState(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 5.0, 5.0]]), np.ones((3, 3, 3)))
    _, measurable = extended.extended_update(
        state, np.zeros((3, 3)), np.eye(3), extended.bearings(np.eye(4), ranges=True), angles=extended.AZIMUTH_ROWS
    )
    assert measurable.tolist() == [False, False, True]
    _, measurable = extended.extended_update(
        state, np.zeros((1, 3)), np.eye(1), extended.planar_bearings(np.eye(4)), angles=extended.AZIMUTH_ROWS
    )
    assert measurable.tolist() == [False, False, True]


def test_a_measurement_that_is_not_finite_changes_nothing_and_is_named() -> None:
    state = ahead(10.0, 10.0)
    z = np.array([[550.0, np.nan], [180.0, 180.0]])
    updated, measurable = extended.extended_update(state, z, PIXEL_NOISE, extended.pixels(WORLD_T_CAMERA, INTRINSICS))
    assert measurable.tolist() == [True, False]
    np.testing.assert_array_equal(updated.mean[:, 1], state.mean[:, 1])


def test_a_bearing_behind_the_sensor_is_corrected_the_short_way_round() -> None:
    state = kalman.KalmanState(np.array([[-10.0], [0.1]]), np.eye(2)[:, :, None])
    z = np.array([[-np.pi + 0.01]])  # the track is at pi - 0.01: the difference is 0.02 and not a full turn
    updated, _ = extended.extended_update(
        state, z, np.eye(1) * 1e-8, extended.planar_bearings(np.eye(3)), angles=extended.AZIMUTH_ROWS
    )
    np.testing.assert_allclose(updated.mean[:, 0], [-10.0, -0.1], atol=1e-2)


def test_bearings_alone_leave_the_range_uncertain_and_a_known_height_does_not() -> None:
    state = ahead(10.0)
    state = kalman.KalmanState(state.mean, state.covariance * 9.0)
    z = extended.pixels(WORLD_T_CAMERA, INTRINSICS, heights_m=1.7)(state.mean)[0]
    point, _ = extended.extended_update(state, z[:2], PIXEL_NOISE, extended.pixels(WORLD_T_CAMERA, INTRINSICS))
    box_noise = np.diag([4.0, 4.0, (0.05 * z[2, 0]) ** 2])  # heights vary by 5 %
    box, _ = extended.extended_update(state, z, box_noise, extended.pixels(WORLD_T_CAMERA, INTRINSICS, heights_m=1.7))
    assert point.covariance[0, 0, 0] > 8.5
    np.testing.assert_allclose(box.covariance[0, 0, 0], (0.05 * 10.0) ** 2, rtol=0.05)


def test_a_moving_point_is_found_by_two_cameras() -> None:
    rng = np.random.default_rng(0)
    aside = from_rotation_translation(
        WORLD_T_CAMERA[:3, :3] @ so3_exp(np.array([0.0, -0.9, 0.0])), np.array([1.0, -9.0, 1.5])
    )
    models = [extended.pixels(pose, INTRINSICS) for pose in (WORLD_T_CAMERA, aside)]
    truth = np.array([[12.0], [3.0], [1.0], [0.5], [-0.8], [0.0]])
    state = kalman.start(truth[:3] + 1.0, np.eye(3) * 4.0, 4.0)
    F, Q = constant_velocity(0.1, 0.01, 3)
    for step in range(60):
        truth = F @ truth
        state = kalman.predict(state, F, Q)
        measure = models[step % 2]
        z = measure(truth)[0] + rng.normal(0, 1.0, (2, 1))
        state, measurable = extended.extended_update(state, z, np.eye(2), measure)
        assert measurable.all()
    np.testing.assert_allclose(state.mean, truth, atol=0.15)
    error = (state.mean - truth)[:, 0]
    assert error @ np.linalg.solve(state.covariance[:, :, 0], error) < 22.5  # the 99.9 % gate of 6 degrees of freedom


def test_no_tracks_are_no_trouble() -> None:
    state = ahead()
    updated, measurable = extended.extended_update(
        state, np.zeros((2, 0)), PIXEL_NOISE, extended.pixels(WORLD_T_CAMERA, INTRINSICS)
    )
    assert len(updated) == len(measurable) == 0


def test_poses_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        extended.bearings(np.eye(3))
    with pytest.raises(ValueError, match="rotation is none"):
        extended.pixels(2.0 * np.eye(4), INTRINSICS)
    with pytest.raises(ValueError, match="in the plane"):
        extended.planar_bearings(WORLD_T_CAMERA)
