"""Predictions as components: tracks in, where they will be out; the work is in `tracking.prediction`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.component import Component, Input, Models, Output, Outputs, on
from tercel.core.errors import Rejected
from tercel.core.messages import Predictions, Tracks2D, Tracks3D
from tracking.prediction import Histories, ModeConfig, Sightings

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """How tracks are predicted. Lengths are in m or, for tracks in an image, in scales of the box.

    acceleration_noise is the square root of a power density, length / s^1.5; class_noise the same for the classes of
    class_names, whatever their case. *_ahead is what takes its place over the horizon, see `tracking.prediction`.
    """

    horizons_s: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
    measurement_noise: float = 0.15
    initial_speed: float = 5.0  # standard deviation of a new track's velocity, where the tracker tells none
    acceleration_noise: float = 0.3
    acceleration_noise_ahead: float = 0.3
    class_names: tuple[str, ...] = ()
    class_noise: tuple[float, ...] = ()
    class_noise_ahead: tuple[float, ...] = ()
    memory_s: float = 2.0  # a track that is not reported for longer is forgotten

    def __post_init__(self) -> None:
        if not self.horizons_s or not all(0.0 < horizon <= 60.0 for horizon in self.horizons_s):
            raise ValueError(f"horizons_s must be one or more, above 0 and at most 60, not {self.horizons_s}")
        if any(later <= sooner for sooner, later in zip(self.horizons_s, self.horizons_s[1:], strict=False)):
            raise ValueError(f"horizons_s must ascend, not {self.horizons_s}")
        if not len(self.class_names) == len(self.class_noise) == len(self.class_noise_ahead):
            raise ValueError("class_names, class_noise and class_noise_ahead must have as many entries each")
        for name in (
            "measurement_noise",
            "initial_speed",
            "acceleration_noise",
            "acceleration_noise_ahead",
            "memory_s",
        ):
            _check(name, getattr(self, name))
        for name in ("class_noise", "class_noise_ahead"):
            for value in getattr(self, name):
                _check(name, value)

    def noise(self, class_names: tuple[str, ...]) -> Array:
        """Acceleration noise while filtering, and ahead, (2, C) of a stream's classes."""
        known = {name.lower(): index for index, name in enumerate(self.class_names)}
        rows = [known.get(name.lower(), -1) for name in class_names]
        filtering = [*self.class_noise, self.acceleration_noise]
        ahead = [*self.class_noise_ahead, self.acceleration_noise_ahead]
        return np.array([[filtering[row] for row in rows], [ahead[row] for row in rows]]).reshape(2, -1)


@dataclass(frozen=True, kw_only=True)
class Predictor3DConfig(PredictorConfig):
    """For tracks in the world, in m. Tuned on one half of KITTI's labelled sequences."""

    class_names: tuple[str, ...] = ("car", "van", "truck", "bus", "pedestrian", "person", "person_sitting", "cyclist")
    class_noise: tuple[float, ...] = (0.125, 0.125, 0.125, 0.125, 0.041, 0.041, 0.041, 0.345)
    class_noise_ahead: tuple[float, ...] = (0.5, 0.5, 0.5, 0.5, 0.041, 0.041, 0.041, 0.345)


@dataclass(frozen=True, kw_only=True)
class Predictor2DConfig(PredictorConfig):
    """For tracks in an image, in scales sqrt(width height) of the box. Tuned on one half of SDD's videos."""

    measurement_noise: float = 0.05
    initial_speed: float = 2.0
    acceleration_noise: float = 0.2
    acceleration_noise_ahead: float = 0.2
    class_names: tuple[str, ...] = ("pedestrian", "person", "biker", "bicycle", "cart")
    class_noise: tuple[float, ...] = (0.065, 0.065, 0.245, 0.245, 0.39)
    class_noise_ahead: tuple[float, ...] = (0.065, 0.065, 0.245, 0.245, 0.39)


class Predictor3D(Component):
    """Tracks in the world to hypotheses about their centres; tracks without an id or a finite centre have none."""

    Config = Predictor3DConfig
    tracks = Input(Tracks3D)
    predictions = Output(Predictions)

    def __init__(self, config: Predictor3DConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._prediction = _Prediction(self.config)

    @on(tracks)
    def step(self, tracks: Tracks3D) -> Outputs:
        """Raises Rejected for a stamp that is not after the last one, an id that occurs twice, another frame."""
        places = (tracks.centers_m, tracks.velocities_mps)
        return {"predictions": self._prediction.step(tracks, *places, np.ones(len(tracks.ids)))}


class Predictor2D(Component):
    """Tracks in an image to hypotheses about their boxes' centres; noise grows with the box."""

    Config = Predictor2DConfig
    tracks = Input(Tracks2D)
    predictions = Output(Predictions)

    def __init__(self, config: Predictor2DConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._prediction = _Prediction(self.config)

    @on(tracks)
    def step(self, tracks: Tracks2D) -> Outputs:
        """Raises Rejected for a stamp that is not after the last one, an id that occurs twice, another frame."""
        corners = tracks.boxes_xyxy_px.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            scales_px = np.sqrt(np.maximum(corners[:, 2:] - corners[:, :2], 1.0).prod(axis=1))
            centers_px = (corners[:, :2] + corners[:, 2:]) / 2.0
        velocities = tracks.velocities_px_per_s.astype(np.float64)
        return {"predictions": self._prediction.step(tracks, centers_px, velocities, scales_px)}


class _Prediction:
    """What both components do."""

    def __init__(self, config: PredictorConfig) -> None:
        self._config = config
        self._histories = Histories(ModeConfig(), memory_s=config.memory_s)
        self._frame_id: str | None = None

    def step(self, tracks: Tracks2D | Tracks3D, positions: Array, velocities: Array, scales: Array) -> Predictions:
        """Take in one message and predict its tracks; positions and velocities (N, D), scales (N,)."""
        if self._frame_id is not None and tracks.frame_id != self._frame_id:
            raise Rejected("frame changed within the stream")
        config, classes = self._config, len(tracks.class_names)
        usable = (tracks.ids >= 0) & np.isfinite(positions).all(axis=1) & np.isfinite(scales)
        usable &= (tracks.labels >= 0) & (tracks.labels < classes)
        kept = np.flatnonzero(usable)
        noise = config.noise(tracks.class_names)[:, tracks.labels[kept]] * scales[kept]
        unseen = np.zeros(len(kept)) if tracks.unseen_s is None else tracks.unseen_s[kept]
        now = Sightings(
            stamp_ns=tracks.stamp_ns,
            ids=tracks.ids[kept],
            positions=positions[kept],
            psd=noise[0] ** 2,
            psd_ahead=noise[1] ** 2,
            variances=(config.measurement_noise * scales[kept]) ** 2,
            speed_variances=(config.initial_speed * scales[kept]) ** 2,
            seen=~(unseen > 0.0),
            velocities=velocities[kept],
            covariances=None if tracks.covariances is None else tracks.covariances[kept],
        )
        self._histories.step(now)
        self._frame_id = tracks.frame_id
        told = self._histories.predict(now.ids, config.horizons_s)
        d = positions.shape[1]
        return Predictions(
            stamp_ns=tracks.stamp_ns,
            frame_id=tracks.frame_id,
            ids=now.ids,
            horizons_s=np.array(config.horizons_s),
            positions=told.positions[..., :d],
            covariances=told.covariances[..., :d, :d],
            mode_probabilities=told.probabilities,
        )


def _check(name: str, value: float) -> None:
    if not 0.0 < value <= 1000.0:
        raise ValueError(f"{name} must be above 0 and at most 1000, not {value}")
