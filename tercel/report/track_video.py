"""The tracks of one sequence as a video: drawn on its images, or on a dark ground where there are none.

Written by OpenCV without any other program: VP8 in .webm, which browsers play, or MPEG-4 in .mp4.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import UserError
from tercel.report.drawing import hue_of_id
from tercel.report.track_images import read_image
from tercel.report.track_player import image_size
from tercel.report.tracking_steps import Tracked
from tracking.screening import Outcome

Array = NDArray[Any]

CODECS = {".webm": "VP80", ".mp4": "mp4v"}
MAX_WIDTH_PX = 1280
_LEAST_WIDTH_PX = 640
_MAX_RATE_HZ = 60.0
_TRAIL_S = 2.0
_GROUND_BGR = (22, 15, 11)
_GREY_BGR, _RED_BGR, _INK_BGR = (150, 140, 130), (90, 90, 170), (22, 15, 11)


def check_video(path: Path) -> None:
    """Raises UserError for a file name that says no kind of video that we can write."""
    if path.suffix.lower() not in CODECS:
        raise UserError(f"--video {path}: its name must end in {' or '.join(CODECS)}")


def write_video(
    path: Path, tracked: Tracked, images: Mapping[int, Path], progress: Callable[[float], None] = lambda _fraction: None
) -> None:
    """Write the video of a sequence at its own rate, at most 60 Hz. images: its files by frame.

    Raises UserError if this OpenCV cannot write it.
    """
    check_video(path)
    artist = _Artist(tracked, images)
    every = max(1, int(np.ceil(tracked.loaded.source.rate_hz / _MAX_RATE_HZ)))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    codec = cv2.VideoWriter_fourcc(*CODECS[path.suffix.lower()])  # type: ignore[attr-defined]
    with _quiet():
        writer = cv2.VideoWriter(str(partial), codec, tracked.loaded.source.rate_hz / every, artist.size_px)
    try:
        if not writer.isOpened():
            raise UserError(f"--video {path}: this OpenCV cannot write it; try the other of {' and '.join(CODECS)}")
        for frame in range(0, len(tracked.frames), every):
            writer.write(artist.draw(frame))
            progress(frame / len(tracked.frames))
        writer.release()
        partial.replace(path)
    finally:
        writer.release()
        partial.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what OpenCV prints of .webm: that the container has no such tag, though it writes it all the same."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


class _Artist:
    """Draws one frame after the other."""

    def __init__(self, tracked: Tracked, images: Mapping[int, Path]) -> None:
        self._tracked, self._images = tracked, images
        width, height = image_size(tracked, images)
        scale = min(MAX_WIDTH_PX / width, max(1.0, _LEAST_WIDTH_PX / width))
        # Codecs want even sides.
        self.size_px = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
        self._scale = np.array([self.size_px[0] / width, self.size_px[1] / height] * 2)
        self._rows = tracked.tracks.rows_of(tracked.frames.tolist())
        self._others = tracked.loaded.boxes.rows_of(tracked.frames.tolist())
        self._trails: dict[int, list[tuple[int, Array]]] = {}

    def draw(self, index: int) -> Array:
        """The picture (H, W, 3) uint8 BGR of the index-th frame."""
        tracked = self._tracked
        frame = int(tracked.frames[index])
        picture = self._ground(frame)
        self._draw_others(picture, self._others[index])
        rows = self._rows[index]
        for row, box in zip(rows.tolist(), self._placed(tracked.tracks.boxes_xyxy_px[rows]), strict=True):
            self._draw_track(picture, frame, row, box)
        told = f"{(frame - tracked.loaded.frames.start) / tracked.loaded.source.rate_hz:.2f} s   {len(rows)} tracks"
        _text(picture, told, (8, self.size_px[1] - 10), (235, 230, 225), _INK_BGR)
        return picture

    def _ground(self, frame: int) -> Array:
        pixels = read_image(self._images.get(frame))
        if pixels is None:
            return np.full((self.size_px[1], self.size_px[0], 3), _GROUND_BGR, dtype=np.uint8)
        resized: Array = cv2.resize(pixels, self.size_px, interpolation=cv2.INTER_AREA)
        return resized

    def _placed(self, boxes: Array) -> Array:
        """Whole pixels of the picture; far outside of it is far enough."""
        placed: Array = np.clip(np.round(np.nan_to_num(boxes) * self._scale), -10_000, 10_000).astype(int)
        return placed

    def _draw_others(self, picture: Array, rows: Array) -> None:
        outcomes = self._tracked.outcomes[rows]
        unsure = outcomes != Outcome.MATCHED
        boxes = self._placed(self._tracked.loaded.boxes.boxes_xyxy_px[rows[unsure]])
        for box, outcome in zip(boxes.tolist(), outcomes[unsure].tolist(), strict=True):
            color = _RED_BGR if outcome >= Outcome.TOO_WEAK_TO_START else _GREY_BGR
            cv2.rectangle(picture, box[:2], box[2:], color, 1, cv2.LINE_AA)

    def _draw_track(self, picture: Array, frame: int, row: int, box: Array) -> None:
        tracks, rate_hz = self._tracked.tracks, self._tracked.loaded.source.rate_hz
        identity = int(tracks.ids[row])
        color = _color(identity)
        x0, y0, x1, y1 = box.tolist()
        trail = [point for point in self._trails.get(identity, []) if (frame - point[0]) / rate_hz <= _TRAIL_S]
        trail.append((frame, np.array([(x0 + x1) // 2, y1])))
        self._trails[identity] = trail
        points = np.array([place for _, place in trail], dtype=np.int32).reshape(-1, 1, 2)
        cv2.polylines(picture, [points], False, color, 2, cv2.LINE_AA)
        thin = self._tracked.unseen_s[row] > 0.0
        cv2.rectangle(picture, (x0, y0), (x1, y1), color, 1 if thin else 2, cv2.LINE_AA)
        name = tracks.class_names[int(tracks.labels[row])] if len(tracks.class_names) > 1 else ""
        _tag(picture, f"{identity} {name}".strip(), x0, y0, color)


def _tag(picture: Array, text: str, x: int, y: int, color: tuple[int, int, int]) -> None:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
    x, y = max(0, min(x, picture.shape[1] - width - 6)), max(height + 6, y)
    cv2.rectangle(picture, (x, y - height - 6), (x + width + 6, y), color, -1)
    cv2.putText(picture, text, (x + 3, y - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK_BGR, 1, cv2.LINE_AA)


def _text(
    picture: Array, text: str, place: tuple[int, int], color: tuple[int, int, int], edge: tuple[int, int, int]
) -> None:
    for ink, thickness in ((edge, 3), (color, 1)):
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, thickness, cv2.LINE_AA)


def _color(identity: int) -> tuple[int, int, int]:
    """A track's own colour, as the page has it, BGR."""
    hls = np.uint8([[[round(float(hue_of_id(identity)) / 2) % 180, 165, 225]]])  # type: ignore[arg-type]
    blue, green, red = cv2.cvtColor(hls, cv2.COLOR_HLS2BGR)[0, 0].tolist()
    return blue, green, red
