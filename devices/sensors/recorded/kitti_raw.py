"""KITTI raw drives ("2011_09_26_drive_0005_sync") as messages.

Layout: image_00..03/data, velodyne_points/data and oxts/data, each with a timestamps.txt; the day's calibration files
stand in the folder above. Frames: "lidar" is the root of the rig, with "imu" and the rectified "camera" under it.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from pathlib import Path

from devices.sensors.recorded.kitti_calibration import find_raw
from devices.sensors.recorded.kitti_frames import (
    StampOf,
    camera_folders,
    cloud_stream,
    image_stream,
    stamped_files,
)
from devices.sensors.recorded.kitti_oxts import oxts_stream
from devices.sensors.recorded.reading import (
    Item,
    attempt,
    fixed_transforms,
    frame_time_ns,
    in_time_order,
    note,
    require_folder,
    require_rate,
    short_name,
    text_rows,
)
from tercel.core.errors import UserError

_STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?$", re.ASCII)


def read_kitti_raw(
    source: Path, *, rate_hz: float = 10.0, sweep_times: bool = False, problems: list[str] | None = None
) -> Iterator[Item]:
    """One drive. Stamps come from timestamps.txt; where a sensor has none, frame n of every sensor is n / rate_hz.

    Raises UserError if there is no drive at source, or its calibration is damaged.
    """
    problems = [] if problems is None else problems
    require_rate(rate_hz)
    require_folder(source)
    cameras = camera_folders([(i, source / f"image_{i:02d}" / "data") for i in range(4)])
    sensors = [camera.folder.parent for camera in cameras]
    sensors += [source / name for name in ("velodyne_points", "oxts") if (source / name / "data").is_dir()]
    if not sensors:
        raise UserError(
            f"no image_0*/data, velodyne_points/data or oxts/data under {source}; kitti-raw wants the ..._sync folder"
        )
    calibration = find_raw(source)
    if calibration is None:
        note(problems, "no calibration in or beside the drive: no camera_info, and no tf_static")
    stamps = _clocks(sensors, rate_hz, problems)
    streams = [image_stream(camera, calibration, stamps[camera.folder.parent], problems) for camera in cameras]
    velodyne, oxts = source / "velodyne_points", source / "oxts"
    if velodyne in stamps:
        streams.append(cloud_stream(velodyne / "data", stamps[velodyne], sweep_times, problems))
    if oxts in stamps:
        packets = _oxts_packets(oxts / "data", stamps[oxts], problems)
        streams.append(oxts_stream(packets, calibration.lidar_T_imu if calibration else None, problems))
    links = calibration.links({camera.number: camera.frame for camera in cameras}) if calibration else []
    return in_time_order(streams, fixed_transforms(links), problems)


def _oxts_packets(folder: Path, stamp_of: StampOf, problems: list[str]) -> Iterator[tuple[int, str, str]]:
    for stamp_ns, path in stamped_files(folder, (".txt",), stamp_of, problems):
        text = attempt(lambda file: file.read_bytes()[:4096].decode("ascii", "replace"), path, problems)
        if text is not None:
            yield stamp_ns, short_name(path), text


def _clocks(sensors: list[Path], rate_hz: float, problems: list[str]) -> dict[Path, StampOf]:
    """Each sensor's stamps by frame number. Two clocks are never mixed: without one file all count frames."""
    without = [sensor.name for sensor in sensors if not (sensor / "timestamps.txt").is_file()]
    if without:
        if len(without) < len(sensors):
            note(problems, f"{', '.join(without)}: no timestamps.txt; all sensors are stamped by frame number")
        return {sensor: lambda number: frame_time_ns(number, rate_hz) for sensor in sensors}
    tables = {sensor: _read_timestamps(sensor / "timestamps.txt", problems) for sensor in sensors}
    return {sensor: table.get for sensor, table in tables.items()}


def _read_timestamps(path: Path, problems: list[str]) -> dict[int, int]:
    """Stamps (ns, taken as UTC) by line number from 0; empty or malformed lines are left out and noted."""
    stamps: dict[int, int] = {}
    for line_number, line in text_rows(path, problems):
        try:
            stamps[line_number - 1] = parse_timestamp(line)
        except ValueError as error:
            note(problems, f"{short_name(path)} line {line_number}: {error}; skipped")
    return stamps


def parse_timestamp(text: str) -> int:
    """Nanoseconds since 1970 of "2011-09-26 13:02:25.964389445", taken as UTC. Raises ValueError."""
    match = _STAMP.match(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a time")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        raise ValueError(f"{text[:40]!r} is not a time")
    seconds = calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0))
    return seconds * 10**9 + int((match.group(7) or "").ljust(9, "0"))
