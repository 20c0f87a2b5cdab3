"""KITTI's object and tracking labels as truth tracks.

A label gives the bottom centre of a box in the rectified camera 0 (x right, y down, z forward), its height, width
and length, and its turn rot_y about the camera's y axis. Tracks3D wants the middle of the box, length, width and
height, and the yaw about the lidar's z axis. Rows of class DontCare are regions, not objects, and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.reading import floats
from tercel.core.geometry import inverse, transform_points
from tercel.core.messages import Tracks2D, Tracks3D

Array = NDArray[Any]

CLASS_NAMES = ("Car", "Van", "Truck", "Pedestrian", "Person", "Person_sitting", "Cyclist", "Tram", "Misc")


@dataclass(frozen=True)
class LabelRow:
    """One object. values (12,): xyxy px, height width length m, bottom centre x y z m in rect0, rot_y rad, score."""

    frame: int
    track_id: int
    label: int
    values: Array


def parse_row(line: str, *, tracking: bool) -> LabelRow | None:
    """One line of label_2 (object) or label_02 (tracking: frame and id come first); None for DontCare.

    Raises ValueError if it is malformed.
    """
    words = line.split()
    frame, track_id = 0, -1
    if tracking:
        if len(words) < 2:
            raise ValueError("no frame or track number")
        frame, track_id, words = int(words[0]), int(words[1]), words[2:]
    if words and words[0] == "DontCare":
        return None
    if not words or words[0] not in CLASS_NAMES:
        raise ValueError(f"unknown class {words[0][:20]!r}" if words else "no class")
    if not 0 <= frame < 1 << 31 or abs(track_id) >= 1 << 31:
        raise ValueError("the frame or track number is out of range")
    numbers = floats(words[4:], 11)  # after class, truncation, occlusion and alpha
    score = floats(words[15:], 1) if len(words) > 15 else np.ones(1)
    return LabelRow(frame, track_id, CLASS_NAMES.index(words[0]), np.concatenate([numbers, score]))


def tracks_2d(rows: Sequence[LabelRow], stamp_ns: int, frame_id: str) -> Tracks2D:
    """The rows' image boxes."""
    values = _stack(rows)
    return Tracks2D(
        stamp_ns=stamp_ns,
        frame_id=frame_id,
        boxes_xyxy_px=values[:, :4],
        scores=values[:, 11],
        labels=np.array([row.label for row in rows], dtype=np.int32),
        class_names=CLASS_NAMES,
        ids=np.array([row.track_id for row in rows], dtype=np.int64),
        velocities_px_per_s=np.full((len(rows), 2), np.nan),
        ages_s=np.full(len(rows), np.nan),
    )


def tracks_3d(rows: Sequence[LabelRow], stamp_ns: int, rect0_T_lidar: Array) -> Tracks3D:
    """The rows' boxes in frame "lidar"; rows whose size is unknown (-1) have none."""
    rows = [row for row in rows if (row.values[4:7] > 0).all()]
    values = _stack(rows)
    height_m, width_m, length_m = values[:, 4:7].T
    lidar_T_rect0 = inverse(rect0_T_lidar)
    middles = values[:, 7:10] - np.column_stack([np.zeros_like(height_m), height_m / 2.0, np.zeros_like(height_m)])
    rot_y = values[:, 10]
    ahead_rect0 = np.column_stack([np.cos(rot_y), np.zeros_like(rot_y), -np.sin(rot_y)])
    ahead_lidar = ahead_rect0 @ lidar_T_rect0[:3, :3].T
    return Tracks3D(
        stamp_ns=stamp_ns,
        frame_id="lidar",
        centers_m=transform_points(lidar_T_rect0, middles),
        sizes_m=np.column_stack([length_m, width_m, height_m]),
        yaws_rad=np.arctan2(ahead_lidar[:, 1], ahead_lidar[:, 0]),
        scores=values[:, 11],
        labels=np.array([row.label for row in rows], dtype=np.int32),
        class_names=CLASS_NAMES,
        ids=np.array([row.track_id for row in rows], dtype=np.int64),
        velocities_mps=np.full((len(rows), 3), np.nan),
        ages_s=np.full(len(rows), np.nan),
    )


def _stack(rows: Sequence[LabelRow]) -> Array:
    return np.stack([row.values for row in rows]) if rows else np.zeros((0, 12))
