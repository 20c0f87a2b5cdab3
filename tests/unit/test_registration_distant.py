"""Pairs of scans far apart: in simulated worlds whose truth is known, on the real drive, and part by part."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from devices.sensors.simulated.lidar import Lidar, sweep
from devices.sensors.simulated.motion import states_at, stream
from devices.sensors.simulated.world import WorldConfig, base_T_sensor, make_lidar, make_scene
from registration.distant.correlation import correlate
from registration.distant.evaluation import Outcome, by_distance, errors_of, measure, roc, summary, table
from registration.distant.keypoints import MAX_KEYPOINTS, Prepared, describe, occupancy_slabs, prepare
from registration.distant.matching import mutual_matches
from registration.distant.pairs import BINS_M, choose_pairs, random_turn
from registration.distant.register import candidates, register_distant
from registration.distant.structure import Scene, upright_scene
from registration.distant.visibility import agreement, view_of
from registration.global_ import GlobalRegistration
from tercel.core.errors import Rejected
from tercel.core.geometry import (
    from_rotation_translation,
    inverse,
    rotation_about_z,
    se3_exp,
    so3_exp,
    transform_points,
    yaw_from_rotation,
)

Array = NDArray[Any]

# The same worlds, sweeps that are 1/10 as long and so free of motion; truth to the millimetre.
TIMES_S = {"street": (10.0, 15.5), "orchard": (6.0, 38.5)}  # 44 m apart


def lidar_of(name: str, beams: int) -> Lidar:
    return make_lidar(WorldConfig(name=name, lidar_beams=beams, lidar_columns=900, lidar_rate_hz=50.0))


@cache
def scan(name: str, beams: int, time_s: float) -> tuple[Array, Array]:
    """Points (N, 3) float32 as one instant saw them, and world_T_lidar (4, 4)."""
    scene = make_scene(name, 2000)
    lidar, mount = lidar_of(name, beams), base_T_sensor(name, "lidar")
    seen = sweep(lidar, scene.trajectory, scene.snapshot(time_s).primitives, time_s, stream(1, round(time_s * 1000)))
    offsets_s, row = np.unique(seen.time_offset_s, return_inverse=True)
    world_T_lidar = states_at(scene.trajectory, np.array([time_s])).world_T_base[0] @ mount
    end_T_sensor = inverse(world_T_lidar) @ (states_at(scene.trajectory, time_s + offsets_s).world_T_base @ mount)
    points = np.einsum("nij,nj->ni", end_T_sensor[row, :3, :3], seen.points_m) + end_T_sensor[row, :3, 3]
    return points.astype(np.float32), world_T_lidar


@cache
def distant_pair(name: str) -> tuple[Array, Array, Array]:
    """Target and source 44 m apart, the source turned and tilted, and the truth."""
    beams = {"street": 16, "orchard": 64}[name]  # rows of trees are too much alike for 16 beams at both ends
    (target_m, world_T_target), (source_m, world_T_source) = (scan(name, beams, t) for t in TIMES_S[name])
    turn = random_turn(np.random.default_rng(4))
    truth = inverse(world_T_target) @ world_T_source @ inverse(turn)
    return target_m, transform_points(turn, source_m), truth


@cache
def registered(name: str) -> GlobalRegistration:
    target_m, source_m, _ = distant_pair(name)
    return register_distant(target_m, source_m)


def scene_of(structure_m: Array) -> Scene:
    """A scene on the plane z = 0, seen from 2 m above it."""
    structure = np.asarray(structure_m, np.float32)
    pose = from_rotation_translation(np.eye(3), np.array([0.0, 0.0, 2.0]))
    return Scene(pose, structure, structure[:, 2], np.zeros((0, 3), np.float32))


def scattered(seed: int, count: int = 400) -> Array:
    """Posts of several heights, unevenly strewn over 100 m."""
    rng = np.random.default_rng(seed)
    posts = rng.uniform(-50.0, 50.0, (count // 8, 2))
    heights = rng.uniform(0.5, 8.0, count // 8)
    z = np.linspace(0.1, 1.0, 8)[None, :] * heights[:, None]
    xy = np.repeat(posts[:, None, :], 8, axis=1)
    points = np.concatenate([xy, z[..., None]], axis=2).reshape(-1, 3)
    result: Array = points[points[:, 2] > 0.5]
    return result


def test_scans_over_forty_metres_apart_are_registered_at_any_yaw() -> None:
    _, _, truth = distant_pair("street")
    assert 40.0 < np.linalg.norm(truth[:3, 3]) < 50.0
    found = registered("street")
    metres, degrees = errors_of(truth, found.target_T_source)
    assert metres < 0.5
    assert degrees < 1.0
    assert found.converged
    assert found.confidence > 0.5
    assert found.inliers > 0.7 * found.correspondences


def test_a_sensor_with_sixteen_beams_finds_itself_in_a_scan_with_sixty_four() -> None:
    target_m, world_T_target = scan("street", 64, TIMES_S["street"][0])
    _, source_m, truth = distant_pair("street")
    assert np.allclose(world_T_target, scan("street", 16, TIMES_S["street"][0])[1])
    metres, degrees = errors_of(truth, register_distant(target_m, source_m).target_T_source)
    assert metres < 0.5
    assert degrees < 1.0


def test_scans_of_two_places_in_one_street_are_not_believed() -> None:
    (here_m, world_T_here), (there_m, world_T_there) = (scan("street", 16, time_s) for time_s in (10.0, 60.0))
    assert np.linalg.norm(world_T_here[:3, 3] - world_T_there[:3, 3]) > 300.0
    found = register_distant(here_m, there_m)
    assert not found.converged
    assert found.confidence < 0.3


def test_the_same_pair_gives_the_same_bytes_whatever_the_seed() -> None:
    target_m, source_m, _ = distant_pair("street")
    first, second = registered("street"), register_distant(target_m, source_m, seed=1)
    assert first.target_T_source.tobytes() == second.target_T_source.tobytes()
    assert first.confidence == second.confidence


def test_in_rows_of_trees_the_right_candidate_is_the_most_credible() -> None:
    target_m, source_m, truth = distant_pair("orchard")  # every candidate fits most trees
    found = candidates(target_m, source_m)
    errors = [errors_of(truth, candidate.local.target_T_source) for candidate in found]
    assert not all(metres < 2.0 for metres, _ in errors)
    metres, degrees = errors[int(np.argmax([candidate.confidence for candidate in found]))]
    assert metres < 0.5
    assert degrees < 1.0


def test_descriptors_alone_register_a_near_pair() -> None:
    (target_m, world_T_target), (source_m, world_T_source) = (scan("street", 64, t) for t in (10.0, 10.8))
    found = register_distant(target_m, source_m, descriptor="classical", correlation=False)
    metres, degrees = errors_of(inverse(world_T_target) @ world_T_source, found.target_T_source)
    assert metres < 0.3
    assert degrees < 0.5
    assert found.converged


@pytest.mark.parametrize(
    "source_m",
    [np.zeros((0, 3)), np.full((500, 3), np.nan), np.zeros((500, 3)), np.ones((50, 3)) * 10.0],
    ids=["empty", "all NaN", "all at the sensor", "one point again and again"],
)
def test_a_scan_that_cannot_be_used_is_not_registered(source_m: Array) -> None:
    target_m, _, _ = distant_pair("street")
    found = register_distant(target_m, source_m)
    assert not found.converged
    assert found.confidence == 0.0
    assert np.isnan(found.target_T_source).all()
    with pytest.raises(Rejected):
        prepare(source_m)


def test_a_programmers_mistake_raises() -> None:
    cloud = np.zeros((500, 3))
    with pytest.raises(ValueError, match="shape"):
        register_distant(np.zeros((500, 4)), cloud)
    with pytest.raises(ValueError, match="descriptor"):
        register_distant(cloud, cloud, descriptor="lerned")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="candidates"):
        register_distant(cloud, cloud, correlation=False)


def test_bare_ground_has_no_keypoints_and_is_not_registered() -> None:
    rng = np.random.default_rng(0)
    ground_m = np.column_stack([rng.uniform(-40, 40, (5000, 2)), rng.normal(-1.8, 0.02, 5000)])
    prepared = prepare(ground_m)
    assert len(prepared.keypoints_m) == 0
    assert describe(prepared).shape[0] == 0
    assert correlate(prepared.scene, prepared.scene) == []
    assert not register_distant(ground_m, ground_m).converged


def test_points_that_are_not_finite_change_nothing() -> None:
    target_m, source_m, _ = distant_pair("street")
    spoilt = np.concatenate([source_m, np.full((7, 3), np.nan, np.float32), np.full((7, 3), np.inf, np.float32)])
    clean, dirty = registered("street"), register_distant(target_m, spoilt)
    assert np.allclose(clean.target_T_source, dirty.target_T_source, atol=1e-9)


@pytest.mark.parametrize("name", ["street", "orchard"])
@pytest.mark.parametrize("tilt_deg", [0.0, 6.0])
def test_a_tilted_scan_is_made_upright(name: str, tilt_deg: float) -> None:
    points_m, world_T_lidar = scan(name, 16, TIMES_S[name][0])
    tilt = se3_exp(np.array([0, 0, 0, np.radians(tilt_deg), 0, 0]))
    scene = upright_scene(transform_points(tilt, points_m))
    up = scene.level_T_sensor[:3, :3] @ tilt[:3, :3] @ world_T_lidar[:3, :3].T @ [0.0, 0.0, 1.0]
    assert np.degrees(np.arccos(min(up[2], 1.0))) < 0.4
    assert scene.sensor_m == pytest.approx(world_T_lidar[2, 3], abs=0.12)


def test_the_ground_lies_and_the_structure_stands() -> None:
    points_m, world_T_lidar = scan("street", 64, TIMES_S["street"][0])
    scene = upright_scene(points_m)
    for part_m, low, high in ((scene.ground_m, -0.6, 0.8), (scene.structure_m, 0.2, 30.0)):
        height_m = transform_points(world_T_lidar @ inverse(scene.level_T_sensor), part_m)[:, 2]
        assert np.mean((height_m > low) & (height_m < high)) > 0.97
    assert (scene.height_m > 0.4).all()


def test_keypoints_are_bounded_and_stand_on_structure() -> None:
    points_m, _ = scan("orchard", 64, TIMES_S["orchard"][0])
    prepared = prepare(points_m)
    assert 300 < len(prepared.keypoints_m) <= MAX_KEYPOINTS
    assert len(prepare(points_m, max_keypoints=200).keypoints_m) <= 200
    distance = np.linalg.norm(prepared.keypoints_m[:50, None] - prepared.scene.structure_m[None], axis=2).min(axis=1)
    assert distance.max() < 2.0  # of voxels that have grown to hold no more


def test_the_descriptor_forgets_yaw_and_density_but_not_height() -> None:
    around = scattered(3)
    scene = scene_of(around)
    prepared = prepare_scene(scene)
    turned = prepare_scene(scene_of(transform_points(turn_about_z(np.pi / 2), around)))
    denser = prepare_scene(scene_of(np.repeat(around, 5, axis=0)), every=20)
    raised = prepare_scene(scene_of(around * [1.0, 1.0, 2.0]))
    plain = describe(prepared)
    assert np.linalg.norm(plain, axis=1) == pytest.approx(1.0, abs=1e-5)
    of_same = np.linalg.norm(plain - describe(turned), axis=1)
    of_other = np.linalg.norm(plain - np.roll(plain, 8, axis=0), axis=1)
    assert np.median(of_same) < 0.3 * np.median(of_other)
    assert np.array_equal(describe(denser), plain)
    assert np.median(np.linalg.norm(plain - describe(raised), axis=1)) > 0.3 * np.median(of_other)


def prepare_scene(scene: Scene, every: int = 4) -> Prepared:
    return Prepared(scene, scene.structure_m[::every], scene.height_m[::every])


def turn_about_z(yaw_rad: float) -> Array:
    return from_rotation_translation(rotation_about_z(yaw_rad), np.zeros(3))


def test_occupancy_sees_cells_and_not_points() -> None:
    points_m = np.array([[0.2, 0.2, 0.6], [0.3, 0.3, 0.7], [10.2, -3.7, 6.0]])
    slabs = occupancy_slabs(scene_of(points_m))
    assert slabs.sum() == 2.0
    middle = slabs.shape[1] // 2
    assert slabs[0, middle, middle] == 1.0
    assert slabs[4, middle + 20, middle - 8] == 1.0


@settings(max_examples=4, deadline=None)
@given(
    yaw_rad=st.floats(0.0, 2.0 * np.pi),
    x_m=st.floats(-50.0, 50.0),
    y_m=st.floats(-50.0, 50.0),
)
def test_correlation_finds_any_yaw_and_shift(yaw_rad: float, x_m: float, y_m: float) -> None:
    source_m = scattered(5)
    truth = from_rotation_translation(rotation_about_z(yaw_rad), np.array([x_m, y_m, 0.0]))
    found = correlate(scene_of(transform_points(truth, source_m)), scene_of(source_m), count=1)[0].target_T_source
    assert np.hypot(*(found[:2, 3] - truth[:2, 3])) < 2.0
    apart_rad = yaw_from_rotation(found[:3, :3] @ truth[:3, :3].T)
    assert np.degrees(abs(apart_rad)) < 3.0


def test_correlation_agrees_with_counting_common_cells() -> None:
    rng = np.random.default_rng(2)
    source_m = scattered(6)
    target_m = source_m + np.array([7.0, -11.0, 0.0])
    best = correlate(scene_of(target_m), scene_of(source_m), count=1)[0].target_T_source

    def common_cells(shift_m: Array) -> int:
        ours = {tuple(cell) for cell in np.floor(target_m[:, :2]).astype(int).tolist()}
        theirs = {tuple(cell) for cell in np.floor(source_m[:, :2] + shift_m).astype(int).tolist()}
        return len(ours & theirs)

    assert np.allclose(best[:2, 3], [7.0, -11.0])
    assert np.allclose(best[:3, :3], np.eye(3))
    others = rng.integers(-50, 50, (200, 2)).astype(float)
    assert common_cells(best[:2, 3]) > max(common_cells(other) for other in others if abs(other - [7, -11]).max() > 1)


def test_mutual_matches_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(55, 8)).astype(np.float32)
    table_of = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    expected = {
        (i, int(table_of[i].argmin())) for i in range(40) if int(table_of[:, table_of[i].argmin()].argmin()) == i
    }
    matches = mutual_matches(ours, theirs)
    assert {tuple(row) for row in matches.tolist()} == expected
    assert (np.diff(table_of[matches[:, 0], matches[:, 1]]) >= 0).all()
    assert mutual_matches(ours[:0], theirs).shape == (0, 2)


def test_what_is_seen_through_contradicts_and_what_is_hidden_says_nothing() -> None:
    azimuth = np.radians(np.arange(-60.0, 60.0, 0.25))
    elevation = np.radians(np.arange(-10.0, 10.0, 0.25))
    azimuth, elevation = (axis.ravel() for axis in np.meshgrid(azimuth, elevation))
    wall = 20.0 * np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1
    )
    view, nothing = view_of(wall), view_of(np.zeros((0, 3)))
    none = np.zeros((0, 3))
    at = agreement(view, nothing, none, wall, np.eye(4))
    before = agreement(view, nothing, none, 0.5 * wall, np.eye(4))
    behind = agreement(view, nothing, none, 2.0 * wall, np.eye(4))
    assert (at.supporting, at.contradicting) == (len(wall), 0)
    assert (before.supporting, before.contradicting) == (0, len(wall))
    assert (behind.supporting, behind.contradicting) == (0, 0)
    both_ways = agreement(nothing, view, 0.5 * wall, none, np.eye(4))
    assert both_ways.contradicting == len(wall)


def test_pairs_keep_to_their_bins_and_carry_their_truth() -> None:
    poses = np.tile(np.eye(4), (80, 1, 1))
    poses[:, 0, 3] = np.arange(80)
    poses[:, :3, :3] = rotation_about_z(0.02 * np.arange(80))
    pairs = choose_pairs(poses, poses, per_bin=4, seed=3)
    assert [pair.bin_m for pair in pairs] == [bin_m for bin_m in BINS_M for _ in range(4)]
    for pair in pairs:
        low, high = pair.bin_m
        assert low <= abs(pair.target - pair.source) < high
        assert np.degrees(np.arccos(pair.turned_T_source[2, 2])) <= 2.0 + 1e-9
        back = pair.target_T_turned @ pair.turned_T_source
        assert np.allclose(back, inverse(poses[pair.target]) @ poses[pair.source])
    again = choose_pairs(poses, poses, per_bin=4, seed=3, bins_m=BINS_M[:2])
    assert [(pair.target, pair.source) for pair in again] == [(pair.target, pair.source) for pair in pairs[:8]]


def test_the_evaluation_counts_what_lies_within_two_metres_and_five_degrees() -> None:
    offsets = [
        (1.9, 0.0), (0.0, 4.9), (2.1, 0.0), (0.0, 5.1), (np.nan, 0.0)
    ]  # fmt: skip
    poses = [
        from_rotation_translation(so3_exp(np.array([0.0, 0.0, np.radians(degrees)])), np.array([metres, 0.0, 0.0]))
        for metres, degrees in offsets
    ]
    answers = iter(poses)
    cloud = np.zeros((1, 3))
    outcomes = measure(lambda _a, _b: (next(answers), 0.5), [(cloud, cloud, np.eye(4), (40.0, 50.0))] * 5)
    row = summary(outcomes)
    assert [outcome.right for outcome in outcomes] == [True, True, False, False, False]
    assert (row["pairs"], row["recall"]) == (5, 0.4)
    assert row["rte_m"] == pytest.approx(0.95)
    assert row["rre_deg"] == pytest.approx(2.45)
    assert by_distance(outcomes) == {"40-50 m": row}
    assert "40-50 m" in table({"a method": by_distance(outcomes)})
    assert np.isnan(summary([Outcome((5, 10), 9.0, 9.0, 0.0, 0.0)])["rte_m"])


def test_the_roc_of_confidences() -> None:
    assert roc([0.9, 0.8], [0.1, 0.2]) == {"auc": 1.0, "recall_without_wrong": 1.0}
    assert roc([0.9, 0.1], [0.5]) == {"auc": 0.5, "recall_without_wrong": 0.5}
    assert roc([0.5], [0.5])["auc"] == 0.5


@pytest.fixture(scope="session")
def drive_ends(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Array]:
    """Two scans of the real drive, 42 m apart."""
    spec = importlib.util.spec_from_file_location("unpack", shared_data / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    chosen, folder = tmp_path_factory.mktemp("chosen"), tmp_path_factory.mktemp("scans")
    files = sorted((shared_data / "kitti_drive0005" / "velodyne").iterdir())
    for k in (20, 120):
        (chosen / files[k].name).symlink_to(files[k])
    unpack.scans(chosen, folder)
    scans = sorted(folder.glob("*.bin"))
    return {k: np.fromfile(f, np.float32).reshape(-1, 4)[:, :3] for k, f in zip((20, 120), scans, strict=True)}


def test_two_scans_of_the_real_drive_far_apart_are_registered(drive_ends: dict[int, Array], shared_data: Path) -> None:
    rows = np.loadtxt(shared_data / "kitti_drive0005" / "poses_velo_from_oxts.txt").reshape(-1, 3, 4)
    poses = from_rotation_translation(rows[:, :, :3], rows[:, :, 3])
    turn = random_turn(np.random.default_rng(8))
    found = register_distant(drive_ends[20], transform_points(turn, drive_ends[120]))
    metres, degrees = errors_of(inverse(poses[20]) @ poses[120] @ inverse(turn), found.target_T_source)
    assert np.linalg.norm(poses[20][:3, 3] - poses[120][:3, 3]) > 39.0
    assert metres < 2.6
    assert degrees < 1.5
    assert found.converged
