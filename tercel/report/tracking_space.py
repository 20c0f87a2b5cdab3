"""KITTI's boxes in space, to and from the frame in which they are tracked.

`tracking.boxes3d` tells how KITTI's numbers become boxes with z up. They stand in the "level" frame, which is that of
the rectified camera 0 (x right, y down, z forward) with its axes renamed: x forward, y left, z up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.kitti_calibration import read_single_file
from devices.sensors.recorded.kitti_oxts import mercator_T_imu, parse_packet
from devices.sensors.recorded.reading import note, short_name, text_rows
from tercel.core.errors import UserError
from tercel.core.geometry import inverse, orthonormalise, wrap_angle
from tracking.boxes3d import from_kitti, to_kitti
from tracking.files import BoxSequence

Array = NDArray[Any]

LEVEL_T_RECT0 = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""Points of the rectified camera 0 in the level frame."""


def measurements(boxes: BoxSequence, rows: Array, world_T_level: Array) -> Array:
    """x y z of the middle, length width height (m) and yaw (rad) in the world, (7, N), of KITTI's boxes."""
    if boxes.boxes_3d is None:
        raise ValueError("these boxes have no place in space")
    return moved(world_T_level, from_kitti(boxes.boxes_3d[rows]))


def moved(target_T_source: Array, boxes: Array) -> Array:
    """Upright boxes (7, N), rows as in `measurements`, in another frame; of its turn the yaw takes what it can."""
    result: Array = boxes.copy()
    result[:3] = target_T_source[:3, :3] @ boxes[:3] + target_T_source[:3, 3:]
    heading = target_T_source[:2, :2] @ np.stack([np.cos(boxes[6]), np.sin(boxes[6])])
    result[6] = np.arctan2(heading[1], heading[0])
    return result


def kitti_boxes(boxes: Array, level_T_world: Array) -> tuple[Array, Array]:
    """KITTI's numbers (N, 7) and the observation angles alpha (N,) rad of boxes (7, N) in the world."""
    rows = to_kitti(moved(level_T_world, boxes))
    return rows, wrap_angle(rows[:, 6] - np.arctan2(rows[:, 3], rows[:, 5]))


def read_poses(folder: Path, name: str, problems: list[str]) -> tuple[dict[int, Array], Array | None]:
    """world_T_level (4, 4) of each frame, of KITTI's oxts/NAME.txt and calib/NAME.txt in folder; either may be gzipped.

    The world begins at the first pose's place and is level; frames whose line cannot be read have none and are noted.
    Beside the poses, the intrinsics (3, 3) of camera 2, whose images are labelled; None if they are not told.
    Raises UserError if a file is missing, or no line of it can be read.
    """
    calibration = read_single_file(_find(folder, "calib", name))
    if calibration.rect0_T_lidar is None or calibration.lidar_T_imu is None:
        raise UserError(f"{folder}/calib/{name}.txt does not say how IMU, LiDAR and camera lie to each other")
    rect0_T_imu = calibration.rect0_T_lidar @ calibration.lidar_T_imu
    imu_T_level = inverse(LEVEL_T_RECT0 @ rect0_T_imu)
    path = _find(folder, "oxts", name)
    packets: dict[int, Array] = {}
    for number, line in text_rows(path, problems):
        try:
            packets[number - 1] = parse_packet(line)
        except ValueError as error:
            note(problems, f"{short_name(path)}: line {number}: {error}; skipped")
    if not packets:
        raise UserError(f"{path}: not one line is a pose; KITTI's 30 columns of latitude, longitude, ... are wanted")
    first = packets[min(packets)]
    origin_m = mercator_T_imu(first, float(first[0]))[:3, 3]
    poses = {}
    for frame, packet in packets.items():
        world_T_imu = mercator_T_imu(packet, float(first[0]))
        world_T_imu[:3, 3] -= origin_m
        poses[frame] = orthonormalise(world_T_imu @ imu_T_level)
    return poses, calibration.intrinsics(2) if 2 in calibration.projections else None


def flat(pose: Array) -> tuple[float, float, float]:
    """x, y (m) and yaw (rad) of a pose (4, 4)."""
    return float(pose[0, 3]), float(pose[1, 3]), float(np.arctan2(pose[1, 0], pose[0, 0]))


def _find(folder: Path, part: str, name: str) -> Path:
    for suffix in (".txt", ".txt.gz"):
        path = folder / part / f"{name}{suffix}"
        if path.is_file():
            return path
    raise UserError(f"{folder} has no {part}/{name}.txt; --poses wants KITTI's folder with oxts and calib in it")
