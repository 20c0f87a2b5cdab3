"""The learned descriptor for distant pairs: its patches against brute force, the shipped network, its training data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ruamel.yaml import YAML

from registration.distant.keypoints import Prepared, describe, prepare
from registration.distant.learned import SHIPPED_MODEL, _session, describe_learned
from registration.distant.patches import (
    AZIMUTHS,
    BITS,
    CELL_M,
    LEVELS,
    RINGS_M,
    SIDE,
    SLABS_M,
    free_space,
    grid_of,
    patches,
    pyramid,
    unpacked,
)  # fmt: skip
from registration.distant.structure import Scene
from registration.train.data import World, draw_batch, draw_places, read_world, world_of, write_world
from registration.train.worlds import Recording, read_recording, record, write_recording, write_worlds
from tercel.core.errors import UserError
from tercel.core.geometry import from_rotation_translation, rotation_about_z, transform_points

Array = NDArray[Any]


@pytest.fixture(scope="module")
def recording() -> Recording:
    """Three scans of a street of the evaluation, some 40 m apart, turned every which way, with 64 and with 16 beams."""
    return record("street", 1002, scans=3, apart_m=45.0)


@pytest.fixture(scope="module")
def prepared(recording: Recording) -> list[Prepared]:
    return [prepare(points_m) for points_m in recording.points_m]


@pytest.fixture(scope="module")
def world(recording: Recording) -> World:
    return world_of(recording)


def scene_of(structure_m: Array, ground_m: Array | None = None) -> Scene:
    """A scene whose sensor is 1.9 m above a flat ground."""
    level_T_sensor = from_rotation_translation(np.eye(3), np.array([0.0, 0.0, 1.9]))
    ground_m = np.zeros((0, 3), np.float32) if ground_m is None else ground_m.astype(np.float32)
    structure_m = structure_m.astype(np.float32).reshape(-1, 3)
    return Scene(level_T_sensor, structure_m, structure_m[:, 2], ground_m)


def test_a_patch_holds_what_a_search_around_every_sample_finds() -> None:
    rng = np.random.default_rng(3)
    points_m = rng.uniform([-25, -25, 0.4], [25, 25, 9.0], (3000, 3))
    grid = grid_of(scene_of(points_m)) & np.uint16(0x00FF)
    keypoints_m = rng.uniform(-6, 6, (5, 3)).astype(np.float32)
    turn_rad = 0.3
    found = patches(pyramid(grid), keypoints_m, turn_rad).reshape(5, AZIMUTHS, len(RINGS_M), BITS)
    slab = np.searchsorted(SLABS_M, points_m[:, 2].astype(np.float32), side="right") - 1
    cells = np.floor(points_m[:, :2].astype(np.float32) / CELL_M)
    for k, azimuth, ring in rng.integers(0, [5, AZIMUTHS, len(RINGS_M)], (150, 3)):
        angle = turn_rad + 2 * np.pi * azimuth / AZIMUTHS
        at = keypoints_m[k, :2] + RINGS_M[ring] * np.array([np.cos(angle), np.sin(angle)])
        width = 2 ** LEVELS[ring]
        first = np.floor(at / CELL_M - (width - 1) / 2)
        if np.abs(at / CELL_M - (width - 1) / 2 - np.round(at / CELL_M - (width - 1) / 2)).min() < 1e-3:
            continue  # on the line between two cells, where single precision may decide otherwise
        inside = ((cells >= first) & (cells < first + width)).all(axis=1)
        np.testing.assert_array_equal(np.flatnonzero(found[k, azimuth, ring]), np.unique(slab[inside]))


def test_bits_are_unpacked_from_the_lowest() -> None:
    np.testing.assert_array_equal(np.flatnonzero(unpacked(np.array([[1 << 3, 1 << 15]], np.uint16))), [3, 31])


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), times=st.integers(2, 5))
def test_measuring_the_same_points_more_often_changes_nothing(seed: int, times: int) -> None:
    rng = np.random.default_rng(seed)
    points_m = rng.uniform([-40, -40, 0.5], [40, 40, 6.0], (200, 3))
    once, often = grid_of(scene_of(points_m)), grid_of(scene_of(np.tile(points_m, (times, 1))))
    np.testing.assert_array_equal(once, often)


def test_space_before_a_wall_is_free_and_space_behind_it_is_unknown() -> None:
    y, z = (axis.ravel() for axis in np.meshgrid(np.arange(-10, 10, 0.2), np.arange(0.5, 3.0, 0.2)))
    free = free_space(scene_of(np.stack([np.full(len(y), 12.0), y, z], axis=1)))
    middle = SIDE // 2
    at_head_height = 1 << 10  # the slab from 1.3 to 1.9 m, at the sensor's own height
    before, behind, aside = (free[middle + dx, middle + dy] & at_head_height for dx, dy in ((12, 0), (40, 0), (0, 20)))
    assert before
    assert not behind
    assert not aside


def test_descriptors_stay_when_a_patch_turns_by_whole_steps(prepared: list[Prepared]) -> None:
    seen = patches(pyramid(grid_of(prepared[0].scene)), prepared[0].keypoints_m[::10])
    height_m = prepared[0].height_m[::10]
    (first,) = _session(SHIPPED_MODEL).run(None, {"patches": seen, "height_m": height_m})
    (turned,) = _session(SHIPPED_MODEL).run(None, {"patches": np.roll(seen, 6, axis=1), "height_m": height_m})
    np.testing.assert_allclose(turned, first, atol=1e-4)
    (other,) = _session(SHIPPED_MODEL).run(None, {"patches": seen[:, ::-1].copy(), "height_m": height_m})
    assert np.abs(other - first).max() > 0.1  # a mirrored street is another street


def test_a_scan_turned_about_z_keeps_most_of_its_descriptors(recording: Recording) -> None:
    turned_T_sensor = from_rotation_translation(rotation_about_z(2.0), np.zeros(3))
    first = prepare(recording.points_m[0])
    second = prepare(transform_points(turned_T_sensor, recording.points_m[0]))
    share = right_matches(first, second, inverse_turn(first, second, turned_T_sensor), learned=True)[1]
    assert share > 0.6


def inverse_turn(target: Prepared, source: Prepared, source_T_target: Array) -> Array:
    """target_T_source between the level frames, of a transform between the sensors'."""
    return target.scene.level_T_sensor @ np.linalg.inv(source_T_target) @ np.linalg.inv(source.scene.level_T_sensor)


def right_matches(target: Prepared, source: Prepared, target_T_source: Array, *, learned: bool) -> tuple[int, float]:
    """Number and share of mutual nearest neighbours that lie within 1.5 m of each other."""
    ours, theirs = (describe_learned(side) if learned else describe(side) for side in (target, source))
    score = 2.0 * ours @ theirs.T - (ours**2).sum(1)[:, None] - (theirs**2).sum(1)[None]
    best = score.argmax(axis=1)
    rows = np.flatnonzero(score.argmax(axis=0)[best] == np.arange(len(ours)))
    moved = transform_points(target_T_source, source.keypoints_m[best[rows]].astype(np.float64))
    right = np.linalg.norm(moved - target.keypoints_m[rows], axis=1) < 1.5
    return int(right.sum()), float(right.mean())


def test_distant_scans_match_better_than_with_the_classical_descriptor(
    recording: Recording, prepared: list[Prepared]
) -> None:
    counts = {True: 0, False: 0}
    for a, b in ((0, 1), (1, 2)):
        distance_m = np.linalg.norm(recording.world_T_sensor[a, :3, 3] - recording.world_T_sensor[b, :3, 3])
        assert 30.0 < distance_m < 50.0
        source_T_target = np.linalg.inv(recording.world_T_sensor[b]) @ recording.world_T_sensor[a]
        truth = inverse_turn(prepared[a], prepared[b], source_T_target)
        for learned in counts:
            counts[learned] += right_matches(prepared[a], prepared[b], truth, learned=learned)[0]
    assert counts[True] > 1.5 * counts[False]
    assert counts[True] > 20


def test_descriptors_are_unit_vectors_and_the_same_every_time(prepared: list[Prepared]) -> None:
    first, again = describe_learned(prepared[1]), describe_learned(prepared[1])
    assert first.shape == (len(prepared[1].keypoints_m), 32)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, atol=1e-4)


def test_a_scan_without_keypoints_has_no_descriptors() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert describe_learned(Prepared(scene_of(empty), empty, empty[:, 0])).shape == (0, 32)


def test_the_shipped_model_is_small_and_is_what_its_card_says() -> None:
    card = YAML(typ="safe", pure=True).load(SHIPPED_MODEL.with_suffix(".yaml"))
    assert SHIPPED_MODEL.stat().st_size <= 2_000_000
    assert card["sha256"] == hashlib.sha256(SHIPPED_MODEL.read_bytes()).hexdigest()
    assert card["licence"] == "Apache-2.0"
    assert "simulated" in str(card["training"])


def test_a_missing_or_foreign_model_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    empty = np.zeros((0, 3), np.float32)
    nothing = Prepared(scene_of(empty), empty, empty[:, 0])
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    detector = Path(__file__).parents[2] / "perception/models/tercel-nano.onnx"
    for model, words in (
        (tmp_path / "none.onnx", "no such model"),
        (tmp_path / "broken.onnx", "not a model that onnxruntime can load"),
        (detector, "not a descriptor"),
    ):
        with pytest.raises(UserError, match=words) as raised:
            describe_learned(nothing, model)
        assert "\n" not in str(raised.value)


def test_worlds_of_evaluation_seeds_are_refused_for_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not for training"):
        write_worlds(tmp_path, range(1000, 1001))
    with pytest.raises(ValueError, match="not for training"):
        write_worlds(tmp_path, range(7, 8))


def test_recordings_and_worlds_are_read_back_as_written(recording: Recording, world: World, tmp_path: Path) -> None:
    write_recording(tmp_path / "r.npz", recording)
    back = read_recording(tmp_path / "r.npz")
    np.testing.assert_allclose(back.points_m[1], recording.points_m[1], atol=1 / 200)
    np.testing.assert_array_equal(back.still[2], recording.still[2])
    write_world(tmp_path / "w.npz", world)
    again = read_world(tmp_path / "w.npz")
    np.testing.assert_array_equal(again.dense, world.dense)
    for one, other in zip(again.views, world.views, strict=True):
        np.testing.assert_array_equal(one.grid, other.grid)
        np.testing.assert_array_equal(one.keypoints_m, other.keypoints_m)


def test_places_of_a_batch_are_where_two_scans_have_a_still_keypoint(world: World) -> None:
    assert not all(view.still.all() for view in world.views)  # traffic is in view
    places = draw_places(world, [0, 1, 2], np.random.default_rng(0), 50)
    assert places.shape[1] == 50
    for column in places.T:
        at = [world.views[view].world_m[k] for view, k in enumerate(column) if k >= 0]
        assert len(at) >= 2
        assert max(np.linalg.norm(one - other) for one in at for other in at) < 2.0
    plan = {"groups": 2, "size": 3, "places": 30, "others": 20, "nearest_m": 5.0, "farthest_m": 100.0}
    batch = draw_batch([world], np.random.default_rng(1), **plan)
    again = draw_batch([world], np.random.default_rng(1), **plan)
    np.testing.assert_array_equal(batch.patches, again.patches)
    spread = [np.ptp(batch.position_m[batch.place == place], axis=0).max() for place in set(batch.place) - {-1}]
    assert max(spread) < 2.0
    still = batch.place >= 0
    middle = batch.patches.reshape(len(still), AZIMUTHS, len(RINGS_M), BITS)[still][:, :, 0, :8].any(axis=(1, 2))
    around = batch.dense.reshape(len(still), AZIMUTHS, len(RINGS_M), 8)[still][:, :, 0].any(axis=(1, 2))
    assert around.mean() > 0.9  # the accumulated cloud has something half a metre from nearly every place
    assert around.mean() >= middle.mean()
