"""Our tracker in the image for cameras that move: it takes the camera's motion out of the tracks before it predicts.

`Tracker2DByImage` reads the motion off the images, `Tracker2DByOdometry` off a pose of the robot. A frame whose motion
cannot be told is tracked as if the camera had stood; `uncompensated` counts them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tercel.core.component import Input, Models, Outputs, on
from tercel.core.errors import Rejected
from tercel.core.frames import StaticFrames
from tercel.core.geometry import orthonormalise
from tercel.core.messages import CameraInfo, Detections2D, Image, Odometry, Transforms
from tracking.camera_motion import follow_image, grey, rotation_affine
from tracking.components import Tracker2D
from tracking.image_tracker import Tracker2DConfig

_PAIRING_MS = 50.0
_LONGEST_GAP_NS = 1_000_000_000  # between two images of which one can be followed into the other


class Tracker2DByImage(Tracker2D):
    """Tracks in the image; the camera's motion is read off the images in which the detections were made."""

    detections = Input(Detections2D)
    image = Input(Image, depth=8)  # waits for its detections

    def __init__(self, config: Tracker2DConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._last: tuple[int, NDArray[np.uint8]] | None = None
        self.uncompensated = 0

    @on(detections, image, tolerance_ms=1.0)
    def step(self, detections: Detections2D, image: Image) -> Outputs:  # type: ignore[override]
        """Raises Rejected as `Tracker2D.step` does; an unusable image only goes without compensation."""
        before, boxes = self._last, self._motion.boxes_xyxy_px
        try:
            self._last = (image.stamp_ns, grey(image))
        except Rejected:
            self._last = None
        affine = None
        if before is not None and self._last is not None and _follows(before, self._last):
            affine = follow_image(before[1], self._last[1], boxes)
        self.uncompensated += affine is None
        return self.track(detections, affine)


class Tracker2DByOdometry(Tracker2D):
    """Tracks in the image; the camera's rotation follows from odometry and from where the camera is on the robot."""

    detections = Input(Detections2D)
    odometry = Input(Odometry, depth=100)
    camera_info = Input(CameraInfo)
    transforms = Input(Transforms, queue="all", late="accept")

    def __init__(self, config: Tracker2DConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._frames = StaticFrames()
        self._cameras: dict[str, CameraInfo] = {}
        self._last: tuple[int, NDArray[np.float64]] | None = None
        self.uncompensated = 0

    @on(transforms)
    def learn_frames(self, transforms: Transforms) -> Outputs:
        """Where the camera is on the robot."""
        self._frames.add(transforms)
        return {}

    @on(camera_info)
    def learn_camera(self, camera_info: CameraInfo) -> Outputs:
        """The calibration of the camera in which the detections are made; another one does not matter."""
        self._cameras = {camera_info.frame_id: camera_info}
        return {}

    @on(detections, odometry, tolerance_ms=_PAIRING_MS)
    def step(self, detections: Detections2D, odometry: Odometry) -> Outputs:  # type: ignore[override]
        """Raises Rejected as `Tracker2D.step` does; a pose that does not help only goes without compensation."""
        before, self._last = self._last, self._orientation(detections, odometry)
        affine = None
        if before is not None and self._last is not None and 0 < self._last[0] - before[0] <= _LONGEST_GAP_NS:
            camera = self._cameras[detections.frame_id]
            middle = np.array([camera.width_px / 2.0, camera.height_px / 2.0])
            affine = rotation_affine(camera.intrinsics, before[1], self._last[1], middle)
        self.uncompensated += affine is None
        return self.track(detections, affine)

    def _orientation(self, detections: Detections2D, odometry: Odometry) -> tuple[int, NDArray[np.float64]] | None:
        """Stamp and orientation (3, 3) of the camera in the odometry's frame, None where something is missing."""
        camera = self._cameras.get(detections.frame_id)
        if camera is None or not np.isfinite(camera.intrinsics).all() or abs(np.linalg.det(camera.intrinsics)) < 1e-9:
            return None
        try:
            body_T_camera = self._frames.lookup(odometry.child_frame_id, detections.frame_id)
            return odometry.stamp_ns, (orthonormalise(odometry.frame_T_child) @ body_T_camera)[:3, :3]
        except (KeyError, ValueError):
            return None


def _follows(before: tuple[int, NDArray[np.uint8]], now: tuple[int, NDArray[np.uint8]]) -> bool:
    """Whether two images are of one size, and near enough in time."""
    return before[1].shape == now[1].shape and 0 < now[0] - before[0] <= _LONGEST_GAP_NS
