"""A learned sampling policy, tried and left out: ridge regression of how much of a scene changes within 0.4 s.

Change is one minus the mean overlap of the tracks, led straight on for 0.4 s, with the tracker's own then; what has
gone or come counts as no overlap. Features: the closed form's time, how many tracks, how near they are to each other,
how fast they move, how many are new, how far the closed form expects them to stray. The policy looks again after 0.4 s
times the change it allows over the change it expects, smoothed as the closed form's policy is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sampling_data import Stream

from tercel.core.messages import NextLook, Tracks2D
from tracking.association import paired_iou
from tracking.components import Tracker2D
from tracking.image_tracker import Tracker2DConfig
from tracking.motion_settings import ImageMotionSettings, sightings
from tracking.prediction import Histories, ModeConfig
from tracking.sampling import error_growth, time_to_budget_s

Array = NDArray[Any]

AHEAD_S, WARM_UP_FRAMES, RIDGE = 0.4, 10, 1e-2
MEMORY_S = 10.0  # over which newcomers are counted
SMOOTHING, FIRST_S, LONGEST_S, SHORTEST_S = 0.3, 0.3, 1.0, 0.02


class Features:
    """What is known at a look, from the tracks so far."""

    def __init__(self) -> None:
        self._settings = ImageMotionSettings()
        self._histories = Histories(ModeConfig())
        self._newest, self._arrivals, self._track_s = -1, 0.0, 0.5
        self._stamp_ns: int | None = None

    def __call__(self, tracks: Tracks2D) -> Array:
        now, scales = sightings(tracks, self._settings)
        self._histories.step(now)
        turnover = np.log(self._turnover(tracks))
        if not len(now.ids):
            return np.array([1.0, np.log(FIRST_S), 0.0, np.log(3.0), 0.0, turnover, 0.0])
        covariances, psd = self._histories.spread(now.ids)
        times_s = time_to_budget_s(covariances, psd, 0.25 * scales)
        growth = error_growth(covariances, psd) * (AHEAD_S ** np.arange(4))[:, None]
        astray = np.sqrt(np.maximum(growth.sum(axis=0), 0.0)) / scales
        gaps = np.linalg.norm(now.positions[:, None] - now.positions, axis=2) / scales[:, None]
        gaps += np.eye(len(scales)) * 1e3
        velocities = np.zeros((1, 2)) if now.velocities is None else np.nan_to_num(now.velocities)
        speeds = np.linalg.norm(velocities, axis=1) / scales
        return np.array(
            [
                1.0, np.log(np.clip(times_s.min(), 0.02, 3.0)), np.log1p(len(scales)),
                np.log(np.clip(np.median(gaps.min(axis=1)), 0.1, 20.0)), np.log(0.05 + np.median(speeds)), turnover,
                np.log(np.median(astray)),
            ]
        )  # fmt: skip

    def _turnover(self, tracks: Tracks2D) -> float:
        """New tracks for each second that a track was followed."""
        if self._stamp_ns is not None:
            dt_s = (tracks.stamp_ns - self._stamp_ns) * 1e-9
            kept = np.exp(-dt_s / MEMORY_S)
            self._arrivals = kept * self._arrivals + float((tracks.ids > self._newest).sum())
            self._track_s = kept * self._track_s + dt_s * max(len(tracks.ids), 1)
        self._stamp_ns = tracks.stamp_ns
        self._newest = max(self._newest, int(tracks.ids.max(initial=-1)))
        return (self._arrivals + 0.3) / (self._track_s + 1.0)


@dataclass(frozen=True, eq=False)
class Model:
    """Standardisation and weights of the logarithm of the change."""

    center: Array
    spread: Array
    weights: Array

    def __call__(self, features: Array) -> Array:
        result: Array = (features - self.center) / self.spread @ self.weights
        return result

    def explained(self, streams: Sequence[Stream], config: Tracker2DConfig) -> float:
        """Share of the variance that it explains."""
        x, y = examples(streams, config)
        return float(1.0 - ((y - self(x)) ** 2).mean() / y.var())


def examples(streams: Sequence[Stream], config: Tracker2DConfig) -> tuple[Array, Array]:
    """Features (N, F) and logarithms of the change (N,), from trackers that see every frame."""
    x, y = [], []
    for stream in streams:
        tracker, features = Tracker2D(config), Features()
        outputs: list[Any] = [tracker.step(detections)["tracks"] for detections in stream.detections]
        seen = [features(output) for output in outputs]
        ahead = max(1, round(AHEAD_S * 1e9 / stream.detections[1].stamp_ns))
        for index in range(WARM_UP_FRAMES, len(outputs) - ahead):
            x.append(seen[index])
            y.append(change(outputs[index], outputs[index + ahead]))
    return np.array(x), np.log(np.clip(y, 0.02, 1.0))


def change(now: Tracks2D, later: Tracks2D) -> float:
    """One minus the mean overlap."""
    moved = np.tile(now.velocities_px_per_s * ((later.stamp_ns - now.stamp_ns) * 1e-9), 2)
    both, ones, others = np.intersect1d(now.ids, later.ids, return_indices=True)
    everyone = len(now.ids) + len(later.ids) - len(both)
    overlap = paired_iou((now.boxes_xyxy_px + moved)[ones], later.boxes_xyxy_px[others]).sum()
    return float(1.0 - overlap / everyone) if everyone else 0.0


def learn(streams: Sequence[Stream], config: Tracker2DConfig) -> Model:
    """Ridge regression."""
    x, y = examples(streams, config)
    center, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    center[0], spread[0] = 0.0, 1.0
    z = (x - center) / spread
    weights = np.linalg.solve(z.T @ z + RIDGE * len(z) * np.eye(z.shape[1]), z.T @ y)
    return Model(center, spread, weights)


class LearnedPolicy:
    """Tracks to the next look."""

    def __init__(self, model: Model, allowed: float) -> None:
        self._model, self._allowed = model, allowed
        self._features, self._log_interval = Features(), float(np.log(FIRST_S))

    def __call__(self, tracks: Tracks2D) -> NextLook:
        expected = np.exp(self._model(self._features(tracks)))
        wanted_s = float(np.clip(AHEAD_S * self._allowed / expected, SHORTEST_S, LONGEST_S))
        self._log_interval += SMOOTHING * (np.log(wanted_s) - self._log_interval)
        due_ns = tracks.stamp_ns + round(np.exp(self._log_interval) * 1e9)
        return NextLook(stamp_ns=tracks.stamp_ns, frame_id=tracks.frame_id, due_ns=due_ns, reason="learned")
