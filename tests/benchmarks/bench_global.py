"""Global registration beside kiss-matcher and Open3D on the same pairs: recall, error, time and memory.

python tests/benchmarks/bench_global.py [--pairs N] [--sets NAME ...] [--confidence N] [--json FILE]
python tests/benchmarks/bench_global.py --fit [--pairs N]

Pairs are 0 to 20 m apart, evenly, with the source turned by a random heading; recall is the share within 2 m and
5 degrees of the truth. Each method has a process of its own for each set, so that its peak memory is its own; errors
are medians over what was recalled. Ours runs on one core, the others on as many as they take. Peers' settings are those
of their own documentation: Open3D's normals within two voxels, features within five, RANSAC with mutual matches,
distances below 1.5 voxels and 100,000 iterations as in its tutorial, fast global registration below half a voxel.
On the drive KISS-Matcher did no better with voxels of 0.3 or 1 m. Peers are judged as they come, without a local
refinement. Simulated worlds are those numbered 1000 and 1001; the weights of confidence were fitted on lower ones.

--confidence N: how well confidence parts right from wrong on N real pairs of one place up to 20 m apart, and N pairs of
drive 0005 with other real and simulated places. Wrong answers to the first kind count as wrong as the second. Area
under the ROC, and the share of right answers kept where at most one in 1000 wrong ones passes (none, if there are
fewer than that).

--fit makes the weights in registration/verification.py anew, on simulated worlds only: candidates of pairs up to 40 m
apart and of different worlds, and truths that were displaced by 3 to 12 m and aligned again; right is what lies within
0.5 m and 1 degree, wrong what lies outside 2 m or 5 degrees. It prints them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from registration import global_, verification  # noqa: E402
from registration.global_ import GlobalConfig, register_global  # noqa: E402
from tercel.core.errors import Rejected, UserError, require  # noqa: E402
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, se3_exp, so3_log  # noqa: E402
from tests.benchmarks.global_data import REAL, SIMULATED, Pair, pairs, strangers  # noqa: E402
from tests.benchmarks.memory import peak_mb  # noqa: E402

Array = NDArray[Any]
Method = Callable[[Array, Array], Array]

METHODS = ("tercel", "kiss-matcher 0.5 m", "ransac 0.5 m", "ransac 1 m", "fgr 0.5 m", "fgr 1 m")
RECALL_M, RECALL_DEG = 2.0, 5.0
WELL_M, WELL_DEG = 0.5, 1.0
EVALUATION_SEED, FIT_SEEDS = 1000, (1, 2)


def is_right(estimate: Array, truth: Array | None) -> tuple[bool, float, float]:
    """Whether a pose is within 2 m and 5 degrees, and its errors in m and degrees; a stranger's never is."""
    if truth is None or not np.isfinite(estimate).all():
        return False, np.inf, np.inf
    off = inverse(truth) @ estimate
    error_m, error_deg = float(np.linalg.norm(off[:3, 3])), float(np.degrees(np.linalg.norm(so3_log(off[:3, :3]))))
    return error_m < RECALL_M and error_deg < RECALL_DEG, error_m, error_deg


def tercel_method() -> Method:
    return lambda target_m, source_m: register_global(target_m, source_m).target_T_source


def kiss_matcher_method(voxel_m: float) -> Method:
    kiss = require("kiss_matcher", extra="bench")

    def register(target_m: Array, source_m: Array) -> Array:
        matcher = kiss.KISSMatcher(kiss.KISSMatcherConfig(voxel_m))
        found = matcher.estimate(list(source_m.astype(np.float32)), list(target_m.astype(np.float32)))
        return from_rotation_translation(np.array(found.rotation), np.ravel(found.translation))

    return register


def open3d_method(voxel_m: float, *, fast: bool) -> Method:
    o3d = require("open3d", extra="bench")
    registration = o3d.pipelines.registration

    def described(points_m: Array) -> tuple[Any, Any]:
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points_m.astype(np.float64)))
        cloud = cloud.voxel_down_sample(voxel_m)
        cloud.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(2.0 * voxel_m, 30))
        cloud.orient_normals_towards_camera_location()
        search = o3d.geometry.KDTreeSearchParamHybrid(5.0 * voxel_m, 100)
        return cloud, registration.compute_fpfh_feature(cloud, search)

    def register(target_m: Array, source_m: Array) -> Array:
        (target, target_features), (source, source_features) = described(target_m), described(source_m)
        if fast:
            option = registration.FastGlobalRegistrationOption(maximum_correspondence_distance=0.5 * voxel_m)
            found = registration.registration_fgr_based_on_feature_matching(
                source, target, source_features, target_features, option
            )
            return np.array(found.transformation)
        checks = [
            registration.CorrespondenceCheckerBasedOnEdgeLength(0.9),
            registration.CorrespondenceCheckerBasedOnDistance(1.5 * voxel_m),
        ]
        found = registration.registration_ransac_based_on_feature_matching(
            source,
            target,
            source_features,
            target_features,
            mutual_filter=True,
            max_correspondence_distance=1.5 * voxel_m,
            estimation_method=registration.TransformationEstimationPointToPoint(False),
            ransac_n=3,
            checkers=checks,
            criteria=registration.RANSACConvergenceCriteria(100_000, 0.999),
        )
        return np.array(found.transformation)

    return register


def method_of(name: str) -> Method:
    if name == "tercel":
        return tercel_method()
    kind, voxel_m, _ = name.split()
    return (
        kiss_matcher_method(float(voxel_m))
        if kind == "kiss-matcher"
        else open3d_method(float(voxel_m), fast=kind == "fgr")
    )


def run_set(method: str, chosen: list[Pair]) -> dict[str, float]:
    """One method over one set of pairs, in a process of its own."""
    register, rows = method_of(method), []
    before_mb = peak_mb()
    for pair in chosen:
        start = time.perf_counter()
        pose = register(pair.target_m, pair.source_m)
        took_s = time.perf_counter() - start
        rows.append((*is_right(pose, pair.target_T_source), took_s))
    right = np.array([row[0] for row in rows])
    errors = np.array([row[1:3] for row in rows])[right].reshape(-1, 2)
    return {
        "pairs": len(rows),
        "recall_percent": float(100.0 * right.mean()),
        "error_m_p50": float(np.median(errors[:, 0])) if right.any() else float("nan"),
        "error_deg_p50": float(np.median(errors[:, 1])) if right.any() else float("nan"),
        "s_p50": float(np.median([row[3] for row in rows])),
        "s_max": float(np.max([row[3] for row in rows])),
        "memory_mb": peak_mb() - before_mb,
    }


def compare(names: list[str], methods: list[str], count: int) -> dict[str, dict[str, dict[str, float]]]:
    """All methods on all sets; prints rows as they come."""
    print(
        f"\n{'':16} {'':18} {'pairs':>5} {'recall':>8} {'error, median':>16} {'s, median':>9} {'max':>6} {'memory':>8}"
    )
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        results[name], chosen = {}, pairs(name, count, seed=EVALUATION_SEED)
        for method in methods:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(run_set, (method, chosen))
            results[name][method] = row
            print(
                f"{name:16} {method:18} {row['pairs']:5.0f} {row['recall_percent']:6.1f} % "
                f"{row['error_m_p50']:6.2f} m {row['error_deg_p50']:5.2f}° {row['s_p50']:9.2f} {row['s_max']:6.2f} "
                f"{row['memory_mb']:5.0f} MB",
                flush=True,
            )
    return results


def area_under_roc(right: Array, wrong: Array) -> float:
    """The chance that a right answer's confidence is above a wrong one's; equal ones count half."""
    above = (right[:, None] > wrong[None]).mean() + 0.5 * (right[:, None] == wrong[None]).mean()
    return float(above)


def judge_confidence(count: int) -> dict[str, float]:
    """Confidence on real scans: the ROC of right answers against all wrong ones."""
    right, wrong, passed_wrong, passed_right = [], [], 0, 0
    for pair in [
        *pairs("drive 0005", count, seed=EVALUATION_SEED + 1),
        *strangers(count, seed=EVALUATION_SEED, real=True),
    ]:
        found = register_global(pair.target_m, pair.source_m)
        good = is_right(found.target_T_source, pair.target_T_source)[0]
        (right if good else wrong).append(found.confidence)
        passed_right += good and found.converged
        passed_wrong += (not good) and found.converged
    rights, wrongs = np.array(right), np.array(wrong)
    bound = np.sort(wrongs)[-1 - int(0.001 * len(wrongs))]
    return {
        "right": len(rights),
        "wrong": len(wrongs),
        "auc": area_under_roc(rights, wrongs),
        "recall_at_0.1_percent_false": float((rights > bound).mean()),
        "highest_wrong": float(wrongs.max()),
        "lowest_right": float(rights.min()),
        "converged_right": float(passed_right / len(rights)),
        "converged_wrong": float(passed_wrong / len(wrongs)),
    }


def evidence_of(pair: Pair, rng: np.random.Generator) -> list[tuple[Array, bool]]:
    """Evidence of a pair's candidates, and of displaced truths after alignment, with whether each is right."""
    config = GlobalConfig()
    try:
        target, source = (
            global_.prepared(cloud, config, from_one_place=True) for cloud in (pair.target_m, pair.source_m)
        )
    except Rejected:
        return []
    guesses = global_.guesses_from_above(target, source, 5)
    if pair.target_T_source is not None:
        for _ in range(4):
            bearing, shift_m = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(3.0, 12.0)
            turn = rotation_about_z(rng.uniform(-0.3, 0.3) * (rng.random() < 0.5))
            shift = se3_exp(np.array([shift_m * np.cos(bearing), shift_m * np.sin(bearing), 0.0, 0.0, 0.0, 0.0]))
            guesses.append(pair.target_T_source @ from_rotation_translation(turn, np.zeros(3)) @ shift)
        guesses.append(pair.target_T_source)
    found = []
    for guess in guesses:
        pose = global_.refined(target, source, guess, config)
        weighed = verification.evidence(target.view, source.view, pose).features()
        right, error_m, error_deg = is_right(pose, pair.target_T_source)
        if not right or (error_m < WELL_M and error_deg < WELL_DEG):  # neither well nor wrong teaches nothing
            found.append((weighed, right))
    return found


def fit_weights(count: int) -> dict[str, Any]:
    """Logistic regression by Newton's method with a light ridge, each candidate the same weight."""
    rng, rows = np.random.default_rng(0), []
    for seed in FIT_SEEDS:
        for name in SIMULATED:
            for pair in pairs(name, count, seed=seed, within_m=40.0):
                rows += evidence_of(pair, rng)
        for pair in strangers(2 * count, seed=seed, real=False):
            rows += evidence_of(pair, rng)
        print(f"worlds {seed}: {len(rows)} candidates so far", file=sys.stderr)
    features, right = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=float)
    mean, spread = features.mean(axis=0), features.std(axis=0)
    design = np.column_stack([(features - mean) / spread, np.ones(len(features))])
    weights, ridge = np.zeros(design.shape[1]), 1.0
    for _ in range(50):
        likely = 1.0 / (1.0 + np.exp(-design @ weights))
        hessian = (design * (likely * (1.0 - likely))[:, None]).T @ design + ridge * np.eye(len(weights))
        weights -= np.linalg.solve(hessian, design.T @ (likely - right) + ridge * weights)
    scaled = weights[:-1] / spread
    score = features @ scaled + (weights[-1] - scaled @ mean)
    threshold = np.quantile(score[right == 0], 0.999)
    return {
        "weights": np.round(scaled, 2).tolist(),
        "constant": round(float(weights[-1] - scaled @ mean), 2),
        "threshold": round(float(1.0 / (1.0 + np.exp(-threshold))), 3),
        "candidates": len(rows),
        "right": int(right.sum()),
        "auc": area_under_roc(score[right == 1], score[right == 0]),
        "recall_at_0.1_percent_false": float((score[right == 1] > threshold).mean()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of each set")
    parser.add_argument("--sets", nargs="+", default=[*REAL, *SIMULATED], choices=[*REAL, *SIMULATED], metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME")
    parser.add_argument("--confidence", type=int, default=30, help="real pairs of each kind; 0 leaves this out")
    parser.add_argument("--fit", action="store_true", help="fit the weights of confidence, and nothing else")
    parser.add_argument("--json", type=Path, help="write the same numbers here")
    args = parser.parse_args()
    print("python", *sys.argv)
    numbers: dict[str, Any] = {"command": ["python", *sys.argv]}
    try:
        if args.fit:
            numbers["fit"] = fit_weights(args.pairs)
            print(json.dumps(numbers["fit"], indent=2))
        else:
            numbers["sets"] = compare(args.sets, args.methods, args.pairs)
            if args.confidence:
                numbers["confidence"] = judge_confidence(args.confidence)
                print("\nconfidence on real scans:", json.dumps(numbers["confidence"], indent=2))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(numbers, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
