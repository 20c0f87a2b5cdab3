"""Pairs of scans 5 to 50 m apart, by distance: recall, errors, time and memory, beside Open3D and KISS-Matcher.

python tests/benchmarks/bench_distant.py [--pairs N] [--real-pairs N] [--methods A,B] [--sequences A,B] [--json FILE]
python tests/benchmarks/bench_distant.py --fit         # the confidence's weights, from simulated worlds below 1000

Each method runs in a process of its own (its peak memory is its own), on one core, over the same pairs: each source is
turned by any yaw and tilted by up to 2 degrees. A pair is right within 2 m and 5 degrees. Times are the processor's.

Sequences: drive0005 (the real drive, never trained on), and worlds with seeds from 1000, never trained or tuned on:
street and orchard with 64 beams, and with 64 beams against 16 ("mixed"). Sweeps of the worlds are freed of motion with
the true trajectory. Pairs at one place of two worlds that do not belong together are asked too, for the confidence.

Truth of drive0005: the positions are GPS without corrections, up to 2.3 m off over 45 m, as much as a right pair may
be off at all. So the truth between two scans is the chain of scan-to-map registrations from one to the other, whose
errors over such a way are a few decimetres: KISS-ICP's chain, which shares no code with ours, is within 0.31 m and 0.35
degrees of it over 40 to 50 m, and both are 1.9 m from the GPS (median). "truth_to_gps" says how
far they are apart in the pairs at hand; recalls against the GPS are printed too.

Open3D: FPFH and RANSAC as its documentation sets them (normals within 2 voxels, features within 5, mutual matches,
edge lengths to 0.9, 100,000 draws, confidence 0.999), then point-to-plane ICP; voxels of 0.5 m and of 1 m. KISS-Matcher
with voxels of 0.5 m, then our local registration.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from registration.distant.evaluation import (  # noqa: E402
    MAX_ROTATION_DEG,
    MAX_TRANSLATION_M,
    Outcome,
    by_distance,
    errors_of,
    measure,
    roc,
    table,
)
from registration.distant.pairs import choose_pairs  # noqa: E402
from registration.distant.register import THRESHOLD, candidates, credit, register_distant  # noqa: E402
from registration.local import register_local  # noqa: E402
from tercel.core.errors import UserError, require  # noqa: E402
from tests.benchmarks.distant_data import (  # noqa: E402
    FIT_WORLDS,
    SEED,
    WORLDS,
    chained,
    read_pairs,
    unpack_drive,
    world_pairs,
    write_pairs,
    write_unrelated,
)

Array = NDArray[Any]
Method = Callable[[Array, Array], tuple[Array, float]]


def tercel_method(**options: Any) -> Method:
    def register(target_m: Array, source_m: Array) -> tuple[Array, float]:
        found = register_distant(target_m, source_m, **options)
        return found.target_T_source, found.confidence

    return register


def open3d_method(voxel_m: float) -> Method:
    o3d = require("open3d", extra="bench")
    registration, search = o3d.pipelines.registration, o3d.geometry.KDTreeSearchParamHybrid
    o3d.utility.random.seed(0)

    def prepared(points_m: Array) -> tuple[Any, Any]:
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points_m.astype(np.float64)))
        cloud = cloud.voxel_down_sample(voxel_m)
        cloud.estimate_normals(search(radius=2.0 * voxel_m, max_nn=30))
        return cloud, registration.compute_fpfh_feature(cloud, search(radius=5.0 * voxel_m, max_nn=100))

    def register(target_m: Array, source_m: Array) -> tuple[Array, float]:
        (target, target_fpfh), (source, source_fpfh) = prepared(target_m), prepared(source_m)
        found = registration.registration_ransac_based_on_feature_matching(
            source,
            target,
            source_fpfh,
            target_fpfh,
            True,
            1.5 * voxel_m,
            registration.TransformationEstimationPointToPoint(False),
            3,
            [
                registration.CorrespondenceCheckerBasedOnEdgeLength(0.9),
                registration.CorrespondenceCheckerBasedOnDistance(1.5 * voxel_m),
            ],
            registration.RANSACConvergenceCriteria(100_000, 0.999),
        )
        refined = registration.registration_icp(
            source, target, voxel_m, found.transformation, registration.TransformationEstimationPointToPlane()
        )
        return np.array(refined.transformation), float(refined.fitness)

    return register


def kiss_method(voxel_m: float) -> Method:
    kiss = require("kiss_matcher", extra="bench")
    config = kiss.KISSMatcherConfig(voxel_m)

    def register(target_m: Array, source_m: Array) -> tuple[Array, float]:
        matcher = kiss.KISSMatcher(config)
        found = matcher.estimate(source_m.astype(np.float32), target_m.astype(np.float32))
        guess = np.eye(4)
        guess[:3, :3], guess[:3, 3] = np.array(found.rotation), np.array(found.translation).ravel()
        if not np.isfinite(guess).all() or abs(np.linalg.det(guess[:3, :3]) - 1.0) > 0.01:
            return np.full((4, 4), np.nan), 0.0
        refined = register_local(target_m, source_m, guess)
        inliers = float(matcher.get_num_final_inliers())
        return (refined.target_T_source if refined.converged else guess), inliers

    return register


METHODS: dict[str, Callable[[], Method]] = {
    "tercel": tercel_method,
    "tercel classical only": lambda: tercel_method(descriptor="classical", correlation=False),
    "tercel learned only": lambda: tercel_method(descriptor="learned", correlation=False),
    "open3d 0.5 m": lambda: open3d_method(0.5),
    "open3d 1 m": lambda: open3d_method(1.0),
    "kiss-matcher": lambda: kiss_method(0.5),
}


def memory_mb(line: str) -> float:
    """VmRSS, what this process holds, or VmHWM, the most that it has held; NaN where the system does not say."""
    status = Path("/proc/self/status")
    found = (
        [row.split()[1] for row in status.read_text().splitlines() if row.startswith(line)] if status.is_file() else []
    )
    return float(found[0]) / 1e3 if found else float("nan")


def run_method(method: str, folder: str, wrong: str | None) -> dict[str, Any] | str:
    """One method over one sequence, in its own process: outcomes, confidences of wrong pairs, MB; or what it lacks."""
    if hasattr(os, "sched_setaffinity"):  # one core for all of a method's threads
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        register = METHODS[method]()
        first = next(iter(read_pairs(Path(folder))))
        register(first[0], first[1])  # loads what is loaded once; and a missing model is named before all else
    except UserError as error:
        return str(error)
    before_mb = memory_mb("VmRSS")
    found: list[Array] = []

    def noted(target_m: Array, source_m: Array) -> tuple[Array, float]:
        pose, confidence = register(target_m, source_m)
        found.append(pose)
        return pose, confidence

    outcomes = measure(noted, read_pairs(Path(folder)))
    by_gps = [errors_of(pair[2], pose) for pair, pose in zip(read_pairs(Path(folder), "gps"), found, strict=True)]
    unrelated = [] if wrong is None else [register(pair[0], pair[1])[1] for pair in read_pairs(Path(wrong))]
    used_mb = memory_mb("VmHWM") - before_mb
    return {"outcomes": outcomes, "gps": by_gps, "unrelated": unrelated, "memory_mb": used_mb}


def write_sequences(folder: Path, names: list[str], per_bin: int, real_per_bin: int) -> dict[str, float]:
    """All pairs, and how far the real drive's truth is from its GPS (m, median and greatest over 40-50 m)."""
    notes: dict[str, float] = {}
    for name in names:
        if name == "drive0005":
            scan, gps = unpack_drive(folder / "scans")
            truth = chained(scan, len(gps))
            pairs = choose_pairs(truth, truth, per_bin=real_per_bin, seed=SEED)
            write_pairs(folder / name, scan, scan, pairs, gps)
            apart = [
                errors_of(pair[2], by[2])[0]
                for pair, by in zip(read_pairs(folder / name), read_pairs(folder / name, "gps"), strict=True)
                if pair[3][0] >= 40
            ]
            notes = {"truth_to_gps_m_p50": float(np.median(apart)), "truth_to_gps_m_max": float(np.max(apart))}
        else:
            world, beams, other_beams, seed = WORLDS[name]
            write_pairs(folder / name, *world_pairs(world, beams, other_beams, seed, per_bin))
        print(f"\rpairs of {name:20}", end="", file=sys.stderr, flush=True)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        write_unrelated(folder / f"{name} unrelated", folder / name, folder / other)
    return notes


def compare(names: list[str], methods: list[str], per_bin: int, real_per_bin: int) -> dict[str, Any]:
    report: dict[str, Any] = {"sequences": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report["truth"] = write_sequences(folder, names, per_bin, real_per_bin)
        for name in names:
            rows: dict[str, Any] = {}
            for method in methods:
                print(f"\r{name}: {method:28}", end="", file=sys.stderr, flush=True)
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    run = pool.apply(run_method, (method, str(folder / name), str(folder / f"{name} unrelated")))
                if isinstance(run, str):
                    print(f"\n{method} left out: {run}", file=sys.stderr)
                else:
                    rows[method] = reported(run)
            report["sequences"][name] = rows
            print(f"\n{name}\n" + table({method: row["by_distance"] for method, row in rows.items()}), flush=True)
            for method, row in rows.items():
                print(
                    f"  {method:26} {row['memory_mb']:6.0f} MB; confidence: AUC {row['roc']['auc']:.3f}, recall without"
                    f" a wrong one {row['roc']['recall_without_wrong']:.1%}; farthest pairs against the GPS:"
                    f" {row['recall_to_gps_farthest']:.0%}"
                )
    return report


def reported(run: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one run."""
    outcomes: list[Outcome] = run["outcomes"]
    farthest = max((outcome.bin_m for outcome in outcomes), default=(0.0, 0.0))
    by_gps = [
        m < MAX_TRANSLATION_M and deg < MAX_ROTATION_DEG
        for outcome, (m, deg) in zip(outcomes, run["gps"], strict=True)
        if outcome.bin_m == farthest and not np.isnan(m)  # the worlds have no GPS
    ]
    wrong = [outcome.confidence for outcome in outcomes if not outcome.right] + run["unrelated"]
    return {
        "by_distance": by_distance(outcomes),
        "memory_mb": run["memory_mb"],
        "roc": roc([outcome.confidence for outcome in outcomes if outcome.right], wrong),
        "right_over_threshold": [outcome.confidence >= THRESHOLD for outcome in outcomes if outcome.right].count(True),
        "wrong_over_threshold": [confidence >= THRESHOLD for confidence in wrong].count(True),
        "recall_to_gps_farthest": float(np.mean(by_gps)) if by_gps else float("nan"),
    }


def fit(per_bin: int) -> dict[str, Any]:
    """The logistic function of credit and residual that parts right from wrong candidates of worlds below 1000."""
    rows: list[tuple[float, float]] = []
    right: list[bool] = []
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / str(k) for k in range(len(FIT_WORLDS))]
        for folder, (name, beams, other, seed) in zip(folders, FIT_WORLDS, strict=True):
            write_pairs(folder, *world_pairs(name, beams, other, seed, per_bin))
        for k, folder in enumerate(folders):
            # a street of another seed; orchards of other seeds have their house and shed at the same places
            write_unrelated(folder / "unrelated", folder, folders[(k // 4 * 4 + 4 + k % 2) % len(folders)])
            for target_m, source_m, truth, bin_m in [*read_pairs(folder), *read_pairs(folder / "unrelated")]:
                for candidate in candidates(target_m, source_m):
                    metres, degrees = errors_of(truth, candidate.local.target_T_source)
                    rows.append((credit(candidate.agreement), candidate.local.rmse_m))
                    right.append(bin_m[1] > 0.0 and metres < MAX_TRANSLATION_M and degrees < MAX_ROTATION_DEG)
            print(f"\r{len(rows)} candidates", end="", file=sys.stderr, flush=True)
    x, y = np.array(rows), np.array(right)
    weights = logistic(x, y)
    scores = weights[0] + x @ weights[1:]
    return {
        "weights": np.round(weights, 1).tolist(),
        "candidates": len(x),
        "right": int(y.sum()),
        "wrong_accepted": int((scores[~y] > 0.0).sum()),
        "right_accepted": int((scores[y] > 0.0).sum()),
        **roc(scores[y].tolist(), scores[~y].tolist()),
        "roc_of_credit_alone": roc(x[y, 0].tolist(), x[~y, 0].tolist()),
    }


def logistic(x: Array, y: Array, ridge: float = 0.02) -> Array:
    """(1 + F,) constant and weights of features (N, F), right and wrong ones counting the same; Newton's method."""
    middle, spread = x.mean(axis=0), x.std(axis=0)
    design = np.column_stack([np.ones(len(x)), (x - middle) / spread])
    importance = np.where(y, 0.5 / y.mean(), 0.5 / (1.0 - y.mean())) / len(y)
    penalty = np.diag([0.0] + [ridge / design.shape[1]] * x.shape[1])
    answer = np.zeros(design.shape[1])
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-design @ answer))
        gradient = design.T @ (importance * (p - y)) + penalty @ answer
        hessian = (design * (importance * p * (1.0 - p))[:, None]).T @ design + penalty
        answer -= np.linalg.solve(hessian, gradient)
    weights = answer[1:] / spread
    return np.concatenate([[answer[0] - weights @ middle], weights])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4, help="of each bin, for each simulated sequence")
    parser.add_argument("--real-pairs", type=int, default=10, help="of each bin, for the real drive")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--sequences", default=",".join(["drive0005", *WORLDS]))
    parser.add_argument("--fit", action="store_true", help="fit the confidence instead")
    parser.add_argument("--json", type=Path, help="write the same numbers here, for a plot of recall over distance")
    args = parser.parse_args()
    print("python", *sys.argv)
    try:
        if args.fit:
            report: dict[str, Any] = fit(args.pairs)
            print(json.dumps(report, indent=2))
        else:
            report = compare(args.sequences.split(","), args.methods.split(","), args.pairs, args.real_pairs)
            print(json.dumps(report["truth"]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"command": ["python", *sys.argv], **report}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
