"""The nodes of a scene graph: structures found in one cloud, and objects that a detector found in it.

    graph = build_scene_graph(cloud, detections)

The cloud is levelled by the plane of the ground, unless up is given, and what stands above the ground is sorted into
columns of a bird's-eye grid. Structures are what columns make together:

- walls: lines of tall columns, by a Hough transform (Duda and Hart 1972) whose strongest line is taken, refined,
  split at gaps and removed, again and again. Corners are where two walls meet.
- poles and trunks: thin upright groups of columns in the slab between knee and head, below most crowns.
- crowns and things: the other groups, above and below the height of a head.

A sensor sees one side of a thing. What is round as seen from above looks, in the mean, pi / 4 of its radius nearer than
its middle (half a cylinder under parallel beams), and is put back there, so that two robots on opposite sides agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registration.scene_graph import (
    CORNER,
    CROWN,
    KIND_WEIGHTS,
    OBJECT,
    PERSON,
    POLE,
    THING,
    VEHICLE,
    WALL,
    SceneGraph,
)
from tercel.core.errors import Rejected
from tercel.core.geometry import wrap_angle
from tercel.core.messages import Detections3D, PointCloud

Array = NDArray[Any]

_VEHICLES = frozenset({"car", "truck", "bus", "van", "tram", "train", "motorcycle", "bicycle", "trailer", "vehicle"})
_PERSONS = frozenset({"person", "pedestrian", "cyclist", "rider", "person_sitting", "dog", "animal"})
_GROUND_CELL_M = 2.0
_LEVEL_RANGE_M = 30.0  # the ground within this distance says which way is up
_ANGLES_RAD = np.radians(np.arange(0.0, 180.0, 2.0))
_OFFSET_M = 0.3
_HALF_CYLINDER = np.pi / 4.0


@dataclass(frozen=True)
class NodeConfig:
    """Lengths suit outdoor scenes and 16 to 64 beams.

    min_range_m, max_range_m: points nearer (the robot itself) and farther, in the plane, are not used.
    min_points: fewer usable points are rejected.
    ground_m: points no higher above the ground belong to it. head_m: the slab of poles ends, and crowns begin, here.
    max_height_m: what is higher is not used.
    cell_m: the grid in which columns are grouped. gap_m: far from the sensor, columns this far apart still touch.
    pole_m: a pole's greatest thickness. pole_rise_m: the least height over which it must have been seen.
    wall_m, wall_rise_m: the shortest wall; the least height over which its columns must have been seen.
    wall_gap_m: a gap that ends a wall. max_walls: no more are looked for.
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
    wall_m: float = 2.5
    wall_rise_m: float = 1.0
    wall_gap_m: float = 1.5
    max_walls: int = 40
    blob_m: float = 8.0
    max_nodes: int = 400


class _Nodes(NamedTuple):
    """Rows of a graph: see SceneGraph."""

    kinds: Array
    centers_m: Array
    sizes_m: Array
    yaws_rad: Array
    weights: Array


class _Columns(NamedTuple):
    """C occupied cells as seen from above: mean x, y (C, 2); lowest and highest point above the ground (C,); the
    ground's z (C,), level; how many points (C,); the integer cell (C, 2)."""

    xy_m: Array
    low_m: Array
    high_m: Array
    floor_m: Array
    points: Array
    cells: Array

    def take(self, index: Array) -> _Columns:
        return _Columns(*(field[index] for field in self))


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
    rows = _Nodes(*(np.concatenate(parts) for parts in zip(*nodes, strict=True)))
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
    rows = sum(padded[k : k + image.shape[0]] for k in range(5))
    result: Array = sum(rows[:, k : k + image.shape[1]] for k in range(5))  # type: ignore[index]
    return result


def _structures(points_m: Array, heights_m: Array, config: NodeConfig) -> Iterator[_Nodes]:
    """Walls, corners, poles, things and crowns."""
    if not len(points_m):
        return
    columns = _columns(points_m, heights_m, config.cell_m)
    walls, in_wall = _walls(columns, config)
    yield walls
    yield _corners(walls)
    slab = (heights_m > config.ground_m) & (heights_m < config.head_m)
    low = _columns(points_m[slab], heights_m[slab], config.cell_m)
    low = low.take(~np.isin(_keys(low.cells), _keys(columns.cells[in_wall])))
    yield from _poles_and_things(low, columns, config)
    above = heights_m >= config.head_m
    high = _columns(points_m[above], heights_m[above], config.cell_m)
    high = high.take(~np.isin(_keys(high.cells), _keys(columns.cells[in_wall])))
    yield _crowns(high, config)


def _columns(points_m: Array, heights_m: Array, cell_m: float) -> _Columns:
    cells = np.floor(points_m[:, :2] / cell_m).astype(np.int64)
    _, first, index = np.unique(_keys(cells), return_index=True, return_inverse=True)
    size = len(first)
    counts = np.bincount(index, minlength=size)
    floors_m = points_m[:, 2] - heights_m
    x, y, floor = (np.bincount(index, weights=v, minlength=size) / counts for v in (*points_m[:, :2].T, floors_m))
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, index, heights_m)
    np.maximum.at(high, index, heights_m)
    return _Columns(np.stack([x, y], axis=1), low, high, floor, counts, cells[first])


def _keys(cells: Array) -> Array:
    """One number per cell (C, 2), in lexicographic order."""
    result: Array = (cells[:, 0] + 2**20) * 2**21 + cells[:, 1] + 2**20
    return result


def _groups(columns: _Columns, config: NodeConfig) -> Array:
    """The group (C,) of each column, numbered from 0: touching columns connect, far ones over a gap as well."""
    keys = _keys(columns.cells)
    far = np.hypot(*columns.xy_m.T) > 20.0
    reach = max(int(config.gap_m / config.cell_m), 1)
    steps = [(dx, dy) for dx in range(reach + 1) for dy in range(-reach, reach + 1) if (dx, dy) > (0, 0)]
    pairs = []
    for step in steps:
        wanted = _keys(columns.cells + step)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        linked = (keys[at] == wanted) & (far | (max(abs(step[0]), abs(step[1])) == 1))
        pairs.append(np.stack([np.flatnonzero(linked), at[linked]]))
    a, b = np.concatenate(pairs, axis=1)
    labels = np.arange(len(keys))
    while True:  # hooks each tree's root to the least neighbour, then halves the paths: a few rounds
        least = np.minimum(labels[a], labels[b])
        new = labels.copy()
        for at in (labels[a], labels[b], a, b):
            np.minimum.at(new, at, least)
        new = new[new]
        if (new == labels).all():
            return np.unique(labels, return_inverse=True)[1]
        labels = new


class _Shapes(NamedTuple):
    """G groups of columns: the middle as seen (G, 2), put back by the unseen side; the ground's z; extent along and across the
    line of sight; lowest and highest point above the ground; columns."""

    xy_m: Array
    floor_m: Array
    deep_m: Array
    wide_m: Array
    low_m: Array
    high_m: Array
    columns: Array


def _shapes(columns: _Columns, groups: Array) -> _Shapes:
    size = int(groups.max()) + 1 if len(groups) else 0
    counts = np.bincount(groups, minlength=size)
    mean = np.stack([np.bincount(groups, weights=v, minlength=size) / np.maximum(counts, 1) for v in columns.xy_m.T], 1)
    sight = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
    away = columns.xy_m - mean[groups]
    along = np.einsum("ij,ij->i", away, sight[groups])
    across = away[:, 1] * sight[groups, 0] - away[:, 0] * sight[groups, 1]
    spans = []
    for low_of, high_of in ((along, along), (across, across), (columns.low_m, columns.high_m)):
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        np.minimum.at(low, groups, low_of)
        np.maximum.at(high, groups, high_of)
        spans.append((low, high))
    (near, far), (right, left), (low, high) = spans
    floor = np.bincount(groups, weights=columns.floor_m, minlength=size) / np.maximum(counts, 1)
    wide = left - right
    nearest = mean + near[:, None] * sight
    middle = nearest + 0.5 * wide[:, None] * sight
    middle += (0.5 * (left + right))[:, None] * np.stack([-sight[:, 1], sight[:, 0]], axis=1)
    return _Shapes(middle, floor, far - near, wide, low, high, counts)


def _poles_and_things(low: _Columns, columns: _Columns, config: NodeConfig) -> Iterator[_Nodes]:
    """Thin upright groups of the slab, and the others that are not too large."""
    groups = _groups(low, config)
    shapes = _shapes(low, groups)
    rise = shapes.high_m - shapes.low_m
    extent = np.maximum(shapes.deep_m, shapes.wide_m)
    pole = (extent < config.pole_m) & (rise > config.pole_rise_m)
    tops_m = _tops(shapes.xy_m, columns, 0.4)
    yield _upright(POLE, shapes, pole, np.clip(rise / 1.2, 0.3, 1.0), tops_m)
    thing = ~pole & (extent > 0.4) & (extent < config.blob_m) & (shapes.columns >= 4) & (rise > 0.3)
    yield _upright(THING, shapes, thing, np.clip(shapes.columns / 20.0, 0.3, 1.0), shapes.high_m)


def _crowns(high: _Columns, config: NodeConfig) -> _Nodes:
    if not len(high.points):
        return _empty()
    shapes = _shapes(high, _groups(high, config))
    extent = np.maximum(shapes.deep_m, shapes.wide_m)
    crown = (extent > 1.0) & (extent < config.blob_m) & (shapes.high_m - shapes.low_m > 0.6) & (shapes.columns >= 8)
    return _upright(CROWN, shapes, crown, np.clip(shapes.columns / 40.0, 0.3, 1.0), shapes.high_m)


def _upright(kind: int, shapes: _Shapes, kept: Array, reliability: Array, tops_m: Array) -> _Nodes:
    """Nodes that stand on the ground: what is round as seen from above has no yaw."""
    wide, top, floor = shapes.wide_m[kept], tops_m[kept], shapes.floor_m[kept]
    count = int(np.count_nonzero(kept))
    return _Nodes(
        np.full(count, kind, np.uint8),
        np.column_stack([shapes.xy_m[kept], floor + top / 2.0]),
        np.column_stack([wide, wide, top]),
        np.full(count, np.nan),
        KIND_WEIGHTS[kind] * reliability[kept],
    )


def _tops(xy_m: Array, columns: _Columns, reach_m: float) -> Array:
    """The highest point above the ground (G,) among columns within reach of places (G, 2)."""
    near = ((xy_m[:, None, :] - columns.xy_m[None]) ** 2).sum(axis=2) < reach_m**2
    return np.where(near, columns.high_m, 0.0).max(axis=1, initial=0.0)


def _empty() -> _Nodes:
    return _Nodes(np.zeros(0, np.uint8), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))


def _walls(columns: _Columns, config: NodeConfig) -> tuple[_Nodes, Array]:
    """Wall segments, and which columns (C,) belong to one."""
    in_wall = np.zeros(len(columns.points), bool)
    tall = np.flatnonzero(columns.high_m - columns.low_m > config.wall_rise_m)
    xy, found = columns.xy_m[tall], []
    bins = int(2.0 * config.max_range_m / _OFFSET_M) + 2
    votes = np.floor((xy @ np.stack([np.cos(_ANGLES_RAD), np.sin(_ANGLES_RAD)]) + config.max_range_m) / _OFFSET_M)
    cells = votes.astype(np.int64) + bins * np.arange(len(_ANGLES_RAD))
    heap = np.bincount(cells.ravel(), minlength=bins * len(_ANGLES_RAD))
    free = np.ones(len(tall), bool)
    for _ in range(3 * config.max_walls):
        pairs = heap[:-1] + heap[1:]  # a wall on the border of two bins
        best = int(np.argmax(pairs))
        if pairs[best] * config.cell_m < 0.5 * config.wall_m or len(found) == config.max_walls:
            break
        angle = _ANGLES_RAD[best // bins]
        offset = (best % bins + 1) * _OFFSET_M - config.max_range_m
        line, members = _longest_run(xy, free, np.array([np.cos(angle), np.sin(angle)]), offset, config)
        heap -= np.bincount(cells[members].ravel(), minlength=len(heap))
        free[members] = False
        if line is not None:
            found.append((*line, members))
            in_wall[tall[members]] = True
    if not found:
        return _empty(), in_wall
    return _wall_nodes(found, columns.take(tall)), in_wall


def _longest_run(xy: Array, free: Array, normal: Array, offset: float, config: NodeConfig) -> tuple[Any, Array]:
    """The longest stretch without a gap of the columns near a line: (normal, offset, from, to) or None if it is no
    wall, and its columns, never none."""
    for reach in (_OFFSET_M, 0.25):
        near = np.flatnonzero(free & (np.abs(xy @ normal - offset) <= reach))
        if len(near) < 3:
            break
        along = xy[near] @ np.array([-normal[1], normal[0]])
        order = np.argsort(along, kind="stable")
        gaps = np.diff(along[order])
        breaks = np.flatnonzero(gaps > np.maximum(config.wall_gap_m, 0.03 * np.hypot(*xy[near[order[1:]]].T)))
        edges = np.concatenate([[0], breaks + 1, [len(order)]])
        longest = int(np.argmax(np.diff(edges)))
        members = near[order[edges[longest] : edges[longest + 1]]]
        middle = xy[members].mean(axis=0)
        spread = np.cov((xy[members] - middle).T) if len(members) > 2 else np.eye(2)
        normal = np.linalg.eigh(spread)[1][:, 0]
        offset = float(middle @ normal)
    if len(near) < 3:
        return None, near if len(near) else np.flatnonzero(free)[:1]
    along = xy[members] @ np.array([-normal[1], normal[0]])
    length = float(along.max() - along.min())
    filled = len(np.unique(np.floor(along / (2.0 * config.cell_m)))) * 2.0 * config.cell_m / max(length, 1e-9)
    thickness = float(np.sqrt(np.mean((xy[members] @ normal - offset) ** 2)))
    is_wall = length >= config.wall_m and filled > 0.5 and thickness < 0.2
    return (normal, offset, float(along.min()), float(along.max())) if is_wall else None, members


def _wall_nodes(found: list[Any], tall: _Columns) -> _Nodes:
    """Segments as nodes: the middle of the seen part, its length, roughness and height, and where its face looks to."""
    normals = np.array([segment[0] for segment in found])
    offsets, starts, ends = (np.array([segment[k] for segment in found]) for k in (1, 2, 3))
    facing = -np.sign(offsets)  # the sensor is the origin: the face that it sees looks at it
    normals_seen = normals * np.where(facing == 0, 1.0, facing)[:, None]
    tangents = np.stack([-normals[:, 1], normals[:, 0]], axis=1)
    centers = normals * offsets[:, None] + tangents * (0.5 * (starts + ends))[:, None]
    tops = np.array([tall.high_m[members].max() for *_, members in found])
    floors = np.array([tall.floor_m[members].mean() for *_, members in found])
    rough = np.array([np.std(tall.xy_m[members] @ normal) for normal, *_, members in found])
    lengths = ends - starts
    return _Nodes(
        np.full(len(found), WALL, np.uint8),
        np.column_stack([centers, floors + tops / 2.0]),
        np.column_stack([lengths, rough, tops]),
        np.arctan2(normals_seen[:, 1], normals_seen[:, 0]),
        KIND_WEIGHTS[WALL] * np.clip(lengths / 8.0, 0.3, 1.0),
    )


def _corners(walls: _Nodes) -> _Nodes:
    """Where two walls at an angle meet: both end near the crossing of their lines."""
    if len(walls.kinds) < 2:
        return _empty()
    normals = np.stack([np.cos(walls.yaws_rad), np.sin(walls.yaws_rad)], axis=1)
    centers = walls.centers_m[:, :2]
    offsets = np.einsum("ij,ij->i", normals, centers)
    a, b = np.triu_indices(len(normals), 1)
    sine = normals[a, 0] * normals[b, 1] - normals[a, 1] * normals[b, 0]
    a, b, sine = (v[np.abs(sine) > 0.7] for v in (a, b, sine))
    x = (offsets[a] * normals[b, 1] - offsets[b] * normals[a, 1]) / sine
    y = (normals[a, 0] * offsets[b] - normals[b, 0] * offsets[a]) / sine
    crossing = np.stack([x, y], axis=1)
    to_end = [np.abs(np.linalg.norm(crossing - centers[k], axis=1) - walls.sizes_m[k, 0] / 2.0) for k in (a, b)]
    kept = np.maximum(*to_end) < 1.0
    a, b, crossing = a[kept], b[kept], crossing[kept]
    tops = np.minimum(walls.sizes_m[a, 2], walls.sizes_m[b, 2])
    floors = 0.5 * sum(walls.centers_m[k, 2] - walls.sizes_m[k, 2] / 2.0 for k in (a, b))
    return _Nodes(
        np.full(len(a), CORNER, np.uint8),
        np.column_stack([crossing, floors + tops / 2.0]),
        np.column_stack([np.zeros((len(a), 2)), tops]),
        np.arctan2(*(normals[a] + normals[b]).T[::-1]),
        np.full(len(a), KIND_WEIGHTS[CORNER]),
    )


def _objects(detections: Detections3D | None, level_R_sensor: Array) -> _Nodes:
    """A detector's finite boxes."""
    if detections is None or not len(detections.scores):
        return _empty()
    numbers = np.column_stack([detections.centers_m, detections.sizes_m, detections.yaws_rad, detections.scores])
    kept = np.isfinite(numbers).all(axis=1) & (detections.sizes_m > 0).all(axis=1)
    kept &= (detections.labels >= 0) & (detections.labels < len(detections.class_names))
    kind_of = np.array([_kind(name) for name in detections.class_names] or [OBJECT], np.uint8)
    kinds = kind_of[detections.labels[kept]]
    yaw_offset = np.arctan2(level_R_sensor[1, 0], level_R_sensor[0, 0])
    return _Nodes(
        kinds,
        detections.centers_m[kept] @ level_R_sensor.T,
        detections.sizes_m[kept],
        wrap_angle(detections.yaws_rad[kept] + yaw_offset),
        KIND_WEIGHTS[kinds] * np.clip(detections.scores[kept].astype(np.float64), 0.0, 1.0),
    )


def _kind(class_name: str) -> int:
    name = class_name.lower()
    return VEHICLE if name in _VEHICLES else PERSON if name in _PERSONS else OBJECT
