"""SORT (Bewley et al., Simple Online and Realtime Tracking, 2016), assembled so that its published numbers come out."""

from __future__ import annotations

from dataclasses import dataclass

from tracking.associators import ByOverlap
from tracking.box_models import ScaleRatioBox
from tracking.image_motion import ImageMotion
from tracking.tracker import Tracker, TrackerConfig


@dataclass(frozen=True, kw_only=True)
class SortConfig:
    """SORT's settings. It counts in frames: so many of frame_period_s. Longer steps count as more."""

    frame_period_s: float = 1.0 / 30.0  # time between two frames of the camera
    min_score: float = 0.0  # detections below it are not looked at
    min_iou: float = 0.3  # a detection overlaps the predicted box of its track by at least this
    min_hits: int = 3  # a track counts while it was continued so often in a row; in the first frames, always
    max_age_frames: int = 1  # frames that a track may miss
    class_aware: bool = True  # a track and its detections are of one class

    def __post_init__(self) -> None:
        check_frames(self.frame_period_s, self.max_age_frames)
        check_fractions(min_iou=self.min_iou)

    def assemble(self) -> Tracker:
        """The tracker."""
        life = sorts_life(self.min_score, self.min_hits, self.frame_period_s, self.max_age_frames, self.class_aware)
        motion = ImageMotion(ScaleRatioBox(self.frame_period_s))
        return Tracker(life, motion, ByOverlap(self.min_iou, self.class_aware))


def sorts_life(
    min_score: float, min_hits: int, frame_period_s: float, max_age_frames: int, class_aware: bool
) -> TrackerConfig:
    """When SORT's tracks begin, count and end; OC-SORT's do so too."""
    age_s = unseen_limit_s(frame_period_s, max_age_frames)
    return TrackerConfig(
        min_score=min_score,
        start_score=min_score,
        min_hits=1,
        min_streak=min_hits,
        warm_up_steps=min_hits,
        max_age_s=age_s,
        max_tentative_age_s=age_s,
        class_aware=class_aware,
    )


def check_frames(frame_period_s: float, max_age_frames: int) -> None:
    """Raises ValueError for a period or an age that means nothing."""
    if not 1e-4 <= frame_period_s <= 60.0:
        raise ValueError(f"frame_period_s must be from 0.0001 to 60, not {frame_period_s}")
    if not 0 <= max_age_frames <= 3600.0 / frame_period_s - 2.0:
        raise ValueError(f"max_age_frames must be 0 or more, and less than an hour, not {max_age_frames}")


def check_fractions(**values: float) -> None:
    """Raises ValueError for an overlap or a cost that is not from 0 to 1."""
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be from 0 to 1, not {value}")


def unseen_limit_s(frame_period_s: float, missed_frames: int) -> float:
    """How long ago a track may have been seen that missed so many frames and is seen in the next: with half a frame's
    tolerance, because frames are never quite regular."""
    return (missed_frames + 1.5) * frame_period_s
