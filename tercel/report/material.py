"""What the report shows of a recording and its result, read in one pass over each.

A recording may be far larger than memory. At a few dozen instants, evenly spread over the messages of its LiDAR (or
camera), the sweep is thinned and the image shrunk to a JPEG at once; all other sweeps and images are passed over
undecoded. Poses and tracks are kept, every n-th where there are more than MAX_MESSAGES of a topic.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.messages import (
    CameraInfo,
    CompressedImage,
    Image,
    Message,
    Odometry,
    PointCloud,
    Tracks2D,
    Tracks3D,
    Transforms,
)
from tercel.hosts.recording import Recorded, Recording
from tercel.report.frames import Frames, StaticFrames, Trajectory

Array = NDArray[Any]

MAX_INSTANTS = 36
MAX_MESSAGES = 3000
MAX_POINTS = 60_000
IMAGE_BUDGET_BYTES = 3_600_000  # of all JPEGs together: the report stays below 8 MB
_JPEG_STEPS = ((960, 78), (960, 62), (800, 50), (640, 40), (480, 30))  # width px, quality
_PAIRING_NS = 250_000_000


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
    """What the sensors saw at one moment. stamp_ns is that of the sweep, or else of the picture."""

    stamp_ns: int
    sweep: Sweep | None = None
    picture: Picture | None = None


@dataclass(frozen=True)
class Boxes2D:
    """A topic of boxes in the image, by stamp."""

    topic: str
    messages: Sequence[Tracks2D]


@dataclass(frozen=True)
class Boxes3D:
    """A topic of boxes in space, by stamp."""

    topic: str
    messages: Sequence[Tracks3D]


@dataclass
class Material:
    """Everything that is drawn. Times are the sensors' stamps; origin_ns is the earliest of them."""

    instants: list[Instant] = field(default_factory=list)
    cameras: list[CameraInfo] = field(default_factory=list)
    frames: Frames = field(default_factory=lambda: Frames(StaticFrames([]), []))
    estimate: Trajectory | None = None
    truth: Trajectory | None = None
    tracks_2d: Boxes2D | None = None
    tracks_3d: Boxes3D | None = None
    truth_2d: Boxes2D | None = None
    truth_3d: Boxes3D | None = None
    origin_ns: int = 0


def gather(recording: Recording, result: Recording, preferred: Collection[str]) -> Material:
    """Read both. preferred: the recording's topics that the graph has used; they are shown rather than others."""
    truths = {name for name in recording.topics if "truth" in name.split("/")}
    infos, statics, truth, instants = _read_input(recording, preferred, truths)
    found = _read_boxes_and_poses(result, {n for n, t in result.topics.items() if t.message_type in _FOUND})
    statics += found.transforms
    estimate, true = _best_trajectory(found.poses), _best_trajectory(truth.poses)
    trajectories = [t for t in (estimate, true) if t is not None]
    material = Material(
        instants=instants,
        cameras=infos,
        frames=Frames(StaticFrames(statics), trajectories),
        estimate=estimate,
        truth=true,
        tracks_2d=_best_boxes_2d(found),
        tracks_3d=_best_boxes_3d(found),
        truth_2d=_best_boxes_2d(truth),
        truth_3d=_best_boxes_3d(truth),
    )
    if not material.instants:
        material.instants = _instants_of_boxes(material)
    material.origin_ns = min(_first_stamps(material), default=recording.start_ns)
    return material


def nearest(messages: Sequence[Any], stamp_ns: int, tolerance_ns: int = _PAIRING_NS) -> Any | None:
    """The message, of a sequence ordered by stamp, that is nearest to a stamp; None if none is within tolerance."""
    stamps = np.array([m.stamp_ns for m in messages], dtype=np.int64)
    if not len(stamps):
        return None
    best = int(np.argmin(np.abs(stamps - stamp_ns)))
    return messages[best] if abs(int(stamps[best]) - stamp_ns) <= tolerance_ns else None


# --- poses, boxes and calibration --------------------------------------------------------------------------------


@dataclass
class _Found:
    poses: dict[str, list[Odometry]] = field(default_factory=dict)
    boxes_2d: dict[str, list[Tracks2D]] = field(default_factory=dict)
    boxes_3d: dict[str, list[Tracks3D]] = field(default_factory=dict)
    transforms: list[Transforms] = field(default_factory=list)

    def add(self, topic: str, message: Message) -> None:
        if isinstance(message, Odometry):
            self.poses.setdefault(topic, []).append(message)
        elif isinstance(message, Tracks2D):
            self.boxes_2d.setdefault(topic, []).append(message)
        elif isinstance(message, Tracks3D):
            self.boxes_3d.setdefault(topic, []).append(message)
        elif isinstance(message, Transforms) and topic.endswith("tf_static"):
            self.transforms.append(message)


_FOUND = (Odometry, Tracks2D, Tracks3D, Transforms)


class _Thinned:
    """Which messages of each topic are decoded: every one, or every n-th of a long topic."""

    def __init__(self, recording: Recording) -> None:
        self._every = {name: math.ceil(topic.count / MAX_MESSAGES) or 1 for name, topic in recording.topics.items()}
        self._seen = dict.fromkeys(recording.topics, -1)

    def wants(self, topic: str) -> bool:
        self._seen[topic] += 1
        return self._seen[topic] % self._every[topic] == 0


def _decode(recording: Recording, recorded: Recorded, *, images: bool = False) -> Message | None:
    try:
        return recording.decode(recorded, images=images)
    except Rejected:
        return None  # the replay has counted it


def _read_boxes_and_poses(recording: Recording, topics: Collection[str]) -> _Found:
    found, thinned = _Found(), _Thinned(recording)
    kept = {name for name in topics if name != "/tf"}
    for recorded in recording.messages(kept):
        if thinned.wants(recorded.topic):
            message = _decode(recording, recorded)
            if message is not None:
                found.add(recorded.topic, message)
    return found


def _best_trajectory(poses: dict[str, list[Odometry]]) -> Trajectory | None:
    """The topic whose name ends with "odometry", of these the one with most poses."""
    ranked = sorted(poses, key=lambda name: (not name.endswith("odometry"), -len(poses[name]), name))
    for topic in ranked:
        try:
            return Trajectory.of(topic, poses[topic])
        except ValueError:
            continue
    return None


def _best_boxes_2d(found: _Found) -> Boxes2D | None:
    topic = _most_tracked(found.boxes_2d)
    return None if topic is None else Boxes2D(topic, sorted(found.boxes_2d[topic], key=lambda m: m.stamp_ns))


def _best_boxes_3d(found: _Found) -> Boxes3D | None:
    topic = _most_tracked(found.boxes_3d)
    return None if topic is None else Boxes3D(topic, sorted(found.boxes_3d[topic], key=lambda m: m.stamp_ns))


def _most_tracked(boxes: dict[str, Any]) -> str | None:
    """The topic with most boxes that have an id: tracks rather than the detections that they are made of."""

    def rank(topic: str) -> tuple[int, int, str]:
        tracked = sum(int((message.ids >= 0).sum()) for message in boxes[topic])
        return -tracked, -len(boxes[topic]), topic

    return min(boxes, key=rank, default=None)


def _instants_of_boxes(material: Material) -> list[Instant]:
    """A recording without camera and LiDAR still has its boxes to show."""
    boxes: Boxes2D | Boxes3D | None = material.tracks_3d or material.tracks_2d
    if boxes is None:
        return []
    return [Instant(boxes.messages[i].stamp_ns) for i in sorted(_spread(len(boxes.messages)))]


def _first_stamps(material: Material) -> Iterator[int]:
    yield from (instant.stamp_ns for instant in material.instants[:1])
    if material.estimate is not None:
        yield int(material.estimate.stamps_ns[0])
    for boxes in (material.tracks_2d, material.tracks_3d):
        if boxes is not None and boxes.messages:
            yield boxes.messages[0].stamp_ns


# --- sweeps and pictures -----------------------------------------------------------------------------------------


def _read_input(
    recording: Recording, preferred: Collection[str], truths: Collection[str]
) -> tuple[list[CameraInfo], list[Transforms], _Found, list[Instant]]:
    """One pass over the recording: calibrations, static transforms, truth, and the instants."""
    cloud = _best_topic(recording, (PointCloud,), preferred)
    image = _best_topic(recording, (Image, CompressedImage), preferred)
    instants = _Instants(recording, cloud, image)
    infos = {name for name, topic in recording.topics.items() if topic.message_type is CameraInfo}
    statics = {n for n, t in recording.topics.items() if t.message_type is Transforms and n.endswith("tf_static")}
    found_infos: dict[str, CameraInfo] = {}
    truth, thinned = _Found(), _Thinned(recording)
    for recorded in recording.messages({cloud, image, *infos, *statics, *truths} - {None}):  # type: ignore[arg-type]
        name = recorded.topic
        if name in (cloud, image):
            instants.offer(recorded)
        elif name in infos and name not in found_infos:
            message = _decode(recording, recorded)
            if isinstance(message, CameraInfo):
                found_infos[name] = message
        elif name in statics or (name in truths and thinned.wants(name)):
            message = _decode(recording, recorded)
            if message is not None:
                truth.add(name, message)
    return [found_infos[name] for name in sorted(found_infos)], truth.transforms, truth, instants.finish()


def _best_topic(recording: Recording, kinds: tuple[type[Message], ...], preferred: Collection[str]) -> str | None:
    """What the graph has used, then anything but depth, then the topic with most messages."""
    names = [n for n, topic in recording.topics.items() if topic.message_type in kinds and topic.count]
    return min(
        names, key=lambda n: (n not in preferred, "depth" in n, -recording.topics[n].count, n), default=None
    )


def _spread(count: int) -> set[int]:
    """Indices of up to MAX_INSTANTS of `count` messages, evenly spread, the first and the last among them."""
    return set(np.linspace(0, max(count - 1, 0), min(MAX_INSTANTS, count)).round().astype(int).tolist())


class _Instants:
    """Chosen while the messages go by: a leader (the LiDAR, or else the camera), and the image nearest to it.

    Nothing is held but the image before the present moment and the leaders that still wait for the one after.
    """

    def __init__(self, recording: Recording, cloud: str | None, image: str | None) -> None:
        self._recording = recording
        self._leader = cloud or image
        self._follower = image if cloud else None
        self._wanted = _spread(recording.topics[self._leader].count) if self._leader else set()
        self._seen = 0
        self._before: Recorded | None = None
        self._waiting: deque[tuple[int, Message, Recorded | None]] = deque()
        self._budget_bytes = IMAGE_BUDGET_BYTES // max(1, len(self._wanted))
        self._step = 0
        self._done: list[Instant] = []

    def offer(self, recorded: Recorded) -> None:
        if recorded.topic == self._leader:
            self._seen += 1
            if self._seen - 1 in self._wanted:
                message = _decode(self._recording, recorded, images=True)
                if message is not None:
                    self._waiting.append((recorded.log_time_ns, _small(message), self._before))
        if recorded.topic == self._follower:
            while self._waiting:
                self._settle(after=recorded)
            self._before = recorded
        elif self._follower is None and self._waiting:
            self._settle(after=None)

    def finish(self) -> list[Instant]:
        while self._waiting:
            self._settle(after=None)
        return sorted(self._done, key=lambda instant: instant.stamp_ns)

    def _settle(self, after: Recorded | None) -> None:
        time_ns, leader, before = self._waiting.popleft()
        partners = [r for r in (before, after) if r is not None and abs(r.log_time_ns - time_ns) <= _PAIRING_NS]
        picture = None
        if partners:
            partner = min(partners, key=lambda r: abs(r.log_time_ns - time_ns))
            image = _decode(self._recording, partner, images=True)
            picture = self._picture(image) if isinstance(image, Image) else None
        if isinstance(leader, Image):
            picture = self._picture(leader)
            if picture is not None:
                self._done.append(Instant(picture.stamp_ns, None, picture))
        elif isinstance(leader, PointCloud):
            sweep = _sweep(leader)
            self._done.append(Instant(sweep.stamp_ns, sweep, picture))

    def _picture(self, image: Image) -> Picture | None:
        """A JPEG within the budget; once an image has needed a lower quality, those after it begin there."""
        bgr = displayable(image)
        if bgr is None:
            return None
        height, width = bgr.shape[:2]
        while True:
            limit_px, quality = _JPEG_STEPS[self._step]
            scale = min(1.0, limit_px / width, limit_px / height)
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            small = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA) if scale < 1.0 else bgr
            jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(jpeg) <= self._budget_bytes or self._step == len(_JPEG_STEPS) - 1:
                return Picture(image.stamp_ns, image.frame_id, jpeg, width, height)
            self._step += 1


def _small(message: Message) -> Message:
    """A message that no longer keeps its chunk of the file alive."""
    if not isinstance(message, PointCloud):
        return message
    return PointCloud(stamp_ns=message.stamp_ns, frame_id=message.frame_id, points_m=np.array(message.points_m))


def _sweep(cloud: PointCloud) -> Sweep:
    points = cloud.points_m[np.isfinite(cloud.points_m).all(axis=1)]
    every = math.ceil(len(points) / MAX_POINTS) or 1
    return Sweep(cloud.stamp_ns, cloud.frame_id, np.ascontiguousarray(points[::every]), len(cloud.points_m))


_TO_BGR = {
    "rgb8": cv2.COLOR_RGB2BGR, "rgba8": cv2.COLOR_RGBA2BGR, "bgra8": cv2.COLOR_BGRA2BGR,
    "mono8": cv2.COLOR_GRAY2BGR, "8UC1": cv2.COLOR_GRAY2BGR,
}  # fmt: skip


def displayable(image: Image) -> Array | None:
    """(H, W, 3) uint8 BGR of any encoding; depth is stretched over its 1st..99th percentile. None if it is empty."""
    pixels = np.ascontiguousarray(image.pixels)
    if not pixels.size:
        return None
    if pixels.dtype == np.uint8:
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        pixels = pixels if channels > 1 else pixels.reshape(pixels.shape[:2])
        if image.encoding in _TO_BGR:
            return np.asarray(cv2.cvtColor(pixels, _TO_BGR[image.encoding]))
        return pixels if channels == 3 else None
    values = pixels.reshape(pixels.shape[:2]).astype(np.float32) if pixels.ndim == 2 else None
    if values is None:
        return None
    known = values[np.isfinite(values) & (values > 0)]
    low, high = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    grey = np.nan_to_num(np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0)) * 255
    return np.asarray(cv2.applyColorMap(grey.astype(np.uint8), cv2.COLORMAP_VIRIDIS))
