"""Walls and corners among the columns of a cloud.

Walls are lines of tall columns, by a Hough transform (Duda and Hart 1972) whose strongest line is taken, refined,
split at gaps and removed, again and again. Corners are where two walls meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registration.scene_columns import Columns
from registration.scene_graph import CORNER, KIND_WEIGHTS, WALL

Array = NDArray[Any]

_ANGLES_RAD = np.radians(np.arange(0.0, 180.0, 2.0))
_OFFSET_M = 0.3


@dataclass(frozen=True)
class WallConfig:
    """max_range_m: of the columns. cell_m: their grid's cell. wall_m, rise_m: the shortest wall; the least height over
    which its columns must have been seen. gap_m: a gap that ends a wall. max_walls: no more are looked for."""

    max_range_m: float = 60.0
    cell_m: float = 0.2
    wall_m: float = 2.5
    rise_m: float = 1.0
    gap_m: float = 1.5
    max_walls: int = 40


class Nodes(NamedTuple):
    """Rows of a graph: see SceneGraph."""

    kinds: Array
    centers_m: Array
    sizes_m: Array
    yaws_rad: Array
    weights: Array


def no_nodes() -> Nodes:
    """No rows."""
    return Nodes(np.zeros(0, np.uint8), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))


def find_walls(columns: Columns, config: WallConfig) -> Nodes:
    """Wall segments among columns."""
    found = list[Any]()
    tall = np.flatnonzero(columns.high_m - columns.low_m > config.rise_m)
    xy = columns.xy_m[tall]
    bins = int(2.0 * config.max_range_m / _OFFSET_M) + 2
    votes = np.floor((xy @ np.stack([np.cos(_ANGLES_RAD), np.sin(_ANGLES_RAD)]) + config.max_range_m) / _OFFSET_M)
    votes = np.clip(votes, 0, bins - 1)  # a column on the border of the range has its centre beyond
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
    if not found:
        return no_nodes()
    return _wall_nodes(found, columns.take(tall))


def _longest_run(xy: Array, free: Array, normal: Array, offset: float, config: WallConfig) -> tuple[Any, Array]:
    """The longest stretch without a gap of the columns near a line: (normal, offset, from, to) or None if it is no
    wall, and its columns, never none."""
    for reach in (_OFFSET_M, 0.25):
        near = np.flatnonzero(free & (np.abs(xy @ normal - offset) <= reach))
        if len(near) < 3:
            break
        along = xy[near] @ np.array([-normal[1], normal[0]])
        order = np.argsort(along, kind="stable")
        gaps = np.diff(along[order])
        breaks = np.flatnonzero(gaps > np.maximum(config.gap_m, 0.03 * np.hypot(*xy[near[order[1:]]].T)))
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


def _wall_nodes(found: list[Any], tall: Columns) -> Nodes:
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
    return Nodes(
        np.full(len(found), WALL, np.uint8),
        np.column_stack([centers, floors + tops / 2.0]),
        np.column_stack([lengths, rough, tops]),
        np.arctan2(normals_seen[:, 1], normals_seen[:, 0]),
        KIND_WEIGHTS[WALL] * np.clip(lengths / 8.0, 0.3, 1.0),
    )


def along_walls(xy_m: Array, walls: Nodes) -> Array:
    """Which places (N, 2) lie on a wall or on its continuation.

    Where a wall is far away or seen at a grazing angle, its columns are too low to be part of it. Left to themselves
    they would make poles where the scan's rings cross it, which move with the sensor: in a tunnel, a false witness.
    """
    normals = np.stack([np.cos(walls.yaws_rad), np.sin(walls.yaws_rad)], axis=1)
    gap = xy_m[:, None, :] - walls.centers_m[None, :, :2]
    across = np.abs((gap * normals).sum(axis=2))
    along = np.abs(gap[..., 1] * normals[:, 0] - gap[..., 0] * normals[:, 1])
    result: Array = ((across < 0.4) & (along < walls.sizes_m[:, 0] + 2.0)).any(axis=1)
    return result


def find_corners(walls: Nodes) -> Nodes:
    """Where two walls at an angle meet: both end near the crossing of their lines."""
    if len(walls.kinds) < 2:
        return no_nodes()
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
    return Nodes(
        np.full(len(a), CORNER, np.uint8),
        np.column_stack([crossing, floors + tops / 2.0]),
        np.column_stack([np.zeros((len(a), 2)), tops]),
        np.arctan2(*(normals[a] + normals[b]).T[::-1]),
        np.full(len(a), KIND_WEIGHTS[CORNER]),
    )
