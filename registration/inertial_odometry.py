"""LiDAR-inertial odometry: the IMU predicts and undistorts each sweep, and its fit with a local map corrects the state.

The filter is registration.inertial, after FAST-LIO2; the correction is registration.inertial_fit; the map, the last few
keyframes, is LiDAR-only odometry's. A sweep is worked on at its reference time: its stamp, or its last point if that is
later. Results are at the stamp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.imu_readings import ImuBuffer, ImuConfig, initial_belief
from registration.inertial import (
    SIZE,
    InertialState,
    Propagation,
    Readings,
    lidar_jacobian,
    propagate,
    undistort,
)
from registration.inertial_fit import Fit, fit, thin
from registration.local_map import LocalMap
from registration.odometry import carried
from registration.odometry_config import ScanConfig
from registration.odometry_result import Health, OdometryResult, Status
from registration.stamps import StampOrder
from registration.sweep import within_range
from tercel.core.errors import Rejected
from tercel.core.frames import interpolate_pose
from tercel.core.geometry import inverse, so3_log

Array = NDArray[Any]

MAX_SWEEP_S = 1.0
MAX_BRIDGE_S = 10.0
INITIAL_S = 1.0
_NOTHING_OPEN = np.zeros((0, 6))


@dataclass(frozen=True)
class InertialOdometryConfig(ScanConfig, ImuConfig):
    """What ScanConfig and ImuConfig have, and the following.

    max_iterations (MapConfig's): how often at most a sweep's partners are sought. max_predicted (ScanConfig's): after
    so many sweeps the map is begun anew where the prediction puts it.
    bend_m: a sweep is straightened again if the velocity found would move its beginning by more than this.
    point_noise_m: standard deviation of a point's distance from its plane; wider than a range's, since neighbours share
    their errors.
    extrinsic_m, extrinsic_rad: how well the given imu_T_lidar is known (standard deviations); 0 keeps it as it is.
    """

    max_iterations: int = 6
    bend_m: float = 0.05
    point_noise_m: float = 0.05
    extrinsic_m: float = 0.0
    extrinsic_rad: float = 0.0

    def __post_init__(self) -> None:
        ScanConfig.__post_init__(self)
        ImuConfig.__post_init__(self)
        self._require_positive("bend_m", "point_noise_m")
        self._require_at_least(max_iterations=2, extrinsic_m=0, extrinsic_rad=0)


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

    @property
    def duration_s(self) -> float:
        """How long the way took."""
        return float(self.times_s[-1] - self.times_s[0])

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

    Feed both in order of time, a sweep's readings before the sweep; readings: those that came before the LiDAR's place
    on the robot was known. counters: what was found wrong so far. Results are
    those of ScanToMapOdometry, but for three things: a sweep without enough points is "predicted", not rejected; one
    that is "predicted" or "restarted" has a covariance, the filter's; nothing is sought by global registration.
    """

    def __init__(
        self, imu_T_lidar: Array, config: InertialOdometryConfig | None = None, readings: ImuBuffer | None = None
    ) -> None:
        self.config = InertialOdometryConfig() if config is None else config
        self.map = LocalMap(self.config)
        self.state: InertialState | None = None
        self.counters = dict.fromkeys(("saturated_readings", "sweeps_without_imu", "predicted", "begun_in_motion"), 0)
        self._imu_T_lidar = imu_T_lidar
        self._readings = ImuBuffer(self.config) if readings is None else readings
        self.counters["saturated_readings"] = self._readings.saturated
        self._filter_covariance = np.zeros((SIZE, SIZE))
        self._covariance, self._drift = np.zeros((6, 6)), np.zeros((6, 6))
        self._reference_ns = self._stamp_ns = 0
        self._order = StampOrder()
        self._rate_radps = np.zeros(3)  # what the gyroscope would have said on the last sweep's whole way
        self._path: Path | None = None
        self._failures = 0

    def add_imu(self, stamp_ns: int, gyro_radps: Array, accel_mps2: Array) -> None:
        """Take one reading, (3,) and (3,). Raises Rejected as ImuBuffer.add does."""
        self._readings.add(stamp_ns, gyro_radps, accel_mps2)
        self.counters["saturated_readings"] = self._readings.saturated

    def step(self, points_m: Array, stamp_ns: int, time_offset_s: Array | None = None) -> OdometryResult:
        """Take one sweep: points (N, 3) in the LiDAR's frame, and when each was measured after stamp_ns, (N,).

        A sweep with too few usable points is answered with the prediction. Raises Rejected, and leaves the state as it
        was, if the stamp is not after the one before, and for too few points while there is no map yet.
        """
        points_m, times_s = self._usable(points_m, time_offset_s)
        late_ns = max(0, round(1e9 * float(times_s.max(initial=0.0))))
        reference_ns, times_s = stamp_ns + late_ns, times_s - late_ns * 1e-9
        if self.state is None:
            return self._start(points_m, times_s, stamp_ns, reference_ns)
        leapt = self._order.step_ns(stamp_ns) is None
        if reference_ns <= self._reference_ns and not leapt:
            raise Rejected("stamp not after the one before")
        if leapt or reference_ns - self._reference_ns > MAX_BRIDGE_S * 1e9:
            return self._start(points_m, times_s, stamp_ns, reference_ns)

        config = self.config
        readings = self._readings.between(self._reference_ns, reference_ns, self._rate_radps)
        predicted = propagate(self.state, self._filter_covariance, readings, config.gyro_walk, config.accel_walk)
        path = Path.of(predicted, readings)
        dense, found = self._fit(path.undistort(points_m, times_s), predicted)
        faster = np.zeros(3) if found is None else found.state.velocity_mps - predicted.state.velocity_mps
        if np.linalg.norm(faster) * path.duration_s > config.bend_m:
            path = path.faster_by(predicted.state.odom_T_lidar[:3, :3].T @ faster)
            dense, found = self._fit(path.undistort(points_m, times_s), predicted)
        if found is not None and found.overlap < config.min_overlap:
            found = None
        self._readings.forget_before(reference_ns)
        self._order.accept(stamp_ns)
        self._stamp_ns, self._reference_ns, self._path = stamp_ns, reference_ns, path
        self.counters["sweeps_without_imu"] += not readings.felt.any()
        if found is None:
            return self._go_on_without(predicted, dense, readings)
        return self._follow(found, dense, readings)

    def pose_covariance(self) -> Array:
        """Covariance (6, 6) of the last pose in the odometry frame: the result's, and what the map has drifted.

        m^2 and rad^2, x y z rx ry rz in the sensor's frame. Zero at the first sweep, which defines the frame.
        """
        result: Array = self._covariance + self._drift
        return result

    def undistorted(self, points_m: Array, time_offset_s: Array) -> Array:
        """Points (N, 3) of the last sweep as seen at its stamp; as they are where the time or the way is not known."""
        if self._path is None:
            return points_m
        late_s = (self._reference_ns - self._stamp_ns) * 1e-9
        stamp_T_lidar = inverse(self._path.at(-late_s)) @ self._path.reference_T_lidar
        result: Array = points_m.copy()
        timed = np.abs(time_offset_s) <= MAX_SWEEP_S
        times_s = time_offset_s[timed].astype(np.float64) - late_s
        result[timed] = undistort(points_m[timed], times_s, self._path.times_s, stamp_T_lidar)
        return result

    def _usable(self, points_m: Array, time_offset_s: Array | None) -> tuple[Array, Array]:
        """The points in range, and their times, 0 without deskewing."""
        usable = within_range(points_m, self.config.min_range_m, self.config.max_range_m)
        if time_offset_s is None or not self.config.deskew:
            return points_m[usable], np.zeros(int(usable.sum()))
        usable &= np.abs(time_offset_s) <= MAX_SWEEP_S  # no NaN either
        return points_m[usable], time_offset_s[usable].astype(np.float64)

    def _thin(self, points_m: Array) -> tuple[Array, small_gicp.PointCloud] | None:
        """The sweep for the map and for the fit, None if too little is left."""
        config = self.config
        if len(points_m) < config.min_points:
            return None
        dense, scan = thin(points_m, config.map_voxel_m, config.scan_voxel_m, config.neighbours)
        return None if scan.size() < config.min_points else (dense, scan)

    def _fit(self, points_m: Array, predicted: Propagation) -> tuple[Array | None, Fit | None]:
        """The sweep for the map, and the corrected state, each None if there is none."""
        thinned, config = self._thin(points_m), self.config
        if thinned is None:
            return None, None
        found = fit(
            self.map,
            thinned[1],
            predicted,
            updates=config.max_iterations,
            reach_m=config.reach_m,
            match_m=config.match_m,
            point_noise_m=config.point_noise_m,
        )
        return thinned[0], found if found is not None and np.isfinite(found.state.odom_T_imu).all() else None

    def _start(self, points_m: Array, times_s: Array, stamp_ns: int, reference_ns: int) -> OdometryResult:
        """Begin a map with this sweep: at the origin, or, after a long break, where the state was left."""
        seconds, gyro, accel = self._readings.since(reference_ns)
        first = (seconds <= 0.0) & (seconds > -INITIAL_S)
        config = self.config
        variance = np.square(np.repeat([config.extrinsic_m, config.extrinsic_rad], 3))
        state, covariance, at_rest = initial_belief(gyro[first], accel[first], self._imu_T_lidar, config, variance)
        thinned = self._thin(self._turned_back(points_m, times_s, state, reference_ns))
        if thinned is None:
            raise Rejected("too few usable points")
        status: Status = "started"
        if self.state is not None:
            state, status = _moved_to(state, self.state), "restarted"
            self.map.clear()
        self.counters["begun_in_motion"] += not at_rest
        self.state, self._filter_covariance = state, covariance
        self._order.accept(stamp_ns)
        self._stamp_ns, self._reference_ns, self._path, self._failures = stamp_ns, reference_ns, None, 0
        self._rate_radps = state.gyro_bias_radps
        self.map.add(thinned[0], state.odom_T_lidar)
        health: Health = "lost" if status == "restarted" else "tracking" if at_rest else "degraded"
        return OdometryResult(
            status, state.odom_T_lidar, None, 0.0, 0, None, None, health, _NOTHING_OPEN, keyframe=True
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

    def _follow(self, found: Fit, dense: Array | None, readings: Readings) -> OdometryResult:
        """The corrected state stands."""
        config, state = self.config, found.state
        before = self._take(state, found.covariance, found.pose_covariance)
        turned = so3_log(before.odom_T_imu[:3, :3].T @ state.odom_T_imu[:3, :3])
        self._rate_radps = turned / readings.seconds.sum() + state.gyro_bias_radps
        self._failures = 0
        keyframe = dense is not None and self.map.wants(state.odom_T_lidar)
        if keyframe and dense is not None:
            # a pose that is the mean of n others' and an error of its own wanders by 2 / (n + 1) of that error a step
            self._drift = self._drift + (2.0 / (len(self.map.keyframes) + 1.0)) ** 2 * found.held.covariance
            self.map.add(dense, state.odom_T_lidar)
        open_directions = found.held.degenerate_directions
        sound = len(open_directions) == 0 and found.overlap >= config.good_overlap and readings.felt.all()
        return self._result("registered", "tracking" if sound else "degraded", readings, found, keyframe)

    def _go_on_without(self, predicted: Propagation, dense: Array | None, readings: Readings) -> OdometryResult:
        """The prediction stands; if the map has been missed for long, another begins there."""
        jacobian = lidar_jacobian(predicted.state)
        self._take(predicted.state, predicted.covariance, jacobian @ predicted.covariance @ jacobian.T)
        self.counters["predicted"] += 1
        self._failures += dense is not None  # an empty sweep says nothing about the map
        if dense is None or self._failures <= self.config.max_predicted:
            return self._result("predicted", "degraded", readings, None, keyframe=False)
        self.map.clear()
        self.map.add(dense, predicted.state.odom_T_lidar)
        self._failures = 0
        return self._result("restarted", "lost", readings, None, keyframe=True)

    def _take(self, state: InertialState, covariance: Array, pose_covariance: Array) -> InertialState:
        """Make a state the current one; returns the one before."""
        before = self.state
        if before is None:
            raise ValueError("there is no state yet")
        self._drift = carried(self._drift, inverse(state.odom_T_lidar) @ before.odom_T_lidar)
        self.state, self._filter_covariance, self._covariance = state, covariance, pose_covariance
        return before

    def _result(
        self, status: Status, health: Health, readings: Readings, found: Fit | None, keyframe: bool
    ) -> OdometryResult:
        """What there is to say about the current state, at the stamp."""
        if self.state is None or self._path is None:
            raise ValueError("there is no state yet")
        reference_T_stamp = self._path.at((self._stamp_ns - self._reference_ns) * 1e-9)
        covariance = carried(self._covariance, inverse(reference_T_stamp))
        return OdometryResult(
            status=status,
            odom_T_sensor=self.state.odom_T_lidar @ reference_T_stamp,
            twist=_twist(self.state, readings),
            overlap=0.0 if found is None else found.overlap,
            iterations=0 if found is None else found.iterations,
            information=np.linalg.inv(covariance),
            covariance=covariance,
            health=health,
            degenerate_directions=_NOTHING_OPEN if found is None else found.held.degenerate_directions,
            keyframe=keyframe,
        )


def _twist(state: InertialState, readings: Readings) -> Array:
    """Velocity and turn rate (6,) of the LiDAR in its own frame at the reference time."""
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
