"""The KITTI odometry benchmark as messages: scans, images and poses of one sequence.

times.txt counts seconds from the sequence's start, which is put at EPOCH_NS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.kitti_calibration import KittiCalibration, read_single_file
from devices.sensors.recorded.kitti_frames import (
    CameraFolder,
    camera_folders,
    cloud_stream,
    image_stream,
)
from devices.sensors.recorded.reading import (
    EPOCH_NS,
    Item,
    fixed_transforms,
    floats,
    in_time_order,
    note,
    ns_from_seconds,
    require_folder,
    short_name,
    text_rows,
)
from tercel.core.errors import UserError
from tercel.core.geometry import from_rotation_translation, inverse, orthonormalise
from tercel.core.messages import Odometry

Array = NDArray[Any]


def read_kitti_odometry(source: Path, *, sequence: str = "00", problems: list[str] | None = None) -> Iterator[Item]:
    """One sequence of the odometry benchmark: sequences/NN/{velodyne,image_N,times.txt,calib.txt}, poses/NN.txt.

    The scans are already motion-compensated: they get no point times. The truth is the pose of "lidar" in "world",
    which is the first scan's lidar frame; without Tr in calib.txt, of the camera, in its first frame.
    Raises UserError if the sequence or one of its two text files is missing.
    """
    problems = [] if problems is None else problems
    folder = require_folder(source) / "sequences" / sequence
    _require_sequence(folder, source)
    for name in ("times.txt", "calib.txt"):
        if not (folder / name).is_file():
            raise UserError(f"no {folder / name}; it comes with the download data_odometry_calib.zip")
    calibration = read_single_file(folder / "calib.txt")
    stamps = _read_times(folder / "times.txt", problems)
    cameras = camera_folders([(i, folder / f"image_{i}") for i in range(4)])
    streams = [image_stream(camera, calibration, stamps.get, problems) for camera in cameras]
    streams.append(cloud_stream(folder / "velodyne", stamps.get, False, problems))
    streams.append(_pose_stream(source / "poses" / f"{sequence}.txt", stamps, calibration, cameras, problems))
    links = calibration.links({camera.number: camera.frame for camera in cameras})
    return in_time_order(streams, fixed_transforms(links), problems)


def _read_times(path: Path, problems: list[str]) -> dict[int, int]:
    stamps: dict[int, int] = {}
    for line_number, line in text_rows(path, problems):
        try:
            stamps[line_number - 1] = EPOCH_NS + ns_from_seconds(line)
        except ValueError as error:
            note(problems, f"{short_name(path)} line {line_number}: {error}; skipped")
    return stamps


def _pose_stream(
    path: Path,
    stamps: Mapping[int, int],
    calibration: KittiCalibration,
    cameras: Sequence[CameraFolder],
    problems: list[str],
) -> Iterator[Item]:
    """/truth/odometry of a poses file: rect0 in the first rect0, one 3x4 a line."""
    if not path.is_file():
        return
    if calibration.rect0_T_lidar is not None:
        child, rect0_T_child = "lidar", calibration.rect0_T_lidar
    elif cameras and cameras[0].number in calibration.projections:
        child, rect0_T_child = cameras[0].frame, inverse(calibration.camera_T_rect0(cameras[0].number))
    else:
        child, rect0_T_child = "camera", np.eye(4)
    for line_number, line in text_rows(path, problems):
        number = line_number - 1
        try:
            row = floats(line.split(), 12).reshape(3, 4)
            first_T_rect0 = orthonormalise(from_rotation_translation(row[:, :3], row[:, 3]))
        except ValueError as error:
            note(problems, f"{short_name(path)} line {line_number}: {error}; skipped")
            continue
        if number in stamps:
            yield (
                "/truth/odometry",
                stamps[number],
                Odometry(
                    stamp_ns=stamps[number],
                    frame_id="world",
                    child_frame_id=child,
                    frame_T_child=inverse(rect0_T_child) @ first_T_rect0 @ rect0_T_child,
                ),
            )


def _require_sequence(folder: Path, source: Path) -> None:
    if folder.is_dir():
        return
    there = sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
    if not there:
        raise UserError(
            f"no {folder.parent.name}/ under {source}; kitti-odometry wants the folder that holds sequences/"
        )
    raise UserError(f"no sequence {folder.name!r} under {folder.parent}; give sequence= one of {', '.join(there[:30])}")
