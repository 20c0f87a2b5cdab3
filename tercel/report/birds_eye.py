"""A sweep seen from above, forward up, with the boxes around the sensor and the path behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.messages import Tracks3D
from tercel.report.camera_view import hue_of, words_of
from tercel.report.drawing import Panel, data_uri, nice_step, number, palette_png, thin, uncrowded
from tercel.report.snapshots import Instant

Array = NDArray[Any]

SIZE = 600
_MAX_HALF_M = 60.0
_SHADES = 14
# From the ground up: slate, blue, ice. Muted, so that the boxes stand out.
_RAMP = np.array([[52, 68, 98], [74, 112, 160], [120, 170, 205], [190, 220, 228], [246, 240, 214]], dtype=np.float64)
# x forward, y left, z up from an optical frame's x right, y down, z forward (REP 103).
_BODY_T_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class View:
    """What the picture covers, in the sensor's frame turned x forward: a square, and the heights that have colours."""

    x_min_m: float
    y_min_m: float
    side_m: float
    z_range_m: tuple[float, float]

    def place(self, points_m: Array) -> Array:
        """Panel coordinates (N, 2) of points (N, 2 or 3): forward is up, left is left."""
        scale = SIZE / self.side_m
        u = (self.y_min_m + self.side_m - points_m[:, 1]) * scale
        v = (self.x_min_m + self.side_m - points_m[:, 0]) * scale
        return np.stack([u, v], axis=1)


def level_T_sensor(frame_id: str) -> Array:
    """(4, 4) from a sensor's frame to x forward, z up: frames named "...optical..." have z forward."""
    return _BODY_T_OPTICAL if "optical" in frame_id else np.eye(4)


def choose_view(instants: Sequence[Instant], around_m: Array) -> View:
    """One view for all instants. around_m (N, 3): places of boxes relative to the sensor, for runs without sweeps."""
    sampled = [
        geometry.transform_points(level_T_sensor(i.sweep.frame_id), i.sweep.points_m[::20])
        for i in instants
        if i.sweep is not None
    ]
    points = np.concatenate([p for p in sampled if len(p)] or [around_m.reshape(-1, 3)])
    if not len(points):
        return View(-20.0, -20.0, 40.0, (-2.0, 3.0))
    reach = float(np.quantile(np.abs(points[:, :2]).max(axis=1), 0.95))
    step = nice_step(reach, 4)
    half = min(_MAX_HALF_M, max(2.0, step * np.ceil(reach / step)))
    ahead_only = np.quantile(points[:, 0], 0.02) > -0.05 * half
    low, high = (float(v) for v in np.quantile(points[:, 2], [0.03, 0.97]))
    return View(-0.15 * half if ahead_only else -half, -half, 2 * half, (low, max(high, low + 0.5)))


def raster(view: View, points_m: Array) -> bytes:
    """A transparent PNG of the points (N, 3), each pixel in the colour of its highest one."""
    cells = np.floor(view.place(points_m)).astype(np.int64)
    inside = ((cells >= 0) & (cells < SIZE)).all(axis=1)
    low, high = view.z_range_m
    shade = np.clip((points_m[inside, 2] - low) / (high - low) * _SHADES, 0, _SHADES - 1).astype(np.uint8) + 1
    image = np.zeros((SIZE, SIZE), dtype=np.uint8)
    np.maximum.at(image, (cells[inside, 1], cells[inside, 0]), shade)
    # A point is two pixels high and wide where nothing else is, so that far ones are seen.
    spread = np.maximum(
        np.maximum(image, np.roll(image, 1, 0)), np.maximum(np.roll(image, 1, 1), np.roll(image, 1, (0, 1)))
    )
    image = np.where(image > 0, image, spread)
    return palette_png(image, ramp())


def ramp() -> Array:
    """(1 + shades, 4) uint8 RGBA: nothing, then from low to high."""
    at = np.linspace(0, len(_RAMP) - 1, _SHADES)
    colours = np.stack([np.interp(at, np.arange(len(_RAMP)), _RAMP[:, c]) for c in range(3)], axis=1)
    rgba = np.concatenate([colours, np.full((_SHADES, 1), 255.0)], axis=1).round().astype(np.uint8)
    return np.concatenate([np.zeros((1, 4), np.uint8), rgba])


def birds_eye_panel(view: View, points_m: Array | None, label: str) -> tuple[Panel, str]:
    """The ground of the picture: points (N, 3), if any, range rings with their distances, and the sensor itself."""
    panel = Panel(SIZE, SIZE, label, "birdseye")
    centre = view.place(np.zeros((1, 2)))[0]
    step = nice_step(view.side_m, 6)
    farthest = np.hypot(max(abs(view.x_min_m), view.x_min_m + view.side_m), view.side_m / 2)
    direction = np.array([np.cos(np.radians(45.0)), -np.sin(np.radians(45.0))])
    for i in range(1, int(farthest / step) + 1):
        panel.circle(centre[0], centre[1], i * step / view.side_m * SIZE, "ring")
        u, v = view.place((i * step * direction)[None])[0].tolist()
        if 20 < u < SIZE - 20 and 12 < v < SIZE - 12:
            panel.text(u, v, f"{number(i * step)} m", "ring-label")
    background = ""
    if points_m is not None:
        background = f'<img src="{data_uri("png", raster(view, points_m))}" alt="">'
    return panel, background


def draw_ego(panel: Panel, view: View) -> None:
    """An arrowhead at the sensor."""
    u, v = view.place(np.zeros((1, 2)))[0].tolist()
    panel.line(np.array([[u, v - 13], [u + 8, v + 9], [u, v + 4], [u - 8, v + 9]]), "ego", closed=True)


def draw_trail(panel: Panel, view: View, positions_m: Array) -> None:
    """Where the sensor was: positions (N, 3), relative to where it is now."""
    panel.line(view.place(thin(positions_m, 80)), "trail")


def draw_boxes(panel: Panel, view: View, view_T_frame: Array, tracks: Tracks3D, *, truth: bool = False) -> None:
    """Outlines with a stroke from the middle to the front, and the id."""
    corners = geometry.box_corners(tracks.centers_m, tracks.sizes_m, tracks.yaws_rad)[:, :4]
    corners = corners @ view_T_frame[:3, :3].T + view_T_frame[:3, 3]
    outlines = view.place(corners.reshape(-1, 3)).reshape(-1, 4, 2)
    centres = outlines.mean(axis=1)
    inside = np.flatnonzero(((centres >= 0) & (centres <= SIZE)).all(axis=1)).tolist()
    for row in inside:
        outline = outlines[row]
        loop = np.concatenate([outline, outline[:1]])
        if truth:
            panel.segments([loop], "box truth")
            continue
        front = np.stack([centres[row], (outline[0] + outline[3]) / 2])
        panel.segments([loop, front], "box flat", hue=hue_of(tracks, row), title=words_of(tracks, row))
    if not truth:
        _draw_marks(panel, tracks, inside, outlines)


def _draw_marks(panel: Panel, tracks: Tracks3D, rows: Sequence[int], outlines: Array) -> None:
    """The ids at the boxes' upper right, those of large boxes rather than those that would cover them.

    "more" are the ones that would do so where the picture is half as wide.
    """
    places = np.stack([outlines[:, :, 0].max(axis=1), outlines[:, :, 1].min(axis=1)], axis=1)
    sizes = np.stack([8.0 * np.array([len(str(i)) for i in tracks.ids.tolist()]), np.full(len(outlines), 14.0)], axis=1)
    areas_m2 = tracks.sizes_m[:, 0] * tracks.sizes_m[:, 1]
    by_size = sorted((row for row in rows if tracks.ids[row] >= 0), key=lambda row: (-areas_m2[row], row))
    roomy = set(uncrowded(places, 2 * sizes, by_size))
    for row in uncrowded(places, sizes, by_size):
        css = "mark" if row in roomy else "mark more"
        panel.text(places[row, 0], places[row, 1], str(tracks.ids[row]), css, hue=hue_of(tracks, row))
