"""What an IMU said, made ready for registration.inertial: bounded, checked, cut to a sweep, with its faults marked.

A reading at the end of its range says only "this or more": it is kept, counted, and given a noise as wide as the range.
One beyond it, which no such IMU can have felt, is taken for one at the end: one wild number must not throw the state.
Where readings are missing for longer than max_gap_s the intervals are marked as not felt, and the turn rate is held.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.inertial import (
    ACCEL_BIAS,
    EXTRINSIC,
    GRAVITY_MPS2,
    GYRO_BIAS,
    LEVEL,
    POSITION,
    ROTATION,
    SIZE,
    SPEED,
    InertialState,
    Readings,
    lidar_jacobian,
)
from registration.stamps import StampOrder
from tercel.core.errors import Rejected
from tercel.core.geometry import inverse, skew, so3_exp

Array = NDArray[Any]

COAST_STEP_S = 0.01
COAST_GYRO_DENSITY, COAST_ACCEL_DENSITY = 0.3, 1.5  # after 0.1 s: 0.1 rad and 0.5 m/s
SATURATED_SHARE = 0.5  # of the range: how much more than its end a saturated reading may hide, as a standard deviation
_NEAR_END = 0.998
_CAPACITY = 4096
_NO_SECONDS = 1e-9


@dataclass(frozen=True)
class ImuConfig:
    """An IMU's data sheet; the defaults suit a small MEMS one on a machine that vibrates.

    gyro_density, accel_density: white noise in rad/s and m/s^2 per sqrt(Hz). gyro_walk, accel_walk: random walks of the
    biases, rad/s^2 and m/s^3 per sqrt(Hz). gyro_bias_radps, accel_bias_mps2: how large the biases are at switching on
    (standard deviations). gyro_range_radps, accel_range_mps2: where readings are clipped. max_gap_s: readings farther
    apart do not speak for the time between them.
    """

    gyro_density: float = 5e-4
    accel_density: float = 1e-2
    gyro_walk: float = 2e-5
    accel_walk: float = 2e-4
    gyro_bias_radps: float = 0.01
    accel_bias_mps2: float = 0.1
    gyro_range_radps: float = 34.9
    accel_range_mps2: float = 157.0
    max_gap_s: float = 0.05

    def __post_init__(self) -> None:
        for name in ImuConfig.__dataclass_fields__:
            if not 0.0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


class ImuBuffer:
    """The newest readings, in order of time. `saturated` counts those at the end of the range."""

    def __init__(self, config: ImuConfig) -> None:
        self.config = config
        self.saturated = 0
        self._order = StampOrder("IMU stamp")
        self._ranges = np.repeat([config.gyro_range_radps, config.accel_range_mps2], 3)
        self._stamps_ns: deque[int] = deque(maxlen=_CAPACITY)
        self._values: deque[Array] = deque(maxlen=_CAPACITY)

    def __len__(self) -> int:
        return len(self._stamps_ns)

    def add(self, stamp_ns: int, gyro_radps: Array, accel_mps2: Array) -> None:
        """Take one reading, (3,) and (3,).

        Raises Rejected if it is not finite, feels nothing at all, or is not later than the one before. Where the clock
        has leapt (registration.stamps), readings that claim to be later than this one are forgotten.
        """
        value = np.concatenate([gyro_radps, accel_mps2])
        if not np.isfinite(value).all():
            raise Rejected("IMU reading is not finite")
        if not value.any():
            raise Rejected("IMU reading is all zeros: the IMU is not running")
        self._order.step_ns(stamp_ns)
        self._order.accept(stamp_ns)
        while self._stamps_ns and self._stamps_ns[-1] >= stamp_ns:
            self._stamps_ns.pop()
            self._values.pop()
        self.saturated += bool(self._at_the_end(value).any())
        self._stamps_ns.append(stamp_ns)
        self._values.append(np.clip(value, -self._ranges, self._ranges))

    def forget_before(self, stamp_ns: int) -> None:
        """Drop readings that no interval from stamp_ns on needs: all but the last one at or before it."""
        while len(self._stamps_ns) > 1 and self._stamps_ns[1] <= stamp_ns:
            self._stamps_ns.popleft()
            self._values.popleft()

    def since(self, stamp_ns: int) -> tuple[Array, Array, Array]:
        """Times (M,) s after stamp_ns, gyroscope (M, 3) and accelerometer (M, 3) of all readings."""
        seconds = np.array([stamp - stamp_ns for stamp in self._stamps_ns], dtype=np.float64) * 1e-9
        values = np.array(self._values, dtype=np.float64).reshape(-1, 6)
        return seconds, values[:, :3], values[:, 3:]

    def _at_the_end(self, values: Array) -> Array:
        """Mask of values (..., 6) at or beyond the range."""
        result: Array = np.abs(values) >= _NEAR_END * self._ranges
        return result

    def between(self, start_ns: int, end_ns: int, coast_radps: Array) -> Readings:
        """The readings from start_ns to end_ns as intervals between them.

        Values at the ends are interpolated; where one end has no reading beyond it, the nearest reading is held, but
        for no longer than max_gap_s. coast_radps (3,): the gyroscope's value where there is no reading.
        """
        config = self.config
        stamps_s, gyro, accel = self.since(start_ns)
        duration_s = (end_ns - start_ns) * 1e-9
        inside = (stamps_s > _NO_SECONDS) & (stamps_s < duration_s - _NO_SECONDS)
        ends = _without_long_steps(np.concatenate([[0.0], stamps_s[inside], [duration_s]]), config.max_gap_s)
        middle, seconds = 0.5 * (ends[:-1] + ends[1:]), np.diff(ends)
        if len(stamps_s) == 0:
            return _coasting(seconds, coast_radps)

        values = np.concatenate([gyro, accel], axis=1)
        at = np.stack([np.interp(ends, stamps_s, column) for column in values.T], axis=1)
        mean = 0.5 * (at[:-1] + at[1:])
        after = np.searchsorted(stamps_s, middle)
        before_s = np.where(after > 0, stamps_s[np.maximum(after - 1, 0)], stamps_s[0])
        after_s = np.where(after < len(stamps_s), stamps_s[np.minimum(after, len(stamps_s) - 1)], stamps_s[-1])
        outside = np.where(
            middle < stamps_s[0], stamps_s[0], np.where(middle > stamps_s[-1], duration_s - stamps_s[-1], 0)
        )
        felt = np.maximum(after_s - before_s, outside) <= config.max_gap_s
        saturated = self._at_the_end(at[:-1]) | self._at_the_end(at[1:])
        return _marked(config, seconds, mean, felt, saturated, coast_radps)


def _marked(
    config: ImuConfig, seconds: Array, mean: Array, felt: Array, saturated: Array, coast_radps: Array
) -> Readings:
    """Intervals with the noise that their faults deserve."""
    ranges = SATURATED_SHARE * np.repeat([config.gyro_range_radps, config.accel_range_mps2], 3)
    density = np.repeat([config.gyro_density, config.accel_density], 3)
    density = np.where(saturated, ranges * np.sqrt(seconds)[:, None], density)
    coasting = _coasting(seconds, coast_radps)
    at = felt[:, None]
    return Readings(
        seconds,
        np.where(at, mean[:, :3], coasting.gyro_radps),
        np.where(at, mean[:, 3:], 0.0),
        np.where(at, density[:, :3], coasting.gyro_density),
        np.where(at, density[:, 3:], coasting.accel_density),
        felt,
    )


def _coasting(seconds: Array, coast_radps: Array) -> Readings:
    """Intervals without any reading."""
    shape = (len(seconds), 3)
    return Readings(
        seconds,
        np.broadcast_to(coast_radps, shape),
        np.zeros(shape),
        np.full(shape, COAST_GYRO_DENSITY),
        np.full(shape, COAST_ACCEL_DENSITY),
        np.zeros(len(seconds), dtype=bool),
    )


def _without_long_steps(ends_s: Array, max_gap_s: float) -> Array:
    """The ends of intervals, those longer than max_gap_s cut into short ones, so that poses between them stay true."""
    pieces = [
        np.linspace(a, b, int(np.ceil((b - a) / COAST_STEP_S)) + 1)[:-1] if b - a > max_gap_s else np.array([a])
        for a, b in pairwise(ends_s.tolist())
    ]
    return np.concatenate([*pieces, ends_s[-1:]])


def is_at_rest(gyro_radps: Array, accel_mps2: Array) -> bool:
    """Whether readings (M, 3) may come from an IMU that neither turns nor accelerates.

    Their means must be a plausible bias and gravity, and those of both halves the same but for the readings' own noise;
    steady motion on a straight line looks just like rest, to an IMU.
    """
    half = len(gyro_radps) // 2
    if half < 4:
        return False
    noise = np.sqrt(2.0 / half)
    turning = np.abs(gyro_radps[half:].mean(axis=0) - gyro_radps[:half].mean(axis=0)).max()
    changing = np.abs(accel_mps2[half:].mean(axis=0) - accel_mps2[:half].mean(axis=0)).max()
    return bool(
        np.linalg.norm(gyro_radps.mean(axis=0)) < 0.05
        and abs(np.linalg.norm(accel_mps2.mean(axis=0)) - GRAVITY_MPS2) < 0.5
        and turning < 0.02 + 3.0 * noise * gyro_radps.std(axis=0).max()
        and changing < 0.1 + 3.0 * noise * accel_mps2.std(axis=0).max()
    )


def initial_belief(
    gyro_radps: Array, accel_mps2: Array, imu_T_lidar: Array, config: ImuConfig, extrinsic_variance: Array | None = None
) -> tuple[InertialState, Array, bool]:
    """State, covariance (23, 23) and whether the IMU seems at rest, from the first readings (M, 3), M may be 0.

    The LiDAR is at the odometry frame's origin, along its axes. At rest the mean of the gyroscope is its bias and that
    of the accelerometer shows where up is, wrong by the accelerometer's own bias: the two errors are correlated. In
    motion the bias is taken as 0, and up may be 20 degrees off. The velocity is unknown in both cases: steady motion
    looks like rest. extrinsic_variance (6,): of imu_T_lidar's tangent, None for a known one. As the LiDAR is where it
    is, an error of it is one of the IMU's pose, the other way round, and so one of the level frame.
    """
    at_rest = is_at_rest(gyro_radps, accel_mps2)
    odom_R_imu = inverse(imu_T_lidar)[:3, :3]
    up = accel_mps2.mean(axis=0) if len(accel_mps2) else odom_R_imu.T @ [0.0, 0.0, 1.0]
    odom_R_level = _rotation_with_z(odom_R_imu @ up / max(float(np.linalg.norm(up)), _NO_SECONDS))
    state = InertialState(
        inverse(imu_T_lidar),
        np.zeros(3),
        gyro_radps.mean(axis=0) if at_rest else np.zeros(3),
        np.zeros(3),
        odom_R_level,
        imu_T_lidar,
    )
    covariance = np.zeros((SIZE, SIZE))
    covariance[SPEED, SPEED] = np.eye(3) * 10.0**2
    covariance[GYRO_BIAS, GYRO_BIAS] = np.eye(3) * (0.5 if at_rest else 2.0) ** 2 * config.gyro_bias_radps**2
    covariance[ACCEL_BIAS, ACCEL_BIAS] = np.eye(3) * config.accel_bias_mps2**2
    # the level frame's rotation by (x, y) shows as a specific force of g (y, -x) in its axes, which is what a bias does
    tilt_by_bias = (odom_R_level.T @ odom_R_imu)[[1, 0]] * np.array([[1.0], [-1.0]]) / GRAVITY_MPS2
    covariance[LEVEL, ACCEL_BIAS] = tilt_by_bias * config.accel_bias_mps2**2
    covariance[ACCEL_BIAS, LEVEL] = covariance[LEVEL, ACCEL_BIAS].T
    covariance[LEVEL, LEVEL] = np.eye(2) * (0.01 if at_rest else 0.35) ** 2
    covariance[LEVEL, LEVEL] += tilt_by_bias @ tilt_by_bias.T * config.accel_bias_mps2**2
    covariance[POSITION, POSITION] = covariance[ROTATION, ROTATION] = np.eye(3) * 1e-8
    if extrinsic_variance is not None:
        by_extrinsic = np.zeros((SIZE, 6))
        by_extrinsic[EXTRINSIC] = np.eye(6)
        by_extrinsic[:6] = -np.linalg.inv(lidar_jacobian(state)[:, :6])
        felt = odom_R_level.T @ odom_R_imu @ skew(up) / max(float(np.linalg.norm(up)), _NO_SECONDS)
        by_extrinsic[LEVEL] = felt[[1, 0]] * np.array([[1.0], [-1.0]]) @ by_extrinsic[ROTATION]
        covariance += by_extrinsic @ np.diag(extrinsic_variance) @ by_extrinsic.T
    return state, covariance, at_rest


def _rotation_with_z(up: Array) -> Array:
    """The shortest rotation (3, 3) whose z axis is a unit vector (3,)."""
    axis = np.cross([0.0, 0.0, 1.0], up)
    sine = float(np.linalg.norm(axis))
    if sine < _NO_SECONDS:
        return np.diag([1.0, -1.0, -1.0]) if up[2] < 0 else np.eye(3)
    result: Array = so3_exp(axis / sine * np.arctan2(sine, up[2]))
    return result
