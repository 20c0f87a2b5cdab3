"""Loop closure and merging: how well loops are verified, what merging and closing gain, time and bytes.

python tests/benchmarks/bench_merge.py [--skip-orchard] [--data DIR] [--json FILE]

- Verification: candidates between recordings of one place and of different ones, aligned; right is within 0.5 m and 2
  degrees of the truth. Area under the ROC of four measures, and the share of right ones kept where no wrong one passes.
- Merging: a street driven there and back in the other lane, parts that overlap, and recordings that must not be merged.
  Real: the first and the last part of kitti_drive0005, 35 scans in both (one takes the even scans, the other the odd
  ones), and its first and last 44, which never come near each other. Its GPS is 0.49 m by its own account, so the
  merge is also held against odometry through the whole drive.
- Closing: a drone's second lap over an orchard, ATE of odometry alone and after loop closure, aligned as evo does.
- The pose graph beside gtsam's (Levenberg-Marquardt on the same edges), where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from devices.sensors.simulated.lidar import sweep  # noqa: E402
from devices.sensors.simulated.motion import Progress, states_at  # noqa: E402
from devices.sensors.simulated.world import WorldConfig, base_T_sensor, make_lidar, make_scene  # noqa: E402
from registration.keyframes import Recorded, Scan, record  # noqa: E402
from registration.loop_closure import (  # noqa: E402
    LoopConfig,
    candidates,
    consistent,
    find_loops,
    loop_edges,
    odometry_edges,
    verify,
)
from registration.merge import close_loops, merge  # noqa: E402
from registration.place import compare, describe, describe_aside  # noqa: E402
from registration.pose_graph import Edges, optimise  # noqa: E402
from registration.trajectory import absolute_error  # noqa: E402
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, so3_log  # noqa: E402

Array = NDArray[Any]
Drive = tuple[Recorded, Array]

RIGHT_M, RIGHT_DEG = 0.5, 2.0
MAX_PAIRS = 60


class Elsewhere(Progress):
    """Another's progress, from another place on, or backwards."""

    def __init__(self, inner: Progress, begin_m: float, sign: float) -> None:
        super().__init__(inner.rate_per_s, inner.swell)
        object.__setattr__(self, "begin_m", begin_m)
        object.__setattr__(self, "sign", sign)

    def __call__(self, time_s: Array) -> tuple[Array, Array, Array]:
        u, u1, u2 = super().__call__(time_s)
        return self.begin_m + self.sign * u, self.sign * u1, self.sign * u2  # type: ignore[attr-defined]


def simulated(world: str, seed: int, duration_s: float, *, begin_m: float = 0.0, back: bool = False) -> Drive:
    """A recording followed by odometry, and the true world_T_sensor. back: in the other lane, looking the other way."""
    scene = make_scene(world, seed)
    turn = np.eye(4)
    if world == "street":
        moved = Elsewhere(scene.trajectory.progress, begin_m, -1.0 if back else 1.0)
        lateral_m = -scene.trajectory.lateral_m if back else scene.trajectory.lateral_m
        scene.trajectory = replace(scene.trajectory, progress=moved, lateral_m=lateral_m)
        turn[:3, :3] = rotation_about_z(np.pi if back else 0.0)
    lidar, rng = make_lidar(WorldConfig(world, seed=seed)), np.random.default_rng([seed, back])
    truth: list[Array] = []

    def scans() -> Iterator[Scan]:
        for k in range(1, round(duration_s * 10) + 1):
            seen = sweep(lidar, scene.trajectory, scene.snapshot(k / 10).primitives, k / 10, rng)
            pose = states_at(scene.trajectory, np.array([k / 10])).world_T_base[0] @ base_T_sensor(world, "lidar")
            truth.append(pose @ turn)
            yield Scan(k * 100_000_000, (seen.points_m @ turn[:3, :3]).astype(np.float32), seen.time_offset_s)

    recorded = record(scans())
    return recorded, np.stack(truth)


def real_drive(shared_data: Path) -> tuple[list[Array], Array]:
    """kitti_drive0005's scans, and its poses."""
    spec = importlib.util.spec_from_file_location("unpack", shared_data / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    with tempfile.TemporaryDirectory() as folder:
        unpack.scans(shared_data / "kitti_drive0005" / "velodyne", Path(folder))
        scans = [np.fromfile(p, np.float32).reshape(-1, 4)[:, :3] for p in sorted(Path(folder).glob("*.bin"))]
    rows = np.loadtxt(shared_data / "kitti_drive0005" / "poses_velo_from_oxts.txt").reshape(-1, 3, 4)
    return scans, from_rotation_translation(rows[:, :, :3], rows[:, :, 3])


def followed(scans: list[Array], truth: Array, rows: range) -> Drive:
    """Some of the scans as a recording."""
    return record(Scan(k * 100_000_000, scans[k]) for k in rows), truth[list(rows)]


def error(found: Array, true: Array) -> tuple[float, float]:
    """m, degrees."""
    off = inverse(found) @ true
    return float(np.linalg.norm(off[:3, 3])), float(np.degrees(np.linalg.norm(so3_log(off[:3, :3]))))


# --- verification ----------------------------------------------------------------------------------------------------


def judged(known: Drive, asking: Drive, *, one_world: bool, rng: np.random.Generator) -> list[tuple[bool, Array]]:
    """Candidates after alignment: whether right, and (descriptors, inliers, agreement, confidence)."""
    (a, a_truth), (b, b_truth) = known, asking
    asked = np.stack([describe_aside(keyframe.points_m) for keyframe in b.keyframes])
    matches = compare(np.stack([keyframe.place for keyframe in a.keyframes]), asked)
    if a is b:
        matches.score[b.travelled_m[:, None] - a.travelled_m[None] < LoopConfig().min_way_m] = -1.0
    tries = candidates(matches, LoopConfig(min_score=0.2))
    chosen = sorted(rng.permutation(len(tries))[:MAX_PAIRS].tolist())
    found = []
    for row, column in (tries[k] for k in chosen):
        fit = verify(a.keyframes[column], b.keyframes[row], matches.guess(row, column), LoopConfig())
        right = False
        if one_world and fit.registration.converged:
            true = inverse(a_truth[a.keyframes[column].row]) @ b_truth[b.keyframes[row].row]
            off_m, off_deg = error(fit.registration.target_T_source, true)
            right = off_m < RIGHT_M and off_deg < RIGHT_DEG
        score = float(matches.score[row, column])
        measures = (score, fit.registration.inlier_ratio, fit.agreement.share, fit.confidence)
        found.append((right, np.array(measures)))
    return found


def roc(rows: list[tuple[bool, Array]]) -> dict[str, Any]:
    """Area under the curve of each measure (Mann and Whitney), and what is kept where no wrong one passes."""
    right = np.array([good for good, _ in rows])
    values = np.stack([measures for _, measures in rows])
    result: dict[str, Any] = {"right": int(right.sum()), "wrong": int((~right).sum())}
    for name, column in zip(("descriptors", "inliers", "free space", "confidence"), values.T, strict=True):
        good, bad = column[right], column[~right]
        above = (good[:, None] > bad[None]).mean() + 0.5 * (good[:, None] == bad[None]).mean()
        result[name] = {"auc": float(above), "kept": float((good > bad.max()).mean())}
    accepted = values[:, 3] >= LoopConfig().min_confidence
    result["accepted_right"], result["accepted_wrong"] = int((accepted & right).sum()), int((accepted & ~right).sum())
    return result


# --- the rest --------------------------------------------------------------------------------------------------------


def merging(name: str, a: Drive, b: Drive, true: Array | None, by_odometry: Array | None = None) -> dict[str, Any]:
    """One row of the table; true: A_T_B, or None where nothing must be merged."""
    began_s = time.perf_counter()
    merged = merge(a[0], b[0])
    row: dict[str, Any] = {"pair": name, "status": merged.status, "confidence": merged.confidence}
    row |= {"wanted": "no overlap" if true is None else "merged", "loops": len(merged.loops)}
    row["s"] = time.perf_counter() - began_s
    if merged.A_T_B is not None and merged.covariance is not None and true is not None:
        row["apart_m"] = float(np.linalg.norm(true[:3, 3]))
        row["error_m"], row["error_deg"] = error(merged.A_T_B, true)
        row["sigma_m"] = float(np.sqrt(np.trace(merged.covariance[:3, :3])))
        if by_odometry is not None:
            row["odometry_error_m"], row["odometry_error_deg"] = error(merged.A_T_B, by_odometry)
    return row


def costs(drive: Drive, other: Drive) -> dict[str, float]:
    """Milliseconds for each keyframe (medians), bytes of its descriptor."""
    a, b = drive[0], other[0]
    known = np.stack([keyframe.place for keyframe in a.keyframes])
    times: dict[str, list[float]] = {"describe": [], "ask": [], "verify": []}
    for row, keyframe in enumerate(b.keyframes[:20]):
        began_s = time.perf_counter()
        describe(keyframe.points_m)
        described_s = time.perf_counter()
        matches = compare(known, describe_aside(keyframe.points_m)[None])
        asked_s = time.perf_counter()
        best = int(matches.score[0].argmax())
        verify(a.keyframes[best], b.keyframes[row], matches.guess(0, best), LoopConfig())
        times["describe"].append(described_s - began_s)
        times["ask"].append(asked_s - described_s)
        times["verify"].append(time.perf_counter() - asked_s)
    result = {f"{name}_ms": 1e3 * float(np.median(each)) for name, each in times.items()}
    return result | {"descriptor_bytes": float(known[0].nbytes), "known": float(len(known))}


def closing(drive: Drive) -> dict[str, Any]:
    """ATE before and after, and the same graph by gtsam."""
    recorded, truth = drive
    began_s = time.perf_counter()
    closed = close_loops(recorded)
    row: dict[str, Any] = {"scans": len(truth), "keyframes": len(recorded.keyframes), "loops": len(closed.loops)}
    row["s"] = time.perf_counter() - began_s
    row["odometry_ate_m"] = absolute_error(truth, recorded.odom_T_sensor).rmse
    row["closed_ate_m"] = absolute_error(truth, closed.poses).rmse
    return row | beside_gtsam(recorded)


def beside_gtsam(recorded: Recorded) -> dict[str, Any]:
    """Time and cost of one pose graph, ours and gtsam's; nothing where it is not installed."""
    loops = consistent(find_loops(recorded, recorded), recorded, recorded)
    edges = Edges.joined([odometry_edges(recorded), loop_edges(loops)])
    edges = replace(edges, doubtful=np.zeros(len(edges), dtype=bool))
    began_s = time.perf_counter()
    ours = optimise(recorded.keyframe_poses, edges)
    result: dict[str, Any] = {"graph_ms": 1e3 * (time.perf_counter() - began_s)}
    result["graph_cost"] = float(ours.chi_squared.sum())
    try:
        import gtsam
    except ImportError:
        return result
    order = [3, 4, 5, 0, 1, 2]  # gtsam's tangents are rotation first
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    for k, pose in enumerate(recorded.keyframe_poses):
        values.insert(k, gtsam.Pose3(pose))
    graph.add(gtsam.NonlinearEqualityPose3(0, gtsam.Pose3(recorded.keyframe_poses[0])))
    for first, second, pose, information in zip(
        edges.first.tolist(), edges.second.tolist(), edges.first_T_second, edges.information, strict=True
    ):
        noise = gtsam.noiseModel.Gaussian.Information(information[np.ix_(order, order)])
        graph.add(gtsam.BetweenFactorPose3(first, second, gtsam.Pose3(pose), noise))
    began_s = time.perf_counter()
    found = gtsam.LevenbergMarquardtOptimizer(graph, values).optimize()
    result["gtsam_ms"] = 1e3 * (time.perf_counter() - began_s)
    result["gtsam_cost"] = 2.0 * float(graph.error(found))
    off_m = [float(np.linalg.norm(found.atPose3(k).translation() - pose[:3, 3])) for k, pose in enumerate(ours.poses)]
    return result | {"gtsam_apart_m": max(off_m)}


def measure(shared_data: Path, *, orchard: bool) -> dict[str, Any]:
    """Everything, in one process on one core."""
    rng = np.random.default_rng(0)
    there = simulated("street", 1000, 12.0)
    back = simulated("street", 1000, 12.0, begin_m=110.0, back=True)
    onwards = simulated("street", 1000, 12.0, begin_m=50.0)
    elsewhere = simulated("street", 1000, 8.0, begin_m=500.0)
    other = simulated("street", 1001, 8.0)
    scans, truth = real_drive(shared_data)
    whole, _ = followed(scans, truth, range(len(scans)))
    first = followed(scans, truth, range(0, 96, 2))
    last = followed(scans, truth, range(61, 154, 2))
    early, late = followed(scans, truth, range(45)), followed(scans, truth, range(110, 154))
    by_odometry, by_odometry_late = (inverse(whole.odom_T_sensor[0]) @ whole.odom_T_sensor[k] for k in (61, 110))
    result: dict[str, Any] = {}
    result["merging"] = [
        merging("street, there and back", there, back, inverse(there[1][0]) @ back[1][0]),
        merging("street, 50 m onwards", there, onwards, inverse(there[1][0]) @ onwards[1][0]),
        merging("drive 0005, two parts", first, last, inverse(first[1][0]) @ last[1][0], by_odometry),
        merging("drive 0005, 65 scans between", early, late, inverse(early[1][0]) @ late[1][0], by_odometry_late),
        merging("street, 500 m away", there, elsewhere, None),
        merging("two streets", there, other, None),
        merging("street and drive 0005", there, first, None),
    ]
    pairs = judged(there, back, one_world=True, rng=rng) + judged(there, onwards, one_world=True, rng=rng)
    pairs += judged(there, elsewhere, one_world=False, rng=rng) + judged(there, other, one_world=False, rng=rng)
    pairs += judged(there, first, one_world=False, rng=rng) + judged(first, last, one_world=True, rng=rng)
    result["costs"] = costs(there, back)
    if orchard:
        laps = simulated("orchard", 1000, 95.0)
        strange = simulated("orchard", 1001, 20.0)
        result["merging"].append(merging("two orchards", laps, strange, None))
        pairs += judged(laps, laps, one_world=True, rng=rng) + judged(laps, strange, one_world=False, rng=rng)
        result["closing"] = closing(laps)
    return result | {"verification": roc(pairs)}


def print_tables(result: dict[str, Any]) -> None:
    verification = result["verification"]
    print(f"\nverification: {verification['right']} right and {verification['wrong']} wrong candidates")
    print("                 AUC   right kept where no wrong one passes")
    for name in ("descriptors", "inliers", "free space", "confidence"):
        print(f"{name:12} {verification[name]['auc']:7.4f}   {verification[name]['kept']:.0%}")
    print(f"as shipped: {verification['accepted_right']} right and {verification['accepted_wrong']} wrong accepted")
    print("\nmerging                        status      loops  confidence   apart      error            σ      time")
    for row in result["merging"]:
        numbers = f"{row['pair']:30} {row['status']:10} {row['loops']:6} {row['confidence']:10.3f}"
        if "error_m" in row:
            numbers += (
                f" {row['apart_m']:7.1f} m {row['error_m']:6.3f} m {row['error_deg']:5.3f}° {row['sigma_m']:6.3f} m"
            )
        print(numbers + f" {row['s']:6.1f} s")
        if "odometry_error_m" in row:
            against = f"{row['odometry_error_m']:6.3f} m {row['odometry_error_deg']:5.3f}°"
            print(f"{'  against the whole drive' + chr(39) + 's odometry':71}{against}")
    cost = result["costs"]
    print(
        f"\na keyframe: {cost['descriptor_bytes']:.0f} bytes, described in {cost['describe_ms']:.1f} ms, compared with "
        f"{cost['known']:.0f} in {cost['ask_ms']:.1f} ms, one candidate verified in {cost['verify_ms']:.0f} ms"
    )
    if "closing" in result:
        row = result["closing"]
        print(
            f"orchard, {row['scans']} scans, {row['keyframes']} keyframes, {row['loops']} loops: ATE "
            f"{row['odometry_ate_m']:.3f} m by odometry, {row['closed_ate_m']:.3f} m closed, in {row['s']:.1f} s"
        )
        beside = f"; gtsam {row['gtsam_ms']:.0f} ms, {row['gtsam_cost']:.6g}" if "gtsam_ms" in row else ""
        apart = f", at most {row['gtsam_apart_m']:.1e} m apart" if "gtsam_ms" in row else ""
        print(f"its pose graph: {row['graph_ms']:.0f} ms, cost {row['graph_cost']:.6g}{beside}{apart}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-orchard", action="store_true", help="without the long flight")
    parser.add_argument("--data", type=Path, help="the folder of real recordings (default: TERCEL_DATA)")
    parser.add_argument("--json", type=Path, help="write the same numbers here")
    args = parser.parse_args()
    print("python", *sys.argv)
    shared_data = args.data or Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (shared_data / "unpack.py").is_file():
        print(f"no recordings at {shared_data}: set TERCEL_DATA or give --data DIR", file=sys.stderr)
        return 2
    result = measure(shared_data, orchard=not args.skip_orchard)
    print_tables(result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"command": ["python", *sys.argv]} | result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
