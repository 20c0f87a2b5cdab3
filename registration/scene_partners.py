"""Partners among the nodes of two level scene graphs, for many poses at once, and how well they agree.

A pose is x, y, yaw (m, rad) of the source in the target, seen from above. All functions take K poses and M source
nodes; there is no loop over either.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registration.scene_graph import CORNER, CROWN, OBJECT, PERSON, POLE, THING, VEHICLE, WALL, SceneGraph

Array = NDArray[Any]

REACHES_M = (2.5, 1.5, 1.2, 0.9, 0.7, 0.5)  # how far a node looks for its partner, step by step
SHARED_RANGE_M = 30.0  # what is this near to both robots, both ought to see
# Standard deviation of a node's place: a crown has no sharp middle.
SIGMA_M = np.zeros(8)
SIGMA_M[[POLE, WALL, CORNER, CROWN, THING, OBJECT, VEHICLE, PERSON]] = [0.25, 0.2, 0.3, 0.5, 0.5, 0.6, 0.8, 0.8]
# What it tells against a pose that a node is not there: walls are seen by all, poles are hidden by anything.
_MISSED = np.zeros(8)
_MISSED[[POLE, WALL, CORNER, CROWN, THING, OBJECT, VEHICLE]] = [0.08, 0.4, 0.2, 0.25, 0.06, 0.06, 0.03]
_WALL_YAW_RAD = np.radians(6.0)
_FIELD_M = 0.5


class Plane(NamedTuple):
    """A graph as seen from above: places (N, 2), kinds (N,), weights (N,), the z of what nodes stand on (N,), their
    tops above it (N,), walls' normals (N, 2) (zero for others), half lengths (N,)."""

    xy_m: Array
    kinds: Array
    weights: Array
    floor_m: Array
    tops_m: Array
    normals: Array
    halves_m: Array


class Partners(NamedTuple):
    """What K poses give to M source nodes: the partner's index (K, M), how good it is (K, M) in 0..1, 0 where there is
    none, and by what the moved node misses it (K, M, 2) (m; a wall: the miss of its middle)."""

    of: Array
    quality: Array
    miss_m: Array


class Field(NamedTuple):
    """A grid: of each kind the target's node nearest to each cell, (kinds, side, side) indices, -1 where none is."""

    nearest: Array
    origin_m: Array


def plane_of(graph: SceneGraph) -> Plane:
    """A graph as seen from above."""
    wall = (graph.kinds == WALL) & np.isfinite(graph.yaws_rad)  # one that says not where it faces finds no partner
    yaw = np.where(wall, graph.yaws_rad, 0.0)
    normals = np.stack([np.cos(yaw), np.sin(yaw)], axis=1) * wall[:, None]
    floor = graph.centers_m[:, 2] - graph.sizes_m[:, 2] / 2.0
    return Plane(
        graph.centers_m[:, :2], graph.kinds, graph.weights, floor, graph.sizes_m[:, 2], normals,
        np.where(wall, graph.sizes_m[:, 0] / 2.0, 0.0),
    )  # fmt: skip


def affinity_of(target: Plane, source: Plane) -> Array:
    """Affinity (N, M) in 0..1: of one kind, of similar height."""
    same = target.kinds[:, None] == source.kinds
    lower = np.minimum(target.tops_m[:, None], source.tops_m)
    higher = np.maximum(np.maximum(target.tops_m[:, None], source.tops_m), 0.1)
    result: Array = same * (0.5 + 0.5 * lower / higher)
    return result


def field_of(target: Plane) -> Field:
    """Nodes are stamped far to near, so that the nearest one remains."""
    points = np.flatnonzero(target.kinds != WALL)
    origin = (target.xy_m.min(axis=0) if len(target.kinds) else np.zeros(2)) - 2.0 * REACHES_M[0]
    extent = (target.xy_m.max(axis=0) if len(target.kinds) else np.zeros(2)) + 2.0 * REACHES_M[0] - origin
    side = np.ceil(extent / _FIELD_M).astype(np.int64) + 1
    steps = np.arange(-int(REACHES_M[0] / _FIELD_M) - 1, int(REACHES_M[0] / _FIELD_M) + 2)
    around = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    cell = np.floor((target.xy_m[points] - origin) / _FIELD_M).astype(np.int64)[:, None] + around
    middle = origin + (cell + 0.5) * _FIELD_M
    apart = ((middle - target.xy_m[points][:, None]) ** 2).sum(axis=2).ravel()
    order = np.argsort(-apart, kind="stable")
    node = np.repeat(points, len(around))[order]
    x, y = cell.reshape(-1, 2)[order].T
    nearest = np.full((len(SIGMA_M), *side), -1, np.int32)
    inside = (x >= 0) & (y >= 0) & (x < side[0]) & (y < side[1])
    nearest[target.kinds[node[inside]], x[inside], y[inside]] = node[inside]
    return Field(nearest, origin)


def moved_by(xy_m: Array, poses: Array) -> Array:
    """Places (K, M, 2) of points (M, 2) after each of K poses (K, 3): x, y, yaw."""
    cos, sin = np.cos(poses[:, 2, None]), np.sin(poses[:, 2, None])
    x = cos * xy_m[:, 0] - sin * xy_m[:, 1] + poses[:, 0, None]
    y = sin * xy_m[:, 0] + cos * xy_m[:, 1] + poses[:, 1, None]
    return np.stack([x, y], axis=2)


def partners_of(target: Plane, source: Plane, field: Field, poses: Array, affinity: Array, reach_m: float) -> Partners:
    """The nearest node of the same kind, for each source node under each pose. Each point of the target is partner of
    its best point alone; a wall may be two in the other graph."""
    moved = moved_by(source.xy_m, poses)
    cell = np.floor((moved - field.origin_m) / _FIELD_M).astype(np.int64)
    inside = np.all((cell >= 0) & (cell < field.nearest.shape[1:]), axis=2)
    cell = np.where(inside[..., None], cell, 0)
    index = np.where(inside, field.nearest[source.kinds, cell[..., 0], cell[..., 1]], -1)
    miss = moved - target.xy_m[index]
    sigma = np.maximum(SIGMA_M[source.kinds], 0.4 * reach_m)
    squares = np.where(index >= 0, (miss**2).sum(axis=2) / sigma**2, np.inf)
    walls = np.flatnonzero(source.kinds == WALL)
    if len(walls):
        index[:, walls], squares[:, walls], miss[:, walls] = _wall_partners(
            target, source, walls, moved, poses, reach_m
        )
    spread = np.exp(-0.5 * squares)
    quality = (spread + spread**4 + spread**16) / 3.0 * affinity[index, np.arange(len(source.kinds))]
    quality[squares > 6.25] = 0.0
    best = np.zeros((len(poses), len(target.kinds)))
    row = np.arange(len(poses))[:, None]
    np.maximum.at(best, (np.broadcast_to(row, index.shape), index), quality)
    quality[(quality < best[row, index]) & (source.kinds != WALL)] = 0.0
    return Partners(index, quality, miss)


def _wall_partners(
    target: Plane, source: Plane, walls: Array, moved: Array, poses: Array, reach_m: float
) -> tuple[Array, Array, Array]:
    """Index, squared distance in sigmas, and miss (K, W), (K, W), (K, W, 2) of the wall that is closest to each."""
    a = np.flatnonzero(target.kinds == WALL)
    if not len(a):
        shape = (len(poses), len(walls))
        return np.full(shape, -1), np.full(shape, np.inf), np.zeros((*shape, 2))
    n = target.normals[a]
    normals = moved_by(source.normals[walls], poses * [0.0, 0.0, 1.0])
    cosine = np.einsum("kwi,ai->kwa", normals, n)
    sine = normals[..., 1, None] * n[:, 0] - normals[..., 0, None] * n[:, 1]
    gap = moved[:, walls, None] - target.xy_m[a]
    across = (gap * n).sum(axis=3)
    along = np.abs(gap[..., 1] * n[:, 0] - gap[..., 0] * n[:, 1])
    halves = source.halves_m[walls][:, None], target.halves_m[a]
    touching = along < halves[0] + halves[1] - 0.5
    facing = (cosine > 0) & (np.abs(sine) < np.sin(_WALL_YAW_RAD))
    tilt = sine * np.minimum(*halves)
    sigma = max(SIGMA_M[WALL], 0.4 * reach_m)
    squares = np.where(touching & facing, (across**2 + tilt**2) / sigma**2, np.inf)
    k = np.argmin(squares, axis=2)
    at = np.arange(len(poses))[:, None], np.arange(len(walls)), k
    return a[k], squares[at], across[at][..., None] * n[k]


def scores_of(target: Plane, source: Plane, poses: Array, partners: Partners) -> Array:
    """(K,): the weight of what was matched, less a share of the weight of what both ought to see and one does not."""
    weight = np.sqrt(target.weights[partners.of] * source.weights)
    missing = in_sight(source, poses) * (_MISSED[source.kinds] * source.weights * (1.0 - partners.quality))
    taken = np.zeros((len(poses), len(target.kinds)))
    np.maximum.at(taken, (np.arange(len(poses))[:, None], partners.of), partners.quality)
    missing_too = in_sight(target, inverse_poses(poses)) * (_MISSED[target.kinds] * target.weights * (1.0 - taken))
    result: Array = (weight * partners.quality).sum(axis=1) - 0.5 * (missing.sum(axis=1) + missing_too.sum(axis=1))
    return result


def in_sight(graph: Plane, poses: Array) -> Array:
    """Which nodes (K, M) are near both to their own robot and to the one that each pose leads to."""
    far = np.square(moved_by(graph.xy_m, poses)).sum(axis=2)
    near = np.square(graph.xy_m).sum(axis=1) < SHARED_RANGE_M**2
    result: Array = near & (far < SHARED_RANGE_M**2)
    return result


def inverse_poses(poses: Array) -> Array:
    """The inverse poses (K, 3)."""
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    x, y = poses[:, 0], poses[:, 1]
    return np.stack([-cos * x - sin * y, sin * x - cos * y, -poses[:, 2]], axis=1)


def refined_poses(
    target: Plane, source: Plane, field: Field, poses: Array, affinity: Array, reaches_m: tuple[float, ...]
) -> tuple[Array, Array]:
    """Poses (K, 3) and information (K, 3, 3) after Gauss-Newton with a shrinking reach."""
    information = np.zeros((len(poses), 3, 3))
    for reach_m in reaches_m:
        partners = partners_of(target, source, field, poses, affinity, reach_m)
        information, gradient = _normal_equations(target, source, poses, partners)
        poses = poses - np.linalg.solve(information, gradient[..., None])[..., 0]
    return poses, information


def _normal_equations(target: Plane, source: Plane, poses: Array, partners: Partners) -> tuple[Array, Array]:
    """J'WJ (K, 3, 3) and J'Wr (K, 3): a point is held in x and y, a wall along its partner's normal at both ends."""
    weight = partners.quality * np.sqrt(target.weights[partners.of] * source.weights) / SIGMA_M[source.kinds] ** 2
    wall = source.kinds == WALL
    zero = np.zeros_like(weight)
    turning = poses * [0.0, 0.0, 1.0]
    arm = moved_by(source.xy_m, turning)
    rows = [
        (np.stack([zero + 1.0, zero, -arm[..., 1]], 2), partners.miss_m[..., 0], weight * ~wall),
        (np.stack([zero, zero + 1.0, arm[..., 0]], 2), partners.miss_m[..., 1], weight * ~wall),
    ]
    normal = target.normals[partners.of]
    tangent = (
        np.stack([-source.normals[:, 1], source.normals[:, 0]], axis=1) * np.minimum(source.halves_m, 5.0)[:, None]
    )
    for sign in (-1.0, 1.0):
        lever = sign * moved_by(tangent, turning)
        end = arm + lever
        across = normal[..., 1] * end[..., 0] - normal[..., 0] * end[..., 1]
        miss = (normal * (partners.miss_m + lever)).sum(axis=2)
        rows.append((np.stack([normal[..., 0], normal[..., 1], across], 2), miss, weight * wall))
    information = sum(np.einsum("kmi,km,kmj->kij", j, w, j) for j, _, w in rows) + 1e-6 * np.eye(3)
    gradient = sum(np.einsum("kmi,km->ki", j, w * r) for j, r, w in rows)
    return np.asarray(information), np.asarray(gradient)
