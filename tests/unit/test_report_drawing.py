"""Shapes, labels, projections and pictures of the report."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core import geometry
from tercel.core.messages import CameraInfo, Image, Tracks3D
from tercel.report import drawing
from tercel.report.birds_eye import View, raster
from tercel.report.camera_view import project, wireframes
from tercel.report.snapshots import displayable, spread
from tercel.report.track_paths import TrackPath, paths_3d

K = np.array([[700.0, 0, 320], [0, 710.0, 240], [0, 0, 1]])


def camera(*, model: str = "plumb_bob", distortion: tuple[float, ...] = (), projection: np.ndarray | None = None):
    return CameraInfo(
        stamp_ns=0, frame_id="camera", width_px=640, height_px=480, intrinsics=K, distortion_model=model,
        distortion=np.array(distortion), rectification=np.eye(3),
        projection=np.zeros((3, 4)) if projection is None else projection,
    )  # fmt: skip


def tracks(stamp_ns: int, ids: list[int], centers: list[list[float]]) -> Tracks3D:
    n = len(ids)
    return Tracks3D(
        stamp_ns=stamp_ns, frame_id="odom", centers_m=np.reshape(centers, (n, 3)), sizes_m=np.ones((n, 3)),
        yaws_rad=np.zeros(n), scores=np.ones(n), labels=np.zeros(n), class_names=("car",), ids=np.array(ids),
        velocities_mps=np.full((n, 3), np.nan), ages_s=np.full(n, np.nan),
    )  # fmt: skip


# --- numbers, ticks, labels


@pytest.mark.parametrize(("value", "text"), [(12.0, "12"), (-0.04, "0"), (3.46, "3.5"), (100.0, "100"), (0.5, "0.5")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert drawing.number(value) == text


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_lie_in_range_and_are_not_too_many(low: float, span: float, most: int) -> None:
    values = drawing.ticks(low, low + span, most)
    assert len(values) <= most + 1
    assert all(low - 1e-6 * span <= value <= low + span * (1 + 1e-6) + 1e-6 for value in values)


def test_a_label_that_covers_an_earlier_one_is_left_out() -> None:
    places = np.array([[0.0, 0.0], [5.0, 0.0], [20.0, 0.0]])
    sizes = np.full((3, 2), 10.0)
    assert drawing.uncrowded(places, sizes, [1, 0, 2]) == [1, 2]


@given(st.integers(0, 10**6))
def test_neighbouring_tracks_differ_in_hue(identity: int) -> None:
    difference = abs(float(drawing.hue_of_id(identity)) - float(drawing.hue_of_id(identity + 1)))
    assert min(difference, 360 - difference) > 100


def test_the_label_of_a_panel_is_escaped() -> None:
    assert "<script>" not in drawing.Panel(10, 10, "<script>").html()


# --- PNG


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_opencv_reads_our_png_as_it_was_drawn(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (15, 4), dtype=np.uint8)
    palette[:, 3] = np.maximum(palette[:, 3], 1)  # readers may drop the colour of what is fully transparent
    indices = rng.integers(0, 15, (height, width), dtype=np.uint8)
    png = np.frombuffer(drawing.palette_png(indices, palette), np.uint8)
    read = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert np.array_equal(cv2.cvtColor(read, cv2.COLOR_BGRA2RGBA), palette[indices])


def test_a_point_ahead_and_left_is_drawn_above_and_left_of_the_sensor() -> None:
    view = View(-10.0, -10.0, 20.0, (0.0, 1.0))
    (u, v), = view.place(np.array([[5.0, 2.5, 0.0]])).tolist()  # fmt: skip
    assert (u, v) == (225.0, 150.0)
    png = np.frombuffer(raster(view, np.array([[5.0, 2.5, 0.5]], dtype=np.float32)), np.uint8)
    opaque = np.argwhere(cv2.imdecode(png, cv2.IMREAD_UNCHANGED)[:, :, 3] > 0)
    assert opaque.min(axis=0).tolist() == [150, 225]
    assert opaque.max(axis=0).tolist() == [151, 226]


# --- projection


def test_points_project_by_the_projection_matrix() -> None:
    p = np.hstack([K, np.array([[70.0], [0], [0]])])  # a right-hand camera: 0.1 m aside
    assert project(camera(projection=p), np.array([[1.0, 0.5, 2.0]]))[0] == pytest.approx([705.0, 417.5])


def test_without_a_projection_matrix_the_intrinsics_hold() -> None:
    assert project(camera(), np.array([[1.0, 0.5, 2.0]]))[0] == pytest.approx([670.0, 417.5])


@pytest.mark.parametrize("model", ["plumb_bob", "equidistant"])
def test_distorted_points_come_back_by_opencv(model: str) -> None:
    distortion = (-0.2, 0.05, 0.001, -0.002) if model == "plumb_bob" else (0.02, -0.01, 0.003, 0.0)
    points = np.array([[0.2, -0.1, 2.0], [-0.5, 0.3, 2.5]])
    pixels = project(camera(model=model, distortion=distortion), points)
    undo = cv2.fisheye.undistortPoints if model == "equidistant" else cv2.undistortPoints
    rays = undo(pixels[:, None], K, np.array(distortion))[:, 0]
    assert rays == pytest.approx(points[:, :2] / points[:, 2:], abs=1e-5)


def test_points_far_outside_a_distorted_image_are_not_projected() -> None:
    assert np.isnan(project(camera(distortion=(-0.3, 0.1, 0, 0)), np.array([[5.0, 0.0, 1.0]]))).all()


def test_an_unknown_distortion_model_projects_nothing() -> None:
    assert np.isnan(project(camera(distortion=(0.1, 0.2, 0.3)), np.array([[0.0, 0.0, 1.0]]))).all()


def test_a_box_behind_the_camera_is_not_in_view_and_one_around_it_is_cut() -> None:
    sizes = np.full((2, 3), 2.0)
    corners = geometry.box_corners(np.array([[0.0, 0, -5], [0.0, 0, 1]]), sizes, np.zeros(2))
    lines = wireframes(camera(), corners)
    assert np.isnan(lines[0]).all()
    in_view = np.isfinite(lines[1]).all(axis=(1, 2))
    assert in_view.tolist() == [False] * 4 + [True] * 8  # the near face lies at z = 0, behind the cut


# --- images, instants, tracks


@pytest.mark.parametrize(
    ("encoding", "pixels", "bgr"),
    [
        ("bgr8", [[[1, 2, 3]]], [1, 2, 3]),
        ("rgb8", [[[1, 2, 3]]], [3, 2, 1]),
        ("rgba8", [[[1, 2, 3, 9]]], [3, 2, 1]),
        ("mono8", [[7]], [7, 7, 7]),
    ],
)
def test_every_colour_encoding_is_displayed(encoding: str, pixels: list, bgr: list[int]) -> None:
    image = Image(stamp_ns=0, frame_id="", pixels=np.array(pixels, dtype=np.uint8), encoding=encoding)
    shown = displayable(image)
    assert shown is not None
    assert shown[0, 0].tolist() == bgr


def test_depth_with_holes_is_displayed() -> None:
    depth = np.array([[1.0, np.nan], [0.0, np.inf]], dtype=np.float32)
    shown = displayable(Image(stamp_ns=0, frame_id="", pixels=depth, encoding="32FC1"))
    assert shown is not None
    assert shown.shape == (2, 2, 3)


def test_an_image_that_does_not_fit_its_encoding_is_not_displayed() -> None:
    for pixels in (np.zeros((0, 4, 3), np.uint8), np.zeros((2, 2), np.uint8)):
        assert displayable(Image(stamp_ns=0, frame_id="", pixels=pixels, encoding="rgb8")) is None


@given(st.integers(0, 10_000))
def test_instants_are_spread_from_the_first_to_the_last_message(count: int) -> None:
    chosen = spread(count)
    assert len(chosen) == min(36, count)
    assert chosen == sorted(set(chosen))
    assert not count or (chosen[0], chosen[-1]) == (0, count - 1)


def test_messages_become_one_path_for_each_id() -> None:
    messages = [
        tracks(0, [4, -1], [[0, 0, 0], [9, 9, 9]]),
        tracks(1_000_000_000, [2, 4], [[5, 0, 0], [1, 0, 0]]),
        tracks(2_000_000_000, [4], [[2, 0, 0]]),
    ]
    first, second = paths_3d(messages, _no_frames(), "odom")
    assert (first.identity, first.first_ns, first.last_ns) == (2, 10**9, 10**9)
    assert second.identity == 4
    assert second.centers[:, 0].tolist() == [0, 1, 2]
    assert second.class_name == "car"


def test_tracks_of_an_unconnected_frame_have_no_path() -> None:
    assert paths_3d([tracks(0, [1], [[0, 0, 0]])], _no_frames(), "map") == []


def test_speed_is_that_of_the_track() -> None:
    times_s = np.arange(0, 5, 0.1)
    moving = TrackPath(1, "car", (times_s * 1e9).astype(np.int64), np.stack([3 * times_s, 4 * times_s], axis=1))
    assert moving.speed_at(2_000_000_000) == pytest.approx(5.0)
    assert moving.speed_at(20_000_000_000) is None
    assert moving.moves


def test_a_track_that_only_jitters_does_not_move() -> None:
    rng = np.random.default_rng(0)
    stamps = np.arange(100) * 100_000_000
    assert not TrackPath(1, "", stamps, rng.normal(0, 1.0, (100, 3))).moves


def _no_frames():
    from tercel.report.frames import Frames, StaticFrames

    return Frames(StaticFrames([]), [])
