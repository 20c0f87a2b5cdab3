"""Predictions as components: tracks in, where they will be out; the work is in `tracking.prediction`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercel.core.component import Component, Input, Models, Output, Outputs, on
from tercel.core.errors import Rejected
from tercel.core.messages import Predictions, Tracks2D, Tracks3D
from tracking.motion_settings import ImageMotionSettings, WorldMotionSettings, sightings
from tracking.prediction import Histories, ModeConfig

_HORIZONS_S = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Predictor3DConfig(WorldMotionSettings):
    """How tracks in the world are predicted."""

    horizons_s: tuple[float, ...] = _HORIZONS_S  # how far ahead, ascending

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_horizons(self.horizons_s)


@dataclass(frozen=True, kw_only=True)
class Predictor2DConfig(ImageMotionSettings):
    """How tracks in an image are predicted."""

    horizons_s: tuple[float, ...] = _HORIZONS_S  # how far ahead, ascending

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_horizons(self.horizons_s)


def _check_horizons(horizons_s: tuple[float, ...]) -> None:
    if not horizons_s or not all(0.0 < horizon <= 60.0 for horizon in horizons_s):
        raise ValueError(f"horizons_s must be one or more, above 0 and at most 60, not {horizons_s}")
    if sorted(set(horizons_s)) != list(horizons_s):
        raise ValueError(f"horizons_s must ascend, not {horizons_s}")


class Predictor3D(Component):
    """Tracks in the world to hypotheses about their centres.

    Tracks without an id, a finite centre or a known class are not predicted.
    """

    Config = Predictor3DConfig
    tracks = Input(Tracks3D)
    predictions = Output(Predictions)

    def __init__(self, config: Predictor3DConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._prediction = _Prediction(self.config)

    @on(tracks)
    def step(self, tracks: Tracks3D) -> Outputs:
        """Raises Rejected for a stamp that is not after the last one, an id that occurs twice, another frame."""
        return {"predictions": self._prediction.step(tracks, 3)}


class Predictor2D(Component):
    """Tracks in an image to hypotheses about their boxes' centres. Noise grows with the box."""

    Config = Predictor2DConfig
    tracks = Input(Tracks2D)
    predictions = Output(Predictions)

    def __init__(self, config: Predictor2DConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._prediction = _Prediction(self.config)

    @on(tracks)
    def step(self, tracks: Tracks2D) -> Outputs:
        """Raises Rejected for a stamp that is not after the last one, an id that occurs twice, another frame."""
        return {"predictions": self._prediction.step(tracks, 2)}


class _Prediction:
    """What both components do."""

    def __init__(self, config: Predictor2DConfig | Predictor3DConfig) -> None:
        self._config = config
        self._histories = Histories(ModeConfig(), memory_s=config.memory_s)
        self._frame_id: str | None = None

    def step(self, tracks: Tracks2D | Tracks3D, dimensions: int) -> Predictions:
        if self._frame_id is not None and tracks.frame_id != self._frame_id:
            raise Rejected("frame changed within the stream")
        now, _ = sightings(tracks, self._config)
        self._histories.step(now)
        self._frame_id = tracks.frame_id
        told = self._histories.predict(now.ids, self._config.horizons_s)
        return Predictions(
            stamp_ns=tracks.stamp_ns,
            frame_id=tracks.frame_id,
            ids=now.ids,
            horizons_s=np.array(self._config.horizons_s),
            positions=told.positions[..., :dimensions],
            covariances=told.covariances[..., :dimensions, :dimensions],
            mode_probabilities=told.probabilities,
        )
