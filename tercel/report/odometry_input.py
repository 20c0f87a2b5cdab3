"""What `tercel odometry` reads: scans, and beside them IMU readings, fixed transforms and true poses, in order of time.

A recording gives what it recorded; a folder of cloud files (KITTI's .bin, PLY, PCD) has no clock, so its files are a
steady number a second. Every scan comes out once: as a cloud, or as the reason why it is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from devices.sensors.recorded.folders import CLOUD_SUFFIXES, read_cloud
from devices.sensors.recorded.reading import files_with, frame_time_ns, require_rate
from tercel.core.errors import Rejected, UserError, nearest_hint
from tercel.core.messages import Imu, Message, Odometry, PointCloud, Transforms
from tercel.hosts.recording import Recording, open_recording
from tercel.report.snapshots import sensor_topics

Role = Literal["cloud", "imu", "static", "truth"]

TRUTH_TOPIC = "/truth/odometry"
_STATIC_TOPIC = "/tf_static"


@dataclass(frozen=True)
class Item:
    """One message, or why it could not be read; log_time_ns says where it stood."""

    role: Role
    log_time_ns: int
    message: Message | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Feed:
    """Where the scans come from. scans: how many are promised. topic: the scans' name. problems: what is damaged."""

    name: str
    topic: str
    scans: int
    source: Recording | list[Path]
    roles: dict[str, Role]
    rate_hz: float
    problems: list[str]

    def items(self) -> Iterator[Item]:
        """All that was asked for, by time."""
        if isinstance(self.source, list):
            yield from _file_items(self.source, self.rate_hz)
            return
        for recorded in self.source.messages(list(self.roles)):
            role = self.roles[recorded.topic]
            try:
                yield Item(role, recorded.log_time_ns, self.source.decode(recorded))
            except Rejected as rejection:
                yield Item(role, recorded.log_time_ns, None, str(rejection))


def open_feed(path: Path, *, topic: str | None, inertial: bool, rate_hz: float) -> Feed:
    """Find the scans. topic: the recording's topic of clouds, None for the LiDAR's that is most likely meant.

    Raises UserError if there is no such thing, no cloud, or, for inertial, no IMU.
    """
    files = _cloud_files(path)
    if files:
        if inertial or topic:
            raise UserError(f"{path} is a folder of clouds: leave {'--inertial' if inertial else '--topic'} out")
        return Feed(path.resolve().name, "", len(files), files, {}, require_rate(rate_hz), [])
    recording = open_recording(path)
    cloud = _cloud_topic(recording, topic)
    roles: dict[str, Role] = {cloud: "cloud"}
    if inertial:
        roles[_imu_topic(recording)] = "imu"
    beside: tuple[tuple[str, type[Message], Role], ...] = (
        (_STATIC_TOPIC, Transforms, "static"),
        (TRUTH_TOPIC, Odometry, "truth"),
    )
    there = recording.topics
    roles |= {name: role for name, kind, role in beside if name in there and there[name].message_type is kind}
    return Feed(path.name, cloud, recording.topics[cloud].count, recording, roles, rate_hz, recording.problems)


def _cloud_files(path: Path) -> list[Path]:
    """The files of a folder of clouds; none if it is no folder, or a recording's."""
    if not path.is_dir() or any(path.glob("*.db3")) or any(path.glob("*.mcap")) or (path / "metadata.yaml").exists():
        return []
    files = files_with(path, CLOUD_SUFFIXES)
    if not files:
        kinds = ", ".join(f"*{suffix}" for suffix in CLOUD_SUFFIXES)
        raise UserError(f"no {kinds} in {path}, and it is no rosbag2 folder; the folder of the scans itself is wanted")
    return files


def _file_items(files: list[Path], rate_hz: float) -> Iterator[Item]:
    for number, path in enumerate(files):
        stamp_ns = frame_time_ns(number, rate_hz)
        try:
            points_m, intensity, ring = read_cloud(path)
            points_m = points_m.astype(np.float32, copy=False)
            cloud = PointCloud(stamp_ns=stamp_ns, frame_id="lidar", points_m=points_m, intensity=intensity, ring=ring)
            yield Item("cloud", stamp_ns, cloud)
        except (ValueError, OSError, EOFError):
            yield Item("cloud", stamp_ns, None, "file is damaged")


def _cloud_topic(recording: Recording, topic: str | None) -> str:
    names = [name for name, each in recording.topics.items() if each.message_type is PointCloud and each.count]
    if topic is not None:
        if topic not in names:
            raise UserError(f"{recording.path.name} has no clouds on {topic}; {nearest_hint(topic, names)}")
        return topic
    found, _ = sensor_topics(recording, ())
    if found is None:
        kinds = sorted({each.ros_type for each in recording.topics.values()})
        raise UserError(
            f"{recording.path.name} has no LiDAR scans (sensor_msgs/msg/PointCloud2); it has {', '.join(kinds)[:200]}"
        )
    return found


def _imu_topic(recording: Recording) -> str:
    names = [name for name, each in recording.topics.items() if each.message_type is Imu and each.count]
    if not names:
        raise UserError(f"{recording.path.name} has no IMU (sensor_msgs/msg/Imu); leave --inertial out")
    return min(names, key=lambda name: (-recording.topics[name].count, name))
