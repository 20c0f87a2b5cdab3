"""LiDAR odometry beside kiss-icp on the same scans: time, drift and memory.

python tests/benchmarks/bench_odometry.py [--data DIR] [--truth FILE] [--runs N] [--json FILE]

Each run is a process of its own (so that its peak memory is its own), the methods take turns, and the table shows
medians over the runs. Both get the points as float64, which is what kiss-icp takes. Default data: kitti_drive0005, from
TERCEL_DATA, else from shared/data beside the repository; DIR is a folder of KITTI .bin scans (x y z intensity).

kiss-icp runs as it comes, on all cores, and on one core as ours does; ratios are to the faster of the two.
"deskewed" derives the times of the points from their azimuth, as kiss-icp's own KITTI reader does; the files hold none.
The truth's positions are GPS without corrections, 0.49 m by its own account (oxts pos_accuracy), so below about 0.5 m
the ATE tells more about the truth than about the odometry. Its rotations and single steps are better.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from registration.odometry import OdometryConfig, ScanToMapOdometry  # noqa: E402
from registration.trajectory import absolute_error, relative_error  # noqa: E402
from tercel.core.errors import UserError, require  # noqa: E402
from tercel.core.geometry import from_rotation_translation  # noqa: E402

Array = NDArray[Any]
Step = Callable[[Array, int], Array]

PERIOD_S = 0.1
METHODS = ("tercel", "kiss-icp", "kiss-icp 1 thread", "tercel deskewed", "kiss-icp deskewed")


def sweep_fraction(points_m: Array) -> Array:
    """When in the sweep each point was measured, 0..1: the scanner turns clockwise and begins behind."""
    result: Array = 0.5 - np.arctan2(points_m[:, 1], points_m[:, 0]) / (2.0 * np.pi)
    return result


def tercel_step(deskewed: bool) -> Step:
    odometry = ScanToMapOdometry(OdometryConfig())

    def step(points_m: Array, k: int) -> Array:
        times = (sweep_fraction(points_m) - 0.5) * PERIOD_S if deskewed else None
        return odometry.step(points_m, round(k * PERIOD_S * 1e9), times).odom_T_sensor

    return step


def kiss_step(deskewed: bool, one_thread: bool) -> Step:
    kiss = require("kiss_icp.kiss_icp", extra="bench")
    config = require("kiss_icp.config.parser", extra="bench").load_config(None)
    config.data.deskew = deskewed
    if one_thread:  # as ours; by default it takes all cores
        config.registration.max_num_threads = 1
    odometry = kiss.KissICP(config)

    def step(points_m: Array, _: int) -> Array:
        odometry.register_frame(points_m, sweep_fraction(points_m) if deskewed else np.zeros(0))
        return np.array(odometry.last_pose)

    return step


def peak_mb() -> float:
    """The most memory that this process has held."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def run_method(method: str, folder: str) -> dict[str, Any]:
    """One pass over the scans, in a process of its own."""
    deskewed = method.endswith("deskewed")
    step = tercel_step(deskewed) if method.startswith("tercel") else kiss_step(deskewed, "1 thread" in method)
    before_mb, times_s, poses = peak_mb(), [], []
    for k, path in enumerate(sorted(Path(folder).glob("*.bin"))):
        points_m = np.fromfile(path, np.float32).reshape(-1, 4)[:, :3].astype(np.float64)
        start = time.perf_counter()
        poses.append(step(points_m, k))
        times_s.append(time.perf_counter() - start)
    return {"times_s": np.array(times_s), "poses": np.array(poses), "memory_mb": peak_mb() - before_mb}


def summary(runs: list[dict[str, Any]], truth: Array | None) -> dict[str, float]:
    """Medians over runs of one method."""
    poses = runs[0]["poses"]
    row = {
        "ms_per_scan_p50": float(np.median([np.median(run["times_s"]) for run in runs]) * 1e3),
        "ms_per_scan_p99": float(np.median([np.percentile(run["times_s"], 99) for run in runs]) * 1e3),
        "total_s": float(np.median([run["times_s"].sum() for run in runs])),
        "memory_mb": float(np.median([run["memory_mb"] for run in runs])),
        "repeatable": float(all(run["poses"].tobytes() == poses.tobytes() for run in runs)),
    }
    if truth is not None:
        row["ate_m"] = absolute_error(truth, poses).rmse
        for delta in (1, 10):
            error = relative_error(truth, poses, delta, "frames")
            row[f"rpe{delta}_cm"], row[f"rpe{delta}_deg"] = error.translation_m.rmse * 100, error.rotation_deg.rmse
    return row


def unpack_drive(shared_data: Path, target: Path) -> None:
    """Lay kitti_drive0005's scans out as .bin, with the recordings' own reader."""
    spec = importlib.util.spec_from_file_location("unpack", shared_data / "unpack.py")
    if spec is None or spec.loader is None or not (shared_data / "unpack.py").is_file():
        raise UserError(f"no recordings at {shared_data}: set TERCEL_DATA, or give --data DIR with KITTI .bin scans")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    unpack.scans(shared_data / "kitti_drive0005" / "velodyne", target)


def read_truth(path: Path | None) -> Array | None:
    if path is None:
        return None
    rows = np.loadtxt(path).reshape(-1, 3, 4)
    return from_rotation_translation(rows[:, :, :3], rows[:, :, 3])


def measure(data: Path | None, truth_file: Path | None, runs: int) -> dict[str, dict[str, float]]:
    """All methods, taking turns, `runs` times each."""
    require("kiss_icp", extra="bench")
    shared_data = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
    results: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as temporary:
        if data is None:
            unpack_drive(shared_data, Path(temporary))
            truth_file = truth_file or shared_data / "kitti_drive0005" / "poses_velo_from_oxts.txt"
        folder = data or Path(temporary)
        truth, count = read_truth(truth_file), len(list(folder.glob("*.bin")))
        if count == 0 or (truth is not None and len(truth) != count):
            raise UserError(
                f"{folder} has {count} .bin scans, and the truth {0 if truth is None else len(truth)} poses"
            )
        for turn in range(runs):
            for method in METHODS[:: 1 if turn % 2 == 0 else -1]:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    results[method].append(pool.apply(run_method, (method, str(folder))))
                print(f"\rrun {turn + 1} of {runs}: {method:20}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {method: summary(of_method, truth) for method, of_method in results.items()}


def print_table(rows: dict[str, dict[str, float]]) -> None:
    reference_s = min(row["total_s"] for method, row in rows.items() if method in ("kiss-icp", "kiss-icp 1 thread"))
    print(f"{'':18}  ms/scan    p99   total   ratio    ATE   RPE 1 frame     RPE 10 frames   memory  repeatable")
    for method, row in rows.items():
        drift = " " * 39
        if "ate_m" in row:
            drift = (
                f"{row['ate_m']:5.2f} m {row['rpe1_cm']:4.1f} cm {row['rpe1_deg']:.3f}° "
                f"{row['rpe10_cm']:5.1f} cm {row['rpe10_deg']:.3f}°"
            )
        print(
            f"{method:18} {row['ms_per_scan_p50']:8.1f} {row['ms_per_scan_p99']:6.1f} {row['total_s']:5.2f} s "
            f"{row['total_s'] / reference_s:6.2f} {drift} {row['memory_mb']:5.0f} MB  "
            f"{'yes' if row['repeatable'] else 'no'}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of KITTI .bin scans")
    parser.add_argument("--truth", type=Path, help="poses of the scans, rows of 3x4")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the same numbers here")
    args = parser.parse_args()
    print("python", *sys.argv)
    try:
        rows = measure(args.data, args.truth, args.runs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print_table(rows)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"command": ["python", *sys.argv], "methods": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
