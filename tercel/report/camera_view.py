"""The camera's picture of one instant with what was found in it: boxes of the image, and boxes of space projected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.messages import CameraInfo, Tracks2D, Tracks3D
from tercel.report.drawing import Panel, data_uri, esc, hue_of_class, hue_of_id, uncrowded
from tercel.report.snapshots import Picture

Array = NDArray[Any]

_NEAR_M = 0.2
_FAR_M = 120.0
# Corner pairs of geometry.box_corners: bottom, top, uprights.
_EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])


def name_of(tracks: Tracks2D | Tracks3D, row: int) -> str:
    """The class of one box, as it is shown."""
    label = int(tracks.labels[row])
    return tracks.class_names[label] if 0 <= label < len(tracks.class_names) else ""


def hue_of(tracks: Tracks2D | Tracks3D, row: int) -> str:
    """A track's own hue; a detection without an id has that of its class."""
    identity = int(tracks.ids[row])
    return hue_of_id(identity) if identity >= 0 else hue_of_class(name_of(tracks, row))


def tag_of(tracks: Tracks2D | Tracks3D, row: int) -> str:
    """The label of a box, as HTML. On narrow screens the page hides all but the id."""
    identity, name, score = int(tracks.ids[row]), esc(name_of(tracks, row)), float(tracks.scores[row])
    rest = f"{name} {score:.2f}" if name else f"{score:.2f}"
    return f"<b>{identity}</b><i> {rest}</i>" if identity >= 0 else f"<i>{rest}</i>"


def words_of(tracks: Tracks2D | Tracks3D, row: int) -> str:
    """The same in words, for the pointer that rests on a box."""
    identity = int(tracks.ids[row])
    start = f"track {identity}: " if identity >= 0 else ""
    return f"{start}{name_of(tracks, row) or 'object'}, score {float(tracks.scores[row]):.2f}"


def project(camera: CameraInfo, points_m: Array) -> Array:
    """Pixels (..., 2) of points (..., 3) in the camera's optical frame, all in front of it (sensor_msgs/CameraInfo).

    Without distortion by P and R, or by K where P is empty. Distorted images by K and the distortion model; points
    well outside the image, where the models' polynomials turn back, become NaN; so do all of an unknown model.
    """
    if not np.any(camera.distortion):
        if camera.projection[0, 0]:
            rotated = points_m @ camera.rectification.T if np.any(camera.rectification) else points_m
            homogeneous = rotated @ camera.projection[:, :3].T + camera.projection[:, 3]
        else:
            homogeneous = points_m @ camera.intrinsics.T
        flat: Array = homogeneous[..., :2] / homogeneous[..., 2:]
        return flat
    rays = (points_m[..., :2] / points_m[..., 2:]).reshape(-1, 1, 2)
    k = camera.intrinsics
    try:
        if camera.distortion_model == "equidistant":
            pixels = cv2.fisheye.distortPoints(rays, k, camera.distortion[:4])
        else:
            solid = np.concatenate([rays, np.ones((len(rays), 1, 1))], axis=2)
            pixels = cv2.projectPoints(solid, np.zeros(3), np.zeros(3), k, camera.distortion)[0]
    except cv2.error:  # a model of another length than OpenCV knows
        return np.full((*points_m.shape[:-1], 2), np.nan)
    corner = np.array(
        [max(k[0, 2], camera.width_px - k[0, 2]) / k[0, 0], max(k[1, 2], camera.height_px - k[1, 2]) / k[1, 1]]
    )
    outside = np.linalg.norm(rays, axis=2) > 1.3 * np.linalg.norm(corner)
    return np.where(outside[..., None], np.nan, pixels).reshape(*points_m.shape[:-1], 2)


def wireframes(camera: CameraInfo, corners_m: Array) -> Array:
    """The edges (N, 12, 2, 2) px of boxes whose corners (N, 8, 3) are in the camera's frame; NaN where not in view.

    Edges that pass the camera are cut off just before it.
    """
    edges = corners_m[:, _EDGES]
    depth = edges[..., 2]
    ends, others = edges, edges[..., ::-1, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (_NEAR_M - depth) / (depth[..., ::-1] - depth)
        cut = ends + share[..., None] * (others - ends)
        clipped = np.where((depth < _NEAR_M)[..., None], cut, ends)
        pixels = project(camera, clipped)
    behind = np.all(depth < _NEAR_M, axis=-1) | ~np.all(np.isfinite(pixels), axis=(-1, -2))
    hidden = np.broadcast_to(np.asarray(behind)[..., None, None], pixels.shape)
    return np.where(hidden, np.nan, np.clip(pixels, -1e4, 1e4))


def camera_panel(picture: Picture | None, size_px: tuple[int, int], label: str) -> tuple[Panel, str]:
    """An empty panel in the image's pixels, and its background; without a picture it stays blank."""
    panel = Panel(size_px[0], size_px[1], label, "camera")
    if picture is None:
        return panel, ""
    return panel, f'<img src="{data_uri("jpeg", picture.jpeg)}" alt="{esc(label)}">'


def draw_boxes_2d(panel: Panel, tracks: Tracks2D, *, truth: bool = False) -> None:
    """Rectangles with class, score and id."""
    boxes = tracks.boxes_xyxy_px.astype(np.float64)
    rows = np.flatnonzero(np.isfinite(boxes).all(axis=1)).tolist()
    for row in rows:
        x0, y0, x1, y1 = boxes[row].tolist()
        hue, css, title = ("", "box truth", "") if truth else (hue_of(tracks, row), "box flat", words_of(tracks, row))
        panel.rectangle(x0, y0, x1 - x0, y1 - y0, css, hue=hue or None, title=title)
    if not truth:
        _draw_tags(panel, tracks, rows, boxes[:, :2])


def draw_boxes_3d(
    panel: Panel, camera: CameraInfo, camera_T_frame: Array, tracks: Tracks3D, *, tags: bool, truth: bool = False
) -> None:
    """Boxes of space as wireframes, the farthest first."""
    corners = geometry.box_corners(tracks.centers_m, tracks.sizes_m, tracks.yaws_rad)
    corners = corners @ camera_T_frame[:3, :3].T + camera_T_frame[:3, 3]
    calibrated_px = np.array([camera.width_px or panel.width, camera.height_px or panel.height])
    lines = wireframes(camera, corners) * np.array([panel.width, panel.height]) / calibrated_px
    distance_m = np.linalg.norm(corners.mean(axis=1), axis=1)
    places = np.zeros((len(lines), 2))
    shown = []
    for row in np.argsort(-distance_m, kind="stable").tolist():
        seen = lines[row][np.isfinite(lines[row]).all(axis=(1, 2))]
        if not len(seen) or not distance_m[row] < _FAR_M:
            continue
        low, high = seen.min(axis=(0, 1)), seen.max(axis=(0, 1))
        if (high < 0).any() or low[0] > panel.width or low[1] > panel.height:
            continue
        hue, css, title = ("", "box truth", "") if truth else (hue_of(tracks, row), "box wire", words_of(tracks, row))
        panel.segments(list(seen), css, hue=hue or None, title=title)
        places[row] = low
        shown.append(row)
    if tags and not truth:
        _draw_tags(panel, tracks, shown[::-1], places)


def _draw_tags(panel: Panel, tracks: Tracks2D | Tracks3D, rows: Sequence[int], places: Array) -> None:
    """Labels at the upper left corners, those that come first rather than those that would cover them."""
    unit = panel.width / 800  # a CSS pixel where the picture is about that wide
    places = np.clip(places, 0, [panel.width - 30 * unit, panel.height])
    letters = np.array([len(words_of(tracks, row)) - 9 for row in range(len(tracks.scores))])
    sizes = np.stack([letters * 6.5, np.full(len(letters), 15.0)], axis=1) * unit
    for row in uncrowded(places, sizes, rows):
        css = "tag under" if places[row, 1] < 17 * unit else "tag"
        panel.text(places[row, 0], places[row, 1], tag_of(tracks, row), css, hue=hue_of(tracks, row))
