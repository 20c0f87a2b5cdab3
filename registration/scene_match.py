"""Where two robots stand to each other, from their scene graphs alone.

    match = match_scene_graphs(target, source)

Both graphs are level, so that four numbers are sought: x, y, z and yaw. That is a smaller problem than six, and
one that weak nodes can still decide.

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

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.global_ import GlobalRegistration
from registration.scene_graph import CORNER, CROWN, OBJECT, POLE, THING, VEHICLE, WALL, SceneGraph
from registration.scene_nodes import rotation_to_level
from registration.scene_partners import (
    REACHES_M,
    SIGMA_M,
    Partners,
    Plane,
    affinity_of,
    field_of,
    in_sight,
    partners_of,
    plane_of,
    refined_poses,
    scores_of,
)
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, wrap_angle

Array = NDArray[Any]

_YAW_STEP_RAD = np.radians(2.5)
_CELL_M = 1.0
_CORRELATED = 3.0  # variance of a pose over that of one from independent nodes
_AS_GOOD = 0.99
_HELD_M, _HELD_RAD = 5.0, 0.3  # a pose whose standard deviations are wider is none
_FLOOR_M, _TILT_RAD = 0.15, 0.01  # how well the ground tells height and tilt
# Logistic weights of _evidence, fitted to 400 right and wrong matches of simulated streets and orchards.
_CONFIDENCE = np.array([7.0, 0.46, -13.7, 9.2])
_CLUTTER = 1.0  # the score that any two places reach by chance


@dataclass(frozen=True)
class MatchConfig:
    """How two graphs are matched.

    max_distance_m: the robots are no farther apart than this, in the plane. voters: of each kind, so many of the nodes
    with the most weight vote. candidates: how many cells with the most votes are scored; tried, refined: how many of
    them are refined a little, and to the end. distinct_m, distinct_rad: a pose so far from the best one is a rival.
    min_nodes: no less is matched. threshold: the confidence from which a match counts as right.
    """

    max_distance_m: float = 60.0
    voters: int = 100
    walls: int = 80
    candidates: int = 1000
    tried: int = 120
    refined: int = 24
    distinct_m: float = 3.0
    distinct_rad: float = 0.17
    min_nodes: int = 5
    threshold: float = 0.7

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 < getattr(self, field.name) < np.inf:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be above 0")
        if self.max_distance_m > 500.0 or self.candidates > 10_000:
            raise ValueError("max_distance_m must be at most 500, and candidates at most 10000")


def _votes(target: Plane, source: Plane, config: MatchConfig) -> Array:
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


def _point_votes(target: Plane, source: Plane, yaws: Array, config: MatchConfig) -> list[tuple[Array, Array, Array]]:
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
        weight = weight * affinity_of(target, source)[np.ix_(a, b)] / SIGMA_M[kind]
        numbers = np.broadcast_to(np.arange(len(yaws))[:, None, None], t.shape[:3])
        found.append((t.reshape(-1, 2), numbers.ravel(), np.broadcast_to(weight, t.shape[:3]).ravel()))
    return found


def _with_fewer_walls(graph: Plane, count: int) -> Plane:
    kept = np.union1d(np.flatnonzero(graph.kinds != WALL), _heaviest(graph, WALL, count))
    return Plane(*(values[kept] for values in graph))


def _heaviest(graph: Plane, kind: int, count: int) -> Array:
    index = np.flatnonzero(graph.kinds == kind)
    return np.sort(index[np.argsort(-graph.weights[index], kind="stable")[:count]])


def _wall_votes(target: Plane, source: Plane, yaws: Array) -> list[tuple[Array, Array, Array]]:
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


@dataclass(frozen=True, eq=False)
class SceneMatch(GlobalRegistration):
    """A GlobalRegistration whose correspondences are the source's nodes that both robots ought to see, and inliers
    those nodes, wherever they are, that have a partner; local is None.

    covariance (6, 6): x y z rx ry rz, m and rad, a perturbation on the right; NaN where nothing was found.
    evidence (4,): what confidence is made from (see _evidence).
    """

    covariance: Array
    evidence: Array


def match_scene_graphs(target: SceneGraph, source: SceneGraph, *, config: MatchConfig | None = None) -> SceneMatch:
    """Where the source's sensor stands in the target's, without any guess.

    With fewer than min_nodes nodes in either graph, or none that agree, nothing is found: target_T_source is NaN.
    """
    config = config or MatchConfig()
    nothing = SceneMatch(np.full((4, 4), np.nan), 0.0, False, 0, 0, None, np.full((6, 6), np.nan), np.zeros(4))
    if min(len(target), len(source)) < config.min_nodes:
        return nothing
    a, b = (_with_fewer_walls(plane_of(graph), config.walls) for graph in (target, source))
    poses, scores, information, partners = _best_poses(a, b, config)
    best = int(np.argmax(scores))
    if scores[best] <= 0.0:
        return nothing
    pose, mine = poses[best], Partners(*(values[best] for values in partners))
    elsewhere = _distinct(poses, pose, config.distinct_m, config.distinct_rad)
    rival = max(float(scores[elsewhere].max(initial=0.0)), 0.0)
    evidence = _evidence(a, b, pose, mine, float(scores[best]), rival)
    covariance = _covariance(pose, information[best], rotation_to_level(source.up))
    confidence = float(1.0 / (1.0 + np.exp(-np.clip(evidence @ _CONFIDENCE, -50.0, 50.0))))
    if not _is_held(covariance):
        confidence = 0.0
    if rival >= _AS_GOOD * scores[best]:  # of two poses that fit alike one is wrong: a row of poles, from either side
        confidence = min(confidence, 0.5)
    matched = mine.quality > 0.1
    target_level, source_level = (
        from_rotation_translation(rotation_to_level(graph.up), np.zeros(3)) for graph in (target, source)
    )
    upright = _floors_together(a, b, pose, mine)
    return SceneMatch(
        inverse(target_level) @ upright @ source_level,
        confidence,
        confidence > config.threshold,
        int(np.count_nonzero(in_sight(b, pose[None]))),
        int(np.count_nonzero(matched)),
        None,
        covariance,
        evidence,
    )


def _best_poses(a: Plane, b: Plane, config: MatchConfig) -> tuple[Array, Array, Array, Partners]:
    """Refined candidates (K, 3), their scores (K,), information (K, 3, 3) and partners: many are looked at coarsely,
    the better of them more closely, in two rounds."""
    affinity, field = affinity_of(a, b), field_of(a)
    poses = _votes(a, b, config)
    scores = scores_of(a, b, poses, partners_of(a, b, field, poses, affinity, REACHES_M[0]))
    for reaches_m, count in ((REACHES_M[:2], config.tried), (REACHES_M[2:], config.refined)):
        poses = poses[_distinct_ones(poses, scores, count)]
        poses, information = refined_poses(a, b, field, poses, affinity, reaches_m)
        partners = partners_of(a, b, field, poses, affinity, reaches_m[-1])
        scores = scores_of(a, b, poses, partners)
    return poses, scores, information, partners


def _evidence(a: Plane, b: Plane, pose: Array, partners: Partners, score: float, rival: float) -> Array:
    """(4,): one; log of the score; the best rival's share of it, where clutter is a rival to all; and of what both
    ought to see, the share that was matched."""
    weight = np.sqrt(a.weights[partners.of] * b.weights)
    shared = in_sight(b, pose[None])[0]
    ought, got = float(b.weights[shared].sum()), float((weight * partners.quality)[shared].sum())
    return np.array([1.0, np.log(score), (rival + _CLUTTER) / (score + _CLUTTER), min(got / (ought + 0.1), 1.0)])


def _covariance(pose: Array, information: Array, level_R_source: Array) -> Array:
    """(6, 6) in the source's frame, from the information (3, 3) about x, y in the target's level frame and yaw.

    Nodes do not err independently, which _CORRELATED allows for. Heights and tilts are those of the grounds on which
    the two graphs were levelled, and the tilt of the target's lifts what is far away.
    """
    plane = np.linalg.inv(information) * _CORRELATED
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    covariance = np.zeros((6, 6))
    covariance[np.ix_([0, 1, 5], [0, 1, 5])] = turn @ plane @ turn.T
    covariance[2, 2] = _FLOOR_M**2 + (_TILT_RAD**2) * float(pose[:2] @ pose[:2])
    covariance[3, 3] = covariance[4, 4] = 2.0 * _TILT_RAD**2
    rotation = np.kron(np.eye(2), level_R_source.T)
    result: Array = rotation @ covariance @ rotation.T
    return result


def _is_held(covariance: Array) -> bool:
    """Whether nodes that agree fix a pose at all: a handful in one place fit there at every yaw."""
    sigma = np.sqrt(np.diag(covariance))
    return bool(sigma[:3].max() < _HELD_M and sigma[3:].max() < _HELD_RAD)


def _distinct_ones(poses: Array, scores: Array, count: int) -> Array:
    """Indices of the best poses, of each neighbourhood only the best."""
    left, chosen = scores.copy(), list[int]()
    while len(chosen) < count and np.isfinite(left[best := int(np.argmax(left))]):
        chosen.append(best)
        left[~_distinct(poses, poses[best], 1.0, 0.04)] = -np.inf
    return np.array(chosen or [0])


def _distinct(poses: Array, pose: Array, apart_m: float, apart_rad: float) -> Array:
    """Which poses (K, 3) are elsewhere than a pose (3,)."""
    apart = np.hypot(*(poses - pose)[:, :2].T) > apart_m
    result: Array = apart | (np.abs(wrap_angle(poses[:, 2] - pose[2])) > apart_rad)
    return result


def _floors_together(a: Plane, b: Plane, pose: Array, partners: Partners) -> Array:
    """The pose (3,) as a transform (4, 4) between the level frames, at the height that brings the floors under partners
    together. (A tilt fitted to the floors as well was worse: far floors are seen too high, from both sides.)"""
    kept = partners.quality > 0.1
    height = np.median((a.floor_m[partners.of] - b.floor_m)[kept]) if kept.any() else 0.0
    return from_rotation_translation(rotation_about_z(pose[2]), np.array([pose[0], pose[1], height]))
