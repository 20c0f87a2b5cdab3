"""Global registration: where one cloud lies in another without any guess, with a confidence, on one core.

Candidates are made, refined and verified; the most credible is kept.

1. Vehicles share gravity. Both scans are levelled by their ground, and what stands on it is correlated from above over
   all headings and shifts (registration.distant). This finds the pose where features do not, in rows of trees and with
   few beams.
2. Clouds without ground, or with z not up, and those for which (1) gave nothing credible: point features in any
   orientation (registration.features), pruned to what agrees (registration.robust).
3. Each candidate is refined by GICP, and all are held against overlap and free space (registration.verification).

Nothing here is drawn at random (the search for the ground's plane has its own fixed draws) and small_gicp runs on one
thread, so the same clouds give the same bytes, with any seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration import verification
from registration.distant.correlation import correlate
from registration.distant.structure import Scene, upright_scene
from registration.features import fpfh, mutual_matches, surface
from registration.local import NEIGHBOURS, Registration, align, register_local, thinned
from registration.robust import hypotheses_from_correspondences
from tercel.core.errors import Rejected
from tercel.core.geometry import from_rotation_translation, inverse, transform_points

Array = NDArray[Any]

_MIN_STRUCTURE = 30  # points that stand on the ground
_ITERATIONS = 15  # of each pass of a refinement
_BEYOND_DOUBT = 0.95
_HYPOTHESES = 4
_FEATURE_NEIGHBOURS = 60
_FINAL_REACH_M = 1.0


@dataclass(frozen=True)
class GlobalConfig:
    """Lengths suit a 16 to 64 beam scanner outdoors.

    candidates: how many poses from above are refined and verified. refine_voxel_m: edge of the grid that thins clouds
    for that; the final alignment is register_local's own. reach_m: how far refinement looks for partners.
    feature_voxel_m, feature_radius_m: the grid and the surroundings of point features; max_keypoints: of each cloud.
    max_points: larger clouds are thinned by ever larger voxels.
    upright: whether to look from above first. features: whether to try point features if that was not credible.
    target_is_map: the target was gathered from many places; its origin is nothing special, and it has no free space.
    """

    candidates: int = 6
    refine_voxel_m: float = 0.8
    reach_m: float = 2.5
    feature_voxel_m: float = 0.5
    feature_radius_m: float = 3.0
    max_keypoints: int = 3000
    max_points: int = 200_000
    upright: bool = True
    features: bool = True
    target_is_map: bool = False

    def __post_init__(self) -> None:
        for name in ("refine_voxel_m", "reach_m", "feature_voxel_m", "feature_radius_m"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name, least in (("candidates", 1), ("max_keypoints", 10), ("max_points", 1000)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if not (self.upright or self.features):
            raise ValueError("upright and features must not both be False: nothing would make candidates")


@dataclass(frozen=True, eq=False)
class GlobalRegistration:
    """Where the source lies in the target.

    target_T_source (4, 4): NaN if no candidate was found at all. confidence: how likely it is right, 0..1; 0 if the
    final refinement did not converge. converged: confidence over the shipped threshold; the pose is not to be used
    otherwise. correspondences: point matches looked at, 0 where features were not needed. inliers: of those that the
    pose explains, or, without any, the source's structure points that lie flush with the target's. local: the final
    refinement, with its covariance; None where there was nothing to refine.
    """

    target_T_source: Array
    confidence: float
    converged: bool
    correspondences: int
    inliers: int
    local: Registration | None


NOTHING_FOUND = GlobalRegistration(np.full((4, 4), np.nan), 0.0, False, 0, 0, None)


@dataclass(frozen=True, eq=False)
class Cloud:
    """One side, ready: its points (N, 3), the levelled scene, its view, and what GICP wants of it."""

    points_m: Array
    scene: Scene
    view: verification.View
    thin: small_gicp.PointCloud
    tree: small_gicp.KdTree


@dataclass(frozen=True, eq=False)
class _Candidate:
    target_T_source: Array
    confidence: float
    correspondences: int
    inliers: int


def register_global(
    target_m: Array,
    source_m: Array,
    *,
    seed: int = 0,  # noqa: ARG001 (every global method takes one; this one draws nothing)
    config: GlobalConfig | None = None,
) -> GlobalRegistration:
    """Find target_T_source of two clouds (N, 3), (M, 3), each in its sensor's frame, whatever their poses.

    Points that are not finite are dropped. What cannot be registered (too few points, nothing but ground) is not
    converged. Raises ValueError for arrays of other shapes.
    """
    config = GlobalConfig() if config is None else config
    for points_m in (target_m, source_m):
        if points_m.ndim != 2 or points_m.shape[1] != 3:
            raise ValueError(f"points have shape {points_m.shape}, not (N, 3)")
    target_T_middle = _middle_of(target_m) if config.target_is_map else np.eye(4)
    try:
        target = prepared(target_m - target_T_middle[:3, 3], config, from_one_place=not config.target_is_map)
        source = prepared(source_m, config, from_one_place=True)
    except Rejected:
        return NOTHING_FOUND
    best = _best_candidate(target, source, config)
    if best is None:
        return NOTHING_FOUND
    return _final(target, source, best, target_T_middle)


def prepared(points_m: Array, config: GlobalConfig, *, from_one_place: bool) -> Cloud:
    """One cloud (N, 3) made ready. Raises Rejected if too little of it can be used, or nothing stands on the ground."""
    points = points_m[np.isfinite(points_m).all(axis=1)].astype(np.float64)
    voxel_m = 0.1
    while len(points) > config.max_points:
        points = thinned(points, voxel_m).points()[:, :3]
        voxel_m *= 1.5
    scene = upright_scene(points)
    if len(scene.structure_m) < _MIN_STRUCTURE:
        raise Rejected("nothing stands on the ground")
    structure = transform_points(inverse(scene.level_T_sensor), scene.structure_m.astype(np.float64))
    thin = thinned(points, config.refine_voxel_m)
    tree = small_gicp.KdTree(thin)
    small_gicp.estimate_covariances(thin, tree, NEIGHBOURS)
    view = verification.view_of(points, structure, from_one_place=from_one_place)
    return Cloud(points, scene, view, thin, tree)


def guesses_from_above(target: Cloud, source: Cloud, count: int) -> list[Array]:
    """Up to `count` poses target_T_source (4, 4) at which both look alike from above, best first."""
    level_T_source, target_T_level = source.scene.level_T_sensor, inverse(target.scene.level_T_sensor)
    peaks = correlate(target.scene, source.scene, count=count)
    return [target_T_level @ peak.target_T_source @ level_T_source for peak in peaks]


def guesses_from_features(target: Cloud, source: Cloud, config: GlobalConfig) -> tuple[list[tuple[Array, int]], int]:
    """Poses (4, 4) on which point features agree, with how many do, best first; and how many matches there were."""
    (points_t, histograms_t), (points_s, histograms_s) = (_described(cloud, config) for cloud in (target, source))
    rows_t, rows_s, _ = mutual_matches(histograms_t, histograms_s)
    found = hypotheses_from_correspondences(
        points_t[rows_t], points_s[rows_s], noise_m=1.5 * config.feature_voxel_m, count=_HYPOTHESES
    )
    return [(pose, int(explained.sum())) for pose, explained in found], len(rows_t)


def refined(target: Cloud, source: Cloud, guess: Array, config: GlobalConfig) -> Array:
    """A guess of target_T_source (4, 4) after two passes of GICP on the thinned clouds, far and near."""
    for match_m in (config.reach_m, config.refine_voxel_m):
        guess = np.array(align(target.thin, source.thin, target.tree, guess, match_m, _ITERATIONS).T_target_source)
    return guess


def _best_candidate(target: Cloud, source: Cloud, config: GlobalConfig) -> _Candidate | None:
    """The most credible pose: from above, or, where that gives nothing credible, of point features as well.

    A candidate beyond doubt ends the search: the right one is nearly always the first.
    """
    best: _Candidate | None = None
    if config.upright:
        for guess in guesses_from_above(target, source, config.candidates):
            best = _better(best, _weighed(target, source, refined(target, source, guess, config)))
            if best is not None and best.confidence > _BEYOND_DOUBT:
                return best
    if config.features and (best is None or best.confidence < verification.THRESHOLD):
        guesses, matches = guesses_from_features(target, source, config)
        for guess, explained in guesses:
            pose = refined(target, source, guess, config)
            best = _better(best, _weighed(target, source, pose, matches, explained))
    return best


def _described(cloud: Cloud, config: GlobalConfig) -> tuple[Array, Array]:
    """Keypoints (K, 3), the least flat places of a cloud, and their histograms (K, 33)."""
    points = thinned(cloud.points_m, config.feature_voxel_m).points()[:, :3]
    radius_m = config.feature_radius_m
    whole = surface(points, radius_m=radius_m, neighbours=_FEATURE_NEIGHBOURS, normal_radius_m=0.4 * radius_m)
    rows = np.sort(np.argsort(-whole.variation, kind="stable")[: config.max_keypoints])
    return points[rows], fpfh(whole, rows)


def _weighed(
    target: Cloud, source: Cloud, pose: Array, matches: int = 0, explained: int | None = None
) -> _Candidate | None:
    """A pose with its confidence; None if it has run away."""
    if not np.isfinite(pose).all():
        return None
    evidence = verification.evidence(target.view, source.view, pose)
    flush = round(evidence.flush * len(source.view.structure_m))
    return _Candidate(pose, verification.confidence(evidence), matches, flush if explained is None else explained)


def _better(best: _Candidate | None, other: _Candidate | None) -> _Candidate | None:
    """The more credible one, the first of equals."""
    if best is None or other is None:
        return best or other
    return other if other.confidence > best.confidence else best


def _final(target: Cloud, source: Cloud, best: _Candidate, target_T_middle: Array) -> GlobalRegistration:
    """The best candidate, aligned once more with all its points for a pose with a covariance, and weighed again."""
    pose, confidence = best.target_T_source, 0.0
    local = register_local(target.points_m, source.points_m, pose, reach_m=_FINAL_REACH_M)
    if local.converged:
        pose = local.target_T_source
        confidence = verification.confidence(verification.evidence(target.view, source.view, pose))
    converged = confidence >= verification.THRESHOLD
    local = replace(local, target_T_source=target_T_middle @ local.target_T_source)  # its covariance is the source's
    return GlobalRegistration(target_T_middle @ pose, confidence, converged, best.correspondences, best.inliers, local)


def _middle_of(map_m: Array) -> Array:
    """A shift (4, 4) to the middle of a map (N, 3), since what is far from a scan's origin is dropped."""
    usable = map_m[np.isfinite(map_m).all(axis=1)]
    middle = np.median(usable[:, :2], axis=0) if len(usable) else np.zeros(2)
    return from_rotation_translation(np.eye(3), np.array([*middle, 0.0]))
