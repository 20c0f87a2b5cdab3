"""Real tracks to predict: the drone's view (SDD, px) and KITTI's labels in the world (m), each in two fixed halves.

The halves are whole videos or sequences, and were chosen before anything was tuned: KITTI's second half is AB3DMOT's
validation split. Tracks do not influence each other's prediction, so all are moved to begin at time zero and run side
by side.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded import kitti_labels
from devices.sensors.recorded.kitti_calibration import read_single_file
from devices.sensors.recorded.kitti_oxts import mercator_T_imu, parse_packet
from tercel.core.geometry import inverse

Array = NDArray[Any]

REPOSITORY = Path(__file__).resolve().parents[2]
HALVES = {
    "sdd": {
        "tuned on": ("deathCircle_video4", "hyang_video7"),
        "other": ("deathCircle_video2", "hyang_video8", "little_video0"),
    },
    "kitti": {
        "tuned on": ("0000", "0002", "0003", "0004", "0005", "0007", "0009", "0011", "0017", "0020"),
        "other": ("0001", "0006", "0008", "0010", "0012", "0013", "0014", "0015", "0016", "0018", "0019"),
    },
}
CLASSES = {
    "sdd": {"Pedestrian": "Pedestrian", "Biker": "Biker", "Skater": "Biker", "Cart": "Cart", "Car": "Car"},
    "kitti": {
        "Car": "Car", "Van": "Car", "Truck": "Car", "Pedestrian": "Pedestrian", "Person": "Pedestrian",
        "Person_sitting": "Pedestrian", "Cyclist": "Cyclist",
    },
}  # fmt: skip
SDD_HZ, KITTI_HZ = 30, 10


@dataclass(frozen=True, eq=False)
class Boxes:
    """All boxes of one video or sequence, one row each: frame and id (B,) int64, centres (B, 2), scales (B,) and class
    names (B,). Centres and scales are in m in the world, or px; a scale is sqrt(length width)."""

    frames: Array
    ids: Array
    centers: Array
    scales: Array
    classes: Array


@dataclass(frozen=True, eq=False)
class TrackTensor:
    """Tracks of one class, from their first frame on: seen (N, T, 2), NaN where not seen, every period_s; truth
    (N, T, H, 2) at the horizons after it, NaN where not known; scales (N,)."""

    seen: Array
    truth: Array
    scales: Array
    period_s: float


def data_folder() -> Path:
    """The folder of real recordings."""
    return Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))


def read_sdd(name: str) -> Boxes:
    """One video; boxes marked lost (outside of the view) are left out."""
    with gzip.open(data_folder() / "sdd_drone_tracks" / f"{name}.txt.gz", "rt") as file:
        words = [line.split() for line in file]
    rows = np.array([[float(word) for word in line[:9]] for line in words])
    names = np.array([CLASSES["sdd"].get(line[9].strip('"'), "") for line in words])
    kept = (rows[:, 6] == 0) & (names != "")
    rows, names = rows[kept], names[kept]
    sizes = rows[:, 3:5] - rows[:, 1:3]
    return Boxes(
        rows[:, 5].astype(np.int64), rows[:, 0].astype(np.int64), (rows[:, 1:3] + rows[:, 3:5]) / 2.0,
        np.sqrt(sizes.prod(axis=1)), names,
    )  # fmt: skip


def world_T_lidar(name: str) -> Array:
    """Poses (F, 4, 4) of the LiDAR of a KITTI tracking sequence, from its GPS/IMU."""
    root = data_folder() / "kitti_tracking"
    with gzip.open(root / "oxts" / f"{name}.txt.gz", "rt") as file:
        packets = [parse_packet(line) for line in file if line.strip()]
    poses = np.stack([mercator_T_imu(packet, packets[0][0]) for packet in packets])
    poses[:, :3, 3] -= poses[0, :3, 3].copy()
    lidar_T_imu = read_single_file(root / "calib" / f"{name}.txt").lidar_T_imu
    assert lidar_T_imu is not None
    return poses @ inverse(lidar_T_imu)


def read_kitti(name: str) -> Boxes:
    """One sequence's labelled boxes in the world."""
    root = data_folder() / "kitti_tracking"
    rect0_T_lidar = read_single_file(root / "calib" / f"{name}.txt").rect0_T_lidar
    assert rect0_T_lidar is not None
    poses = world_T_lidar(name)
    with gzip.open(root / "label_02" / f"{name}.txt.gz", "rt") as file:
        parsed = [kitti_labels.parse_row(line, tracking=True) for line in file if line.strip()]
    names = CLASSES["kitti"]
    rows = [
        row
        for row in parsed
        if row is not None
        and kitti_labels.CLASS_NAMES[row.label] in names
        and row.frame < len(poses)
        and (row.values[4:7] > 0).all()
    ]
    boxes = kitti_labels.tracks_3d(rows, 0, rect0_T_lidar)
    frames = np.array([row.frame for row in rows], dtype=np.int64)
    turned = np.einsum("nij,nj->ni", poses[frames, :3, :3], boxes.centers_m)
    world = turned + poses[frames, :3, 3]
    classes = np.array([names[kitti_labels.CLASS_NAMES[label]] for label in boxes.labels])
    return Boxes(frames, boxes.ids, world[:, :2], np.sqrt(boxes.sizes_m[:, :2].prod(axis=1)), classes)


def tensor(
    recordings: Sequence[Boxes], wanted: str, rate_hz: int, every: int, horizons_s: Sequence[float]
) -> TrackTensor:
    """The tracks of one class of several recordings, of which every n-th frame is seen."""
    ahead = np.round(np.array(horizons_s) * rate_hz).astype(np.int64)
    seen, truth, scales = [], [], []
    for boxes in recordings:
        for track in np.unique(boxes.ids[boxes.classes == wanted]):
            rows = np.flatnonzero(boxes.ids == track)
            frames = boxes.frames[rows] - boxes.frames[rows].min()
            path = np.full((frames.max() + 1 + ahead.max(), 2), np.nan)
            path[frames] = boxes.centers[rows]
            looks = np.arange(0, frames.max() + 1, every)
            seen.append(path[looks])
            truth.append(path[looks[:, None] + ahead])
            scales.append(np.median(boxes.scales[rows]))
    steps = max(map(len, seen), default=0)
    return TrackTensor(
        np.stack([_padded(rows, steps) for rows in seen]),
        np.stack([_padded(rows, steps) for rows in truth]),
        np.array(scales),
        every / rate_hz,
    )


def _padded(rows: Array, length: int) -> Array:
    """Rows followed by NaN, up to a length."""
    missing = np.full((length - len(rows), *rows.shape[1:]), np.nan)
    return np.concatenate([rows, missing])
