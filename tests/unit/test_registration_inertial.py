"""LiDAR-inertial odometry: the filter against finite differences and textbook forms, flights against truth, faults."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from devices.sensors.simulated.inertial import ImuNoise, readings, true_readings
from devices.sensors.simulated.motion import states_at
from registration.imu_readings import ImuBuffer, ImuConfig, initial_belief
from registration.inertial import (
    ACCEL_BIAS,
    EXTRINSIC,
    GRAVITY_MPS2,
    GYRO_BIAS,
    LEVEL,
    SIZE,
    InertialState,
    Readings,
    correction,
    lidar_jacobian,
    minus,
    plus,
    propagate,
    undistort,
)
from registration.inertial_odometry import InertialOdometry
from registration.lidar_inertial_odometry import LidarInertialOdometry, LidarInertialOdometryConfig
from registration.odometry import OdometryConfig, OdometryResult, ScanToMapOdometry
from registration.trajectory import absolute_error, relative_error
from tercel.core.component import config_from_mapping
from tercel.core.errors import Rejected, UserError
from tercel.core.geometry import (
    from_rotation_translation,
    inverse,
    se3_exp,
    se3_log,
    so3_exp,
    transform_points,
)
from tercel.core.messages import Imu, Odometry, PointCloud, Transforms
from tests.unit.inertial_scenes import (
    BASE_T_IMU,
    BIAS,
    CONFIG,
    FLIGHT,
    IMU_T_LIDAR,
    Recorded,
    drive,
    feed,
    flight,
    poses_of,
)

Array = NDArray[Any]

PERIOD_NS = 100_000_000


def some_state(rng: np.random.Generator) -> InertialState:
    return InertialState(
        se3_exp(rng.normal(size=6)),
        rng.normal(0, 3, 3),
        rng.normal(0, 0.02, 3),
        rng.normal(0, 0.1, 3),
        so3_exp(rng.normal(0, 0.5, 3)),
        se3_exp(rng.normal(0, 0.3, 6)),
    )


def some_readings(rng: np.random.Generator, count: int, felt: bool = True) -> Readings:
    return Readings(
        rng.uniform(0.002, 0.01, count),
        rng.normal(0, 2, (count, 3)),
        rng.normal(0, 8, (count, 3)),
        np.full((count, 3), 1e-3),
        np.full((count, 3), 1e-2),
        np.full(count, felt),
    )


def some_covariance(rng: np.random.Generator) -> Array:
    root = rng.normal(0, 0.05, (SIZE, SIZE))
    return root @ root.T


@cache
def flown() -> tuple[InertialOdometry, list[OdometryResult], list[Array]]:
    """The whole flight: the odometry, its results, and the pose covariances with the map's drift."""
    odometry = InertialOdometry(IMU_T_LIDAR, CONFIG)
    results, covariances = [], []
    for k in range(len(flight().sweeps)):
        results += feed(odometry, flight(), k, k + 1)
        covariances.append(odometry.pose_covariance())
    return odometry, results, covariances


def begun(count: int, recorded: Recorded | None = None) -> InertialOdometry:
    odometry = InertialOdometry(IMU_T_LIDAR, CONFIG)
    feed(odometry, recorded or flight(), 0, count)
    return odometry


def position_errors_m(truth: Array, results: list[OdometryResult]) -> Array:
    result: Array = np.linalg.norm(poses_of(results)[:, :3, 3] - truth[:, :3, 3], axis=1)
    return result


# --- the filter ----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_minus_undoes_plus(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state, error = some_state(rng), rng.normal(0, 0.3, SIZE)
    np.testing.assert_allclose(minus(plus(state, error), state), error, atol=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_transition_is_the_derivative_of_the_propagation(seed: int, felt: bool) -> None:
    rng = np.random.default_rng(seed)
    state, taken, zero = some_state(rng), some_readings(rng, 3, felt), np.zeros((SIZE, SIZE))
    reached = propagate(state, zero, taken, 0.0, 0.0)
    step = 1e-5
    numeric = np.zeros((SIZE, SIZE))
    for k, error in enumerate(step * np.eye(SIZE)):
        ahead, behind = (propagate(plus(state, e), zero, taken, 0.0, 0.0).state for e in (error, -error))
        numeric[:, k] = (minus(ahead, reached.state) - minus(behind, reached.state)) / (2 * step)
    np.testing.assert_allclose(reached.transition, numeric, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_lidars_jacobian_is_the_derivative_of_its_pose(seed: int) -> None:
    state, step = some_state(np.random.default_rng(seed)), 1e-6
    at = inverse(state.odom_T_lidar)
    moved = np.array([se3_log(at @ plus(state, e).odom_T_lidar) for e in step * np.eye(SIZE)]).T / step
    np.testing.assert_allclose(lidar_jacobian(state), moved, atol=1e-4)


def test_true_readings_lead_along_the_true_way() -> None:
    times_s = 2.0 + np.arange(401) / 200
    truth, (gyro, accel) = states_at(FLIGHT, times_s), true_readings(FLIGHT, times_s, BASE_T_IMU)
    poses = truth.world_T_base @ BASE_T_IMU
    velocity = truth.velocities_mps[0] + truth.rotations[0] @ np.cross(truth.body_rates_radps[0], BASE_T_IMU[:3, 3])
    begin = InertialState(poses[0], velocity, np.zeros(3), np.zeros(3), np.eye(3), np.eye(4))
    middle = [0.5 * (values[:-1] + values[1:]) for values in (gyro, accel)]
    density = np.full((400, 3), 1e-3)
    taken = Readings(np.diff(times_s), *middle, density, density, np.ones(400, dtype=bool))
    error = se3_log(inverse(propagate(begin, np.zeros((SIZE, SIZE)), taken, 0.0, 0.0).odom_T_imu) @ poses)
    assert np.abs(error[:, :3]).max() < 1e-3  # m, after 2 s and 2 m
    assert np.abs(error[:, 3:]).max() < 1e-4


def test_the_propagated_covariance_is_how_far_noisy_readings_stray() -> None:
    rng = np.random.default_rng(0)
    state, taken = some_state(rng), some_readings(rng, 20)
    expected = propagate(state, np.zeros((SIZE, SIZE)), taken, 0.0, 0.0)
    strayed = []
    for _ in range(200):
        spread = np.sqrt(taken.seconds)[:, None]
        noisy = replace(
            taken,
            gyro_radps=taken.gyro_radps + rng.normal(size=(20, 3)) * taken.gyro_density / spread,
            accel_mps2=taken.accel_mps2 + rng.normal(size=(20, 3)) * taken.accel_density / spread,
        )
        strayed.append(minus(propagate(state, np.zeros((SIZE, SIZE)), noisy, 0.0, 0.0).state, expected.state)[:9])
    sampled, said = np.cov(np.array(strayed).T), expected.covariance[:9, :9]
    np.testing.assert_allclose(np.diag(sampled), np.diag(said), rtol=0.35)
    scale = np.sqrt(np.outer(np.diag(said), np.diag(said)))
    assert np.abs((sampled - said) / scale).max() < 0.35


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_normal_equations_give_what_the_textbooks_gain_gives(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    state, covariance = some_state(rng), some_covariance(rng)
    rows, residuals, variance = rng.normal(size=(count, 6)), rng.normal(0, 0.1, count), 0.01
    step, posterior = correction(state, covariance, state, rows.T @ rows / variance, rows.T @ residuals / variance)
    h = rows @ lidar_jacobian(state)  # N x N from here on
    gain = covariance @ h.T @ np.linalg.inv(h @ covariance @ h.T + variance * np.eye(count))
    np.testing.assert_allclose(step, -gain @ residuals, atol=1e-8)
    np.testing.assert_allclose(posterior, (np.eye(SIZE) - gain @ h) @ covariance, atol=1e-8)


def test_what_says_nothing_changes_nothing_and_a_known_extrinsic_stays() -> None:
    rng = np.random.default_rng(0)
    state, covariance = some_state(rng), some_covariance(rng)
    step, posterior = correction(state, covariance, state, np.zeros((6, 6)), np.zeros(6))
    np.testing.assert_allclose(step, 0.0, atol=1e-12)
    np.testing.assert_allclose(posterior, covariance, atol=1e-12)
    covariance[EXTRINSIC], covariance[:, EXTRINSIC] = 0.0, 0.0
    step, posterior = correction(state, covariance, state, 1e6 * np.eye(6), 1e5 * rng.normal(size=6))
    assert np.abs(step[:9]).max() > 1e-3
    np.testing.assert_array_equal(step[EXTRINSIC], 0.0)
    np.testing.assert_array_equal(posterior[EXTRINSIC], 0.0)


def test_iterating_comes_back_to_the_prior_where_nothing_is_measured() -> None:
    rng = np.random.default_rng(1)
    state, covariance = some_state(rng), some_covariance(rng)
    astray = plus(state, rng.normal(0, 0.05, SIZE))
    step, _ = correction(state, covariance, astray, np.zeros((6, 6)), np.zeros(6))
    assert np.abs(minus(plus(astray, step), state)).max() < 0.01  # second order in 0.05


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_undistorting_moves_each_point_by_the_pose_at_its_own_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    knots_s = np.linspace(-0.1, 0.0, 21)
    velocity = np.concatenate([rng.normal(0, 5, 3), rng.normal(0, 1, 3)])
    poses = se3_exp(knots_s[:, None] * velocity)
    points, times_s = rng.normal(0, 15, (50, 3)), rng.uniform(-0.1, 0.0, 50)
    expected = [transform_points(se3_exp(velocity * t), p[None])[0] for t, p in zip(times_s, points, strict=True)]
    np.testing.assert_allclose(undistort(points, times_s, knots_s, poses), expected, atol=3e-3)
    single = undistort(points.astype(np.float32), times_s, knots_s, poses)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=3e-3)


# --- readings ------------------------------------------------------------------------------------------------------


def test_intervals_fill_the_time_and_average_the_readings() -> None:
    buffer = ImuBuffer(ImuConfig())
    for k in range(21):
        buffer.add(k * 5_000_000, np.array([k, 0.0, 1.0]), np.array([0.0, 2.0 * k, 9.8]))
    taken = buffer.between(12_000_000, 83_000_000, np.zeros(3))
    ends_s = 0.012 + np.concatenate([[0.0], np.cumsum(taken.seconds)])
    assert ends_s[-1] == pytest.approx(0.083)
    middles = 0.5 * (ends_s[:-1] + ends_s[1:]) / 0.005
    np.testing.assert_allclose(taken.gyro_radps[:, 0], middles)
    np.testing.assert_allclose(taken.accel_mps2[:, 1], 2 * middles)
    assert taken.felt.all()


def test_a_gap_is_coasted_through_with_the_last_turn_rate() -> None:
    buffer, coast = ImuBuffer(ImuConfig()), np.array([0.1, 0.2, 0.3])
    for k in (*range(5), *range(20, 26)):
        buffer.add(k * 5_000_000, np.ones(3), np.ones(3))
    taken = buffer.between(0, 200_000_000, coast)
    ends_s = np.concatenate([[0.0], np.cumsum(taken.seconds)])
    missing = (ends_s[1:] <= 0.1 + 1e-9) & (ends_s[:-1] >= 0.02 - 1e-9) | (ends_s[:-1] >= 0.125 - 1e-9)
    np.testing.assert_array_equal(taken.felt, ~missing)
    np.testing.assert_array_equal(taken.gyro_radps[missing], np.tile(coast, (missing.sum(), 1)))
    assert (taken.gyro_density[missing] > 100 * taken.gyro_density[~missing].max()).all()
    assert taken.seconds.max() < 0.011
    assert not ImuBuffer(ImuConfig()).between(0, 50_000_000, coast).felt.any()


WEIGHT = np.array([0.0, 0.0, 9.8])


def test_a_reading_at_the_end_of_its_range_is_counted_and_hardly_believed() -> None:
    buffer = ImuBuffer(ImuConfig(gyro_range_radps=4.0))
    for k in range(10):
        buffer.add(k * 5_000_000, np.array([4.0 if k == 5 else 0.0, 0.0, 0.0]), WEIGHT)
    taken = buffer.between(0, 45_000_000, np.zeros(3))
    assert buffer.saturated == 1
    np.testing.assert_array_equal(np.flatnonzero(taken.gyro_density[:, 0] > 0.1), [4, 5])
    assert (taken.gyro_density[:, 1:] < 0.01).all()


def test_a_reading_that_no_such_imu_can_have_felt_is_taken_for_one_at_the_end_of_its_range() -> None:
    config = ImuConfig()
    buffer = ImuBuffer(config)
    for k in range(10):
        buffer.add(k * 5_000_000, np.array([0.0, -1e300 if k == 5 else 0.0, 0.0]), np.full(3, 1e6 if k == 5 else 1.0))
    taken = buffer.between(0, 45_000_000, np.zeros(3))
    assert buffer.saturated == 1
    assert taken.accel_mps2.max() == 0.5 * (config.accel_range_mps2 + 1.0)
    assert taken.gyro_radps.min() == -0.5 * config.gyro_range_radps


@pytest.mark.parametrize(("stamp_ns", "value"), [(5, 0.0), (4, 0.0), (6, np.nan), (6, np.inf)])
def test_a_reading_from_the_past_or_not_finite_is_rejected_and_leaves_no_trace(stamp_ns: int, value: float) -> None:
    buffer = ImuBuffer(ImuConfig())
    buffer.add(5, np.zeros(3), WEIGHT)
    with pytest.raises(Rejected, match="IMU"):
        buffer.add(stamp_ns, np.zeros(3), np.array([9.8, value, 0.0]))
    assert len(buffer) == 1


def test_one_reading_from_the_future_is_forgotten_when_others_go_on_without_it() -> None:
    buffer, rejected = ImuBuffer(ImuConfig()), 0
    for k in range(20):
        try:
            buffer.add(k * 5_000_000 + (k == 5) * 10**12, np.zeros(3), WEIGHT)
        except Rejected:
            rejected += 1
    assert rejected == 2
    assert len(buffer) == 17
    assert (np.diff(buffer.since(0)[0]) > 0).all()


def test_an_imu_that_feels_nothing_at_all_is_rejected_and_the_sweeps_go_on_alone() -> None:
    dead = replace(flight(), gyro=0.0 * flight().gyro, accel=0.0 * flight().accel)
    odometry, results = InertialOdometry(IMU_T_LIDAR, CONFIG), []
    for k, (points, offsets) in enumerate(dead.sweeps[:12]):
        with pytest.raises(Rejected, match="all zeros"):
            odometry.add_imu((k + 1) * PERIOD_NS, dead.gyro[k], dead.accel[k])
        results.append(odometry.step(points, (k + 1) * PERIOD_NS, offsets))
    assert odometry.counters["sweeps_without_imu"] == 11
    assert {result.health for result in results[1:]} == {"degraded"}
    assert position_errors_m(flight().truth[:12], results).max() < 0.1


def test_memory_of_readings_is_bounded_when_no_sweep_comes() -> None:
    buffer = ImuBuffer(ImuConfig())
    for k in range(10_000):
        buffer.add(k, np.zeros(3), WEIGHT)
    assert len(buffer) < 5000


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_at_rest_up_and_the_gyroscopes_bias_are_found_within_what_is_said(seed: int) -> None:
    rng = np.random.default_rng(seed)
    imu_R_world, bias = so3_exp(rng.normal(size=3)).T, rng.normal(0, 1, 6) * ([0.005] * 3 + [0.05] * 3)
    gyro = bias[:3] + rng.normal(0, 0.002, (100, 3))
    accel = bias[3:] + imu_R_world @ [0.0, 0.0, GRAVITY_MPS2] + rng.normal(0, 0.03, (100, 3))
    imu_T_lidar = se3_exp(rng.normal(0, 0.5, 6))
    state, covariance, at_rest = initial_belief(gyro, accel, imu_T_lidar, ImuConfig())
    assert at_rest
    np.testing.assert_allclose(state.gyro_bias_radps, bias[:3], atol=1e-3)
    up = inverse(imu_T_lidar)[:3, :3] @ imu_R_world[:, 2]
    assert np.linalg.norm(np.cross(state.odom_R_level[:, 2], up)) < 5 * 0.05 / GRAVITY_MPS2
    # told the accelerometer's bias, the filter knows up much better: that is what their correlation says
    known = covariance[LEVEL, ACCEL_BIAS] @ np.linalg.solve(covariance[ACCEL_BIAS, ACCEL_BIAS], bias[3:])
    better = state.odom_R_level @ so3_exp(np.append(known, 0.0))
    assert np.linalg.norm(np.cross(better[:, 2], up)) < 1.5e-3


def test_in_motion_the_beginning_says_so_and_claims_less() -> None:
    rng = np.random.default_rng(0)
    turning, accel = rng.normal([0.5, 0, 0], 0.01, (20, 3)), np.tile([0.0, 0.0, GRAVITY_MPS2], (20, 1))
    _, still_covariance, _ = initial_belief(np.zeros((20, 3)), accel, np.eye(4), ImuConfig())
    state, covariance, at_rest = initial_belief(turning, accel, np.eye(4), ImuConfig())
    assert not at_rest
    np.testing.assert_array_equal(state.gyro_bias_radps, 0.0)
    for part in (GYRO_BIAS, LEVEL):
        assert (np.diag(covariance)[part] > 10 * np.diag(still_covariance)[part]).all()
    assert not initial_belief(np.zeros((0, 3)), np.zeros((0, 3)), np.eye(4), ImuConfig())[2]


# --- flights -------------------------------------------------------------------------------------------------------


def test_a_flight_is_followed_to_millimetres_and_better_than_without_the_imu() -> None:
    _, results, _ = flown()
    assert {result.status for result in results[1:]} == {"registered"}
    assert absolute_error(flight().truth, poses_of(results), aligned=False).rmse < 0.005
    lidar = ScanToMapOdometry(
        OdometryConfig(map_voxel_m=0.25, scan_voxel_m=0.375, match_m=0.25, keyframe_m=0.5, max_iterations=10)
    )
    alone = [lidar.step(p, (k + 1) * PERIOD_NS, t) for k, (p, t) in enumerate(flight().sweeps[:30])]
    ours, theirs = (
        relative_error(flight().truth[:30], poses_of(r[:30]), 1, "frames").translation_m.rmse for r in (results, alone)
    )
    assert ours < 0.7 * theirs


def test_the_biases_and_the_velocity_converge_to_the_truth() -> None:
    odometry, results, _ = flown()
    assert odometry.state is not None
    np.testing.assert_allclose(odometry.state.gyro_bias_radps, BIAS[:3], atol=5e-4)
    np.testing.assert_allclose(odometry.state.accel_bias_mps2, BIAS[3:], atol=0.01)
    truth = se3_log(inverse(flight().truth[-2]) @ flight().truth[-1]) / 0.1
    assert results[-1].twist is not None
    np.testing.assert_allclose(results[-1].twist, truth, atol=0.12)  # the truth is a mean over a turning sweep


def test_the_covariance_is_of_the_size_of_the_errors() -> None:
    _, results, covariances = flown()
    errors = se3_log(inverse(poses_of(results)) @ flight().truth)[5:]
    nees = np.einsum("ni,nij,nj->n", errors, np.linalg.inv(np.array(covariances[5:])), errors)
    assert np.median(nees) < 12.6  # 95 % of a chi-square of 6
    assert np.median(nees) > 0.2


def test_the_same_flight_gives_the_same_bytes() -> None:
    first, second = (poses_of(feed(InertialOdometry(IMU_T_LIDAR, CONFIG), flight(), 0, 6)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_through_a_bare_tunnel_the_imu_carries_the_pose_and_the_axis_is_named() -> None:
    recorded = drive()
    results = feed(InertialOdometry(IMU_T_LIDAR, CONFIG), recorded, 0, len(recorded.sweeps))
    bare = results[-15:]
    assert {result.health for result in bare} == {"degraded"}
    axis = se3_log(inverse(recorded.truth[-1]) @ recorded.truth[-2])[:3]
    for result in bare:
        (direction,) = result.degenerate_directions
        assert abs(direction[:3] @ axis) / np.linalg.norm(direction[:3]) / np.linalg.norm(axis) > 0.99
    driven_m = np.linalg.norm(recorded.truth[-1, :3, 3] - recorded.truth[-15, :3, 3])
    assert driven_m > 3.0
    assert position_errors_m(recorded.truth[-15:], bare).max() < 0.1
    along = axis / np.linalg.norm(axis)
    variances = [along @ result.covariance[:3, :3] @ along for result in bare if result.covariance is not None]
    assert variances[-1] > variances[0] > 1e-5


def test_vibration_is_borne() -> None:
    noise = ImuNoise(vibration_radps=0.05, vibration_mps2=4.0)
    times_s = flight().times_s
    gyro, accel = readings(FLIGHT, times_s, BASE_T_IMU, BIAS, noise, np.random.default_rng(1))
    assert np.abs(accel - flight().accel).max() == pytest.approx(4.0, rel=0.05)
    shaken = replace(flight(), gyro=gyro, accel=accel)
    results = feed(InertialOdometry(IMU_T_LIDAR, CONFIG), shaken, 0, 25)
    assert position_errors_m(flight().truth[:25], results).max() < 0.02


def test_an_uncertain_extrinsic_is_refined_if_asked() -> None:
    askew = IMU_T_LIDAR @ se3_exp(np.array([0, 0, 0, 0.02, -0.02, 0.02]))
    odometry = InertialOdometry(askew, replace(CONFIG, extrinsic_rad=0.03))
    feed(odometry, flight(), 0, 32)
    assert odometry.state is not None
    left = se3_log(inverse(IMU_T_LIDAR) @ odometry.state.imu_T_lidar)
    assert np.linalg.norm(left[3:]) < 0.3 * np.linalg.norm([0.02] * 3)


# --- faults --------------------------------------------------------------------------------------------------------


def test_without_imu_for_a_while_the_sweeps_alone_go_on_and_say_so() -> None:
    odometry, times_s = begun(15), flight().times_s
    silent = feed(odometry, flight(), 15, 20, keep=(times_s < 1.5) | (times_s > 2.0))
    assert {(result.status, result.health) for result in silent} == {("registered", "degraded")}
    assert odometry.counters["sweeps_without_imu"] >= 4
    again = feed(odometry, flight(), 20, 24)
    assert again[-1].health == "tracking"
    assert position_errors_m(flight().truth[15:24], silent + again).max() < 0.03


def test_clipped_readings_are_counted_and_do_not_lead_astray() -> None:
    limit = 0.6
    clipped = replace(flight(), gyro=np.clip(flight().gyro, -limit, limit))
    odometry = InertialOdometry(IMU_T_LIDAR, replace(CONFIG, gyro_range_radps=limit))
    results = feed(odometry, clipped, 0, 28)
    assert odometry.counters["saturated_readings"] > 20
    assert position_errors_m(flight().truth[:28], results).max() < 0.03
    assert odometry.state is not None
    np.testing.assert_allclose(odometry.state.gyro_bias_radps, BIAS[:3], atol=2e-3)


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.full((500, 3), np.nan), np.full((500, 3), 1e30)])
def test_a_sweep_without_points_is_predicted_by_the_imu(points: Array) -> None:
    odometry = begun(15)
    new = (flight().times_s > 1.5 + 1e-9) & (flight().times_s <= 1.6 + 1e-9)
    for i in np.flatnonzero(new).tolist():
        odometry.add_imu(round(flight().times_s[i] * 1e9), flight().gyro[i], flight().accel[i])
    result = odometry.step(points.astype(np.float32), 16 * PERIOD_NS)
    assert (result.status, result.health) == ("predicted", "degraded")
    assert position_errors_m(flight().truth[15:16], [result])[0] < 0.01
    assert feed(odometry, flight(), 16, 17)[0].status == "registered"


def test_a_first_sweep_without_points_is_rejected_and_a_stamp_from_the_past_too() -> None:
    with pytest.raises(Rejected, match="too few usable points"):
        InertialOdometry(IMU_T_LIDAR, CONFIG).step(np.zeros((0, 3), np.float32), 0)
    odometry, undisturbed = begun(6), begun(6)
    for stamp_ns in (6 * PERIOD_NS, 5 * PERIOD_NS, -1):
        with pytest.raises(Rejected, match="stamp"):
            odometry.step(flight().sweeps[6][0], stamp_ns)
    after, expected = (feed(o, flight(), 6, 7)[0].odom_T_sensor for o in (odometry, undisturbed))
    assert after.tobytes() == expected.tobytes()


@pytest.mark.parametrize("ahead_s", [3.0, 3600.0])
def test_one_sweep_from_the_future_costs_two_sweeps_and_not_the_rest(ahead_s: float) -> None:
    odometry, results = begun(8), {}
    for k in range(8, 20):
        points, offsets = flight().sweeps[k]
        for imu in imu_messages(0.1 * k, 0.1 * (k + 1)):
            odometry.add_imu(imu.stamp_ns, imu.angular_velocity_radps, imu.linear_acceleration_mps2)
        try:
            results[k] = odometry.step(points, (k + 1) * PERIOD_NS + (k == 10) * round(ahead_s * 1e9), offsets)
        except Rejected as reason:
            assert "stamp" in str(reason)
    assert sorted(set(range(8, 20)) - results.keys()) == [11, 12]
    assert results[19].status == "registered"


def test_sweeps_of_another_place_leave_the_imu_alone_until_a_new_map_is_begun() -> None:
    odometry = begun(15)
    elsewhere = np.random.default_rng(0).uniform(8.0, 30.0, (3000, 3)).astype(np.float32)
    fooled = replace(flight(), sweeps=[(elsewhere, np.zeros(3000, np.float32))] * len(flight().sweeps))
    results = feed(odometry, fooled, 15, 15 + CONFIG.max_predicted + 1)
    statuses = [result.status for result in results]
    assert statuses == ["predicted"] * CONFIG.max_predicted + ["restarted"]
    assert results[-1].health == "lost"
    assert position_errors_m(flight().truth[15 : 15 + len(results)], results).max() < 0.15


def test_after_a_long_break_a_map_begins_where_the_last_pose_was() -> None:
    odometry = begun(5)
    before = odometry.step(flight().sweeps[5][0], 6 * PERIOD_NS)
    late = odometry.step(flight().sweeps[6][0], 6 * PERIOD_NS + 3_600_000_000_000)
    assert (late.status, late.health) == ("restarted", "lost")
    np.testing.assert_allclose(late.odom_T_sensor, before.odom_T_sensor, atol=1e-9)


def test_stamps_at_a_sweeps_beginning_give_the_poses_of_its_beginning() -> None:
    early = InertialOdometry(IMU_T_LIDAR, CONFIG)
    poses = []
    for k in range(12, 22):
        new = (flight().times_s > 0.1 * k + 1e-9) & (flight().times_s <= 0.1 * (k + 1) + 1e-9)
        for i in np.flatnonzero(new).tolist():
            early.add_imu(round(flight().times_s[i] * 1e9), flight().gyro[i], flight().accel[i])
        points, offsets = flight().sweeps[k]
        poses.append(early.step(points, k * PERIOD_NS, offsets + np.float32(0.1)).odom_T_sensor)
    moved = inverse(poses[2]) @ poses[-1]
    truth = inverse(flight().truth[13]) @ flight().truth[20]  # sweep k begins where sweep k - 1 ended
    np.testing.assert_allclose(moved[:3, 3], truth[:3, 3], atol=0.01)
    np.testing.assert_allclose(moved[:3, :3], truth[:3, :3], atol=0.005)


# --- the component -------------------------------------------------------------------------------------------------


def imu_messages(first_s: float, last_s: float) -> list[Imu]:
    recorded = flight()
    rows = np.flatnonzero((recorded.times_s > first_s + 1e-9) & (recorded.times_s <= last_s + 1e-9))
    return [
        Imu(
            stamp_ns=round(recorded.times_s[i] * 1e9),
            frame_id="imu",
            angular_velocity_radps=recorded.gyro[i],
            linear_acceleration_mps2=recorded.accel[i],
        )
        for i in rows.tolist()
    ]


def cloud_message(k: int) -> PointCloud:
    points, offsets = flight().sweeps[k]
    return PointCloud(stamp_ns=(k + 1) * PERIOD_NS, frame_id="lidar", points_m=points, time_offset_s=offsets)


def test_the_component_learns_where_the_imu_sits_and_publishes_poses_and_straight_clouds() -> None:
    component = LidarInertialOdometry(LidarInertialOdometryConfig(map_voxel_m=0.25, scan_voxel_m=0.375, match_m=0.25))
    with pytest.raises(Rejected, match="no IMU"):
        component.step(cloud_message(0))
    for imu in imu_messages(-1.0, 0.1):
        component.read(imu)
    with pytest.raises(Rejected, match="transform"):
        component.step(cloud_message(0))
    mount = IMU_T_LIDAR[None]
    component.learn_frames(
        Transforms(stamp_ns=0, frame_id="", parents=("imu",), children=("lidar",), parent_T_child=mount)
    )
    for k in range(15):
        for imu in imu_messages(0.1 * k, 0.1 * (k + 1)) if k else []:
            component.read(imu)
        outputs = component.step(cloud_message(k))
    odometry, straight = outputs["odometry"], outputs["deskewed"]
    assert isinstance(odometry, Odometry)
    assert isinstance(straight, PointCloud)
    assert (odometry.frame_id, odometry.child_frame_id, odometry.stamp_ns) == ("odom", "lidar", 15 * PERIOD_NS)
    np.testing.assert_allclose(odometry.frame_T_child[:3, 3], flight().truth[14, :3, 3], atol=0.01)
    assert odometry.covariance is not None
    assert (np.linalg.eigvalsh(odometry.covariance) > 0).all()
    assert odometry.linear_velocity_mps is not None
    assert straight.time_offset_s is None
    assert 1e-3 < np.abs(straight.points_m - cloud_message(14).points_m).max() < 1.0
    assert component.map_points_m() is not None
    bad = replace(imu_messages(1.5, 1.51)[0], angular_velocity_radps=np.full(3, np.nan))
    with pytest.raises(Rejected, match="finite"):
        component.read(bad)
    with pytest.raises(Rejected, match="frame"):
        component.step(replace(cloud_message(15), frame_id="other"))
    assert component.counters().get("lost", 0) == 0


def test_a_cloud_that_is_rejected_does_not_say_where_the_lidar_is() -> None:
    component = LidarInertialOdometry(LidarInertialOdometryConfig(map_voxel_m=0.25, scan_voxel_m=0.375, match_m=0.25))
    mounts = np.stack([from_rotation_translation(np.eye(3), np.array([0.0, 0.0, 9.0])), IMU_T_LIDAR])
    component.learn_frames(
        Transforms(stamp_ns=0, frame_id="", parents=("imu", "imu"), children=("other", "lidar"), parent_T_child=mounts)
    )
    for imu in imu_messages(-1.0, 0.1):
        component.read(imu)
    with pytest.raises(Rejected, match="too few"):
        component.step(replace(cloud_message(0), frame_id="other", points_m=np.zeros((0, 3)), time_offset_s=None))
    assert component.step(cloud_message(0))
    assert component._odometry is not None
    assert component._odometry.state is not None
    np.testing.assert_array_equal(component._odometry.state.imu_T_lidar, IMU_T_LIDAR)


@pytest.mark.parametrize(
    "values",
    [
        {"gyro_density": 0.0}, {"accel_range_mps2": float("nan")}, {"point_noise_m": -1.0}, {"max_iterations": 1},
        {"min_overlap": 2.0}, {"extrinsic_m": -0.1}, {"min_range_m": 200.0}, {"odom_frame": ""}, {"keyframes": 0},
    ],
)  # fmt: skip
def test_a_config_value_out_of_range_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        config_from_mapping(LidarInertialOdometryConfig, values, where="odometry")


def test_a_pose_at_a_points_time_is_one_of_the_way() -> None:
    odometry = begun(16)
    points, offsets = flight().sweeps[15]
    straight = odometry.undistorted(points, offsets)
    wild = offsets.copy()
    wild[::2] = np.nan
    half = odometry.undistorted(points, wild)
    np.testing.assert_array_equal(half[::2], points[::2])
    np.testing.assert_allclose(half[1::2], straight[1::2], atol=1e-6)
    last = offsets == offsets.max()
    np.testing.assert_allclose(straight[last], points[last], atol=1e-4)
    shuffled = np.random.default_rng(0).permutation(len(points))
    np.testing.assert_allclose(odometry.undistorted(points[shuffled], offsets[shuffled]), straight[shuffled], atol=1e-6)
