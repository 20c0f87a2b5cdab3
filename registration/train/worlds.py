"""Scans of simulated worlds with true poses, as files: what the descriptor may learn from without any licence.

The suite's streets have houses wall to wall, and all look alike; half of those here have gaps, hedges, walls, bushes
and poles as well, so that a network cannot live on façades alone. A scan is seen with 64 or 16 beams; the sensor's
motion within a sweep is taken out with the true velocity. Every scan is turned about its own z axis by an angle of its
own, since the descriptor must not know which way a vehicle looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.lidar import sweep
from devices.sensors.simulated.motion import Trajectory, states_at, stream
from devices.sensors.simulated.primitives import BARK, BOX, CYLINDER, ELLIPSOID, FOLIAGE, Part
from devices.sensors.simulated.scene import Scene, Snapshot, merge, scenery
from devices.sensors.simulated.street import CHUNK_M, FIRST_SLOT, Street
from devices.sensors.simulated.world import WorldConfig, make_lidar, make_scene
from registration.odometry import deskew
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, se3_log, transform_points

Array = NDArray[Any]

# Worlds of seeds 0 to 99 are the suite's evaluation of detectors, those from 1000 on its evaluation of distant pairs.
TRAINING_SEEDS = range(100, 900)
TUNING_SEEDS = range(900, 1000)
KINDS = ("varied", "street", "orchard")
COLUMNS = {16: 900, 64: 1200}  # at 50 m their returns are as near each other as the grid's cells
STEP_M = 1 / 128  # coordinates are kept in whole steps, int16: out to 255 m
_FIRST_MOVING_ID = 2_000_000  # owners of vehicles and people that move; see street.py and orchard.py
_CLUTTER, _HOUSES, _SCANS = 30, 31, 32
_GREY = (0.5, 0.5, 0.5)


@dataclass(frozen=True, eq=False)
class Recording:
    """Scans of one world or drive. points_m: a list of (N, 3) float32 in each sensor's frame; still: (N,) bool each,
    False where a point lies on something that moves; world_T_sensor (S, 4, 4); beams (S,)."""

    points_m: list[Array]
    still: list[Array]
    world_T_sensor: Array
    beams: Array


class VariedStreet(Street):
    """A street with fewer houses, farther from the road, and with hedges, walls, bushes and poles."""

    def __init__(self, seed: int) -> None:
        rng = stream(seed, _HOUSES)
        self._without_house, self._farther_m = rng.uniform(0.2, 0.8), rng.uniform(0.0, 12.0)
        self._things = int(rng.integers(6, 24))
        super().__init__(seed)

    def _houses(self, rng: np.random.Generator, start: float, side: float) -> list[Part]:
        parts = super()._houses(rng, start, side)
        if rng.random() < self._without_house:
            return []
        yaw = self._at(start + CHUNK_M / 2, 0.0)[2]
        out_m = side * rng.uniform(0.0, self._farther_m)
        shift = np.array([-np.sin(yaw) * out_m, np.cos(yaw) * out_m, 0.0])
        return [_moved(part, shift) for part in parts]

    def _make_chunk(self, number: int) -> Snapshot:
        rng = stream(self._seed, _CLUTTER, number + FIRST_SLOT)
        parts: list[Part] = []
        for _ in range(self._things):
            side = rng.choice([-1.0, 1.0])
            out_m = side * (7.5 + 14.0 * rng.random() ** 1.5)
            x, y, yaw, _ = self._at(float((number + rng.random()) * CHUNK_M), out_m)
            parts.append(_thing(rng, x, y, yaw))
        return merge([super()._make_chunk(number), scenery(parts, pattern=(number + 977) & 0xFFFF)])


def _moved(part: Part, shift_m: Array) -> Part:
    x, y, z = (float(c) for c in np.array(part.center_m) + shift_m)
    return Part(part.kind, (x, y, z), part.size_m, part.color_bgr, part.material, part.yaw_rad, part.swing_m)


def _thing(rng: np.random.Generator, x: float, y: float, yaw: float) -> Part:
    """A bush, a hedge or wall along or across the street, a pole, or a box of any size."""
    kind = rng.choice(["bush", "hedge", "pole", "box"], p=[0.35, 0.3, 0.2, 0.15])
    if kind == "bush":
        size = (rng.uniform(0.8, 4.0), rng.uniform(0.8, 4.0), rng.uniform(0.8, 4.5))
        return Part(ELLIPSOID, (x, y, 0.45 * size[2]), size, _GREY, FOLIAGE, rng.uniform(0, np.pi))
    if kind == "hedge":
        size = (rng.uniform(2.0, 14.0), rng.uniform(0.2, 1.2), rng.uniform(0.8, 2.4))
        return Part(BOX, (x, y, size[2] / 2), size, _GREY, FOLIAGE, yaw + rng.choice([0.0, np.pi / 2], p=[0.7, 0.3]))
    if kind == "pole":
        width, height = rng.uniform(0.1, 0.6), rng.uniform(2.0, 9.0)
        return Part(CYLINDER, (x, y, height / 2), (width, width, height), _GREY, BARK)
    size = (rng.uniform(0.4, 3.0), rng.uniform(0.4, 3.0), rng.uniform(0.6, 3.0))
    return Part(BOX, (x, y, size[2] / 2), size, _GREY, yaw_rad=rng.uniform(0, np.pi))


def scene_of(kind: str, seed: int) -> Scene:
    """A world of one of KINDS."""
    return VariedStreet(seed) if kind == "varied" else make_scene(kind, seed)


def record(kind: str, seed: int, *, scans: int = 24, apart_m: float = 5.0) -> Recording:
    """Scans about every apart_m metres of one world's path, each with 64 or, one in three, with 16 beams."""
    name = "orchard" if kind == "orchard" else "street"
    scene, rng = scene_of(kind, seed), stream(seed, _SCANS, KINDS.index(kind))
    times_s = _times_every(scene.trajectory, apart_m * rng.uniform(0.7, 1.1), scans)
    beams = rng.choice([64, 64, 16], scans)
    lidars = {count: make_lidar(_config(name, seed, count)) for count in COLUMNS}
    points, still, poses = [], [], []
    for time_s, count in zip(times_s.tolist(), beams.tolist(), strict=True):
        lidar = lidars[count]
        seen = sweep(lidar, scene.trajectory, scene.snapshot(time_s).primitives, time_s, rng)
        around = states_at(scene.trajectory, np.array([time_s - lidar.period_s, time_s])).world_T_base
        around = around @ lidar.base_T_lidar
        twist = se3_log(inverse(around[0]) @ around[1]) / lidar.period_s
        turned = from_rotation_translation(rotation_about_z(rng.uniform(-np.pi, np.pi)), np.zeros(3))
        at_once = deskew(seen.points_m, seen.time_offset_s, twist)
        points.append(transform_points(inverse(turned), at_once))
        still.append(seen.owner < _FIRST_MOVING_ID)
        poses.append(around[1] @ turned)
    return Recording(points, still, np.stack(poses), beams)


def _config(name: str, seed: int, beams: int) -> WorldConfig:
    return WorldConfig(name=name, seed=seed, lidar_beams=beams, lidar_columns=COLUMNS[beams])


def _times_every(trajectory: Trajectory, apart_m: float, count: int) -> Array:
    times_s = np.arange(4.0, 4.0 + 3.0 * count * apart_m, 0.05)
    path_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(trajectory.position(times_s), axis=0), axis=1))])
    result: Array = times_s[np.searchsorted(path_m, apart_m * np.arange(count))]
    return result


def write_recording(path: Path, recording: Recording) -> None:
    """As an .npz file, replaced at once."""
    sizes = np.array([len(points) for points in recording.points_m])
    steps = np.clip(np.round(np.concatenate(recording.points_m) / STEP_M), -32767, 32767).astype(np.int16)
    part = path.with_suffix(".part.npz")
    np.savez(part, steps=steps, sizes=sizes, still=np.concatenate(recording.still),
             poses=recording.world_T_sensor, beams=recording.beams)  # fmt: skip
    part.replace(path)


def read_recording(path: Path) -> Recording:
    """What write_recording wrote."""
    with np.load(path, allow_pickle=False) as file:
        bounds = np.cumsum(file["sizes"])[:-1]
        points = np.split(file["steps"].astype(np.float32) * np.float32(STEP_M), bounds)
        return Recording(points, np.split(file["still"], bounds), file["poses"], file["beams"])


def write_worlds(folder: Path, seeds: range) -> list[Path]:
    """Record the worlds of some seeds into a folder, those that are not yet there: three streets of six varied, two
    plain, and every sixth world an orchard. Raises ValueError for seeds that are not for training or tuning."""
    if not all(seed in TRAINING_SEEDS or seed in TUNING_SEEDS for seed in seeds):
        raise ValueError(f"seeds {seeds} are not for training; take some of {TRAINING_SEEDS} or {TUNING_SEEDS}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in seeds:
        kind = ("varied", "street", "varied", "orchard", "varied", "street")[seed % 6]
        paths.append(folder / f"{kind}_{seed}.npz")
        if not paths[-1].exists():
            write_recording(paths[-1], record(kind, seed))
    return paths
