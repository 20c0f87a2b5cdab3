"""How fast the LiDAR obstacle detector is, and how many labelled objects of a real drive it finds.

    python tests/benchmarks/bench_obstacles.py [--data DIR] [--stride N] [--json FILE]

DIR is the folder of real recordings (else TERCEL_DATA, else shared/data beside the repository); it is read as it is,
without unpacking. The labels are KITTI's: 3D boxes of what the left camera sees, so only objects in front count; those
more than partly occluded, or with fewer than --min-points returns, do not. An object is found when a box's centre lies
within 2 m of the label's in the plane, 1 m for pedestrians and cyclists. A box is the visible part of an object, the
label all of it. What has no label is not known to be nothing: boxes per frame is not a count of false alarms.

The time is one thread's CPU time, from the cloud to the boxes; the wall clock would measure the neighbours too.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from perception.lidar_obstacles import LidarObstacleConfig, LidarObstacleDetector  # noqa: E402
from tercel.core.messages import Detections3D, PointCloud  # noqa: E402

Array = NDArray[Any]

GROUPS = {"vehicle": ("Car", "Van"), "pedestrian": ("Pedestrian",), "cyclist": ("Cyclist",)}
FOUND_WITHIN_M = {"vehicle": 2.0, "pedestrian": 1.0, "cyclist": 1.0}
RANGE_BANDS_M = ((0, 15), (15, 30), (30, 45), (45, 80))


@dataclass(frozen=True)
class Labels:
    """One frame's labelled boxes in the lidar frame: centers_m (K, 3), sizes_m (K, 3), yaws_rad (K,), occluded (K,)."""

    kinds: tuple[str, ...]
    centers_m: Array
    sizes_m: Array
    yaws_rad: Array
    occluded: Array


def read_scan(path: Path) -> Array:
    """Points (N, 3) float32 of a .kxz scan; kitti_drive0005/README.md gives the format."""
    raw = lzma.decompress(path.read_bytes())
    n = int(np.frombuffer(raw, "<u4", 1)[0])
    steps_mm = np.frombuffer(raw, "<i4", 3 * n, 4).reshape(3, n)
    points: Array = (np.cumsum(steps_mm, axis=1).T / 1000.0).astype(np.float32)
    return points


def read_lidar_T_camera(path: Path) -> Array:
    """(4, 4) lidar from rectified camera, of a KITTI tracking calibration."""
    rows = {words[0].rstrip(":"): words[1:] for words in map(str.split, path.read_text().splitlines()) if words}
    camera_T_lidar, rectification = np.eye(4), np.eye(4)
    camera_T_lidar[:3] = np.array(rows["Tr_velo_cam"], float).reshape(3, 4)
    rectification[:3, :3] = np.array(rows["R_rect"], float).reshape(3, 3)
    result: Array = np.linalg.inv(rectification @ camera_T_lidar)
    return result


def read_labels(path: Path, lidar_T_camera: Array) -> dict[int, Labels]:
    """Labels by frame number, of a KITTI tracking label file: only the kinds in GROUPS."""
    wanted = {kind for kinds in GROUPS.values() for kind in kinds}
    by_frame: dict[int, list[list[str]]] = {}
    for words in map(str.split, path.read_text().splitlines()):
        if words and words[2] in wanted:
            by_frame.setdefault(int(words[0]), []).append(words)
    return {frame: _labels(rows, lidar_T_camera) for frame, rows in by_frame.items()}


def _labels(rows: list[list[str]], lidar_T_camera: Array) -> Labels:
    height, width, length, x, y, z, turn = np.array([row[10:17] for row in rows], float).T
    middles = np.stack([x, y - height / 2, z, np.ones_like(x)], axis=1)
    return Labels(
        kinds=tuple(row[2] for row in rows),
        centers_m=(middles @ lidar_T_camera.T)[:, :3],
        sizes_m=np.stack([length, width, height], axis=1),
        yaws_rad=-turn - np.pi / 2,
        occluded=np.array([int(row[4]) for row in rows]),
    )


def points_inside(points_m: Array, labels: Labels) -> Array:
    """How many points lie in each label's box (K,)."""
    x, y, z = (points_m[None] - labels.centers_m[:, None].astype(np.float32)).transpose(2, 0, 1)
    cos, sin = np.cos(labels.yaws_rad)[:, None], np.sin(labels.yaws_rad)[:, None]
    half = labels.sizes_m.T[..., None] / 2
    inside = (np.abs(cos * x + sin * y) < half[0]) & (np.abs(cos * y - sin * x) < half[1]) & (np.abs(z) < half[2])
    result: Array = inside.sum(axis=1)
    return result


@dataclass(frozen=True)
class Match:
    """One labelled object and the box nearest to it. The yaw error is modulo a right angle."""

    group: str
    range_m: float
    distance_m: float
    yaw_error_deg: float

    @property
    def found(self) -> bool:
        """Whether the box is near enough."""
        return self.distance_m < FOUND_WITHIN_M[self.group]


def match(boxes: Detections3D, labels: Labels, points_m: Array, *, min_points: int) -> list[Match]:
    """The nearest box of each label that counts."""
    counts = points_inside(points_m, labels)
    group_of = {kind: group for group, kinds in GROUPS.items() for kind in kinds}
    matches = []
    for k in np.flatnonzero((labels.occluded <= 1) & (counts >= min_points)):
        x, y, _ = labels.centers_m[k]
        distances = np.hypot(boxes.centers_m[:, 0] - x, boxes.centers_m[:, 1] - y)
        nearest = int(np.argmin(distances)) if len(distances) else -1
        turn = boxes.yaws_rad[nearest] - labels.yaws_rad[k] if len(distances) else 0.0
        error = abs((turn + np.pi / 4) % (np.pi / 2) - np.pi / 4)
        distance = float(distances[nearest]) if len(distances) else np.inf
        matches.append(Match(group_of[labels.kinds[k]], float(np.hypot(x, y)), distance, float(np.degrees(error))))
    return matches


def summarise(matches: list[Match]) -> dict[str, Any]:
    """Recall, centre error and yaw error by group, recall by range."""
    table = {}
    for group in GROUPS:
        rows = [m for m in matches if m.group == group]
        found = [m for m in rows if m.found]
        bands = {f"{a}-{b} m": [m.found for m in rows if a <= m.range_m < b] for a, b in RANGE_BANDS_M}
        table[group] = {
            "labels": len(rows),
            "recall": _mean([m.found for m in rows]),
            "center_error_m": _mean([m.distance_m for m in found]),
            "yaw_error_mean_deg": _mean([m.yaw_error_deg for m in found]),
            "yaw_error_median_deg": float(np.median([m.yaw_error_deg for m in found])) if found else None,
            "recall_by_range": {name: [_mean(hits), len(hits)] for name, hits in bands.items() if hits},
        }
    return table


def _mean(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def evaluate(data: Path, stride: int, config: LidarObstacleConfig, *, min_points: int) -> dict[str, Any]:
    """Every stride-th labelled scan of the drive."""
    drive = data / "kitti_drive0005"
    labels = read_labels(drive / "label_02.txt", read_lidar_T_camera(drive / "calib.txt"))
    detector = LidarObstacleDetector(config)
    matches: list[Match] = []
    times_ms, boxes_per_frame = [], []
    for frame, path in list(enumerate(sorted((drive / "velodyne").glob("*.kxz"))))[::stride]:
        points = read_scan(path)
        boxes, elapsed_ms = detect(detector, points)
        times_ms.append(elapsed_ms)
        boxes_per_frame.append(len(boxes.scores))
        if frame in labels:
            matches += match(boxes, labels[frame], points, min_points=min_points)
    return {
        "frames": len(times_ms),
        "boxes_per_frame": float(np.mean(boxes_per_frame)),
        "cpu_ms": _percentiles(times_ms),
        "objects": summarise(matches),
    }


def detect(detector: LidarObstacleDetector, points_m: Array) -> tuple[Detections3D, float]:
    """The boxes, and the thread's CPU time in ms."""
    cloud = PointCloud(stamp_ns=0, frame_id="lidar", points_m=points_m)
    begin = time.thread_time_ns()
    outputs = detector.detect(cloud)
    elapsed_ms = (time.thread_time_ns() - begin) / 1e6
    boxes = outputs["detections"]
    assert isinstance(boxes, Detections3D)
    return boxes, elapsed_ms


def speed(points_m: Array, config: LidarObstacleConfig, rounds: int = 30) -> dict[str, Any]:
    """Repeated on one cloud."""
    detector = LidarObstacleDetector(config)
    times_ms = [detect(detector, points_m)[1] for _ in range(rounds)]
    return {"points": len(points_m), "cpu_ms": _percentiles(times_ms)}


def _percentiles(times_ms: list[float]) -> dict[str, float]:
    return {
        "min": float(np.min(times_ms)),
        "p50": float(np.percentile(times_ms, 50)),
        "p95": float(np.percentile(times_ms, 95)),
    }


def simulated_clouds() -> dict[str, Array]:
    """The last sweep of one simulated second by 16 and by 64 beams."""
    from devices.sensors.simulated.world import WorldConfig, generate

    clouds = {}
    for beams in (16, 64):
        world = WorldConfig("street", seed=3, duration_s=1.0, lidar_beams=beams, camera_rate_hz=0.0)
        for _, _, message in generate(world):
            if isinstance(message, PointCloud):
                clouds[f"simulated street, {beams} beams"] = message.points_m
    return clouds


def run(data: Path, stride: int, min_points: int) -> dict[str, Any]:
    """Everything that is printed."""
    config = LidarObstacleConfig()
    clouds = simulated_clouds()
    nuscenes = data / "lidar_nuscenes_sample" / "LIDAR_TOP.pcd.bin"
    clouds["nuScenes, 32 beams"] = np.fromfile(nuscenes, "<f4").reshape(-1, 5)[:, :3].copy()
    clouds["KITTI, 64 beams"] = read_scan(min((data / "kitti_drive0005" / "velodyne").glob("*.kxz")))
    return {
        "command": "python " + " ".join(["tests/benchmarks/bench_obstacles.py", *sys.argv[1:]]),
        "speed": {name: speed(points, config) for name, points in clouds.items()},
        "kitti_drive0005": evaluate(data, stride, config, min_points=min_points),
    }


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"$ {result['command']}\n")
    print(f"{'cloud':28s} {'points':>8s} {'min ms':>8s} {'p50 ms':>8s} {'p95 ms':>8s}   (CPU, one thread)")
    for name, row in result["speed"].items():
        print(f"{name:28s} {row['points']:8d}" + "".join(f" {row['cpu_ms'][k]:8.1f}" for k in ("min", "p50", "p95")))
    drive = result["kitti_drive0005"]
    times = drive["cpu_ms"]
    print(f"\nKITTI drive 0005: {drive['frames']} scans, {drive['boxes_per_frame']:.0f} boxes a scan, ", end="")
    print(f"p50 {times['p50']:.1f} ms, p95 {times['p95']:.1f} ms")
    print(f"{'':12s} {'labels':>6s} {'recall':>7s} {'centre m':>9s} {'yaw deg':>8s} {'(median)':>8s}  recall by range")
    for name, row in drive["objects"].items():
        if row["recall"]:
            numbers = (row["recall"], row["center_error_m"], row["yaw_error_mean_deg"], row["yaw_error_median_deg"])
            bands = ", ".join(f"{band} {mean:.2f} of {n}" for band, (mean, n) in row["recall_by_range"].items())
            print(f"{name:12s} {row['labels']:6d} {numbers[0]:7.3f} {numbers[1]:9.2f} {numbers[2]:8.1f}", end="")
            print(f" {numbers[3]:8.1f}  {bands}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="the folder of real recordings")
    parser.add_argument("--stride", type=int, default=1, help="evaluate every so many scans")
    parser.add_argument("--min-points", type=int, default=10, help="labels with fewer returns do not count")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    if not (args.data / "kitti_drive0005").is_dir():
        parser.error(f"no recordings at {args.data}: give --data DIR or set TERCEL_DATA")
    cv2.setNumThreads(1)
    result = run(args.data, args.stride, args.min_points)
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
