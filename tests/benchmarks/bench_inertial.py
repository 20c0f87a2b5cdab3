"""LiDAR-inertial odometry beside LiDAR alone (Tercel's and kiss-icp) on the same sweeps; an IMU alone on a real flight.

python tests/benchmarks/bench_inertial.py [--sequences NAME,...] [--seconds S] [--seed N] [--no-euroc] [--json FILE]

Sequences are simulated, so their truth is exact: streets and orchards with 16 and 64 beams, and the orchards flown hard
(up to 3 rad/s and 11 m/s, never at rest). The IMU has white noise, biases, and vibrates at 83 Hz with 3 m/s^2 and 0.05
rad/s. The methods take turns sweep by sweep on one core, in one process; times are CPU time, and the ratio is to
Tercel's odometry without the IMU. All three deskew. kiss-icp's poses are held against the truth of that time in the
sweep that suits them best, the others' against that of the stamp.

ATE is evo's after alignment, RPE over 1 and 10 sweeps. NEES: median of the squared error over the covariance in the
odometry frame, drift included (5.3 if it is exact); and the largest errors of the biases at the end. EuRoC MH_01: the
filter is given the true poses at 10 Hz, 5 mm and 2 mrad uncertain, and after each fifth of them predicts a second ahead
from the readings alone; beside it the constant velocity of the last 0.1 s.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests" / "benchmarks"))

from bench_odometry import kiss_step, stay_on_one_core  # noqa: E402

from devices.sensors.simulated.inertial import ImuNoise, draw_bias, readings  # noqa: E402
from devices.sensors.simulated.lidar import sweep  # noqa: E402
from devices.sensors.simulated.motion import Trajectory, random_waves, states_at, stream  # noqa: E402
from devices.sensors.simulated.world import WorldConfig, base_T_sensor, make_lidar, make_scene  # noqa: E402
from registration.imu_readings import ImuBuffer, ImuConfig, initial_belief  # noqa: E402
from registration.inertial import correction, plus, propagate  # noqa: E402
from registration.inertial_odometry import InertialOdometry  # noqa: E402
from registration.odometry import ScanToMapOdometry  # noqa: E402
from registration.trajectory import absolute_error, relative_error  # noqa: E402
from tercel.core.errors import UserError  # noqa: E402
from tercel.core.geometry import (  # noqa: E402
    from_rotation_translation,
    inverse,
    rotation_from_quat_xyzw,
    se3_exp,
    se3_log,
)

Array = NDArray[Any]

PERIOD_S = 0.1
SEQUENCES = ("street16", "street64", "orchard16", "orchard64", "fast16", "fast64")
METHODS = ("inertial", "tercel", "kiss-icp")
NOISE = ImuNoise(vibration_radps=0.05, vibration_mps2=3.0)


def flown_hard(trajectory: Trajectory, seed: int) -> Trajectory:
    """The same loop twice as fast, with sharp turns of the head, gusts and bobs."""
    rng = stream(seed, 77)
    return replace(
        trajectory,
        progress=replace(trajectory.progress, rate_per_s=0.2),
        height=random_waves(rng, (0.7, 0.25), (1.9, 0.5)),
        sway=(trajectory.sway[0], trajectory.sway[1], random_waves(rng, (0.6, 0.25), (0.8, 0.25))),
        hover=(random_waves(rng, (0.20, 0.05), (1.3, 0.5)), random_waves(rng, (0.18, 0.05), (1.5, 0.6))),
    )


def run_sequence(name: str, seconds: float, seed: int) -> dict[str, dict[str, float]]:
    """All methods on one sequence."""
    world, beams = "street" if name.startswith("street") else "orchard", int(name[-2:])
    scene, lidar = make_scene(world, seed), make_lidar(WorldConfig(world, seed=seed, lidar_beams=beams))
    trajectory = flown_hard(scene.trajectory, seed) if name.startswith("fast") else scene.trajectory
    base_T_lidar, base_T_imu, rng = base_T_sensor(world, "lidar"), base_T_sensor(world, "imu"), stream(seed, 5)
    bias = draw_bias(rng, NOISE)
    times_s = np.arange(round(seconds * 200) + 1) / 200
    gyro, accel = readings(trajectory, times_s, base_T_imu, bias, NOISE, rng)
    inertial, alone, kiss = InertialOdometry(inverse(base_T_imu) @ base_T_lidar), ScanToMapOdometry(), kiss_step()
    ends = np.arange(1, round(seconds / PERIOD_S) + 1) * PERIOD_S
    poses: dict[str, list[Array]] = {method: [] for method in METHODS}
    cpu_s: dict[str, list[float]] = {method: [] for method in METHODS}
    covariances, fed = [], 0
    for k, end in enumerate(ends.tolist()):
        seen = sweep(lidar, trajectory, scene.snapshot(end).primitives, end, rng)
        points, offsets, stamp = (
            seen.points_m.astype(np.float64),
            seen.time_offset_s.astype(np.float64),
            round(end * 1e9),
        )
        for method in METHODS[:: 1 if k % 2 else -1]:
            begin = time.process_time()
            if method == "inertial":
                while fed < len(times_s) and times_s[fed] <= end + 1e-9:
                    inertial.add_imu(round(times_s[fed] * 1e9), gyro[fed], accel[fed])
                    fed += 1
                pose = inertial.step(points, stamp, offsets).odom_T_sensor
            elif method == "tercel":
                pose = alone.step(points, stamp, offsets).odom_T_sensor
            else:
                pose = kiss(stamp, points, offsets)
            cpu_s[method].append(time.process_time() - begin)
            poses[method].append(pose)
        covariances.append(inertial.pose_covariance())
        print(f"\r{name}: {k + 1} of {len(ends)}   ", end="", file=sys.stderr, flush=True)

    def truth_at(offset_s: float) -> Array:
        result: Array = states_at(trajectory, ends + offset_s).world_T_base @ base_T_lidar
        return result

    rows = {}
    for method in METHODS:
        estimate, offsets_s = np.array(poses[method]), (-0.1, -0.05, 0.0) if method == "kiss-icp" else (0.0,)
        truth = min((truth_at(s) for s in offsets_s), key=lambda t: absolute_error(t, estimate).rmse)
        one, ten = (relative_error(truth, estimate, n, "frames") for n in (1, 10))
        rows[method] = {
            "ate_m": absolute_error(truth, estimate).rmse,
            "rpe1_cm": one.translation_m.rmse * 100.0,
            "rpe1_deg": one.rotation_deg.rmse,
            "rpe10_cm": ten.translation_m.rmse * 100.0,
            "rpe10_deg": ten.rotation_deg.rmse,
            "cpu_ms_p50": float(np.median(cpu_s[method]) * 1e3),
        }
    for method in METHODS:
        rows[method]["time_ratio"] = rows[method]["cpu_ms_p50"] / rows["tercel"]["cpu_ms_p50"]
    rows["inertial"] |= consistency(inertial, np.array(poses["inertial"]), np.array(covariances), truth_at(0.0), bias)
    return rows


def consistency(
    odometry: InertialOdometry, poses: Array, covariances: Array, truth: Array, bias: Array
) -> dict[str, float]:
    """How the errors compare with what is said of them, and the errors of the biases at the end."""
    errors = se3_log(inverse(poses) @ inverse(truth[0]) @ truth)[5:]
    nees = np.einsum("ni,nij,nj->n", errors, np.linalg.inv(covariances[5:]), errors)
    if odometry.state is None:
        raise ValueError("the odometry has not begun")
    gyro, accel = odometry.state.gyro_bias_radps - bias[:3], odometry.state.accel_bias_mps2 - bias[3:]
    return {
        "nees_p50": float(np.median(nees)),
        "gyro_bias_error_radps": float(np.abs(gyro).max()),
        "accel_bias_error_mps2": float(np.abs(accel).max()),
    }


def read_euroc(folder: Path) -> tuple[Array, Array, Array, Array]:
    """Times of readings (M,) ns, readings (M, 6), and stamps (N,) ns and world_T_imu (N, 4, 4) of the truth."""
    if not (folder / "imu0_data.csv.gz").is_file():
        raise UserError(f"no recording at {folder}: set TERCEL_DATA, or give --no-euroc")
    with gzip.open(folder / "imu0_data.csv.gz", "rt") as file:
        rows = [line.split(",")[1:7] for line in file if line[0].isdigit()]
    values = np.array([row for row in rows if all(row)], dtype=np.float64)
    stamps = 1_403_636_579_758_555_392 + 5_000_000 * np.arange(len(values))  # the file's own are rounded
    with gzip.open(folder / "MH_01_easy_groundtruth_tum.txt.gz", "rt") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    seconds, table = [line[0] for line in lines], np.array([line[1:8] for line in lines], dtype=np.float64)
    truth_ns = np.array([int(s.split(".")[0]) * 10**9 + round(float("0." + s.split(".")[1]) * 1e9) for s in seconds])
    return stamps, values, truth_ns, from_rotation_translation(rotation_from_quat_xyzw(table[:, 3:]), table[:, :3])


def run_euroc(folder: Path) -> dict[str, float]:
    """Drift of a second of readings alone; see the module's docstring."""
    stamps, values, truth_ns, truth = read_euroc(folder)
    config = ImuConfig(gyro_density=3e-4, accel_density=4e-3, accel_walk=3e-3, gyro_bias_radps=0.1, accel_bias_mps2=0.5)
    buffer, fed = ImuBuffer(config), 0
    every = 20  # the truth comes at 200 Hz
    truth_ns, truth = truth_ns[::every], truth[::every]
    information = np.diag(np.repeat([1 / 0.005**2, 1 / 0.002**2], 3))
    now = int(truth_ns[0])
    first = (stamps <= now) & (stamps > now - 10**9)
    state, covariance, _ = initial_belief(values[first, :3], values[first, 3:], np.eye(4), config)
    moved, turned, coasted = [], [], []
    for k in range(len(truth) - 10):
        while fed < len(stamps) and stamps[fed] <= truth_ns[k] + 1_100_000_000:
            buffer.add(int(stamps[fed]), values[fed, :3], values[fed, 3:])
            fed += 1
        if k:
            taken = buffer.between(now, int(truth_ns[k]), np.zeros(3))
            ahead = propagate(state, covariance, taken, config.gyro_walk, config.accel_walk)
            gradient = information @ se3_log(inverse(truth[k]) @ truth[0] @ ahead.state.odom_T_lidar)
            step, covariance = correction(ahead.state, ahead.covariance, ahead.state, information, gradient)
            state, now = plus(ahead.state, step), int(truth_ns[k])
            buffer.forget_before(now)
        if k >= 100 and k % 5 == 0:  # after 10 s
            taken = buffer.between(now, int(truth_ns[k + 10]), np.zeros(3))
            ahead = propagate(state, covariance, taken, config.gyro_walk, config.accel_walk)
            there = inverse(truth[0]) @ truth[k + 10]
            error = se3_log(inverse(there) @ ahead.state.odom_T_imu)
            moved.append(np.linalg.norm(error[:3]))
            turned.append(np.degrees(np.linalg.norm(error[3:])))
            velocity = se3_log(inverse(truth[k - 1]) @ truth[k]) / 0.1
            coasted.append(np.linalg.norm(se3_log(inverse(truth[k + 10]) @ truth[k] @ se3_exp(velocity))[:3]))
    return {
        "windows": float(len(moved)),
        "drift_1s_cm_p50": float(np.median(moved) * 100),
        "drift_1s_cm_p95": float(np.percentile(moved, 95) * 100),
        "drift_1s_deg_p50": float(np.median(turned)),
        "drift_1s_deg_p95": float(np.percentile(turned, 95)),
        "constant_velocity_1s_cm_p50": float(np.median(coasted) * 100),
        "constant_velocity_1s_cm_p95": float(np.percentile(coasted, 95) * 100),
    }


def print_table(rows: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"{'':9} {'':9} {'ATE':>8} {'RPE 1':>19} {'RPE 10':>19} {'CPU':>9} {'ratio':>6}   NEES   biases' errors")
    for name, methods in rows.items():
        for method, row in methods.items():
            said = ""
            if "nees_p50" in row:
                said = f"{row['nees_p50']:6.1f}   {row['gyro_bias_error_radps']:.5f} rad/s"
                said += f" {row['accel_bias_error_mps2']:.4f} m/s^2"
            print(
                f"{name:9} {method:9} {row['ate_m']:6.3f} m {row['rpe1_cm']:7.2f} cm {row['rpe1_deg']:6.3f}° "
                f"{row['rpe10_cm']:8.2f} cm {row['rpe10_deg']:6.3f}° {row['cpu_ms_p50']:6.1f} ms "
                f"{row['time_ratio']:6.2f} {said}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", default=",".join(SEQUENCES), help="some of them, with commas between")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each sequence")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-euroc", action="store_true", help="leave the real flight out")
    parser.add_argument("--json", type=Path, help="write the same numbers here")
    args = parser.parse_args()
    names = args.sequences.split(",") if args.sequences else []
    print("python", *sys.argv)
    try:
        unknown = [name for name in names if name not in SEQUENCES]
        if unknown:
            raise UserError(f"no sequence {unknown[0]!r}; known: {', '.join(SEQUENCES)}")
        stay_on_one_core()
        rows = {name: run_sequence(name, args.seconds, args.seed) for name in names}
        data = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
        euroc = None if args.no_euroc else run_euroc(data / "imu_euroc_mh01")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(file=sys.stderr)
    if rows:
        print_table(rows)
    if euroc:
        print(
            f"EuRoC MH_01, {euroc['windows']:.0f} windows of 1 s, IMU alone: {euroc['drift_1s_cm_p50']:.1f} cm "
            f"{euroc['drift_1s_deg_p50']:.3f}° (95 %: {euroc['drift_1s_cm_p95']:.1f} cm "
            f"{euroc['drift_1s_deg_p95']:.3f}°); constant velocity {euroc['constant_velocity_1s_cm_p50']:.0f} cm "
            f"(95 %: {euroc['constant_velocity_1s_cm_p95']:.0f} cm)"
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"command": ["python", *sys.argv], "sequences": rows, "euroc": euroc}
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
