"""Loops: pairs of keyframes that see the same place, and where each lies in the other.

Candidates come from their descriptors (registration.place). Each is verified: aligned, and asked whether the two scans
contradict each other. A contradiction is a point of one scan where the other has looked through (free space, after
Hornung et al., "OctoMap", Autonomous Robots 2013, but on range images: no map is built). Of the verified loops the
largest set is kept in which every two agree with the odometry between them (Mangelson et al., "Pairwise Consistent
Measurement Set Maximization", ICRA 2018; tolerances grow with the way in place of covariances).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.distant.register import register_distant
from registration.keyframes import Keyframe, Recorded
from registration.local import Registration, register_local
from registration.place import PlaceMatches, compare, describe_aside, ground_height_m
from registration.pose_graph import Edges
from registration.robust import large_cliques
from tercel.core.geometry import inverse, so3_log, transform_points

Array = NDArray[Any]
Progress = Callable[[float], None]

_ROWS, _COLUMNS = 90, 180
_ABOVE_GROUND_M = 0.5
_SAME_POINT_M = 0.6
_CLEARLY = 0.9
_MIN_OPINIONS = 150
_SPREAD_M = 8.0  # between keyframes that are tried without a guess
# Of right alignments up to 1.7 % is contradicted (64 beams, 14 m apart) and 0.4 to 0.8 are inliers; of wrong ones at
# least 1.8 % (another row of the same orchard) and up to 0.42.
_PER_CONTRADICTION, _EVEN_CONTRADICTION = 3.0, 0.014
_PER_INLIERS, _EVEN_INLIERS = 12.0, 0.44
_LEAST_CONTRADICTION = 0.002
# What two alignments of the same place differ by for reasons that their residuals do not show: leaves, people, grids.
_LOOP_FLOOR_M, _LOOP_FLOOR_RAD = 0.02, 0.001
_DISTANT_FLOOR_M, _DISTANT_FLOOR_RAD = 0.1, 0.005  # with little overlap they differ by more


@dataclass(frozen=True)
class LoopConfig:
    """min_score: a pair of places that is less alike is no candidate. candidates: how many each keyframe tries.
    max_tries: in all, the most alike first. patience: after so many in vain in a row the rest is not tried.
    spacing_m: a loop nearer than this to a verified one is not tried.
    min_way_m: keyframes of one recording with less of a way between them are no loop.
    reach_m: how far the alignment looks at first. voxel_m: grid that thins the scans for it.
    min_confidence: of a loop.
    distant_keyframes: of each recording, how many are tried where places find nothing; distant_loops: enough of them.
    slack_m, slack_rad, slack_share, slack_rad_per_m: how far two loops may differ, and more for each metre between.
    """

    min_score: float = 0.45
    candidates: int = 3
    max_tries: int = 300
    patience: int = 60
    spacing_m: float = 4.0
    min_way_m: float = 25.0
    reach_m: float = 4.0
    voxel_m: float = 0.5
    min_confidence: float = 0.5
    distant_keyframes: int = 6
    distant_loops: int = 6
    slack_m: float = 0.4
    slack_rad: float = 0.02
    slack_share: float = 0.02
    slack_rad_per_m: float = 0.0005


@dataclass(frozen=True, eq=False)
class Agreement:
    """What two scans say of each other in one frame: points of either that the other confirms, and contradicts."""

    confirmed: int
    contradicted: int

    @property
    def share(self) -> float:
        """Confirmed of those on which there is an opinion; 0 if there is none."""
        return self.confirmed / max(self.confirmed + self.contradicted, 1)


@dataclass(frozen=True, eq=False)
class Loop:
    """Keyframes `known` and `asked` see the same place. known_T_asked (4, 4), covariance (6, 6) of its tangent on the
    right. score: of the descriptors; agreement: see Agreement.share; confidence 0..1 that it is right.
    """

    known: int
    asked: int
    known_T_asked: Array
    covariance: Array
    score: float
    agreement: float
    confidence: float


@dataclass(frozen=True, eq=False)
class Fit:
    """A candidate after verification."""

    registration: Registration
    agreement: Agreement
    confidence: float


def find_loops(
    known: Recorded, asking: Recorded, config: LoopConfig | None = None, progress: Progress = lambda _share: None
) -> list[Loop]:
    """Verified loops between two recordings, or within one if both are the same; not yet held against each other."""
    config = LoopConfig() if config is None else config
    if not known.keyframes or not asking.keyframes:
        return []
    asked = np.stack([describe_aside(keyframe.points_m) for keyframe in asking.keyframes])
    matches = compare(np.stack([keyframe.place for keyframe in known.keyframes]), asked)
    if known is asking:  # each pair once, the later keyframe asks; and none with hardly a way between
        way_m = known.travelled_m[:, None] - known.travelled_m[None]
        matches.score[way_m < config.min_way_m] = -1.0
    tries = candidates(matches, config)
    loops: list[Loop] = []
    in_vain = 0
    for done, (row, column) in enumerate(tries):
        if in_vain == config.patience:
            break
        progress(done / len(tries))
        if _is_near_one_of(loops, known, asking, column, row, config.spacing_m):
            continue
        fit = verify(known.keyframes[column], asking.keyframes[row], matches.guess(row, column), config)
        in_vain = 0 if fit.confidence >= config.min_confidence else in_vain + 1
        if in_vain == 0:
            pose, covariance = fit.registration.target_T_source, fit.registration.covariance
            score = float(matches.score[row, column])
            loops.append(Loop(column, row, pose, covariance, score, fit.agreement.share, fit.confidence))
    progress(1.0)
    return loops


def find_distant_loops(
    known: Recorded, asking: Recorded, config: LoopConfig | None = None, progress: Progress = lambda _share: None
) -> list[Loop]:
    """Loops between keyframes that are far from each other, up to some 30 m, by registration.distant without a guess.

    For recordings that never came near each other, where descriptors find nothing: keyframes spread over either are
    tried with each other, a second a pair, until config.distant_loops are found. Each is found by itself, so that
    those which agree confirm each other.
    """
    config = LoopConfig() if config is None else config
    rows = [_spread(recorded, config.distant_keyframes) for recorded in (known, asking)]
    tries = [(a, b) for a in rows[0] for b in rows[1]]
    loops: list[Loop] = []
    for done, (a, b) in enumerate(tries):
        progress(done / len(tries))
        if len(loops) == config.distant_loops:
            break
        known_m, asked_m = known.keyframes[a].points_m, asking.keyframes[b].points_m
        found = register_distant(known_m, asked_m)
        if found.converged and found.local is not None and found.local.status == "converged":
            share = agree(known_m, asked_m, found.target_T_source).share
            covariance = found.local.covariance + np.diag(np.repeat([_DISTANT_FLOOR_M, _DISTANT_FLOOR_RAD], 3) ** 2)
            loops.append(Loop(a, b, found.target_T_source, covariance, 0.0, share, found.confidence))
    progress(1.0)
    return loops


def _spread(recorded: Recorded, count: int) -> list[int]:
    """Up to `count` keyframes, evenly along the way, the first and the last among them; fewer on a short way."""
    if not recorded.keyframes:
        return []
    travelled_m = recorded.travelled_m
    wanted_m = np.linspace(0.0, travelled_m[-1], min(count, 1 + int(travelled_m[-1] / _SPREAD_M)))
    nearest = np.abs(travelled_m[:, None] - wanted_m[None]).argmin(axis=0)
    return [int(row) for row in np.unique(nearest)]


def candidates(matches: PlaceMatches, config: LoopConfig) -> list[tuple[int, int]]:
    """Pairs (asked, known) that are worth a try, the most alike first."""
    rank = np.argsort(np.argsort(-matches.score, axis=1, kind="stable"), axis=1, kind="stable")
    rows, columns = np.nonzero((matches.score >= config.min_score) & (rank < config.candidates))
    order = np.argsort(-matches.score[rows, columns], kind="stable")[: config.max_tries]
    return list(zip(rows[order].tolist(), columns[order].tolist(), strict=True))


# --- verification ----------------------------------------------------------------------------------------------------


def verify(known: Keyframe, asked: Keyframe, guess: Array, config: LoopConfig) -> Fit:
    """Align a candidate from the guess that its descriptors give, and judge the result."""
    known_T_asked = guess.copy()
    known_T_asked[2, 3] += ground_height_m(known.points_m) - ground_height_m(asked.points_m)
    found = register_local(
        known.points_m, asked.points_m, known_T_asked, voxel_m=config.voxel_m, reach_m=config.reach_m
    )
    if found.status != "converged":
        return Fit(found, Agreement(0, 0), 0.0)
    agreement = agree(known.points_m, asked.points_m, found.target_T_source)
    return Fit(found, agreement, confidence_of(found, agreement))


def confidence_of(found: Registration, agreement: Agreement) -> float:
    """How likely an alignment is right, 0..1: a logistic function of the share of contradictions and of inliers.

    Its numbers are those of tests/benchmarks/bench_merge.py's pairs, whose truth is known.
    """
    contradiction = max(1.0 - agreement.share, _LEAST_CONTRADICTION)
    evidence = _PER_CONTRADICTION * np.log(_EVEN_CONTRADICTION / contradiction)
    evidence += _PER_INLIERS * (found.inlier_ratio - _EVEN_INLIERS)
    enough = min(1.0, (agreement.confirmed + agreement.contradicted) / _MIN_OPINIONS)
    return float(enough / (1.0 + np.exp(-evidence)))


def agree(known_m: Array, asked_m: Array, known_T_asked: Array) -> Agreement:
    """What two scans (N, 3) and (M, 3), each about its sensor's origin, say of each other."""
    one = _opinions(known_m, transform_points(known_T_asked, asked_m.astype(np.float64)))
    other = _opinions(asked_m, transform_points(inverse(known_T_asked), known_m.astype(np.float64)))
    return Agreement(one.confirmed + other.confirmed, one.contradicted + other.contradicted)


def _opinions(seen_m: Array, points_m: Array) -> Agreement:
    """What a scan (N, 3) about the origin says of points (M, 3) of its frame.

    It confirms those that lie at one of its own. It contradicts those that stand in the way of its rays: all it saw in
    that direction and beside it is clearly farther. Of what lies behind what it saw it says nothing. The ground, on
    which all scans agree, is left out.
    """
    standing = points_m[points_m[:, 2] > ground_height_m(points_m) + _ABOVE_GROUND_M]
    if not len(standing) or not len(seen_m):
        return Agreement(0, 0)
    range_m = np.linalg.norm(standing, axis=1)
    clear_m = _clear_ranges(seen_m)[_pixels(standing)]
    tree = small_gicp.KdTree(seen_m.astype(np.float64))
    _, squared = tree.batch_nearest_neighbor_search(standing)
    confirmed = np.asarray(squared) < _SAME_POINT_M**2
    contradicted = ~confirmed & (range_m < _CLEARLY * clear_m - _SAME_POINT_M) & np.isfinite(clear_m)
    return Agreement(int(confirmed.sum()), int(contradicted.sum()))


def _clear_ranges(seen_m: Array) -> Array:
    """(rows * columns,) how far a scan saw in each direction at least, its neighbours included; inf where nothing was
    seen, of which nothing is known."""
    cells = np.full(_ROWS * _COLUMNS, np.inf)
    np.minimum.at(cells, _pixels(seen_m), np.linalg.norm(seen_m, axis=1))
    image: Array = cells.reshape(_ROWS, _COLUMNS)
    known = np.isfinite(image)
    nearest = np.pad(image, ((1, 1), (0, 0)), constant_values=np.inf)
    nearest = np.minimum(np.minimum(nearest[:-2], nearest[1:-1]), nearest[2:])
    nearest = np.minimum(np.minimum(np.roll(nearest, 1, 1), nearest), np.roll(nearest, -1, 1))
    result: Array = np.where(known, nearest, np.inf).ravel()
    return result


def _pixels(points_m: Array) -> Array:
    """(N,) cell of a range image in which each point (N, 3) lies."""
    distance_m = np.hypot(points_m[:, 0], points_m[:, 1])
    row = (np.arctan2(points_m[:, 2], distance_m) + np.pi / 2) * (_ROWS / np.pi)
    column = (np.arctan2(points_m[:, 1], points_m[:, 0]) + np.pi) * (_COLUMNS / (2.0 * np.pi))
    result: Array = np.clip(row.astype(np.int64), 0, _ROWS - 1) * _COLUMNS + column.astype(np.int64) % _COLUMNS
    return result


def _is_near_one_of(
    loops: Sequence[Loop], known: Recorded, asking: Recorded, column: int, row: int, spacing_m: float
) -> bool:
    """Whether a verified loop joins nearly the same places."""
    at_known, at_asked = known.keyframe_poses[:, :3, 3], asking.keyframe_poses[:, :3, 3]
    return any(
        np.linalg.norm(at_known[loop.known] - at_known[column]) < spacing_m
        and np.linalg.norm(at_asked[loop.asked] - at_asked[row]) < spacing_m
        for loop in loops
    )


# --- consistency -----------------------------------------------------------------------------------------------------


def consistent(
    loops: Sequence[Loop], known: Recorded, asking: Recorded, config: LoopConfig | None = None
) -> list[Loop]:
    """The largest set found of loops of which every two agree with the odometry between them.

    Within one recording also each by itself: the odometry from one end to the other must allow it.
    """
    config = LoopConfig() if config is None else config
    if known is asking:
        loops = [loop for loop in loops if _odometry_allows(loop, known, config)]
    if not loops:
        return []
    cliques = large_cliques(_pairwise(loops, known, asking, config), seeds=10) if len(loops) > 1 else []
    if not cliques:  # no two agree
        return [max(loops, key=lambda loop: loop.confidence)]
    best = max(cliques, key=lambda clique: sum(loops[k].confidence for k in clique.tolist()))
    return [loops[k] for k in sorted(best.tolist())]


def _pairwise(loops: Sequence[Loop], known: Recorded, asking: Recorded, config: LoopConfig) -> Array:
    """(L, L) float32 of 0 and 1: whether the way around, over one loop and back over the other, closes."""
    a, b = np.array([loop.known for loop in loops]), np.array([loop.asked for loop in loops])
    transforms = np.array([loop.known_T_asked for loop in loops])
    a_poses, b_poses = known.keyframe_poses[a], asking.keyframe_poses[b]
    around = (
        (inverse(a_poses)[:, None] @ a_poses[None])
        @ transforms[None]
        @ (inverse(b_poses)[None] @ b_poses[:, None])
        @ inverse(transforms)[:, None]
    )
    way_m = np.abs(known.travelled_m[a][:, None] - known.travelled_m[a][None])
    way_m = way_m + np.abs(asking.travelled_m[b][:, None] - asking.travelled_m[b][None])
    closes = _is_small(around, way_m, config)
    graph: Array = (closes & closes.T & ~np.eye(len(loops), dtype=bool)).astype(np.float32)
    return graph


def _odometry_allows(loop: Loop, recorded: Recorded, config: LoopConfig) -> bool:
    poses, travelled_m = recorded.keyframe_poses, recorded.travelled_m
    by_odometry = inverse(poses[loop.known]) @ poses[loop.asked]
    way_m = np.abs(travelled_m[loop.known] - travelled_m[loop.asked])
    return bool(_is_small(inverse(loop.known_T_asked) @ by_odometry, way_m, config))


def _is_small(transforms: Array, way_m: Array, config: LoopConfig) -> Array:
    """Whether errors (..., 4, 4) are no larger than odometry over way_m (...) explains."""
    off_m = np.linalg.norm(transforms[..., :3, 3], axis=-1)
    off_rad = np.linalg.norm(so3_log(transforms[..., :3, :3]), axis=-1)
    result: Array = (off_m < config.slack_m + config.slack_share * way_m) & (
        off_rad < config.slack_rad + config.slack_rad_per_m * way_m
    )
    return result


# --- edges of a pose graph -------------------------------------------------------------------------------------------


def odometry_edges(recorded: Recorded, first_node: int = 0) -> Edges:
    """From each keyframe to the next, as uncertain as recorded.config says; nodes are numbered from first_node."""
    config, poses = recorded.config, recorded.keyframe_poses
    count = max(len(poses) - 1, 0)
    way_m = np.diff(recorded.travelled_m)
    sigma_m = config.step_m + config.drift_share * way_m
    sigma_rad = config.step_rad + config.drift_rad_per_m * way_m
    rows = [keyframe.row for keyframe in recorded.keyframes]
    sure = [bool(recorded.sure[a + 1 : b + 1].all()) for a, b in itertools.pairwise(rows)]
    factor = np.where(np.array(sure, dtype=bool), 1.0, config.lost_factor)
    sigmas = np.repeat(np.stack([sigma_m * factor, sigma_rad * factor], axis=1), 3, axis=1)
    information = np.eye(6) / np.square(sigmas)[:, :, None]
    nodes = first_node + np.arange(count)
    return Edges(nodes, nodes + 1, inverse(poses[:-1]) @ poses[1:], information, np.zeros(count, dtype=bool))


def loop_edges(loops: Sequence[Loop], known_node: int = 0, asked_node: int = 0) -> Edges:
    """One doubtful edge for each loop; the two recordings' nodes are numbered from known_node and asked_node."""
    floor = np.diag(np.repeat([_LOOP_FLOOR_M, _LOOP_FLOOR_RAD], 3) ** 2)
    count = len(loops)
    covariances = np.array([loop.covariance + floor for loop in loops]).reshape(-1, 6, 6)
    return Edges(
        known_node + np.array([loop.known for loop in loops], dtype=np.int64),
        asked_node + np.array([loop.asked for loop in loops], dtype=np.int64),
        np.array([loop.known_T_asked for loop in loops]).reshape(-1, 4, 4),
        np.linalg.inv(covariances),
        np.ones(count, dtype=bool),
    )
