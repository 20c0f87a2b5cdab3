"""The scene view: for each instant the camera's picture, the surroundings from above, and what was there in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.messages import CameraInfo, Tracks2D, Tracks3D
from tercel.report import birds_eye, camera_view
from tercel.report.drawing import esc, number
from tercel.report.material import BoxTopic, Material
from tercel.report.snapshots import Instant, Picture
from tercel.report.track_paths import TrackPath

Array = NDArray[Any]

_TRAIL_NS = 20_000_000_000
_ROWS = 40


@dataclass
class Scenes:
    """The articles in order of time, the instants' times in seconds, and which one is shown first."""

    articles: list[str] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    first: int = 0
    notes: list[str] = field(default_factory=list)
    has_rectangles: bool = False
    has_wireframes: bool = False
    has_points: bool = False
    has_trail: bool = False
    has_truth: bool = False


class SceneArtist:
    """Draws the instants of one material. `notes` gathers what could not be drawn, and why."""

    def __init__(self, material: Material, paths: Mapping[int, TrackPath]) -> None:
        self._material = material
        self._paths = paths
        self._notes: dict[str, None] = {}
        self._size_px = _image_size(material)
        self._has_space = material.tracks_3d is not None or any(i.sweep for i in material.instants)
        self._view = birds_eye.choose_view(material.instants, self._places_of_boxes()) if self._has_space else None

    def draw(self) -> Scenes:
        """All instants. Shown first is the one in the middle."""
        scenes = Scenes(first=len(self._material.instants) // 2)
        for index, instant in enumerate(self._material.instants):
            boxes_3d, boxes_2d = self._boxes(instant)
            camera = self._camera(instant, boxes_2d, boxes_3d)
            above = self._from_above(instant, boxes_3d)
            time_s = (instant.stamp_ns - self._material.origin_ns) / 1e9
            scenes.times_s.append(time_s)
            scenes.has_rectangles |= 'class="box flat"' in camera
            scenes.has_wireframes |= 'class="box wire"' in camera
            scenes.has_points |= instant.sweep is not None
            scenes.has_trail |= 'class="trail"' in above
            rows = self._rows_3d(boxes_3d, instant) if boxes_3d is not None else _rows_2d(boxes_2d)
            scenes.articles.append(_article(index, time_s, camera, above, rows))
        scenes.has_truth = self._material.truth_2d is not None or self._material.truth_3d is not None
        scenes.notes = list(self._notes)
        return scenes

    def _boxes(self, instant: Instant) -> tuple[Tracks3D | None, Tracks2D | None]:
        picture_ns = instant.picture.stamp_ns if instant.picture is not None else instant.stamp_ns
        return _at(self._material.tracks_3d, instant.stamp_ns), _at(self._material.tracks_2d, picture_ns)

    def _lookup(self, target: str, source: str, stamp_ns: int) -> Array | None:
        try:
            return self._material.frames.lookup(target, source, stamp_ns)
        except KeyError as error:
            self._notes[str(error.args[0])] = None
            return None

    def _camera(self, instant: Instant, boxes_2d: Tracks2D | None, boxes_3d: Tracks3D | None) -> str:
        if instant.picture is None and (boxes_2d is None or self._size_px is None):
            return ""
        picture = instant.picture
        size_px = (picture.width_px, picture.height_px) if picture is not None else self._size_px
        stamp_ns = picture.stamp_ns if picture is not None else instant.stamp_ns
        words = f"Camera at {(stamp_ns - self._material.origin_ns) / 1e9:.2f} s"
        panel, background = camera_view.camera_panel(picture, size_px or (1, 1), words)
        camera = None if picture is None else _camera_of(picture, self._material.cameras)
        truth_2d, truth_3d = _at(self._material.truth_2d, stamp_ns), _at(self._material.truth_3d, stamp_ns)
        for boxes, is_truth in ((truth_3d, True), (boxes_3d, False)):
            if boxes is None or camera is None or (is_truth and truth_2d is not None):
                continue
            camera_T_frame = self._lookup(camera.frame_id, boxes.frame_id, stamp_ns)
            if camera_T_frame is not None:
                tags = boxes_2d is None
                camera_view.draw_boxes_3d(panel, camera, camera_T_frame, boxes, tags=tags, truth=is_truth)
        if truth_2d is not None:
            camera_view.draw_boxes_2d(panel, truth_2d, truth=True)
        if boxes_2d is not None:
            camera_view.draw_boxes_2d(panel, boxes_2d)
        return f"<figure>{panel.html(background=background)}<figcaption>{words}</figcaption></figure>"

    def _from_above(self, instant: Instant, boxes: Tracks3D | None) -> str:
        view, sweep = self._view, instant.sweep
        if view is None or (sweep is None and boxes is None):
            return ""
        frame = self._ground_frame(instant)
        level_T_frame = birds_eye.level_T_sensor(frame)
        points = None if sweep is None else geometry.transform_points(level_T_frame, sweep.points_m)
        words = "Seen from above, forward is up"
        panel, background = birds_eye.birds_eye_panel(view, points, words)
        estimate = self._material.estimate
        if estimate is not None and (to_frame := self._lookup(frame, estimate.frame_id, instant.stamp_ns)) is not None:
            age_ns = instant.stamp_ns - estimate.stamps_ns
            past = estimate.positions_m[(age_ns >= 0) & (age_ns <= _TRAIL_NS)]
            birds_eye.draw_trail(panel, view, geometry.transform_points(level_T_frame @ to_frame, past))
        for shown, is_truth in ((_at(self._material.truth_3d, instant.stamp_ns), True), (boxes, False)):
            if shown is None:
                continue
            to_frame = self._lookup(frame, shown.frame_id, instant.stamp_ns)
            if to_frame is not None:
                birds_eye.draw_boxes(panel, view, level_T_frame @ to_frame, shown, truth=is_truth)
        birds_eye.draw_ego(panel, view)
        if sweep is not None:
            words += f" · {sweep.count:,} points"
        return f"<figure>{panel.html(background=background)}<figcaption>{words}</figcaption></figure>"

    def _ground_frame(self, instant: Instant) -> str:
        """The frame that the picture from above is drawn in: the LiDAR's, or else what the odometry moves."""
        if instant.sweep is not None:
            return instant.sweep.frame_id
        if self._material.estimate is not None:
            return self._material.estimate.child_frame_id
        boxes = self._material.tracks_3d
        return boxes.messages[0].frame_id if boxes is not None else ""

    def _places_of_boxes(self) -> Array:
        """Where boxes are at the instants, (N, 3) relative to the sensor."""
        places = [np.zeros((0, 3))]
        for instant in self._material.instants:
            boxes = _at(self._material.tracks_3d, instant.stamp_ns)
            if boxes is not None:
                frame = self._ground_frame(instant)
                to_frame = self._lookup(frame, boxes.frame_id, instant.stamp_ns)
                if to_frame is not None:
                    level = birds_eye.level_T_sensor(frame) @ to_frame
                    places.append(geometry.transform_points(level, boxes.centers_m))
        around = np.concatenate(places)
        return around[np.isfinite(around).all(axis=1)]

    def _rows_3d(self, boxes: Tracks3D, instant: Instant) -> str:
        """The boxes as a table, the nearest first."""
        to_frame = self._lookup(self._ground_frame(instant), boxes.frame_id, instant.stamp_ns)
        places = boxes.centers_m if to_frame is None else geometry.transform_points(to_frame, boxes.centers_m)
        ranges = np.linalg.norm(places[:, :2], axis=1)
        rows = []
        for row in np.argsort(ranges, kind="stable")[:_ROWS].tolist():
            path = self._paths.get(int(boxes.ids[row]))
            speed = path.speed_at(instant.stamp_ns) if path is not None else None
            cells = [
                f"{ranges[row]:.1f} m" if np.isfinite(ranges[row]) and to_frame is not None else "–",
                "–" if speed is None else f"{speed:.1f} m/s",
                " × ".join(f"{side:.1f}" for side in boxes.sizes_m[row].tolist()) + " m",
            ]
            rows.append(_row(boxes, row, cells))
        return _object_table(("Range", "Speed", "Size l × w × h"), rows, len(boxes.scores))


def _article(index: int, time_s: float, camera: str, above: str, rows: str) -> str:
    kind = " ".join(name for name, html in (("with-camera", camera), ("with-above", above)) if html)
    left = f'<div class="seen">{camera}</div>' if camera else ""
    right = f'<div class="above">{above}</div>' if above else ""
    return (
        f'<article class="scene" id="scene-{index}" aria-label="Scene at {time_s:.2f} seconds">'
        f'<h3 class="no-js">{time_s:.2f} s</h3><div class="views {kind}">{left}{right}'
        f'<div class="objects" tabindex="0">{rows}</div></div></article>'
    )


def _row(boxes: Tracks2D | Tracks3D, row: int, cells: list[str]) -> str:
    identity = int(boxes.ids[row])
    hue = camera_view.hue_of(boxes, row)
    mark = f'<span class="swatch" style="--h:{hue}"></span>{identity if identity >= 0 else "–"}'
    name = esc(camera_view.name_of(boxes, row)) or "–"
    more = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><th scope=row>{mark}</th><td>{name}</td><td>{float(boxes.scores[row]):.2f}</td>{more}</tr>"


def _rows_2d(boxes: Tracks2D | None) -> str:
    """The boxes of the image as a table, the largest first."""
    if boxes is None:
        return '<p class="quiet">No tracks at this instant.</p>'
    sizes = (boxes.boxes_xyxy_px[:, 2:] - boxes.boxes_xyxy_px[:, :2]).astype(np.float64)
    order = np.argsort(-sizes.prod(axis=1), kind="stable")[:_ROWS].tolist()
    rows = [_row(boxes, row, [f"{number(sizes[row, 0], 0)} × {number(sizes[row, 1], 0)} px"]) for row in order]
    return _object_table(("Size w × h",), rows, len(boxes.scores))


def _object_table(columns: tuple[str, ...], rows: list[str], count: int) -> str:
    if not count:
        return '<p class="quiet">No tracks at this instant.</p>'
    head = "".join(f"<th scope=col>{name}</th>" for name in ("Id", "Class", "Score", *columns))
    rest = f'<p class="quiet">and {count - len(rows)} more</p>' if count > len(rows) else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{rest}"


def _at(boxes: BoxTopic[Any] | None, stamp_ns: int) -> Any:
    return None if boxes is None else boxes.at(stamp_ns)


def _camera_of(picture: Picture, cameras: list[CameraInfo]) -> CameraInfo | None:
    """The calibration of the picture's own frame, or the only one."""
    matching = [camera for camera in cameras if camera.frame_id == picture.frame_id]
    if matching:
        return matching[0]
    return cameras[0] if len(cameras) == 1 else None


def _image_size(material: Material) -> tuple[int, int] | None:
    """How large the image is where a recording has boxes but no pictures: as far as the boxes go."""
    if material.tracks_2d is None:
        return None
    corners = [m.boxes_xyxy_px[:, 2:].max(axis=0) for m in material.tracks_2d.messages if len(m.scores)]
    if not corners:
        return None
    width, height = np.nanmax(np.stack(corners), axis=0).tolist()
    return max(64, int(np.ceil(width))), max(64, int(np.ceil(height)))
