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

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration import verification
from registration.distant.correlation import correlate
from registration.distant.structure import Scene, upright_scene
from registration.features import fpfh, mutual_matches, surface
from registration.local import Registration, align, register_local, thinned
from registration.robust import hypotheses_from_correspondences
from tercel.core.errors import Rejected
from tercel.core.geometry import inverse, transform_points

Array = NDArray[Any]


@dataclass(frozen=True)
class GlobalConfig:
    """Lengths suit a 16 to 64 beam scanner outdoors.

    candidates: how many poses from above are refined and verified. refine_voxel_m: edge of the grid that thins clouds
    for that; the final alignment is register_local's own. reach_m: how far refinement looks for partners.
    feature_voxel_m, feature_radius_m: the grid and the surroundings of point features; max_keypoints: of each cloud.
    max_points: larger clouds are thinned by ever larger voxels.
    upright: whether to look from above first. features: whether to try point features if that was not credible.
    target_is_map, source_is_map: the cloud was gathered from many places, so that its origin is nothing special and no
    free space can be told from it.
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
    source_is_map: bool = False

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

    target_T_source (4, 4): NaN if no candidate was found at all. confidence: how likely it is right, 0..1. converged:
    confidence over the shipped threshold, and a local alignment that converged; the pose is not to be used otherwise.
    correspondences: point matches looked at, 0 where features were not needed. inliers: of those that the pose
    explains, or, without any, the structure points with a partner. local: the final refinement, with its covariance;
    None where there was nothing to refine.
    """

    target_T_source: Array
    confidence: float
    converged: bool
    correspondences: int
    inliers: int
    local: Registration | None


NOTHING_FOUND = GlobalRegistration(np.full((4, 4), np.nan), 0.0, False, 0, 0, None)


@dataclass(frozen=True, eq=False)
class _Cloud:
    """One side, ready: its points (N, 3), the levelled scene, its view, and what GICP wants of it."""

    points_m: Array
    scene: Scene
    view: verification.View
    fine: small_gicp.PointCloud
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
    try:
        target = _prepared(target_m, config, from_one_place=not config.target_is_map)
        source = _prepared(source_m, config, from_one_place=not config.source_is_map)
    except Rejected:
        return NOTHING_FOUND
    best = _best(_from_above(target, source, config) if config.upright else [])
    if config.features and (best is None or best.confidence < verification.THRESHOLD):
        best = _best([*([best] if best else []), *_from_features(target, source, config)])
    if best is None:
        return NOTHING_FOUND
    return _final(target, source, best)


def _prepared(points_m: Array, config: GlobalConfig, *, from_one_place: bool) -> _Cloud:
    """One cloud made ready. Raises Rejected if too little of it can be used, or nothing stands on the ground."""
    points = points_m[np.isfinite(points_m).all(axis=1)].astype(np.float64)
    voxel_m = 0.1
    while len(points) > config.max_points:
        points = thinned(points, voxel_m).points()[:, :3]
        voxel_m *= 1.5
    scene = upright_scene(points)
    if len(scene.structure_m) < 30:
        raise Rejected("nothing stands on the ground")
    sensor_T_level = inverse(scene.level_T_sensor)
    structure = transform_points(sensor_T_level, scene.structure_m.astype(np.float64))
    fine = thinned(points, config.refine_voxel_m)
    tree = small_gicp.KdTree(fine)
    small_gicp.estimate_covariances(fine, tree, 10)
    view = verification.view_of(points, structure, from_one_place=from_one_place)
    return _Cloud(points, scene, view, fine, tree)


def _from_above(target: _Cloud, source: _Cloud, config: GlobalConfig) -> list[_Candidate]:
    """Refined and verified candidates of what both see from above."""
    found = []
    for peak in correlate(target.scene, source.scene, count=config.candidates):
        guess = inverse(target.scene.level_T_sensor) @ peak.target_T_source @ source.scene.level_T_sensor
        found.append(_verified(target, source, guess, config))
    return [candidate for candidate in found if candidate is not None]


def _from_features(target: _Cloud, source: _Cloud, config: GlobalConfig) -> list[_Candidate]:
    """Refined and verified candidates of point features."""
    (points_t, histograms_t), (points_s, histograms_s) = (_described(cloud, config) for cloud in (target, source))
    rows_t, rows_s, _ = mutual_matches(histograms_t, histograms_s)
    matched_t, matched_s = points_t[rows_t], points_s[rows_s]
    noise_m = 1.5 * config.feature_voxel_m
    found = []
    for pose, explained in hypotheses_from_correspondences(matched_t, matched_s, noise_m=noise_m, count=4):
        candidate = _verified(target, source, pose, config)
        if candidate is not None:
            found.append(_Candidate(candidate.target_T_source, candidate.confidence, len(rows_t), int(explained.sum())))
    return found


def _described(cloud: _Cloud, config: GlobalConfig) -> tuple[Array, Array]:
    """Keypoints (K, 3), the least flat places of a cloud, and their histograms (K, 33)."""
    points = thinned(cloud.points_m, config.feature_voxel_m).points()[:, :3]
    whole = surface(
        points, radius_m=config.feature_radius_m, neighbours=60, normal_radius_m=0.4 * config.feature_radius_m
    )
    rows = np.sort(np.argsort(-whole.variation, kind="stable")[: config.max_keypoints])
    return points[rows], fpfh(whole, rows)


def _verified(target: _Cloud, source: _Cloud, guess: Array, config: GlobalConfig) -> _Candidate | None:
    """A candidate, refined by GICP and weighed; None if it has run away."""
    refined = align(target.fine, source.fine, target.tree, guess, config.reach_m, 15)
    refined = align(target.fine, source.fine, target.tree, refined.T_target_source, config.refine_voxel_m, 15)
    pose = np.array(refined.T_target_source)
    if not np.isfinite(pose).all():
        return None
    evidence = verification.evidence(target.view, source.view, pose)
    inliers = round(evidence.overlap * len(source.view.structure_m))
    return _Candidate(pose, verification.confidence(evidence), 0, inliers)


def _best(candidates: list[_Candidate]) -> _Candidate | None:
    return max(candidates, key=lambda candidate: candidate.confidence, default=None)  # the first of equals


def _final(target: _Cloud, source: _Cloud, best: _Candidate) -> GlobalRegistration:
    """The best candidate, aligned once more with all its points for a pose with a covariance, and weighed again."""
    local = register_local(target.points_m, source.points_m, best.target_T_source, reach_m=1.0)
    if not local.converged:
        return GlobalRegistration(
            best.target_T_source, best.confidence, False, best.correspondences, best.inliers, local
        )
    confidence = verification.confidence(verification.evidence(target.view, source.view, local.target_T_source))
    converged = confidence >= verification.THRESHOLD
    return GlobalRegistration(local.target_T_source, confidence, converged, best.correspondences, best.inliers, local)
