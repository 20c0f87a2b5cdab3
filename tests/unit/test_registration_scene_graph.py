"""Scene graphs: found again from another place, small on the wire, refused when damaged, silent about strangers."""

from __future__ import annotations

import importlib.util
import struct
import tracemalloc
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from devices.sensors.simulated.lidar import sweep
from devices.sensors.simulated.motion import states_at, stream
from devices.sensors.simulated.world import WorldConfig, make_lidar, make_scene
from registration.odometry import deskew
from registration.scene_columns import Columns
from registration.scene_graph import CORNER, KINDS, OBJECT, PERSON, POLE, VEHICLE, WALL, SceneGraph
from registration.scene_graph_wire import MAX_BYTES, MAX_NODES, VERSION, decode_scene_graph, encode_scene_graph
from registration.scene_match import MatchConfig, match_scene_graphs
from registration.scene_nodes import NodeConfig, build_scene_graph, rotation_to_level
from registration.scene_walls import WallConfig, find_walls
from tercel.core.errors import Rejected
from tercel.core.geometry import (
    from_rotation_translation,
    inverse,
    rotation_about_z,
    se3_exp,
    se3_log,
    so3_log,
    transform_points,
    wrap_angle,
)
from tercel.core.messages import Detections3D, PointCloud

Array = NDArray[Any]

SEEN_AT_S = (4.0, 5.6)  # 15 m apart on the street


@cache
def street_scan(seed: int, time_s: float) -> tuple[Array, Array]:
    """A 16-beam scan without motion (N, 3) float32, and the sensor's pose in the world."""
    scene, lidar = make_scene("street", seed), make_lidar(WorldConfig(seed=seed, lidar_columns=720))
    result = sweep(lidar, scene.trajectory, scene.snapshot(time_s).primitives, time_s, stream(seed, 9))
    before, pose = states_at(scene.trajectory, np.array([time_s - 0.05, time_s])).world_T_base @ lidar.base_T_lidar
    twist = se3_log(inverse(before) @ pose) / 0.05
    return deskew(result.points_m, result.time_offset_s, twist).astype(np.float32), pose


def cloud_of(points_m: Array, **fields: Any) -> PointCloud:
    return PointCloud(stamp_ns=fields.pop("stamp_ns", 7), frame_id=fields.pop("frame_id", "lidar"), points_m=points_m)


@cache
def street_graph(seed: int, time_s: float, yaw_rad: float = 0.0) -> tuple[SceneGraph, Array]:
    """The graph of a scan whose sensor is turned by yaw, and its pose."""
    points_m, pose = street_scan(seed, time_s)
    turn = from_rotation_translation(rotation_about_z(yaw_rad), np.zeros(3))
    return build_scene_graph(cloud_of(transform_points(inverse(turn), points_m))), pose @ turn


def drive_scan(shared_data: Path, number: int) -> tuple[Array, Array]:
    """A scan (N, 3) of a real drive, and the sensor's satellite and inertial pose."""
    spec = importlib.util.spec_from_file_location("unpack", shared_data / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    folder = shared_data / "kitti_drive0005"
    row = np.loadtxt(folder / "poses_velo_from_oxts.txt")[number].reshape(3, 4)
    points = unpack.read_scan(sorted((folder / "velodyne").glob("*.kxz"))[number])[:, :3]
    return points, from_rotation_translation(row[:, :3], row[:, 3])


def misses(target_T_source: Array, truth: Array) -> tuple[float, float]:
    """m and degrees between two transforms."""
    error = inverse(truth) @ target_T_source
    return float(np.linalg.norm(error[:3, 3])), float(np.degrees(np.linalg.norm(so3_log(error[:3, :3]))))


def yard(ground_z: float = -1.8) -> Array:
    """Points of level ground, a pole at (8, 3), a wall along y at x = 12 from y = -6 to 6, one along x at y = 6."""
    x, y = np.meshgrid(np.arange(-20, 12, 0.4), np.arange(-20, 6, 0.4))
    parts = [np.column_stack([x.ravel(), y.ravel(), np.full(x.size, ground_z)])]
    angle, z = np.meshgrid(np.linspace(np.pi / 2 + 0.4, 3 * np.pi / 2 + 0.4, 12), np.arange(0.1, 4.0, 0.1))
    parts.append(
        np.column_stack([8 + 0.15 * np.cos(angle).ravel(), 3 + 0.15 * np.sin(angle).ravel(), z.ravel() + ground_z])
    )
    along, z = np.meshgrid(np.arange(-6, 6, 0.1), np.arange(0.1, 5.0, 0.3))
    parts.append(np.column_stack([np.full(along.size, 12.0), along.ravel(), z.ravel() + ground_z]))
    along, z = np.meshgrid(np.arange(2, 12, 0.1), np.arange(0.1, 5.0, 0.3))
    parts.append(np.column_stack([along.ravel(), np.full(along.size, 6.0), z.ravel() + ground_z]))
    return np.concatenate(parts).astype(np.float32)


def test_a_yard_has_the_pole_the_walls_and_the_corner_that_stand_in_it() -> None:
    graph = build_scene_graph(cloud_of(yard()))
    assert graph.sensor_height_m == pytest.approx(1.8, abs=0.05)
    np.testing.assert_allclose(graph.up, [0, 0, 1], atol=5e-3)
    pole = graph.centers_m[graph.kinds == POLE]
    assert np.linalg.norm(pole[:, :2] - [8.0, 3.0], axis=1).min() < 0.1
    walls = graph.take(graph.kinds == WALL)
    nearest = np.argmin(np.linalg.norm(walls.centers_m[:, :2] - [12.0, 0.0], axis=1))
    np.testing.assert_allclose(walls.centers_m[nearest, 0], 12.0, atol=0.05)
    assert abs(wrap_angle(walls.yaws_rad[nearest] - np.pi)) < 0.02  # its face looks back at the sensor
    assert walls.sizes_m[nearest, 0] == pytest.approx(12.0, abs=0.5)
    assert walls.sizes_m[nearest, 2] == pytest.approx(5.0, abs=0.4)
    corner = graph.centers_m[graph.kinds == CORNER]
    assert np.linalg.norm(corner[:, :2] - [12.0, 6.0], axis=1).min() < 0.15


@settings(max_examples=12, deadline=None)
@given(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_a_tilted_sensor_sees_the_same_level_graph(roll: float, pitch: float) -> None:
    tilt = se3_exp(np.array([0.0, 0.0, 0.0, roll, pitch, 0.0]))
    points_m = transform_points(inverse(tilt), yard())
    graph = build_scene_graph(cloud_of(points_m))
    assert np.degrees(np.arccos(min(float(graph.up @ tilt[2, :3]), 1.0))) < 0.5
    level = rotation_to_level(graph.up) @ tilt[:3, :3].T  # from the yard's own axes
    pole = graph.centers_m[graph.kinds == POLE] @ level
    assert np.linalg.norm(pole[:, :2] - [8.0, 3.0], axis=1).min() < 0.2


def test_what_gravity_says_goes_before_the_ground() -> None:
    up = np.array([0.05, 0.0, 1.0])
    graph = build_scene_graph(cloud_of(yard()), up=up)
    np.testing.assert_allclose(graph.up, up / np.linalg.norm(up), atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.7, 0.7), st.floats(-0.7, 0.7))
def test_levelling_turns_up_to_z_and_is_a_rotation(x: float, y: float) -> None:
    up = np.array([x, y, 1.0]) / np.linalg.norm([x, y, 1.0])
    level = rotation_to_level(up)
    np.testing.assert_allclose(level @ up, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(level @ level.T, np.eye(3), atol=1e-12)


def detections_of(names: tuple[str, ...], **fields: Any) -> Detections3D:
    count = len(names)
    numbers = {
        "centers_m": np.column_stack([np.full(count, 5.0), 3.0 * np.arange(count), np.full(count, -1.0)]),
        "sizes_m": np.full((count, 3), 1.5), "yaws_rad": np.full(count, 0.3), "scores": np.full(count, 0.9),
    }  # fmt: skip
    return Detections3D(
        stamp_ns=7, frame_id=fields.pop("frame_id", "lidar"), labels=np.arange(count), class_names=names,
        **{**numbers, **fields},
    )  # fmt: skip


def test_a_detectors_boxes_become_objects_and_what_moves_weighs_less() -> None:
    graph = build_scene_graph(cloud_of(yard()), detections_of(("obstacle", "Car", "person")))
    found = graph.take(np.isin(graph.kinds, [OBJECT, VEHICLE, PERSON]))
    assert found.kinds.tolist() == [OBJECT, VEHICLE, PERSON]
    assert (np.diff(found.weights) < 0).all()
    np.testing.assert_allclose(found.centers_m[:, 1], [0.0, 3.0, 6.0], atol=0.05)
    np.testing.assert_allclose(found.yaws_rad, 0.3, atol=0.01)


def test_boxes_that_are_not_finite_are_left_out_and_those_of_another_frame_rejected() -> None:
    centers = np.array([[np.nan, 0, 0], [5.0, 0, 0]])
    graph = build_scene_graph(cloud_of(yard()), detections_of(("car", "car"), centers_m=centers))
    assert np.count_nonzero(graph.kinds == VEHICLE) == 1
    with pytest.raises(Rejected, match="frame"):
        build_scene_graph(cloud_of(yard()), detections_of(("car",), frame_id="camera"))


@pytest.mark.parametrize("points_m", [np.zeros((0, 3)), np.full((5000, 3), np.nan), np.full((5000, 3), 1e30)])
def test_a_cloud_without_usable_points_is_rejected(points_m: Array) -> None:
    with pytest.raises(Rejected, match="too few usable points"):
        build_scene_graph(cloud_of(points_m.astype(np.float32)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.5, 5.0, 40.0]), st.booleans())
def test_no_cloud_makes_a_graph_that_cannot_be_sent(seed: int, spread_m: float, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    points_m = rng.normal(0.0, spread_m, (3000, 3)) * [1.0, 1.0, 0.0 if flat else 0.3]
    points_m[::50] = np.nan
    try:
        graph = build_scene_graph(cloud_of(points_m.astype(np.float32)))
    except Rejected:
        return
    assert len(decode_scene_graph(encode_scene_graph(graph))) == min(len(graph), MAX_NODES)


def random_graph(seed: int, count: int) -> SceneGraph:
    rng = np.random.default_rng(seed)
    up = np.array([*rng.uniform(-0.4, 0.4, 2), 1.0])
    return SceneGraph(
        int(rng.integers(-(2**62), 2**62)), "robot_é/lidar", up / np.linalg.norm(up), float(rng.uniform(0, 9)),
        rng.integers(0, len(KINDS), count).astype(np.uint8), rng.uniform(-300, 300, (count, 3)),
        rng.uniform(0, 60, (count, 3)), np.where(rng.random(count) < 0.3, np.nan, rng.uniform(-np.pi, np.pi, count)),
        rng.random(count),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, MAX_NODES))
def test_a_graph_comes_back_from_the_wire_within_its_rounding(seed: int, count: int) -> None:
    graph = random_graph(seed, min(count, 250))
    data = encode_scene_graph(graph)
    back = decode_scene_graph(data)
    assert len(data) <= MAX_BYTES
    assert (back.stamp_ns, back.frame_id) == (graph.stamp_ns, graph.frame_id)
    np.testing.assert_array_equal(back.kinds, graph.kinds)
    np.testing.assert_allclose(back.up, graph.up, atol=1e-4)
    np.testing.assert_allclose(back.centers_m, graph.centers_m, atol=0.0051)
    np.testing.assert_allclose(back.sizes_m, graph.sizes_m, atol=0.0051)
    np.testing.assert_allclose(back.weights, graph.weights, atol=0.002)
    np.testing.assert_array_equal(np.isnan(back.yaws_rad), np.isnan(graph.yaws_rad))
    known = np.isfinite(graph.yaws_rad)
    np.testing.assert_allclose(wrap_angle((back.yaws_rad - graph.yaws_rad)[known]), 0.0, atol=1e-4)
    assert encode_scene_graph(back) == data


def test_a_crowded_graph_keeps_its_heaviest_nodes_within_four_kilobytes() -> None:
    graph = random_graph(1, 2000)
    for most in (MAX_BYTES, 500):
        data = encode_scene_graph(graph, max_bytes=most)
        assert most - 20 < len(data) <= most
        back = decode_scene_graph(data)
        assert back.weights.min() >= np.sort(graph.weights)[-len(back)] - 0.003


def test_nodes_that_cannot_be_written_are_left_out() -> None:
    graph = random_graph(2, 4)
    centers = graph.centers_m.copy()
    centers[0], centers[1], centers[2] = np.nan, 1e9, -400.0
    assert len(decode_scene_graph(encode_scene_graph(replace(graph, centers_m=centers)))) == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_truncation_every_appended_byte_and_every_flipped_bit_is_refused(data: st.DataObject) -> None:
    good = encode_scene_graph(random_graph(3, 12))
    kept = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    flipped = bytearray(good)
    flipped[bit // 8] ^= 1 << bit % 8
    for damaged in (good[:kept], good + good[:1], good + good, bytes(flipped)):
        with pytest.raises(Rejected):
            decode_scene_graph(damaged)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused(noise: bytes, with_magic: bool) -> None:
    with pytest.raises(Rejected):
        decode_scene_graph(b"TSGR" + noise if with_magic else noise)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "reason"),
    [
        (4, "<B", VERSION + 1, "version"), (5, "<B", 255, "length"), (6, "<H", 65535, "length"),
        (16, "<hh", (32767, 32767), "impossible"), (22, "<B", 0xFF, "impossible"),
        (22 + 13, "<B", 200, "impossible"),
    ],
)  # fmt: skip
def test_a_liar_with_a_right_checksum_is_refused_by_name(offset: int, layout: str, value: Any, reason: str) -> None:
    body = bytearray(encode_scene_graph(replace(random_graph(4, 3), frame_id="a_frame_of_13"))[:-4])
    struct.pack_into(layout, body, offset, *(value if isinstance(value, tuple) else (value,)))
    with pytest.raises(Rejected, match=reason):
        decode_scene_graph(bytes(body) + struct.pack("<I", zlib.crc32(bytes(body))))


def test_a_writers_mistakes_are_named() -> None:
    graph = random_graph(5, 2)
    with pytest.raises(ValueError, match="frame_id"):
        encode_scene_graph(replace(graph, frame_id="x" * 65))
    with pytest.raises(ValueError, match="max_bytes"):
        encode_scene_graph(graph, max_bytes=10)
    with pytest.raises(ValueError, match="up"):
        encode_scene_graph(replace(graph, up=np.array([0.0, 0.0, -1.0])))


@pytest.mark.parametrize("yaw_rad", [0.0, 2.3, -1.4])
def test_two_robots_fifteen_metres_apart_find_each_other_from_the_wire_alone(yaw_rad: float) -> None:
    target, world_T_target = street_graph(1, SEEN_AT_S[0])
    source, world_T_source = street_graph(1, SEEN_AT_S[1], yaw_rad)
    data = [encode_scene_graph(graph) for graph in (target, source)]
    assert max(len(one) for one in data) <= MAX_BYTES
    truth = inverse(world_T_target) @ world_T_source
    assert 12.0 < np.linalg.norm(truth[:3, 3]) < 18.0
    match = match_scene_graphs(*(decode_scene_graph(one) for one in data))
    apart_m, turned_deg = misses(match.target_T_source, truth)
    assert apart_m < 1.0
    assert turned_deg < 2.0
    assert match.converged
    error = se3_log(inverse(match.target_T_source) @ truth)
    assert error @ np.linalg.solve(match.covariance, error) < 30.0


def test_scans_of_a_real_drive_fifteen_metres_apart_find_each_other_and_not_a_street(shared_data: Path) -> None:
    (first, world_T_first), (second, world_T_second) = (drive_scan(shared_data, number) for number in (40, 85))
    turn = from_rotation_translation(rotation_about_z(-2.0), np.zeros(3))
    data = [
        encode_scene_graph(build_scene_graph(cloud_of(cloud)))
        for cloud in (first, transform_points(inverse(turn), second))
    ]
    target, source = (decode_scene_graph(one) for one in data)
    truth = inverse(world_T_first) @ world_T_second @ turn
    assert 10.0 < np.linalg.norm(truth[:3, 3]) < 20.0
    match = match_scene_graphs(target, source)
    apart_m, turned_deg = misses(match.target_T_source, truth)
    assert apart_m < 2.0  # the satellites' own distances are 5 % off
    assert turned_deg < 2.0
    assert match.converged
    assert not match_scene_graphs(target, street_graph(1, SEEN_AT_S[0])[0]).converged


def test_robots_in_two_places_are_told_so() -> None:
    for yaw_rad in (0.0, 2.3):
        match = match_scene_graphs(street_graph(1, SEEN_AT_S[0])[0], street_graph(2, SEEN_AT_S[1], yaw_rad)[0])
        assert not match.converged
        assert match.confidence < 0.5


def test_a_tunnel_names_no_place_along_itself() -> None:
    """The scan's rings cross its walls at the same places wherever the sensor is."""
    azimuth, elevation = np.meshgrid(
        np.linspace(-np.pi, np.pi, 720, endpoint=False), np.radians(np.linspace(-15, 15, 16))
    )
    x, y, z = (
        axis.ravel()
        for axis in (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    )
    ranges_m = np.minimum(4.0 / np.maximum(np.abs(y), 1e-3), np.where(z > 0, 3.0, 1.5) / np.maximum(np.abs(z), 1e-3))
    graphs = []
    for seed in (1, 2):
        noisy_m = ranges_m + np.random.default_rng(seed).normal(0.0, 0.02, len(ranges_m))
        graphs.append(build_scene_graph(cloud_of((np.stack([x, y, z], 1) * noisy_m[:, None]).astype(np.float32))))
    assert (graphs[0].kinds == WALL).sum() >= 2
    assert not match_scene_graphs(*graphs).converged


@pytest.mark.parametrize(
    ("config", "wrong"),
    [(NodeConfig, {"cell_m": 0.0}), (NodeConfig, {"max_range_m": 1.0}), (NodeConfig, {"max_range_m": np.nan}),
     (MatchConfig, {"voters": 0}), (MatchConfig, {"max_distance_m": 1e6})],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(config: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config(**wrong)


def test_matching_twice_gives_the_same_bytes() -> None:
    graphs = street_graph(1, SEEN_AT_S[0])[0], street_graph(1, SEEN_AT_S[1])[0]
    first, second = (match_scene_graphs(*graphs) for _ in range(2))
    assert first.target_T_source.tobytes() == second.target_T_source.tobytes()
    assert first.confidence == second.confidence


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_graph_of_hardly_a_node_matches_nothing(count: int) -> None:
    graph = street_graph(1, SEEN_AT_S[0])[0]
    few = graph.take(np.arange(count))
    for pair in ((graph, few), (few, graph), (few, few)):
        assert not match_scene_graphs(*pair).converged


def poles(xy_m: Array) -> SceneGraph:
    """Equal poles at (N, 2), seen by a level sensor."""
    count = len(xy_m)
    return SceneGraph(
        0, "lidar", np.array([0.0, 0.0, 1.0]), 1.8, np.zeros(count, np.uint8), np.c_[xy_m, np.zeros(count)],
        np.full((count, 3), 0.3), np.full(count, np.nan), np.ones(count),
    )  # fmt: skip


def test_nodes_that_all_stand_in_one_place_fix_no_pose() -> None:
    heap = poles(np.tile([10.0, 3.0], (20, 1)))
    found = match_scene_graphs(heap, heap)
    assert (found.converged, found.confidence) == (False, 0.0)


def test_a_row_of_poles_that_fits_from_either_side_is_not_believed() -> None:
    row = poles(np.stack([np.linspace(-30.0, 30.0, 8), np.zeros(8)], axis=1))
    found = match_scene_graphs(row, row)
    assert not found.converged
    assert found.confidence <= 0.5


def test_a_column_just_beyond_the_range_is_no_error_of_the_wall_finder() -> None:
    """The mean of a cell at the border may lie beyond it, on every side."""
    bearings = np.linspace(-np.pi, np.pi, 361)
    xy_m = np.stack([np.cos(bearings), np.sin(bearings)], axis=1) * (WallConfig().max_range_m + 0.3)
    zero = np.zeros(len(xy_m))
    cells = np.floor(xy_m / WallConfig().cell_m).astype(np.int64)
    found = find_walls(Columns(xy_m, zero, zero + 3.0, zero, zero + 5, cells), WallConfig())
    assert np.isfinite(found.centers_m).all()


@pytest.mark.parametrize("yaw_rad", [0.0, np.nan])
def test_a_graph_of_nothing_but_walls_costs_little_memory(yaw_rad: float) -> None:
    places = 5.0 * np.stack(np.meshgrid(np.arange(15.0), np.arange(16.0)), axis=-1).reshape(-1, 2)
    walls = replace(poles(places), kinds=np.full(240, WALL, np.uint8), yaws_rad=np.full(240, yaw_rad))
    tracemalloc.start()
    try:
        assert not match_scene_graphs(walls, walls).converged
        assert tracemalloc.get_traced_memory()[1] < 600e6  # 4.5 GB when each was held against each
    finally:
        tracemalloc.stop()
