"""Pairs of clouds for bench_global.py: a real drive, simulated worlds, a real pair, and clouds of other places.

Every source cloud is turned about z by a random heading; the truth is turned with it. Simulated sweeps are straightened
with the velocity at their end.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from devices.sensors.simulated.lidar import Lidar, sweep
from devices.sensors.simulated.motion import states_at, stream
from devices.sensors.simulated.scene import Scene
from devices.sensors.simulated.world import WorldConfig, make_lidar, make_scene
from registration.odometry import OdometryConfig, ScanToMapOdometry
from registration.sweep import deskew
from tercel.core.errors import UserError
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, transform_points

Array = NDArray[Any]

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_DATA = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
SIMULATED = ("street 16", "street 64", "orchard 16", "orchard 64")
REAL = ("drive 0005", "small_gicp pair")
TIMES_S = np.arange(4.0, 44.0, 0.5)
PERIOD_NS = 100_000_000
_STREAM = 41
_CLOSEST = 20  # a pair is one of so many whose distance is nearest to the wanted one


@dataclass(frozen=True, eq=False)
class Pair:
    """Clouds (N, 3) float32 in their sensors' frames; the truth (4, 4), None if they are of different places."""

    target_m: Array
    source_m: Array
    target_T_source: Array | None
    distance_m: float


def pairs(name: str, count: int, *, seed: int, within_m: float = 20.0) -> list[Pair]:
    """Pairs of one set of SIMULATED or REAL, distances spread evenly up to within_m; worlds have the seed as theirs."""
    if name == "small_gicp pair":
        return _published_pair(count, seed)
    if name == "drive 0005":
        poses, read = drive_poses(), drive_scan
    else:
        world, beams = name.split()
        poses = world_poses(world, seed, int(beams))
        read = lambda k: world_scan(world, seed, int(beams), k)  # noqa: E731
    rng = np.random.default_rng(seed)
    apart = np.linalg.norm(poses[:, None, :3, 3] - poses[None, :, :3, 3], axis=2)
    found = []
    for k in range(count):
        wanted = (k + rng.random()) / count * within_m
        close = np.where((apart < within_m) & (apart > 0.0), np.abs(apart - wanted), np.inf)
        i, j = divmod(int(np.argsort(close, axis=None, kind="stable")[rng.integers(_CLOSEST)]), len(poses))
        turned_T_sensor = from_rotation_translation(rotation_about_z(rng.uniform(0.0, 2.0 * np.pi)), np.zeros(3))
        truth = inverse(poses[i]) @ poses[j] @ inverse(turned_T_sensor)
        found.append(Pair(read(i), transform_points(turned_T_sensor, read(j)), truth, float(apart[i, j])))
    return found


def strangers(count: int, *, seed: int, real: bool) -> list[Pair]:
    """Pairs of clouds that have nothing in common: drive 0005 against other real and simulated places, or simulated
    places against each other."""
    rng = np.random.default_rng(seed)
    kinds = [kind.split() for kind in SIMULATED]
    clouds = other_real_clouds() if real else []
    found = []
    for k in range(count):
        world, beams = kinds[k % len(kinds)]
        elsewhere = world_scan(world, seed + 1, int(beams), int(rng.integers(len(TIMES_S))))
        if real:
            target = drive_scan(int(rng.integers(len(drive_poses()))))
            source = clouds[k // 2 % len(clouds)] if k % 2 else elsewhere
        else:
            other, beams = kinds[(k + k // len(kinds)) % len(kinds)]
            target, source = world_scan(other, seed, int(beams), int(rng.integers(len(TIMES_S)))), elsewhere
        turn = from_rotation_translation(rotation_about_z(rng.uniform(0.0, 2.0 * np.pi)), np.zeros(3))
        found.append(Pair(target, transform_points(turn, source), None, np.inf))
    return found


@cache
def drive_poses() -> Array:
    """Poses (154, 4, 4) of drive 0005: odometry's, since the satellite poses that come with it stretch the road.

    Two scans 30 m apart fit each other 1.5 m and more from where those put them, whatever aligns them; the same scans
    through the odometry's chain of neighbours fit within centimetres.
    """
    paths = sorted((SHARED_DATA / "kitti_drive0005" / "velodyne").glob("*.kxz"))
    if not paths:
        raise UserError(f"no recordings at {SHARED_DATA}: set TERCEL_DATA")
    odometry = ScanToMapOdometry(OdometryConfig(deskew=False))
    return np.array([odometry.step(drive_scan(k), (k + 1) * PERIOD_NS).odom_T_sensor for k in range(len(paths))])


@cache
def drive_scan(k: int) -> Array:
    """Scan k of drive 0005 (N, 3)."""
    paths = sorted((SHARED_DATA / "kitti_drive0005" / "velodyne").glob("*.kxz"))
    points: Array = _unpack().read_scan(paths[k])[:, :3]
    return points


def other_real_clouds() -> list[Array]:
    """Scans of other places: drive 0052 (to the front only), three frames of KITTI's object set, one of nuScenes."""
    paths = sorted((SHARED_DATA / "kitti_drive0052_camlidar" / "velodyne_front").glob("*.kxz"))[::8]
    paths += sorted((SHARED_DATA / "kitti_object_3frames").glob("*.kxz"))
    sweep_file = SHARED_DATA / "lidar_nuscenes_sample" / "LIDAR_TOP.pcd.bin"
    x_right = np.fromfile(sweep_file, np.float32).reshape(-1, 5)[:, :3]  # nuScenes' sensor looks along y
    ahead = np.column_stack([x_right[:, 1], -x_right[:, 0], x_right[:, 2]])
    return [*(_unpack().read_scan(path)[:, :3] for path in paths), ahead]


@cache
def world_poses(world: str, seed: int, beams: int) -> Array:
    """World_T_lidar (K, 4, 4) at TIMES_S."""
    scene, lidar = _world(world, seed, beams)
    poses: Array = states_at(scene.trajectory, TIMES_S).world_T_base @ lidar.base_T_lidar
    return poses


@cache
def world_scan(world: str, seed: int, beams: int, k: int) -> Array:
    """The sweep that ends at TIMES_S[k], straightened to its end (N, 3)."""
    scene, lidar = _world(world, seed, beams)
    time_s = float(TIMES_S[k])
    seen = sweep(lidar, scene.trajectory, scene.snapshot(time_s).primitives, time_s, stream(seed, _STREAM, k))
    state = states_at(scene.trajectory, np.array([time_s]))
    rate, arm = state.body_rates_radps[0], lidar.base_T_lidar[:3, 3]
    velocity = state.rotations[0].T @ state.velocities_mps[0] + np.cross(rate, arm)
    return deskew(seen.points_m, seen.time_offset_s, np.concatenate([velocity, rate]))


@cache
def _world(world: str, seed: int, beams: int) -> tuple[Scene, Lidar]:
    return make_scene(world, seed), make_lidar(WorldConfig(name=world, seed=seed, lidar_beams=beams))


def _published_pair(count: int, seed: int) -> list[Pair]:
    """small_gicp's pair, its source turned and moved `count` times within 10 m."""
    folder = SHARED_DATA / "lidar_pairs" / "small_gicp"
    target, source = (
        small_gicp.read_ply(str(folder / f"{name}.ply")).points()[:, :3].astype(np.float32)
        for name in ("target", "source")
    )
    truth, rng, found = np.loadtxt(folder / "T_target_source.txt"), np.random.default_rng(seed), []
    for _ in range(count):
        moved = np.array([*rng.uniform(-10.0, 10.0, 2), 0.0])
        moved_T_source = from_rotation_translation(rotation_about_z(rng.uniform(0.0, 2.0 * np.pi)), moved)
        pose = truth @ inverse(moved_T_source)
        found.append(Pair(target, transform_points(moved_T_source, source), pose, float(np.linalg.norm(pose[:3, 3]))))
    return found


@cache
def _unpack() -> ModuleType:
    """The recordings' own reader."""
    spec = importlib.util.spec_from_file_location("unpack", SHARED_DATA / "unpack.py")
    if spec is None or spec.loader is None:
        raise UserError(f"no recordings at {SHARED_DATA}: set TERCEL_DATA")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
