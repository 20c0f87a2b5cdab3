"""How the camera of a sequence moves, for trackers in the image: as its poses say, or read off its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tercel.core.component import Outputs
from tercel.core.messages import Detections2D, Image
from tercel.report.tracking_space import LEVEL_T_RECT0
from tracking.camera_motion import rotation_affine
from tracking.components import Tracker2D
from tracking.image_tracker import Tracker2DConfig
from tracking.presets import make_tracker_2d
from tracking.stabilised import Tracker2DByImage

Array = NDArray[Any]

FOLLOWING = "tercel"
"""The tracker that takes the camera's motion out of its tracks."""
_LONGEST_GAP_FRAMES = 10


@dataclass(frozen=True, eq=False)
class Sight:
    """What is known of the camera. poses: world_T_level (4, 4) by frame, see `tracking_space`; None: it stands still.

    intrinsics (3, 3): of the image, None where unknown. images: the files by frame, where motion is read off them.
    """

    poses: Mapping[int, Array] | None = None
    intrinsics: Array | None = None
    images: Mapping[int, Path] | None = None


class Stepper(Protocol):
    """Calls a tracker of boxes in the image."""

    component: Tracker2D

    @property
    def unmoved(self) -> int:
        """How many frames there were whose camera motion was to be taken out and was not known."""
        ...

    def step(self, frame: int, detections: Detections2D, /) -> Outputs:
        """Track the detections of a frame."""
        ...


def make_stepper(tracker: str, rate_hz: float, settings: Mapping[str, Any], sight: Sight) -> Stepper:
    """A new tracker that knows as much of the camera as there is to know.

    Raises UserError for an unknown tracker or setting, ValueError for a value that the tracker refuses.
    """
    if tracker == FOLLOWING and sight.images is not None:
        return _ByImages(Tracker2DByImage(Tracker2DConfig(**settings)), sight.images)
    component = make_tracker_2d(tracker, **{"frame_period_s": 1.0 / rate_hz, **settings})
    if tracker == FOLLOWING and sight.poses is not None and sight.intrinsics is not None:
        return _ByPoses(component, sight.poses, sight.intrinsics)
    return _Still(component)


class _Still:
    """As if the camera stood."""

    def __init__(self, component: Tracker2D) -> None:
        self.component = component
        self.unmoved = 0

    def step(self, _frame: int, detections: Detections2D) -> Outputs:
        """Track the detections of a frame, whichever it is."""
        return self.component.step(detections)


class _ByPoses:
    """What the camera's rotation does to the image is taken out."""

    def __init__(self, component: Tracker2D, poses: Mapping[int, Array], intrinsics: Array) -> None:
        self.component = component
        self.unmoved = 0
        self._poses, self._intrinsics = poses, intrinsics
        self._last: tuple[int, Array] | None = None

    def step(self, frame: int, detections: Detections2D) -> Outputs:
        """Track the detections of a frame."""
        pose = self._poses.get(frame)
        now = None if pose is None else (frame, (pose @ LEVEL_T_RECT0)[:3, :3])
        before, self._last = self._last, now
        affine = None
        if before is not None and now is not None and now[0] - before[0] <= _LONGEST_GAP_FRAMES:
            middle = self._intrinsics[:2, 2]
            affine = rotation_affine(self._intrinsics, before[1], now[1], middle)
        self.unmoved += affine is None
        return self.component.track(detections, affine)


class _ByImages:
    """The motion of what stands in the image is taken out."""

    def __init__(self, component: Tracker2DByImage, images: Mapping[int, Path]) -> None:
        self.component: Tracker2D = component
        self._following, self._images = component, images
        self._without = 0

    @property
    def unmoved(self) -> int:
        """Frames without an image, and such whose motion could not be told."""
        return self._without + self._following.uncompensated

    def step(self, frame: int, detections: Detections2D) -> Outputs:
        """Track the detections of a frame."""
        from tercel.report.track_images import read_image  # OpenCV takes a while to load

        pixels = read_image(self._images.get(frame))
        if pixels is None:
            self._without += 1
            return self._following.track(detections)
        stamp_ns, frame_id = detections.stamp_ns, detections.frame_id
        return self._following.step(
            detections, Image(stamp_ns=stamp_ns, frame_id=frame_id, pixels=np.asarray(pixels), encoding="bgr8")
        )
