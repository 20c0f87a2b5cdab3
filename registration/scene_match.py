"""Where two robots stand to each other, from their scene graphs alone.

    match = match_scene_graphs(target, source)

Both graphs are level, so that four numbers are sought: x, y, z and yaw. That is a smaller problem than six, and one that
weak nodes can still decide.

1. Votes (the generalised Hough transform; Ballard 1981): at each of many yaws, each pair of like nodes names the one
   translation that would bring them together, and each pair of walls that face alike the translations that would bring
   one wall onto the other. What agree are consistent subgraphs, and the cells with the most votes the candidates.
2. Candidates are refined by Gauss-Newton over all nodes, points to points and walls to walls' lines, under graduated
   truncation (Yang et al., "Graduated non-convexity", RA-L 2020): partners are looked for anew as the reach shrinks.
3. The candidate whose nodes find the most partners, one for each, wins. Confidence comes from how much was matched, how
   much of what both ought to see was, and how far the best candidate leads the next one elsewhere.

Maximum clique (robust.py) asks for correspondences few enough to list; here every node of a kind is a partner of every
other, and voting takes them all at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registration.scene_graph import CORNER, CROWN, OBJECT, PERSON, POLE, THING, VEHICLE, WALL, SceneGraph
from registration.scene_nodes import rotation_to_level
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, wrap_angle

Array = NDArray[Any]

_YAW_STEP_RAD = np.radians(2.5)
_CELL_M = 1.0
_FIELD_M = 0.5
_WALL_YAW_RAD = np.radians(6.0)
_REACHES_M = (2.5, 2.0, 1.5, 1.0, 0.8, 0.8)
# Standard deviation of a node's place: a crown has no sharp middle.
_SIGMA_M = np.zeros(8)
_SIGMA_M[[POLE, WALL, CORNER, CROWN, THING, OBJECT, VEHICLE, PERSON]] = [0.25, 0.2, 0.3, 0.5, 0.5, 0.6, 0.8, 0.8]
_CONFIDENCE = np.array([-6.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class MatchConfig:
    """How two graphs are matched.

    max_distance_m: the robots are no farther apart than this, in the plane. voters: of each kind, so many of the
    nodes with the most weight vote. candidates, refined: how many cells are scored, and how many of them refined.
    shared_range_m: what lies this near to both robots, both ought to see. distinct_m, distinct_rad: a candidate so far
    from the best one is another.
    """

    max_distance_m: float = 60.0
    voters: int = 60
    candidates: int = 250
    refined: int = 32
    shared_range_m: float = 30.0
    distinct_m: float = 3.0
    distinct_rad: float = 0.17


class _Plane(NamedTuple):
    """A graph as seen from above: places (N, 2), kinds (N,), weights (N,), the z of what nodes stand on (N,), their
    tops above it (N,), walls' normals (N, 2) (zero for others), half lengths (N,)."""

    xy_m: Array
    kinds: Array
    weights: Array
    floor_m: Array
    tops_m: Array
    normals: Array
    halves_m: Array


class _Partners(NamedTuple):
    """What K poses give to M source nodes: the partner's index (K, M), how good it is (K, M) in 0..1, 0 where there is
    none, and by what the moved node misses it (K, M, 2) (m; a wall: the miss of its middle)."""

    index: Array
    quality: Array
    miss_m: Array


class _Field(NamedTuple):
    """The nearest target node of each kind to each cell of a grid: (kinds, side, side) indices, -1 where none is near."""

    nearest: Array
    origin_m: Array


def _plane(graph: SceneGraph) -> _Plane:
    wall = graph.kinds == WALL
    yaw = np.where(wall, graph.yaws_rad, 0.0)
    normals = np.stack([np.cos(yaw), np.sin(yaw)], axis=1) * wall[:, None]
    floor = graph.centers_m[:, 2] - graph.sizes_m[:, 2] / 2.0
    return _Plane(
        graph.centers_m[:, :2], graph.kinds, graph.weights, floor, graph.sizes_m[:, 2], normals,
        np.where(wall, graph.sizes_m[:, 0] / 2.0, 0.0),
    )  # fmt: skip


def _votes(target: _Plane, source: _Plane, config: MatchConfig) -> Array:
    """Candidates (K, 3): x, y, yaw of the cells with the most votes."""
    yaws = np.arange(-np.pi, np.pi - 1e-9, _YAW_STEP_RAD)
    half = int(np.ceil(config.max_distance_m / _CELL_M)) + 1
    side = 2 * half + 1
    votes = np.zeros(len(yaws) * side * side)
    for t, yaw_number, weight in (*_point_votes(target, source, yaws, config), *_wall_votes(target, source, yaws)):
        cell = np.floor(t / _CELL_M + 0.5).astype(np.int64) + half
        inside = ((cell > 0) & (cell < side - 1)).all(axis=1)
        flat = (yaw_number * side + cell[:, 0]) * side + cell[:, 1]
        votes += np.bincount(flat[inside], weights=weight[inside], minlength=len(votes))
    image = votes.reshape(len(yaws), side, side)
    image = image[:, :-1] + image[:, 1:]  # blocks of 2 x 2 cells: no border cuts a heap in two
    image = image[:, :, :-1] + image[:, :, 1:]
    best = np.argpartition(-image.ravel(), config.candidates)[: config.candidates]
    best = best[np.lexsort([best, -image.ravel()[best]])]
    n, ix, iy = np.unravel_index(best, image.shape)
    result: Array = np.column_stack([(ix - half + 0.5) * _CELL_M, (iy - half + 0.5) * _CELL_M, yaws[n]])
    return result


def _point_votes(target: _Plane, source: _Plane, yaws: Array, config: MatchConfig) -> list[tuple[Array, Array, Array]]:
    """Translations (V, 2), yaw numbers (V,) and weights (V,) of like nodes brought together."""
    rotations = rotation_about_z(yaws)[:, :2, :2]
    found = []
    for kind in (POLE, CORNER, CROWN, THING, OBJECT, VEHICLE):
        a, b = (_heaviest(graph, kind, config.voters) for graph in (target, source))
        if not len(a) or not len(b):
            continue
        turned = np.einsum("yij,bj->ybi", rotations, source.xy_m[b])
        t = target.xy_m[a][None, :, None] - turned[:, None]
        weight = np.sqrt(target.weights[a][:, None] * source.weights[b])
        weight = weight * _alike(target, source)[np.ix_(a, b)] / _SIGMA_M[kind]
        numbers = np.broadcast_to(np.arange(len(yaws))[:, None, None], t.shape[:3])
        found.append((t.reshape(-1, 2), numbers.ravel(), np.broadcast_to(weight, t.shape[:3]).ravel()))
    return found


def _heaviest(graph: _Plane, kind: int, count: int) -> Array:
    index = np.flatnonzero(graph.kinds == kind)
    return np.sort(index[np.argsort(-graph.weights[index], kind="stable")[:count]])


def _wall_votes(target: _Plane, source: _Plane, yaws: Array) -> list[tuple[Array, Array, Array]]:
    """As _point_votes, for walls: each pair that faces alike names a line of translations."""
    a, b = (np.flatnonzero(graph.kinds == WALL) for graph in (target, source))
    if not len(a) or not len(b):
        return []
    heading = [np.arctan2(graph.normals[k, 1], graph.normals[k, 0]) for graph, k in ((target, a), (source, b))]
    turn = wrap_angle(heading[0][:, None] - heading[1])
    n, i, j = np.nonzero(np.abs(wrap_angle(turn[None] - yaws[:, None, None])) <= _YAW_STEP_RAD)
    a, b = a[i], b[j]
    # Turned by what the pair itself says, not by the cell's yaw: walls are long levers.
    turned = np.einsum("vij,vj->vi", rotation_about_z(turn[i, j])[:, :2, :2], source.xy_m[b])
    normal = target.normals[a]
    tangent = np.stack([-normal[:, 1], normal[:, 0]], axis=1)
    apart = target.xy_m[a] - turned
    reach = target.halves_m[a] + source.halves_m[b]
    steps = np.arange(-20.0, 20.0 + _CELL_M, _CELL_M)
    v, s = np.nonzero(np.abs(steps)[None] < reach[:, None])
    t = apart[v] + steps[s, None] * tangent[v]
    shorter = np.minimum(target.halves_m[a], source.halves_m[b])
    weight = 2.0 * np.sqrt(target.weights[a] * source.weights[b]) * np.minimum(shorter / 4.0, 1.0)
    return [(t, n[v], weight[v])]


def _alike(target: _Plane, source: _Plane) -> Array:
    """Affinity (N, M) in 0..1: of one kind, of similar height."""
    same = target.kinds[:, None] == source.kinds
    lower = np.minimum(target.tops_m[:, None], source.tops_m)
    higher = np.maximum(np.maximum(target.tops_m[:, None], source.tops_m), 0.1)
    result: Array = same * (0.5 + 0.5 * lower / higher)
    return result


def _field(target: _Plane) -> _Field:
    """Nodes are stamped far to near, so that the nearest one remains."""
    points = np.flatnonzero(target.kinds != WALL)
    origin = (target.xy_m.min(axis=0) if len(target.kinds) else np.zeros(2)) - 2.0 * _REACHES_M[0]
    extent = (target.xy_m.max(axis=0) if len(target.kinds) else np.zeros(2)) + 2.0 * _REACHES_M[0] - origin
    side = np.ceil(extent / _FIELD_M).astype(np.int64) + 1
    steps = np.arange(-int(_REACHES_M[0] / _FIELD_M) - 1, int(_REACHES_M[0] / _FIELD_M) + 2)
    around = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    cell = np.floor((target.xy_m[points] - origin) / _FIELD_M).astype(np.int64)[:, None] + around
    middle = origin + (cell + 0.5) * _FIELD_M
    apart = ((middle - target.xy_m[points][:, None]) ** 2).sum(axis=2).ravel()
    order = np.argsort(-apart, kind="stable")
    node = np.repeat(points, len(around))[order]
    x, y = cell.reshape(-1, 2)[order].T
    nearest = np.full((len(_SIGMA_M), *side), -1, np.int32)
    inside = (x >= 0) & (y >= 0) & (x < side[0]) & (y < side[1])
    nearest[target.kinds[node[inside]], x[inside], y[inside]] = node[inside]
    return _Field(nearest, origin)


def _moved(xy_m: Array, poses: Array) -> Array:
    """Places (K, M, 2) of points (M, 2) after each of K poses (K, 3): x, y, yaw."""
    cos, sin = np.cos(poses[:, 2, None]), np.sin(poses[:, 2, None])
    x = cos * xy_m[:, 0] - sin * xy_m[:, 1] + poses[:, 0, None]
    y = sin * xy_m[:, 0] + cos * xy_m[:, 1] + poses[:, 1, None]
    return np.stack([x, y], axis=2)


def _partners(
    target: _Plane, source: _Plane, field: _Field, poses: Array, affinity: Array, reach_m: float
) -> _Partners:
    """The nearest node of the same kind, for each source node under each pose. Each point of the target is partner of
    its best point alone; a wall may be two in the other graph."""
    moved = _moved(source.xy_m, poses)
    cell = np.floor((moved - field.origin_m) / _FIELD_M).astype(np.int64)
    inside = ((cell >= 0) & (cell < field.nearest.shape[1:])).all(axis=2)
    cell = np.where(inside[..., None], cell, 0)
    index = np.where(inside, field.nearest[source.kinds, cell[..., 0], cell[..., 1]], -1)
    miss = moved - target.xy_m[index]
    sigma = np.maximum(_SIGMA_M[source.kinds], 0.4 * reach_m)
    squares = np.where(index >= 0, (miss**2).sum(axis=2) / sigma**2, np.inf)
    walls = np.flatnonzero(source.kinds == WALL)
    if len(walls):
        index[:, walls], squares[:, walls], miss[:, walls] = _wall_partners(
            target, source, walls, moved, poses, reach_m
        )
    quality = np.exp(-0.5 * squares) * affinity[index, np.arange(len(source.kinds))]
    quality[squares > 6.25] = 0.0
    best = np.zeros((len(poses), len(target.kinds)))
    row = np.arange(len(poses))[:, None]
    np.maximum.at(best, (np.broadcast_to(row, index.shape), index), quality)
    quality[(quality < best[row, index]) & (source.kinds != WALL)] = 0.0
    return _Partners(index, quality, miss)


def _wall_partners(
    target: _Plane, source: _Plane, walls: Array, moved: Array, poses: Array, reach_m: float
) -> tuple[Array, Array, Array]:
    """Index, squared distance in sigmas, and miss (K, W), (K, W), (K, W, 2) of the wall that lies closest on one line."""
    a = np.flatnonzero(target.kinds == WALL)
    if not len(a):
        shape = (len(poses), len(walls))
        return np.full(shape, -1), np.full(shape, np.inf), np.zeros((*shape, 2))
    n = target.normals[a]
    normals = _moved(source.normals[walls], poses * [0.0, 0.0, 1.0])
    cosine = np.einsum("kwi,ai->kwa", normals, n)
    sine = normals[..., 1, None] * n[:, 0] - normals[..., 0, None] * n[:, 1]
    gap = moved[:, walls, None] - target.xy_m[a]
    across = (gap * n).sum(axis=3)
    along = np.abs(gap[..., 1] * n[:, 0] - gap[..., 0] * n[:, 1])
    halves = source.halves_m[walls][:, None], target.halves_m[a]
    touching = along < halves[0] + halves[1] - 0.5
    facing = (cosine > 0) & (np.abs(sine) < np.sin(_WALL_YAW_RAD))
    tilt = sine * np.minimum(*halves)
    sigma = max(_SIGMA_M[WALL], 0.4 * reach_m)
    squares = np.where(touching & facing, (across**2 + tilt**2) / sigma**2, np.inf)
    k = np.argmin(squares, axis=2)
    at = np.arange(len(poses))[:, None], np.arange(len(walls)), k
    return a[k], squares[at], across[at][..., None] * n[k]


def _scores(target: _Plane, source: _Plane, partners: _Partners) -> Array:
    """(K,): the weight of what was matched."""
    weight = np.sqrt(target.weights[partners.index] * source.weights)
    result: Array = (weight * partners.quality).sum(axis=1)
    return result


def _refined(target: _Plane, source: _Plane, field: _Field, poses: Array, affinity: Array) -> tuple[Array, Array]:
    """Poses (K, 3) and information (K, 3, 3) after Gauss-Newton with a shrinking reach."""
    for reach_m in _REACHES_M:
        partners = _partners(target, source, field, poses, affinity, reach_m)
        information, gradient = _normal_equations(target, source, poses, partners)
        poses = poses - np.linalg.solve(information, gradient[..., None])[..., 0]
    return poses, information


def _normal_equations(target: _Plane, source: _Plane, poses: Array, partners: _Partners) -> tuple[Array, Array]:
    """J'WJ (K, 3, 3) and J'Wr (K, 3): a point is held in x and y, a wall along its partner's normal at both ends."""
    weight = partners.quality * np.sqrt(target.weights[partners.index] * source.weights) / _SIGMA_M[source.kinds] ** 2
    wall = source.kinds == WALL
    zero = np.zeros_like(weight)
    turning = poses * [0.0, 0.0, 1.0]
    arm = _moved(source.xy_m, turning)
    rows = [
        (np.stack([zero + 1.0, zero, -arm[..., 1]], 2), partners.miss_m[..., 0], weight * ~wall),
        (np.stack([zero, zero + 1.0, arm[..., 0]], 2), partners.miss_m[..., 1], weight * ~wall),
    ]
    normal = target.normals[partners.index]
    tangent = (
        np.stack([-source.normals[:, 1], source.normals[:, 0]], axis=1) * np.minimum(source.halves_m, 5.0)[:, None]
    )
    for sign in (-1.0, 1.0):
        lever = sign * _moved(tangent, turning)
        end = arm + lever
        across = normal[..., 1] * end[..., 0] - normal[..., 0] * end[..., 1]
        miss = (normal * (partners.miss_m + lever)).sum(axis=2)
        rows.append((np.stack([normal[..., 0], normal[..., 1], across], 2), miss, weight * wall))
    information = sum(np.einsum("kmi,km,kmj->kij", j, w, j) for j, _, w in rows) + 1e-6 * np.eye(3)
    gradient = sum(np.einsum("kmi,km->ki", j, w * r) for j, r, w in rows)
    return np.asarray(information), np.asarray(gradient)


@dataclass(frozen=True, eq=False)
class SceneMatch:
    """Where the source's sensor stands in the target's.

    target_T_source (4, 4) float64. confidence: 0..1. converged: whether it is above the shipped threshold; if not, the
    transform is the best guess and not to be used. correspondences: nodes that both robots ought to see. inliers: those
    that were matched. covariance (6, 6): x y z rx ry rz, m and rad, a perturbation on the right.
    """

    target_T_source: Array
    confidence: float
    converged: bool
    correspondences: int
    inliers: int
    features: Array


def match_scene_graphs(target: SceneGraph, source: SceneGraph, *, config: MatchConfig | None = None) -> SceneMatch:
    """Match two robots' graphs, without any guess."""
    config = config or MatchConfig()
    a, b = _plane(target), _plane(source)
    if not len(target) or not len(source):
        return SceneMatch(np.eye(4), 0.0, False, 0, 0, np.zeros(4))
    affinity, field = _alike(a, b), _field(a)
    candidates = _votes(a, b, config)
    coarse = _scores(a, b, _partners(a, b, field, candidates, affinity, 2.5))
    starts = candidates[_distinct_ones(candidates, coarse, config.refined)]
    poses, informations = _refined(a, b, field, starts, affinity)
    partners = _partners(a, b, field, poses, affinity, _REACHES_M[-1])
    scores = _scores(a, b, partners)
    best = int(np.argmax(scores))
    score, pose, information = float(scores[best]), poses[best], informations[best]
    partners = _Partners(*(f[best] for f in partners))
    away = _distinct(poses, pose, config.distinct_m, config.distinct_rad)
    second = float(scores[away].max(initial=0.0))
    # share
    moved = _moved(b.xy_m, pose[None])[0]
    shared = (np.hypot(*moved.T) < config.shared_range_m) & (np.hypot(*b.xy_m.T) < config.shared_range_m)
    ought = float(b.weights[shared].sum())
    got = float((np.sqrt(a.weights[partners.index] * b.weights) * partners.quality)[shared].sum())
    matched = partners.quality > 0.1
    dz = a.floor_m[partners.index] - b.floor_m
    z = (
        _weighted_median(dz[matched], (partners.quality * b.weights)[matched])
        if matched.any()
        else target.sensor_height_m - source.sensor_height_m
    )
    level = from_rotation_translation(rotation_about_z(pose[2]), np.array([pose[0], pose[1], z]))
    levels = [from_rotation_translation(rotation_to_level(g.up), np.zeros(3)) for g in (target, source)]
    features = np.array(
        [
            1.0,
            np.log(max(score, 1e-3)),
            second / max(score, 1e-9),
            got / max(ought, 1e-3),
            np.log(np.linalg.eigvalsh(information[:2, :2])[0] + 1e-6),
        ]
    )
    return SceneMatch(
        inverse(levels[0]) @ level @ levels[1], 0.0, False, int(shared.sum()), int(matched.sum()), features
    )


def _distinct_ones(poses: Array, scores: Array, count: int) -> Array:
    """Indices of the best poses, of each neighbourhood only the best."""
    left, chosen = scores.copy(), []
    while len(chosen) < count and (best := int(np.argmax(left))) >= 0 and left[best] > 0:
        chosen.append(best)
        left[~_distinct(poses, poses[best], 1.6, 0.06)] = 0.0
    return np.array(chosen or [0])


def _distinct(poses: Array, pose: Array, apart_m: float, apart_rad: float) -> Array:
    """Which poses (K, 3) are elsewhere than a pose (3,)."""
    apart = np.hypot(*(poses - pose)[:, :2].T) > apart_m
    result: Array = apart | (np.abs(wrap_angle(poses[:, 2] - pose[2])) > apart_rad)
    return result


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, 0.5 * total[-1])]])
