"""Whole worlds: the same bytes every time, and truths that agree with what the sensors saw and with each other."""

import hashlib
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from devices.sensors.simulated.lidar import lidar_rays
from devices.sensors.simulated.models import CLASS_NAMES
from devices.sensors.simulated.street import Street
from devices.sensors.simulated.world import EPOCH_NS, WORLDS, WorldConfig, generate, make_lidar, make_scene
from tercel.core.geometry import box_corners, inverse, rotation_about_z, transform_points
from tercel.core.messages import (
    CameraInfo,
    CompressedImage,
    Imu,
    NavSatFix,
    Odometry,
    PointCloud,
    Tracks2D,
    Tracks3D,
    Transforms,
)

TOPICS = {
    "/camera/image": CompressedImage,
    "/camera/camera_info": CameraInfo,
    "/camera/depth": CompressedImage,
    "/lidar/points": PointCloud,
    "/imu/data": Imu,
    "/gps/fix": NavSatFix,
    "/tf_static": Transforms,
    "/truth/odometry": Odometry,
    "/truth/tracks_3d": Tracks3D,
    "/truth/tracks_2d": Tracks2D,
    "/truth/depth": CompressedImage,
}


def small(name, **changes):
    values = {"duration_s": 2.0, "lidar_columns": 360, "camera_width_px": 320, "camera_height_px": 240}
    return WorldConfig(name=name, seed=11, **{**values, "camera_rate_hz": 5.0, **changes})


def recorded(config):
    """Messages by topic."""
    result = defaultdict(list)
    for topic, stamp, message in generate(config):
        assert stamp == message.stamp_ns
        result[topic].append(message)
    return result


@pytest.fixture(scope="module", params=WORLDS)
def config(request):
    return small(request.param, duration_s=4.0)


@pytest.fixture(scope="module")
def world(config):
    return recorded(config)


def digest(config):
    total = hashlib.sha256()
    for topic, stamp, message in generate(config):
        total.update(f"{topic} {stamp}".encode())
        for name, value in vars(message).items():
            total.update(name.encode())
            total.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return total.hexdigest()


@pytest.mark.parametrize("name", WORLDS)
def test_the_same_config_gives_the_same_bytes_and_another_seed_others(name):
    config = small(name, camera_width_px=160, camera_height_px=120, duration_s=0.8)
    assert digest(config) == digest(config)
    assert digest(config) != digest(replace(config, seed=12))


def test_another_process_and_a_processor_without_wide_vectors_give_the_same_bytes():
    """numpy's sines, exponentials and the like differ in the last bit between vector widths; worlds must not."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_simulated_world import digest, small\n"
        "print(digest(small('orchard', duration_s=0.4)))"
    )
    here = Path(__file__).parent
    arguments = [sys.executable, "-W", "ignore", "-c", code, str(here), str(here.parents[1])]
    wide = "X86_V3 X86_V4 AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
    printed = []
    for changes in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "NPY_DISABLE_CPU_FEATURES": wide}):
        environment = {**os.environ, **changes}
        printed.append(subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout)
    assert printed[0] == printed[1] != ""


@pytest.mark.parametrize("name", WORLDS)
def test_log_times_never_go_back_and_every_topic_has_its_type_and_rate(name):
    last, counts = 0, defaultdict(int)
    for topic, stamp, message in generate(small(name)):
        assert stamp >= last
        last = stamp
        counts[topic] += 1
        assert type(message) is TOPICS[topic]
    assert set(counts) == set(TOPICS)
    assert counts["/lidar/points"] == counts["/truth/tracks_3d"] == 20
    assert counts["/camera/image"] == counts["/truth/tracks_2d"] == counts["/truth/depth"] == 10
    assert counts["/imu/data"] == 401
    assert counts["/gps/fix"] == 10
    assert counts["/tf_static"] == 1


def test_a_rate_of_nought_leaves_a_sensor_out():
    topics = set(recorded(small("street", camera_rate_hz=0.0, gps_rate_hz=0.0, duration_s=0.3)))
    assert topics == {"/imu/data", "/lidar/points", "/tf_static", "/truth/odometry", "/truth/tracks_3d"}


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "moon"},
        {"seed": -1},
        {"seed": 1.5},
        {"duration_s": 0.0},
        {"duration_s": float("nan")},
        {"lidar_beams": 32},
        {"lidar_columns": 7},
        {"lidar_rate_hz": 0.0},
        {"camera_width_px": 0},
        {"camera_rate_hz": -1.0},
        {"imu_rate_hz": float("inf")},
        {"range_step_m": 0.0},
        {"jpeg_quality": 101},
    ],
)
def test_a_bad_config_is_refused_by_the_name_of_its_field(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        WorldConfig(**bad)


def test_there_is_a_true_pose_at_every_sweep_and_image(world):
    stamps = {message.stamp_ns for message in world["/truth/odometry"]}
    assert stamps >= {m.stamp_ns for m in world["/lidar/points"]} | {m.stamp_ns for m in world["/camera/image"]}
    assert len(stamps) == len(world["/truth/odometry"])


def pose(world, sensor, stamp):
    """world_T_sensor at a stamp."""
    tf = world["/tf_static"][0]
    base = next(m.frame_T_child for m in world["/truth/odometry"] if m.stamp_ns == stamp)
    return base @ tf.parent_T_child[tf.children.index(sensor)]


def test_returns_from_objects_lie_in_their_true_boxes(world, config):
    """Deskewed with the truth, and each object taken where it was at the return's time."""
    trajectory, lidar = make_scene(config.name, config.seed).trajectory, make_lidar(config)
    checked = 0
    for cloud, tracks in zip(world["/lidar/points"][1::3], world["/truth/tracks_3d"][1::3], strict=True):
        offset_s = cloud.time_offset_s.astype(float)
        _, positions, rotations = lidar_rays(lidar, trajectory, (cloud.stamp_ns - EPOCH_NS) / 1e9)
        column = np.round(offset_s / lidar.period_s * lidar.columns).astype(int) - 1  # counted from the last
        points = np.einsum("nij,nj->ni", rotations[column], cloud.points_m.astype(float)) + positions[column]
        for i in np.flatnonzero(tracks.scores > 0):
            gap = points - tracks.centers_m[i] - tracks.velocities_mps[i] * offset_s[:, None]
            local = gap @ rotation_about_z(tracks.yaws_rad[i])
            inside = (np.abs(local) < tracks.sizes_m[i] / 2 + 0.12).all(axis=1)
            assert inside.sum() >= 5, (CLASS_NAMES[tracks.labels[i]], tracks.ids[i])
            checked += 1
    assert checked > 3


def test_visible_boxes_lie_within_the_projected_true_boxes(world):
    sweeps = {m.stamp_ns: m for m in world["/truth/tracks_3d"]}
    info = world["/camera/camera_info"][0]
    compared = 0
    for boxes in world["/truth/tracks_2d"]:
        tracks = sweeps[boxes.stamp_ns]
        camera_T_world = inverse(pose(world, "camera", boxes.stamp_ns))
        corners = box_corners(tracks.centers_m, tracks.sizes_m, tracks.yaws_rad)
        local = transform_points(camera_T_world, corners.reshape(-1, 3)).reshape(-1, 8, 3)
        for box, label, object_id in zip(boxes.boxes_xyxy_px, boxes.labels, boxes.ids, strict=True):
            row = np.flatnonzero(tracks.ids == object_id)
            if not len(row) or (local[row[0], :, 2] < 0.2).any():
                continue
            pixel = local[row[0]] @ info.intrinsics.T
            pixel = pixel[:, :2] / pixel[:, 2:] + 0.5
            assert label == tracks.labels[row[0]]
            assert (box[:2] >= np.maximum(pixel.min(0), 0) - 2.0).all()
            assert (box[2:] <= np.minimum(pixel.max(0), [info.width_px, info.height_px]) + 2.0).all()
            compared += 1
    assert compared > 5


def test_an_object_in_plain_sight_fills_its_projected_box(world):
    tight = 0
    sweeps = {m.stamp_ns: m for m in world["/truth/tracks_3d"]}
    info = world["/camera/camera_info"][0]
    for boxes in world["/truth/tracks_2d"]:
        tracks = sweeps[boxes.stamp_ns]
        camera_T_world = inverse(pose(world, "camera", boxes.stamp_ns))
        corners = transform_points(
            camera_T_world, box_corners(tracks.centers_m, tracks.sizes_m, tracks.yaws_rad).reshape(-1, 3)
        ).reshape(-1, 8, 3)
        for i in np.flatnonzero((corners[..., 2] > 2).all(axis=1)):
            pixel = corners[i] @ info.intrinsics.T
            pixel = pixel[:, :2] / pixel[:, 2:] + 0.5
            low, high = pixel.min(0), pixel.max(0)
            row = np.flatnonzero(boxes.ids == tracks.ids[i])
            if (low < 0).any() or (high > [info.width_px, info.height_px]).any() or not len(row):
                continue
            box = boxes.boxes_xyxy_px[row[0]]
            overlap = np.prod(np.maximum(np.minimum(box[2:], high) - np.maximum(box[:2], low), 0))
            tight += overlap > 0.6 * np.prod(high - low)
    assert tight >= 5


def test_true_depth_agrees_with_the_lidar(world):
    info = world["/camera/camera_info"][0]
    image = world["/truth/depth"][0]  # the vehicle stands: no deskewing is needed
    depth = cv2.imdecode(image.data, cv2.IMREAD_UNCHANGED).astype(float) / 1000
    cloud = next(m for m in world["/lidar/points"] if m.stamp_ns == image.stamp_ns)
    camera_T_lidar = inverse(pose(world, "camera", image.stamp_ns)) @ pose(world, "lidar", image.stamp_ns)
    points = transform_points(camera_T_lidar, cloud.points_m.astype(float))
    points = points[points[:, 2] > 1]
    pixel = np.round((points @ info.intrinsics.T)[:, :2] / points[:, 2:]).astype(int)
    inside = ((pixel >= 0) & (pixel < [info.width_px, info.height_px])).all(axis=1)
    seen = depth[pixel[inside, 1], pixel[inside, 0]]
    error = np.abs(seen - points[inside, 2]) / points[inside, 2]
    assert inside.sum() > 200
    assert np.median(error[seen > 0]) < 0.03


def test_ids_are_stable_and_objects_move_as_their_velocity_says(world):
    previous, compared, moved = {}, 0, 0
    labels = {}
    for tracks in world["/truth/tracks_3d"]:
        assert len(set(tracks.ids.tolist())) == len(tracks.ids)
        now = {}
        for i, object_id in enumerate(tracks.ids.tolist()):
            assert labels.setdefault(object_id, tracks.labels[i]) == tracks.labels[i]
            now[object_id] = (tracks.centers_m[i], tracks.velocities_mps[i])
            if object_id in previous:
                step = now[object_id][0] - previous[object_id][0]
                mean = (now[object_id][1] + previous[object_id][1]) / 2
                assert np.abs(step - 0.1 * mean).max() < 0.02
                compared += 1
                moved += np.linalg.norm(step) > 0.05
        previous = now
    assert compared > 100
    assert moved > 50
    assert len(set(labels.values())) >= 2


def test_noisy_depth_is_like_the_true_depth_but_not_equal(world):
    noisy, exact = (
        cv2.imdecode(world[topic][3].data, cv2.IMREAD_UNCHANGED).astype(float)
        for topic in ("/camera/depth", "/truth/depth")
    )
    both = (noisy > 0) & (exact > 0) & (exact < 15_000)
    assert both.mean() > 0.1
    assert 0.001 < np.median(np.abs(noisy - exact)[both] / exact[both]) < 0.05
    assert (noisy > 41_000).sum() == 0


def test_the_street_goes_on_and_forgets_what_it_has_passed():
    street = Street(3)
    for time_s in (0.0, 300.0, 600.0, 599.0):
        snapshot = street.snapshot(time_s)
        position = street.trajectory.position(np.array([time_s]))[0]
        gap = np.linalg.norm(snapshot.primitives.centers_m - position, axis=1)
        assert 300 < len(snapshot.primitives) < 3000
        assert (gap < 60).sum() > 50
        assert gap.max() < 400
    first, again = street.snapshot(0.0), Street(3).snapshot(0.0)
    assert (first.primitives.centers_m == again.primitives.centers_m).all(), "however one arrives"


def test_generation_is_lazy():
    events = list(islice(generate(WorldConfig(duration_s=36_000.0, imu_rate_hz=10.0)), 3))
    assert events[0][0] == "/tf_static"
