"""The map that odometry aligns scans with: the last keyframes' points, thinned, with normals and a search tree."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.local import Settled, align, settle
from tercel.core.geometry import inverse, so3_log, transform_points

Array = NDArray[Any]

# So many scans join an empty map even if the sensor stands still: all that follows stands on what the first ones say,
# and one sweep of 16 beams among trees says little (errors of 7 cm and 0.5 degrees, which remain for good).
_YOUNG = 5


@dataclass(frozen=True)
class MapConfig:
    """Lengths suit a 16 to 64 beam scanner outdoors; for one in rooms halve map_voxel_m and keyframe_m.

    map_voxel_m: the map keeps one point a voxel of this edge. neighbours: points from which a covariance is estimated.
    keyframe_m, keyframe_rad: a scan joins the map when the sensor has moved or turned this far since the last that did;
    the first five join in any case.
    keyframes: how many scans the map holds. max_iterations: of one alignment.
    """

    map_voxel_m: float = 0.5
    neighbours: int = 10
    keyframe_m: float = 1.5
    keyframe_rad: float = 0.5
    keyframes: int = 8
    max_iterations: int = 30

    def __post_init__(self) -> None:
        for name in ("map_voxel_m", "keyframe_m", "keyframe_rad"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name, least, most in (("neighbours", 5, 100), ("max_iterations", 1, 1000), ("keyframes", 1, 1000)):
            if not least <= getattr(self, name) <= most:  # each is a factor of time or memory
                raise ValueError(f"{name} must be from {least} to {most}, not {getattr(self, name)}")


class LocalMap:
    """Keyframes in the odometry frame; the oldest falls out, so memory is bounded by their number."""

    def __init__(self, config: MapConfig) -> None:
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
        small_gicp.estimate_normals_covariances(self.cloud, self.tree, self.config.neighbours)

    def wants(self, odom_T_sensor: Array) -> bool:
        """Whether a scan from there should join: the map is young, or the newest keyframe has been left behind."""
        if len(self.keyframes) < min(_YOUNG, self.config.keyframes):
            return True
        motion = inverse(self.keyframes[-1][0]) @ odom_T_sensor
        moved_m, turned_rad = np.linalg.norm(motion[:3, 3]), np.linalg.norm(so3_log(motion[:3, :3]))
        return bool(moved_m > self.config.keyframe_m or turned_rad > self.config.keyframe_rad)

    def reach(self, points_m: Array, guess: Array, reach_m: float) -> tuple[Array, int]:
        """Where points (N, 3) lie from a poor guess, to a few centimetres, and how many find a partner there.

        Point to plane, which needs no normals of the points: these may still be bent by an unknown velocity.
        """
        cloud, tree = self._built()
        found = align(
            cloud, small_gicp.PointCloud(points_m), tree, guess, reach_m, self.config.max_iterations, method="PLANE_ICP"
        )
        return np.array(found.T_target_source), int(found.num_inliers)

    def align(self, scan: small_gicp.PointCloud, guess: Array, match_m: float) -> Any:
        """small_gicp's result for a scan from a first guess, with partners no farther than match_m."""
        cloud, tree = self._built()
        return align(cloud, scan, tree, guess, match_m, self.config.max_iterations)

    def settle(
        self, points_m: Array, normals: Array, aligned: Array, guess: Array, match_m: float, open_m: float
    ) -> Settled:
        """The robust pose next to an aligned one, and how the points hold it, see registration.local.settle."""
        cloud, tree = self._built()
        return settle(cloud, tree, points_m, normals, aligned, guess, match_m, open_m)

    def _built(self) -> tuple[small_gicp.PointCloud, small_gicp.KdTree]:
        if self.cloud is None or self.tree is None:
            raise ValueError("the map is empty")
        return self.cloud, self.tree
