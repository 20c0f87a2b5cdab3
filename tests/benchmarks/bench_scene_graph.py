"""Scene graphs between two robots: bytes, time, and how often two places are told to be one, and rightly.

python tests/benchmarks/bench_scene_graph.py [--pairs N] [--seed N] [--worlds NAME ...] [--json FILE]

Both robots' graphs go through the wire, and only their bytes are matched. Each robot is turned by a random yaw. Recall
is the share of pairs with less than 2 m and 5 degrees of error, by the distance between the robots; "accepted" is the
share that is right and says so. Other places are scans of worlds of another kind. "refined" aligns the clouds from the
match by GICP, as a robot can that has both clouds.

Worlds: kitti (drive 0005, from TERCEL_DATA, else from shared/data beside the repository) and simulated ones, none of
whose seeds the confidence was fitted to. The drive has two references: "gps" is its satellite and inertial poses, whose
distances differ by 5 % from what laser scans measure (1.2 m in 21 m), and "scans" is scan-to-map odometry.
Times are of this process's CPU on one thread, medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from devices.sensors.simulated.lidar import sweep  # noqa: E402
from devices.sensors.simulated.motion import states_at, stream  # noqa: E402
from devices.sensors.simulated.world import WorldConfig, make_lidar, make_scene  # noqa: E402
from registration.local import register_local  # noqa: E402
from registration.odometry import OdometryConfig, ScanToMapOdometry, deskew  # noqa: E402
from registration.scene_graph_wire import decode_scene_graph, encode_scene_graph  # noqa: E402
from registration.scene_match import SceneMatch, match_scene_graphs  # noqa: E402
from registration.scene_nodes import build_scene_graph  # noqa: E402
from tercel.core.errors import UserError  # noqa: E402
from tercel.core.geometry import (  # noqa: E402
    from_rotation_translation,
    inverse,
    rotation_about_z,
    se3_log,
    so3_log,
    transform_points,
)
from tercel.core.messages import PointCloud  # noqa: E402

Array = NDArray[Any]

DISTANCES_M = ((5, 10), (10, 20), (20, 30), (30, 40), (40, 50))
WORLDS = ("kitti", "street 64", "street 16", "orchard 64", "orchard 16")
SEEDS = {"street": 104, "orchard": 105}


@dataclass(frozen=True, eq=False)
class Place:
    """Scans of one world, the sensors' poses by each reference, and what went over the wire."""

    clouds_m: list[Array]
    poses: dict[str, Array]
    wires: list[bytes]
    build_ms: list[float]
    encode_ms: list[float]


def simulated(name: str, beams: int, seed: int) -> tuple[list[Array], dict[str, Array]]:
    """Scans without motion, as far apart as the vehicle drives in 0.5 s (street) or 1 s."""
    scene, lidar = make_scene(name, seed), make_lidar(WorldConfig(name=name, seed=seed, lidar_beams=beams))
    rng, clouds, poses = stream(seed, 9), [], []
    for time_s in np.arange(3.0, 13.0, 0.5) if name == "street" else np.arange(2.0, 22.0, 1.0):
        result = sweep(lidar, scene.trajectory, scene.snapshot(time_s).primitives, time_s, rng)
        times_s = np.array([time_s - 0.05, time_s])
        before, pose = states_at(scene.trajectory, times_s).world_T_base @ lidar.base_T_lidar
        twist = se3_log(inverse(before) @ pose) / 0.05
        clouds.append(deskew(result.points_m, result.time_offset_s, twist).astype(np.float32))
        poses.append(pose)
    return clouds, {"truth": np.array(poses)}


def recorded() -> tuple[list[Array], dict[str, Array]]:
    """Every third scan of drive 0005."""
    shared_data = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
    spec = importlib.util.spec_from_file_location("unpack", shared_data / "unpack.py")
    if spec is None or spec.loader is None or not (shared_data / "unpack.py").is_file():
        raise UserError(f"no recordings at {shared_data}: set TERCEL_DATA, or name other --worlds")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    folder = shared_data / "kitti_drive0005"
    rows = np.loadtxt(folder / "poses_velo_from_oxts.txt").reshape(-1, 3, 4)
    clouds = [unpack.read_scan(path)[:, :3].astype(np.float32) for path in sorted((folder / "velodyne").glob("*.kxz"))]
    odometry = ScanToMapOdometry(OdometryConfig())
    scans = np.array([odometry.step(cloud, k * 100_000_000).odom_T_sensor for k, cloud in enumerate(clouds)])
    return clouds[::3], {"gps": from_rotation_translation(rows[::3, :, :3], rows[::3, :, 3]), "scans": scans[::3]}


def cpu_ms(start_s: float) -> float:
    return (time.process_time() - start_s) * 1e3


def place_of(world: str, rng: np.random.Generator) -> Place:
    """A world's scans, each turned by a random yaw, and their graphs as bytes."""
    name, _, beams = world.partition(" ")
    clouds, poses = recorded() if name == "kitti" else simulated(name, int(beams), SEEDS[name])
    turns = from_rotation_translation(rotation_about_z(rng.uniform(-np.pi, np.pi, len(clouds))), np.zeros((1, 3)))
    turned = [transform_points(inverse(turn), cloud) for turn, cloud in zip(turns, clouds, strict=True)]
    place = Place(turned, {name: of @ turns for name, of in poses.items()}, [], [], [])
    for k, cloud in enumerate(turned):
        start = time.process_time()
        graph = build_scene_graph(PointCloud(stamp_ns=k, frame_id="lidar", points_m=cloud))
        place.build_ms.append(cpu_ms(start))
        start = time.process_time()
        place.wires.append(encode_scene_graph(graph))
        place.encode_ms.append(cpu_ms(start))
    return place


def match(first: bytes, second: bytes) -> tuple[SceneMatch, float]:
    """The match of two robots' bytes, and its ms."""
    start = time.process_time()
    found = match_scene_graphs(decode_scene_graph(first), decode_scene_graph(second))
    return found, cpu_ms(start)


def errors_of(target_T_source: Array, truth: Array) -> tuple[float, float]:
    """m and degrees; infinite where nothing was found."""
    if not np.isfinite(target_T_source).all():
        return np.inf, np.inf
    error = inverse(truth) @ target_T_source
    return float(np.linalg.norm(error[:3, 3])), float(np.degrees(np.linalg.norm(so3_log(error[:3, :3]))))


def is_right(errors: tuple[float, float]) -> bool:
    return errors[0] < 2.0 and errors[1] < 5.0


def pairs_of(place: Place, rng: np.random.Generator, count: int) -> list[tuple[int, int, int]]:
    """(distance bin, target, source), at most `count` for each distance."""
    positions = next(iter(place.poses.values()))[:, :3, 3]
    apart_m = np.linalg.norm(positions[:, None] - positions, axis=2)
    found = []
    for k, (near, far) in enumerate(DISTANCES_M):
        a, b = np.nonzero((apart_m >= near) & (apart_m < far))
        found += [(k, int(a[i]), int(b[i])) for i in rng.permutation(len(a))[:count]]
    return found


def rows_of(place: Place, rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """One row for each pair: the match's confidence, and its errors by each reference, before and after refinement."""
    rows = []
    for bin_number, a, b in pairs_of(place, rng, count):
        found, ms = match(place.wires[a], place.wires[b])
        row: dict[str, Any] = {"bin": bin_number, "confidence": found.confidence, "said": found.converged, "ms": ms}
        finite = np.isfinite(found.target_T_source).all()
        refined = (
            register_local(place.clouds_m[a], place.clouds_m[b], found.target_T_source).target_T_source
            if finite
            else found.target_T_source
        )
        for name, poses in place.poses.items():
            truth = inverse(poses[a]) @ poses[b]
            row[name] = errors_of(found.target_T_source, truth)
            row[name + " refined"] = errors_of(refined, truth)
            if finite and is_right(row[name]):
                error = se3_log(inverse(found.target_T_source) @ truth)
                row[name + " nees"] = float(error @ np.linalg.solve(found.covariance, error)) / 6.0
        rows.append(row)
    return rows


def area_under_roc(right: Array, wrong: Array) -> float:
    """The chance that a right match is more confident than a wrong one."""
    if not len(right) or not len(wrong):
        return float("nan")
    return float(np.mean((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)))


def summary(place: Place, rows: list[dict[str, Any]], strangers: list[SceneMatch]) -> dict[str, Any]:
    """Of one world: sizes, times, and by reference recall and errors for each distance."""
    result: dict[str, Any] = {
        "bytes_mean": float(np.mean([len(wire) for wire in place.wires])),
        "bytes_max": max(len(wire) for wire in place.wires),
        "build_ms": float(np.median(place.build_ms)),
        "encode_ms": float(np.median(place.encode_ms)),
        "match_ms": float(np.median([row["ms"] for row in rows])),
        "strangers": len(strangers),
        "strangers_accepted": sum(match.converged for match in strangers),
    }
    for name in place.poses:
        right = np.array([is_right(row[name]) for row in rows])
        confidence = np.array([row["confidence"] for row in rows])
        said = np.array([row["said"] for row in rows])
        bins = {}
        for k, (near, far) in enumerate(DISTANCES_M):
            at = np.array([row["bin"] == k for row in rows])
            if not at.any():
                continue
            good = [row[name] for row, here, ok in zip(rows, at, right, strict=True) if here and ok]
            refined = [is_right(row[name + " refined"]) for row, here in zip(rows, at, strict=True) if here]
            bins[f"{near}-{far} m"] = {
                "pairs": int(at.sum()),
                "recall": float(right[at].mean()),
                "accepted": float((right & said)[at].mean()),
                "rte_m": float(np.median([m for m, _ in good])) if good else None,
                "rre_deg": float(np.median([deg for _, deg in good])) if good else None,
                "refined_recall": float(np.mean(refined)),
            }
        nees = [row[name + " nees"] for row in rows if name + " nees" in row]
        result[name] = {
            "by_distance": bins,
            "roc_auc": area_under_roc(
                confidence[right], np.concatenate([confidence[~right], [match.confidence for match in strangers]])
            ),
            "wrong_accepted": int(np.count_nonzero(said & ~right)),
            "nees_median_over_6": float(np.median(nees)) if nees else None,
        }
    return result


def strangers_of(world: str, places: dict[str, Place], rng: np.random.Generator, count: int) -> list[SceneMatch]:
    """Matches with scans of each world of another kind."""
    found = []
    for other, place in places.items():
        if other.split()[0] == world.split()[0]:
            continue
        for _ in range(count):
            wires = (places[world].wires, place.wires)
            found.append(match(*(of[int(rng.integers(len(of)))] for of in wires))[0])
    return found


def measure(worlds: list[str], pairs: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    places = {}
    for world in worlds:
        places[world] = place_of(world, rng)
        print(f"\rgraphs of {world:12}", end="", file=sys.stderr, flush=True)
    results = {}
    for world, place in places.items():
        print(f"\rpairs of {world:12} ", end="", file=sys.stderr, flush=True)
        results[world] = summary(place, rows_of(place, rng, pairs), strangers_of(world, places, rng, pairs))
    print(file=sys.stderr)
    return results


def print_tables(results: dict[str, Any]) -> None:
    for world, row in results.items():
        times = [f"{step} {row[step + '_ms']:.1f} ms" for step in ("build", "encode", "match")]
        print(
            f"{world}: {row['bytes_mean']:.0f} bytes a frame, {row['bytes_max']} at most; {', '.join(times)}; "
            f"other places: {row['strangers_accepted']} of {row['strangers']} accepted"
        )
        for name, of in row.items():
            if not isinstance(of, dict):
                continue
            print(
                f"  by {name}: ROC area {of['roc_auc']:.3f}, wrong and accepted {of['wrong_accepted']}, NEES / 6 "
                f"{of['nees_median_over_6'] or float('nan'):.2f}\n"
                f"    {'distance':10} pairs recall accepted refined   RTE    RRE"
            )
            for distance, at in of["by_distance"].items():
                errors = f"{at['rte_m']:5.2f} m {at['rre_deg']:5.2f}°" if at["rte_m"] is not None else ""
                print(
                    f"    {distance:10} {at['pairs']:5} {at['recall']:6.2f} {at['accepted']:8.2f} "
                    f"{at['refined_recall']:7.2f} {errors}"
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="for each world and distance, and with each other world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--json", type=Path, help="write the same numbers here")
    args = parser.parse_args()
    print("python", *sys.argv)
    try:
        results = measure(args.worlds, args.pairs, args.seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print_tables(results)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"command": ["python", *sys.argv], "worlds": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
