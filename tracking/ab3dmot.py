"""AB3DMOT (Weng et al., 3D Multi-Object Tracking: A Baseline and New Evaluation Metrics, 2020), from our parts.

A Kalman filter of the seven coordinates of a box, of which the place has a velocity; assignment by the IoU of volumes;
a track counts from its third detection on, is shown while it misses one, and ends when it misses two. Settings are
those with which the authors' first release gives their published table, for all classes the same.

The filter treats each coordinate by itself, so that it is the one of `tracking.axis_kalman`. As published, the place is
the middle of the box's floor, and where a heading turns by more than a right angle it is the track that is turned
round. Time is told by stamps: a step longer than the frame period counts as so many frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking import axis_kalman
from tracking.association import Assignment, assign
from tracking.associators import of_one_class
from tracking.boxes3d import overlapping_pairs_3d
from tracking.screening import Observations
from tracking.sort import check_frames, unseen_limit_s
from tracking.tracker import Tracker, TrackerConfig, TrackTable

Array = NDArray[Any]

_X, _Y, _Z, _YAW = range(4)
_FROM_MEASUREMENT = [0, 1, 2, 6, 3, 4, 5]  # x y z yaw length width height of measurements x y z length width height yaw
_FROM_COORDINATES = [0, 1, 2, 4, 5, 6, 3]
_MOVES = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])[:, None]
_FIRST_VARIANCE, _FIRST_VELOCITY_VARIANCE = 10.0, 1e4 * _MOVES
_MEASUREMENT_VARIANCE = 1.0
_PROCESS_NOISE = np.stack([np.ones((7, 1)), np.zeros((7, 1)), 0.01 * _MOVES])  # in each frame


@dataclass(frozen=True, kw_only=True)
class Ab3dmotConfig:
    """AB3DMOT's settings. It counts in frames: so many of frame_period_s. Longer steps count as more."""

    frame_period_s: float = 0.1  # time between two sweeps
    min_score: float = -1e6  # detections below it are not looked at; as published: all are
    min_iou: float = 0.01  # a detection overlaps the predicted box of its track by at least this, of volumes
    min_hits: int = 3  # detections from which on a track counts; in so many first frames all tracks do
    max_age_frames: int = 1  # frames that a track may miss; its predicted box is shown meanwhile
    class_aware: bool = True  # a track and its detections are of one class

    def __post_init__(self) -> None:
        check_frames(self.frame_period_s, self.max_age_frames)
        if self.min_hits < 1:
            raise ValueError(f"min_hits must be 1 or more, not {self.min_hits}")
        if not 0.0 <= self.min_iou < 1.0:
            raise ValueError(f"min_iou must be from 0 to below 1, not {self.min_iou}")

    def assemble(self) -> Tracker:
        """The tracker."""
        age_s = unseen_limit_s(self.frame_period_s, self.max_age_frames)
        life = TrackerConfig(
            min_score=self.min_score,
            start_score=self.min_score,
            min_hits=self.min_hits,
            max_age_s=age_s,
            max_tentative_age_s=age_s,
            coast_s=age_s - self.frame_period_s,
            class_aware=self.class_aware,
        )
        return Ab3dmotTracker(life, BoxMotion(self.frame_period_s), ByVolume(self.min_iou, self.class_aware))


class Ab3dmotTracker(Tracker):
    """A tracker that shows all tracks in the first steps, while none can have enough detections."""

    def reported(self) -> Array:
        """Indices of the tracks to show now: with enough detections, or in the first steps, and seen within coast_s."""
        if self._stamp_ns is None or self.steps > self.config.min_hits:
            return super().reported()
        recent = self.table.last_ns >= self._stamp_ns - round(self.config.coast_s * 1e9)
        shown: Array = recent.nonzero()[0]
        return shown


class BoxMotion:
    """The states of tracks of boxes; a `tracking.tracker.Motion`.

    Measurements are x, y, z of the centre, length, width, height (m) and yaw (rad), (7, M), z up. state (5, 7, T): see
    `tracking.axis_kalman`, of x, y, z of the middle of the floor, yaw, length, width, height; rates are per second.
    """

    size_rows = slice(3, 6)

    def __init__(self, frame_period_s: float) -> None:
        self.state = np.zeros((5, 7, 0))
        self._period_s = frame_period_s

    @property
    def boxes(self) -> Array:
        """(7, T), the rows of `tracking.boxes3d`."""
        boxes: Array = self.state[0, _FROM_COORDINATES]
        boxes[2] += boxes[5] / 2.0
        return boxes

    def shown(self, tracks: Array) -> dict[str, Array]:
        """What Tracks3D says of the tracks at these indices: places, sizes, headings, velocities, covariances."""
        boxes, state = self.boxes[:, tracks], self.state[:, :, tracks]
        covariances = np.zeros((len(tracks), 6, 6))
        places, velocities = np.arange(3), np.arange(3, 6)
        covariances[:, places, places] = state[2, :3].T
        covariances[:, 2, 2] += state[2, 6] / 4.0  # the centre is half a height above the floor
        covariances[:, places, velocities] = covariances[:, velocities, places] = state[3, :3].T
        covariances[:, velocities, velocities] = state[4, :3].T
        return {
            "centers_m": boxes[:3].T,
            "sizes_m": boxes[3:6].T,
            "yaws_rad": boxes[6],
            "velocities_mps": state[1, :3].T,
            "covariances": covariances,
        }

    def keep(self, tracks: Array) -> None:
        """Keep the tracks at these indices."""
        self.state = self.state[:, :, tracks]

    def predict(self, dt_s: float) -> None:
        """Move all tracks dt_s forward."""
        noise = _PROCESS_NOISE * (dt_s / self._period_s)
        noise[2] /= self._period_s**2
        self.state = axis_kalman.predict(self.state, dt_s, noise)
        self.state[0, _YAW] = _wrapped(self.state[0, _YAW])

    def update(self, tracks: Array, seen: Observations) -> None:
        """Correct the tracks at these indices, each by its own detection."""
        measured = _coordinates(seen.measurements)
        predicted = self.state.take(tracks, axis=2)
        turns = (measured[_YAW] - predicted[0, _YAW] + np.pi / 2.0) % np.pi - np.pi / 2.0
        predicted[0, _YAW] = measured[_YAW] - turns
        updated = axis_kalman.update(predicted, measured, _MEASUREMENT_VARIANCE)
        updated[0, _YAW] = _wrapped(updated[0, _YAW])
        self.state[:, :, tracks] = updated

    def start(self, seen: Observations) -> None:
        """Append one track for each detection."""
        velocity_variance = _FIRST_VELOCITY_VARIANCE / self._period_s**2
        new = axis_kalman.start(_coordinates(seen.measurements), _FIRST_VARIANCE, velocity_variance)
        self.state = np.concatenate([self.state, new], axis=2)


@dataclass(frozen=True)
class ByVolume:
    """The greatest sum of IoUs of volumes of all pairs, of which those below min_iou are then dropped."""

    min_iou: float = 0.01
    class_aware: bool = True

    def __call__(self, table: TrackTable, motion: BoxMotion, seen: Observations) -> Assignment:
        """See `tracking.tracker.Associate`."""
        pairs = of_one_class(overlapping_pairs_3d(motion.boxes, seen.measurements), table, seen, self.class_aware)
        found = assign(pairs, 1.0)
        return found.where(found.costs <= 1.0 - self.min_iou)


def _coordinates(measurements: Array) -> Array:
    """What is filtered, (7, N), of measurements (7, N)."""
    coordinates: Array = measurements[_FROM_MEASUREMENT]
    coordinates[_Z] -= coordinates[6] / 2.0
    return coordinates


def _wrapped(angles_rad: Array) -> Array:
    return (angles_rad + np.pi) % (2.0 * np.pi) - np.pi
