"""KITTI's calibration files, in their three dialects, as rigid transforms between named frames.

KITTI writes one (3, 4) projection P_i for each rectified camera, all from the coordinates of the rectified camera 0
("rect0"), in which its labels stand too. Here each camera has its own frame, z forward, with an undistorted
projection: P_i = K_i [I | t_i], so camera_i_T_rect0 is the translation t_i = inv(K_i) P_i[:, 3], exactly.
(Geiger et al., Vision meets Robotics: the KITTI dataset, IJRR 2013, equations 3 to 8.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.reading import text_rows
from tercel.core.errors import UserError
from tercel.core.geometry import from_rotation_translation, inverse, orthonormalise

Array = NDArray[Any]

_RAW_FILES = ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt", "calib_imu_to_velo.txt")


@dataclass(frozen=True)
class KittiCalibration:
    """projections[i] (3, 4): rect0 to pixels of camera i. The transforms are (4, 4), None where the files lack them."""

    projections: Mapping[int, Array]
    rect0_T_lidar: Array | None
    lidar_T_imu: Array | None

    def intrinsics(self, camera: int) -> Array:
        """(3, 3) of rectified camera i, px."""
        result: Array = self.projections[camera][:, :3]
        return result

    def camera_T_rect0(self, camera: int) -> Array:
        """Points of the rectified camera 0 into rectified camera i."""
        projection = self.projections[camera]
        return from_rotation_translation(np.eye(3), np.linalg.solve(projection[:, :3], projection[:, 3]))

    def links(self, cameras: Mapping[int, str]) -> list[tuple[str, str, Array]]:
        """(parent, child, parent_T_child) of the rig's tree; its root is "lidar". cameras: frame name by number."""
        result: list[tuple[str, str, Array]] = []
        if self.lidar_T_imu is not None:
            result.append(("lidar", "imu", self.lidar_T_imu))
        if self.rect0_T_lidar is not None:
            for number, frame in cameras.items():
                if number in self.projections:
                    result.append(("lidar", frame, inverse(self.camera_T_rect0(number) @ self.rect0_T_lidar)))
        return result


def read_single_file(path: Path) -> KittiCalibration:
    """calib.txt of the tracking, object or odometry benchmark, which name the same things differently.

    Raises UserError if a matrix has the wrong size or is not rigid.
    """
    values = _values(path)
    try:
        lidar_T_imu = _rigid(_first(values, "Tr_imu_velo", "Tr_imu_to_velo"))
        odometry_Tr = _first(values, "Tr")
        if odometry_Tr is not None:  # already includes the rectification
            return KittiCalibration(_projections(values, "P"), _rigid(odometry_Tr), lidar_T_imu)
        cam0_T_lidar = _rigid(_first(values, "Tr_velo_cam", "Tr_velo_to_cam"))
        rectification = _first(values, "R_rect", "R0_rect")
        rect0_T_lidar = None
        if cam0_T_lidar is not None and rectification is not None:
            rect0_T_lidar = orthonormalise(_rotation(rectification) @ cam0_T_lidar)
        return KittiCalibration(_projections(values, "P"), rect0_T_lidar, lidar_T_imu)
    except ValueError as error:
        raise UserError(f"{path}: {error}; take the file from the KITTI download again") from None


def find_raw(drive: Path) -> KittiCalibration | None:
    """The calibration of a raw drive: a calib.txt in it, or the date's three files in it or beside it; None if neither.

    Raises UserError if a file is damaged.
    """
    if (drive / "calib.txt").is_file():
        return read_single_file(drive / "calib.txt")
    for folder in (drive, drive.resolve().parent):
        if all((folder / name).is_file() for name in _RAW_FILES[:2]):
            return _read_raw_files(folder)
    return None


def _read_raw_files(folder: Path) -> KittiCalibration:
    cam_to_cam, velo_to_cam = _values(folder / _RAW_FILES[0]), _values(folder / _RAW_FILES[1])
    imu_path = folder / _RAW_FILES[2]
    imu_to_velo = _values(imu_path) if imu_path.is_file() else {}
    try:
        cam0_T_lidar = _rotation_and_translation(velo_to_cam)
        rectification = _first(cam_to_cam, "R_rect_00")
        if cam0_T_lidar is None or rectification is None:
            raise ValueError("R_rect_00, R or T is missing from the calibration")
        rect0_T_lidar = orthonormalise(_rotation(rectification) @ cam0_T_lidar)
        lidar_T_imu = _rotation_and_translation(imu_to_velo)
        return KittiCalibration(_projections(cam_to_cam, "P_rect_0"), rect0_T_lidar, lidar_T_imu)
    except ValueError as error:
        raise UserError(f"{folder}/calib_*.txt: {error}; take the files from the KITTI download again") from None


def _values(path: Path) -> dict[str, Array]:
    """The numbers after each key ("P2: ..." or "R_rect ..."); lines that hold other things are left out."""
    values: dict[str, Array] = {}
    for _, line in text_rows(path, []):
        key, *words = line.split()
        try:
            values[key.rstrip(":")] = np.array([float(word) for word in words])
        except ValueError:
            continue
    return values


def _first(values: dict[str, Array], *keys: str) -> Array | None:
    return next((values[key] for key in keys if key in values), None)


def _projections(values: dict[str, Array], prefix: str) -> dict[int, Array]:
    found = {i: values[f"{prefix}{i}"] for i in range(4) if f"{prefix}{i}" in values}
    for number, row in found.items():
        if row.size != 12 or not np.isfinite(row).all() or abs(np.linalg.det(row.reshape(3, 4)[:, :3])) < 1e-9:
            raise ValueError(f"{prefix}{number} is not a 3x4 projection")
    return {i: row.reshape(3, 4) for i, row in found.items()}


def _rotation(row: Array) -> Array:
    if row.size != 9 or not (np.abs(row) < 2.0).all():
        raise ValueError("a rotation is not 3x3, or its values are no rotation's")
    return from_rotation_translation(row.reshape(3, 3), np.zeros(3))


def _rigid(row: Array | None) -> Array | None:
    if row is None:
        return None
    if row.size != 12:
        raise ValueError("a transform is not 3x4")
    return orthonormalise(from_rotation_translation(row.reshape(3, 4)[:, :3], row.reshape(3, 4)[:, 3]))


def _rotation_and_translation(values: dict[str, Array]) -> Array | None:
    rotation, translation = _first(values, "R"), _first(values, "T")
    if rotation is None or translation is None:
        return None
    if rotation.size != 9 or translation.size != 3:
        raise ValueError("R is not 3x3 or T not 3")
    return _rigid(np.column_stack([rotation.reshape(3, 3), translation]).ravel())
