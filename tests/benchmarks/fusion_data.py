"""KITTI tracking sequences as streams of messages for fusion: PointRCNN boxes in the LiDAR's frame, RRC boxes in the
left colour camera, poses from GPS/IMU; and their labels in the world as truth.

Sequences are split as AB3DMOT splits them: what is tuned is tuned on the others, and reported on the validation split.
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
from devices.sensors.recorded.kitti_calibration import KittiCalibration, read_single_file
from devices.sensors.recorded.kitti_oxts import mercator_T_imu, parse_packet
from tercel.core.geometry import inverse
from tercel.core.messages import CameraInfo, Detections2D, Detections3D, Odometry, Tracks3D, Transforms
from tracking.evaluation.matching import best_pairs
from tracking.evaluation.overlaps import TrackSet, nearness, overlaps
from tracking.evaluation.scores import Scores, score

Array = NDArray[Any]

REPOSITORY = Path(__file__).resolve().parents[2]
VALIDATION = ("0001", "0006", "0008", "0010", "0012", "0013", "0014", "0015", "0016", "0018", "0019")
PERIOD_NS = 100_000_000
EPOCH_NS = 1_000_000_000
CLASSES = ("car", "person")
GATE_M = 2.0
_FOLDERS = {"car": "Car", "person": "Pedestrian"}
_TRUE = {"Car": "car", "Pedestrian": "person"}
_EITHER = {"Van": "car", "Person": "person", "Person_sitting": "person", "Cyclist": "person"}
LEFT_COLOUR = 2


@dataclass(frozen=True, eq=False)
class Drive:
    """One sequence. Lists have one message for each frame; truth is by class, with a mask of what need not be found."""

    name: str
    transforms: Transforms
    camera_info: CameraInfo
    odometry: list[Odometry]
    lidar: list[Detections3D]
    camera: list[Detections2D]
    truth: dict[str, tuple[TrackSet, Array]]

    def __len__(self) -> int:
        return len(self.odometry)


def data_folder() -> Path:
    """The folder of real recordings."""
    return Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))


def read_drive(name: str) -> Drive:
    """A KITTI tracking sequence."""
    root = data_folder() / "kitti_tracking"
    calibration = read_single_file(root / "calib" / f"{name}.txt")
    poses = _world_T_lidar(root / "oxts" / f"{name}.txt.gz", calibration)
    stamps = [EPOCH_NS + frame * PERIOD_NS for frame in range(len(poses))]
    rows_2d = {key: _rows(root / "det2d_rrc" / folder / f"{name}.txt.gz", 6) for key, folder in _FOLDERS.items()}
    rows_3d = {key: _rows(root / "det3d_pointrcnn" / folder / f"{name}.txt.gz", 15) for key, folder in _FOLDERS.items()}
    lidar_T_rect0 = inverse(_given(calibration.rect0_T_lidar))
    width, height = (int(np.ceil(max(rows[:, k].max(initial=0.0) for rows in rows_2d.values()))) + 1 for k in (3, 4))
    parents, children, mounts = zip(*calibration.links({LEFT_COLOUR: "camera"}), strict=True)
    intrinsics = calibration.intrinsics(LEFT_COLOUR)
    return Drive(
        name,
        Transforms(stamp_ns=0, frame_id="", parents=parents, children=children, parent_T_child=np.stack(mounts)),
        CameraInfo(
            stamp_ns=0, frame_id="camera", width_px=width, height_px=height, intrinsics=intrinsics,
            distortion_model="", distortion=np.zeros(0), rectification=np.eye(3),
            projection=np.hstack([intrinsics, np.zeros((3, 1))]),
        ),
        [
            Odometry(stamp_ns=stamp, frame_id="world", child_frame_id="lidar", frame_T_child=pose)
            for stamp, pose in zip(stamps, poses, strict=True)
        ],
        [_boxes_3d(rows_3d, frame, stamp, lidar_T_rect0) for frame, stamp in enumerate(stamps)],
        [_boxes_2d(rows_2d, frame, stamp) for frame, stamp in enumerate(stamps)],
        _truth(root / "label_02" / f"{name}.txt.gz", poses, lidar_T_rect0),
    )  # fmt: skip


def evaluate(drive: Drive, outputs: Sequence[Tracks3D], wanted: str) -> Scores:
    """Scores of one class by a 2 m centre gate; a track on something similar (a van for a car) is no false positive."""
    truth, unsure = drive.truth[wanted]
    kept = [output.labels == output.class_names.index(wanted) for output in outputs]
    frames = [(output.stamp_ns - EPOCH_NS) // PERIOD_NS for output in outputs]
    tracks = TrackSet(
        np.repeat(np.array(frames, dtype=np.int64), [int(rows.sum()) for rows in kept]),
        np.concatenate([output.ids[rows] for output, rows in zip(outputs, kept, strict=True)]),
        np.concatenate([output.centers_m[rows] for output, rows in zip(outputs, kept, strict=True)]),
    )
    found = overlaps(truth, tracks, nearness(GATE_M), range(len(drive)))
    near = np.flatnonzero(found.similarities >= 0.5)
    matched = near[best_pairs(found, near, found.similarities[near])]
    counted = np.ones(len(found.track_ids), dtype=bool)
    counted[found.track_rows[matched[unsure[found.truth_rows[matched]]]]] = False
    return score(found.select(~unsure, counted))


def _given(transform: Array | None) -> Array:
    assert transform is not None, "KITTI's calibration has all transforms"
    return transform


def _world_T_lidar(path: Path, calibration: KittiCalibration) -> Array:
    with gzip.open(path, "rt") as file:
        packets = [parse_packet(line) for line in file if line.strip()]
    poses = np.stack([mercator_T_imu(packet, packets[0][0]) for packet in packets])
    poses[:, :3, 3] -= poses[0, :3, 3].copy()
    result: Array = poses @ inverse(_given(calibration.lidar_T_imu))
    return result


def _rows(path: Path, columns: int) -> Array:
    """The numbers of a detection file, gzipped; none where there is no file."""
    if not path.is_file():
        return np.zeros((0, columns))
    with gzip.open(path, "rt") as file:
        return np.array([[float(word) for word in line.split(",")] for line in file if line.strip()]).reshape(
            -1, columns
        )


def _boxes_2d(rows: dict[str, Array], frame: int, stamp_ns: int) -> Detections2D:
    now = {name: values[values[:, 0] == frame] for name, values in rows.items()}
    return Detections2D(
        stamp_ns=stamp_ns, frame_id="camera", boxes_xyxy_px=np.concatenate([v[:, 1:5] for v in now.values()]),
        scores=np.concatenate([v[:, 5] for v in now.values()]), labels=_labels(now), class_names=CLASSES,
    )  # fmt: skip


def _boxes_3d(rows: dict[str, Array], frame: int, stamp_ns: int, lidar_T_rect0: Array) -> Detections3D:
    now = {name: values[values[:, 0] == frame] for name, values in rows.items()}
    values = np.concatenate(list(now.values()))
    h, w, length, x, y, z, turn = values[:, 7:14].T
    centers = np.stack([x, y - h / 2.0, z], axis=1) @ lidar_T_rect0[:3, :3].T + lidar_T_rect0[:3, 3]
    return Detections3D(
        stamp_ns=stamp_ns, frame_id="lidar", centers_m=centers, sizes_m=np.column_stack([length, w, h]),
        yaws_rad=-turn - np.pi / 2.0, scores=values[:, 6], labels=_labels(now), class_names=CLASSES,
    )  # fmt: skip


def _labels(rows: dict[str, Array]) -> Array:
    return np.repeat(np.arange(len(rows)), [len(values) for values in rows.values()])


def _truth(path: Path, poses: Array, lidar_T_rect0: Array) -> dict[str, tuple[TrackSet, Array]]:
    """Labels in the world by class, each with a mask of what is only similar to the class."""
    with gzip.open(path, "rt") as file:
        parsed = [kitti_labels.parse_row(line, tracking=True) for line in file if line.strip()]
    rows = [row for row in parsed if row is not None and row.frame < len(poses) and (row.values[4:7] > 0).all()]
    result = {}
    for name in CLASSES:
        chosen = [row for row in rows if name in (_TRUE.get(_name(row)), _EITHER.get(_name(row)))]
        chosen.sort(key=lambda row: row.frame)
        frames = np.array([row.frame for row in chosen], dtype=np.int64)
        boxes = kitti_labels.tracks_3d(chosen, 0, inverse(lidar_T_rect0))
        world = np.einsum("nij,nj->ni", poses[frames, :3, :3], boxes.centers_m) + poses[frames, :3, 3]
        unsure = np.array([_name(row) in _EITHER for row in chosen], dtype=bool)
        result[name] = TrackSet(frames, boxes.ids, world), unsure
    return result


def _name(row: kitti_labels.LabelRow) -> str:
    return kitti_labels.CLASS_NAMES[row.label]
