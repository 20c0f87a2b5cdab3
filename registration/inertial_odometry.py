"""LiDAR-inertial odometry: the IMU predicts and undistorts each sweep, and its fit with a local map corrects the state.

The filter is registration.inertial, after FAST-LIO2; the correction is registration.inertial_fit; the map, the last few
keyframes, is LiDAR-only odometry's. A sweep is worked on at its reference time: its stamp, or its last point if that is
later. Results are at the stamp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from registration.imu_readings import ImuBuffer, ImuConfig, initial_belief
from registration.inertial import (
    EXTRINSIC,
    SIZE,
    InertialState,
    Propagation,
    Readings,
    lidar_jacobian,
    propagate,
    undistort,
)
from registration.inertial_fit import Fit, Sweep, fit, prepare
from registration.odometry import LocalMap, OdometryConfig, OdometryResult, Status, within_range
from tercel.core.errors import Rejected
from tercel.core.frames import interpolate_pose
from tercel.core.geometry import inverse, skew, so3_log

Array = NDArray[Any]
Health = Literal["tracking", "degraded", "lost"]

MAX_SWEEP_S = 1.0
MAX_BRIDGE_S = 10.0
INITIAL_S = 1.0
SKEW_M = 0.1


@dataclass(frozen=True)
class InertialOdometryConfig(OdometryConfig, ImuConfig):
    """What OdometryConfig and ImuConfig have, and:

    updates: how often at most a sweep's partners are sought anew. point_weight: how much of GICP's information counts,
    since neighbouring points share their errors. extrinsic_m, extrinsic_rad: how well the given imu_T_lidar is known
    (standard deviations); 0 keeps it as it is.
    """

    updates: int = 5
    point_weight: float = 0.05
    extrinsic_m: float = 0.0
    extrinsic_rad: float = 0.0

    def __post_init__(self) -> None:
        OdometryConfig.__post_init__(self)
        ImuConfig.__post_init__(self)
        if self.updates < 1:
            raise ValueError(f"updates must be 1 or more, not {self.updates}")
        if not 0.0 < self.point_weight < np.inf:
            raise ValueError(f"point_weight must be above 0, not {self.point_weight}")
        for name in ("extrinsic_m", "extrinsic_rad"):
            if not 0.0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class InertialResult(OdometryResult):
    """An OdometryResult, and the filter's state after it, at the sweep's reference time."""

    covariance: Array | None
    health: Health
    degenerate_directions: Array
    keyframe: bool
    state: InertialState


@dataclass(frozen=True, eq=False)
class Path:
    """The LiDAR's way through one sweep: poses relative to the reference time's (K + 1, 4, 4), and when (K + 1,) s."""

    times_s: Array
    reference_T_lidar: Array

    @classmethod
    def of(cls, predicted: Propagation, readings: Readings) -> Path:
        """The predicted way."""
        times_s = np.concatenate([[0.0], np.cumsum(readings.seconds)])
        lidar = predicted.odom_T_imu @ predicted.state.imu_T_lidar
        return cls(times_s - times_s[-1], inverse(lidar[-1]) @ lidar)

    def faster_by(self, velocity_mps: Array) -> Path:
        """The same way, but for a velocity (3,) in the reference's axes."""
        poses = self.reference_T_lidar.copy()
        poses[:, :3, 3] += self.times_s[:, None] * velocity_mps
        return Path(self.times_s, poses)

    def at(self, time_s: float) -> Array:
        """reference_T_lidar (4, 4) at one time; beyond the ends that of the nearest end."""
        k = int(np.clip(np.searchsorted(self.times_s, time_s) - 1, 0, len(self.times_s) - 2))
        share = float(np.clip((time_s - self.times_s[k]) / (self.times_s[k + 1] - self.times_s[k]), 0.0, 1.0))
        return interpolate_pose(self.reference_T_lidar[k], self.reference_T_lidar[k + 1], share)

    def undistort(self, points_m: Array, times_s: Array) -> Array:
        """Points (N, 3), measured at times (N,), as seen at the reference time."""
        return undistort(points_m, times_s, self.times_s, self.reference_T_lidar)


class InertialOdometry:
    """Follows one LiDAR with an IMU fixed to it. The odometry frame is the LiDAR's at the first sweep.

    Feed both in order of time, a sweep's readings before the sweep. counters: what was found wrong so far.
    """

    def __init__(self, imu_T_lidar: Array, config: InertialOdometryConfig | None = None) -> None:
        self.config = InertialOdometryConfig() if config is None else config
        self.map = LocalMap(self.config)
        self.counters = dict.fromkeys(("saturated_readings", "sweeps_without_imu", "predicted", "begun_in_motion"), 0)
        self._imu_T_lidar = imu_T_lidar
        self._readings = ImuBuffer(self.config)
        self._state: InertialState | None = None
        self._covariance = np.zeros((0, 0))
        self._reference_ns = self._stamp_ns = 0
        self._rate_radps = np.zeros(3)  # what the gyroscope would have said on the last sweep's whole way
        self._path: tuple[Path, float] | None = None
        self._failures = 0

    def add_imu(self, stamp_ns: int, gyro_radps: Array, accel_mps2: Array) -> None:
        """Take one reading, (3,) and (3,). Raises Rejected if it is not finite or not later than the one before."""
        self._readings.add(stamp_ns, gyro_radps, accel_mps2)
        self.counters["saturated_readings"] = self._readings.saturated

    def step(self, points_m: Array, stamp_ns: int, time_offset_s: Array | None = None) -> InertialResult:
        """Take one sweep: points (N, 3) in the LiDAR's frame, and when each was measured after stamp_ns, (N,).

        A sweep with too few usable points is answered with the prediction. Raises Rejected, and leaves the state as it
        was, if the stamp is not after the one before, and for too few points while there is no map yet.
        """
        points_m, offsets_s = self._usable(points_m, time_offset_s)
        to_stamp_s = -max(0.0, float(offsets_s.max(initial=0.0)))
        reference_ns = stamp_ns - round(to_stamp_s * 1e9)
        if self._state is None:
            return self._start(points_m, offsets_s + to_stamp_s, stamp_ns, reference_ns)
        if stamp_ns <= self._stamp_ns or reference_ns <= self._reference_ns:
            raise Rejected("stamp not after the one before")
        if reference_ns - self._reference_ns > MAX_BRIDGE_S * 1e9:
            return self._start(points_m, offsets_s + to_stamp_s, stamp_ns, reference_ns)

        readings = self._readings.between(self._reference_ns, reference_ns, self._rate_radps)
        predicted = propagate(self._state, self._covariance, readings, self.config.gyro_walk, self.config.accel_walk)
        path = Path.of(predicted, readings)
        sweep = self._prepared(path.undistort(points_m, offsets_s + to_stamp_s))
        found = self._fit(sweep, predicted)
        if sweep is not None and found is not None:
            faster = found.state.odom_T_lidar[:3, :3].T @ (found.state.velocity_mps - predicted.state.velocity_mps)
            if np.linalg.norm(faster) * -path.times_s[0] > SKEW_M:  # the sweep had been bent by a wrong velocity
                path = path.faster_by(faster)
                sweep = self._prepared(path.undistort(points_m, offsets_s + to_stamp_s))
                found = self._fit(sweep, predicted)
        return self._finish(predicted, sweep, found, path, readings, stamp_ns, reference_ns)

    def undistorted(self, points_m: Array, time_offset_s: Array) -> Array:
        """Points (N, 3) of the last sweep as seen at its stamp; as they are while the way is unknown."""
        if self._path is None:
            return points_m
        path, to_stamp_s = self._path
        moved = inverse(path.at(to_stamp_s)) @ path.reference_T_lidar
        return undistort(points_m, time_offset_s + to_stamp_s, path.times_s, moved)

    def _usable(self, points_m: Array, time_offset_s: Array | None) -> tuple[Array, Array]:
        """The points in range, and their times, 0 without deskewing."""
        usable = within_range(points_m, self.config.min_range_m, self.config.max_range_m)
        if time_offset_s is None or not self.config.deskew:
            return points_m[usable], np.zeros(int(usable.sum()))
        usable &= np.abs(time_offset_s) <= MAX_SWEEP_S  # no NaN either
        return points_m[usable], time_offset_s[usable].astype(np.float64)

    def _prepared(self, points_m: Array) -> Sweep | None:
        config = self.config
        return prepare(points_m, config.map_voxel_m, config.scan_voxel_m, config.neighbours, config.min_points)

    def _fit(self, sweep: Sweep | None, predicted: Propagation) -> Fit | None:
        """The corrected state, None if there is nothing to correct it with or too little of it fits."""
        if sweep is None:
            return None
        config = self.config
        found = fit(
            self.map,
            sweep,
            predicted,
            updates=config.updates,
            reach_m=config.reach_m,
            match_m=config.match_m,
            point_weight=config.point_weight,
        )
        return found if found.overlap >= config.min_overlap and np.isfinite(found.state.odom_T_imu).all() else None

    def _start(self, points_m: Array, times_s: Array, stamp_ns: int, reference_ns: int) -> InertialResult:
        """Begin a map with this sweep: at the origin, or, after a long break, where the state was left."""
        seconds, gyro, accel = self._readings.since(reference_ns)
        first = (seconds <= 0.0) & (seconds > -INITIAL_S)
        state, covariance, at_rest = initial_belief(gyro[first], accel[first], self._imu_T_lidar, self.config)
        sweep = self._prepared(self._turned_back(points_m, times_s, state, reference_ns))
        if sweep is None:
            raise Rejected("too few usable points")
        scale = np.repeat([self.config.extrinsic_m, self.config.extrinsic_rad], 3)
        covariance[EXTRINSIC, EXTRINSIC] = np.diag(scale**2)
        status: Status = "started"
        if self._state is not None:
            state, status = _moved_to(state, self._state), "restarted"
            self.map.clear()
        self.counters["begun_in_motion"] += not at_rest
        self._state, self._covariance = state, covariance
        self._stamp_ns, self._reference_ns, self._path, self._failures = stamp_ns, reference_ns, None, 0
        self._rate_radps = state.gyro_bias_radps
        self.map.add(sweep.dense_m, state.odom_T_lidar)
        health: Health = "tracking" if at_rest else "degraded"
        return InertialResult(
            status, state.odom_T_lidar, None, 0.0, 0, None, None, health, np.zeros((0, 6)), True, state
        )

    def _turned_back(self, points_m: Array, times_s: Array, state: InertialState, reference_ns: int) -> Array:
        """The first sweep's points without the gyroscope's turn; how fast the sensor moves is not known yet."""
        duration_ns = round(-1e9 * float(times_s.min(initial=0.0)))
        if duration_ns == 0:
            return points_m
        readings = self._readings.between(reference_ns - duration_ns, reference_ns, state.gyro_bias_radps)
        turning = replace(readings, felt=np.zeros(len(readings.seconds), dtype=bool))
        turned = propagate(state, np.zeros((SIZE, SIZE)), turning, 0.0, 0.0)
        return Path.of(turned, readings).undistort(points_m, times_s)

    def _finish(
        self,
        predicted: Propagation,
        sweep: Sweep | None,
        found: Fit | None,
        path: Path,
        readings: Readings,
        stamp_ns: int,
        reference_ns: int,
    ) -> InertialResult:
        """Take over the state, look after the map, and say how it went."""
        before = self._state
        assert before is not None
        self._failures = 0 if found is not None else self._failures + 1
        lost = self._failures > self.config.max_predicted and sweep is not None
        state, covariance = (
            (predicted.state, predicted.covariance) if found is None else (found.state, found.covariance)
        )
        if found is not None:
            turned = so3_log(before.odom_T_imu[:3, :3].T @ state.odom_T_imu[:3, :3])
            self._rate_radps = turned / -path.times_s[0] + state.gyro_bias_radps
        if lost:
            self.map.clear()
            self._failures = 0
        keyframe = lost or (found is not None and self.map.is_left_behind_by(state.odom_T_lidar))
        if keyframe and sweep is not None:
            self.map.add(sweep.dense_m, state.odom_T_lidar)
        self._state, self._covariance = state, covariance
        self._stamp_ns, self._reference_ns = stamp_ns, reference_ns
        to_stamp_s = (stamp_ns - reference_ns) * 1e-9
        self._path = path, to_stamp_s
        self._readings.forget_before(reference_ns)
        self.counters["predicted"] += found is None
        self.counters["sweeps_without_imu"] += not readings.felt.any()

        open_directions = np.zeros((0, 6)) if sweep is None else sweep.open_directions
        sound = found is not None and len(open_directions) == 0 and readings.felt.all()
        health: Health = "lost" if lost else "tracking" if sound else "degraded"
        status: Status = "restarted" if lost else "predicted" if found is None else "registered"
        reference_T_stamp = path.at(to_stamp_s)
        return InertialResult(
            status,
            state.odom_T_lidar @ reference_T_stamp,
            self._twist(state, readings),
            0.0 if found is None else found.overlap,
            0 if found is None else found.iterations,
            None if found is None else found.information,
            _pose_covariance(state, covariance, reference_T_stamp),
            health,
            open_directions,
            keyframe,
            state,
        )

    def _twist(self, state: InertialState, readings: Readings) -> Array:
        """Velocity and turn rate (6,) in the LiDAR's frame at the reference time."""
        lidar_R_imu = state.imu_T_lidar[:3, :3].T
        rate = readings.gyro_radps[-1] - state.gyro_bias_radps
        velocity = state.odom_T_imu[:3, :3].T @ state.velocity_mps + np.cross(rate, state.imu_T_lidar[:3, 3])
        return np.concatenate([lidar_R_imu @ velocity, lidar_R_imu @ rate])


def _moved_to(state: InertialState, place: InertialState) -> InertialState:
    """A fresh state, whose LiDAR is at the origin, where another state's LiDAR is."""
    odom_T_fresh = place.odom_T_lidar
    return InertialState(
        odom_T_fresh @ state.odom_T_imu,
        odom_T_fresh[:3, :3] @ state.velocity_mps,
        state.gyro_bias_radps,
        state.accel_bias_mps2,
        odom_T_fresh[:3, :3] @ state.odom_R_level,
        state.imu_T_lidar,
    )


def _pose_covariance(state: InertialState, covariance: Array, lidar_T_other: Array) -> Array:
    """Covariance (6, 6) of odom_T_lidar @ lidar_T_other, translation first, in the other frame."""
    other_T_lidar = inverse(lidar_T_other)
    adjoint = np.zeros((6, 6))
    adjoint[:3, :3] = adjoint[3:, 3:] = other_T_lidar[:3, :3]
    adjoint[:3, 3:] = skew(other_T_lidar[:3, 3]) @ other_T_lidar[:3, :3]
    jacobian = adjoint @ lidar_jacobian(state)
    result: Array = jacobian @ covariance @ jacobian.T
    return result
