"""The camera's geometry against OpenCV, and what a camera's boxes do to tracks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from tercel.core.errors import Rejected
from tercel.core.geometry import box_corners, inverse, se3_exp
from tests.unit.fusion_scenes import CAMERA_INFO, HEIGHT_PX, INTRINSICS, LIDAR_T_CAMERA, WIDTH_PX, street
from tracking.fusion_camera import CameraBoxes, View, undistorted_boxes
from tracking.fusion_world import Boxes, FusionConfig, WorldTracks, step
from tracking.kalman import KalmanState
from tracking.screening import Observations

Array = Any

SKEWED = INTRINSICS + np.array([[0.0, 3.0, 0.0], [0.0, 20.0, 0.0], [0.0, 0.0, 0.0]])


def test_images_of_boxes_are_those_of_opencv() -> None:
    rng = np.random.default_rng(0)
    count = 200
    centers = np.column_stack([rng.uniform(6, 60, count), rng.uniform(-20, 20, count), rng.uniform(-1, 3, count)])
    sizes, yaws = rng.uniform(0.5, 5.0, (count, 3)), rng.uniform(-4, 4, count)
    world_T_camera = se3_exp(np.array([0.5, -0.3, 0.2, 0.02, -0.04, 0.1])) @ LIDAR_T_CAMERA
    boxes, visible = View(world_T_camera, SKEWED, WIDTH_PX, HEIGHT_PX).image_boxes(centers, sizes, yaws)
    camera_T_world = inverse(world_T_camera)
    turn, _ = cv2.Rodrigues(camera_T_world[:3, :3])
    for corners, box, seen in zip(box_corners(centers, sizes, yaws), boxes, visible, strict=True):
        # OpenCV's intrinsics have no skew: it is added by hand, as y / fy.
        plain = SKEWED * np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
        points = cv2.projectPoints(corners, turn, camera_T_world[:3, 3], plain, None)[0][:, 0]
        points[:, 0] += SKEWED[0, 1] * (points[:, 1] - SKEWED[1, 2]) / SKEWED[1, 1]
        low, high = points.min(axis=0), points.max(axis=0)
        expected = np.clip(np.concatenate([low, high]), 0, [WIDTH_PX, HEIGHT_PX] * 2)
        np.testing.assert_allclose(box, expected, atol=1e-6)
        assert seen == ((expected[2:] - expected[:2]) > 1.0).all()


def test_nothing_behind_the_camera_is_in_the_image_and_what_is_beside_it_ends_at_the_border() -> None:
    view = View(LIDAR_T_CAMERA, INTRINSICS, WIDTH_PX, HEIGHT_PX)
    centers = np.array([[-10.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.5, -1.0, -0.5], [20.0, 40.0, 0.0]])
    boxes, visible = view.image_boxes(centers, np.full((4, 3), [5.0, 1.8, 1.5]), np.zeros(4))
    assert visible.tolist() == [False, False, True, False]
    assert boxes[2, 2] == WIDTH_PX
    assert np.isfinite(boxes).all()


@pytest.mark.parametrize("distortion", [[-0.3, 0.1, 0.001, -0.002, 0.01], [0.05, -0.02, 0.0005, 0.001]])
def test_distortion_is_taken_out_as_opencv_does(distortion: list[float]) -> None:
    camera = replace(CAMERA_INFO, distortion=np.array(distortion))
    boxes = np.array([[300.0, 100, 380, 160], [590, 190, 640, 300], [700, 50, 900, 250]])
    found = undistorted_boxes(boxes, camera)
    for box, got in zip(boxes, found, strict=True):
        x1, y1, x2, y2 = box
        middles = np.array([[x1, (y1 + y2) / 2], [(x1 + x2) / 2, y1], [x2, (y1 + y2) / 2], [(x1 + x2) / 2, y2]])
        plain = cv2.undistortPoints(
            middles[:, None], INTRINSICS, camera.distortion, P=INTRINSICS,
        )[:, 0]  # fmt: skip
        np.testing.assert_allclose(got, [plain[0, 0], plain[1, 1], plain[2, 0], plain[3, 1]], atol=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"distortion": np.ones(5), "distortion_model": "equidistant"},
        {"distortion": np.ones(12)},
        {"intrinsics": np.full((3, 3), np.nan)},
        {"intrinsics": np.zeros((3, 3))},
        {"width_px": 0},
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match="the camera's"):
        undistorted_boxes(np.array([[0.0, 0, 10, 10]]), replace(CAMERA_INFO, **change))


def started(offset_m: Array, config: FusionConfig) -> tuple[WorldTracks, CameraBoxes, Array]:
    """One track that is not where its thing is, and the image of the thing."""
    thing = np.array([[20.0, 3.0, 0.75, 4.2, 1.8, 1.5, 0.3]]).T
    wrong = thing.copy()
    wrong[:3, 0] += offset_m
    seen = Observations(0, wrong, np.ones(1), np.zeros(1, dtype=np.int64), len(config.classes))
    tracks, _ = step(WorldTracks(config), Boxes("lidar", seen, config))
    scene = street(1)
    view = View(scene.world_T_lidar(0) @ LIDAR_T_CAMERA, INTRINSICS, WIDTH_PX, HEIGHT_PX)
    box, _ = view.image_boxes(thing[:3].T, thing[3:6].T, thing[6])
    measured = np.array([(box[0, :2] + box[0, 2:]) / 2, box[0, 2:] - box[0, :2]]).reshape(4, 1)
    found = Observations(0, measured, np.ones(1), np.zeros(1, dtype=np.int64), len(config.classes))
    return tracks, CameraBoxes("camera", found, view, config), thing[:3, 0]


@pytest.mark.parametrize("offset", [[0.0, 0.8, 0.0], [0.0, -0.8, 0.3], [3.0, 0.4, 0.1], [-2.0, 0.0, 0.0]])
def test_an_exact_box_draws_its_track_to_where_the_thing_is(offset: list[float]) -> None:
    config = FusionConfig(camera_noise_px=0.01, camera_noise_sizes=0.0, camera_height_noise=0.0, min_hits=1)
    tracks, camera, place = started(np.array(offset), config)
    wide = tracks.motion.state.covariance.copy()
    wide[:3, :3] += 9.0 * np.eye(3)[:, :, None]
    tracks.motion.state = KalmanState(tracks.motion.state.mean, wide)
    for number in range(6):  # a box's image is not linear in its place
        report = replace(camera, seen=replace(camera.seen, stamp_ns=number + 1))
        tracks, account = step(tracks, report)
        assert account.track_ids.tolist() == [1]
    np.testing.assert_allclose(tracks.motion.state.mean[:3, 0], place, atol=0.05)


def test_a_box_at_the_border_says_less_there() -> None:
    config = FusionConfig()
    seen = Observations(
        0, np.array([[600.0, 20.0, 600.0], [200.0, 200.0, 370.0], [40.0, 40.0, 40.0], [60.0, 60.0, 60.0]]),
        np.ones(3), np.zeros(3, dtype=np.int64), len(config.classes),
    )  # fmt: skip
    report = CameraBoxes("camera", seen, View(LIDAR_T_CAMERA, INTRINSICS, WIDTH_PX, HEIGHT_PX), config)
    sigmas = np.sqrt(np.diagonal(report._noise(np.arange(3))))
    assert sigmas[1, 0] > 3 * sigmas[0, 0]  # cut at the left: its middle to the side is unsure
    assert sigmas[1, 2] == sigmas[0, 2]
    assert sigmas[2, 1] > 3 * sigmas[0, 1]  # cut at the bottom: its middle up and down, and its height
    assert sigmas[2, 2] > 3 * sigmas[0, 2]
