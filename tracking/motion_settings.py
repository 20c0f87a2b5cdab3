"""How much tracks are expected to manoeuvre, by class, and track messages as what `tracking.prediction` takes in.

What predicts and what decides when to look share these settings: `tracking.predictor`, `tracking.sampling_policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.messages import Tracks2D, Tracks3D
from tracking.prediction import Sightings

Array = NDArray[Any]

_MIN_SIZE_PX = 1.0


@dataclass(frozen=True, kw_only=True)
class MotionSettings:
    """Noise of motion and measurement. Lengths are in m or, for tracks in an image, in scales of the box.

    measurement_noise: standard deviation of a track's position.
    acceleration_noise: square root of the acceleration's power density, length / s^1.5, of classes without their own.
    acceleration_noise_ahead: what takes its place over the horizon, see `tracking.prediction`.
    class_names: classes with noise of their own, whatever their case.
    class_noise, class_noise_ahead: as acceleration_noise and acceleration_noise_ahead, one for each of class_names.
    """

    measurement_noise: float = 0.15
    initial_speed: float = 5.0  # standard deviation of a new track's velocity, where the tracker tells none
    acceleration_noise: float = 0.3
    acceleration_noise_ahead: float = 0.3
    class_names: tuple[str, ...] = ()
    class_noise: tuple[float, ...] = ()
    class_noise_ahead: tuple[float, ...] = ()
    memory_s: float = 2.0  # a track that is not reported for longer is forgotten

    def __post_init__(self) -> None:
        if not len(self.class_names) == len(self.class_noise) == len(self.class_noise_ahead):
            raise ValueError("class_names, class_noise and class_noise_ahead must have as many entries each")
        for name in (
            "measurement_noise",
            "initial_speed",
            "acceleration_noise",
            "acceleration_noise_ahead",
            "memory_s",
        ):
            check_positive(name, getattr(self, name))
        for name in ("class_noise", "class_noise_ahead"):
            for value in getattr(self, name):
                check_positive(name, value)

    def noise(self, class_names: tuple[str, ...]) -> Array:
        """Acceleration noise while filtering, and ahead, (2, C) of a stream's classes."""
        known = {name.lower(): index for index, name in enumerate(self.class_names)}
        rows = [known.get(name.lower(), -1) for name in class_names]
        filtering = [*self.class_noise, self.acceleration_noise]
        ahead = [*self.class_noise_ahead, self.acceleration_noise_ahead]
        return np.array([[filtering[row] for row in rows], [ahead[row] for row in rows]]).reshape(2, -1)


@dataclass(frozen=True, kw_only=True)
class WorldMotionSettings(MotionSettings):
    """For tracks in the world, in m. Tuned on one half of KITTI's labelled sequences."""

    class_names: tuple[str, ...] = ("car", "van", "truck", "bus", "pedestrian", "person", "person_sitting", "cyclist")
    class_noise: tuple[float, ...] = (0.125, 0.125, 0.125, 0.125, 0.041, 0.041, 0.041, 0.345)
    class_noise_ahead: tuple[float, ...] = (0.5, 0.5, 0.5, 0.5, 0.041, 0.041, 0.041, 0.345)


@dataclass(frozen=True, kw_only=True)
class ImageMotionSettings(MotionSettings):
    """For tracks in an image, in scales sqrt(width height) of the box. Tuned on one half of SDD's videos."""

    measurement_noise: float = 0.05
    initial_speed: float = 2.0
    acceleration_noise: float = 0.2
    acceleration_noise_ahead: float = 0.2
    class_names: tuple[str, ...] = ("pedestrian", "person", "biker", "bicycle", "cart")
    class_noise: tuple[float, ...] = (0.065, 0.065, 0.245, 0.245, 0.39)
    class_noise_ahead: tuple[float, ...] = (0.065, 0.065, 0.245, 0.245, 0.39)


def check_positive(name: str, value: float) -> None:
    """Raises ValueError unless the value is above 0 and at most 1000."""
    if not 0.0 < value <= 1000.0:
        raise ValueError(f"{name} must be above 0 and at most 1000, not {value}")


def sightings(tracks: Tracks2D | Tracks3D, settings: MotionSettings) -> tuple[Sightings, Array]:
    """A message as sightings, and the scale (N,) of each track: of its box in px, or 1 m.

    Tracks without an id, a finite centre or a known class are left out.
    """
    if isinstance(tracks, Tracks3D):
        positions, velocities, scales = tracks.centers_m, tracks.velocities_mps, np.ones(len(tracks.ids))
    else:
        positions, velocities, scales = _in_image(tracks)
    usable = (tracks.ids >= 0) & np.isfinite(positions).all(axis=1) & np.isfinite(scales)
    usable &= (tracks.labels >= 0) & (tracks.labels < len(tracks.class_names))
    kept = np.flatnonzero(usable)
    noise = settings.noise(tracks.class_names)[:, tracks.labels[kept]] * scales[kept]
    unseen_s = np.zeros(len(kept)) if tracks.unseen_s is None else tracks.unseen_s[kept]
    now = Sightings(
        stamp_ns=tracks.stamp_ns,
        ids=tracks.ids[kept],
        positions=positions[kept],
        psd=noise[0] ** 2,
        psd_ahead=noise[1] ** 2,
        variances=(settings.measurement_noise * scales[kept]) ** 2,
        speed_variances=(settings.initial_speed * scales[kept]) ** 2,
        seen=~(unseen_s > 0.0),
        velocities=velocities[kept],
        covariances=None if tracks.covariances is None else tracks.covariances[kept],
    )
    return now, scales[kept]


def _in_image(tracks: Tracks2D) -> tuple[Array, Array, Array]:
    """Centres (N, 2), their velocities (N, 2) and the boxes' scales (N,), px."""
    corners = tracks.boxes_xyxy_px.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        scales = np.sqrt(np.maximum(corners[:, 2:] - corners[:, :2], _MIN_SIZE_PX).prod(axis=1))
        centers = (corners[:, :2] + corners[:, 2:]) / 2.0
    return centers, tracks.velocities_px_per_s.astype(np.float64), scales
