"""What fusion brings and costs: tables, and with --json FILE the same numbers for programs.

python tests/benchmarks/bench_fusion.py [--json FILE] [--only speed|kitti|robots]

- speed: CPU milliseconds for 100 things;
- kitti: camera (RRC boxes) and LiDAR (PointRCNN boxes) on AB3DMOT's validation sequences of KITTI tracking, scored in
  the world by a 2 m centre gate, as published live at each sweep; the camera in time, or 100 to 300 ms late and out of
  order, and what is then done with it. Both settings were tuned on the other ten sequences;
- robots: two simulated robots, a radio with 50 to 400 ms delay and 20 % loss, and a clock that is 0.3 s off and drifts.

KITTI is taken from TERCEL_DATA, else from shared/data beside the repository.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tercel.core.errors import Rejected  # noqa: E402
from tercel.core.messages import Detections2D, Tracks3D  # noqa: E402
from tests.benchmarks.fusion_data import CLASSES, PERIOD_NS, VALIDATION, Drive, evaluate, read_drive  # noqa: E402
from tests.benchmarks.fusion_street import NOISE, TwoRobots, stamp_ns  # noqa: E402
from tests.unit.fusion_scenes import CAMERA_INFO, TRANSFORMS, street  # noqa: E402
from tracking import kalman  # noqa: E402
from tracking.clock_offset import ClockOffset  # noqa: E402
from tracking.covariance_intersection import intersect  # noqa: E402
from tracking.evaluation.overlaps import TrackSet, nearness, overlaps  # noqa: E402
from tracking.evaluation.scores import Scores, score  # noqa: E402
from tracking.fusion import CooperativeConfig, CooperativeFusion, FusionConfig, WorldFusion  # noqa: E402
from tracking.kalman import KalmanState  # noqa: E402

Array = NDArray[Any]

LIDAR_ALONE = FusionConfig(min_score=2.0, start_score=3.0, coast_s=0.0, max_tentative_age_s=0.3)
FUSED = FusionConfig(
    min_score=-1.0, start_score=0.0, alone_score=7.0, camera_min_score=0.8, coast_s=0.0, max_tentative_age_s=0.3
)
LATE_MS = (100.0, 300.0)
ROBOTS_S = 40.0
GATE_M = 2.0


# --- speed ---------------------------------------------------------------------------------------------------------


def bench_speed(count: int = 100, frames: int = 40) -> dict[str, float]:
    """Milliseconds of each kind of step, the median over a stream, the best of 3 streams."""
    scene = street(count, seed=1)
    messages = [(scene.odometry(f), scene.lidar(f), scene.camera(f)) for f in range(frames)]
    rows = []
    for _ in range(3):
        fusion, late = _ready(WorldFusion()), _ready(WorldFusion())
        took = []
        for frame, (odometry, lidar, camera) in enumerate(messages):
            fusion.move(odometry)
            late.move(odometry)
            late.see_boxes(lidar)
            old = messages[frame - 2][2] if frame >= 2 else None
            took.append((
                _ms(lambda m=lidar, f=fusion: f.see_boxes(m)),
                _ms(lambda m=camera, f=fusion: f.see_image(m)),
                _ms(lambda m=old, f=late: f.see_image(m)) if old is not None else 0.0,
            ))  # fmt: skip
        rows.append(np.median(took[10:], axis=0))
    lidar_ms, camera_ms, late_ms = np.min(rows, axis=0).tolist()
    rng = np.random.default_rng(0)
    pair = [KalmanState(rng.normal(size=(6, count)), _covariances(rng, count)) for _ in range(2)]
    return {
        f"LiDAR step, {count} tracks, ms": lidar_ms,
        f"camera step, {len(messages[-1][2].scores)} boxes, ms": camera_ms,
        "camera step 200 ms late, ms": late_ms,
        f"covariance intersection, {count} pairs, ms": min(_ms(lambda: intersect(*pair)) for _ in range(30)),
    }


def _ready(fusion: WorldFusion) -> WorldFusion:
    fusion.learn_frames(TRANSFORMS)
    fusion.learn_camera(CAMERA_INFO)
    return fusion


def _ms(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e3


def _covariances(rng: np.random.Generator, count: int) -> Array:
    roots = rng.normal(size=(count, 6, 6))
    return np.moveaxis(roots @ np.swapaxes(roots, 1, 2) + 0.1 * np.eye(6), 0, -1)


# --- camera and LiDAR ----------------------------------------------------------------------------------------------


def late_camera(drive: Drive, seed: int, *, as_if_now: bool = False) -> list[tuple[int, Detections2D]]:
    """The camera's boxes by the time of their arrival; as_if_now: with the stamp of the sweep that was newest then."""
    rng = np.random.default_rng([seed, int(drive.name)])
    rows = []
    for message in drive.camera:
        arrival_ns = message.stamp_ns + round(rng.uniform(*LATE_MS) * 1e6)
        newest_ns = arrival_ns - (arrival_ns - drive.camera[0].stamp_ns) % PERIOD_NS
        rows.append((arrival_ns, replace(message, stamp_ns=newest_ns) if as_if_now else message))
    return sorted(rows, key=lambda row: row[0])


def run_drive(
    drive: Drive, config: FusionConfig, camera: Sequence[tuple[int, Detections2D]], *, drop_late: bool = False
) -> tuple[list[Tracks3D], dict[str, float]]:
    """What is published at each sweep. A camera message that arrives with a sweep is there before it."""
    fusion = WorldFusion(config)
    fusion.learn_frames(drive.transforms)
    fusion.learn_camera(drive.camera_info)
    waiting, outputs, took_ms, used = list(camera), [], [], 0
    for odometry, sweep in zip(drive.odometry, drive.lidar, strict=True):
        start = time.process_time()
        while waiting and waiting[0][0] < odometry.stamp_ns:
            used += _see(fusion, waiting.pop(0)[1], odometry.stamp_ns - PERIOD_NS, drop_late)
        fusion.move(odometry)
        while waiting and waiting[0][0] <= odometry.stamp_ns:
            used += _see(fusion, waiting.pop(0)[1], odometry.stamp_ns, drop_late)
        tracks = fusion.see_boxes(sweep)["tracks"]
        assert isinstance(tracks, Tracks3D)
        outputs.append(tracks)
        took_ms.append((time.process_time() - start) * 1e3)
    spent = {"frames": len(outputs), "ms": sum(took_ms), "used": used, "repeated": fusion.repeated_steps}
    return outputs, spent


def _see(fusion: WorldFusion, message: Detections2D, now_ns: int, drop_late: bool) -> int:
    if drop_late and message.stamp_ns < now_ns:
        return 0
    try:
        fusion.see_image(message)
    except Rejected:
        return 0
    return 1


def bench_kitti(drives: Sequence[Drive]) -> dict[str, dict[str, Any]]:
    """Scores of both classes for each way to use the camera."""
    ways: dict[str, tuple[FusionConfig, Callable[[Drive], list[tuple[int, Detections2D]]], bool]] = {
        "LiDAR alone": (LIDAR_ALONE, lambda _: [], False),
        "fused, camera in time": (FUSED, lambda d: [(m.stamp_ns, m) for m in d.camera], False),
        "late, put in its place": (FUSED, lambda d: late_camera(d, 0), False),
        "late, dropped": (FUSED, lambda d: late_camera(d, 0), True),
        "late, taken as if now": (FUSED, lambda d: late_camera(d, 0, as_if_now=True), False),
    }  # fmt: skip
    results: dict[str, dict[str, Any]] = {}
    for name, (config, camera, drop_late) in ways.items():
        totals = {wanted: Scores() for wanted in CLASSES}
        spent = {"frames": 0.0, "ms": 0.0, "used": 0.0, "repeated": 0.0}
        for drive in drives:
            outputs, more = run_drive(drive, config, camera(drive), drop_late=drop_late)
            spent = {key: value + more[key] for key, value in spent.items()}
            for wanted in CLASSES:
                totals[wanted] += evaluate(drive, outputs, wanted)
        results[name] = {
            **{wanted: total.summary() for wanted, total in totals.items()},
            "ms_per_frame": spent["ms"] / spent["frames"],
            "camera_messages_used": spent["used"], "steps_repeated": spent["repeated"],
        }  # fmt: skip
    return results


def print_kitti(results: dict[str, dict[str, Any]]) -> None:
    """One row for each way and class."""
    print(f"\n{'':24}{'class':8}{'MOTA':>7}{'HOTA':>7}{'IDF1':>7}{'recall':>8}{'FP':>6}{'FN':>6}{'IDSW':>6}{'frag':>6}"
          f"{'ms/frame':>10}")  # fmt: skip
    for name, result in results.items():
        for wanted in CLASSES:
            s = result[wanted]
            print(
                f"{name:24}{wanted:8}{100 * s['MOTA']:7.2f}{100 * s['HOTA']:7.2f}{100 * s['IDF1']:7.2f}"
                f"{100 * s['CLR_Re']:8.2f}{s['CLR_FP']:6}{s['CLR_FN']:6}{s['IDSW']:6}{s['Frag']:6}"
                f"{result['ms_per_frame']:10.2f}"
            )


# --- two robots ----------------------------------------------------------------------------------------------------


class GivenClock(ClockOffset):
    """A clock that is not estimated."""

    def __init__(self, offset_ns: Callable[[], int]) -> None:
        super().__init__()
        self._given = offset_ns

    @property
    def offset_ns(self) -> int:
        """Whatever it is said to be."""
        return self._given()

    @property
    def sigma_s(self) -> float:
        """As if it were certain."""
        return 1e-3

    def hear(self, *_: Any) -> None:
        """Nothing is learnt."""

    def refine(self, *_: Any) -> None:
        """Nothing is learnt."""


def run_robots(world: TwoRobots, way: str) -> dict[str, float]:
    """Fuse the second robot's reports in one way; what the first robot then knows."""
    fusion = CooperativeFusion(CooperativeConfig(refine_clock=way == "one way and motion", **NOISE))
    known, now_s = way in ("known", "own echo"), [0.0]
    if known or way == "taken as ours":
        offset_s = world.radio.offset_s if known else 0.0
        drift = world.radio.drift_ppm * 1e-6 if known else 0.0
        fusion.clocks["second"] = GivenClock(lambda: round((offset_s + drift * now_s[0]) * 1e9))
    reports = [] if way in ("no radio", "own echo") else list(world.reports)
    if way != "four stamps":
        reports = [replace(report, exchange_ns=None) for report in reports]
    outputs, refused, errors_s = [], 0, []
    for time_s, (odometry, boxes) in zip(world.times_s.tolist(), world.sweeps, strict=True):
        now_s[0] = time_s
        while reports and reports[0].stamp_ns <= stamp_ns(time_s):
            try:
                fusion.hear(reports.pop(0))
            except Rejected:
                refused += 1
        fusion.move(odometry)
        tracks = fusion.see_boxes(boxes)["tracks"]
        assert isinstance(tracks, Tracks3D)
        outputs.append(tracks)
        if way == "own echo":
            reports.append(world.echo(tracks, time_s))
        if "second" in fusion.clocks:
            true_ns = world.radio.their_ns(time_s) - stamp_ns(time_s)
            errors_s.append(abs(fusion.clocks["second"].offset_ns - true_ns) * 1e-9)
    half = len(errors_s) // 2
    clock_ms = float(np.mean(errors_s[half:])) * 1e3 if errors_s else float("nan")
    return {**judge(world, outputs), "clock_error_ms": clock_ms, "refused": refused}


def judge(world: TwoRobots, outputs: Sequence[Tracks3D]) -> dict[str, float]:
    """Recall of what the first robot reaches and of what only the second one does, and how good places are."""
    frames = range(len(outputs))
    tracks = TrackSet(
        np.repeat(np.arange(len(outputs)), [len(o.ids) for o in outputs]), np.concatenate([o.ids for o in outputs]),
        np.concatenate([o.centers_m for o in outputs]),
    )  # fmt: skip
    truth = TrackSet(
        np.repeat(np.arange(len(outputs)), [len(o.ids) for o in world.truth]),
        np.concatenate([o.ids for o in world.truth]), np.concatenate([o.centers_m for o in world.truth]),
    )  # fmt: skip
    found = score(overlaps(truth, tracks, nearness(GATE_M), frames)).clear
    gaps, far, moving, normalised = [], [], [], []
    for frame, output in enumerate(outputs):
        objects = world.truth[frame]
        distances = np.linalg.norm(objects.centers_m[:, None, :2] - output.centers_m[None, :, :2], axis=2)
        nearest = distances.argmin(axis=1) if len(output.ids) else np.zeros(len(objects.ids), dtype=int)
        gap = distances.min(axis=1, initial=np.inf)
        hit = (gap < GATE_M) & ~world.only_second_sees(frame)
        assert output.covariances is not None
        errors = objects.centers_m[hit, :2] - output.centers_m[nearest[hit], :2]
        inverse = np.linalg.inv(output.covariances[nearest[hit], :2, :2])
        normalised.append(np.einsum("ni,nij,nj->n", errors, inverse, errors))
        gaps.append(gap)
        far.append(world.only_second_sees(frame))
        moving.append(np.linalg.norm(objects.velocities_mps, axis=1) > 3.0)
    gap, only_second, fast = np.concatenate(gaps), np.concatenate(far), np.concatenate(moving)
    fast_near = fast & (gap < GATE_M)
    return {
        "recall_near": float((gap[~only_second] < GATE_M).mean()),
        "recall_far": float((gap[only_second] < GATE_M).mean()),
        "recall_moving": float((gap[fast] < GATE_M).mean()),
        "moving_rms_m": float(np.sqrt((gap[fast_near] ** 2).mean())),
        "false_per_frame": found.false_positives / len(outputs),
        "id_switches": found.id_switches,
        "normalised_error": float(np.concatenate(normalised).mean() / 2.0),
    }


def as_if_independent(first: KalmanState, second: KalmanState) -> tuple[KalmanState, Array]:
    """What covariance intersection is there to avoid: the other's estimate as a measurement."""
    fused = kalman.update(first, second.mean, second.covariance, np.eye(6))
    return fused, np.ones(len(first))


def bench_robots(seeds: Sequence[int] = (1, 2)) -> dict[str, dict[str, float]]:
    """The mean over some streets of each way to hear the second robot."""
    worlds = [TwoRobots(seed, ROBOTS_S) for seed in seeds]
    ways = ("no radio", "taken as ours", "one way", "one way and motion", "four stamps", "known", "own echo")
    rows = {way: [run_robots(world, way) for world in worlds] for way in ways}
    with mock.patch("tracking.fusion_robots.intersect", as_if_independent):
        rows["own echo, as independent"] = [run_robots(world, "own echo") for world in worlds]
    return {way: {key: float(np.mean([run[key] for run in runs])) for key in runs[0]} for way, runs in rows.items()}


def print_robots(results: dict[str, dict[str, float]]) -> None:
    """One row for each way."""
    print(f"\n{'the other clock':26}{'off by ms':>10}{'recall near':>12}{'far':>7}{'moving':>8}{'moving rms m':>14}"
          f"{'false/frame':>13}{'IDSW':>6}{'error^2/var':>13}{'refused':>9}")  # fmt: skip
    for way, r in results.items():
        print(
            f"{way:26}{r['clock_error_ms']:10.1f}{100 * r['recall_near']:12.2f}{100 * r['recall_far']:7.2f}"
            f"{100 * r['recall_moving']:8.2f}{r['moving_rms_m']:14.3f}{r['false_per_frame']:13.3f}"
            f"{r['id_switches']:6.1f}{r['normalised_error']:13.2f}{r['refused']:9.1f}"
        )


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    parser.add_argument("--only", choices=("speed", "kitti", "robots"), help="one table")
    options = parser.parse_args()
    print("$ python tests/benchmarks/bench_fusion.py", *sys.argv[1:])
    numbers: dict[str, Any] = {}
    if options.only in (None, "speed"):
        numbers["speed"] = bench_speed()
        for name, value in numbers["speed"].items():
            print(f"{name:44} {value:8.3f}")
    if options.only in (None, "kitti"):
        numbers["kitti"] = bench_kitti([read_drive(name) for name in VALIDATION])
        print_kitti(numbers["kitti"])
    if options.only in (None, "robots"):
        numbers["robots"] = bench_robots()
        print_robots(numbers["robots"])
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
