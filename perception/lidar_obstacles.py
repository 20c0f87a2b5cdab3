"""Obstacles in a LiDAR sweep without a network: take away the ground, group the rest, fit boxes.

A box is what was seen of an object, not what the object is: the far side of a car is not in the cloud, and its middle
lies nearer than the car's. A box reaches down to the ground where its lowest points are not far above it. What hangs
higher than max_height_m (crowns, bridges) and what is larger than an object (houses, walls, hedges) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from perception.clouds import Array, Grid, usable_points
from perception.clustering import Boxes, ClusterConfig, cluster, fit_boxes
from perception.ground import Ground, GroundConfig, fit_ground
from tercel.core.component import Component, Input, Output, Outputs, on
from tercel.core.errors import Rejected
from tercel.core.messages import Detections3D, PointCloud

CLASS_NAMES = ("obstacle",)
FLOATING_M = 0.6  # a box whose lowest point is higher above the ground may be a part of another


@dataclass(frozen=True)
class LidarObstacleConfig:
    """The defaults suit a road vehicle with 16 to 64 beams; they are in the cloud's frame, z up.
    GroundConfig and ClusterConfig say more of those that begin with ground and cluster.

    min_range_m: nearer points are the vehicle itself; give the distance from the sensor to its farthest corner.
    max_range_m: farther points, in the plane, are not used; the grids' memory grows with its square.
    min_height_m, max_height_m: points between these heights above the ground are obstacles. Where there is no ground,
    all points are.
    min_top_m: an obstacle's highest point is at least this far above the ground.
    max_gap_m: a box whose lowest point is no higher above the ground is taken to stand on it.
    min_side_m: no box is thinner; a wall seen in one line of points has no thickness of its own.
    max_length_m, max_width_m: larger boxes are left out.
    max_boxes: of more, those with the most points are kept, which bounds the time that a cloud of noise can take.
    half_score_points: a box of this many points scores one half; the score is n / (n + half_score_points).
    ground_cell_m: the finest cell of the ground's grid. ground_slope: how far the ground's slope may differ between one
    level of the grid and the next, as a tangent. ground_curvature_per_m: one over the radius of the sharpest hilltop.
    ground_roughness_m: how much the lowest points of level ground scatter.
    cluster_cell_m: points of touching cells of this size always connect. cluster_gap_rad: points also connect over gaps
    of up to this times their range. cluster_min_points: clusters of fewer are dropped.
    """

    min_range_m: float = 2.0
    max_range_m: float = 80.0
    min_height_m: float = 0.25
    max_height_m: float = 3.0
    min_top_m: float = 0.4
    max_gap_m: float = 1.5
    min_side_m: float = 0.1
    max_length_m: float = 12.0
    max_width_m: float = 4.0
    max_boxes: int = 1000
    half_score_points: float = 10.0
    ground_cell_m: float = GroundConfig.cell_m
    ground_slope: float = GroundConfig.slope
    ground_curvature_per_m: float = GroundConfig.curvature_per_m
    ground_roughness_m: float = GroundConfig.roughness_m
    cluster_cell_m: float = ClusterConfig.cell_m
    cluster_gap_rad: float = ClusterConfig.gap_rad
    cluster_min_points: int = ClusterConfig.min_points

    def __post_init__(self) -> None:
        for low, high in (("min_range_m", "max_range_m"), ("min_height_m", "max_height_m")):
            if not 0.0 <= getattr(self, low) < getattr(self, high):
                raise ValueError(f"{low} is {getattr(self, low)}; it must be 0 or more and below {high}")
        if not np.isfinite(self.max_range_m):
            raise ValueError(f"max_range_m is {self.max_range_m}; it must be finite")
        for name in ("min_top_m", "max_gap_m"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("min_side_m", "max_length_m", "max_width_m", "max_boxes", "half_score_points"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        Grid.covering(self.max_range_m, self.ground.cell_m)
        Grid.covering(self.max_range_m, self.clusters.cell_m)

    @property
    def ground(self) -> GroundConfig:
        """The part that the ground's fit uses."""
        return GroundConfig(
            cell_m=self.ground_cell_m,
            slope=self.ground_slope,
            curvature_per_m=self.ground_curvature_per_m,
            roughness_m=self.ground_roughness_m,
        )

    @property
    def clusters(self) -> ClusterConfig:
        """The part that the grouping uses."""
        return ClusterConfig(
            cell_m=self.cluster_cell_m,
            gap_rad=self.cluster_gap_rad,
            max_extent_m=float(np.hypot(self.max_length_m, self.max_width_m)),
            min_points=self.cluster_min_points,
        )


class LidarObstacleDetector(Component):
    """Upright boxes around the obstacles of each sweep, in the sweep's frame and with its stamp.

    Rejects a cloud without a usable point: empty, all NaN, or all too near or too far.
    """

    Config = LidarObstacleConfig
    live_settings = frozenset(field.name for field in fields(LidarObstacleConfig))
    cloud = Input(PointCloud)
    detections = Output(Detections3D)

    @on(cloud)
    def detect(self, cloud: PointCloud) -> Outputs:
        """One Detections3D of class "obstacle", in no particular order of score."""
        points = cloud.points_m.take(
            usable_points(cloud.points_m, self.config.min_range_m, self.config.max_range_m), axis=0
        )
        if not len(points):
            raise Rejected("no usable points in the cloud")
        boxes = find_obstacles(points, self.config)
        return {
            "detections": Detections3D(
                stamp_ns=cloud.stamp_ns,
                frame_id=cloud.frame_id,
                centers_m=boxes.centers_m,
                sizes_m=boxes.sizes_m,
                yaws_rad=boxes.yaws_rad,
                scores=boxes.points / (boxes.points + self.config.half_score_points),
                labels=np.zeros(len(boxes.points), np.int32),
                class_names=CLASS_NAMES,
            )
        }


def find_obstacles(points_m: Array, config: LidarObstacleConfig) -> Boxes:
    """Boxes around the obstacles among usable points (N, 3) float32 (see clouds.usable_points)."""
    ground = fit_ground(points_m, config.max_range_m, config.ground)
    if ground.found:
        heights_m = points_m[:, 2] - ground.under_m(points_m)
        raised = np.flatnonzero((heights_m > config.min_height_m) & (heights_m < config.max_height_m))
        points_m = points_m.take(raised, axis=0)
    boxes = fit_boxes(points_m, cluster(points_m, config.max_range_m, config.clusters))
    boxes = boxes.where(np.sort(np.argsort(-boxes.points, kind="stable")[: config.max_boxes]))
    if ground.found:
        boxes = standing(boxes, ground, min_top_m=config.min_top_m, max_gap_m=config.max_gap_m)
    boxes = boxes.where((boxes.sizes_m[:, 0] <= config.max_length_m) & (boxes.sizes_m[:, 1] <= config.max_width_m))
    return Boxes(boxes.centers_m, np.maximum(boxes.sizes_m, config.min_side_m), boxes.yaws_rad, boxes.points)


def standing(boxes: Boxes, ground: Ground, *, min_top_m: float, max_gap_m: float) -> Boxes:
    """Boxes whose top is min_top_m above the ground; those with a gap of up to max_gap_m below reach down to it.

    The lowest part of an object is missing: it was taken for ground, hidden, or passed between two beams. Scan lines
    on a car's roof lie too far apart to connect: what floats inside another box's rectangle becomes part of that box.
    """
    half_m = boxes.sizes_m[:, 2] / 2.0
    tops_m, bottoms_m = boxes.centers_m[:, 2] + half_m, boxes.centers_m[:, 2] - half_m
    edge_m = ground.grid.axis_m()[-1]  # a box at the edge of the range may have its middle beyond
    floors_m = ground.under_m(np.clip(boxes.centers_m[:, :2], -edge_m, edge_m)).astype(np.float64)
    gaps_m = bottoms_m - floors_m
    owners = rectangles_around(boxes)
    owners = np.where(gaps_m > FLOATING_M, owners, -1)
    absorbed = owners >= 0
    np.maximum.at(tops_m, owners[absorbed], tops_m[absorbed])
    points = boxes.points.copy()
    np.add.at(points, owners[absorbed], boxes.points[absorbed])
    bottoms_m = np.where(gaps_m <= max_gap_m, np.minimum(floors_m, bottoms_m), bottoms_m)
    centers, sizes = boxes.centers_m.copy(), boxes.sizes_m.copy()
    centers[:, 2], sizes[:, 2] = (tops_m + bottoms_m) / 2.0, tops_m - bottoms_m
    kept = ~absorbed & (tops_m - floors_m >= min_top_m)
    return Boxes(centers, sizes, boxes.yaws_rad, points).where(kept)


def rectangles_around(boxes: Boxes) -> Array:
    """For each box the largest other box (K,) whose rectangle, seen from above, holds its middle; -1 for none."""
    if not len(boxes.points):
        return np.zeros(0, np.int64)
    x, y = (boxes.centers_m[:, None, axis] - boxes.centers_m[None, :, axis] for axis in (0, 1))
    cos, sin = np.cos(boxes.yaws_rad), np.sin(boxes.yaws_rad)
    half_length_m, half_width_m = boxes.sizes_m[:, 0] / 2.0, boxes.sizes_m[:, 1] / 2.0
    inside = (np.abs(cos * x + sin * y) <= half_length_m) & (np.abs(cos * y - sin * x) <= half_width_m)
    areas_m2 = boxes.sizes_m[:, 0] * boxes.sizes_m[:, 1]
    inside &= areas_m2[None, :] > areas_m2[:, None]
    largest = np.argmax(np.where(inside, areas_m2, -1.0), axis=1)
    return np.where(inside.any(axis=1), largest, -1)
