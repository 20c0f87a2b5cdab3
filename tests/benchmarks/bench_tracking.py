"""What our trackers cost on one core: filter, association and whole steps, in milliseconds.

python tests/benchmarks/bench_tracking.py [--json FILE]

Whole steps are those of the components, from a message of detections to a message of tracks. All tracks are seen in
every frame, in random order. Medians of the frames of a stream, of the best of some runs. Against peers:
bench_trackers.py; how well they follow: bench_ablation.py and bench_tracking3d.py.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is loaded

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tercel.core.messages import Detections2D, Detections3D, Odometry  # noqa: E402
from tracking import axis_kalman  # noqa: E402
from tracking.association import assign, overlapping_pairs  # noqa: E402
from tracking.components import Tracker3D  # noqa: E402
from tracking.presets import make_tracker_2d  # noqa: E402

Array = NDArray[Any]

PERIOD_S = 0.04
GOALS_MS = {
    "predict + update, 1000 tracks": 0.4,
    "predict + update + association, 1000 tracks": 4.0,
    "tercel, whole step, 100 tracks": 0.4,
}


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
                stamp_ns=round(frame * PERIOD_S * 1e9), frame_id="camera", boxes_xyxy_px=boxes, scores=np.ones(count),
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


def cycle_ms(count: int, associated: bool) -> float:
    """One predict and update of four coordinates, with or without finding whose measurement is whose: the median."""
    messages = moving_boxes(count, 60)
    first = messages[0].boxes_xyxy_px.astype(np.float64).T
    state = axis_kalman.start(first, 4.0, 400.0)
    noise = axis_kalman.white_noise_acceleration(PERIOD_S, np.full((4, count), 100.0))
    times = []
    for message in messages[1:]:
        seen = message.boxes_xyxy_px.astype(np.float64)
        begin = time.perf_counter()
        predicted = axis_kalman.predict(state, PERIOD_S, noise)
        if associated:
            pairs = assign(overlapping_pairs(predicted[0].T, seen, 0.3), 0.7)
            rows, columns = pairs.rows, pairs.columns
            predicted[:, :, rows] = axis_kalman.update(predicted[:, :, rows], seen[columns].T, 4.0)
        else:
            predicted = axis_kalman.update(predicted, first, 4.0)
        times.append(time.perf_counter() - begin)
        state = predicted
    return float(np.median(times)) * 1e3


def step_ms(messages: list[Any], make: Callable[[], Any]) -> float:
    """The median whole step of a stream."""
    tracker, times = make(), []
    for arguments in messages:
        begin = time.perf_counter()
        tracker.step(*arguments)
        times.append(time.perf_counter() - begin)
    return float(np.median(times[5:])) * 1e3


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    print("$ python tests/benchmarks/bench_tracking.py")
    cases: dict[str, Callable[[], float]] = {
        "predict + update, 1000 tracks": lambda: cycle_ms(1000, False),
        "predict + update + association, 1000 tracks": lambda: cycle_ms(1000, True),
    }
    for count in (10, 50, 100, 1000, 5000):
        flat = [(message,) for message in moving_boxes(count, 12 if count > 1000 else 60)]
        for name in ("sort", "bytetrack", "ocsort", "tercel") if count <= 1000 else ("tercel",):
            cases[f"{name}, whole step, {count} tracks"] = lambda flat=flat, name=name: step_ms(  # type: ignore[misc]
                flat, lambda: make_tracker_2d(name, frame_period_s=PERIOD_S)
            )
    at_rest = [
        (
            clusters_from(boxes),
            Odometry(stamp_ns=boxes.stamp_ns, frame_id="odom", child_frame_id="lidar", frame_T_child=np.eye(4)),
        )
        for boxes in moving_boxes(100, 60)
    ]
    cases["tercel in space, whole step, 100 tracks"] = lambda: step_ms(at_rest, Tracker3D)
    numbers: dict[str, list[float]] = {}
    for _ in range(options.runs):  # in turns, so that a disturbance does not fall on one of them
        for name, measure in cases.items():
            numbers.setdefault(name, []).append(measure())
    best = {name: min(values) for name, values in numbers.items()}
    for name, value in best.items():
        goal = GOALS_MS.get(name)
        said = "" if goal is None else f"   (goal {goal:g}: {'met' if value < goal else 'NOT MET'})"
        print(f"{name:46} {value:9.3f} ms{said}")
    if options.json:
        options.json.write_text(json.dumps(best, indent=1) + "\n")


if __name__ == "__main__":
    main()
