"""LiDAR odometry: each scan is aligned with a local map of the last keyframes by GICP.

The alignment is Segal, Haehnel and Thrun, "Generalized-ICP" (RSS 2009), in small_gicp (Koide, JOSS 2024). The frame
around it is KISS-ICP's (Vizzo et al., RA-L 2023): deskew, downsample twice, predict by constant velocity, align, update
the map. It departs from KISS-ICP in these things (tests/benchmarks/bench_odometry.py measures the two):

- plane-to-plane distances in place of point to point, so that sparse beams do not pull scan lines onto each other;
- correspondences are looked for twice, far (to reach the map from a poor prediction) and then near (for precision, and
  so that what moved since the map was made finds no partner), in place of a threshold that adapts over many scans;
- a sweep is straightened to its middle, not its end: an error of the velocity then bends its two halves in opposite
  ways and leaves the pose alone. Thinned points keep their times, and are straightened anew with the velocity that each
  pass finds; so is the first sweep, whose velocity only the second tells;
- a pose that no machine could have reached since the last one (a scan that is flat, or of another sensor) is not
  believed at once, but only if the next scan follows from it (registration.motion);
- the map is a few keyframes, kept as points and made anew when the sensor has moved on: a sensor that stands still
  cannot drift but over the map's first five, and memory is bounded by the number of keyframes;
- each pose comes with a covariance, the directions that nothing holds, and a health; a sensor that is lost looks for
  its map by global registration before it begins another.

Nothing here reads a clock, and small_gicp runs on one thread: its parallel sums depend on the order of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.local import Settled, inverted
from registration.local_map import LocalMap
from registration.motion import Motion
from registration.odometry_config import OdometryConfig
from registration.odometry_result import Health, OdometryResult, Status
from registration.stamps import StampOrder
from registration.sweep import Sweep, deskew, usable_sweep, within_range
from tercel.core.errors import Rejected
from tercel.core.geometry import inverse, se3_exp, se3_log, skew

__all__ = [
    "Health",
    "LocalMap",
    "OdometryConfig",
    "OdometryResult",
    "ScanToMapOdometry",
    "Status",
    "deskew",
    "within_range",
]

Array = NDArray[Any]

_UNKNOWN_ACCELERATION = np.repeat([2.0, 1.0], 3)  # m/s^2, rad/s^2: what a prediction knows nothing of
_CLEARLY = 1.1  # so many times as many partners must another guess find
_CHI_SQUARED_99 = 16.8  # of six degrees of freedom
_NOTHING_OPEN = np.zeros((0, 6))


@dataclass(frozen=True, eq=False)
class _Scan:
    """A sweep straightened with a twist, and thinned: for the map, and further for the alignment."""

    dense: Sweep
    sparse: Sweep
    twist: Array

    def straightened(self, twist: Array) -> _Scan:
        """As if it had been straightened with another twist."""
        dense, sparse = (part.straightened(twist, self.twist) for part in (self.dense, self.sparse))
        return _Scan(dense, sparse, twist)


@dataclass(frozen=True, eq=False)
class _Alignment:
    odom_T_middle: Array
    overlap: float
    iterations: int
    good: bool


class ScanToMapOdometry:
    """Follows one sensor. Feed it scans in order of time; the odometry frame is the sensor's at the first scan.

    Within, poses are those of the sweeps' middles; the results' are those at the stamps.
    """

    def __init__(self, config: OdometryConfig | None = None) -> None:
        self.config = OdometryConfig() if config is None else config
        self.map = LocalMap(self.config)
        self._motion = Motion(self.config.max_prediction_s, self.config.max_acceleration_mps2)  # of sweeps' middles
        self._order = StampOrder()
        self._middle_s = 0.0
        self._failures = 0
        self._first: _Scan | None = None  # until its velocity is known
        self._covariance = np.zeros((6, 6))
        self._drift = np.zeros((6, 6))

    def step(
        self, points_m: Array, stamp_ns: int, time_offset_s: Array | None = None, twist: Array | None = None
    ) -> OdometryResult:
        """Take one scan: points (N, 3) in the sensor's frame, and when each was measured after stamp_ns, (N,).

        twist (6,): the sensor's velocity in its own frame if something else measured it (wheels, an IMU); it takes the
        place of the last scan's in predicting and in straightening. Points that are not finite are dropped. Raises
        Rejected, and leaves the state as it was, if too few are left, if the twist is not finite, if the stamp or the
        sweep's middle is not after the one before, or if the points' times lie further apart than any sweep's.
        """
        config, motion = self.config, self._motion
        step_ns = self._order.step_ns(stamp_ns)
        if twist is not None and not np.isfinite(twist).all():
            raise Rejected("twist not finite")
        times_s = time_offset_s if config.deskew else None
        sweep = usable_sweep(points_m, times_s, config.min_range_m, config.max_range_m, config.min_points)
        velocity = motion.last_twist(leapt=step_ns is None) if twist is None else np.asarray(twist, dtype=np.float64)
        scan = self._thinned(sweep, velocity)
        if self._order.newest_ns is None:
            return self._start(scan, stamp_ns)
        dt_s = (self._order.since_leap_ns() if step_ns is None else step_ns) * 1e-9 + sweep.middle_s - self._middle_s
        if dt_s <= 0.0:
            raise Rejected("points not measured after those before")

        motion.advance(dt_s)
        predicted, reached = self._reached(scan, velocity)
        # the first two sweeps fit each other best while both are bent alike
        bends = twist is None and dt_s < config.max_prediction_s and self._first is None
        if bends:
            scan = scan.straightened(motion.twist_to(reached))
        cloud = self._with_normals(scan)
        found = self._aligned(cloud, predicted, reached)
        if found.good and self._first is not None:
            begin, moving = self._begin_again(self._first, found, scan, cloud, twist)
            scan = scan.straightened(moving)
            cloud, predicted = self._with_normals(scan), begin @ predicted
            found = self._aligned(cloud, predicted, begin @ found.odom_T_middle)
        elif found.good and bends:
            scan = scan.straightened(motion.twist_to(found.odom_T_middle))
        held = self._settled(found, scan, cloud, predicted)
        if held is not None and motion.doubts(held.target_T_source):
            held = None
        if held is None:
            self._failures += 1
            if self._is_lost():
                found = self._sought_in_the_whole_map(cloud, scan)
                held = self._settled(found, scan, cloud, predicted)
        self._middle_s = sweep.middle_s
        self._order.accept(stamp_ns)
        if held is not None:
            return self._follow(found, held, scan)
        return self._go_on_without(found, scan, predicted, dt_s)

    def pose_covariance(self) -> Array:
        """Covariance (6, 6) of the last pose in the odometry frame: the alignment's, and what the map has drifted.

        m^2 and rad^2, x y z rx ry rz in the sensor's frame. Zero at the first scan, which defines the frame.
        """
        return self._covariance + self._drift

    def _start(self, scan: _Scan, stamp_ns: int) -> OdometryResult:
        self.map.add(scan.dense.points_m, self._motion.pose)
        self._first, self._middle_s = scan, scan.dense.middle_s
        self._order.accept(stamp_ns)
        return OdometryResult("started", np.eye(4), None, 0.0, 0, None, None, "tracking", _NOTHING_OPEN, True)

    def _begin_again(
        self, first: _Scan, found: _Alignment, scan: _Scan, cloud: small_gicp.PointCloud, twist: Array | None
    ) -> tuple[Array, Array]:
        """Make the map of the first sweep anew, now that its velocity is known: its middle's pose (4, 4), and that
        velocity (6,).

        A motion that is no more than the alignment's noise is none: it would bend the sweep on which all stands.
        """
        held = self._settled(found, scan, cloud, found.odom_T_middle)
        self._first = None
        if self._motion.after_a_gap or held is None:
            return np.eye(4), scan.twist
        moved = se3_log(held.target_T_source)
        is_noise = moved @ held.information @ moved < _CHI_SQUARED_99
        moving = np.zeros(6) if is_noise else self._motion.twist_to(held.target_T_source)
        moving = moving if twist is None else twist
        begin = se3_exp(moving * first.dense.middle_s)
        self._motion.begin_at(begin)
        self.map.clear()
        self.map.add(first.straightened(moving).dense.points_m, begin)
        return begin, moving

    def _follow(self, found: _Alignment, held: Settled, scan: _Scan) -> OdometryResult:
        """The alignment stands, but for the directions that nothing holds."""
        config, motion, recovered = self.config, self._motion, self._is_lost()
        pose, last, before = held.target_T_source, motion.pose, motion.twist
        motion.believe(pose, found_again=recovered)
        self._first = None
        self._drift = carried(self._drift, inverse(pose) @ last)
        # from the sweep's middle to its stamp the sensor moves at a velocity that is a little out of date
        covariance = held.covariance + np.diag(np.square((motion.twist - before) * self._middle_s))
        self._covariance, self._failures = covariance, 0
        keyframe = self.map.wants(pose)
        if keyframe:
            # a pose that is the mean of n others' and an error of its own wanders by 2 / (n + 1) of that error a step
            self._drift = self._drift + (2.0 / (len(self.map.keyframes) + 1.0)) ** 2 * held.covariance
            self.map.add(scan.dense.points_m, pose)
        sound = len(held.degenerate_directions) == 0 and found.overlap >= config.good_overlap
        return OdometryResult(
            status="recovered" if recovered else "registered",
            odom_T_sensor=self._pose_at_stamp(),
            twist=None if recovered else motion.twist.copy(),
            overlap=found.overlap,
            iterations=found.iterations,
            information=inverted(covariance),
            covariance=covariance,
            health="tracking" if sound else "degraded",
            degenerate_directions=held.degenerate_directions,
            keyframe=keyframe,
        )

    def _go_on_without(self, found: _Alignment, scan: _Scan, predicted: Array, dt_s: float) -> OdometryResult:
        """The prediction stands; if the map has been sought in vain, another begins there."""
        lost = self._is_lost()
        given_up = lost and self._failures >= self.config.max_predicted + self.config.recoveries
        back = inverse(predicted) @ self._motion.pose
        strayed = _UNKNOWN_ACCELERATION * dt_s * dt_s * self._failures
        self._drift, self._covariance = (
            carried(self._drift, back),
            carried(self._covariance, back) + np.diag(strayed**2),
        )
        self._motion.go_on(predicted)
        if given_up:
            self._motion.restart(predicted)
            self._first, self._failures = None, 0
            self.map.clear()
            self.map.add(scan.dense.points_m, predicted)
            self._drift, self._covariance = self._drift + self._covariance, np.zeros((6, 6))
        return OdometryResult(
            status="restarted" if given_up else "predicted",
            odom_T_sensor=self._pose_at_stamp(),
            twist=None if given_up else self._motion.twist.copy(),
            overlap=found.overlap,
            iterations=found.iterations,
            information=None,
            covariance=None,
            health="lost" if lost else "degraded",
            degenerate_directions=_NOTHING_OPEN,
            keyframe=given_up,
        )

    def _is_lost(self) -> bool:
        return self._failures > self.config.max_predicted

    def _pose_at_stamp(self) -> Array:
        pose: Array = self._motion.pose @ se3_exp(-self._middle_s * self._motion.twist)
        return pose

    def _thinned(self, sweep: Sweep, twist: Array) -> _Scan:
        """Raises Rejected if too little is left."""
        dense = sweep.straightened(twist).thinned(self.config.map_voxel_m)
        sparse = dense.thinned(self.config.scan_voxel_m)
        if len(sparse.points_m) < self.config.min_points:
            raise Rejected("too few usable points")
        return _Scan(dense, sparse, twist)

    def _with_normals(self, scan: _Scan) -> small_gicp.PointCloud:
        cloud = small_gicp.PointCloud(scan.sparse.points_m)
        small_gicp.estimate_normals_covariances(cloud, small_gicp.KdTree(cloud), self.config.neighbours)
        return cloud

    def _reached(self, scan: _Scan, velocity: Array) -> tuple[Array, Array]:
        """The predicted pose, and where the scan then finds the map."""
        guesses = self._motion.guesses(velocity, self.config.reach_m)
        reached = [self.map.reach(scan.sparse.points_m, guess, self.config.reach_m) for guess in guesses]
        best = max(range(len(guesses)), key=lambda k: reached[k][1] * (_CLEARLY if k == 0 else 1.0))
        pose, predicted = reached[best][0], guesses[best]
        if not np.isfinite(pose).all():
            pose = predicted
        return self._motion.ahead(velocity) if self._motion.clears_doubt(pose) else predicted, pose

    def _aligned(self, cloud: small_gicp.PointCloud, predicted: Array, reached: Array) -> _Alignment:
        """The fine alignment; if it fails, once more with the coarse one by the more careful GICP."""
        found = self._align(cloud, reached, (self.config.match_m,))
        return found if found.good else self._align(cloud, predicted, (self.config.reach_m, self.config.match_m))

    def _settled(
        self, found: _Alignment, scan: _Scan, cloud: small_gicp.PointCloud, predicted: Array
    ) -> Settled | None:
        """The robust pose next to a good alignment, of the points as they lie by the velocity found since."""
        if not found.good:
            return None
        normals, config = cloud.normals()[:, :3], self.config
        return self.map.settle(
            scan.sparse.points_m, normals, found.odom_T_middle, predicted, config.match_m, config.reach_m
        )

    def _align(self, scan: small_gicp.PointCloud, guess: Array, widths_m: tuple[float, ...]) -> _Alignment:
        """GICP of a scan with the map from a guess, with partners ever nearer, pass by pass.

        Near partners of a sparse scan may flip to and fro for ever; then the pass before, if it converged, stands.
        """
        best: Any = None
        iterations = 0
        for width_m in widths_m:
            result = self.map.align(scan, guess, width_m)
            best = result if best is None or result.converged else best
            guess, iterations = result.T_target_source, iterations + result.iterations
        pose, overlap = np.array(best.T_target_source), result.num_inliers / scan.size()
        good = bool(best.converged and overlap >= self.config.min_overlap and np.isfinite(pose).all())
        return _Alignment(pose, overlap, iterations, good)

    def _sought_in_the_whole_map(self, cloud: small_gicp.PointCloud, scan: _Scan) -> _Alignment:
        """Global registration of a lost sensor's scan with the map; believed only if the scans overlap well, too."""
        nothing = _Alignment(self._motion.pose, 0.0, 0, good=False)
        if self.config.recoveries == 0 or self.map.cloud is None:
            return nothing
        from registration.global_ import GlobalConfig, register_global  # seldom needed

        map_m, config = self.map.cloud.points()[:, :3], GlobalConfig(target_is_map=True)
        somewhere = register_global(map_m, scan.dense.points_m, config=config)
        found = (
            self._align(cloud, somewhere.target_T_source, (self.config.reach_m, self.config.match_m))
            if somewhere.converged
            else nothing
        )
        return found if found.overlap >= self.config.good_overlap else nothing


def carried(covariance: Array, new_T_old: Array) -> Array:
    """A covariance (6, 6) of errors on the right of one pose, as those of another that is rigidly tied to it."""
    adjoint = np.zeros((6, 6))
    adjoint[:3, :3] = adjoint[3:, 3:] = new_T_old[:3, :3]
    adjoint[:3, 3:] = skew(new_T_old[:3, 3]) @ new_T_old[:3, :3]
    result: Array = adjoint @ covariance @ adjoint.T
    return result
