"""What bench_distant.py registers: pairs of scans from simulated drives and from drive0005, written as files."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from devices.sensors.simulated.lidar import sweep  # noqa: E402
from devices.sensors.simulated.motion import states_at, stream  # noqa: E402
from devices.sensors.simulated.world import WorldConfig, base_T_sensor, make_lidar, make_scene  # noqa: E402
from registration.distant.pairs import Pair, choose_pairs  # noqa: E402
from registration.odometry import OdometryConfig, ScanToMapOdometry  # noqa: E402
from tercel.core.errors import UserError  # noqa: E402
from tercel.core.geometry import from_rotation_translation, inverse, transform_points  # noqa: E402

Array = NDArray[Any]
Scans = Callable[[int], Array]

WORLD_TIMES_S = np.arange(4.0, 44.0, 0.5)
WORLDS = {
    "street": ("street", 64, 64, 1000),
    "street mixed": ("street", 64, 16, 1001),
    "orchard": ("orchard", 64, 64, 1000),
    "orchard mixed": ("orchard", 64, 16, 1001),
}
FIT_WORLDS = [
    (world, 64, beams, seed) for seed in range(910, 914) for world in ("street", "orchard") for beams in (64, 16)
]
SEED = 7


class World:
    """A simulated drive's scans, each as one instant would have seen it, and their poses."""

    def __init__(self, name: str, seed: int, beams: int) -> None:
        self.seed, self.scene = seed, make_scene(name, seed)
        self.lidar = make_lidar(WorldConfig(name=name, lidar_beams=beams))
        self.base_T_lidar = base_T_sensor(name, "lidar")

    def poses(self, times_s: Array) -> Array:
        """world_T_lidar (N, 4, 4)."""
        result: Array = states_at(self.scene.trajectory, times_s).world_T_base @ self.base_T_lidar
        return result

    def scan(self, k: int) -> Array:
        """(N, 3) float32 in the sensor's frame at the sweep's end."""
        end_s = float(WORLD_TIMES_S[k])
        primitives = self.scene.snapshot(end_s).primitives
        seen = sweep(self.lidar, self.scene.trajectory, primitives, end_s, stream(self.seed, 5, k))
        offsets_s, row = np.unique(seen.time_offset_s, return_inverse=True)
        end_T_sensor = inverse(self.poses(np.array([end_s]))[0]) @ self.poses(end_s + offsets_s)
        points = np.einsum("nij,nj->ni", end_T_sensor[row, :3, :3], seen.points_m) + end_T_sensor[row, :3, 3]
        result: Array = points.astype(np.float32)
        return result


def world_pairs(name: str, beams: int, other_beams: int, seed: int, per_bin: int) -> tuple[Scans, Scans, list[Pair]]:
    target, source = World(name, seed, beams), World(name, seed, other_beams)
    poses = target.poses(WORLD_TIMES_S)
    return target.scan, source.scan, choose_pairs(poses, poses, per_bin=per_bin, seed=SEED)


def unpack_drive(target: Path) -> tuple[Scans, Array]:
    """drive0005's scans and its GPS poses."""
    shared_data = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
    spec = importlib.util.spec_from_file_location("unpack", shared_data / "unpack.py")
    if spec is None or spec.loader is None or not (shared_data / "unpack.py").is_file():
        raise UserError(f"no recordings at {shared_data}: set TERCEL_DATA, or leave drive0005 out of --sequences")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    unpack.scans(shared_data / "kitti_drive0005" / "velodyne", target)
    files = sorted(target.glob("*.bin"))
    rows = np.loadtxt(shared_data / "kitti_drive0005" / "poses_velo_from_oxts.txt").reshape(-1, 3, 4)

    def scan(k: int) -> Array:
        return np.fromfile(files[k], np.float32).reshape(-1, 4)[:, :3]

    return scan, from_rotation_translation(rows[:, :, :3], rows[:, :, 3])


def chained(scan: Scans, count: int) -> Array:
    """Poses (N, 4, 4) of the scans by scan-to-map registration."""
    odometry = ScanToMapOdometry(OdometryConfig())
    return np.array([odometry.step(scan(k), k * 100_000_000).odom_T_sensor for k in range(count)])


def write_pairs(folder: Path, target: Scans, source: Scans, pairs: list[Pair], gps: Array | None = None) -> None:
    """One .npz for each pair, the source turned as the pair says."""
    folder.mkdir()
    for k, pair in enumerate(pairs):
        truth = pair.target_T_turned
        by_gps = np.full((4, 4), np.nan)
        if gps is not None:
            by_gps = inverse(gps[pair.target]) @ gps[pair.source] @ inverse(pair.turned_T_source)
        turned = transform_points(pair.turned_T_source, source(pair.source)).astype(np.float32)
        np.savez(
            folder / f"{k:04}.npz", target=target(pair.target), source=turned, truth=truth, gps=by_gps, bin=pair.bin_m
        )


def read_pairs(folder: Path, truth: str = "truth") -> Iterator[tuple[Array, Array, Array, tuple[float, float]]]:
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as data:
            yield data["target"], data["source"], data[truth], tuple(data["bin"].tolist())


def write_unrelated(folder: Path, first: Path, second: Path) -> None:
    """Targets of one sequence with sources of another: every fifth pair."""
    folder.mkdir()
    if first == second:
        return
    for k, (one, two) in enumerate(
        zip(sorted(first.glob("*.npz"))[::5], sorted(second.glob("*.npz"))[::5], strict=False)
    ):
        with np.load(one) as a, np.load(two) as b:
            np.savez(folder / f"{k:04}.npz", target=a["target"], source=b["source"], truth=np.eye(4), bin=(0.0, 0.0))
