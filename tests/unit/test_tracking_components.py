from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tercel.core.component import config_from_mapping
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D, Detections3D, Odometry, Tracks2D, Tracks3D
from tracking.components import Tracker2D, Tracker3D
from tracking.image_tracker import Tracker2DConfig
from tracking.screening import Outcome

PERIOD_NS = 100_000_000


def boxes(frame: int, corners: Any, **changed: Any) -> Detections2D:
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    fields = {"frame_id": "camera", "class_names": ("person",), **changed}
    return Detections2D(
        stamp_ns=frame * PERIOD_NS, boxes_xyxy_px=corners, scores=np.full(len(corners), 0.8),
        labels=np.zeros(len(corners)), **fields,
    )  # fmt: skip


def clusters(frame: int, centers: Any, **changed: Any) -> Detections3D:
    centers = np.asarray(centers, dtype=np.float64).reshape(-1, 3)
    count = len(centers)
    fields = {"frame_id": "lidar", "class_names": ("obstacle",), **changed}
    return Detections3D(
        stamp_ns=frame * PERIOD_NS, centers_m=centers, sizes_m=np.full((count, 3), 1.0), yaws_rad=np.zeros(count),
        scores=np.ones(count), labels=np.zeros(count), **fields,
    )  # fmt: skip


def odometry(frame: int, odom_T_lidar: Any = None, **changed: Any) -> Odometry:
    fields = {"frame_id": "odom", "child_frame_id": "lidar", **changed}
    pose = np.eye(4) if odom_T_lidar is None else odom_T_lidar
    return Odometry(stamp_ns=frame * PERIOD_NS, frame_T_child=pose, **fields)


def image_tracks(component: Tracker2D, detections: Detections2D) -> Tracks2D:
    tracks = component.step(detections)["tracks"]
    assert isinstance(tracks, Tracks2D)
    return tracks


def world_tracks(component: Tracker3D, detections: Detections3D, pose: Odometry) -> Tracks3D:
    tracks = component.step(detections, pose)["tracks"]
    assert isinstance(tracks, Tracks3D)
    return tracks


def test_ports_and_pairing_are_visible_without_running() -> None:
    assert {name: port.message_type for name, port in Tracker3D.inputs.items()} == {
        "detections": Detections3D, "odometry": Odometry,
    }  # fmt: skip
    assert Tracker3D.handlers[0].inputs == ("detections", "odometry")
    assert Tracker3D.handlers[0].tolerance_ns == 50_000_000
    assert Tracker2D.inputs["detections"].message_type is Detections2D
    assert Tracker2D.outputs["tracks"].message_type is Tracks2D


def test_an_image_track_carries_box_velocity_age_score_and_the_detections_header() -> None:
    component = Tracker2D()
    for frame in range(20):
        x = 100.0 + 3.0 * frame
        tracks = image_tracks(component, boxes(frame, [[x, 50, x + 20, 90]]))
    assert (tracks.stamp_ns, tracks.frame_id, tracks.class_names) == (19 * PERIOD_NS, "camera", ("person",))
    assert tracks.ids.tolist() == [1]
    np.testing.assert_allclose(tracks.boxes_xyxy_px, [[157, 50, 177, 90]], atol=0.5)
    np.testing.assert_allclose(tracks.velocities_px_per_s, [[30, 0]], atol=1.0)
    np.testing.assert_allclose(tracks.ages_s, [1.9], rtol=1e-6)
    np.testing.assert_allclose(tracks.scores, [0.8], rtol=1e-6)


def test_a_standing_obstacle_stands_in_the_world_while_the_robot_drives_and_turns() -> None:
    component = Tracker3D()
    obstacle = np.array([12.0, 3.0, 0.5, 1.0])
    for frame in range(30):
        yaw = 0.02 * frame
        pose = np.eye(4)
        pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
        pose[0, 3] = 0.2 * frame
        seen = clusters(frame, (np.linalg.inv(pose) @ obstacle)[:3])
        tracks = world_tracks(component, seen, odometry(frame, pose))
    assert tracks.frame_id == "odom"
    assert tracks.ids.tolist() == [1]
    np.testing.assert_allclose(tracks.centers_m, [obstacle[:3]], atol=1e-6)
    np.testing.assert_allclose(tracks.velocities_mps, np.zeros((1, 3)), atol=1e-6)
    np.testing.assert_allclose(tracks.ages_s, [2.9], rtol=1e-6)


def test_tracks_are_empty_until_one_is_confirmed() -> None:
    component = Tracker2D()
    counts = [len(image_tracks(component, boxes(frame, [[0, 0, 10, 10]])).ids) for frame in range(4)]
    assert counts == [0, 0, 1, 1]
    assert len(image_tracks(Tracker2D(), boxes(0, [])).ids) == 0
    assert len(world_tracks(Tracker3D(), clusters(0, []), odometry(0)).ids) == 0


def test_the_account_of_the_latest_detections_is_kept() -> None:
    component = Tracker2D()
    component.step(boxes(0, [[0, 0, 10, 10], [0, 0, np.nan, 10]]))
    assert component.last_step is not None
    assert component.last_step.outcomes.tolist() == [Outcome.NEW, Outcome.NOT_FINITE]


def test_detections_and_odometry_of_different_sensors_are_rejected() -> None:
    with pytest.raises(Rejected, match="different sensor frames"):
        Tracker3D().step(clusters(0, [1, 0, 0]), odometry(0, child_frame_id="base_link"))


@pytest.mark.parametrize("pose", [np.full((4, 4), np.nan), np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, -1, 1])])
def test_an_odometry_that_is_no_rigid_transform_is_rejected(pose: Any) -> None:
    with pytest.raises(Rejected, match="not a rigid transform"):
        Tracker3D().step(clusters(0, [1, 0, 0]), odometry(0, pose))


def test_a_stream_that_changes_its_frame_or_classes_is_rejected_and_the_old_one_goes_on() -> None:
    component = Tracker3D()
    component.step(clusters(0, [1, 0, 0]), odometry(0))
    with pytest.raises(Rejected, match="changed within the stream"):
        component.step(clusters(1, [1, 0, 0]), odometry(1, frame_id="map"))
    with pytest.raises(Rejected, match="changed within the stream"):
        component.step(clusters(1, [1, 0, 0], class_names=("car",)), odometry(1))
    component.step(clusters(1, [1, 0, 0]), odometry(1))
    assert component.last_step is not None
    assert component.last_step.track_ids.tolist() == [1]

    flat = Tracker2D()
    flat.step(boxes(0, [[0, 0, 10, 10]]))
    with pytest.raises(Rejected, match="changed within the stream"):
        flat.step(boxes(1, [[0, 0, 10, 10]], frame_id="other"))
    with pytest.raises(Rejected, match="stamp not after"):
        flat.step(boxes(0, [[0, 0, 10, 10]]))


def test_a_graph_files_mapping_makes_a_config_and_a_wrong_key_names_the_nearest() -> None:
    config = config_from_mapping(Tracker2DConfig, {"min_hits": 2, "min_iou": 0.2}, where="tracker")
    assert Tracker2D(config).config.min_hits == 2
    with pytest.raises(UserError, match="max_age_s"):
        config_from_mapping(Tracker2DConfig, {"max_age": 3}, where="tracker")


def test_two_runs_give_the_same_bytes() -> None:
    def run() -> bytes:
        rng = np.random.default_rng(5)
        component, result = Tracker2D(), b""
        places = rng.uniform(0, 300, (8, 2))
        for frame in range(20):
            seen = np.hstack([places, places + 40.0])[rng.uniform(size=8) < 0.8]
            tracks = image_tracks(component, boxes(frame, seen + rng.normal(0, 1, seen.shape)))
            result += tracks.ids.tobytes() + tracks.boxes_xyxy_px.tobytes() + tracks.velocities_px_per_s.tobytes()
        return result

    assert run() == run()
