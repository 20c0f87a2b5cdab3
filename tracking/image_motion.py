"""How boxes move in an image: constant velocity of centre and size, compared by IoU.

The state is (cx, cy, w, h) in pixels and its rates. All noise is a fraction of the box's scale sqrt(w h), as in
DeepSORT (Wojke et al., 2017, there of the height), because a near object moves by more pixels than a far one; and
process noise is per second, so that one configuration serves every frame rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.messages import Detections2D
from tracking import kalman
from tracking.association import pairwise_iou
from tracking.tracker import Observations, TrackerConfig

Array = NDArray[Any]

_MIN_SIZE_PX = 0.1


@dataclass(frozen=True, kw_only=True)
class Tracker2DConfig(TrackerConfig):
    """How boxes are tracked in an image. Noise is in scales: multiples of sqrt(width height) of the box."""

    min_iou: float = 0.3  # a detection overlaps the predicted box of its track by more than this
    measurement_noise_scales: float = 0.05  # standard deviation of a box's centre and size
    acceleration_noise_scales: float = 0.5  # square root of the acceleration's power density, scales / s^1.5
    initial_speed_scales: float = 1.0  # standard deviation of a new track's rates, scales / s

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.min_iou < 1.0:
            raise ValueError(f"min_iou must be from 0 to below 1, not {self.min_iou}")
        for name in ("measurement_noise_scales", "acceleration_noise_scales", "initial_speed_scales"):
            if not 0.0 < getattr(self, name) <= 100.0:
                raise ValueError(f"{name} must be above 0 and at most 100, not {getattr(self, name)}")


class ImageMotion:
    """The states of tracks in an image; a `tracking.tracker.Motion`. Measurements are cx, cy, w, h (4, M) in pixels."""

    size_rows = slice(2, 4)

    def __init__(self, config: Tracker2DConfig) -> None:
        self.config = config
        self.gate = 1.0 - config.min_iou
        self.state = kalman.KalmanState(np.zeros((8, 0)), np.zeros((8, 8, 0)))

    @staticmethod
    def observe(detections: Detections2D) -> Observations:
        """The message as measurements; nothing is checked."""
        x1, y1, x2, y2 = detections.boxes_xyxy_px.astype(np.float64).T
        with np.errstate(invalid="ignore", over="ignore"):
            measurements = np.stack([(x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1])
        return Observations(
            detections.stamp_ns, measurements, detections.scores, detections.labels, len(detections.class_names)
        )

    @property
    def boxes_xyxy_px(self) -> Array:
        """(T, 4) float64."""
        return _corners(self.state.positions)

    def keep(self, tracks: Array) -> None:
        """Keep the tracks of a boolean mask."""
        self.state = self.state.take(tracks)

    def predict(self, dt_s: float) -> None:
        """Move all tracks dt_s forward; a box that shrinks to nothing stops there."""
        psd = (self.config.acceleration_noise_scales * _scales(self.state.positions)) ** 2
        self.state = kalman.predict(self.state, dt_s, psd)
        sizes, rates = self.state.positions[2:], self.state.velocities[2:]
        vanished = sizes < _MIN_SIZE_PX
        sizes[vanished], rates[vanished] = _MIN_SIZE_PX, 0.0

    def costs(self, measurements: Array) -> Array:
        """1 - IoU, (T, M)."""
        return 1.0 - pairwise_iou(self.boxes_xyxy_px, _corners(measurements))

    def update(self, tracks: Array, measurements: Array) -> None:
        """Correct the tracks at these indices, each by its own measurement."""
        predicted = self.state.take(tracks)
        noise = self._noise(np.maximum(predicted.positions, measurements))  # as the larger box: P / R stays bounded
        self.state = self.state.put(tracks, kalman.update(predicted, measurements, noise))

    def start(self, measurements: Array) -> None:
        """Append one track for each measurement."""
        speed_variances = (self.config.initial_speed_scales * _scales(measurements)) ** 2
        self.state = self.state.append(kalman.start(measurements, self._noise(measurements), speed_variances))

    def _noise(self, boxes: Array) -> Array:
        """Covariance (4, 4, M) of measuring boxes of these sizes, px^2."""
        variances = (self.config.measurement_noise_scales * _scales(boxes)) ** 2
        return kalman.diagonal_noise(np.broadcast_to(variances, boxes.shape))


def _scales(boxes: Array) -> Array:
    """sqrt(w h) in pixels (N,) of boxes (4, N)."""
    result: Array = np.sqrt(np.maximum(boxes[2], _MIN_SIZE_PX) * np.maximum(boxes[3], _MIN_SIZE_PX))
    return result


def _corners(boxes: Array) -> Array:
    """x1 y1 x2 y2 (N, 4) of boxes (4, N)."""
    center, half = boxes[:2], boxes[2:] / 2.0
    result: Array = np.concatenate([center - half, center + half]).T
    return result
