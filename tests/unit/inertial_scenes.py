"""A small flight through a room, and a drive down a tunnel: sweeps, readings of an IMU, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.inertial import ImuNoise, readings
from devices.sensors.simulated.motion import Loop, Progress, Road, Trajectory, Waves, states_at
from registration.inertial_odometry import InertialOdometry, InertialOdometryConfig
from registration.odometry import OdometryResult
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, so3_exp

Array = NDArray[Any]

PERIOD_S, RATE_HZ = 0.1, 200
STILL = Waves((), (), ())
BASE_T_IMU = from_rotation_translation(so3_exp(np.array([0.1, -0.2, 0.3])), np.array([0.05, -0.03, 0.02]))
BASE_T_LIDAR = from_rotation_translation(rotation_about_z(0.2), np.array([0.1, 0.0, 0.12]))
IMU_T_LIDAR = inverse(BASE_T_IMU) @ BASE_T_LIDAR
BIAS = np.array([0.004, -0.003, 0.002, 0.05, -0.04, 0.06])
CONFIG = InertialOdometryConfig(map_voxel_m=0.25, scan_voxel_m=0.375, match_m=0.25, keyframe_m=0.5)
FLIGHT = Trajectory(  # banks, turns and nods by up to 1.5 rad/s, after half a second at rest
    path=Loop(2.5, 1.5),
    lateral_m=0.0,
    progress=Progress(0.7, STILL),
    height_m=1.4,
    height=Waves((0.2,), (2.0,), (0.3,)),
    sway=(Waves((0.2,), (4.0,), (0.0,)), Waves((0.15,), (5.0,), (1.0,)), Waves((0.5,), (3.0,), (0.0,))),
    hover=(STILL, STILL),
    lean=(-1.0 / 9.81, 1.0 / 9.81),
)
DRIVE = Trajectory(
    path=Road(STILL),
    lateral_m=0.0,
    progress=Progress(2.0, Waves((0.3,), (1.3,), (0.5,))),
    height_m=1.2,
    height=STILL,
    sway=(STILL, STILL, STILL),
    hover=(STILL, STILL),
    lean=(0.0, 0.0),
)
ROOM = (np.array([-6.0, -4.5, 0.0]), np.array([6.0, 4.5, 3.5]))
FURNITURE = [  # x, y, length, width, height
    (3.5, 2.5, 1.0, 0.6, 0.8), (-5.0, 3.0, 0.5, 1.2, 2.0), (4.0, -3.5, 1.5, 0.5, 1.2), (-4.0, -4.0, 0.4, 0.4, 3.0),
    (0.0, -4.4, 2.0, 0.4, 1.5), (5.3, 0.0, 0.5, 1.0, 2.5),
]  # fmt: skip
TUNNEL = (np.array([-500.0, -3.0, 0.0]), np.array([500.0, 3.0, 4.0]))
PORTAL = [
    (-4.0, -3.0, 0.6, 1.0, 2.5),
    (-6.0, 2.0, 0.6, 1.0, 3.0),
    (-2.5, 1.8, 0.5, 1.2, 1.5),
    (-1.0, -3.0, 0.5, 0.8, 4.0),
]


@dataclass(frozen=True, eq=False)
class Recorded:
    """sweeps: points (N, 3) float32 and their times before the stamp (N,) float32, one each PERIOD_S from PERIOD_S on.
    Readings (M, 3) at times_s (M,). truth (K, 4, 4): LiDAR poses relative to the first sweep's."""

    sweeps: list[tuple[Array, Array]]
    times_s: Array
    gyro: Array
    accel: Array
    truth: Array


def ranges(origins: Array, rays: Array, hall: tuple[Array, Array], boxes: list[tuple[float, ...]]) -> Array:
    """Distance (N,) along rays (N, 3) to a hall's walls or the boxes in it (slab method)."""
    steps = 1.0 / np.where(np.abs(rays) < 1e-12, 1e-12, rays)

    def slabs(low: Array, high: Array) -> tuple[Array, Array]:
        a, b = (low - origins) * steps, (high - origins) * steps
        return np.minimum(a, b).max(axis=1), np.maximum(a, b).min(axis=1)

    result = slabs(*hall)[1]
    for x, y, length, width, height in boxes:
        near, far = slabs(np.array([x, y, 0.0]), np.array([x + length, y + width, height]))
        result = np.where((near < far) & (near > 0), np.minimum(result, near), result)
    return result


def lidar_poses(trajectory: Trajectory, times_s: Array) -> Array:
    """world_T_lidar (N, 4, 4)."""
    result: Array = states_at(trajectory, times_s).world_T_base @ BASE_T_LIDAR
    return result


def one_sweep(
    trajectory: Trajectory,
    end_s: float,
    hall: tuple[Array, Array],
    boxes: list[tuple[float, ...]],
    columns: int,
    reach_m: float,
) -> tuple[Array, Array]:
    """16 beams during the PERIOD_S before end_s, 1 cm of noise, nothing beyond reach_m."""
    offsets = (np.arange(1, columns + 1) / columns - 1.0) * PERIOD_S
    azimuths, elevations = np.linspace(np.pi, -np.pi, columns, endpoint=False), np.radians(np.linspace(-25, 25, 16))
    azimuth, elevation = np.meshgrid(azimuths, elevations, indexing="ij")
    azimuth, elevation = azimuth.ravel(), elevation.ravel()
    rays = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1)
    poses = np.repeat(lidar_poses(trajectory, end_s + offsets), 16, axis=0)
    measured = ranges(poses[:, :3, 3], np.einsum("nij,nj->ni", poses[:, :3, :3], rays), hall, boxes)
    measured = measured + np.random.default_rng(round(end_s * 1e3)).normal(0.0, 0.01, len(rays))
    seen = measured < reach_m
    return (rays * measured[:, None])[seen].astype(np.float32), np.repeat(offsets, 16)[seen].astype(np.float32)


def record(
    trajectory: Trajectory,
    duration_s: float,
    hall: tuple[Array, Array],
    boxes: list[tuple[float, ...]],
    noise: ImuNoise,
    columns: int = 200,
    reach_m: float = 40.0,
) -> Recorded:
    """A recording of so many seconds."""
    ends = np.arange(1, round(duration_s / PERIOD_S) + 1) * PERIOD_S
    times_s = np.arange(round(duration_s * RATE_HZ) + 1) / RATE_HZ
    gyro, accel = readings(trajectory, times_s, BASE_T_IMU, BIAS, noise, np.random.default_rng(1))
    poses = lidar_poses(trajectory, ends)
    sweeps = [one_sweep(trajectory, end, hall, boxes, columns, reach_m) for end in ends.tolist()]
    return Recorded(sweeps, times_s, gyro, accel, inverse(poses[0]) @ poses)


@cache
def flight() -> Recorded:
    """Six seconds through the room."""
    return record(FLIGHT, 6.0, ROOM, FURNITURE, ImuNoise())


@cache
def drive() -> Recorded:
    """Away from a tunnel's portal; the LiDAR sees 8 m, and so nothing but bare walls in the end."""
    return record(DRIVE, 7.2, TUNNEL, PORTAL, ImuNoise(), columns=150, reach_m=8.0)


def feed(
    odometry: InertialOdometry, recorded: Recorded, first: int, last: int, keep: Array | None = None
) -> list[OdometryResult]:
    """Sweeps first..last - 1 with the readings before each that are kept (M,) bool."""
    results = []
    for k in range(first, last):
        begin = -1.0 if k == 0 else k * PERIOD_S
        new = (recorded.times_s > begin + 1e-9) & (recorded.times_s <= (k + 1) * PERIOD_S + 1e-9)
        for i in np.flatnonzero(new if keep is None else new & keep).tolist():
            odometry.add_imu(round(recorded.times_s[i] * 1e9), recorded.gyro[i], recorded.accel[i])
        points, offsets = recorded.sweeps[k]
        results.append(odometry.step(points, round((k + 1) * PERIOD_S * 1e9), offsets))
    return results


def poses_of(results: list[OdometryResult]) -> Array:
    """(N, 4, 4)."""
    return np.array([result.odom_T_sensor for result in results])
