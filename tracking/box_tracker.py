"""Our own tracker of a detector's boxes in space.

Tracks move as `tracking.world_motion` says, in the world, so that the robot's own motion is no motion of theirs. To
that come, by what each is worth in the ablation on KITTI (tests/benchmarks/bench_tracking3d.py):
- a track is kept for long, to be found again, but is shown only briefly while it is unseen;
- it is not shown while unseen if it lies outside the sensor's field of view, where it could not have been seen;
- one strong detection confirms a track at once, while tracks of few detections are not shown unseen;
- pairs by the generalised IoU of volumes (Rezatofighi et al., 2019; AB3DMOT's later code has it too), which tells near
  from far where a predicted box just misses its detection. It helped where settings were chosen, not on the other half.
Two stages by score (ByteTrack), noise that grows for weak detections, and longer showing of what stands behind another
object changed nothing to speak of, and are not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.association import Assignment, assign
from tracking.associators import of_one_class
from tracking.boxes3d import near_pairs_3d
from tracking.screening import Observations
from tracking.tracker import Step, Tracker, TrackTable
from tracking.world_motion import Tracker3DConfig, WorldMotion

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class BoxTrackerConfig(Tracker3DConfig):
    """How a detector's boxes are tracked in the world. gate_m and coast_s are Tracker3DConfig's; gate_m is not used."""

    min_score: float = -1e6  # all detections
    start_score: float = -1e6
    max_age_s: float = 0.85
    max_tentative_age_s: float = 0.45
    coast_s: float = 0.25
    coast_min_hits: int = 5  # tracks of fewer detections are not shown while unseen
    min_giou: float = -0.2  # of the predicted and the detected volume, to be a pair
    view_rad: float = 2.0 * math.pi  # the sensor's horizontal field of view about its x axis
    center_noise_sizes: float = 0.05
    initial_speed_mps: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1.0 <= self.min_giou < 1.0:
            raise ValueError(f"min_giou must be from -1 to below 1, not {self.min_giou}")
        if not 0.0 < self.view_rad <= 2.0 * math.pi:
            raise ValueError(f"view_rad must be above 0 and at most a full turn, not {self.view_rad}")
        if self.coast_min_hits < 0:
            raise ValueError(f"coast_min_hits must be 0 or more, not {self.coast_min_hits}")

    def assemble(self) -> Tracker:
        """The tracker."""
        return BoxTracker(self, WorldMotion(self), ByNearness(self.min_giou, self.class_aware))


_CAMERA_VIEW_RAD = 2.0 * math.atan(1242 / 2 / 721.5)  # KITTI's images are 1242 px wide, at a focal length of 721.5 px

POINTRCNN_KITTI = {
    "car": BoxTrackerConfig(confirm_score=4.0, view_rad=_CAMERA_VIEW_RAD),
    "pedestrian": BoxTrackerConfig(
        confirm_score=1.0, view_rad=_CAMERA_VIEW_RAD, min_giou=-0.4, coast_s=0.55, coast_min_hits=0, max_age_s=1.25
    ),
}
"""Settings for PointRCNN's detections on KITTI by class, tuned on sequences 1 8 12 14 16 19 alone. Its scores are
logits; thresholds of other detectors will be others."""


class BoxTracker(Tracker):
    """A tracker that knows what its sensor can see."""

    config: BoxTrackerConfig

    def __init__(self, config: BoxTrackerConfig, motion: WorldMotion, associate: ByNearness) -> None:
        super().__init__(config, motion, associate)
        self._world_T_sensor: Array | None = None

    def step(self, seen: Observations) -> Step:
        """As `Tracker.step`; seen.world_T_sensor tells where the sensor looks. Without it all is in view."""
        result = super().step(seen)
        self._world_T_sensor = seen.world_T_sensor
        return result

    def reported(self) -> Array:
        """Indices of the tracks to show now: confirmed, and seen, or unseen within coast_s, in view and well known."""
        shown = super().reported()
        if self._stamp_ns is None or not len(shown):
            return shown
        seen = self.table.last_ns[shown] == self._stamp_ns
        known = self.table.hits[shown] >= self.config.coast_min_hits
        kept: Array = shown[seen | (known & self._in_view(shown))]
        return kept

    def _in_view(self, tracks: Array) -> Array:
        """Whether the centres of the tracks at these indices lie in the field of view, (N,) bool."""
        motion = self.motion
        if self._world_T_sensor is None or not isinstance(motion, WorldMotion):
            return np.ones(len(tracks), dtype=bool)
        rotation, place = self._world_T_sensor[:3, :3], self._world_T_sensor[:3, 3:]
        x, y, _ = rotation.T @ (motion.state.positions[:, tracks] - place)
        in_view: Array = np.abs(np.arctan2(y, x)) <= self.config.view_rad / 2.0
        return in_view


@dataclass(frozen=True)
class ByNearness:
    """The greatest sum of generalised IoUs of volumes, of pairs above min_giou."""

    min_giou: float = -0.2
    class_aware: bool = True

    def __call__(self, table: TrackTable, motion: WorldMotion, seen: Observations) -> Assignment:
        """See `tracking.tracker.Associate`."""
        pairs = near_pairs_3d(motion.boxes, seen.measurements, self.min_giou)
        return assign(of_one_class(pairs, table, seen, self.class_aware), 1.0 - self.min_giou)
