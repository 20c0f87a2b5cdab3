"""LiDAR odometry beside others on the same sweeps: drift, time and memory.

python tests/benchmarks/bench_odometry.py [--sequences NAME,...] [--methods NAME,...] [--seconds S] [--cache DIR]
    [--long SCANS] [--json FILE]

Sequences: kitti_drive0005, with and without deskewing, and simulated streets and orchards with 16 and 64 beams, two
seeds each, whose truth is exact (odometry_data.py). Methods: kiss-icp as it comes but for one thread; small_gicp, whose
wheel has no odometry, as a plain scan-to-map VGICP; Open3D, point to plane, scan to scan. Each run is a process of its
own on one core, so that its peak memory is its own, and its time is CPU time, which others' load disturbs little.
Only kiss-icp and Tercel deskew. A method may give its poses at the beginning, middle or end of a sweep; each is held
against the truth of the time that suits it best, and Tercel against that of the stamp.

ATE and RPE are evo's (registration.trajectory), the ATE after alignment; z is the largest error of height without it.
Three more runs: 64 beams on a core that another process keeps 60 % busy; street16_0 with damaged scans and stamps, of
which the worst and the last error of the position are told; and a long way, for memory (--long; 0: none).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests" / "benchmarks"))

from odometry_data import DRIVE, PERIOD_S, SIMULATED, Drive, open_drive, read_drive  # noqa: E402

from devices.sensors.simulated.world import WorldConfig, base_T_sensor, generate  # noqa: E402
from registration.odometry import ScanToMapOdometry  # noqa: E402
from registration.trajectory import absolute_error, align, relative_error  # noqa: E402
from tercel.core.errors import UserError, require  # noqa: E402
from tercel.core.geometry import inverse, orthonormalise, se3_log  # noqa: E402
from tercel.core.messages import Odometry, PointCloud  # noqa: E402
from tests.benchmarks.memory import peak_mb  # noqa: E402

Array = NDArray[Any]
Step = Callable[[int, Array, Array | None], Array]

METHODS = ("tercel", "kiss-icp", "small_gicp", "open3d")


class TercelStep:
    """Tercel's odometry, which also says how far it may be off."""

    def __init__(self) -> None:
        self.odometry = ScanToMapOdometry()
        self.covariances: list[Array] = []

    def __call__(self, stamp_ns: int, points_m: Array, times_s: Array | None) -> Array:
        pose = self.odometry.step(points_m, stamp_ns, times_s).odom_T_sensor
        self.covariances.append(self.odometry.pose_covariance())
        return pose


def kiss_step() -> Step:
    kiss = require("kiss_icp.kiss_icp", extra="bench")
    config = require("kiss_icp.config.parser", extra="bench").load_config(None)
    config.registration.max_num_threads = 1
    odometry = None

    def step(_: int, points_m: Array, times_s: Array | None) -> Array:
        nonlocal odometry
        if odometry is None:
            config.data.deskew = times_s is not None
            odometry = kiss.KissICP(config)
        share = np.zeros(0) if times_s is None else (times_s - times_s.min()) / max(float(np.ptp(times_s)), 1e-9)
        odometry.register_frame(points_m, share)
        return np.array(odometry.last_pose)

    return step


def small_gicp_step() -> Step:
    """Scan to map by VGICP, with a constant velocity for the guess, as in small_gicp's own example of odometry."""
    voxels = small_gicp.GaussianVoxelMap(1.0)
    voxels.set_lru(horizon=100, clear_cycle=10)
    pose, motion = np.eye(4), np.eye(4)

    def step(_: int, points_m: Array, __: Array | None) -> Array:
        nonlocal pose, motion
        scan, _tree = small_gicp.preprocess_points(points_m, 0.25, num_neighbors=10, num_threads=1)
        if voxels.size():
            result = small_gicp.align(voxels, scan, pose @ motion, max_correspondence_distance=1.0, num_threads=1)
            found = orthonormalise(np.array(result.T_target_source))  # what rounding adds would double with each scan
            motion, pose = inverse(pose) @ found, found
        voxels.insert(scan, pose)
        return pose

    return step


def open3d_step() -> Step:
    """Scan to scan, point to plane, as in Open3D's tutorial, with a constant velocity for the guess."""
    o3d = require("open3d", extra="bench")
    icp = o3d.pipelines.registration
    pose, motion, last = np.eye(4), np.eye(4), None

    def step(_: int, points_m: Array, __: Array | None) -> Array:
        nonlocal pose, motion, last
        near = points_m[np.linalg.norm(points_m, axis=1) < 100.0]
        scan = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(near)).voxel_down_sample(0.5)
        scan.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(radius=1.5, max_nn=20))
        if last is not None:
            estimation = icp.TransformationEstimationPointToPlane()
            motion = np.array(icp.registration_icp(scan, last, 1.0, motion, estimation).transformation)
            pose = pose @ motion
        last = scan
        return pose

    return step


STEPS: dict[str, Callable[[], Step]] = {
    "tercel": TercelStep,
    "kiss-icp": kiss_step,
    "small_gicp": small_gicp_step,
    "open3d": open3d_step,
}


def stay_on_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def run_method(method: str, path: Path, deskewed: bool) -> dict[str, Any]:
    """One pass over a drive, in a process of its own."""
    stay_on_one_core()
    drive, step = read_drive(path), STEPS[method]()
    before_mb, cpu_s, wall_s, poses = peak_mb(), [], [], []
    for stamp_ns, points_m, times_s in drive:
        cpu, wall = time.process_time(), time.perf_counter()
        poses.append(step(stamp_ns, points_m, times_s if deskewed else None))
        cpu_s.append(time.process_time() - cpu)
        wall_s.append(time.perf_counter() - wall)
    row = scores(drive, np.array(poses), at_stamp=method == "tercel")
    if isinstance(step, TercelStep):
        row["nees_p50"] = normalised_error(drive.truth, np.array(poses), np.array(step.covariances))
    row["cpu_ms_p50"], row["cpu_ms_p99"] = (float(np.percentile(cpu_s, q) * 1e3) for q in (50, 99))
    row["wall_ms_p50"], row["memory_mb"] = float(np.median(wall_s) * 1e3), peak_mb() - before_mb
    return row


def normalised_error(truth: Array, poses: Array, covariances: Array) -> float:
    """The median squared error of the poses relative to the first, by the covariances; 5.3 if these are exact."""
    errors = se3_log(inverse(poses[1:]) @ inverse(truth[0]) @ truth[1:])
    return float(np.median([e @ np.linalg.solve(c, e) for e, c in zip(errors, covariances[1:], strict=True)]))


def scores(drive: Drive, poses: Array, at_stamp: bool) -> dict[str, float]:
    """ATE, RPE, and height, against the truth of the time in the sweep that suits best."""
    offsets = (0.0,) if at_stamp else (-PERIOD_S, -0.5 * PERIOD_S, 0.0, 0.5 * PERIOD_S)
    truth = min((drive.truth_after(s) for s in offsets), key=lambda t: absolute_error(t, poses).rmse)
    height = (inverse(truth[0]) @ truth)[:, 2, 3] - (inverse(poses[0]) @ poses)[:, 2, 3]
    row = {"ate_m": absolute_error(truth, poses).rmse, "z_m": float(np.abs(height).max())}
    length_m = float(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum())
    for delta in (10, 100):
        if length_m > 1.2 * delta:
            row[f"rpe{delta}m_percent"] = relative_error(truth, poses, delta, "m").translation_percent
    if len(drive.by_speed):
        fitted = align(drive.by_speed, poses, with_scale=True)
        row["speed_ate_m"] = absolute_error(drive.by_speed, fitted).rmse
        row["speed_rpe10_cm"] = relative_error(drive.by_speed, fitted, 10, "frames").translation_m.rmse * 100.0
    return row


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def burn(share: float, stop: Any) -> None:
    """Take a share of the core, in slices of 10 ms."""
    stay_on_one_core()
    while not stop.is_set():
        begin = time.thread_time()
        while time.thread_time() - begin < 0.01 * share:
            pass
        time.sleep(0.01 * (1.0 - share))


def run_under_load(path: Path) -> dict[str, float]:
    """64 beams on one core that another process keeps 60 % busy: wall time a sweep, and how many exceed the period."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    other = context.Process(target=burn, args=(0.6, stop), daemon=True)
    other.start()
    stay_on_one_core()
    step, wall_s = TercelStep(), []
    for stamp_ns, points_m, times_s in read_drive(path):
        wall = time.perf_counter()
        step(stamp_ns, points_m, times_s)
        wall_s.append(time.perf_counter() - wall)
    stop.set()
    other.join(5.0)
    return {
        "hz": len(wall_s) / sum(wall_s),
        "wall_ms_p50": float(np.median(wall_s) * 1e3),
        "wall_ms_p99": float(np.percentile(wall_s, 99) * 1e3),
        "over_100_ms": float(np.mean(np.array(wall_s) > PERIOD_S)),
    }


def run_damaged(path: Path) -> dict[str, dict[str, float]]:
    """The first 150 sweeps with flat and foreign scans, late stamps, gaps, and few of them."""
    drive = read_drive(path)
    sweeps, true = list(drive), inverse(drive.truth[0]) @ drive.truth
    flat = np.array([1.0, 1.0, 0.0])
    rows: dict[str, dict[str, float]] = {}

    def follow(name: str, chosen: list[int], damage: Callable[[int], tuple[int, Array, Array]]) -> None:
        step, off_m, predicted = ScanToMapOdometry(), [], 0
        for k in chosen:
            late_ns, points_m, times_s = damage(k)
            result = step.step(points_m, sweeps[k][0] + late_ns, times_s)
            predicted += result.status == "predicted"
            off_m.append(float(np.linalg.norm(result.odom_T_sensor[:3, 3] - true[k, :3, 3])))
        rows[name] = {"worst_m": max(off_m), "last_m": off_m[-1], "over_half_m": sum(m > 0.5 for m in off_m)}
        rows[name] |= {"predicted": predicted, "of": len(chosen)}

    def as_it_is(k: int) -> tuple[int, Array, Array]:
        return 0, *sweeps[k][1:]

    every = list(range(min(150, len(sweeps))))
    follow("as it is", every, as_it_is)
    follow("3 flat scans", every, lambda k: (0, sweeps[k][1] * (flat if 80 <= k < 83 else 1.0), sweeps[k][2]))
    follow("2 foreign scans", every, lambda k: (0, *sweeps[0 if k in (80, 81) else k][1:]))
    follow("every 20th stamp 80 ms late", every, lambda k: (80_000_000 * (k % 20 == 13), *sweeps[k][1:]))
    follow("3 s missing", [k for k in every if not 60 <= k < 90], as_it_is)
    follow("2 sweeps a second", every[::5], as_it_is)
    follow("1 sweep a second", list(range(0, len(sweeps), 10)), as_it_is)
    return rows


def run_long(scans: int) -> dict[str, float]:
    """Peak memory after a tenth and after all of a long way through a street with a small scanner, and the drift."""
    stay_on_one_core()
    config = WorldConfig(
        "street", duration_s=scans * PERIOD_S, lidar_columns=240, camera_rate_hz=0.0, gps_rate_hz=0.0, imu_rate_hz=10.0
    )
    odometry, early_mb, largest, poses, truth = ScanToMapOdometry(), 0.0, 0, {}, {}
    for topic, _, message in generate(config):
        if isinstance(message, PointCloud):
            poses[message.stamp_ns] = odometry.step(
                message.points_m, message.stamp_ns, message.time_offset_s
            ).odom_T_sensor
            largest = max(largest, len(odometry.map))
            early_mb = peak_mb() if len(poses) == max(scans // 10, 1) else early_mb
        elif isinstance(message, Odometry) and topic == "/truth/odometry":
            truth[message.stamp_ns] = message.frame_T_child @ base_T_sensor("street", "lidar")
    true, found = np.array([truth[stamp] for stamp in poses]), np.array(list(poses.values()))
    return {
        "scans": float(len(poses)),
        "way_m": float(np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1).sum()),
        "mb_at_a_tenth": early_mb,
        "mb_at_the_end": peak_mb(),
        "map_points_max": float(largest),
        "ate_m": absolute_error(true, found).rmse,
        "rpe100m_percent": relative_error(true, found, 100, "m").translation_percent,
    }


def print_table(rows: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"{'':34}    ATE m  RPE 10 m  RPE 100 m     z m   CPU ms    p99  memory MB")
    for name, methods in rows.items():
        for method, row in methods.items():
            far = f"{row['rpe100m_percent']:8.2f} %" if "rpe100m_percent" in row else " " * 10
            print(
                f"{name:22} {method:10} {row['ate_m']:9.3f} {row['rpe10m_percent']:7.2f} % {far} {row['z_m']:7.2f} "
                f"{row['cpu_ms_p50']:8.1f} {row['cpu_ms_p99']:6.1f} {row['memory_mb']:7.0f}"
                + (f"   NEES {row['nees_p50']:.1f}" if "nees_p50" in row else "")
                + (
                    f"   by speed {row['speed_ate_m']:.3f} m, {row['speed_rpe10_cm']:.1f} cm"
                    if "speed_ate_m" in row
                    else ""
                )
            )


def summarise(rows: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Tercel's error and time by kiss-icp's: mean, geometric mean and largest."""
    result = {}
    for key in ("ate_m", "z_m", "cpu_ms_p50"):
        ratios = np.array(
            [m["tercel"][key] / m["kiss-icp"][key] for m in rows.values() if {"tercel", "kiss-icp"} <= {*m}]
        )
        if len(ratios):
            result[key] = {"mean": ratios.mean(), "geometric": np.exp(np.log(ratios).mean()), "largest": ratios.max()}
            result[key] = {k: float(v) for k, v in result[key].items()}
            print(f"tercel / kiss-icp, {key:10}: " + ", ".join(f"{k} {v:.2f}" for k, v in result[key].items()))
    return result


def measure(args: argparse.Namespace, cache: Path) -> dict[str, Any]:
    names = args.sequences.split(",") if args.sequences else [DRIVE, *SIMULATED]
    unknown = [name for name in names if name not in (DRIVE, *SIMULATED)]
    if unknown:
        raise UserError(f"no sequence {unknown[0]!r}; known: {', '.join((DRIVE, *SIMULATED))}")
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        path = open_drive(name, cache, args.seconds)
        for deskewed in (True, False) if name == DRIVE else (True,):
            label = name + ("" if deskewed else ", as it is")
            rows[label] = {}
            for method in args.methods.split(","):
                print(f"\r{label}: {method:12}", end="", file=sys.stderr, flush=True)
                rows[label][method] = alone(run_method, method, path, deskewed)
            print_table({label: rows[label]})
    result: dict[str, Any] = {"sequences": rows, "by_kiss": summarise(rows)}
    result["under_load"] = {}
    for name in names:
        if name == DRIVE or name.endswith("64_0"):
            result["under_load"][name] = row = run_under_load(open_drive(name, cache, args.seconds))
            print(f"{name}, one core, 60 % taken:", ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if "street16_0" in names:
        result["damaged"] = alone(run_damaged, open_drive("street16_0", cache, args.seconds))
        for name, row in result["damaged"].items():
            print(f"damaged: {name:28}", ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if args.long:
        result["long"] = alone(run_long, args.long)
        print("long way:", result["long"])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", help=f"comma-separated; default: {DRIVE} and all simulated ones")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the simulated drives")
    parser.add_argument("--cache", type=Path, help="folder in which to keep the simulated drives")
    parser.add_argument("--long", type=int, default=10_000, help="scans of the long way; 0: none")
    parser.add_argument("--json", type=Path, help="write the same numbers here")
    args = parser.parse_args()
    print("python", *sys.argv)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            cache = args.cache or Path(temporary)
            cache.mkdir(parents=True, exist_ok=True)
            result = measure(args, cache)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"command": ["python", *sys.argv], **result}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
