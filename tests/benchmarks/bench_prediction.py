"""How well tracks are predicted 1 to 5 s ahead: errors, misses and calibration; and what was tried and left out.

    python tests/benchmarks/bench_prediction.py [--only table|tracker|parts|residual|speed] [--tune] [--json FILE]

Data, from TERCEL_DATA, else from shared/data beside the repository, each in two halves of whole recordings that were
fixed before anything was tuned (tests/benchmarks/forecast_data.py): noises were chosen on the half "tuned on".
- kitti: labelled cars (with vans and trucks), pedestrians and cyclists in the world by GPS/IMU, 10 Hz, m;
- sdd: people, bikers and carts in the drone's view, 2.5 Hz, in scales (sqrt of the box's area; also px).
Labels stand in for detections. A case is a track at a frame (kitti: every fourth), seen for at least 1 s, whose truth
1 s ahead is known; ADE and FDE are over the cases whose truth is known at all of 1, 2, 3, 4, 5 s. A miss: the best of K
ends more than 2 m (sdd: 2 scales) from the truth.

"tracker" is kitti once more behind PointRCNN's detections and our 3D tracker, both as components: a track that was
confirmed 1 s ago counts, with the labelled object nearest to it, if within 2 m. "residual", which runs only
when named, is a learned correction that was tried and left out.

--tune repeats the choice of the classes' noises. The numbers of `ModeConfig` were found by coordinate descent on the
same likelihood and halves, all classes together. That the manoeuvring noise is one multiple for all classes, and not a
number of each, was decided with the other half in view: a number of each fitted better where it was tuned, and worse
there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "benchmarks")]

import fusion_data  # noqa: E402
from forecast_data import HALVES, KITTI_HZ, SDD_HZ, TrackTensor, read_kitti, read_sdd, tensor  # noqa: E402
from forecast_residual import SIMULATED, errors, learn, street_boxes  # noqa: E402

from tracking.components import Tracker3D  # noqa: E402
from tracking.evaluation.forecast import Forecast, ForecastScores, evaluate  # noqa: E402
from tracking.motion_settings import ImageMotionSettings, MotionSettings, WorldMotionSettings  # noqa: E402
from tracking.prediction import Histories, ModeConfig, Sightings, transition  # noqa: E402
from tracking.predictor import Predictor3D  # noqa: E402
from tracking.world_motion import Tracker3DConfig  # noqa: E402

Array = NDArray[Any]

TRACKER = Tracker3DConfig(min_score=2.0, start_score=3.0, max_tentative_age_s=0.3, coast_s=0.0)
HORIZONS_S = (1.0, 2.0, 3.0, 4.0, 5.0)
MISS = 2.0  # m, or scales
MIN_AGE_S = 1.0
SAMPLES = 50
CLASSES = {"kitti": ("Car", "Pedestrian", "Cyclist"), "sdd": ("Pedestrian", "Biker", "Cart")}
CONFIGS: dict[str, MotionSettings] = {"kitti": WorldMotionSettings(), "sdd": ImageMotionSettings()}
STRIDE = {"kitti": 4, "sdd": 1}
SHARES = (0.0, 0.3, 1.0)  # of the learned correction
KALMAN = {  # acceleration noise of constant velocity alone, from --tune: by the same likelihood on the same half
    ("kitti", "Car"): 0.96, ("kitti", "Pedestrian"): 0.12, ("kitti", "Cyclist"): 0.68,
    ("sdd", "Pedestrian"): 0.17, ("sdd", "Biker"): 0.68, ("sdd", "Cart"): 0.48,
}  # fmt: skip
ALONE = 1e-12  # the share of a mode that is switched off


@dataclass(frozen=True)
class Noise:
    """Of one class: acceleration while filtering and ahead, measurement, first speed; m or scales."""

    acceleration: float
    ahead: float
    measurement: float
    speed: float


def load(data: str, half: str) -> dict[str, TrackTensor]:
    """The tracks of each class in one half of the data."""
    read, rate_hz, every = (read_kitti, KITTI_HZ, 1) if data == "kitti" else (read_sdd, SDD_HZ, 12)
    recordings = [read(name) for name in HALVES[data][half]]
    return {name: tensor(recordings, name, rate_hz, every, HORIZONS_S) for name in CLASSES[data]}


def noise_of(data: str, name: str) -> Noise:
    """What the component would use."""
    config = CONFIGS[data]
    filtering, ahead = config.noise((name,))[:, 0]
    return Noise(float(filtering), float(ahead), config.measurement_noise, config.initial_speed)


def cases_of(tracks: TrackTensor, t: int) -> Array:
    """Tracks seen at step t and 1 s ahead."""
    if t * tracks.period_s < MIN_AGE_S - 1e-9:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(np.isfinite(tracks.seen[:, t, 0]) & np.isfinite(tracks.truth[:, t, 0, 0]))


def unit_of(data: str, tracks: TrackTensor) -> Array:
    """Length of one unit of each track's numbers: a metre, or a scale in px."""
    return tracks.scales if data == "sdd" else np.ones(len(tracks.scales))


def forecast(data: str, tracks: TrackTensor, noise: Noise, modes: ModeConfig | None = None) -> Forecast:
    """The predictor over all tracks of a class, in m or scales."""
    modes, histories = modes or ModeConfig(), Histories(modes or ModeConfig(), memory_s=600.0)
    unit = unit_of(data, tracks)
    seen, truth = tracks.seen / unit[:, None, None], tracks.truth / unit[:, None, None, None]
    parts = []
    for t in range(seen.shape[1]):
        ids = np.flatnonzero(np.isfinite(seen[:, t, 0]))
        if not len(ids):
            continue
        ones = np.ones(len(ids))
        histories.step(
            Sightings(
                stamp_ns=round(t * tracks.period_s * 1e9), ids=ids, positions=seen[ids, t],
                psd=noise.acceleration**2 * ones, psd_ahead=noise.ahead**2 * ones,
                variances=noise.measurement**2 * ones, speed_variances=noise.speed**2 * ones, seen=ones > 0.0,
            )
        )  # fmt: skip
        cases = cases_of(tracks, t) if t % STRIDE[data] == 0 else ids[:0]
        if len(cases):
            told = histories.predict(cases, HORIZONS_S)
            parts.append((told.positions[..., :2], told.covariances[..., :2, :2], told.probabilities, truth[cases, t]))
    return Forecast(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def simple_forecast(data: str, tracks: TrackTensor, speed: float, since_s: float) -> Forecast:
    """Straight on from where a track was since_s ago, at `speed` times that velocity: 0 stands still.

    Its covariances are ones, for it claims none.
    """
    unit = unit_of(data, tracks)
    back = max(round(since_s / tracks.period_s), 1)
    parts = []
    for t in range(0, tracks.seen.shape[1], STRIDE[data]):
        cases = cases_of(tracks, t)
        now, before = tracks.seen[cases, t], tracks.seen[cases, max(t - back, 0)]
        velocity = np.where(np.isfinite(before), now - before, 0.0) / (back * tracks.period_s) * speed
        ahead = now[:, None] + velocity[:, None] * np.array(HORIZONS_S)[:, None]
        parts.append((ahead / unit[cases, None, None], tracks.truth[cases, t] / unit[cases, None, None]))
    positions, truth = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    n, h, d = positions.shape
    covariances = np.broadcast_to(np.eye(d), (n, 1, h, d, d))
    return Forecast(positions[:, None], covariances, np.ones((n, 1)), truth)


def kalman_modes() -> ModeConfig:
    """Constant velocity alone."""
    return replace(ModeConfig(), shares=(ALONE, 1.0 - 4 * ALONE, ALONE, ALONE, ALONE))


def kalman_forecast(data: str, tracks: TrackTensor, noise: Noise) -> Forecast:
    """Constant velocity alone: the steady mode of a predictor that has no other."""
    given, one = forecast(data, tracks, noise, kalman_modes()), slice(1, 2)
    return Forecast(given.positions[:, one], given.covariances[:, one], np.ones((len(given.truth), 1)), given.truth)


def likelihood(given: Forecast) -> float:
    """Mean negative log density over the horizons."""
    return float(np.mean(evaluate(given, MISS, samples=1).nll))


def coverage_error(scores: ForecastScores) -> float:
    """Mean distance of the regions' coverage from 50, 90 and 99 %."""
    return float(np.abs(np.array(scores.regions) - np.array([[0.5], [0.9], [0.99]])).mean())


def scored(given: Forecast, samples: int = SAMPLES) -> ForecastScores:
    """All scores, with the regions' coverage to about a hundredth."""
    return evaluate(given, MISS, samples=samples)


def table() -> dict[str, Any]:
    """Baselines and the predictor on both halves."""
    numbers: dict[str, Any] = {}
    for data in CLASSES:
        halves = {half: load(data, half) for half in HALVES[data]}
        unit = "m" if data == "kitti" else "scales"
        for name in CLASSES[data]:
            kalman = replace(noise_of(data, name), acceleration=KALMAN[data, name], ahead=KALMAN[data, name])
            for half, tracks in halves.items():
                one = tracks[name]
                methods = {
                    "stand still": simple_forecast(data, one, 0.0, 1.0),
                    "last two points": simple_forecast(data, one, 1.0, 0.0),
                    "last second": simple_forecast(data, one, 1.0, 1.0),
                    "Kalman, constant velocity": kalman_forecast(data, one, kalman),
                    "IMM": forecast(data, one, noise_of(data, name)),
                }
                results = {method: scored(given) for method, given in methods.items()}
                numbers[f"{data} {name} {half}"] = {method: s.summary() for method, s in results.items()}
                scale_px = f", 1 scale = {np.median(one.scales):.0f} px" if data == "sdd" else ""
                print_scores(f"{data} {name}, {half} ({unit}{scale_px})", results)
    return numbers


def print_scores(title: str, results: dict[str, ForecastScores]) -> None:
    first = next(iter(results.values()))
    print(f"\n{title}: {first.cases} cases, {first.complete} of them for 5 s")
    print(f"{'':27}{'error at 1, 3, 5 s':>20}{'ADE':>7}{'FDE':>7}   minADE, minFDE, miss of K=1, 3, 5")
    for method, s in results.items():
        best = "  ".join(f"{s.min_ade[k]:.2f} {s.min_fde[k]:.2f} {s.miss_rate[k]:.2f}" for k in s.min_ade)
        errors = " ".join(f"{s.error[h]:6.2f}" for h in (0, 2, 4))
        print(f"{method:27}{errors:>20}{s.ade:7.2f}{s.fde:7.2f}   {best}")
    print(f"{'calibration at 1, 3, 5 s':27}{'NEES':>17}  {'50 % region':>17} {'90 %':>17} {'99 %':>17} {'-log p':>8}")
    for method in ("Kalman, constant velocity", "IMM"):
        if method in results:
            s = results[method]
            shares = " ".join(f"{' '.join(f'{row[h]:5.2f}' for h in (0, 2, 4)):>17}" for row in s.regions)
            nees = " ".join(f"{s.nees[h]:5.2f}" for h in (0, 2, 4))
            print(f"{method:27}{nees:>17}  {shares} {np.mean(s.nll):8.2f}")


def relaxed(data: str, tracks: TrackTensor, noise: Noise) -> float:
    """-log p where probabilities relax to their long-run shares over the horizon."""
    given = forecast(data, tracks, noise)
    values = []
    for h, horizon_s in enumerate(HORIZONS_S):
        one = slice(h, h + 1)
        weights = given.probabilities @ transition(horizon_s, ModeConfig())
        part = Forecast(given.positions[:, :, one], given.covariances[:, :, one], weights, given.truth[:, one])
        values.append(likelihood(part))
    return float(np.mean(values))


def behind_tracker() -> dict[str, Any]:
    """The components in a row, from detections to predictions, on the other half of kitti."""
    cases: dict[str, list[tuple[Array, ...]]] = {name: [] for name in fusion_data.CLASSES}
    for drive in map(fusion_data.read_drive, HALVES["kitti"]["other"]):
        tracker, predictor = Tracker3D(TRACKER), Predictor3D()
        futures = {name: _paths(truth, len(drive)) for name, (truth, _) in drive.truth.items()}
        for frame, (found, pose) in enumerate(zip(drive.lidar, drive.odometry, strict=True)):
            tracks: Any = tracker.step(found, pose)["tracks"]
            told: Any = predictor.step(tracks)["predictions"]
            for name in cases if frame % STRIDE["kitti"] == 0 else ():
                wanted = (tracks.labels == tracks.class_names.index(name)) & (tracks.ages_s >= MIN_AGE_S)
                rows, future = _nearest(tracks.centers_m[wanted, :2], futures[name], frame)
                which = np.flatnonzero(wanted)[rows]
                hypotheses = told.positions[which][..., :2], told.covariances[which][..., :2, :2]
                cases[name].append((*hypotheses, told.mode_probabilities[which], future))
    numbers = {}
    for name, rows_of in cases.items():
        given = Forecast(*(np.concatenate(columns) for columns in zip(*rows_of, strict=True)))
        results = {"IMM": scored(given)}
        print_scores(f"kitti {name} behind the tracker, other (m)", results)
        numbers[name] = results["IMM"].summary()
    return numbers


def _paths(truth: Any, frames: int) -> Array:
    """Places (T, F + 5 s, 2) of labelled objects, NaN where they are not."""
    ids = np.unique(truth.ids)
    paths = np.full((len(ids), frames + round(HORIZONS_S[-1] * KITTI_HZ), 2), np.nan)
    paths[np.searchsorted(ids, truth.ids), truth.frames] = truth.places[:, :2]
    return paths


def _nearest(places: Array, paths: Array, frame: int) -> tuple[Array, Array]:
    """Places (rows) with an object within 2 m, and where it will be (N, H, 2)."""
    there = np.flatnonzero(np.isfinite(paths[:, frame, 0]))
    if not len(there) or not len(places):
        return np.zeros(0, dtype=np.int64), np.zeros((0, len(HORIZONS_S), 2))
    gaps = np.linalg.norm(places[:, None] - paths[there, frame], axis=2)
    near = np.flatnonzero(gaps.min(axis=1) < 2.0)
    ahead = frame + np.round(np.array(HORIZONS_S) * KITTI_HZ).astype(np.int64)
    return near, paths[there[gaps.argmin(axis=1)[near]]][:, ahead]


def parts() -> dict[str, Any]:
    """What each part is worth: -log p on the other half, mean over the horizons, by class; lower is better."""
    stop, steady, manoeuvre, turn, _ = ModeConfig().shares
    variants = {
        "all": ModeConfig(),
        "no turning": replace(ModeConfig(), shares=(stop, steady + 2 * turn, manoeuvre, ALONE, ALONE)),
        "no stopping": replace(ModeConfig(), shares=(ALONE, steady + stop, manoeuvre, turn, turn)),
        "no manoeuvring": replace(ModeConfig(), shares=(stop, steady + manoeuvre, ALONE, turn, turn)),
    }
    names = [f"{data} {name}" for data in CLASSES for name in CLASSES[data]]
    print("\n-log p of the truth, other half  " + "".join(f"{name:>17}" for name in names))
    tracks = {f"{data} {name}": t for data in CLASSES for name, t in load(data, "other").items()}
    rows = {label: [_nll(key, tracks[key], modes) for key in names] for label, modes in variants.items()}
    rows["all, noise ahead as filtered"] = [_nll(key, tracks[key], ModeConfig(), plain=True) for key in names]
    rows["all, modes relax"] = [relaxed(key.split()[0], tracks[key], noise_of(*key.split())) for key in names]
    for label, values in rows.items():
        print(f"{label:33}" + "".join(f"{value:17.3f}" for value in values))
    return {label: dict(zip(names, values, strict=True)) for label, values in rows.items()}


def _nll(key: str, tracks: TrackTensor, modes: ModeConfig, *, plain: bool = False) -> float:
    data, name = key.split()
    noise = noise_of(data, name)
    return likelihood(forecast(data, tracks, replace(noise, ahead=noise.acceleration) if plain else noise, modes))


def residual() -> dict[str, Any]:
    """A learned correction, trained on simulated streets: mean error without it, with a part, with all of it."""
    numbers: dict[str, Any] = {}
    learned = {}
    for wanted in (("car", "truck"), ("person",)):
        noise = noise_of("kitti", "Car" if "car" in wanted else "Pedestrian")
        streets = [tensor([street_boxes(seed, wanted)], "simulated", KITTI_HZ, 1, HORIZONS_S) for seed in range(3)]
        given = [forecast("kitti", tracks, noise) for tracks in streets]
        learned[wanted] = learn(given)
        print_residual(
            f"simulated {wanted[0]}, trained on", [errors(given[0], learned[wanted], share) for share in SHARES]
        )
    for data in CLASSES:
        for name, tracks in load(data, "other").items():
            given_real = forecast(data, tracks, noise_of(data, name))
            rows = [errors(given_real, learned[SIMULATED.get(name, ("person",))], share) for share in SHARES]
            numbers[f"{data} {name}"] = dict(zip(map(str, SHARES), [row.tolist() for row in rows], strict=True))
            print_residual(f"{data} {name}, other", rows)
    return numbers


def print_residual(title: str, rows: Sequence[Array]) -> None:
    print(f"{title:30}" + "   ".join(f"x {share}: {np.round(row, 2)}" for share, row in zip(SHARES, rows, strict=True)))


def tune() -> None:
    """The classes' noises: by likelihood while filtering, then ahead by coverage, each on the half "tuned on"."""
    for data in CLASSES:
        for name, tracks in load(data, "tuned on").items():
            base = noise_of(data, name)
            steps = [
                replace(base, acceleration=a, ahead=a) for a in base.acceleration * 2.0 ** np.arange(-1.5, 1.6, 0.5)
            ]
            best = min(steps, key=lambda noise: likelihood(forecast(data, tracks, noise)))
            wider = [replace(best, ahead=best.acceleration * factor) for factor in (1.0, 1.4, 2.0, 2.8, 4.0)]
            calmest = min(wider, key=lambda noise: coverage_error(scored(forecast(data, tracks, noise), 200)))
            alone = [replace(base, acceleration=a, ahead=a) for a in 0.03 * 1.4142 ** np.arange(14)]
            kalman = min(alone, key=lambda noise: likelihood(kalman_forecast(data, tracks, noise)))
            print(
                f"{data} {name}: acceleration {best.acceleration:.3f}, ahead {calmest.ahead:.3f} (in use: {base}); "
                f"constant velocity alone {kalman.acceleration:.3f}"
            )


def speed(count: int = 100, frames: int = 60) -> dict[str, float]:
    """Milliseconds of one step and of one prediction of 100 tracks at 5 horizons: medians."""
    rng = np.random.default_rng(0)
    start, velocity = rng.uniform(0, 100, (count, 3)), rng.normal(0, 5, (count, 3))
    histories, times = Histories(ModeConfig()), []
    ones = np.ones(count)
    for frame in range(frames):
        now = Sightings(
            stamp_ns=frame * 100_000_000, ids=np.arange(count), positions=start + velocity * frame * 0.1,
            psd=0.02 * ones, psd_ahead=0.02 * ones, variances=0.01 * ones, speed_variances=25.0 * ones, seen=ones > 0.0,
        )  # fmt: skip
        began = time.perf_counter()
        histories.step(now)
        middle = time.perf_counter()
        histories.predict(now.ids, HORIZONS_S)
        times.append((middle - began, time.perf_counter() - middle))
    step_s, predict_s = np.median(times, axis=0)
    numbers = {"step of 100 tracks, ms": step_s * 1e3, "prediction of 100 tracks, ms": predict_s * 1e3}
    for label, value in numbers.items():
        print(f"{label:34} {value:8.2f}")
    return numbers


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = {"table": table, "tracker": behind_tracker, "parts": parts, "residual": residual, "speed": speed}
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    parser.add_argument("--only", choices=sections, help="one table")
    parser.add_argument("--tune", action="store_true", help="choose the classes' noises again, and nothing else")
    options = parser.parse_args(arguments)
    print("$ python tests/benchmarks/bench_prediction.py", *sys.argv[1:])
    if options.tune:
        tune()
        return
    numbers = {
        name: run()
        for name, run in sections.items()
        if name == options.only or (options.only is None and name != "residual")
    }
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
