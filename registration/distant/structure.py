"""One scan as an upright scene: gravity along z, the ground apart from what stands on it, equally dense everywhere.

Two ground vehicles' scans differ by a yaw and a shift along the ground and by little else, if each is first turned so
that its own ground is level. What is near is measured hundreds of times as densely as what is far; a voxel grid with
one point a cell takes that away as far out as neighbouring beams still meet within a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.geometry import from_rotation_translation, so3_exp, transform_points

Array = NDArray[Any]

MIN_RANGE_M, MAX_RANGE_M = 2.0, 90.0
_LARGEST_SCAN = 2_000_000  # points; more are thinned evenly before anything else
_LOW_CELL_M, _LOW_REACH_M = 2.0, 30.0  # the plane is fitted to the lowest points of cells this near
_HYPOTHESES, _HYPOTHESIS_M, _MAX_TILT_RAD = 400, 0.15, np.radians(20.0)
_GROUND_CELL_M = 4.0
_GROUND_NEAR_M, _GROUND_SLOPE = 0.4, 0.03  # how far the local ground may lie from the plane, at hand and per metre


@dataclass(frozen=True, eq=False)
class Scene:
    """A scan in its level frame: z up, the origin on the ground below the sensor, x where the sensor's x points.

    level_T_sensor (4, 4) float64. ground_m (M, 3) and structure_m (N, 3) float32, thinned to one point a voxel.
    height_m (N,) float32 of each structure point above the ground under it.
    """

    level_T_sensor: Array
    structure_m: Array
    height_m: Array
    ground_m: Array

    @property
    def sensor_m(self) -> float:
        """How high the sensor is above the ground below it."""
        return float(self.level_T_sensor[2, 3])


def upright_scene(points_m: Array, *, voxel_m: float = 0.4, clearance_m: float = 0.4, min_points: int = 100) -> Scene:
    """Level a scan (N, 3) in the sensor's frame, thin it, and part what is clearance_m above the ground from it.

    z must point up to within 20 degrees. Points that are not finite, or too near or far, are dropped. Raises Rejected
    if too few are left, ValueError for an array of another shape.
    """
    if points_m.ndim != 2 or points_m.shape[1] != 3:
        raise ValueError(f"points have shape {points_m.shape}, not (N, 3)")
    points_m = points_m[:: 1 + len(points_m) // _LARGEST_SCAN]
    squared = np.einsum("ij,ij->i", points_m, points_m)
    usable = (squared >= MIN_RANGE_M**2) & (squared <= MAX_RANGE_M**2)  # False for NaN
    if np.count_nonzero(usable) < min_points:
        raise Rejected("too few usable points")
    cloud = small_gicp.PointCloud(points_m[usable].astype(np.float64))
    thin_m = small_gicp.voxelgrid_sampling(cloud, voxel_m).points()[:, :3]
    if len(thin_m) < min_points:
        raise Rejected("too few usable points")

    level_T_sensor = _levelled(thin_m)
    level_m = transform_points(level_T_sensor, thin_m).astype(np.float32)
    height_m = level_m[:, 2] - _ground_under(level_m)
    stands, lies = height_m > clearance_m, np.abs(height_m) <= clearance_m
    return Scene(level_T_sensor, level_m[stands], height_m[stands], level_m[lies])


def _levelled(points_m: Array) -> Array:
    """level_T_sensor (4, 4) from the plane under the lowest points near the sensor.

    Of many planes through three of them (Fischler and Bolles 1981, with fixed draws) the one with most near it, fitted
    again to those by least squares. A scan without ground keeps its own z, and the lowest points' level.
    """
    lowest = _lowest_of_cells(points_m)
    rng = np.random.default_rng(0)
    corners = lowest[rng.integers(0, len(lowest), (_HYPOTHESES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals *= np.sign(normals[:, 2:]) / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    offsets = np.einsum("ij,ij->i", normals, corners[:, 0])
    near = np.abs(np.einsum("hi,ni->hn", normals, lowest) - offsets[:, None]) < _HYPOTHESIS_M
    # Roofs and hedges are level too: of two planes with like support take the lower.
    support = near.sum(axis=1) - 0.02 * len(lowest) * offsets
    support[(normals[:, 2] < np.cos(_MAX_TILT_RAD)) | (near.sum(axis=1) < 3)] = -np.inf
    best = int(np.argmax(support))
    if not np.isfinite(support[best]):
        return from_rotation_translation(np.eye(3), np.array([0.0, 0.0, -float(np.quantile(points_m[:, 2], 0.02))]))
    ground = lowest[near[best]]
    design = np.column_stack([ground[:, :2], np.ones(len(ground))])
    a, b, c = np.linalg.solve(design.T @ design + 1e-6 * np.eye(3), design.T @ ground[:, 2])
    normal = np.array([-a, -b, 1.0]) / np.sqrt(a * a + b * b + 1.0)
    axis = np.cross(normal, [0.0, 0.0, 1.0])
    length = max(float(np.linalg.norm(axis)), 1e-12)
    rotation = so3_exp(axis / length * np.arctan2(length, normal[2]))
    return from_rotation_translation(rotation, np.array([0.0, 0.0, -c * normal[2]]))


def _lowest_of_cells(points_m: Array) -> Array:
    """(C, 3): the lowest point of each cell near the sensor (of all cells, if few are near)."""
    near = np.linalg.norm(points_m[:, :2], axis=1) < _LOW_REACH_M
    chosen = points_m[near] if np.count_nonzero(near) >= 50 else points_m
    cells = np.floor(chosen[:, :2] / _LOW_CELL_M).astype(np.int64)
    key = cells[:, 0] * 4096 + cells[:, 1]
    order = np.lexsort((chosen[:, 2], key))
    first = np.concatenate([[True], np.diff(key[order]) != 0])
    result: Array = chosen[order[first]]
    return result


def _ground_under(level_m: Array) -> Array:
    """The ground's height (N,) under points (N, 3) of the level frame: low quantiles of cells, near the plane z = 0.

    Cells without ground take the mean of their neighbours, farther and farther out, and fade to the plane.
    """
    side = 2 * int(np.ceil(MAX_RANGE_M / _GROUND_CELL_M)) + 2
    cells = np.floor(level_m[:, :2] / _GROUND_CELL_M).astype(np.int64) + side // 2
    flat = np.clip(cells[:, 0], 0, side - 1) * side + np.clip(cells[:, 1], 0, side - 1)
    tolerance_m = _GROUND_NEAR_M + _GROUND_SLOPE * np.linalg.norm(level_m[:, :2], axis=1)
    likely = np.flatnonzero(np.abs(level_m[:, 2]) < tolerance_m)
    likely = likely[np.lexsort((level_m[likely, 2], flat[likely]))]
    occupied, start, count = np.unique(flat[likely], return_index=True, return_counts=True)
    heights: Array = np.zeros(side * side)
    weights: Array = np.zeros(side * side)
    heights[occupied] = level_m[likely[start + count // 5], 2]
    weights[occupied] = np.minimum(count, 4)
    heights, weights = (heights * weights).reshape(side, side), weights.reshape(side, side)
    for _ in range(2):
        heights, weights = _spread(heights), _spread(weights)
    surface = heights / (weights + 0.1)
    result: Array = surface.ravel()[flat].astype(np.float32)
    return result


def _spread(image: Array) -> Array:
    """Each cell with a share of its neighbours: the separable kernel 1 4 1 (not normalised)."""
    for axis in (0, 1):
        image = 4.0 * image + np.roll(image, 1, axis) + np.roll(image, -1, axis)
    return image / 16.0
