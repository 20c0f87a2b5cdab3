"""How few frames must be looked at: the closed-form policy against even and random looks, as many of them.

    python tests/benchmarks/bench_sampling.py [--only mot15|kitti|sdd|world|learned|speed] [--half NAME] [--json FILE]

Trackers see only the frames that the policy's gate lets through; between looks their tracks go straight on. All frames
are scored. Each policy is compared, at the same number of looks, with
- "even": evenly spaced in each sequence, as many as the policy took there: only when to look is the policy's;
- "one period": one period for all sequences, as many looks in all: how often each scene is looked at is the policy's
  too;
- "random": at random in each sequence, as many as the policy took there.

mot15 (public detections), kitti (RRC), sdd (noisy annotations; tests/benchmarks/sampling_data.py): image boxes, budget
in scales; world: KITTI's PointRCNN boxes tracked in the world, budget in m, also with the root mean square error of the
positions of followed objects on all frames. Data from TERCEL_DATA, else from shared/data beside the repository. What
was chosen (smoothing, intervals) was chosen on the half "tuned on"; the default is the other.

"learned", which runs only when named, is a policy that was tried and left out: ridge regression of how much of a scene
changes within 0.4 s.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "benchmarks")]

import fusion_data  # noqa: E402
from sampling_data import SEQUENCES, Stream, read_stream  # noqa: E402
from sampling_learned import LearnedPolicy, learn  # noqa: E402

from tercel.core.errors import Rejected  # noqa: E402
from tercel.core.messages import Image, NextLook, Tracks2D, Tracks3D  # noqa: E402
from tracking.components import Tracker2D, Tracker3D  # noqa: E402
from tracking.evaluation.scores import Scores  # noqa: E402
from tracking.files import from_tracks_2d  # noqa: E402
from tracking.image_tracker import Tracker2DConfig  # noqa: E402
from tracking.sampling import time_to_budget_s, time_to_confusion_s  # noqa: E402
from tracking.sampling_policy import (  # noqa: E402
    ImageGate,
    SamplingPolicy2D,
    SamplingPolicy2DConfig,
    SamplingPolicy3D,
    SamplingPolicy3DConfig,
)
from tracking.world_motion import Tracker3DConfig  # noqa: E402

Array = NDArray[Any]
Policy = Callable[[Any], NextLook]
Looks = Callable[[int, Any], bool]  # of a frame's index and the tracks of the last look: look at it?

# Lives are longer than the trackers' defaults: looks may be a second apart.
IMAGE_TRACKER = Tracker2DConfig(min_hits=2, max_age_s=1.5, max_tentative_age_s=1.2)
WORLD_TRACKER = Tracker3DConfig(
    min_score=2.0, start_score=3.0, min_hits=2, max_age_s=1.5, max_tentative_age_s=1.2, coast_s=0.0
)
BUDGETS = {"mot15": (0.15, 0.2, 0.3), "kitti": (0.15, 0.2, 0.3), "sdd": (0.15, 0.2, 0.3), "world": (0.5, 0.8, 1.2)}
RANDOM_SEED = 1
MATCH_M = 2.0


@dataclass(eq=False)
class Gated:
    """Looks that a policy's gate lets through."""

    policy: Policy
    stamps_ns: Sequence[int]

    def __post_init__(self) -> None:
        self._gate = ImageGate()

    def __call__(self, frame: int, tracks: Tracks2D | Tracks3D | None) -> bool:
        if tracks is not None:
            self._gate.listen(self.policy(tracks))
        image = Image(
            stamp_ns=self.stamps_ns[frame], frame_id="camera", pixels=np.zeros((1, 1), np.uint8), encoding="mono8"
        )
        try:
            self._gate.pass_image(image)
        except Rejected:
            return False
        return True


def planned(frames: Array) -> Looks:
    """Looks at these frames."""
    wanted = {int(frame) for frame in frames}
    return lambda frame, _tracks: frame in wanted


def evenly(count: int, frames: int) -> Looks:
    """So many looks, evenly spaced from the first frame to the last."""
    return planned(np.unique(np.round(np.linspace(0, frames - 1, max(count, 1))).astype(np.int64)))


def at_random(count: int, frames: int) -> Looks:
    """The first frame and others at random."""
    rng = np.random.default_rng(RANDOM_SEED)
    return planned(np.concatenate([[0], 1 + rng.choice(frames - 1, max(count, 1) - 1, replace=False)]))


@dataclass(frozen=True, eq=False)
class Outcome:
    """One sequence under one plan: looks, frames, scores, and squared errors (M,) of followed objects, m^2."""

    looks: int
    frames: int
    scores: Scores
    squared_m2: Array


def run_image(stream: Stream, looks: Looks) -> Outcome:
    """Track a stream of boxes."""
    tracker, outputs, taken = Tracker2D(IMAGE_TRACKER), [], 0
    last, fresh = None, None
    for frame, detections in enumerate(stream.detections):
        if looks(frame, fresh):
            last = fresh = tracker.step(detections)["tracks"]
            taken += 1
            outputs.append(last)
        else:
            fresh = None
            outputs.append(coasted_2d(last, detections.stamp_ns))
    scores = stream.score(from_tracks_2d(range(len(outputs)), outputs))
    return Outcome(taken, len(outputs), scores, np.zeros(0))


def coasted_2d(tracks: Any, stamp_ns: int) -> Tracks2D:
    """The tracks straight on to a stamp."""
    moved = np.tile(tracks.velocities_px_per_s * ((stamp_ns - tracks.stamp_ns) * 1e-9), 2)
    return Tracks2D(**{**vars(tracks), "stamp_ns": stamp_ns, "boxes_xyxy_px": tracks.boxes_xyxy_px + moved})


def run_world(drive: fusion_data.Drive, looks: Looks) -> Outcome:
    """Track a drive's LiDAR boxes in the world."""
    tracker, outputs, taken = Tracker3D(WORLD_TRACKER), [], 0
    last, fresh, squared = None, None, []
    followed: list[tuple[str, Array, Array]] = []
    for frame in range(len(drive)):
        if looks(frame, fresh):
            last = fresh = tracker.step(drive.lidar[frame], drive.odometry[frame])["tracks"]
            followed = follow(drive, frame, last)
            taken += 1
            outputs.append(last)
        else:
            fresh = None
            outputs.append(coasted_3d(last, drive.odometry[frame].stamp_ns))
        squared.append(squared_errors(drive, frame, outputs[-1], followed))
    scores = fusion_data.evaluate(drive, outputs, "car") + fusion_data.evaluate(drive, outputs, "person")
    return Outcome(taken, len(drive), scores, np.concatenate(squared))


def coasted_3d(tracks: Any, stamp_ns: int) -> Tracks3D:
    """The tracks straight on to a stamp."""
    moved = tracks.velocities_mps * ((stamp_ns - tracks.stamp_ns) * 1e-9)
    return Tracks3D(**{**vars(tracks), "stamp_ns": stamp_ns, "centers_m": tracks.centers_m + moved})


def truth_at(drive: fusion_data.Drive, name: str, frame: int) -> tuple[Array, Array]:
    """Ids (T,) and places (T, 2) of a class in a frame."""
    truth, _ = drive.truth[name]
    rows = np.flatnonzero(truth.frames == frame)
    return truth.ids[rows], truth.places[rows, :2]


def follow(drive: fusion_data.Drive, frame: int, tracks: Any) -> list[tuple[str, Array, Array]]:
    """By class: which track (row) follows which object (id), by the nearest centre within 2 m at the look."""
    result = []
    for name in drive.truth:
        ids, places = truth_at(drive, name, frame)
        rows = np.flatnonzero(tracks.labels == tracks.class_names.index(name))
        if len(ids) and len(rows):
            gaps = np.linalg.norm(tracks.centers_m[rows, None, :2] - places, axis=2)
            near = gaps.min(axis=1) < MATCH_M
            result.append((name, rows[near], ids[gaps.argmin(axis=1)[near]]))
    return result


def squared_errors(
    drive: fusion_data.Drive, frame: int, tracks: Any, followed: Sequence[tuple[str, Array, Array]]
) -> Array:
    """Of the objects that are followed and still there, m^2."""
    parts = [np.zeros(0)]
    for name, rows, wanted in followed:
        ids, places = truth_at(drive, name, frame)
        order = np.argsort(ids)
        found = np.minimum(np.searchsorted(ids[order], wanted), max(len(ids) - 1, 0))
        there = ids[order][found] == wanted if len(ids) else np.zeros(len(wanted), dtype=bool)
        gaps = tracks.centers_m[rows[there], :2] - places[order[found[there]]] if there.any() else np.zeros((0, 2))
        parts.append((gaps**2).sum(axis=1))
    return np.concatenate(parts)


def summed(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """One row of the table."""
    scores = sum((outcome.scores for outcome in outcomes), Scores()).summary()
    squared = np.concatenate([outcome.squared_m2 for outcome in outcomes])
    row = {name: 100.0 * scores[name] for name in ("HOTA", "MOTA", "IDF1")}
    row["looks %"] = 100.0 * sum(o.looks for o in outcomes) / sum(o.frames for o in outcomes)
    if len(squared):
        row["rms m"] = float(np.sqrt(squared.mean()))
    return row


def compare(sequences: Sequence[Any], run: Callable[[Any, Looks], Outcome], policy: Callable[[], Policy]) -> Any:
    """A policy and its three baselines over all sequences."""
    own = [run(one, Gated(policy(), stamps_of(one))) for one in sequences]
    total, seconds = sum(outcome.looks for outcome in own), [duration_s(one) for one in sequences]
    shares = [max(1, min(o.frames, round(total * s / sum(seconds)))) for o, s in zip(own, seconds, strict=True)]
    baselines = {
        "even": [run(one, evenly(o.looks, o.frames)) for one, o in zip(sequences, own, strict=True)],
        "one period": [run(one, evenly(n, o.frames)) for one, o, n in zip(sequences, own, shares, strict=True)],
        "random": [run(one, at_random(o.looks, o.frames)) for one, o in zip(sequences, own, strict=True)],
    }
    return {name: summed(outcomes) for name, outcomes in {"policy": own, **baselines}.items()}


def stamps_of(one: Any) -> list[int]:
    """The frames' stamps."""
    return [message.stamp_ns for message in (one.detections if isinstance(one, Stream) else one.odometry)]


def duration_s(one: Any) -> float:
    """From the first frame to the last."""
    stamps_ns = stamps_of(one)
    return (stamps_ns[-1] - stamps_ns[0]) * 1e-9


def image_policy(budget: float) -> Policy:
    """The component's own step."""
    component = SamplingPolicy2D(SamplingPolicy2DConfig(error_budget=budget))
    return lambda tracks: component.step(tracks)["next_look"]  # type: ignore[return-value]


def world_policy(budget: float) -> Policy:
    """The component's own step."""
    component = SamplingPolicy3D(SamplingPolicy3DConfig(error_budget=budget))
    return lambda tracks: component.step(tracks)["next_look"]  # type: ignore[return-value]


def table(data: str, half: str) -> dict[str, Any]:
    """All budgets of one data set."""
    world = data == "world"
    names = SEQUENCES["kitti" if world else data][half]
    sequences: list[Any] = [fusion_data.read_drive(name) if world else read_stream(data, name) for name in names]
    run: Any = run_world if world else run_image
    everything = summed([run(one, lambda _frame, _tracks: True) for one in sequences])
    numbers = {"every frame": everything}
    print(f"\n{data}, {half}: every frame {words(everything)}")
    for budget in BUDGETS[data]:
        rows = compare(sequences, run, lambda b=budget: world_policy(b) if world else image_policy(b))
        print_rows(f"budget {budget} {'m' if world else 'scales'}", rows)
        numbers[f"budget {budget}"] = rows
    return numbers


def learned(half: str) -> dict[str, Any]:
    """The learned policy on the same data, beside nothing else: its rows compare with the tables'."""
    numbers = {}
    for data in ("mot15", "kitti", "sdd"):
        training = [read_stream(data, name) for name in SEQUENCES[data]["tuned on"]]
        sequences = [read_stream(data, name) for name in SEQUENCES[data][half]]
        model = learn(training, IMAGE_TRACKER)
        print(f"\n{data}, {half}: learned; variance explained {model.explained(training, IMAGE_TRACKER):.2f} of the "
              f"training half, {model.explained(sequences, IMAGE_TRACKER):.2f} of this one")  # fmt: skip
        for loss in (0.3, 0.45):
            rows = compare(sequences, run_image, lambda m=model, x=loss: LearnedPolicy(m, x))
            print_rows(f"allowed change {loss}", rows)
            numbers[f"{data} {loss}"] = rows
    return numbers


def words(row: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.{3 if name == 'rms m' else 2}f}" for name, value in row.items())


def print_rows(title: str, rows: dict[str, dict[str, float]]) -> None:
    for name, row in rows.items():
        print(f"  {title if name == 'policy' else '':22}{name:12}{words(row)}")


def speed() -> dict[str, float]:
    """Milliseconds of the closed forms for many tracks at once, the best of 20."""
    rng, numbers = np.random.default_rng(0), {}
    for count in (100, 1000):
        positions, velocities = rng.uniform(0, 1000, (count, 2)), rng.normal(0, 10, (count, 2))
        factors = rng.normal(size=(count, 4, 4))
        covariances = factors @ np.swapaxes(factors, 1, 2)
        calls = {
            "time to budget": lambda c=covariances: time_to_budget_s(c, 1.0, 5.0),
            "time to confusion": lambda p=positions, v=velocities, c=covariances: time_to_confusion_s(p, v, c, 1.0),
        }
        for name, call in calls.items():
            times = []
            for _ in range(20):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
            numbers[f"{name}, {count} tracks, ms"] = min(times) * 1e3
    for label, value in numbers.items():
        print(f"{label:36} {value:8.2f}")
    return numbers


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("mot15", "kitti", "sdd", "world", "learned", "speed")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    parser.add_argument("--only", choices=names, help="one table")
    parser.add_argument("--half", choices=("tuned on", "other"), default="other")
    options = parser.parse_args()
    print("$ python tests/benchmarks/bench_sampling.py", *sys.argv[1:])
    numbers: dict[str, Any] = {}
    for name in names:
        if options.only == name or (options.only is None and name != "learned"):
            if name == "speed":
                numbers[name] = speed()
            else:
                numbers[name] = learned(options.half) if name == "learned" else table(name, options.half)
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
