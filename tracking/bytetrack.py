"""ByteTrack (Zhang et al., Multi-Object Tracking by Associating Every Detection Box, 2022), from our parts.

It departs from the published code in three things: a tentative track is one that was seen once, whatever the frame; a
lost track keeps shrinking or growing as its filter says (there its height stands still); and lost and tracked tracks
that come to overlap are not removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracking.associators import ByScore
from tracking.box_models import HeightBox
from tracking.image_motion import ImageMotion
from tracking.sort import check_fractions, check_frames, unseen_limit_s
from tracking.tracker import Tracker, TrackerConfig


@dataclass(frozen=True, kw_only=True)
class ByteTrackConfig:
    """ByteTrack's settings. It counts in frames: so many of frame_period_s. Longer steps count as more."""

    frame_period_s: float = 1.0 / 30.0  # time between two frames of the camera
    min_score: float = 0.1  # detections below it are not looked at
    strong_score: float = 0.6  # detections from it on are strong, and are matched first
    start_score: float = 0.7  # detections below it start no track
    max_cost: float = 0.8  # 1 - IoU x score, of confirmed tracks with strong detections
    max_weak_cost: float = 0.5  # 1 - IoU, of confirmed tracks with weak detections
    max_tentative_cost: float = 0.7  # 1 - IoU x score, of tentative tracks with what is left
    max_age_frames: int = 30  # frames that a track may miss
    class_aware: bool = True  # a track and its detections are of one class

    def __post_init__(self) -> None:
        check_frames(self.frame_period_s, self.max_age_frames)
        check_fractions(
            max_cost=self.max_cost, max_weak_cost=self.max_weak_cost, max_tentative_cost=self.max_tentative_cost
        )

    def assemble(self) -> Tracker:
        """The tracker."""
        life = TrackerConfig(
            min_score=self.min_score,
            start_score=self.start_score,
            min_hits=2,
            warm_up_steps=1,
            max_age_s=unseen_limit_s(self.frame_period_s, self.max_age_frames),
            max_tentative_age_s=unseen_limit_s(self.frame_period_s, 0),
            class_aware=self.class_aware,
        )
        associate = ByScore(
            self.strong_score, self.max_cost, self.max_weak_cost, self.max_tentative_cost, self.class_aware
        )
        return Tracker(life, ImageMotion(HeightBox(self.frame_period_s)), associate)
