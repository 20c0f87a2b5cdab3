"""The LiDAR drives that odometry is measured on: sweeps with times, and what is known of the truth.

Simulated worlds have exact truth. kitti_drive0005 has two truths, neither fine: positions by GPS without corrections
(0.49 m by their own account), and the vehicle's own velocities and attitude (oxts vf vl vu roll pitch yaw), summed up.
The latter's stamps are missing, so its length is fitted to each method's; it tells shapes over seconds, not lengths.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.world import WorldConfig, base_T_sensor, generate
from tercel.core.errors import UserError
from tercel.core.geometry import from_rotation_translation, inverse, se3_exp, se3_log
from tercel.core.messages import Odometry, PointCloud

Array = NDArray[Any]

PERIOD_S = 0.1
SIMULATED = tuple(f"{world}{beams}_{seed}" for world in ("street", "orchard") for beams in (16, 64) for seed in (0, 1))
DRIVE = "kitti_drive0005"
# imu_T_velo of the drive's calib.txt
_IMU_T_VELO = np.array(
    [
        [9.999976e-01, 7.553071e-04, -2.035826e-03, -8.086759e-01],
        [-7.854027e-04, 9.998898e-01, -1.482298e-02, 3.195559e-01],
        [2.024406e-03, 1.482454e-02, 9.998881e-01, -7.997231e-01],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


@dataclass(frozen=True, eq=False)
class Drive:
    """Points (N, 3) float32 of all sweeps in turn, their times after the sweep's stamp (N,), counts and stamps (K,).

    truth (K, 4, 4): world_T_sensor at the stamps. by_speed (K, 4, 4): a second truth, or empty.
    """

    points: Array
    times: Array
    n: Array
    stamps: Array
    truth: Array
    by_speed: Array

    def __iter__(self) -> Iterator[tuple[int, Array, Array]]:
        """Each sweep's stamp, points as float64 (which is what kiss-icp takes), and times."""
        ends = np.cumsum(self.n)
        for stamp, begin, end in zip(self.stamps, ends - self.n, ends, strict=True):
            yield int(stamp), self.points[begin:end].astype(np.float64), self.times[begin:end].astype(np.float64)

    def truth_after(self, seconds: float) -> Array:
        """The truth so long after the stamps (before, if negative), at each sweep's mean velocity."""
        steps = se3_log(inverse(self.truth[:-1]) @ self.truth[1:])
        twists = np.concatenate([steps[:1], 0.5 * (steps[1:] + steps[:-1]), steps[-1:]]) / PERIOD_S
        moved: Array = self.truth @ se3_exp(twists * seconds)
        return moved


def open_drive(name: str, cache: Path, seconds: float) -> Path:
    """A drive's file in the cache, made if it is missing."""
    path = cache / f"{name}_{seconds:g}s.npz"
    if not path.exists():
        np.savez(path, **(_recorded() if name == DRIVE else _simulated(name, seconds)))
    return path


def read_drive(path: Path) -> Drive:
    with np.load(path) as file:
        return Drive(**{key: file[key] for key in file.files})


def _simulated(name: str, seconds: float) -> dict[str, Array]:
    world, beams, seed = name.rstrip("0123456789_"), int(name.split("_")[0][-2:]), int(name.split("_")[1])
    config = WorldConfig(
        world, seed=seed, duration_s=seconds, lidar_beams=beams, camera_rate_hz=0.0, gps_rate_hz=0.0, imu_rate_hz=10.0
    )
    clouds, poses = [], {}
    for topic, _, message in generate(config):
        if isinstance(message, PointCloud):
            clouds.append(message)
        elif isinstance(message, Odometry) and topic == "/truth/odometry":
            poses[message.stamp_ns] = message.frame_T_child
    return {
        "points": np.concatenate([cloud.points_m for cloud in clouds]),
        "times": np.concatenate([cloud.time_offset_s for cloud in clouds if cloud.time_offset_s is not None]),
        "n": np.array([len(cloud.points_m) for cloud in clouds]),
        "stamps": np.array([cloud.stamp_ns for cloud in clouds]),
        "truth": np.array([poses[cloud.stamp_ns] for cloud in clouds]) @ base_T_sensor(world, "lidar"),
        "by_speed": np.zeros((0, 4, 4)),
    }


def _recorded() -> dict[str, Array]:
    """The drive's scans; its files hold no times, so they come from the azimuth, as kiss-icp's own KITTI reader has it:
    the scanner turns clockwise from straight behind, and the stamp is when it looks ahead."""
    data = Path(os.environ.get("TERCEL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    spec = importlib.util.spec_from_file_location("unpack", data / "unpack.py")
    if spec is None or spec.loader is None or not (data / "unpack.py").is_file():
        raise UserError(f"no recordings at {data}: set TERCEL_DATA, or leave {DRIVE} out of --sequences")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    folder = data / DRIVE
    scans = [unpack.read_scan(path)[:, :3] for path in sorted((folder / "velodyne").glob("*.kxz"))]
    points = np.concatenate(scans)
    rows = np.loadtxt(folder / "poses_velo_from_oxts.txt").reshape(-1, 3, 4)
    return {
        "points": points,
        "times": (-np.arctan2(points[:, 1], points[:, 0]) / (2.0 * np.pi) * PERIOD_S).astype(np.float32),
        "n": np.array([len(scan) for scan in scans]),
        "stamps": np.arange(len(scans)) * round(PERIOD_S * 1e9),
        "truth": from_rotation_translation(rows[:, :, :3], rows[:, :, 3]),
        "by_speed": _poses_by_speed(np.loadtxt(folder / "oxts.txt")),
    }


def _poses_by_speed(oxts: Array) -> Array:
    """Poses of the LiDAR (K, 4, 4) from rows of oxts: attitudes as they are, and velocities summed up."""
    roll, pitch, yaw = oxts[:, 3:6].T
    zero, cr, sr, cp, sp, cy, sy = 0.0 * roll, *(f(a) for a in (roll, pitch, yaw) for f in (np.cos, np.sin))
    about_x = np.stack([zero + 1, zero, zero, zero, cr, -sr, zero, sr, cr], axis=1).reshape(-1, 3, 3)
    about_y = np.stack([cp, zero, sp, zero, zero + 1, zero, -sp, zero, cp], axis=1).reshape(-1, 3, 3)
    about_z = np.stack([cy, -sy, zero, sy, cy, zero, zero, zero, zero + 1], axis=1).reshape(-1, 3, 3)
    rotation = about_z @ about_y @ about_x
    velocity = np.einsum("nij,nj->ni", rotation, oxts[:, 8:11])
    steps = 0.5 * (velocity[1:] + velocity[:-1]) * PERIOD_S
    poses = from_rotation_translation(rotation, np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)]))
    result: Array = poses @ _IMU_T_VELO
    return result
