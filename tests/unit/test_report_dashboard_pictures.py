"""The dashboard's pictures, from serialised messages: the camera with its boxes, the map, and the two under garbage."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.messages import CompressedImage
from tercel.report.dashboard_blob import blob, split_blob
from tercel.report.dashboard_map import MAX_PATH, UNIT_M, Way
from tercel.report.dashboard_state import DashboardState
from tercel.ros.diagnostics import DIAGNOSTICS_TYPE
from tests.scenarios import dashboard_robot as robot
from tests.scenarios.dashboard_robot import MS, WALL_NS, S, driven

# --- camera ---


def test_the_picture_shown_is_the_one_that_its_boxes_were_found_in() -> None:
    state = DashboardState("test")
    for step in range(6):  # boxes come two pictures late
        now_ns = S + step * 100 * MS
        for message, topic in (
            (robot.picture(step, now_ns), "/camera/image"),
            (robot.tracks_2d(step - 2, now_ns - 200 * MS), "/tracks_2d"),
        ):
            ros_type, data = robot.data_of(message)
            state.receive(topic, ros_type, data, now_ns, now_ns)
        state.tick(now_ns)
    answer = state.camera("/camera/image", S + 500 * MS)
    assert answer is not None
    head, jpeg = split_blob(answer)
    ((x0, _y0, x1, _y1, _hue, identity, words),) = head["boxes"]
    assert (identity, words, head["boxes_topic"]) == (7, "car 0.90", "/tracks_2d")
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (robot.HEIGHT_PX, robot.WIDTH_PX, 3)
    red = (pixels[:, :, 2] > 150) & (pixels[:, :, 1] < 100)
    columns = np.flatnonzero(red.any(axis=0))
    assert (columns[0], columns[-1] + 1) == (pytest.approx(x0, abs=2), pytest.approx(x1, abs=2))


def test_stale_boxes_are_not_drawn_over_new_pictures() -> None:
    state = DashboardState("test")
    ros_type, data = robot.data_of(robot.tracks_2d(0, S))
    state.receive("/tracks_2d", ros_type, data, S, S)
    ros_type, data = robot.data_of(robot.picture(0, 9 * S))
    state.receive("/camera/image", ros_type, data, 9 * S, 9 * S)
    state.tick(9 * S)
    head, _ = split_blob(state.camera("/camera/image", 9 * S) or b"")
    assert head["boxes"] == []


def test_when_boxes_stop_the_picture_does_not_stop_with_them() -> None:
    state = DashboardState("test")
    for step in range(6):  # a slow camera: all six pictures are kept
        now_ns = S + step * S
        ros_type, data = robot.data_of(robot.picture(step, now_ns))
        state.receive("/camera/image", ros_type, data, now_ns, now_ns)
        if step == 0:
            ros_type, data = robot.data_of(robot.tracks_2d(step, now_ns))
            state.receive("/tracks_2d", ros_type, data, now_ns, now_ns)
        state.tick(now_ns)
        head, jpeg = split_blob(state.camera("/camera/image", now_ns) or b"")
        pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        left = int(np.flatnonzero(((pixels[:, :, 2] > 150) & (pixels[:, :, 1] < 100)).any(axis=0))[0])
    assert head["boxes"] == []
    assert left == pytest.approx(robot.square_x_px(5), abs=2)


def test_large_pictures_are_shrunk_and_boxes_stay_in_the_originals_pixels() -> None:
    state = DashboardState("test")
    big = cv2.imencode(".png", np.zeros((1080, 1920, 3), np.uint8))[1].reshape(-1)
    ros_type, data = robot.data_of(CompressedImage(stamp_ns=S, frame_id="camera", format="png", data=big))
    state.receive("/camera", ros_type, data, S, S)
    state.tick(S)
    head, jpeg = split_blob(state.camera("/camera", S) or b"")
    assert (head["width_px"], head["height_px"]) == (1920, 1080)
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (540, 960, 3)


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_picture_is_named_not_drawn(damage: str) -> None:
    state = DashboardState("test")
    jpeg = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].reshape(-1)
    jpeg = jpeg[: len(jpeg) // 2] if damage == "cut" else np.full(500, 7, np.uint8)
    ros_type, data = robot.data_of(CompressedImage(stamp_ns=S, frame_id="camera", format="jpeg", data=jpeg))
    state.receive("/camera", ros_type, data, S, S)
    state.tick(S)
    head, body = split_blob(state.camera("/camera", S) or b"")
    assert "compressed image" in head["problem"]
    assert body == b""


def test_a_topic_that_is_no_camera_has_no_picture() -> None:
    assert driven(0.2).camera("/lidar/points", S) is None


# --- map ---


def map_of(state: DashboardState, now_ns: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The map's JSON, path (N, 2) and points (M, 2) in metres."""
    head, body = split_blob(state.map(None, now_ns))
    path = np.frombuffer(body, "<f4", 2 * head["path"]).reshape(-1, 2)
    points = np.frombuffer(body, "<i2", 2 * head["points"], 8 * head["path"]).reshape(-1, 2)
    assert len(body) == 8 * head["path"] + 5 * head["points"]
    return head, path, points * UNIT_M + np.array(head["origin"])


def test_sweep_boxes_and_path_lie_where_the_transforms_say() -> None:
    state = driven(3)
    head, path, points = map_of(state, 4 * S)
    assert head["notes"] == []
    assert head["pose"] == pytest.approx([14.5, 0.0, 0.0])
    assert path[0] == pytest.approx([0.0, 0.0])
    assert path[-1] == pytest.approx([14.5, 0.0])
    assert points[:, 0].max() == pytest.approx(24.5, abs=0.05)  # the wall, ten metres ahead of the last pose
    (box,) = head["boxes"]
    corners = np.array(box[:8]).reshape(4, 2)
    assert corners.mean(axis=0) == pytest.approx([12.0, 4.0], abs=0.02)
    assert np.linalg.norm(corners[0] - corners[1]) == pytest.approx(4.0, abs=0.03)
    assert box[9] == "3"


def test_a_sweep_that_no_transform_connects_is_named_not_drawn_at_a_guess() -> None:
    state = DashboardState("test")
    for step in range(5):
        now_ns = S + step * 100 * MS
        for topic, ros_type, data in robot.drive(step, WALL_NS + now_ns):
            if topic != "/tf_static":
                state.receive(topic, ros_type, data, now_ns, WALL_NS + now_ns)
        state.tick(now_ns)
    head, path, points = map_of(state, 2 * S)
    assert len(points) == 0
    assert len(path) > 0
    assert head["notes"] == ["/lidar/points is not drawn: no transform from lidar to odom"]


def test_a_bare_pose_and_the_truth_stand_back_behind_odometry() -> None:
    state = DashboardState("test")
    for topic, child in (("/a_pose", ""), ("/truth/odometry", "base_link"), ("/z_odometry", "base_link")):
        pose = replace(robot.pose(1, S), child_frame_id=child, frame_id=topic[1:])
        ros_type, data = robot.data_of(pose)
        state.receive(topic, ros_type, data, S, S)
    state.tick(S)
    assert split_blob(state.map(None, S))[0]["way"] == "/z_odometry"


def test_without_odometry_the_sweep_is_shown_in_its_own_frame() -> None:
    state = DashboardState("test")
    ros_type, data = robot.data_of(robot.sweep(S))
    state.receive("/lidar/points", ros_type, data, S, S)
    state.tick(S)
    head, _, points = map_of(state, S)
    assert (head["frame"], head["pose"]) == ("lidar", None)
    assert points[:, 0].max() == pytest.approx(10.0, abs=0.05)


def test_with_nothing_to_show_the_map_says_so() -> None:
    head, _ = split_blob(DashboardState("test").map(None, S))
    assert head["frame"] is None


@pytest.mark.parametrize("seed", range(3))
def test_the_path_is_bounded_and_keeps_its_shape(seed: int) -> None:
    steps_m = np.random.default_rng(seed).uniform(0.01, 5.0, size=6000)
    way = Way("/odometry")
    along = np.cumsum(steps_m)
    for index, x in enumerate(along.tolist()):
        pose = robot.pose(0, S + index)
        pose.frame_T_child[0, 3] = x
        way.add(pose, S + index)
    places = np.array(way.path_m)[:, 0]
    assert MAX_PATH / 3 < len(places) <= MAX_PATH
    assert (np.diff(places) > 0).all()
    assert np.abs(along[:, None] - places[None]).min(axis=1).max() <= way.step_m + steps_m.max()
    assert way.step_m < 4 * along[-1] / MAX_PATH


def test_a_clock_set_back_begins_a_new_path() -> None:
    way = Way("/odometry")
    for step in range(10):
        way.add(robot.pose(step, 100 * S + step), S)
    way.add(robot.pose(0, 50 * S), S)
    assert len(way.path_m) == 1


# --- the whole ---


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(range(7)), st.binary(max_size=200)), max_size=40))
def test_garbage_on_any_topic_is_survived(messages: list[tuple[int, bytes]]) -> None:
    state = driven(0.3)
    types = [(topic, ros_type) for topic, ros_type, _ in robot.drive(0, 0)] + [("/diagnostics", DIAGNOSTICS_TYPE)]
    for index, data in messages:
        state.receive(*types[index], data, 2 * S, WALL_NS)
    state.tick(2 * S)
    json.dumps(state.tables(2 * S), allow_nan=False)
    assert state.camera("/camera/image", 2 * S) is not None
    split_blob(state.map(None, 2 * S))


def test_nan_in_boxes_and_poses_is_left_out() -> None:
    state = driven(0.5)
    tracks = robot.tracks_2d(4, WALL_NS + S + 400 * MS)
    tracks.boxes_xyxy_px[:] = np.nan
    boxes = robot.tracks_3d(WALL_NS + S)
    boxes.centers_m[:] = np.inf
    pose = robot.pose(0, WALL_NS + 2 * S)
    pose.frame_T_child[0, 3] = np.nan
    for topic, message in (("/tracks_2d", tracks), ("/tracks_3d", boxes), ("/odometry", pose)):
        ros_type, data = robot.data_of(message)
        state.receive(topic, ros_type, data, 2 * S, WALL_NS + 2 * S)
    state.tick(2 * S)
    head, _ = split_blob(state.camera("/camera/image", 2 * S) or b"")
    assert head["boxes"] == []
    map_head, _, _ = map_of(state, 2 * S)
    assert map_head["boxes"] == []
    assert np.isfinite(map_head["pose"]).all()


@given(st.binary(max_size=100), st.text(max_size=50))
def test_a_blob_comes_apart_as_it_was_put_together(body: bytes, text: str) -> None:
    data = blob({"text": text}, body)
    head, rest = split_blob(data)
    assert (head, rest) == ({"text": text}, body)
    assert (len(data) - len(body)) % 4 == 0
