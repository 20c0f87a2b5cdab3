"""From clouds to keyframes: the odometry of one recording, and now and then a scan that is kept to be met again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.odometry import OdometryConfig, ScanToMapOdometry, deskew
from registration.place import describe
from tercel.core.errors import Rejected
from tercel.core.geometry import inverse, so3_log

Array = NDArray[Any]


class Scan(NamedTuple):
    """points_m (N, 3) in the sensor's frame, and when each was measured after stamp_ns, (N,) s, if known."""

    stamp_ns: int
    points_m: Array
    time_offset_s: Array | None = None


@dataclass(frozen=True)
class KeyframeConfig:
    """A scan is kept when the sensor has moved keyframe_m or turned keyframe_rad; voxel_m: grid that thins it.

    drift_share, drift_rad_per_m: how uncertain the odometry's way between two keyframes is (standard deviations), in
    metres and radians a metre; step_m, step_rad: that much at least. A step over scans that the odometry had to guess
    counts as lost_factor times as uncertain.
    """

    keyframe_m: float = 2.0
    keyframe_rad: float = 0.5
    voxel_m: float = 0.4
    step_m: float = 0.01
    step_rad: float = 0.0003
    drift_share: float = 0.004
    drift_rad_per_m: float = 0.0002
    lost_factor: float = 50.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 < value < np.inf:
                raise ValueError(f"{name} must be above 0, not {value}")


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A scan that is kept: row of its pose, points_m (N, 3) float32 without the sensor's own motion, and its place
    (see registration.place.describe)."""

    row: int
    points_m: Array
    place: Array


@dataclass(frozen=True, eq=False)
class Recorded:
    """One recording's way: stamps_ns (N,) int64, odom_T_sensor (N, 4, 4), sure (N,) bool (the scan was matched, and
    its pose is not a guess), keyframes, and the scans that could not be used, by reason."""

    stamps_ns: Array
    odom_T_sensor: Array
    sure: Array
    keyframes: list[Keyframe]
    config: KeyframeConfig
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def keyframe_poses(self) -> Array:
        """odom_T_sensor (K, 4, 4) of the keyframes."""
        return self.odom_T_sensor[[keyframe.row for keyframe in self.keyframes]].reshape(-1, 4, 4)

    @property
    def travelled_m(self) -> Array:
        """(K,) how far the sensor had come at each keyframe."""
        steps_m = np.linalg.norm(np.diff(self.odom_T_sensor[:, :3, 3], axis=0), axis=1)
        at_scans = np.concatenate([np.zeros(min(len(self.stamps_ns), 1)), np.cumsum(steps_m)])
        result: Array = at_scans[[keyframe.row for keyframe in self.keyframes]]
        return result

    def carried(self, keyframe_poses: Array) -> Array:
        """All poses (N, 4, 4), moved as their last keyframes were, to keyframe_poses (K, 4, 4)."""
        rows = np.array([keyframe.row for keyframe in self.keyframes])
        last = np.searchsorted(rows, np.arange(len(self.stamps_ns)), side="right") - 1
        new_T_odom = keyframe_poses @ inverse(self.keyframe_poses)
        result: Array = new_T_odom[last] @ self.odom_T_sensor
        return result


def record(
    scans: Iterable[Scan], config: KeyframeConfig | None = None, odometry_config: OdometryConfig | None = None
) -> Recorded:
    """Follow the sensor through scans in order of time. Scans that the odometry rejects are counted and left out."""
    config = KeyframeConfig() if config is None else config
    odometry = ScanToMapOdometry(odometry_config)
    stamps: list[int] = []
    poses: list[Array] = []
    sure: list[bool] = []
    keyframes: list[Keyframe] = []
    rejected: Counter[str] = Counter()
    for scan in scans:
        try:
            result = odometry.step(scan.points_m, scan.stamp_ns, scan.time_offset_s)
        except Rejected as reason:
            rejected[str(reason)] += 1
            continue
        stamps.append(scan.stamp_ns)
        poses.append(result.odom_T_sensor)
        sure.append(result.status in ("started", "registered"))
        if not keyframes or _moved_on(poses[keyframes[-1].row], result.odom_T_sensor, config):
            points_m = _still(scan, result.twist)
            keyframes.append(Keyframe(len(poses) - 1, thin(points_m, config.voxel_m), describe(points_m)))
    return Recorded(
        np.array(stamps, dtype=np.int64),
        np.array(poses).reshape(-1, 4, 4),
        np.array(sure, dtype=bool),
        keyframes,
        config,
        rejected,
    )


def _moved_on(last: Array, pose: Array, config: KeyframeConfig) -> bool:
    motion = inverse(last) @ pose
    turned_rad = float(np.linalg.norm(so3_log(motion[:3, :3])))
    return bool(np.linalg.norm(motion[:3, 3]) > config.keyframe_m or turned_rad > config.keyframe_rad)


def _still(scan: Scan, twist: Array | None) -> Array:
    """The scan's finite points as one instant would have seen them."""
    usable = np.isfinite(scan.points_m).all(axis=1)
    if scan.time_offset_s is None or twist is None:
        return scan.points_m[usable]
    usable &= np.isfinite(scan.time_offset_s)
    return deskew(scan.points_m[usable], scan.time_offset_s[usable], twist)


def thin(points_m: Array, voxel_m: float) -> Array:
    """One point (M, 3) float32 a voxel of (N, 3): the mean of those in it."""
    thinned = small_gicp.voxelgrid_sampling(small_gicp.PointCloud(points_m.astype(np.float64)), voxel_m)
    result: Array = thinned.points()[:, :3].astype(np.float32)
    return result
