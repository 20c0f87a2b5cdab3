"""Importers: public recordings in their original layouts, as a stream of messages in time order.

    for topic, log_time_ns, message in FORMATS["kitti-raw"].read(Path("..._sync"), problems=problems): ...

An importer checks the layout at once (UserError) and then reads file by file; a damaged file in the middle is
skipped and said in one line of `problems`. The same input gives the same messages: recordings without a clock begin
at reading.EPOCH_NS. Topics: /camera/image (the file's own bytes), /camera/camera_info, /camera/depth, /lidar/points,
/imu/data, /gps/fix, /tf_static and /truth/{odometry,tracks_2d,tracks_3d}.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from devices.sensors.recorded.euroc import read_euroc_imu
from devices.sensors.recorded.folders import read_clouds, read_images, read_video
from devices.sensors.recorded.kitti_labelled import read_kitti_object, read_kitti_tracking
from devices.sensors.recorded.kitti_odometry import read_kitti_odometry
from devices.sensors.recorded.kitti_raw import read_kitti_raw
from devices.sensors.recorded.reading import EPOCH_NS, Item
from devices.sensors.recorded.rgbd import read_7scenes, read_tum_rgbd
from tercel.core.errors import UserError, nearest_hint

__all__ = ["EPOCH_NS", "FORMATS", "Importer", "Item", "Option"]


@dataclass(frozen=True)
class Option:
    """One keyword of an importer; its default is the function's own."""

    default: bool | int | float | str
    help: str


@dataclass(frozen=True)
class Importer:
    """A format. read(source: Path, *, problems: list[str], **options) yields (topic, log_time_ns, message)."""

    read: Callable[..., Iterator[Item]]
    summary: str
    option_help: Mapping[str, str]

    @property
    def options(self) -> dict[str, Option]:
        """The keywords by name, with the defaults that stand in the function's signature."""
        defaults = inspect.signature(self.read).parameters
        return {name: Option(defaults[name].default, text) for name, text in self.option_help.items()}

    def parse_options(self, texts: Mapping[str, str]) -> dict[str, bool | int | float | str]:
        """Typed keywords of "name=value" texts. Raises UserError for an unknown name or a value of another type."""
        return {name: self._parse_option(name, text) for name, text in texts.items()}

    def _parse_option(self, name: str, text: str) -> bool | int | float | str:
        if name not in self.options:
            raise UserError(f"unknown option {name!r}; {nearest_hint(name, self.options)}")
        kind: type[Any] = type(self.options[name].default)
        try:
            if kind is bool:
                return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
            value: bool | int | float | str = kind(text)
        except (ValueError, KeyError):
            word = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
            raise UserError(f"option {name}={text}: give {word}") from None
        return value


_RATE = "frames a second, for recordings without a clock"
_SWEEP = "give each LiDAR point its time within the sweep, from its azimuth"
_INTRINSICS = '"fx,fy,cx,cy" in px; empty: no camera_info'

FORMATS: dict[str, Importer] = {
    "kitti-raw": Importer(
        read_kitti_raw,
        "KITTI raw drive: the ..._sync folder, calibration in it or beside it",
        {"rate_hz": "frame numbers a second, where timestamps.txt is missing", "sweep_times": _SWEEP},
    ),
    "kitti-odometry": Importer(
        read_kitti_odometry,
        "KITTI odometry: the folder that holds sequences/ and poses/",
        {"sequence": "which sequence: 00 to 21"},
    ),
    "kitti-object": Importer(
        read_kitti_object,
        "KITTI object: training/{image_2,velodyne,calib,label_2}",
        {"rate_hz": "frame numbers a second; the frames are unrelated"},
    ),
    "kitti-tracking": Importer(
        read_kitti_tracking,
        "KITTI tracking: training/{velodyne,image_02,label_02,calib,oxts}/NNNN",
        {"sequence": "which sequence: 0000 to 0028", "rate_hz": "frame numbers a second", "sweep_times": _SWEEP},
    ),
    "tum-rgbd": Importer(
        read_tum_rgbd,
        "TUM RGB-D sequence: rgb.txt, depth.txt, groundtruth.txt",
        {"intrinsics": '"fx,fy,cx,cy" in px'},
    ),
    "7scenes": Importer(
        read_7scenes,
        "7-Scenes sequence: frame-NNNNNN.{color,depth,pose}",
        {"rate_hz": "frame numbers a second", "intrinsics": '"fx,fy,cx,cy" in px; empty: the folder\'s, else 585'},
    ),
    "euroc-imu": Importer(
        read_euroc_imu,
        "EuRoC MAV inertial data and truth: mav0/ or imu0/data.csv, gzipped or not",
        {
            "stamps": "auto, keep or rebuild: what to do with stamps that a spreadsheet has rounded",
            "rate_hz": "the IMU's rate, for rebuilt stamps",
            "start_ns": "the first rebuilt stamp; 0: what the file says",
            "truth": "a trajectory file; empty: the recording's own",
        },
    ),
    "clouds": Importer(
        read_clouds, "a PLY, PCD, KITTI .bin or nuScenes .pcd.bin file, or a folder of them", {"rate_hz": _RATE}
    ),
    "images": Importer(
        read_images, "a folder of JPEG and PNG images, passed through", {"rate_hz": _RATE, "intrinsics": _INTRINSICS}
    ),
    "video": Importer(
        read_video,
        "a video file that OpenCV can open, as JPEG frames",
        {"rate_hz": "frames a second; 0: the file's own", "intrinsics": _INTRINSICS, "jpeg_quality": "1 to 100"},
    ),
}
