"""OC-SORT (Cao et al., Observation-Centric SORT, 2023), from our parts.

Its three ideas are observation-centric momentum and recovery (`associators.ObservationCentric`) and re-update
(`image_motion.ImageMotion`). As in its code, the box reported is the last detection's.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracking.associators import ObservationCentric
from tracking.box_models import ScaleRatioBox
from tracking.image_motion import ImageMotion
from tracking.sort import check_fractions, check_frames, sorts_life
from tracking.tracker import Tracker


@dataclass(frozen=True, kw_only=True)
class OcSortConfig:
    """OC-SORT's settings. It counts in frames: so many of frame_period_s. Longer steps count as more."""

    frame_period_s: float = 1.0 / 30.0  # time between two frames of the camera
    min_score: float = 0.6  # detections below it are not looked at
    min_iou: float = 0.3  # a detection overlaps the predicted box of its track by at least this
    min_hits: int = 3  # a track counts while it was continued so often in a row; in the first frames, always
    max_age_frames: int = 30  # frames that a track may miss
    direction_frames: int = 3  # over how many frames a track's direction is taken
    inertia: float = 0.2  # weight of a track's direction against its overlap
    class_aware: bool = True  # a track and its detections are of one class

    def __post_init__(self) -> None:
        check_frames(self.frame_period_s, self.max_age_frames)
        check_fractions(min_iou=self.min_iou, inertia=self.inertia)
        if not 1 <= self.direction_frames <= 30:
            raise ValueError(f"direction_frames must be from 1 to 30, not {self.direction_frames}")

    def assemble(self) -> Tracker:
        """The tracker."""
        life = sorts_life(self.min_score, self.min_hits, self.frame_period_s, self.max_age_frames, self.class_aware)
        motion = ImageMotion(
            ScaleRatioBox(self.frame_period_s),
            memory_steps=self.direction_frames,
            reupdate_period_s=self.frame_period_s,
            shown_gains=(1.0, 1.0),
        )
        return Tracker(life, motion, ObservationCentric(self.min_iou, self.inertia, self.class_aware))
