"""LiDAR odometry: each scan is aligned with a local map of the last few keyframes by GICP.

The alignment is Segal, Haehnel and Thrun, "Generalized-ICP" (RSS 2009), in small_gicp (Koide, JOSS 2024). The frame
around it is KISS-ICP's (Vizzo et al., RA-L 2023): deskew, downsample twice, predict by constant velocity, align, update
the map. It departs from KISS-ICP in three things (tests/benchmarks/bench_odometry.py measures the two):

- plane-to-plane distances in place of point to point, so that sparse beams do not pull scan lines onto each other;
- correspondences are looked for twice, far (to reach the map from a poor prediction) and then near (for precision, and
  so that what moved since the map was made finds no partner), in place of a threshold that adapts over many scans;
- the map is a few keyframes, kept as points and made anew when the sensor has moved on: a sensor that stands still
  cannot drift, and memory is bounded by the number of keyframes.

Nothing here reads a clock, and small_gicp runs on one thread: its parallel sums depend on the order of threads.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import small_gicp
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.geometry import inverse, se3_exp, se3_log, skew, so3_log, transform_points

Array = NDArray[Any]
Status = Literal["started", "registered", "predicted", "restarted"]

# A pass has converged when its last step is below these. Smaller ones fail on sparse scans, whose partners flip to and
# fro between two states some millimetres apart for ever.
_STEP_OF_MATCH = 0.01
_STEP_RAD = 1e-3
_NO_ROTATION_RADPS = 1e-9


@dataclass(frozen=True)
class OdometryConfig:
    """Lengths suit a 16 to 64 beam scanner outdoors; for one in rooms halve the voxels, match_m and keyframe_m.

    min_range_m, max_range_m: nearer and farther points are dropped (the robot itself; noise).
    map_voxel_m, scan_voxel_m: edge of the grid that thins the map, and, coarser, the scan that is aligned with it.
    neighbours: points from which each point's covariance is estimated.
    reach_m, match_m: how far a point looks for its partner in the map, in the first and in the second pass.
    max_iterations: of each pass.
    keyframe_m, keyframe_rad: a scan joins the map when the sensor has moved or turned this far since the last that did.
    keyframes: how many scans the map holds.
    min_points: a thinned scan with fewer is rejected.
    min_overlap: share of the scan's points that must find a partner, or else the prediction stands.
    max_predicted: after so many scans in a row without a match, the map is begun anew where the prediction puts it.
    max_prediction_s: the last velocity is trusted for no longer than this.
    deskew: undo the sensor's motion within a sweep, if the points carry times.
    """

    min_range_m: float = 0.5
    max_range_m: float = 100.0
    map_voxel_m: float = 0.5
    scan_voxel_m: float = 0.75
    neighbours: int = 10
    reach_m: float = 2.0
    match_m: float = 0.5
    max_iterations: int = 30
    keyframe_m: float = 1.0
    keyframe_rad: float = 0.5
    keyframes: int = 10
    min_points: int = 50
    min_overlap: float = 0.3
    max_predicted: int = 5
    max_prediction_s: float = 1.0
    deskew: bool = True

    def __post_init__(self) -> None:
        lengths = (
            "map_voxel_m",
            "scan_voxel_m",
            "reach_m",
            "match_m",
            "keyframe_m",
            "keyframe_rad",
            "max_prediction_s",
        )
        for name in lengths:
            if not 0.0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0.0 <= self.min_range_m < self.max_range_m < np.inf:
            raise ValueError(f"min_range_m must be 0 or more and below max_range_m, not {self.min_range_m}")
        if not 0.0 < self.min_overlap <= 1.0:
            raise ValueError(f"min_overlap must be above 0 and at most 1, not {self.min_overlap}")
        for name, least in (("neighbours", 5), ("max_iterations", 1), ("keyframes", 1), ("min_points", 10)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if self.max_predicted < 0:
            raise ValueError(f"max_predicted must be 0 or more, not {self.max_predicted}")


@dataclass(frozen=True, eq=False)
class OdometryResult:
    """One scan's pose.

    status: "started" (the first scan makes the map), "registered", "predicted" (the alignment failed or overlapped too
    little: the pose is the prediction) or "restarted" (so many failed that the map was begun anew at the prediction).
    odom_T_sensor (4, 4). twist (6,): linear m/s, then angular rad/s, in the sensor's frame; None while unknown.
    overlap: share of the thinned scan that found partners. iterations: of both passes.
    information (6, 6), order x y z rx ry rz in the sensor's frame: the Hessian of GICP's cost, None unless registered.
    GICP's covariances are shapes, not sensor noise, so it says which directions the scan holds fast, but its inverse is
    no covariance of the pose.
    """

    status: Status
    odom_T_sensor: Array
    twist: Array | None
    overlap: float
    iterations: int
    information: Array | None


@dataclass(frozen=True, eq=False)
class _Alignment:
    odom_T_sensor: Array
    overlap: float
    iterations: int
    information: Array
    good: bool


class ScanToMapOdometry:
    """Follows one sensor. Feed it scans in order of time; the odometry frame is the sensor's at the first scan."""

    def __init__(self, config: OdometryConfig | None = None) -> None:
        self.config = OdometryConfig() if config is None else config
        self.map = LocalMap(self.config)
        self._odom_T_sensor = np.eye(4)
        self._twist = np.zeros(6)
        self._stamp_ns: int | None = None
        self._failures = 0

    def step(self, points_m: Array, stamp_ns: int, time_offset_s: Array | None = None) -> OdometryResult:
        """Take one scan: points (N, 3) in the sensor's frame, and when each was measured after stamp_ns, (N,).

        Points that are not finite are dropped. Raises Rejected, and leaves the state as it was, if too few are left or
        if the stamp is not after the one before.
        """
        if self._stamp_ns is not None and stamp_ns <= self._stamp_ns:
            raise Rejected("stamp not after the one before")

        dense, scan = self._preprocess(points_m, time_offset_s)
        if self._stamp_ns is None:
            self.map.add(dense, self._odom_T_sensor)
            self._stamp_ns = stamp_ns
            return OdometryResult("started", self._odom_T_sensor.copy(), None, 0.0, 0, None)

        dt_s = (stamp_ns - self._stamp_ns) * 1e-9
        predicted = self._odom_T_sensor @ se3_exp(self._twist * min(dt_s, self.config.max_prediction_s))
        found = self._align(scan, predicted)

        self._failures = 0 if found.good else self._failures + 1
        lost = self._failures > self.config.max_predicted
        pose = found.odom_T_sensor if found.good else predicted
        if found.good:
            self._twist = se3_log(inverse(self._odom_T_sensor) @ pose) / dt_s
        if lost:
            self.map.clear()
            self._twist, self._failures = np.zeros(6), 0
        if lost or (found.good and self.map.is_left_behind_by(pose)):
            self.map.add(dense, pose)
        self._odom_T_sensor, self._stamp_ns = pose, stamp_ns

        status: Status = "restarted" if lost else "registered" if found.good else "predicted"
        twist = None if lost else self._twist.copy()
        information = found.information if found.good else None
        return OdometryResult(status, pose.copy(), twist, found.overlap, found.iterations, information)

    def _preprocess(self, points_m: Array, time_offset_s: Array | None) -> tuple[Array, small_gicp.PointCloud]:
        """The scan without motion and outliers, thinned for the map (M, 3) and, further, for the alignment."""
        config = self.config
        usable = within_range(points_m, config.min_range_m, config.max_range_m)
        if time_offset_s is not None and config.deskew:
            usable &= np.isfinite(time_offset_s)
            points_m = deskew(points_m[usable], time_offset_s[usable], self._twist)
        else:
            points_m = points_m[usable]
        if len(points_m) < config.min_points:
            raise Rejected("too few usable points")
        dense = small_gicp.voxelgrid_sampling(small_gicp.PointCloud(points_m.astype(np.float64)), config.map_voxel_m)
        scan = small_gicp.voxelgrid_sampling(dense, config.scan_voxel_m)
        if scan.size() < config.min_points:
            raise Rejected("too few usable points")
        small_gicp.estimate_covariances(scan, small_gicp.KdTree(scan), config.neighbours)
        return dense.points()[:, :3], scan

    def _align(self, scan: small_gicp.PointCloud, predicted: Array) -> _Alignment:
        """GICP of a scan with the map from the prediction: far partners first, then near ones.

        Near partners of a sparse scan may flip to and fro for ever; then the far pass, if it converged, stands.
        """
        config = self.config
        far = self.map.align(scan, predicted, config.reach_m)
        near = self.map.align(scan, far.T_target_source, config.match_m)
        best = near if near.converged else far
        pose, overlap = np.array(best.T_target_source), near.num_inliers / scan.size()
        good = bool(best.converged and overlap >= config.min_overlap and np.isfinite(pose).all())
        return _Alignment(pose, overlap, far.iterations + near.iterations, _translation_first(best.H), good)


class LocalMap:
    """The points of the last keyframes in the odometry frame, thinned, with covariances and a search tree."""

    def __init__(self, config: OdometryConfig) -> None:
        self.config = config
        self.keyframes: deque[tuple[Array, Array]] = deque(maxlen=config.keyframes)
        self.cloud: small_gicp.PointCloud | None = None
        self.tree: small_gicp.KdTree | None = None

    def __len__(self) -> int:
        return 0 if self.cloud is None else int(self.cloud.size())

    def clear(self) -> None:
        """Forget all keyframes."""
        self.keyframes.clear()

    def add(self, points_m: Array, odom_T_sensor: Array) -> None:
        """Make a scan (N, 3) float64, in the sensor's frame, the newest keyframe; the oldest falls out."""
        self.keyframes.append((odom_T_sensor, transform_points(odom_T_sensor, points_m)))
        points = np.concatenate([points for _, points in self.keyframes])
        self.cloud = small_gicp.voxelgrid_sampling(small_gicp.PointCloud(points), self.config.map_voxel_m)
        self.tree = small_gicp.KdTree(self.cloud)
        small_gicp.estimate_covariances(self.cloud, self.tree, self.config.neighbours)

    def is_left_behind_by(self, odom_T_sensor: Array) -> bool:
        """Whether the sensor has moved or turned a keyframe's distance away from the newest keyframe."""
        motion = inverse(self.keyframes[-1][0]) @ odom_T_sensor
        moved_m, turned_rad = np.linalg.norm(motion[:3, 3]), np.linalg.norm(so3_log(motion[:3, :3]))
        return bool(moved_m > self.config.keyframe_m or turned_rad > self.config.keyframe_rad)

    def align(self, scan: small_gicp.PointCloud, guess: Array, match_m: float) -> Any:
        """small_gicp's result for a scan from a first guess, with partners no farther than match_m."""
        return small_gicp.align(
            self.cloud,
            scan,
            self.tree,
            guess,
            registration_type="GICP",
            max_correspondence_distance=match_m,
            num_threads=1,
            max_iterations=self.config.max_iterations,
            translation_epsilon=_STEP_OF_MATCH * match_m,
            rotation_epsilon=_STEP_RAD,
        )


def within_range(points_m: Array, min_range_m: float, max_range_m: float) -> Array:
    """Mask (N,) of the points that are finite and between two distances from the sensor."""
    squared = np.einsum("ij,ij->i", points_m, points_m)
    result: Array = (squared >= min_range_m**2) & (squared <= max_range_m**2)
    return result


def deskew(points_m: Array, time_offset_s: Array, twist: Array) -> Array:
    """Points (N, 3) as one instant would have seen them, though each was measured time_offset_s (N,) after it.

    twist (6,): the sensor's velocity, m/s and rad/s in its own frame, constant over the sweep. Each point moves by
    exp(twist t): Rodrigues' formula with one axis for all points, so that a sweep costs two matrix products.
    """
    dtype = points_m.dtype
    v, w = twist[:3], twist[3:]
    rate = max(float(np.linalg.norm(w)), _NO_ROTATION_RADPS)
    k = skew(w / rate)
    kv, k2v = k @ v / rate, k @ k @ v
    t = time_offset_s.astype(dtype)
    sine, one_less_cosine = np.sin(rate * t), 2.0 * np.sin(0.5 * rate * t) ** 2  # 1 - cos would cancel

    result: Array = points_m + sine[:, None] * _product(points_m, k.T)
    result += one_less_cosine[:, None] * _product(points_m, (k @ k).T)
    result += _product(np.stack([t, one_less_cosine, sine], axis=1), np.stack([v + k2v, kv, -k2v / rate]))
    return result


def _product(rows: Array, matrix: Array) -> Array:
    """rows (N, 3) times (3, 3), in the rows' dtype. Not by BLAS, whose threads wait for each other on a busy board."""
    result: Array = np.einsum("ij,jk->ik", rows, matrix.astype(rows.dtype))
    return result


def _translation_first(hessian: Array) -> Array:
    """small_gicp orders its tangent rx ry rz x y z; we x y z rx ry rz."""
    order = [3, 4, 5, 0, 1, 2]
    result: Array = np.array(hessian)[np.ix_(order, order)]
    return result
