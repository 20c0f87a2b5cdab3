"""What the sensors saw at a few dozen instants, picked while a recording goes by.

A recording may be far larger than memory. Of its messages only those of the instants are decoded; a sweep is thinned
and an image shrunk to a JPEG at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.messages import CompressedImage, Image, Message, PointCloud
from tercel.hosts.recording import Recorded, Recording

Array = NDArray[Any]

MAX_INSTANTS = 36
MAX_POINTS = 60_000
IMAGE_BUDGET_BYTES = 3_600_000  # of all JPEGs together: the report stays below 8 MB
PAIRING_NS = 250_000_000
_JPEG_STEPS = ((960, 78), (960, 62), (800, 50), (640, 40), (480, 30))  # longest side in px, quality


@dataclass(frozen=True)
class Sweep:
    """A thinned sweep. points_m (N, 3) float32, finite; `count` is how many the sensor gave."""

    stamp_ns: int
    frame_id: str
    points_m: Array
    count: int


@dataclass(frozen=True)
class Picture:
    """An image as a small JPEG; width and height are the original's, as are the boxes' pixels."""

    stamp_ns: int
    frame_id: str
    jpeg: bytes
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Instant:
    """One moment. stamp_ns is that of the sweep, or else of the picture."""

    stamp_ns: int
    sweep: Sweep | None = None
    picture: Picture | None = None


def decode(recording: Recording, recorded: Recorded, *, images: bool = False) -> Message | None:
    """The message, or None where it does not decode: the replay has counted it."""
    try:
        return recording.decode(recorded, images=images)
    except Rejected:
        return None


def sensor_topics(recording: Recording, preferred: Collection[str]) -> tuple[str | None, str | None]:
    """The names of the LiDAR's and the camera's topic that are shown."""
    return (
        _best_topic(recording, (PointCloud,), preferred),
        _best_topic(recording, (Image, CompressedImage), preferred),
    )


def _best_topic(recording: Recording, kinds: tuple[type[Message], ...], preferred: Collection[str]) -> str | None:
    """What the graph has used, then anything but depth, then the topic with most messages."""
    names = [n for n, topic in recording.topics.items() if topic.message_type in kinds and topic.count]
    return min(names, key=lambda n: (n not in preferred, "depth" in n, -recording.topics[n].count, n), default=None)


def spread(count: int) -> list[int]:
    """Indices of up to MAX_INSTANTS of `count` messages, evenly spread, the first and the last among them."""
    if count <= 0:
        return []
    indices: list[int] = np.linspace(0, count - 1, min(MAX_INSTANTS, count)).round().astype(int).tolist()
    return indices


class Snapshots:
    """Takes the messages in order: every so many of the leader (the LiDAR, or else the camera) makes an instant.

    A camera beside a LiDAR follows: its image nearest in log time joins the instant. Nothing is held but the image
    before the present moment and the sweeps that still wait for the one after.
    """

    def __init__(self, recording: Recording, cloud: str | None, image: str | None) -> None:
        self._recording = recording
        self._leader = cloud or image
        self._follower = image if cloud else None
        self._wanted = frozenset(spread(recording.topics[self._leader].count)) if self._leader else frozenset()
        self._seen = 0
        self._before: Recorded | None = None
        self._waiting: deque[tuple[int, Sweep, Recorded | None]] = deque()
        self._budget_bytes = IMAGE_BUDGET_BYTES // max(1, len(self._wanted))
        self._step = 0
        self._instants: list[Instant] = []

    def offer(self, recorded: Recorded) -> None:
        """Take one message of either topic."""
        if recorded.topic == self._follower:
            while self._waiting:
                self._pair(after=recorded)
            self._before = recorded
            return
        self._seen += 1
        if self._seen - 1 not in self._wanted:
            return
        message = decode(self._recording, recorded, images=True)
        if isinstance(message, PointCloud):
            self._waiting.append((recorded.log_time_ns, _thin(message), self._before))
        elif isinstance(message, Image):
            picture = self._shrink(message)
            if picture is not None:
                self._instants.append(Instant(picture.stamp_ns, None, picture))

    def finish(self) -> list[Instant]:
        """The instants, by stamp, after the last message."""
        while self._waiting:
            self._pair(after=None)
        return sorted(self._instants, key=lambda instant: instant.stamp_ns)

    def _pair(self, after: Recorded | None) -> None:
        time_ns, sweep, before = self._waiting.popleft()
        near = [r for r in (before, after) if r is not None and abs(r.log_time_ns - time_ns) <= PAIRING_NS]
        image = None
        if near:
            image = decode(self._recording, min(near, key=lambda r: abs(r.log_time_ns - time_ns)), images=True)
        picture = self._shrink(image) if isinstance(image, Image) else None
        self._instants.append(Instant(sweep.stamp_ns, sweep, picture))

    def _shrink(self, image: Image) -> Picture | None:
        """A JPEG within the budget; once an image has needed a lower quality, those after it begin there."""
        bgr = displayable(image)
        if bgr is None:
            return None
        height, width = bgr.shape[:2]
        while True:
            limit_px, quality = _JPEG_STEPS[self._step]
            scale = min(1.0, limit_px / max(width, height))
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            small = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA) if scale < 1.0 else bgr
            jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(jpeg) <= self._budget_bytes or self._step == len(_JPEG_STEPS) - 1:
                return Picture(image.stamp_ns, image.frame_id, jpeg, width, height)
            self._step += 1


def _thin(cloud: PointCloud) -> Sweep:
    points = cloud.points_m[np.isfinite(cloud.points_m).all(axis=1)]
    every = math.ceil(len(points) / MAX_POINTS) or 1
    return Sweep(cloud.stamp_ns, cloud.frame_id, np.array(points[::every]), len(cloud.points_m))


_TO_BGR = {
    ("rgb8", 3): cv2.COLOR_RGB2BGR, ("rgba8", 4): cv2.COLOR_RGBA2BGR, ("bgra8", 4): cv2.COLOR_BGRA2BGR,
    ("mono8", 1): cv2.COLOR_GRAY2BGR, ("8UC1", 1): cv2.COLOR_GRAY2BGR,
}  # fmt: skip


def displayable(image: Image) -> Array | None:
    """(H, W, 3) uint8 BGR of any encoding; depth is stretched over its 1st to 99th percentile. None where the pixels
    are empty or do not fit the encoding."""
    pixels = np.ascontiguousarray(image.pixels)
    if not pixels.size:
        return None
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8:
        return _depth_colours(pixels.reshape(pixels.shape[:2])) if channels == 1 else None
    conversion = _TO_BGR.get((image.encoding, channels))
    if conversion is not None:
        return np.asarray(cv2.cvtColor(pixels, conversion))
    return pixels if image.encoding in ("bgr8", "8UC3") and channels == 3 else None


def _depth_colours(values: Array) -> Array:
    known = values[np.isfinite(values) & (values > 0)].astype(np.float32)
    low, high = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    share = np.nan_to_num(np.clip((values.astype(np.float32) - low) / max(high - low, 1e-6), 0.0, 1.0))
    return np.asarray(cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS))
