"""The dashboard's camera pictures: the newest image of each camera with the boxes that were found in that very image.

Serialised images are kept as they came, a few of each camera, and only those are decoded that somebody looks at. Boxes
come later than their image, so the picture shown is the one with the stamp of the newest boxes, if it is still kept;
else the newest one. Browsers get a JPEG that was encoded here, never bytes from the wire.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from tercel.core.errors import Rejected
from tercel.core.messages import CompressedImage, Image, Tracks2D
from tercel.report.camera_view import hue_of, name_of
from tercel.report.dashboard_blob import blob
from tercel.report.dashboard_topics import peek_stamp_ns
from tercel.report.snapshots import displayable
from tercel.ros import convert
from tercel.ros.layouts import decompress
from tercel.ros.transport import Data

MAX_CAMERAS = 16
MAX_BOX_TOPICS = 16
MAX_BOXES = 200
_KEPT = 12
_KEPT_BYTES = 32 << 20
_SIDE_PX = 960
_QUALITY = 78
_FRESH_NS = 2_000_000_000
_APART_NS = 500_000_000  # boxes of an image that is no longer kept are drawn over one that is not much later


@dataclass(frozen=True)
class _Raw:
    number: int
    stamp_ns: int
    at_ns: int
    data: Data


@dataclass
class _Camera:
    ros_type: str
    kept: deque[_Raw] = field(default_factory=deque)
    received: int = 0
    drawn: tuple[tuple[int, str, int], bytes] | None = None

    def keep(self, raw: _Raw) -> None:
        """Add one, and let go of the oldest beyond the limits; the newest one always stays."""
        self.kept.append(raw)
        while len(self.kept) > 1 and (
            len(self.kept) > _KEPT or sum(len(kept.data) for kept in self.kept) > _KEPT_BYTES
        ):
            self.kept.popleft()


@dataclass
class _Boxes:
    raw: _Raw
    tracks: Tracks2D | None = None
    is_read: bool = False

    def read(self) -> Tracks2D | None:
        """Decode them, once."""
        if not self.is_read:
            self.is_read = True
            try:
                message = convert.decode("vision_msgs/msg/Detection2DArray", self.raw.data)
                self.tracks = message if isinstance(message, Tracks2D) else None
            except Rejected:
                self.tracks = None
        return self.tracks


class Cameras:
    """The cameras and the boxes in their images, by topic, the first MAX_CAMERAS of them.

    The caller sees to it that one thread uses it at a time.
    """

    def __init__(self) -> None:
        self._cameras: dict[str, _Camera] = {}
        self._boxes: dict[str, _Boxes] = {}

    def receive_image(self, topic: str, ros_type: str, data: Data, now_ns: int) -> None:
        """One serialised Image or CompressedImage."""
        if topic not in self._cameras and len(self._cameras) >= MAX_CAMERAS:
            return
        camera = self._cameras.get(topic)
        if camera is None or camera.ros_type != ros_type:
            camera = self._cameras[topic] = _Camera(ros_type)
        camera.received += 1
        camera.keep(_Raw(camera.received, peek_stamp_ns(ros_type, data) or 0, now_ns, data))

    def receive_boxes(self, topic: str, data: Data, now_ns: int) -> None:
        """One serialised Detection2DArray."""
        known = self._boxes.get(topic)
        if known is None and len(self._boxes) >= MAX_BOX_TOPICS:
            return
        number = known.raw.number + 1 if known is not None else 1
        stamp_ns = peek_stamp_ns("vision_msgs/msg/Detection2DArray", data) or 0
        self._boxes[topic] = _Boxes(_Raw(number, stamp_ns, now_ns, data))

    def versions(self, now_ns: int) -> dict[str, str]:
        """What would be drawn for each camera now, as a word that changes when that does."""
        return {topic: "-".join(map(str, self._choose(topic, now_ns)[0])) for topic in sorted(self._cameras)}

    def picture(self, topic: str, now_ns: int) -> bytes | None:
        """JSON and JPEG (see dashboard_blob) of a camera; None for a topic that is no camera.

        JSON: topic, size in pixels of the original, age_s, boxes_topic, boxes [x0, y0, x1, y1, hue, id, words]; or
        topic and problem, and no JPEG.
        """
        camera = self._cameras.get(topic)
        if camera is None:
            return None
        key, raw, boxes_topic = self._choose(topic, now_ns)
        if camera.drawn is None or camera.drawn[0] != key:
            tracks = self._boxes[boxes_topic].read() if boxes_topic else None
            head = {"topic": topic, "boxes_topic": boxes_topic, "boxes": [] if tracks is None else _rows(tracks)}
            camera.drawn = (key, _draw(camera.ros_type, raw, head))
        return camera.drawn[1]

    def _choose(self, topic: str, now_ns: int) -> tuple[tuple[int, str, int], _Raw, str]:
        """A key of what is drawn; the image; the topic of the boxes, empty if there are none for it."""
        camera = self._cameras[topic]
        newest = camera.kept[-1]
        stamps = {raw.stamp_ns: raw for raw in camera.kept}
        best: tuple[tuple[Any, ...], _Raw, str] | None = None
        for name, boxes in self._boxes.items():
            if now_ns - boxes.raw.at_ns > _FRESH_NS:
                continue
            same = stamps.get(boxes.raw.stamp_ns)
            near = abs(newest.stamp_ns - boxes.raw.stamp_ns) <= _APART_NS and len(self._cameras) == 1
            tracks = boxes.read() if same is not None or near else None
            if tracks is None:
                continue
            rank = (name.startswith("/truth/"), not (tracks.ids >= 0).any(), "track" not in name, same is None, name)
            if best is None or rank < best[0]:
                best = (rank, same or newest, name)
        if best is None:
            return (newest.number, "", 0), newest, ""
        _, raw, name = best
        return (raw.number, name, self._boxes[name].raw.number), raw, name


def _draw(ros_type: str, raw: _Raw, head: Mapping[str, Any]) -> bytes:
    try:
        message = convert.decode(ros_type, raw.data)
        image = decompress(message) if isinstance(message, CompressedImage) else message
    except Rejected as rejected:
        return blob({**head, "problem": str(rejected)})
    pixels = displayable(image) if isinstance(image, Image) else None
    if pixels is None:
        encoding = image.encoding if isinstance(image, Image) else ros_type
        return blob({**head, "problem": f"images in {encoding} are not shown"})
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE_PX / max(width, height))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return blob({**head, "width_px": width, "height_px": height, "frame": message.frame_id}, jpeg)


def _rows(tracks: Tracks2D) -> list[list[Any]]:
    """Boxes as the page draws them: corners in px, hue in degrees, id or None, class and score in words."""
    boxes = tracks.boxes_xyxy_px.astype(np.float64)
    rows = np.flatnonzero(np.isfinite(boxes).all(axis=1) & (np.abs(boxes) < 1e6).all(axis=1))[:MAX_BOXES].tolist()
    return [
        [
            *(round(v, 1) for v in boxes[row].tolist()),
            int(hue_of(tracks, row)),
            int(tracks.ids[row]) if tracks.ids[row] >= 0 else None,
            f"{name_of(tracks, row)} {float(tracks.scores[row]):.2f}".strip(),
        ]
        for row in rows
    ]
