"""How objects move in the world: constant velocity of the centre, smoothed size and heading.

The state is (x, y, z) in metres in a fixed frame and its velocity; size and heading are smoothed beside the filter,
as they carry no dynamics. It serves detectors that know what they see (after AB3DMOT, Weng et al., 2020, and the
centre-distance association of CenterPoint, Yin et al., 2021) and label-free LiDAR clusters, whose size and centre jump
as they are seen in part. For their sake
- the centre's noise grows, along the box's own axes, with the box and with half of what is missing from the track's
  size: a half-seen truck slides lengthwise, not sideways, and a fragment says little about the whole's centre;
- a pair must be likely (Mahalanobis) and near (bird's-eye distance), and of such pairs the nearest are taken, since
  plain Mahalanobis cost prefers uncertain tracks;
- size is smoothed in logarithms and its innovation clipped, so that one merged or broken cluster does little;
- a box turned by quarter turns with length and width swapped is the same box: the reading nearest to the track counts.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import rotation_about_z, transform_points, wrap_angle
from tercel.core.messages import Detections3D
from tracking import kalman, motion_models
from tracking.association import Assignment, Pairs, assign, near_pairs
from tracking.associators import of_one_class
from tracking.screening import Observations
from tracking.tracker import Tracker, TrackerConfig, TrackTable

Array = NDArray[Any]

CHI2_3DOF_999 = 16.266  # a centre lies within this squared Mahalanobis distance with probability 0.999
_MIN_SIZE_M = 0.01
_MAX_LOG_STEP = 0.5  # innovation of log size that one detection may claim


@dataclass(frozen=True, kw_only=True)
class Tracker3DConfig(TrackerConfig):
    """How boxes are tracked in the world."""

    coast_s: float = 0.3
    gate_m: float = 3.0  # a detection lies nearer than this, in bird's eye, to the predicted centre of its track
    center_noise_m: float = 0.15  # standard deviation of a detection's centre; center_noise_sizes comes on top
    center_noise_sizes: float = 0.1  # part of the box's size, along each of its axes, that a centre errs by
    acceleration_noise_horizontal: float = 3.0  # square root of the acceleration's power density, m / s^1.5
    acceleration_noise_vertical: float = 0.3  # the same along z
    initial_speed_mps: float = 5.0  # standard deviation of a new track's velocity, horizontal
    smoothing: float = 0.2  # weight of one detection in a long track's size and heading

    def assemble(self) -> Tracker:
        """The tracker."""
        return Tracker(self, WorldMotion(self), ByDistance(self))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gate_m", "center_noise_m", "acceleration_noise_horizontal", "acceleration_noise_vertical"):
            if not 0.0 < getattr(self, name) <= 1000.0:
                raise ValueError(f"{name} must be above 0 and at most 1000, not {getattr(self, name)}")
        if not 0.0 <= self.center_noise_sizes <= 1.0:
            raise ValueError(f"center_noise_sizes must be from 0 to 1, not {self.center_noise_sizes}")
        if not 0.0 < self.initial_speed_mps <= 300.0:
            raise ValueError(f"initial_speed_mps must be above 0 and at most 300, not {self.initial_speed_mps}")
        if not 0.0 < self.smoothing <= 1.0:
            raise ValueError(f"smoothing must be above 0 and at most 1, not {self.smoothing}")


class WorldMotion:
    """The states of tracks in the world; a `tracking.tracker.Motion`.

    Measurements are x, y, z, length, width, height (m) and yaw (rad), (7, M), in the world frame.
    """

    size_rows = slice(3, 6)

    def __init__(self, config: Tracker3DConfig) -> None:
        self.config = config
        self.state = kalman.KalmanState(np.zeros((6, 0)), np.zeros((6, 6, 0)))
        self.log_sizes = np.zeros((3, 0))
        self.yaws_rad = np.zeros(0)
        self._updates = np.zeros(0)

    @staticmethod
    def observe(detections: Detections3D, world_T_sensor: Array) -> Observations:
        """A message in the sensor's frame as measurements in the world; nothing is checked.

        Boxes are upright in both frames: of the rotation, yaws take what it does to the box's heading.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            yaws = detections.yaws_rad
            headings = np.stack([np.cos(yaws), np.sin(yaws), np.zeros_like(yaws)], axis=1) @ world_T_sensor[:3, :3].T
            centers = transform_points(world_T_sensor, detections.centers_m)
            yaws_world = np.where(np.isfinite(yaws), np.arctan2(headings[:, 1], headings[:, 0]), np.nan)
        measurements = np.concatenate([centers.T, detections.sizes_m.T, yaws_world[None]])
        class_count = len(detections.class_names)
        return Observations(
            detections.stamp_ns, measurements, detections.scores, detections.labels, class_count, world_T_sensor
        )

    def copy(self) -> WorldMotion:
        """The same states, to be changed."""
        other = copy(self)
        other.log_sizes, other.yaws_rad = self.log_sizes.copy(), self.yaws_rad.copy()
        other._updates = self._updates.copy()
        return other

    @property
    def boxes(self) -> Array:
        """(7, T) float64, rows as in the measurements."""
        return np.concatenate([self.state.positions, np.exp(self.log_sizes), self.yaws_rad[None]])

    @property
    def sizes_m(self) -> Array:
        """(T, 3) float64, length width height."""
        result: Array = np.exp(self.log_sizes).T
        return result

    def shown(self, tracks: Array) -> dict[str, Array]:
        """What Tracks3D says of the tracks at these indices: places, sizes, headings, velocities, covariances."""
        state = self.state.take(tracks)
        return {
            "centers_m": state.positions.T,
            "sizes_m": self.sizes_m[tracks],
            "yaws_rad": self.yaws_rad[tracks],
            "velocities_mps": state.velocities.T,
            "covariances": np.moveaxis(state.covariance, -1, 0),
        }

    def keep(self, tracks: Array) -> None:
        """Keep the tracks at these indices."""
        self.state = self.state.take(tracks)
        self.log_sizes = self.log_sizes[:, tracks]
        self.yaws_rad, self._updates = self.yaws_rad[tracks], self._updates[tracks]

    def predict(self, dt_s: float) -> None:
        """Move all tracks dt_s forward."""
        horizontal, vertical = self.config.acceleration_noise_horizontal, self.config.acceleration_noise_vertical
        psd = np.array([horizontal**2, horizontal**2, vertical**2])
        self.state = kalman.predict(self.state, *motion_models.constant_velocity(dt_s, psd, 3))

    def likely_pairs(self, measurements: Array) -> Pairs:
        """The pairs of a track and a measurement that are near and likely, at their bird's-eye distance in metres."""
        pairs = near_pairs(self.state.mean[:2].T, measurements[:2].T, self.config.gate_m)
        candidates = measurements[:, pairs.columns]
        noise = self._noise(pairs.rows, candidates)
        squared = kalman.squared_mahalanobis(self.state.take(pairs.rows), candidates[:3], noise)
        return pairs.where(squared < CHI2_3DOF_999)

    def update(self, tracks: Array, seen: Observations) -> None:
        """Correct the tracks at these indices, each by its own detection."""
        measurements = seen.measurements
        noise = self._noise(tracks, measurements)
        self.state = self.state.put(tracks, kalman.update(self.state.take(tracks), measurements[:3], noise))
        self._updates[tracks] += 1
        weights = np.maximum(1.0 / self._updates[tracks], self.config.smoothing)
        sizes_m, turns_rad = _nearest_reading(measurements, self.yaws_rad[tracks])
        size_steps = np.clip(np.log(sizes_m) - self.log_sizes[:, tracks], -_MAX_LOG_STEP, _MAX_LOG_STEP)
        self.log_sizes[:, tracks] += weights * size_steps
        self.yaws_rad[tracks] = wrap_angle(self.yaws_rad[tracks] + weights * turns_rad)

    def start(self, seen: Observations) -> None:
        """Append one track for each detection."""
        measurements = seen.measurements
        speed, vertical = self.config.initial_speed_mps, self.config.initial_speed_mps / 10.0
        variances = np.array([[speed**2], [speed**2], [vertical**2]])
        sizes_m = np.maximum(measurements[3:6], _MIN_SIZE_M)
        noise = self._along_axes(sizes_m, measurements[6])
        self.state = self.state.append(kalman.start(measurements[:3], noise, variances))
        self.log_sizes = np.concatenate([self.log_sizes, np.log(sizes_m)], axis=1)
        self.yaws_rad = np.concatenate([self.yaws_rad, measurements[6]])
        self._updates = np.concatenate([self._updates, np.ones(measurements.shape[1])])

    def _noise(self, tracks: Array, measurements: Array) -> Array:
        """Covariance (3, 3, M) of the centre that each measurement claims for its track, m^2."""
        sizes_m, turns_rad = _nearest_reading(measurements, self.yaws_rad[tracks])
        missing_m = np.abs(np.exp(self.log_sizes[:, tracks]) - sizes_m)
        return self._along_axes(sizes_m, self.yaws_rad[tracks] + turns_rad, missing_m)

    def _along_axes(self, sizes_m: Array, yaws_rad: Array, missing_m: Array | float = 0.0) -> Array:
        """R diag(sigma^2) R' with the boxes' rotations R about z."""
        sigmas = self.config.center_noise_m + self.config.center_noise_sizes * sizes_m + missing_m / 2.0
        rotations = np.moveaxis(rotation_about_z(yaws_rad), 0, -1)
        noise: Array = np.einsum("ikn,kn,jkn->ijn", rotations, sigmas**2, rotations)
        return noise


@dataclass(frozen=True)
class ByDistance:
    """Of the likely pairs, those with the least sum of distances; an `Associate` of `tracking.tracker`."""

    config: Tracker3DConfig

    def __call__(self, table: TrackTable, motion: WorldMotion, seen: Observations) -> Assignment:
        """Tracks are rows, detections columns."""
        pairs = of_one_class(motion.likely_pairs(seen.measurements), table, seen, self.config.class_aware)
        return assign(pairs, self.config.gate_m)


def _nearest_reading(measurements: Array, yaws_rad: Array) -> tuple[Array, Array]:
    """Each box read as one that is turned by at most 45 degrees from the heading yaws_rad (M,).

    Returns its sizes (3, M) m, length and width swapped where the reading is turned by an odd number of quarters, and
    the remaining turn (M,) rad. Sizes have a floor, for clusters as flat as one LiDAR ring.
    """
    turns = measurements[6] - yaws_rad
    quarters = np.round(turns / (np.pi / 2.0))
    sizes_m = np.maximum(measurements[3:6], _MIN_SIZE_M)
    odd = quarters % 2 == 1
    sizes_m[:2, odd] = sizes_m[1::-1, odd]
    return sizes_m, turns - quarters * (np.pi / 2.0)
