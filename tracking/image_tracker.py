"""Our own tracker in the image: `Tracker2DConfig` and its assembly.

Constant velocity of centre and size, noise in proportion to the box and to time, and the association `Combined`. Its
numbers were chosen on six of the eleven sequences of MOT15 (the list stands in tests/benchmarks/bench_trackers.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from tracking.associators import Combined
from tracking.box_models import SizeBox
from tracking.image_motion import ImageMotion
from tracking.tracker import Tracker, TrackerConfig


@dataclass(frozen=True, kw_only=True)
class Tracker2DConfig(TrackerConfig):
    """How boxes are tracked in an image. Noise is in scales: multiples of sqrt(width height) of the box."""

    min_iou: float = 0.3  # a detection overlaps the predicted box of its track by more than this
    height_power: float = 2.0  # overlap counts times the ratio of heights to this power
    direction_weight: float = 0.3  # bonus of a detection straight on, and malus of one straight back, over 2
    direction_steps: int = 3  # over how many steps a track's direction is taken
    reach: float = 0.3  # in a second try boxes are grown by this part of their size on each side
    min_grown_iou: float = 0.2  # grown boxes overlap by more than this
    measurement_noise_scales: float = 0.07  # standard deviation of a box's centre and size
    acceleration_noise_scales: float = 0.2  # square root of the acceleration's power density, scales / s^1.5
    initial_speed_scales: float = 1.0  # standard deviation of a new track's rates, scales / s
    score_noise_power: float = 0.0  # the noise of a detection with score p is larger by p to minus this power
    shown_place_gain: float = 0.7  # how far the reported box goes from the filter's place to the detection's
    shown_size_gain: float = 0.3  # how far the reported box goes from the filter's size to the detection's

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_iou", "min_grown_iou"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        for name in ("measurement_noise_scales", "acceleration_noise_scales", "initial_speed_scales"):
            if not 0.0 < getattr(self, name) <= 100.0:
                raise ValueError(f"{name} must be above 0 and at most 100, not {getattr(self, name)}")
        for name, limit in (
            ("height_power", 10.0),
            ("direction_weight", 1.0),
            ("score_noise_power", 10.0),
            ("reach", 2.0),
            ("shown_place_gain", 1.0),
            ("shown_size_gain", 1.0),
        ):
            if not 0.0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must be from 0 to {limit:g}, not {getattr(self, name)}")
        if not 1 <= self.direction_steps <= 30:
            raise ValueError(f"direction_steps must be from 1 to 30, not {self.direction_steps}")

    def assemble(self) -> Tracker:
        """The tracker."""
        model = SizeBox(
            self.measurement_noise_scales,
            self.acceleration_noise_scales,
            self.initial_speed_scales,
            self.score_noise_power,
        )
        motion = ImageMotion(
            model,
            memory_steps=self.direction_steps if self.direction_weight else 0,
            shown_gains=(self.shown_place_gain, self.shown_size_gain),
        )
        associate = Combined(
            self.min_iou, self.height_power, self.direction_weight, self.reach, self.min_grown_iou, self.class_aware
        )
        return Tracker(self, motion, associate)
