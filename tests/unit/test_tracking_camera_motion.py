from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from tercel.core.errors import Rejected
from tercel.core.messages import CameraInfo, Detections2D, Image, Odometry, Transforms
from tracking.camera_motion import follow_image, grey, rotation_affine
from tracking.components import Tracker2D
from tracking.image_tracker import Tracker2DConfig
from tracking.stabilised import Tracker2DByImage, Tracker2DByOdometry

Array = np.ndarray[Any, Any]
K = np.array([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]])
MS = 1_000_000
CAMERA_AXES = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=np.float64)  # body_R_camera: z forward, x right


def scene(seed: int = 0, height: int = 480, width: int = 640) -> Array:
    """A texture with corners at all scales."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.integers(0, 255, (n, n)).astype(np.float32), (width, height)) for n in (8, 32, 96)]
    return np.clip(np.mean(layers, axis=0), 0, 255).astype(np.uint8)


def turn_about_z(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def boxes(frame: int, corners: Any, period_ms: int = 100) -> Detections2D:
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    return Detections2D(
        stamp_ns=frame * period_ms * MS, frame_id="camera", boxes_xyxy_px=corners, scores=np.full(len(corners), 0.9),
        labels=np.zeros(len(corners)), class_names=("person",),
    )  # fmt: skip


def picture(frame: int, pixels: Array, encoding: str = "mono8") -> Image:
    return Image(stamp_ns=frame * 100 * MS, frame_id="camera", pixels=pixels, encoding=encoding)


@pytest.mark.parametrize(
    "truth",
    [
        np.array([[1.0, 0.0, 12.0], [0.0, 1.0, -7.0]]),
        np.array([[0.9994, -0.0349, 9.0], [0.0349, 0.9994, -4.0]]),
        np.array([[1.03, 0.0, -8.0], [0.0, 1.03, -5.0]]),
    ],
)
def test_a_shift_a_turn_and_a_zoom_are_read_off_the_image(truth: Array) -> None:
    before = scene()
    now = cv2.warpAffine(before, truth, (640, 480), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    found = follow_image(before, now, np.zeros((0, 4)))
    assert found is not None
    places = np.array([[320.0, 240.0, 1.0], [100.0, 100.0, 1.0], [500.0, 400.0, 1.0]])
    np.testing.assert_allclose(places @ found.T, places @ truth.T, atol=0.6)
    again = follow_image(before, now, np.zeros((0, 4)))
    assert again is not None
    assert found.tobytes() == again.tobytes()


def test_what_moves_by_itself_is_left_out() -> None:
    before = scene()
    now = before.copy()
    now[100:400, 130:530] = before[100:400, 100:500]  # a large thing goes right, the camera stands
    found = follow_image(before, now, np.array([[90.0, 90.0, 540.0, 410.0]]))
    assert found is not None
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 1, 0]], atol=0.02)


@pytest.mark.parametrize("now", [np.zeros((480, 640), np.uint8), scene(5)])
def test_images_with_nothing_in_common_tell_nothing(now: Array) -> None:
    assert follow_image(scene(), now, np.zeros((0, 4))) is None
    assert follow_image(np.zeros((480, 640), np.uint8), now, np.zeros((0, 4))) is None
    assert follow_image(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), np.full((1, 4), np.nan)) is None


def test_a_rotation_moves_pixels_as_the_projection_of_far_points_says() -> None:
    before, now = turn_about_z(0.0) @ CAMERA_AXES, turn_about_z(0.02) @ CAMERA_AXES
    affine = rotation_affine(K, before, now, np.array([320.0, 240.0]))
    for ray in ([0.0, 0.0, 1.0], [0.05, -0.05, 1.0]):
        seen_before, seen_now = K @ ray, K @ (now.T @ before @ ray)
        expected = seen_now[:2] / seen_now[2]
        np.testing.assert_allclose(affine @ [*(seen_before[:2] / seen_before[2]), 1.0], expected, atol=0.1)


@pytest.mark.parametrize(("encoding", "channels"), [("mono8", 0), ("bgr8", 3), ("rgba8", 4), ("mono8", 1)])
def test_eight_bit_images_become_grey(encoding: str, channels: int) -> None:
    pixels = np.full((4, 6, channels) if channels else (4, 6), 77, dtype=np.uint8)
    np.testing.assert_array_equal(grey(picture(0, pixels, encoding)), np.full((4, 6), 77))


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 6), np.uint16), np.zeros((0, 6), np.uint8), np.zeros((4, 6, 2), np.uint8)]
)
def test_images_that_tell_no_motion_are_refused(pixels: Array) -> None:
    with pytest.raises(Rejected, match="tells no camera motion"):
        grey(picture(0, pixels))


def shaken(frames: int) -> tuple[list[Array], Array]:
    """Pictures of a far scene by a camera that is shaken by 40 px, and the shifts (frames, 2)."""
    rng = np.random.default_rng(3)
    shifts = np.cumsum(rng.choice([-40.0, 40.0], (frames, 2)), axis=0)
    wide = scene(1, 1600, 1600)
    origins = np.round(800 - shifts).astype(int)
    return [wide[y - 240 : y + 240, x - 320 : x + 320] for x, y in origins], 800.0 - origins


def test_a_shaken_camera_keeps_ids_only_with_its_motion_taken_out() -> None:
    pictures, shifts = shaken(10)
    plain = Tracker2D(Tracker2DConfig(min_hits=1, reach=0.0))
    by_image = Tracker2DByImage(Tracker2DConfig(min_hits=1, reach=0.0))
    lost = kept = 0
    for frame, (pixels, shift) in enumerate(zip(pictures, shifts, strict=True)):
        seen = boxes(frame, np.array([300.0, 200.0, 330.0, 260.0]) + np.tile(shift - shifts[0], 2))
        lost += int(plain.step(seen)["tracks"].ids[0]) != 1  # type: ignore[attr-defined]
        kept += int(by_image.step(seen, picture(frame, pixels))["tracks"].ids[0]) == 1  # type: ignore[attr-defined]
    assert lost > 5
    assert kept == 10
    assert by_image.uncompensated == 1  # the first


def odometry(frame: int, angle: float) -> Odometry:
    pose = np.eye(4)
    pose[:3, :3] = turn_about_z(angle)
    return Odometry(stamp_ns=frame * 100 * MS, frame_id="odom", child_frame_id="base", frame_T_child=pose)


def camera_info(frame_id: str = "camera") -> CameraInfo:
    return CameraInfo(
        stamp_ns=0, frame_id=frame_id, width_px=640, height_px=480, intrinsics=K, distortion_model="plumb_bob",
        distortion=np.zeros(5), rectification=np.eye(3), projection=np.hstack([K, np.zeros((3, 1))]),
    )  # fmt: skip


def mounted() -> Transforms:
    base_T_camera = np.eye(4)
    base_T_camera[:3, :3] = CAMERA_AXES
    return Transforms(
        stamp_ns=0, frame_id="base", parents=("base",), children=("camera",), parent_T_child=base_T_camera[None]
    )


def test_a_turning_robot_keeps_ids_by_its_odometry() -> None:
    tracker = Tracker2DByOdometry(Tracker2DConfig(min_hits=1, reach=0.0))
    tracker.learn_camera(camera_info())
    tracker.learn_frames(mounted())
    rng = np.random.default_rng(0)
    angle = 0.0
    for frame in range(12):
        x, y, depth = (turn_about_z(angle) @ CAMERA_AXES).T @ np.array([50.0, 1.0, 0.5])  # a far thing that stands
        u, v = (K @ [x, y, depth])[:2] / depth
        seen = boxes(frame, [u - 10, v - 20, u + 10, v + 20])
        assert tracker.step(seen, odometry(frame, angle))["tracks"].ids.tolist() == [1]  # type: ignore[attr-defined]
        angle += float(rng.choice([-0.06, 0.06]))
    assert tracker.uncompensated == 1


def test_without_calibration_transform_or_a_sound_pose_it_tracks_as_if_the_camera_stood() -> None:
    tracker = Tracker2DByOdometry(Tracker2DConfig(min_hits=1))
    broken = odometry(2, 0.0)
    object.__setattr__(broken, "frame_T_child", np.full((4, 4), np.nan))
    for frame, pose in enumerate([odometry(0, 0.0), odometry(1, 0.0), broken, odometry(3, 0.0)]):
        ids = tracker.step(boxes(frame, [0, 0, 10, 20]), pose)["tracks"].ids.tolist()  # type: ignore[attr-defined]
        assert ids == [1]
        if frame == 1:
            tracker.learn_camera(camera_info())
            tracker.learn_frames(mounted())
    assert tracker.uncompensated == 4


def test_a_step_that_is_rejected_moves_no_track() -> None:
    tracker = Tracker2DByImage(Tracker2DConfig(min_hits=1))
    before = scene()
    now = np.roll(before, 15, axis=1)
    tracker.step(boxes(0, [100, 100, 140, 200]), picture(0, before))
    tracker.step(boxes(2, [100, 100, 140, 200]), picture(2, before))
    state = tracker._motion.state.copy()
    with pytest.raises(Rejected, match="stamp not after"):
        tracker.step(boxes(2, [100, 100, 140, 200]), picture(3, now))
    np.testing.assert_array_equal(tracker._motion.state, state)
