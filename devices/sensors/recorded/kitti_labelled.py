"""The KITTI object and tracking benchmarks as messages: images, scans and labels.

Neither has a clock: frame n is stamped EPOCH_NS + n / rate_hz. source is the folder training/ or testing/, or the
one above training/. Labels become /truth/tracks_3d in "lidar" and /truth/tracks_2d in the left colour camera.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.image_bytes import IMAGE_SUFFIXES
from devices.sensors.recorded.kitti_calibration import KittiCalibration, read_single_file
from devices.sensors.recorded.kitti_frames import (
    CameraFolder,
    camera_folders,
    cloud_items,
    cloud_stream,
    image_items,
    image_stream,
    read_labels,
)
from devices.sensors.recorded.kitti_labels import LabelRow, tracks_2d, tracks_3d
from devices.sensors.recorded.kitti_oxts import oxts_stream
from devices.sensors.recorded.reading import (
    Item,
    files_with,
    fixed_transforms,
    frame_time_ns,
    in_time_order,
    note,
    numbered_files,
    require_folder,
    require_rate,
    short_name,
    stamped,
    text_rows,
)
from tercel.core.errors import UserError

Array = NDArray[Any]

_LABELLED_CAMERA = 2


def read_kitti_object(source: Path, *, rate_hz: float = 1.0, problems: list[str] | None = None) -> Iterator[Item]:
    """The object benchmark: training/{image_2,velodyne,calib,label_2}.

    The frames have nothing to do with each other and each has its own calibration: /tf_static is repeated whenever
    it changes, track ids are -1 and there is no odometry. Raises UserError if there is neither image_2 nor velodyne.
    """
    problems = [] if problems is None else problems
    require_rate(rate_hz)
    folder = _split_folder(source)
    cameras = camera_folders([(number, folder / f"image_{number}") for number in (2, 3)])
    if not cameras and not (folder / "velodyne").is_dir():
        raise UserError(f"no image_2/ or velodyne/ under {folder}; kitti-object wants the folder that holds training/")
    return in_time_order([_object_stream(folder, cameras, rate_hz, problems)], None, problems)


def _object_stream(
    folder: Path, cameras: Sequence[CameraFolder], rate_hz: float, problems: list[str]
) -> Iterator[Item]:
    scans = dict(numbered_files(folder / "velodyne", (".bin",), problems))
    images = [dict(numbered_files(camera.folder, IMAGE_SUFFIXES, problems)) for camera in cameras]
    sent: Array | None = None
    for number in sorted(set(scans).union(*images)):
        stamp_ns, name = frame_time_ns(number, rate_hz), f"{number:06d}.txt"
        calibration = _calibration(folder / "calib" / name, problems)
        statics = fixed_transforms(calibration.links(_frames(cameras)) if calibration else [])
        if statics is not None and (sent is None or not np.array_equal(sent, statics.parent_T_child)):
            sent = statics.parent_T_child
            yield "/tf_static", stamp_ns, stamped(statics, stamp_ns)
        for camera, files in zip(cameras, images, strict=True):
            if number in files:
                yield from image_items(files[number], stamp_ns, camera, calibration, problems)
        if number in scans:
            yield from cloud_items(scans[number], stamp_ns, False, problems)
        if (folder / "label_2" / name).is_file():
            rows = read_labels(folder / "label_2" / name, tracking=False, problems=problems).get(0, [])
            yield from _track_items(rows, stamp_ns, calibration, cameras)


def read_kitti_tracking(
    source: Path,
    *,
    sequence: str = "0000",
    rate_hz: float = 10.0,
    sweep_times: bool = False,
    problems: list[str] | None = None,
) -> Iterator[Item]:
    """One sequence of the tracking benchmark: training/{velodyne,image_02,label_02,calib,oxts}/NNNN.

    The truth is the pose of "lidar" in "world" (of "imu" without calibration). A sequence that has labels or oxts
    but no images or scans is read for its truth. Raises UserError if there is no such sequence.
    """
    problems = [] if problems is None else problems
    require_rate(rate_hz)
    folder = _split_folder(source)
    stamp_of = partial(frame_time_ns, rate_hz=rate_hz)
    cameras = camera_folders([(number, folder / f"image_{number:02d}" / sequence) for number in (2, 3)])
    velodyne = folder / "velodyne" / sequence
    labels, oxts = folder / "label_02" / f"{sequence}.txt", folder / "oxts" / f"{sequence}.txt"
    if not cameras and not velodyne.is_dir() and not labels.is_file() and not oxts.is_file():
        raise UserError(_no_sequence(folder, sequence))
    calibration = _calibration(folder / "calib" / f"{sequence}.txt", problems)
    streams = [image_stream(camera, calibration, stamp_of, problems) for camera in cameras]
    streams.append(cloud_stream(velodyne, stamp_of, sweep_times, problems))
    if oxts.is_file():
        lidar_T_imu = calibration.lidar_T_imu if calibration else None
        packets = (
            (frame_time_ns(line_number - 1, rate_hz), f"{short_name(oxts)} line {line_number}", line)
            for line_number, line in text_rows(oxts, problems)
        )
        streams.append(oxts_stream(packets, lidar_T_imu, problems))
    if labels.is_file():
        frames = _frame_count(cameras, velodyne, oxts)
        streams.append(_label_stream(labels, frames, rate_hz, calibration, cameras, problems))
    return in_time_order(
        streams, fixed_transforms(calibration.links(_frames(cameras)) if calibration else []), problems
    )


def _frame_count(cameras: Sequence[CameraFolder], velodyne: Path, oxts: Path) -> int:
    """How many frames the sequence has: label files say nothing of frames without objects."""
    numbers = [number for number, _ in numbered_files(velodyne, (".bin",), [])]
    for camera in cameras:
        numbers += [number for number, _ in numbered_files(camera.folder, IMAGE_SUFFIXES, [])]
    if oxts.is_file():
        numbers += [line_number - 1 for line_number, _ in text_rows(oxts, [])]
    return max(numbers, default=-1) + 1


def _label_stream(
    path: Path,
    frame_count: int,
    rate_hz: float,
    calibration: KittiCalibration | None,
    cameras: Sequence[CameraFolder],
    problems: list[str],
) -> Iterator[Item]:
    """The tracks of every frame, also of those without objects."""
    frames = read_labels(path, tracking=True, problems=problems)
    beyond = [number for number in sorted(frames) if number >= frame_count]
    for number in [*range(frame_count), *beyond]:
        yield from _track_items(frames.get(number, []), frame_time_ns(number, rate_hz), calibration, cameras)


def _track_items(
    rows: Sequence[LabelRow], stamp_ns: int, calibration: KittiCalibration | None, cameras: Sequence[CameraFolder]
) -> Iterator[Item]:
    frame = _frames(cameras).get(_LABELLED_CAMERA, "camera")
    yield "/truth/tracks_2d", stamp_ns, tracks_2d(rows, stamp_ns, frame)
    if calibration is not None and calibration.rect0_T_lidar is not None:
        yield "/truth/tracks_3d", stamp_ns, tracks_3d(rows, stamp_ns, calibration.rect0_T_lidar)


def _frames(cameras: Sequence[CameraFolder]) -> dict[int, str]:
    """Camera frame names by number. Without images the left colour camera still has its place in the rig."""
    return {camera.number: camera.frame for camera in cameras} or {_LABELLED_CAMERA: "camera"}


def _split_folder(source: Path) -> Path:
    training = require_folder(source) / "training"
    return training if training.is_dir() else source


def _calibration(path: Path, problems: list[str]) -> KittiCalibration | None:
    """The calibration, or None and a problem: images, scans and image boxes can do without."""
    if not path.is_file():
        note(problems, f"{short_name(path)}: no such calibration; no camera_info, tf_static or tracks_3d")
        return None
    try:
        return read_single_file(path)
    except UserError as error:
        note(problems, str(error))
        return None


def _no_sequence(folder: Path, sequence: str) -> str:
    there = {path.stem for path in files_with(folder / "label_02", (".txt",))}
    there |= {path.name for path in (folder / "velodyne").glob("*") if path.is_dir()}
    if not there:
        return (
            f"no velodyne/, image_02/ or label_02/ under {folder}; kitti-tracking wants the folder that holds training/"
        )
    return f"no sequence {sequence!r} under {folder}; give sequence= one of {', '.join(sorted(there)[:30])}"
