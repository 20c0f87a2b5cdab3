"""What the trackers cost and how well they follow: tables, and with --json FILE the same numbers for programs.

python tests/benchmarks/bench_tracking.py [--json FILE] [--only speed|mot15|kitti]

Real recordings are taken from TERCEL_DATA, else from shared/data beside the repository:
- mot15, public detections (published, SORT: MOTA 39.875, 549 switches);
- kitti_tracking, PointRCNN cars on AB3DMOT's validation sequences, scored against labels by a 2 m centre gate.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tercel.core.messages import Detections2D, Detections3D, Odometry  # noqa: E402
from tercel.report.tracking_scores import score_table  # noqa: E402
from tracking import kalman, motion_models  # noqa: E402
from tracking.components import Tracker2D, Tracker3D  # noqa: E402
from tracking.evaluation.matching import best_pairs  # noqa: E402
from tracking.evaluation.overlaps import TrackSet, nearness, overlaps  # noqa: E402
from tracking.evaluation.preprocessing import mot_overlaps  # noqa: E402
from tracking.evaluation.scores import Scores, score  # noqa: E402
from tracking.files import BoxSequence, detections_2d, from_tracks_2d, read_mot, read_seqinfo  # noqa: E402
from tracking.image_tracker import Tracker2DConfig  # noqa: E402
from tracking.world_motion import Tracker3DConfig  # noqa: E402

Array = NDArray[Any]

GATE_M = 2.0
KITTI_VALIDATION = ("0001", "0006", "0008", "0010", "0012", "0013", "0014", "0015", "0016", "0018", "0019")
MOT15_CONFIG = Tracker2DConfig(min_score=0.0, min_hits=3, max_age_s=0.2, max_tentative_age_s=0.2)
KITTI_CONFIG = Tracker3DConfig(min_score=2.0, start_score=3.0, min_hits=3, max_tentative_age_s=0.3, coast_s=0.0)


def data_folder() -> Path:
    """The folder of real recordings."""
    return Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))


def best_s(call: Callable[[], object], repeats: int) -> float:
    """The shortest of some runs: the least disturbed by others on the machine."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def bench_kalman(count: int = 1000) -> dict[str, float]:
    """Microseconds for each track of one predict and update, by coordinates and precision."""
    result = {}
    for dimensions in (3, 4):
        for dtype in (np.float64, np.float32):
            measurements = np.random.default_rng(0).normal(size=(dimensions, count)).astype(dtype)
            noise = kalman.diagonal_noise(np.full((dimensions, count), 0.1, dtype=dtype))
            state = kalman.start(measurements, noise, 4.0)

            def cycle(s: Any = state, z: Any = measurements, r: Any = noise) -> None:
                kalman.update(kalman.predict(s, *motion_models.constant_velocity(0.1, 1.0, len(z))), z, r)

            name = f"{2 * dimensions} states, {np.dtype(dtype).name}, us/track"
            result[name] = best_s(cycle, 100) / count * 1e6
    return result


def moving_boxes(count: int, frames: int) -> list[Detections2D]:
    """Seeded boxes that drift over a large image, all detected in every frame, in random order."""
    rng = np.random.default_rng(1)
    start, velocity = rng.uniform(0, 4000, (count, 2)), rng.normal(0, 2, (count, 2))
    size = rng.uniform(30, 80, (count, 2))
    messages = []
    for frame in range(frames):
        center = start + frame * velocity + rng.normal(0, 1, (count, 2))
        boxes = rng.permutation(np.hstack([center - size / 2, center + size / 2]))
        messages.append(
            Detections2D(
                stamp_ns=frame * 40_000_000, frame_id="camera", boxes_xyxy_px=boxes, scores=np.ones(count),
                labels=np.zeros(count), class_names=("object",),
            )
        )  # fmt: skip
    return messages


def clusters_from(boxes: Detections2D) -> Detections3D:
    """The same scene as objects on the ground, a pixel for a decimetre."""
    corners = boxes.boxes_xyxy_px.astype(np.float64) / 10.0
    count = len(corners)
    centers = np.column_stack([(corners[:, :2] + corners[:, 2:]) / 2.0, np.zeros(count)])
    return Detections3D(
        stamp_ns=boxes.stamp_ns, frame_id="lidar", centers_m=centers, sizes_m=np.full((count, 3), 2.0),
        yaws_rad=np.zeros(count), scores=boxes.scores, labels=boxes.labels, class_names=boxes.class_names,
    )  # fmt: skip


def bench_steps(count: int = 100, frames: int = 60) -> dict[str, float]:
    """Milliseconds of one component step with all tracks matched: the median of a stream's frames, the best of 3."""
    boxes = moving_boxes(count, frames)
    clusters = [clusters_from(message) for message in boxes]
    at_rest = [
        Odometry(stamp_ns=c.stamp_ns, frame_id="odom", child_frame_id="lidar", frame_T_child=np.eye(4))
        for c in clusters
    ]
    times_ms: dict[str, list[float]] = {"2D": [], "3D": []}
    for _ in range(3):
        image, world = Tracker2D(), Tracker3D()
        rows = []
        for box, cluster, pose in zip(boxes, clusters, at_rest, strict=True):
            t0 = time.perf_counter()
            image.step(box)
            t1 = time.perf_counter()
            world.step(cluster, pose)
            rows.append((t1 - t0, time.perf_counter() - t1))
        for name, value in zip(times_ms, np.median(rows[5:], axis=0) * 1e3, strict=True):
            times_ms[name].append(float(value))
    return {f"{name} step, {count} tracks, ms": min(values) for name, values in times_ms.items()}


def track_mot15(sequence: Path, config: Tracker2DConfig) -> tuple[BoxSequence, range, float]:
    """Tracks over one sequence's public detections, its frames, and the seconds that the tracker took."""
    info = read_seqinfo(sequence / "seqinfo.ini")
    frames = range(1, info.length + 1)
    messages = list(detections_2d(read_mot(sequence / "det" / "det.txt", []), frames, info.rate_hz))
    tracker = Tracker2D(config)
    start = time.perf_counter()
    outputs: list[Any] = [tracker.step(message)["tracks"] for message in messages]
    return from_tracks_2d(frames, outputs), frames, time.perf_counter() - start


def bench_mot15(config: Tracker2DConfig = MOT15_CONFIG) -> tuple[dict[str, Scores], float]:
    """What each sequence and all together score, and the tracker's frames per second."""
    results, count, elapsed_s = {}, 0, 0.0
    for sequence in sorted(path for path in (data_folder() / "mot15").iterdir() if path.is_dir()):
        tracks, frames, seconds = track_mot15(sequence, config)
        results[sequence.name] = score(mot_overlaps(read_mot(sequence / "gt" / "gt.txt", []), tracks, frames))
        count, elapsed_s = count + len(frames), elapsed_s + seconds
    results["all"] = sum(results.values(), Scores())
    return results, count / elapsed_s


def kitti_lines(path: Path) -> list[list[str]]:
    """The fields of a KITTI text file, gzipped or not."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]


def world_T_camera(oxts: list[list[str]], calibration: list[list[str]]) -> Array:
    """Poses (F, 4, 4) of the rectified camera in the frame of the first IMU pose, by KITTI's devkit.

    Mercator position and roll, pitch, yaw of the IMU, times IMU to Velodyne to camera.
    """
    values = np.array([[float(x) for x in row[:6]] for row in oxts])
    latitude, longitude, altitude, roll, pitch, yaw = values.T
    scale = np.cos(np.radians(latitude[0])) * 6378137.0
    east, north = scale * np.radians(longitude), scale * np.log(np.tan(np.radians(90.0 + latitude) / 2.0))
    poses = np.zeros((len(values), 4, 4))
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    poses[:, 0, :3] = np.stack([cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr], axis=1)
    poses[:, 1, :3] = np.stack([sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr], axis=1)
    poses[:, 2, :3] = np.stack([-sp, cp * sr, cp * cr], axis=1)
    poses[:, :3, 3] = np.stack([east, north, altitude], axis=1) - [east[0], north[0], altitude[0]]
    poses[:, 3, 3] = 1.0
    named = {row[0].rstrip(":"): np.array([float(x) for x in row[1:]]) for row in calibration}
    rectify, camera_T_velo, velo_T_imu = np.eye(4), np.eye(4), np.eye(4)
    rectify[:3, :3] = named["R_rect"].reshape(3, 3)
    camera_T_velo[:3] = named["Tr_velo_cam"].reshape(3, 4)
    velo_T_imu[:3] = named["Tr_imu_velo"].reshape(3, 4)
    return poses @ np.linalg.inv(rectify @ camera_T_velo @ velo_T_imu)


UPRIGHT_T_CAMERA = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)


def upright_boxes(hwl_xyz_ry: Array) -> tuple[Array, Array, Array]:
    """Centres, sizes (length, width, height) and yaws, x forward y left z up, of KITTI's camera boxes (N, 7)."""
    h, w, length, x, y, z, rotation = hwl_xyz_ry.T
    centers = np.column_stack([z, -x, h / 2.0 - y])
    return centers, np.column_stack([length, w, h]), -rotation - np.pi / 2.0


def bench_kitti(config: Tracker3DConfig = KITTI_CONFIG) -> tuple[dict[str, Scores], float]:
    """Scores of cars on the validation sequences, 2 m centre gate in the world, and the frames per second."""
    results, frames, elapsed_s = {}, 0, 0.0
    for name in KITTI_VALIDATION:
        result, count, seconds = kitti_sequence(data_folder() / "kitti_tracking", name, config)
        results[name], frames, elapsed_s = result, frames + count, elapsed_s + seconds
    results["all"] = sum(results.values(), Scores())
    return results, frames / elapsed_s


def kitti_sequence(root: Path, name: str, config: Tracker3DConfig) -> tuple[Scores, int, float]:
    """Scores, frames and seconds of one sequence. Vans are not cars, but a track on one is no false positive."""
    poses = world_T_camera(kitti_lines(root / "oxts" / f"{name}.txt.gz"), kitti_lines(root / "calib" / f"{name}.txt"))
    poses = poses @ np.linalg.inv(UPRIGHT_T_CAMERA)
    found = np.array([[float(x) for x in row] for row in kitti_lines(next(root.glob(f"det3d*/Car/{name}.txt.gz")))])
    tracker, outputs, elapsed_s = Tracker3D(config), [], 0.0
    for frame, pose in enumerate(poses):
        now = found[found[:, 0] == frame]
        centers, sizes, yaws = upright_boxes(now[:, 7:14])
        detections = Detections3D(
            stamp_ns=frame * 100_000_000, frame_id="camera", centers_m=centers, sizes_m=sizes, yaws_rad=yaws,
            scores=now[:, 6], labels=np.zeros(len(now)), class_names=("car",),
        )  # fmt: skip
        odometry = Odometry(stamp_ns=frame * 100_000_000, frame_id="world", child_frame_id="camera", frame_T_child=pose)
        start = time.perf_counter()
        outputs.append(tracker.step(detections, odometry)["tracks"])
        elapsed_s += time.perf_counter() - start
    truth, vans = kitti_truth(kitti_lines(root / "label_02" / f"{name}.txt.gz"), poses)
    tracks = TrackSet(
        np.repeat(np.arange(len(poses)), [len(output.ids) for output in outputs]),
        np.concatenate([output.ids for output in outputs]),
        np.concatenate([output.centers_m for output in outputs]),
    )
    found = overlaps(truth, tracks, nearness(GATE_M), range(len(poses)))
    near = np.flatnonzero(found.similarities >= 0.5)
    matched = near[best_pairs(found, near, found.similarities[near])]
    wanted = np.ones(len(found.track_ids), dtype=bool)
    wanted[found.track_rows[matched[vans[found.truth_rows[matched]]]]] = False
    return score(found.select(~vans, wanted)), len(poses), elapsed_s


def kitti_truth(labels: list[list[str]], poses: Array) -> tuple[TrackSet, Array]:
    """Cars and vans in the world, by frame, and which of them are vans."""
    rows = sorted((row for row in labels if row[2] in ("Car", "Van")), key=lambda row: int(row[0]))
    frames, ids = np.array([[int(row[0]), int(row[1])] for row in rows], dtype=np.int64).reshape(-1, 2).T
    centers, _, _ = upright_boxes(np.array([[float(x) for x in row[10:17]] for row in rows]).reshape(-1, 7))
    world = np.einsum("nij,nj->ni", poses[frames, :3, :3], centers) + poses[frames, :3, 3]
    return TrackSet(frames, ids, world), np.array([row[2] == "Van" for row in rows], dtype=bool)


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    parser.add_argument("--only", choices=("speed", "mot15", "kitti"), help="one table")
    options = parser.parse_args()
    print("$ python tests/benchmarks/bench_tracking.py", *sys.argv[1:])
    numbers: dict[str, Any] = {}
    if options.only in (None, "speed"):
        numbers["speed"] = {**bench_kalman(), **bench_steps()}
        for name, value in numbers["speed"].items():
            print(f"{name:34} {value:8.3f}")
    evaluations: tuple[tuple[str, Callable[[], Any]], ...] = (("mot15", bench_mot15), ("kitti", bench_kitti))
    for name, bench in evaluations:
        if options.only in (None, name):
            results, frames_per_s = bench()
            print(f"\n{name}: {frames_per_s:.0f} frames/s\n{score_table(results)}")
            numbers[name] = {
                "frames_per_s": frames_per_s, "sequences": {key: r.summary() for key, r in results.items()}
            }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
