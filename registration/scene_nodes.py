"""The nodes of a scene graph: structures found in one cloud, and objects that a detector found in it.

    graph = build_scene_graph(cloud, detections)

The cloud is levelled by the plane of the ground, unless up is given, and what stands above the ground is sorted into
columns of a bird's-eye grid. Structures are what columns make together:

- walls, which are lines of tall columns, and corners, where two walls meet (scene_walls.py);
- poles and trunks: thin upright groups of columns in the slab between knee and head, below most crowns.
- crowns and things: the other groups, above and below the height of a head.

A sensor sees one side of a thing. What is round as seen from above has its middle half its width behind the
nearest point, and is put there, so that two robots on opposite sides agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.scene_columns import Columns, Shapes, columns_of, groups_of, shapes_of
from registration.scene_graph import (
    CROWN,
    KIND_WEIGHTS,
    OBJECT,
    PERSON,
    POLE,
    THING,
    VEHICLE,
    SceneGraph,
)
from registration.scene_walls import Nodes, WallConfig, along_walls, find_corners, find_walls, no_nodes
from tercel.core.errors import Rejected
from tercel.core.geometry import wrap_angle
from tercel.core.messages import Detections3D, PointCloud

Array = NDArray[Any]

_VEHICLES = frozenset({"car", "truck", "bus", "van", "tram", "train", "motorcycle", "bicycle", "trailer", "vehicle"})
_PERSONS = frozenset({"person", "pedestrian", "cyclist", "rider", "person_sitting", "dog", "animal"})
_GROUND_CELL_M = 2.0
_LEVEL_RANGE_M = 30.0  # the ground within this distance says which way is up


@dataclass(frozen=True)
class NodeConfig:
    """Lengths suit outdoor scenes and 16 to 64 beams.

    min_range_m, max_range_m: points nearer (the robot itself) and farther, in the plane, are not used.
    min_points: fewer usable points are rejected.
    ground_m: points no higher above the ground belong to it. head_m: the slab of poles ends, and crowns begin, here.
    max_height_m: what is higher is not used.
    cell_m: the grid in which columns are grouped. gap_m: far from the sensor, columns this far apart still touch.
    pole_m: a pole's greatest thickness. pole_rise_m: the least height over which it must have been seen.
    blob_m: the greatest extent of a crown or thing. max_nodes: of more nodes, those that weigh most are kept.
    """

    min_range_m: float = 2.5
    max_range_m: float = 60.0
    min_points: int = 200
    ground_m: float = 0.4
    head_m: float = 2.0
    max_height_m: float = 15.0
    cell_m: float = 0.2
    gap_m: float = 0.5
    pole_m: float = 0.7
    pole_rise_m: float = 0.7
    blob_m: float = 8.0
    max_nodes: int = 400

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 < getattr(self, field.name) < np.inf:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be above 0")
        if not self.min_range_m < self.max_range_m <= 300.0:
            raise ValueError(f"max_range_m is {self.max_range_m}; it must be above min_range_m and at most 300")


def build_scene_graph(
    cloud: PointCloud,
    detections: Detections3D | None = None,
    *,
    up: Array | None = None,
    config: NodeConfig | None = None,
) -> SceneGraph:
    """The graph of one cloud, with the objects of a detector that saw the same cloud, if there is one.

    up: the direction opposite to gravity in the cloud's frame, from an IMU; without it the ground's normal is taken.
    Raises Rejected for too few usable points, and for detections of another frame.
    """
    config = config or NodeConfig()
    if detections is not None and detections.frame_id != cloud.frame_id:
        raise Rejected("detections are not in the cloud's frame")
    points_m = _usable(cloud.points_m, config)
    up = upward(points_m) if up is None else np.asarray(up, np.float64) / np.linalg.norm(up)
    level_R_sensor = rotation_to_level(up)
    points_m = points_m @ level_R_sensor.T
    heights_m, sensor_height_m = _above_ground(points_m)
    raised = (heights_m > config.ground_m) & (heights_m < config.max_height_m)
    points_m, heights_m = points_m[raised], heights_m[raised]
    objects = _objects(detections, level_R_sensor)
    nodes = [objects, *_structures(points_m, heights_m, config)]
    rows = Nodes(*(np.concatenate(parts) for parts in zip(*nodes, strict=True)))
    graph = SceneGraph(cloud.stamp_ns, cloud.frame_id, up, sensor_height_m, *rows)
    return graph.take(np.sort(np.argsort(-graph.weights, kind="stable")[: config.max_nodes]))


def rotation_to_level(up: Array) -> Array:
    """level_R_sensor (3, 3): the smallest rotation that carries the unit vector up (3,) to z."""
    x, y, z = up
    if z < -0.99:
        raise ValueError("the sensor stands on its head")
    k = 1.0 / (1.0 + z)
    return np.array([[1 - x * x * k, -x * y * k, -x], [-x * y * k, 1 - y * y * k, -y], [x, y, z]])


def _usable(points_m: Array, config: NodeConfig) -> Array:
    """The finite points (M, 3) float64 between two distances in the plane; heights are bounded alike."""
    with np.errstate(over="ignore", invalid="ignore"):
        distance_sq = points_m[:, 0] ** 2 + points_m[:, 1] ** 2
        kept = (distance_sq >= config.min_range_m**2) & (distance_sq <= config.max_range_m**2)
        kept &= np.abs(points_m[:, 2]) <= config.max_range_m
    points: Array = points_m[kept].astype(np.float64)
    if len(points) < config.min_points:
        raise Rejected("too few usable points")
    return points


def upward(points_m: Array) -> Array:
    """The unit normal (3,) of the plane under the lowest points of cells near the sensor, in the points' frame.

    Quantile regression, with a quarter of the cells below the plane, by reweighted least squares: nothing that stands
    above the ground can tilt it.
    """
    near = points_m[np.hypot(points_m[:, 0], points_m[:, 1]) < _LEVEL_RANGE_M]
    if not len(near):
        return np.array([0.0, 0.0, 1.0])
    lowest = near[_lowest_of_cells(near)]
    design = np.column_stack([lowest[:, :2], np.ones(len(lowest))])
    plane = np.array([0.0, 0.0, np.quantile(lowest[:, 2], 0.25)])
    ridge = np.diag([1.0, 1.0, 1e-6])
    for _ in range(15):
        residuals = lowest[:, 2] - design @ plane
        weights = np.where(residuals > 0, 0.25, 0.75) / np.maximum(np.abs(residuals), 0.05)
        weighted = design * weights[:, None]
        plane = np.linalg.solve(weighted.T @ design + ridge, weighted.T @ lowest[:, 2])
    normal = np.array([-plane[0], -plane[1], 1.0])
    result: Array = normal / np.linalg.norm(normal)
    return result


def _lowest_of_cells(points_m: Array) -> Array:
    """Indices of the lowest point of each cell of the ground's grid."""
    cells = np.floor(points_m[:, :2] / _GROUND_CELL_M).astype(np.int64)
    order = np.lexsort([points_m[:, 2], cells[:, 1], cells[:, 0]])
    ordered = cells[order]
    first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    result: Array = order[first]
    return result


def _above_ground(points_m: Array) -> tuple[Array, float]:
    """Heights (N,) of level points above the ground, and the sensor's.

    The ground is a plane that is corrected by the cells whose lowest point is near it, averaged over their
    neighbourhood; where there is none, the plane stands.
    """
    low = points_m[_lowest_of_cells(points_m)]
    near = np.hypot(low[:, 0], low[:, 1]) < _LEVEL_RANGE_M
    floor_m = float(np.quantile(low[near if near.any() else slice(None), 2], 0.3))
    ranges_m = np.hypot(low[:, 0], low[:, 1])
    ground = low[np.abs(low[:, 2] - floor_m) < 0.3 + 0.05 * ranges_m]
    origin = np.floor(points_m[:, :2].min(axis=0) / _GROUND_CELL_M).astype(np.int64)
    side = np.floor(points_m[:, :2].max(axis=0) / _GROUND_CELL_M).astype(np.int64) - origin + 5
    sums, counts = np.zeros(side), np.zeros(side)
    cell = np.floor(ground[:, :2] / _GROUND_CELL_M).astype(np.int64) - origin + 2
    np.add.at(sums, (cell[:, 0], cell[:, 1]), ground[:, 2] - floor_m)
    np.add.at(counts, (cell[:, 0], cell[:, 1]), 1.0)
    corrections = _box_sum(sums) / (_box_sum(counts) + 0.5)
    at = np.floor(points_m[:, :2] / _GROUND_CELL_M).astype(np.int64) - origin + 2
    heights: Array = points_m[:, 2] - floor_m - corrections[at[:, 0], at[:, 1]]
    return heights, -floor_m


def _box_sum(image: Array) -> Array:
    """Sums over neighbourhoods of 5 x 5 cells."""
    padded = np.pad(image, 2)
    rows = np.sum([padded[k : k + image.shape[0]] for k in range(5)], axis=0)
    result: Array = np.sum([rows[:, k : k + image.shape[1]] for k in range(5)], axis=0)
    return result


def _structures(points_m: Array, heights_m: Array, config: NodeConfig) -> Iterator[Nodes]:
    """Walls, corners, poles, things and crowns."""
    if not len(points_m):
        return
    columns = columns_of(points_m, heights_m, config.cell_m)
    walls = find_walls(columns, WallConfig(max_range_m=config.max_range_m, cell_m=config.cell_m))
    yield walls
    yield find_corners(walls)
    slab = (heights_m > config.ground_m) & (heights_m < config.head_m)
    low = columns_of(points_m[slab], heights_m[slab], config.cell_m)
    low = low.take(~along_walls(low.xy_m, walls))
    yield from _poles_and_things(low, columns, config)
    above = heights_m >= config.head_m
    high = columns_of(points_m[above], heights_m[above], config.cell_m)
    high = high.take(~along_walls(high.xy_m, walls))
    yield _crowns(high, config)


def _poles_and_things(low: Columns, columns: Columns, config: NodeConfig) -> Iterator[Nodes]:
    """Thin upright groups of the slab, and the others that are not too large."""
    groups = groups_of(low, config.cell_m, config.gap_m)
    shapes = shapes_of(low, groups)
    rise = shapes.high_m - shapes.low_m
    extent = np.maximum(shapes.deep_m, shapes.wide_m)
    pole = (extent < config.pole_m) & (rise > config.pole_rise_m)
    tops_m = np.zeros(len(pole))
    tops_m[pole] = _tops(shapes.xy_m[pole], columns, 0.4)
    yield _upright(POLE, shapes, pole, np.clip(rise / 1.2, 0.3, 1.0), tops_m)
    thing = ~pole & (extent > 0.4) & (extent < config.blob_m) & (shapes.columns >= 4) & (rise > 0.3)
    yield _upright(THING, shapes, thing, np.clip(shapes.columns / 20.0, 0.3, 1.0), shapes.high_m)


def _crowns(high: Columns, config: NodeConfig) -> Nodes:
    if not len(high.points):
        return no_nodes()
    shapes = shapes_of(high, groups_of(high, config.cell_m, config.gap_m))
    extent = np.maximum(shapes.deep_m, shapes.wide_m)
    crown = (extent > 1.0) & (extent < config.blob_m) & (shapes.high_m - shapes.low_m > 0.6) & (shapes.columns >= 8)
    return _upright(CROWN, shapes, crown, np.clip(shapes.columns / 40.0, 0.3, 1.0), shapes.high_m)


def _upright(kind: int, shapes: Shapes, kept: Array, reliability: Array, tops_m: Array) -> Nodes:
    """Nodes that stand on the ground: what is round as seen from above has no yaw."""
    wide, top, floor = shapes.wide_m[kept], tops_m[kept], shapes.floor_m[kept]
    count = int(np.count_nonzero(kept))
    return Nodes(
        np.full(count, kind, np.uint8),
        np.column_stack([shapes.xy_m[kept], floor + top / 2.0]),
        np.column_stack([wide, wide, top]),
        np.full(count, np.nan),
        KIND_WEIGHTS[kind] * reliability[kept],
    )


def _tops(xy_m: Array, columns: Columns, reach_m: float) -> Array:
    """The highest point above the ground (G,) among columns within reach of places (G, 2)."""
    x, y = (np.subtract.outer(xy_m[:, k], columns.xy_m[:, k]) for k in (0, 1))
    result: Array = np.where(x * x + y * y < reach_m**2, columns.high_m, 0.0).max(axis=1, initial=0.0)
    return result


def _objects(detections: Detections3D | None, level_R_sensor: Array) -> Nodes:
    """A detector's finite boxes."""
    if detections is None or not len(detections.scores):
        return no_nodes()
    numbers = np.column_stack([detections.centers_m, detections.sizes_m, detections.yaws_rad, detections.scores])
    kept = np.isfinite(numbers).all(axis=1) & (detections.sizes_m > 0).all(axis=1)
    kept &= (detections.labels >= 0) & (detections.labels < len(detections.class_names))
    kind_of = np.array([_kind(name) for name in detections.class_names] or [OBJECT], np.uint8)
    kinds = kind_of[detections.labels[kept]]
    yaw_offset = np.arctan2(level_R_sensor[1, 0], level_R_sensor[0, 0])
    return Nodes(
        kinds,
        detections.centers_m[kept] @ level_R_sensor.T,
        detections.sizes_m[kept],
        wrap_angle(detections.yaws_rad[kept] + yaw_offset),
        KIND_WEIGHTS[kinds] * np.clip(detections.scores[kept].astype(np.float64), 0.0, 1.0),
    )


def _kind(class_name: str) -> int:
    name = class_name.lower()
    return VEHICLE if name in _VEHICLES else PERSON if name in _PERSONS else OBJECT
