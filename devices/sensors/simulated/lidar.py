"""A spinning LiDAR: sweeps with motion, noise, dropouts, quantised ranges and intensities.

It turns clockwise, begins and ends looking backwards, and fires a column of beams at a time. Each column is cast from
where the sensor is at the column's own time, at things where they are at that time, and each point is expressed in the
sensor frame at that time, as a real sensor gives it. A sweep's reference time is its END: the last column's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.motion import Trajectory, rotation_of
from devices.sensors.simulated.primitives import REFLECTIVITY, Primitives
from devices.sensors.simulated.raycast import MISS, Hits, Rays, cast, owners, surface
from devices.sensors.simulated.windows import spinning_windows

Array = NDArray[Any]

SAMPLE_POSES = 5
MIN_RANGE_M = 0.5
GROUND_REFLECTIVITY = 0.22


@dataclass(frozen=True, eq=False)
class Lidar:
    """The sensor. elevations_rad (R,) ascends with the ring number; noise_m: standard deviation of a range; dropout:
    share of returns lost at any range; a further quarter is lost at max_range_m, less by the fourth power nearer by."""

    elevations_rad: Array
    columns: int
    period_s: float
    base_T_lidar: Array
    max_range_m: float = 100.0
    noise_m: float = 0.02
    dropout: float = 0.005
    range_step_m: float = 2.0**-8

    def column_times_s(self) -> Array:
        """(C,) s relative to the end of the sweep: the last is 0."""
        return (np.arange(self.columns) - (self.columns - 1)) * (self.period_s / self.columns)

    def directions(self) -> tuple[Array, Array, Array]:
        """x, y, z (R, C) float64 of the unit directions in the sensor frame."""
        azimuth = np.pi - (np.arange(self.columns) + 0.5) * (2 * np.pi / self.columns)
        level, up = np.cos(self.elevations_rad)[:, None], np.sin(self.elevations_rad)[:, None]
        return level * np.cos(azimuth), level * np.sin(azimuth), up + np.zeros((1, self.columns))


@dataclass(frozen=True, eq=False)
class Sweep:
    """N returns in firing order: points_m (N, 3) float32 in the sensor frame at each one's own time, intensity (N,)
    float32 in 0..1, ring (N,) uint16, time_offset_s (N,) float32 relative to the sweep's end (0 or before), and the
    truth: owner (N,) int64 of each return, range_m (N,) float32 without noise."""

    points_m: Array
    intensity: Array
    ring: Array
    time_offset_s: Array
    owner: Array
    range_m: Array


def lidar_rays(lidar: Lidar, trajectory: Trajectory, end_s: float) -> tuple[Rays, Array, Array]:
    """The sweep's rays in the world's axes, and the sensor's positions (C, 3) and rotations (C, 3, 3)."""
    offsets = lidar.column_times_s()
    world_R_base = rotation_of(trajectory.angles(end_s + offsets))
    positions = trajectory.position(end_s + offsets) + world_R_base @ lidar.base_T_lidar[:3, 3]
    rotations = world_R_base @ lidar.base_T_lidar[:3, :3]
    x, y, z = lidar.directions()
    dx, dy, dz = (
        (rotations[:, k, 0] * x + rotations[:, k, 1] * y + rotations[:, k, 2] * z).astype(np.float32) for k in range(3)
    )
    origins = (positions[:, 0], positions[:, 1], positions[:, 2])
    return Rays(origins, (dx, dy, dz), offsets), positions, rotations


def cast_sweep(lidar: Lidar, trajectory: Trajectory, primitives: Primitives, end_s: float) -> tuple[Rays, Hits]:
    """Where the beams of the sweep that ends at end_s meet the primitives, whose reference time is end_s."""
    rays, positions, rotations = lidar_rays(lidar, trajectory, end_s)
    sample = np.round(np.linspace(0, lidar.columns - 1, SAMPLE_POSES)).astype(np.int64)
    windows = spinning_windows(
        primitives,
        positions[sample],
        rotations[sample],
        rays.times_s[sample],
        lidar.elevations_rad,
        lidar.columns,
        lidar.max_range_m,
    )
    return rays, cast(rays, primitives, windows, max_range_m=lidar.max_range_m)


def sweep(
    lidar: Lidar, trajectory: Trajectory, primitives: Primitives, end_s: float, rng: np.random.Generator
) -> Sweep:
    """Simulate the sweep that ends at end_s. Draws the same amount of randomness whatever the beams meet."""
    rays, hits = cast_sweep(lidar, trajectory, primitives, end_s)
    shape = hits.range_m.shape
    noise_m = rng.standard_normal(shape, dtype=np.float32) * np.float32(lidar.noise_m)
    luck = rng.random(shape, dtype=np.float32)
    glitter = rng.random(shape, dtype=np.float32)
    far = hits.range_m / np.float32(lidar.max_range_m)
    lost = luck < np.float32(lidar.dropout) + np.float32(0.25) * (far * far) * (far * far)
    returned = (hits.primitive != MISS) & (hits.range_m > MIN_RANGE_M) & ~lost
    column, row = np.nonzero(returned.T)
    measured = hits.range_m[row, column].astype(np.float64) + noise_m[row, column]
    measured = np.round(measured / lidar.range_step_m) * lidar.range_step_m
    x, y, z = lidar.directions()
    points = np.stack([measured * axis[row, column] for axis in (x, y, z)], axis=1)
    points = np.round(points / lidar.range_step_m) * lidar.range_step_m
    return Sweep(
        points.astype(np.float32),
        _intensity(rays, hits, primitives, row, column, glitter[row, column]),
        row.astype(np.uint16),
        np.round(rays.times_s[column], 7).astype(np.float32),
        owners(hits, primitives)[row, column],
        hits.range_m[row, column],
    )


def _intensity(rays: Rays, hits: Hits, primitives: Primitives, row: Array, column: Array, glitter: Array) -> Array:
    """Reflectivity, weaker where the beam grazes, with a little noise, in steps of 1/32."""
    met = np.flatnonzero(hits.primitive[row, column] >= 0)
    facing = np.abs(rays.directions[2][row, column])
    reflectivity = np.full(len(row), GROUND_REFLECTIVITY, dtype=np.float32)
    _, normal = surface(rays, hits, primitives, row[met], column[met])
    dx, dy, dz = (axis[row[met], column[met]] for axis in rays.directions)
    facing[met] = np.abs(normal[:, 0] * dx + normal[:, 1] * dy + normal[:, 2] * dz)
    seen = hits.primitive[row[met], column[met]]
    paint = primitives.colors_bgr[seen]
    bright = (paint[:, 0] + paint[:, 1] + paint[:, 2]) * np.float32(1 / 3)
    reflectivity[met] = REFLECTIVITY[primitives.material[seen]] * (np.float32(0.6) + np.float32(0.8) * bright)
    value = reflectivity * (np.float32(0.35) + np.float32(0.65) * facing) + np.float32(0.04) * (
        glitter - np.float32(0.5)
    )
    result: Array = np.round(np.clip(value, 0.0, 1.0) * np.float32(32.0)) / np.float32(32.0)
    return result
