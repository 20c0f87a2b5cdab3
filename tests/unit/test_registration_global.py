"""Global registration in a yard of boxes whose truth is known, on a real drive, and with every kind of bad cloud."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registration import verification
from registration.distant.structure import upright_scene
from registration.global_ import GlobalConfig, GlobalRegistration, prepared, register_global
from tercel.core.errors import Rejected
from tercel.core.geometry import (
    from_rotation_translation,
    inverse,
    rotation_about_z,
    se3_exp,
    so3_log,
    transform_points,
)
from tests.unit.lidar_scenes import flat, scan, standing_on

Array = NDArray[Any]

HEIGHT_M = 1.8
SEEN_FROM = [(6.0, -3.0, 2.5), (-9.0, 8.0, -1.2)]  # x, y, yaw of the source's sensor in the target's frame


def pose(x: float, y: float, yaw: float) -> Array:
    return from_rotation_translation(rotation_about_z(yaw), np.array([x, y, 0.0]))


@cache
def yard(x: float = 0.0, y: float = 0.0, yaw: float = 0.0, place: int = 0, noise: int = 0) -> Array:
    """A 16-beam sweep (N, 3) of a yard with sheds and posts, from somewhere in it; another place has another yard."""
    rng = np.random.default_rng(place)
    xy, sizes = rng.uniform(-40.0, 40.0, (60, 2)), rng.uniform([0.3, 0.3, 1.0], [8.0, 4.0, 5.0], (60, 3))
    xy, yaws = xy[np.hypot(*xy.T) > 3.0], rng.uniform(0.0, np.pi, 60)
    free = [np.hypot(*(xy - [a, b]).T) > 6.0 for a, b, _ in [(0.0, 0.0, 0.0), *SEEN_FROM]]
    kept = np.logical_and.reduce(free)
    ahead = (xy[kept] - [x, y]) @ rotation_about_z(yaw)[:2, :2]
    boxes = standing_on(flat(HEIGHT_M), ahead, sizes[: len(xy)][kept], yaws[: len(xy)][kept] - yaw)
    return scan(flat(HEIGHT_M), boxes, columns=720, seed=noise + 1).points_m


@cache
def found(x: float, y: float, yaw: float) -> GlobalRegistration:
    return register_global(yard(), yard(x, y, yaw, noise=7))


def error(estimate: Array, truth: Array) -> tuple[float, float]:
    """Metres and degrees."""
    off = inverse(truth) @ estimate
    return float(np.linalg.norm(off[:3, 3])), float(np.degrees(np.linalg.norm(so3_log(off[:3, :3]))))


@pytest.mark.parametrize("where", SEEN_FROM)
def test_a_yard_is_recognised_from_elsewhere_without_a_guess(where: tuple[float, float, float]) -> None:
    result = found(*where)
    error_m, error_deg = error(result.target_T_source, pose(*where))
    assert error_m < 0.1
    assert error_deg < 0.5
    assert result.converged
    assert result.confidence >= verification.THRESHOLD
    assert result.local is not None
    assert result.local.converged
    assert result.inliers > 100


def test_the_same_clouds_give_the_same_bytes_with_any_seed() -> None:
    where = SEEN_FROM[0]
    again = register_global(yard(), yard(*where, noise=7), seed=5)
    assert again.target_T_source.tobytes() == found(*where).target_T_source.tobytes()
    assert again.confidence == found(*where).confidence


def test_a_cloud_registers_with_itself_at_the_identity() -> None:
    result = register_global(yard(), yard().copy())
    assert error(result.target_T_source, np.eye(4)) == pytest.approx((0.0, 0.0), abs=1e-3)
    assert result.confidence > 0.9


def test_two_places_that_have_nothing_in_common_do_not_converge() -> None:
    result = register_global(yard(), yard(place=3))
    assert not result.converged
    assert result.confidence < verification.THRESHOLD


def test_a_sensor_that_hangs_on_its_side_is_found_by_point_features() -> None:
    upright = yard(1.0, -0.5, 0.7, noise=3)
    sensor_T_upright = se3_exp(np.array([0.0, 0.0, 0.0, 1.5, 0.2, 0.0]))
    result = register_global(yard(), transform_points(sensor_T_upright, upright.astype(np.float64)))
    error_m, error_deg = error(result.target_T_source, pose(1.0, -0.5, 0.7) @ inverse(sensor_T_upright))
    assert error_m < 0.3
    assert error_deg < 1.0
    assert result.correspondences > result.inliers >= 3


def nan_cloud() -> Array:
    return np.full((500, 3), np.nan)


def bare_ground() -> Array:
    return scan(flat(HEIGHT_M), standing_on(flat(HEIGHT_M), np.zeros((0, 2)), np.zeros((0, 3)), np.zeros(0))).points_m


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.ones((3, 3)), nan_cloud(), bare_ground()])
def test_a_cloud_that_cannot_be_placed_says_so_on_either_side(bad: Array) -> None:
    for target, source in ((bad, yard()), (yard(), bad), (bad, bad)):
        result = register_global(target, source)
        assert not result.converged
        assert result.confidence == 0.0
        assert np.isnan(result.target_T_source).all()
        assert result.local is None


def test_points_that_are_not_finite_change_nothing() -> None:
    where = SEEN_FROM[0]
    source = yard(*where, noise=7)
    holes = np.insert(source, np.arange(0, len(source), 50), np.array([np.nan, 1.0, np.inf]), axis=0)
    assert register_global(yard(), holes).target_T_source.tobytes() == found(*where).target_T_source.tobytes()


def test_a_huge_cloud_is_thinned_before_anything_else() -> None:
    config = GlobalConfig(max_points=2000)
    cloud = prepared(yard(), config, from_one_place=True)
    assert len(yard()) > 2000 >= len(cloud.points_m) > 500


def test_senseless_settings_and_shapes_are_a_programmers_mistakes() -> None:
    with pytest.raises(ValueError, match="shape"):
        register_global(np.zeros((5, 2)), yard())
    with pytest.raises(ValueError, match="reach_m"):
        GlobalConfig(reach_m=0.0)
    with pytest.raises(ValueError, match="candidates"):
        GlobalConfig(candidates=0)
    with pytest.raises(ValueError, match="upright"):
        GlobalConfig(upright=False, features=False)
    with pytest.raises(Rejected):
        prepared(bare_ground(), GlobalConfig(), from_one_place=True)


def view(points_m: Array, *, from_one_place: bool = True) -> verification.View:
    scene = upright_scene(points_m)
    structure = transform_points(inverse(scene.level_T_sensor), scene.structure_m)
    return verification.view_of(points_m, structure, from_one_place=from_one_place)


def test_the_true_pose_is_more_credible_than_any_displaced_one() -> None:
    where = SEEN_FROM[0]
    target, source = view(yard()), view(yard(*where, noise=7))
    truth = pose(*where)
    best = verification.confidence(verification.evidence(target, source, truth))
    for shift in ([2.0, 0.0], [0.0, -3.0], [-8.0, 5.0]):
        displaced = truth @ se3_exp(np.array([*shift, 0.0, 0.0, 0.0, 0.0]))
        assert verification.confidence(verification.evidence(target, source, displaced)) < 0.5 * best
    turned = truth @ se3_exp(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.3]))
    assert verification.confidence(verification.evidence(target, source, turned)) < 0.5 * best


def test_evidence_is_the_same_from_both_sides() -> None:
    where = SEEN_FROM[1]
    target, source = view(yard()), view(yard(*where, noise=7))
    there = verification.evidence(target, source, pose(*where))
    back = verification.evidence(source, target, inverse(pose(*where)))
    assert (back.flush, back.seen_through) == pytest.approx((there.flush, there.seen_through))


def test_what_lies_flush_is_what_brute_force_counts() -> None:
    target, source = view(yard()), view(yard(*SEEN_FROM[0], noise=7))
    moved = transform_points(pose(*SEEN_FROM[0]), source.structure_m)
    counts = []
    for points, other in (
        (moved, target),
        (transform_points(inverse(pose(*SEEN_FROM[0])), target.structure_m), source),
    ):
        apart = np.linalg.norm(points[:, None] - other.structure_m[None], axis=2)
        nearest = apart.argmin(axis=1)
        off = np.abs(np.sum((points - other.structure_m[nearest]) * other.normals[nearest], axis=1))
        counts.append(np.mean((apart.min(axis=1) < verification.NEAR_M) & (off < verification.FLUSH_M)))
    evidence = verification.evidence(target, source, pose(*SEEN_FROM[0]))
    assert evidence.flush == pytest.approx(np.mean(counts))


def test_only_the_scan_sees_through_a_map_and_two_maps_are_never_credible() -> None:
    one, other = view(yard()), view(yard(), from_one_place=False)
    displaced = pose(2.0, 1.0, 0.4)
    assert verification.evidence(one, other, displaced).seen_through > 0.5
    assert verification.evidence(one, other, np.eye(4)).seen_through < 0.2
    assert verification.confidence(verification.evidence(other, other, np.eye(4))) < 0.05


def test_a_scan_is_found_in_a_map_whose_origin_is_far_away() -> None:
    where = SEEN_FROM[0]
    map_T_yard = pose(400.0, -250.0, 0.0)
    mapped = transform_points(map_T_yard, yard().astype(np.float64))
    result = register_global(mapped, yard(*where, noise=7), config=GlobalConfig(target_is_map=True))
    assert error(result.target_T_source, map_T_yard @ pose(*where)) < (0.1, 0.5)
    assert result.converged
    assert result.local is not None
    assert result.local.target_T_source == pytest.approx(result.target_T_source)


def test_a_real_street_is_recognised_twelve_metres_on(shared_data: Path) -> None:
    spec = importlib.util.spec_from_file_location("unpack", shared_data / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    paths = sorted((shared_data / "kitti_drive0005" / "velodyne").glob("*.kxz"))
    rows = np.loadtxt(shared_data / "kitti_drive0005" / "poses_velo_from_oxts.txt").reshape(-1, 3, 4)
    poses = from_rotation_translation(rows[:, :, :3], rows[:, :, 3])
    turn = pose(0.0, 0.0, 2.0)
    target, source = (unpack.read_scan(paths[k])[:, :3] for k in (20, 50))
    result = register_global(target, transform_points(turn, source))
    error_m, error_deg = error(result.target_T_source, inverse(poses[20]) @ poses[50] @ inverse(turn))
    assert error_m < 1.5  # the truth's own positions are off by half a metre each
    assert error_deg < 2.0
    assert result.converged
