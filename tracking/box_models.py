"""What of a box in an image is filtered, and how sure a tracker is of it: the three parametrisations in use.

Each turns boxes cx, cy, w, h (4, N) in pixels into the coordinates that are filtered, and back, and gives the
variances of `tracking.axis_kalman`: of a measurement, of a new track's rates, and what time adds.

- `ScaleRatioBox`: SORT (Bewley et al., 2016, and its code): area and aspect ratio, fixed noise per frame.
- `HeightBox`: DeepSORT and ByteTrack (Wojke et al., 2017): aspect ratio and height, noise as a fraction of the height.
- `SizeBox`: ours: width and height, all noise as a fraction of the scale sqrt(w h), and process noise per second, so
  that one configuration serves every frame rate.

SORT and ByteTrack count in frames. Their noise is kept to the letter for one `frame_period_s`; longer and shorter steps
get as many frames' worth of it as they last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracking import axis_kalman

Array = NDArray[Any]

MIN_SIZE_PX = 0.1
_SORT_MEASUREMENT = np.array([[1.0], [1.0], [10.0], [10.0]])
_SORT_PROCESS = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.01, 0.01, 0.0001, 0.0]])[:, :, None]


class BoxModel(Protocol):
    """A parametrisation with its noise. Arrays are (4, N); rates are per second."""

    def measure(self, boxes: Array) -> Array:
        """The filtered coordinates of boxes cx, cy, w, h."""
        ...

    def boxes(self, coordinates: Array) -> Array:
        """Boxes cx, cy, w, h of filtered coordinates."""
        ...

    def measurement_variances(self, coordinates: Array, scores: Array) -> Array:
        """Of a detection with these coordinates and this score (N,)."""
        ...

    def velocity_variances(self, coordinates: Array) -> Array:
        """Of a track that was seen once; zero for a coordinate that does not move."""
        ...

    def position_variances(self, coordinates: Array) -> Array:
        """Of a track that was seen once."""
        ...

    def process_noise(self, coordinates: Array, dt_s: float) -> Array:
        """What dt_s adds to variance, covariance and variance of the rate: (3, 4, N) or broadcast to it."""
        ...

    def stop_shrinking(self, state: Array, dt_s: ArrayLike) -> None:
        """Of a state (5, 4, N) that was led dt_s on: boxes that vanish keep the size that they had, and stop there."""
        ...


@dataclass(frozen=True)
class ScaleRatioBox:
    """cx, cy, area, aspect ratio w / h, with SORT's numbers."""

    frame_period_s: float

    def measure(self, boxes: Array) -> Array:
        coordinates: Array = boxes.copy()
        np.multiply(boxes[2], boxes[3], out=coordinates[2])
        np.divide(boxes[2], boxes[3], out=coordinates[3])
        return coordinates

    def boxes(self, coordinates: Array) -> Array:
        boxes: Array = coordinates.copy()
        _, _, area, ratio = coordinates
        np.sqrt(np.maximum(area * ratio, MIN_SIZE_PX**2), out=boxes[2])
        np.divide(np.maximum(area, MIN_SIZE_PX**2), boxes[2], out=boxes[3])
        return boxes

    def measurement_variances(self, coordinates: Array, scores: Array) -> Array:  # noqa: ARG002
        return _SORT_MEASUREMENT

    def position_variances(self, coordinates: Array) -> Array:  # noqa: ARG002
        return np.full((4, 1), 10.0)

    def velocity_variances(self, coordinates: Array) -> Array:  # noqa: ARG002
        return np.array([[1e4], [1e4], [1e4], [0.0]]) / self.frame_period_s**2

    def process_noise(self, coordinates: Array, dt_s: float) -> Array:  # noqa: ARG002
        frames, per_s = dt_s / self.frame_period_s, 1.0 / self.frame_period_s**2
        noise: Array = frames * _SORT_PROCESS
        noise[2] *= per_s
        return noise

    def stop_shrinking(self, state: Array, dt_s: ArrayLike) -> None:
        _stop_below(MIN_SIZE_PX**2, state, slice(2, 3), dt_s)


@dataclass(frozen=True)
class HeightBox:
    """cx, cy, aspect ratio w / h, height, with DeepSORT's and ByteTrack's numbers."""

    frame_period_s: float
    position_noise: float = 1.0 / 20.0  # standard deviation as a fraction of the height
    velocity_noise: float = 1.0 / 160.0  # per frame

    def measure(self, boxes: Array) -> Array:
        coordinates: Array = boxes.copy()
        np.divide(boxes[2], boxes[3], out=coordinates[2])
        return coordinates

    def boxes(self, coordinates: Array) -> Array:
        boxes: Array = coordinates.copy()
        np.maximum(coordinates[2] * coordinates[3], MIN_SIZE_PX, out=boxes[2])
        return boxes

    def measurement_variances(self, coordinates: Array, scores: Array) -> Array:  # noqa: ARG002
        return self._variances(coordinates, self.position_noise, 0.1)

    def position_variances(self, coordinates: Array) -> Array:
        return self._variances(coordinates, 2.0 * self.position_noise, 0.01)

    def velocity_variances(self, coordinates: Array) -> Array:
        return self._variances(coordinates, 10.0 * self.velocity_noise, 1e-5) / self.frame_period_s**2

    def process_noise(self, coordinates: Array, dt_s: float) -> Array:
        position = self._variances(coordinates, self.position_noise, 0.01)
        rate = self._variances(coordinates, self.velocity_noise, 1e-5) / self.frame_period_s**2
        noise: Array = np.array([position, np.zeros_like(position), rate])
        return noise * (dt_s / self.frame_period_s)

    def stop_shrinking(self, state: Array, dt_s: ArrayLike) -> None:
        _stop_below(MIN_SIZE_PX, state, slice(3, 4), dt_s)

    @staticmethod
    def _variances(coordinates: Array, fraction: float, ratio_deviation: float) -> Array:
        variances = np.empty_like(coordinates)
        variances[:] = np.square(fraction * coordinates[3])
        variances[2] = ratio_deviation**2
        return variances


@dataclass(frozen=True)
class SizeBox:
    """cx, cy, w, h. Noise in scales: multiples of sqrt(w h)."""

    measurement_noise: float = 0.05  # standard deviation of a box's centre and size
    acceleration_noise: float = 0.5  # square root of the acceleration's power density, scales / s^1.5
    initial_speed: float = 1.0  # standard deviation of a new track's rates, scales / s
    score_power: float = 0.0  # the noise of a detection with score p is larger by p^-score_power

    def measure(self, boxes: Array) -> Array:
        return boxes

    def boxes(self, coordinates: Array) -> Array:
        return coordinates

    def measurement_variances(self, coordinates: Array, scores: Array) -> Array:
        variances = self.measurement_noise**2 * _areas(coordinates)
        if self.score_power:
            variances *= np.clip(scores, 0.01, 1.0) ** (-2.0 * self.score_power)
        return variances

    def position_variances(self, coordinates: Array) -> Array:
        return self.measurement_noise**2 * _areas(coordinates)

    def velocity_variances(self, coordinates: Array) -> Array:
        return self.initial_speed**2 * _areas(coordinates)

    def process_noise(self, coordinates: Array, dt_s: float) -> Array:
        return axis_kalman.white_noise_acceleration(dt_s, self.acceleration_noise**2 * _areas(coordinates)[None])

    def stop_shrinking(self, state: Array, dt_s: ArrayLike) -> None:
        _stop_below(MIN_SIZE_PX, state, slice(2, 4), dt_s)


def _areas(coordinates: Array) -> Array:
    """w h in square pixels (N,) of boxes (4, N)."""
    sizes = np.maximum(coordinates[2:], MIN_SIZE_PX)
    areas: Array = sizes[0] * sizes[1]
    return areas


def _stop_below(least: float, state: Array, rows: slice, dt_s: ArrayLike) -> None:
    sizes, rates = state[0, rows], state[1, rows]
    gone = sizes < least
    if gone.any():
        sizes[gone] = np.maximum(sizes - rates * dt_s, least)[gone]
        rates[gone] = 0.0
