"""Our own tracker in the image: `Tracker2DConfig` and its assembly."""

from __future__ import annotations

from dataclasses import dataclass

from tracking.associators import ByOverlap
from tracking.box_models import SizeBox
from tracking.image_motion import ImageMotion
from tracking.tracker import Tracker, TrackerConfig


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

    def assemble(self) -> Tracker:
        """The tracker."""
        model = SizeBox(self.measurement_noise_scales, self.acceleration_noise_scales, self.initial_speed_scales)
        return Tracker(self, ImageMotion(model), ByOverlap(self.min_iou, self.class_aware))
