"""An iterated error-state Kalman filter on the manifold: an IMU, and a pose measured by normal equations.

The filter is FAST-LIO2's (Xu et al., "FAST-LIO2: Fast Direct LiDAR-Inertial Odometry", T-RO 2022; the propagation is
equations 2 to 8 of its forerunner, Xu and Zhang, RA-L 2021, the iterated update equations 14 to 18, undistortion
equation 10). It departs from it in four things:

- readings are integrated at the middle of each interval between two of them, not at its beginning;
- a measurement of N points comes as the 6x6 normal equations of the LiDAR's pose, whoever summed them up, and the gain
  is P H^T (I + Lambda H P H^T)^-1: nothing larger than 6x6 is inverted, and neither P nor Lambda needs an inverse, so
  that a known extrinsic (covariance 0) and a direction that the scan does not hold (information 0) need no case;
- gravity is a direction of known length, held as the rotation of a level frame (z up, its yaw without meaning), of
  whose error only roll and pitch exist: two numbers, as on FAST-LIO2's sphere, without its charts;
- points are moved by poses interpolated linearly between the intervals' ends (undistort).

The state's error is 23 numbers, in this order: position (3) m and velocity (SPEED) m/s in the odometry frame, rotation
(3) rad on the right, biases of gyroscope and accelerometer, roll and pitch of the level frame, and the tangent of
imu_T_lidar, translation first. Functions here are pure and know no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import from_rotation_translation, inverse, se3_exp, se3_log, skew, so3_exp, so3_log

Array = NDArray[Any]

GRAVITY_MPS2 = 9.81
SIZE = 23
POSITION, ROTATION, SPEED = slice(0, 3), slice(3, 6), slice(6, 9)
GYRO_BIAS, ACCEL_BIAS, LEVEL, EXTRINSIC = slice(9, 12), slice(12, 15), slice(15, 17), slice(17, 23)


@dataclass(frozen=True, eq=False)
class InertialState:
    """What the filter estimates; float64.

    odom_T_imu (4, 4). velocity_mps (3,) of the IMU in the odometry frame. gyro_bias_radps, accel_bias_mps2 (3,) in the
    IMU's axes. odom_R_level (3, 3): gravity points along the level frame's -z. imu_T_lidar (4, 4).
    """

    odom_T_imu: Array
    velocity_mps: Array
    gyro_bias_radps: Array
    accel_bias_mps2: Array
    odom_R_level: Array
    imu_T_lidar: Array

    @property
    def odom_T_lidar(self) -> Array:
        """The LiDAR's pose (4, 4)."""
        result: Array = self.odom_T_imu @ self.imu_T_lidar
        return result

    @property
    def gravity_mps2(self) -> Array:
        """(3,) in the odometry frame."""
        result: Array = -GRAVITY_MPS2 * self.odom_R_level[:, 2]
        return result


@dataclass(frozen=True, eq=False)
class Readings:
    """K intervals of IMU readings, each taken as constant: its mean.

    seconds (K,). gyro_radps, accel_mps2 (K, 3). gyro_density, accel_density (K, 3): standard deviation of the white
    noise in rad/s and m/s^2 per sqrt(Hz). felt (K,) bool: False where no reading was to be had; there the accelerometer
    counts for nothing and the velocity stays.
    """

    seconds: Array
    gyro_radps: Array
    accel_mps2: Array
    gyro_density: Array
    accel_density: Array
    felt: Array


@dataclass(frozen=True, eq=False)
class Propagation:
    """Where the readings lead: the state and its covariance (23, 23) at the end, odom_T_imu at the intervals' ends
    (K + 1, 4, 4), the first one the beginning, and the state's transition (23, 23)."""

    state: InertialState
    covariance: Array
    odom_T_imu: Array
    transition: Array


def plus(state: InertialState, error: Array) -> InertialState:
    """The state moved by an error (23,)."""
    pose = from_rotation_translation(
        state.odom_T_imu[:3, :3] @ so3_exp(error[ROTATION]), state.odom_T_imu[:3, 3] + error[POSITION]
    )
    return InertialState(
        pose,
        state.velocity_mps + error[SPEED],
        state.gyro_bias_radps + error[GYRO_BIAS],
        state.accel_bias_mps2 + error[ACCEL_BIAS],
        state.odom_R_level @ so3_exp(np.append(error[LEVEL], 0.0)),
        state.imu_T_lidar @ se3_exp(error[EXTRINSIC]),
    )


def minus(state: InertialState, other: InertialState) -> Array:
    """The error (23,) that moves `other` to `state`: plus(other, minus(state, other)) is state."""
    return np.concatenate(
        [
            state.odom_T_imu[:3, 3] - other.odom_T_imu[:3, 3],
            so3_log(other.odom_T_imu[:3, :3].T @ state.odom_T_imu[:3, :3]),
            state.velocity_mps - other.velocity_mps,
            state.gyro_bias_radps - other.gyro_bias_radps,
            state.accel_bias_mps2 - other.accel_bias_mps2,
            so3_log(other.odom_R_level.T @ state.odom_R_level)[:2],
            se3_log(inverse(other.imu_T_lidar) @ state.imu_T_lidar),
        ]
    )


def right_jacobian(vectors_rad: Array) -> Array:
    """(..., 3, 3): so3_exp(x + d) is so3_exp(x) so3_exp(J d) to first order (Forster et al., T-RO 2017, equation 8)."""
    angle = np.linalg.norm(vectors_rad, axis=-1)[..., None, None]
    safe = np.where(angle < 1e-4, 1.0, angle)
    a = np.where(angle < 1e-4, 0.5 - angle**2 / 24.0, (1.0 - np.cos(safe)) / safe**2)
    b = np.where(angle < 1e-4, 1.0 / 6.0 - angle**2 / 120.0, (safe - np.sin(safe)) / safe**3)
    k = skew(vectors_rad)
    result: Array = np.eye(3) - a * k + b * (k @ k)
    return result


def propagate(
    state: InertialState, covariance: Array, readings: Readings, gyro_walk: float, accel_walk: float
) -> Propagation:
    """Carry the state and its covariance (23, 23) through the readings.

    gyro_walk, accel_walk: random walks of the biases, rad/s^2 and m/s^3 per sqrt(Hz).
    """
    dt = readings.seconds[:, None]
    turn = (readings.gyro_radps - state.gyro_bias_radps) * dt
    half = so3_exp(0.5 * turn)
    rotations = np.empty((len(dt) + 1, 3, 3))
    rotations[0] = state.odom_T_imu[:3, :3]
    for k, step in enumerate(half @ half):
        rotations[k + 1] = rotations[k] @ step

    force = np.einsum("kij,kj->ki", half, readings.accel_mps2 - state.accel_bias_mps2)  # in the interval's first axes
    acceleration = np.einsum("kij,kj->ki", rotations[:-1], force) + state.gravity_mps2
    acceleration = np.where(readings.felt[:, None], acceleration, 0.0)
    velocities = state.velocity_mps + np.concatenate([np.zeros((1, 3)), np.cumsum(acceleration * dt, axis=0)])
    moved = velocities[:-1] * dt + 0.5 * acceleration * dt**2
    positions = state.odom_T_imu[:3, 3] + np.concatenate([np.zeros((1, 3)), np.cumsum(moved, axis=0)])

    transitions = _transitions(state, readings, rotations[:-1], turn, half, force)
    noises = _noises(readings, rotations[:-1] @ half, gyro_walk, accel_walk)
    total = np.eye(SIZE)
    for transition, noise in zip(transitions, noises, strict=True):
        covariance = transition @ covariance @ transition.T + noise
        total = transition @ total
    poses = from_rotation_translation(rotations, positions)
    end = InertialState(
        poses[-1],
        velocities[-1],
        state.gyro_bias_radps,
        state.accel_bias_mps2,
        state.odom_R_level,
        state.imu_T_lidar,
    )
    return Propagation(end, 0.5 * (covariance + covariance.T), poses, total)


def _transitions(
    state: InertialState, readings: Readings, rotations: Array, turn: Array, half: Array, force: Array
) -> Array:
    """Derivatives (K, 23, 23) of each interval's error at its end by that at its beginning."""
    dt = readings.seconds[:, None, None]
    felt = readings.felt[:, None, None]
    by_force = rotations @ skew(force)
    by_rotation = np.where(felt, -by_force, 0.0)
    by_gyro_bias = np.where(felt, 0.5 * dt * (by_force @ half @ right_jacobian(0.5 * turn)), 0.0)
    by_accel_bias = np.where(felt, -rotations @ half, 0.0)
    tilt = GRAVITY_MPS2 * np.stack([state.odom_R_level[:, 1], -state.odom_R_level[:, 0]], axis=1)
    by_level = np.where(felt, tilt[None], 0.0)

    result = np.tile(np.eye(SIZE), (len(turn), 1, 1))
    result[:, POSITION, SPEED] = dt * np.eye(3)
    for at, factor in ((POSITION, 0.5 * dt**2), (SPEED, dt)):
        result[:, at, ROTATION] = factor * by_rotation
        result[:, at, GYRO_BIAS] = factor * by_gyro_bias
        result[:, at, ACCEL_BIAS] = factor * by_accel_bias
        result[:, at, LEVEL] = factor * by_level
    result[:, ROTATION, ROTATION] = np.swapaxes(half @ half, -1, -2)
    result[:, ROTATION, GYRO_BIAS] = -dt * right_jacobian(turn)
    return result


def _noises(readings: Readings, middle: Array, gyro_walk: float, accel_walk: float) -> Array:
    """Covariances (K, 23, 23) that each interval adds; middle (K, 3, 3): odom_R_imu in its middle."""
    dt = readings.seconds[:, None, None]
    force = np.einsum("kij,kj,klj->kil", middle, readings.accel_density**2, middle)
    result = np.zeros((len(middle), SIZE, SIZE))
    result[:, ROTATION, ROTATION] = readings.gyro_density[:, :, None] ** 2 * np.eye(3) * dt
    result[:, SPEED, SPEED] = force * dt
    result[:, POSITION, SPEED] = result[:, SPEED, POSITION] = 0.5 * force * dt**2
    result[:, POSITION, POSITION] = force * dt**3 / 3.0
    result[:, GYRO_BIAS, GYRO_BIAS] = gyro_walk**2 * np.eye(3) * dt
    result[:, ACCEL_BIAS, ACCEL_BIAS] = accel_walk**2 * np.eye(3) * dt
    return result


def lidar_jacobian(state: InertialState) -> Array:
    """(6, 23): the tangent of odom_T_lidar (translation first, in the LiDAR's frame) by the state's error."""
    lidar_T_imu = inverse(state.imu_T_lidar)
    rotation, arm = lidar_T_imu[:3, :3], lidar_T_imu[:3, 3]
    result = np.zeros((6, SIZE))
    result[:3, POSITION] = rotation @ state.odom_T_imu[:3, :3].T
    result[:3, ROTATION] = skew(arm) @ rotation
    result[3:, ROTATION] = rotation
    result[:, EXTRINSIC] = np.eye(6)
    return result


def correction(
    predicted: InertialState, covariance: Array, at: InertialState, information: Array, gradient: Array
) -> tuple[Array, Array]:
    """One Gauss-Newton step of the update: the error (23,) to move `at` by, and the covariance (23, 23) after it.

    information (6, 6), gradient (6,): of half the sum of squared residuals over their variances, by the tangent of
    odom_T_lidar at `at`, translation first. Together with the prior, whose mean is `predicted`, that is equation 18 of
    FAST-LIO with H^T R^-1 H and H^T R^-1 z summed up beforehand. The covariance is in Joseph's form.
    """
    jacobian = lidar_jacobian(at)
    away = minus(at, predicted)
    carry = np.eye(SIZE)  # takes an error at `predicted` to one at `at`
    carry[ROTATION, ROTATION] = right_jacobian(away[ROTATION])
    prior = carry @ covariance @ carry.T
    spread = prior @ jacobian.T
    weight = np.linalg.inv(np.eye(6) + information @ jacobian @ spread)
    gain = spread @ weight  # of the gradient
    keep = np.eye(SIZE) - gain @ information @ jacobian
    step = -gain @ gradient - keep @ (carry @ away)
    posterior = keep @ prior @ keep.T + gain @ information @ gain.T
    return step, 0.5 * (posterior + posterior.T)


def undistort(points_m: Array, times_s: Array, knots_s: Array, reference_T_knots: Array) -> Array:
    """Points (N, 3) as the sensor at one instant would have seen them, in the points' dtype.

    times_s (N,): when each was measured. knots_s (K + 1,), ascending, reference_T_knots (K + 1, 4, 4): the sensor's
    poses relative to that instant. Between two knots a pose is interpolated entry by entry, which for 5 ms at 3 rad/s
    is wrong by 3e-5 of a point's distance; before the first and after the last the nearest interval goes on. Points in
    order of time, as scanners send them, are spared a sort.
    """
    if (np.diff(times_s) < 0.0).any():
        order = np.argsort(times_s, kind="stable")
        result = np.empty_like(points_m)
        result[order] = undistort(points_m[order], times_s[order], knots_s, reference_T_knots)
        return result

    dtype, result = points_m.dtype, np.empty_like(points_m)
    cuts = [0, *np.searchsorted(times_s, knots_s[1:-1]).tolist(), len(times_s)]
    poses = reference_T_knots[:, :3].astype(dtype)
    for k in np.flatnonzero(np.diff(cuts)).tolist():
        part = slice(cuts[k], cuts[k + 1])
        share = ((times_s[part] - knots_s[k]) / (knots_s[k + 1] - knots_s[k])).astype(dtype)
        first, change = poses[k], poses[k + 1] - poses[k]
        moved = np.einsum("ni,ji->nj", points_m[part], change[:, :3]) + change[:, 3]
        result[part] = np.einsum("ni,ji->nj", points_m[part], first[:, :3]) + first[:, 3] + share[:, None] * moved
    return result
