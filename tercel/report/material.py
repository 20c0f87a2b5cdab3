"""What the report shows of a recording and its result, read in one pass over each.

Poses and tracks are kept, every n-th where a topic has very many; images and clouds only at the instants (see
snapshots). Of several topics of boxes only one is read, tracks rather than the detections that they are made of.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from tercel.core.frames import StaticFrames
from tercel.core.messages import CameraInfo, Message, Odometry, Tracks2D, Tracks3D, Transforms
from tercel.hosts.recording import Recording
from tercel.report.frames import Frames, Trajectory
from tercel.report.snapshots import PAIRING_NS, Instant, Snapshots, decode, sensor_topics, spread

MAX_POSES = 3000
MAX_BOX_MESSAGES = 1200  # decoding one of a hundred boxes takes about 10 ms
_PROBES = 8

Boxes = TypeVar("Boxes", Tracks2D, Tracks3D)


@dataclass(frozen=True)
class BoxTopic(Generic[Boxes]):
    """A topic of boxes; its messages by stamp."""

    topic: str
    messages: Sequence[Boxes]

    def at(self, stamp_ns: int) -> Boxes | None:
        """The message nearest to a stamp; None if none is near."""
        stamps = np.array([m.stamp_ns for m in self.messages], dtype=np.int64)
        best = int(np.argmin(np.abs(stamps - stamp_ns)))
        return self.messages[best] if abs(int(stamps[best]) - stamp_ns) <= PAIRING_NS else None


@dataclass
class Material:
    """Everything that is drawn. Times are the sensors' stamps; origin_ns is the earliest of them."""

    instants: list[Instant]
    cameras: list[CameraInfo]
    frames: Frames
    estimate: Trajectory | None
    truth: Trajectory | None
    tracks_2d: BoxTopic[Tracks2D] | None
    tracks_3d: BoxTopic[Tracks3D] | None
    truth_2d: BoxTopic[Tracks2D] | None
    truth_3d: BoxTopic[Tracks3D] | None
    origin_ns: int = 0


def gather(recording: Recording, result: Recording, preferred: Collection[str]) -> Material:
    """Read both. preferred: the recording's topics that the graph has used; they are shown rather than others."""
    given = _read_recording(recording, preferred)
    found = _read_result(result)
    estimate, truth = _best_trajectory(found.poses), _best_trajectory(given.poses)
    material = Material(
        instants=given.instants,
        cameras=[given.cameras[topic] for topic in sorted(given.cameras)],
        frames=Frames(StaticFrames(given.transforms + found.transforms), [t for t in (estimate, truth) if t]),
        estimate=estimate,
        truth=truth,
        tracks_2d=_only(found.boxes_2d),
        tracks_3d=_only(found.boxes_3d),
        truth_2d=_only(given.boxes_2d),
        truth_3d=_only(given.boxes_3d),
    )
    if not material.instants:
        material.instants = _instants_of_boxes(material)
    material.origin_ns = min(_first_stamps(material), default=recording.start_ns)
    return material


@dataclass
class _Found:
    """Decoded messages by topic."""

    poses: dict[str, list[Odometry]] = field(default_factory=dict)
    boxes_2d: dict[str, list[Tracks2D]] = field(default_factory=dict)
    boxes_3d: dict[str, list[Tracks3D]] = field(default_factory=dict)
    cameras: dict[str, CameraInfo] = field(default_factory=dict)
    transforms: list[Transforms] = field(default_factory=list)
    instants: list[Instant] = field(default_factory=list)

    def add(self, topic: str, message: Message | None) -> None:
        if isinstance(message, Odometry):
            self.poses.setdefault(topic, []).append(message)
        elif isinstance(message, Tracks2D):
            self.boxes_2d.setdefault(topic, []).append(message)
        elif isinstance(message, Tracks3D):
            self.boxes_3d.setdefault(topic, []).append(message)
        elif isinstance(message, CameraInfo):
            self.cameras.setdefault(topic, message)
        elif isinstance(message, Transforms):
            self.transforms.append(message)


class _Thinning:
    """Which messages of each topic are decoded: every one, or every n-th of a long topic."""

    def __init__(self, recording: Recording) -> None:
        self._every = {
            name: math.ceil(topic.count / (MAX_POSES if topic.message_type is Odometry else MAX_BOX_MESSAGES)) or 1
            for name, topic in recording.topics.items()
        }
        self._seen = dict.fromkeys(recording.topics, 0)

    def wants(self, topic: str) -> bool:
        self._seen[topic] += 1
        return (self._seen[topic] - 1) % self._every[topic] == 0


def _read_recording(recording: Recording, preferred: Collection[str]) -> _Found:
    """Calibrations, static transforms, truth and the instants."""
    cloud, image = sensor_topics(recording, preferred)
    sensors = {name for name in (cloud, image) if name is not None}
    truths = {name for name in recording.topics if "truth" in name.split("/")}
    cameras = {name for name, topic in recording.topics.items() if topic.message_type is CameraInfo}
    others = _needed(recording, truths) | _statics(recording) | cameras
    snapshots, found, thinning = Snapshots(recording, cloud, image), _Found(), _Thinning(recording)
    for recorded in recording.messages(sensors | others):
        if recorded.topic in sensors:
            snapshots.offer(recorded)
        elif recorded.topic not in found.cameras and thinning.wants(recorded.topic):
            found.add(recorded.topic, decode(recording, recorded))
    found.instants = snapshots.finish()
    return found


def _read_result(result: Recording) -> _Found:
    found, thinning = _Found(), _Thinning(result)
    for recorded in result.messages(_needed(result, result.topics) | _statics(result)):
        if thinning.wants(recorded.topic):
            found.add(recorded.topic, decode(result, recorded))
    return found


def _statics(recording: Recording) -> set[str]:
    topics = recording.topics.items()
    return {name for name, topic in topics if topic.message_type is Transforms and name.endswith("tf_static")}


def _needed(recording: Recording, among: Collection[str]) -> set[str]:
    """All topics of poses, and of boxes in the image and in space one each: that with most ids, then most messages."""
    kinds = {kind: [n for n in sorted(among) if recording.topics[n].message_type is kind] for kind in _KINDS}
    tracked = dict.fromkeys(among, 0)
    if max(len(kinds[Tracks2D]), len(kinds[Tracks3D])) > 1:
        tracked.update(_probe(recording, {*kinds[Tracks2D], *kinds[Tracks3D]}))
    needed = set(kinds[Odometry])
    for kind in (Tracks2D, Tracks3D):
        needed.update(sorted(kinds[kind], key=lambda n: (-tracked[n], -recording.topics[n].count, n))[:1])
    return needed


_KINDS: tuple[type[Message], ...] = (Odometry, Tracks2D, Tracks3D)


def _probe(recording: Recording, topics: Collection[str]) -> dict[str, int]:
    """How many boxes with an id a few messages of each topic have, from among all its messages."""
    tracked, seen = dict.fromkeys(topics, 0), dict.fromkeys(topics, 0)
    every = {name: max(1, recording.topics[name].count // _PROBES) for name in topics}
    for recorded in recording.messages(topics):
        name = recorded.topic
        seen[name] += 1
        if seen[name] % every[name] == 0:
            message = decode(recording, recorded)
            tracked[name] += int((message.ids >= 0).sum()) if isinstance(message, (Tracks2D, Tracks3D)) else 0
    return tracked


def _best_trajectory(poses: dict[str, list[Odometry]]) -> Trajectory | None:
    """The topic whose name ends with "odometry"; of several, the one with most poses."""
    for topic in sorted(poses, key=lambda name: (not name.endswith("odometry"), -len(poses[name]), name)):
        try:
            return Trajectory.of(topic, poses[topic])
        except ValueError:
            continue
    return None


def _only(boxes: dict[str, list[Boxes]]) -> BoxTopic[Boxes] | None:
    for topic, messages in boxes.items():
        return BoxTopic(topic, sorted(messages, key=lambda m: m.stamp_ns))
    return None


def _instants_of_boxes(material: Material) -> list[Instant]:
    """A recording without camera and LiDAR still has its boxes to show."""
    boxes = material.tracks_3d or material.tracks_2d
    return [] if boxes is None else [Instant(boxes.messages[i].stamp_ns) for i in spread(len(boxes.messages))]


def _first_stamps(material: Material) -> Iterator[int]:
    yield from (instant.stamp_ns for instant in material.instants[:1])
    if material.estimate is not None:
        yield int(material.estimate.stamps_ns[0])
    for boxes in (material.tracks_2d, material.tracks_3d):
        if boxes is not None:
            yield boxes.messages[0].stamp_ns
