"""The parts that KITTI's four layouts share: folders of numbered images and scans, and label files, as streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.cloud_files import read_kitti_bin
from devices.sensors.recorded.image_bytes import IMAGE_SUFFIXES, camera_info, compressed_image, read_image
from devices.sensors.recorded.kitti_calibration import KittiCalibration
from devices.sensors.recorded.kitti_labels import LabelRow, parse_row
from devices.sensors.recorded.reading import Item, attempt, note, numbered_files, short_name, text_rows
from tercel.core.messages import PointCloud

Array = NDArray[Any]
StampOf = Callable[[int], int | None]

SWEEP_S = 0.1
"""One turn of the HDL-64E at KITTI's 10 Hz."""


@dataclass(frozen=True)
class CameraFolder:
    """One camera's images. frame: "camera", or "camera_02" where there are several."""

    number: int
    folder: Path
    frame: str


def camera_folders(folders: Sequence[tuple[int, Path]]) -> list[CameraFolder]:
    """The cameras whose folder exists, with their frame names."""
    there = [(number, folder) for number, folder in folders if folder.is_dir()]
    return [CameraFolder(n, folder, "camera" if len(there) == 1 else f"camera_{n:02d}") for n, folder in there]


def image_stream(
    camera: CameraFolder, calibration: KittiCalibration | None, stamp_of: StampOf, problems: list[str]
) -> Iterator[Item]:
    """/FRAME/camera_info (where calibrated) and /FRAME/image of one camera."""
    for stamp_ns, path in stamped_files(camera.folder, IMAGE_SUFFIXES, stamp_of, problems):
        yield from image_items(path, stamp_ns, camera, calibration, problems)


def image_items(
    path: Path, stamp_ns: int, camera: CameraFolder, calibration: KittiCalibration | None, problems: list[str]
) -> Iterator[Item]:
    """The messages of one image file; none if it is damaged."""
    image = attempt(read_image, path, problems)
    if image is None:
        return
    if calibration is not None and camera.number in calibration.projections:
        info = camera_info(image, calibration.intrinsics(camera.number), stamp_ns, camera.frame)
        yield f"/{camera.frame}/camera_info", stamp_ns, info
    yield f"/{camera.frame}/image", stamp_ns, compressed_image(image, stamp_ns, camera.frame)


def cloud_stream(folder: Path, stamp_of: StampOf, sweep_times: bool, problems: list[str]) -> Iterator[Item]:
    """/lidar/points of a folder of .bin scans; with sweep_times, each point's time from its azimuth."""
    for stamp_ns, path in stamped_files(folder, (".bin",), stamp_of, problems):
        yield from cloud_items(path, stamp_ns, sweep_times, problems)


def cloud_items(path: Path, stamp_ns: int, sweep_times: bool, problems: list[str]) -> Iterator[Item]:
    """The message of one scan; none if it is damaged."""
    columns = attempt(read_kitti_bin, path, problems)
    if columns is None:
        return
    points_m, intensity = columns
    times_s = sweep_time_offsets_s(points_m) if sweep_times else None
    cloud = PointCloud(
        stamp_ns=stamp_ns, frame_id="lidar", points_m=points_m, intensity=intensity, time_offset_s=times_s
    )
    yield "/lidar/points", stamp_ns, cloud


def sweep_time_offsets_s(points_m: Array) -> Array:
    """When each point (N, 3) was measured, (N,) float32 in -0.05..0.05 s.

    KITTI stamps a scan when it faces ahead, and the sweep runs clockwise seen from above: from behind over the left
    side, the front (0 s) and the right side to behind again. (The dataset's paper says counter-clockwise. Scans of
    drive 0005 one second apart, unwound clockwise, fit each other to 5.1 cm point to plane; as they are 5.7, unwound
    counter-clockwise 6.5.) Only for scans that are not yet motion-compensated: raw and tracking, not odometry.
    """
    result: Array = (-np.arctan2(points_m[:, 1], points_m[:, 0]) * (SWEEP_S / (2.0 * np.pi))).astype(np.float32)
    return result


def stamped_files(
    folder: Path, suffixes: Sequence[str], stamp_of: StampOf, problems: list[str]
) -> Iterator[tuple[int, Path]]:
    """(stamp_ns, file) of a folder's numbered files; a file without a stamp is noted."""
    for number, path in numbered_files(folder, suffixes, problems):
        stamp_ns = stamp_of(number)
        if stamp_ns is None:
            note(problems, f"{short_name(path)}: it has no line in the timestamps; skipped")
        else:
            yield stamp_ns, path


def read_labels(path: Path, *, tracking: bool, problems: list[str]) -> dict[int, list[LabelRow]]:
    """The label rows of a file by frame (0 in the object layout); malformed rows are noted."""
    frames: dict[int, list[LabelRow]] = {}
    for line_number, line in text_rows(path, problems):
        try:
            row = parse_row(line, tracking=tracking)
        except ValueError as error:
            note(problems, f"{short_name(path)} line {line_number}: {error}; skipped")
            continue
        if row is not None:
            frames.setdefault(row.frame, []).append(row)
    return frames
