"""What a camera's boxes say about tracks in the world.

A track's box is put into the image; the detection that overlaps its image is the track's. Compared are box and box: the
middle of the detection with the middle of the image of the track's box, their heights with each other, so that nothing
has to be known of how the middle of a box relates to the middle of a thing. Middle and height then correct the centre
as pinhole bearings and as a weak cue of depth, by the extended Kalman update (`tracking.extended.pixels`).

Where a box touches the border of the image, the side that is not seen says nothing: its noise grows with the box. A box
that no track explains can start one (off by default) if its class has a known height: at the distance of that height,
with an uncertainty along the ray that says how much heights of the class differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.geometry import box_corners, inverse
from tercel.core.messages import CameraInfo, Detections2D
from tracking import kalman
from tracking.association import Assignment, assign, overlapping_pairs
from tracking.extended import pixels
from tracking.fusion_world import FusionConfig, WorldTracks, translate_labels
from tracking.kalman import KalmanState
from tracking.out_of_sequence import Key
from tracking.screening import Observations, Outcome

Array = NDArray[Any]

# Length, width, height (m) of things that are much alike, and by which part their heights differ (standard deviation).
CLASS_SIZES_M = {
    "person": ((0.6, 0.6, 1.7), 0.1),
    "bicycle": ((1.8, 0.6, 1.7), 0.1),  # with its rider
    "car": ((4.2, 1.8, 1.5), 0.1),
    "motorcycle": ((2.1, 0.8, 1.5), 0.15),
    "bus": ((11.0, 2.6, 3.2), 0.1),
    "truck": ((7.0, 2.5, 3.0), 0.25),
}
_NEAREST_M = 0.5  # nothing nearer to the image plane has a box
_FARTHEST_M = 80.0  # nothing farther is started from its height
_BORDER_PX = 2.0
_UNDISTORT_STEPS = 10


@dataclass(frozen=True, eq=False)
class View:
    """A camera at one moment: x right, y down, z forward. Pixels are those of a pinhole, without distortion."""

    world_T_camera: Array  # (4, 4)
    intrinsics: Array  # (3, 3)
    width_px: int
    height_px: int

    def image_boxes(self, centers_m: Array, sizes_m: Array, yaws_rad: Array) -> tuple[Array, Array]:
        """Where upright boxes (N,) of the world are in the image: x1 y1 x2 y2 (N, 4), and which are in it (N,)."""
        corners = box_corners(centers_m, sizes_m, yaws_rad)
        camera_T_world = inverse(self.world_T_camera)
        points = np.einsum("ij,nkj->ink", camera_T_world[:3, :3], corners) + camera_T_world[:3, 3, None, None]
        depth = camera_T_world[2, :3] @ centers_m.T + camera_T_world[2, 3]
        # A corner behind the camera is drawn to the image plane: its box ends at the border, which is right.
        x, y = points[:2] / np.maximum(points[2], _NEAREST_M / 2.0)
        (fx, skew, cx), (_, fy, cy) = self.intrinsics[:2]
        u, v = fx * x + skew * y + cx, fy * y + cy
        limits = np.array([self.width_px, self.height_px] * 2, dtype=np.float64)
        boxes = np.stack([u.min(axis=1), v.min(axis=1), u.max(axis=1), v.max(axis=1)], axis=1)
        boxes = np.clip(boxes, 0.0, limits)
        visible = (depth > _NEAREST_M) & (boxes[:, 2] - boxes[:, 0] > 1.0) & (boxes[:, 3] - boxes[:, 1] > 1.0)
        return boxes, visible


@dataclass(frozen=True, eq=False)
class CameraBoxes:
    """A `Report` of boxes in an image: measurements are middle and size, x y w h (4, N) px, without distortion."""

    source: str
    seen: Observations
    view: View
    config: FusionConfig
    own = True
    has_scores = False
    size_rows = slice(2, 4)

    @classmethod
    def of(cls, message: Detections2D, camera: CameraInfo, world_T_camera: Array, config: FusionConfig) -> CameraBoxes:
        """The boxes of a message. Raises Rejected where the calibration is none, or of an unknown kind."""
        corners = undistorted_boxes(message.boxes_xyxy_px.astype(np.float64), camera)
        view = View(world_T_camera, camera.intrinsics, camera.width_px, camera.height_px)
        with np.errstate(invalid="ignore", over="ignore"):
            low, high = corners[:, :2].T, corners[:, 2:].T
            measurements = np.concatenate([(low + high) / 2.0, high - low])
        labels = translate_labels(message.labels, message.class_names, config.classes)
        seen = Observations(message.stamp_ns, measurements, message.scores, labels, len(config.classes))
        return cls(message.frame_id, seen, view, config)

    @property
    def key(self) -> Key:
        """After the LiDAR's boxes of the same instant, which start the tracks that these continue."""
        return self.seen.stamp_ns, 1, self.source

    @property
    def min_score(self) -> float:
        """Weaker boxes are not looked at."""
        return self.config.camera_min_score

    @property
    def faults(self) -> Array:
        """Boxes that are outside of the image."""
        x1, y1, x2, y2 = self._corners.T
        outside = (x1 >= self.view.width_px) | (y1 >= self.view.height_px) | (x2 <= 0.0) | (y2 <= 0.0)
        return np.asarray(np.where(outside, int(Outcome.OUT_OF_RANGE), 0))

    @property
    def starting(self) -> Array:
        """Strong boxes of a class of known size, whole, and not too far away."""
        strong: Array = self.seen.scores >= self.config.camera_start_score
        if not strong.any():
            return strong
        sizes, _ = self._class_sizes(self.seen.labels)
        with np.errstate(invalid="ignore", divide="ignore"):
            depths = self.view.intrinsics[1, 1] * sizes[2] / self.seen.measurements[3]
            known = (depths > _NEAREST_M) & (depths < _FARTHEST_M)
        result: Array = strong & known & ~self._touching.any(axis=0)
        return result

    @property
    def supporting(self) -> Array:
        """All."""
        return np.ones(len(self.seen.scores), dtype=bool)

    @property
    def confirming(self) -> Array:
        """None."""
        return np.zeros(len(self.seen.scores), dtype=bool)

    @property
    def last_ns(self) -> Array:
        """Now."""
        return np.full(len(self.seen.scores), self.seen.stamp_ns)

    def associate(self, tracks: WorldTracks, detections: Array) -> Assignment:
        """By overlap of the images of the tracks' boxes with the detected ones."""
        images, visible = self._images(tracks, slice(None))
        images[:, ~visible] = 0.0  # no area, no overlap
        pairs = overlapping_pairs(images.T, self._corners[detections], self.config.camera_min_iou)
        pairs = tracks.of_one_class(pairs, self.seen.labels[detections])
        return assign(pairs, 1.0)

    def correct(self, tracks: WorldTracks, rows: Array, detections: Array) -> None:
        """The centre, by bearing and height."""
        motion = tracks.motion
        state, heights_m = motion.state.take(rows), motion.sizes_m[rows, 2]
        (x1, y1, x2, y2), _ = self._images(tracks, rows)
        residual = self.seen.measurements[:, detections][[0, 1, 3]] - [(x1 + x2) / 2.0, (y1 + y2) / 2.0, y2 - y1]
        view = self.view
        _, jacobian = pixels(view.world_T_camera, view.intrinsics, heights_m=heights_m, nearest_m=_NEAREST_M)(
            state.mean
        )
        motion.state = motion.state.put(rows, kalman.correct(state, residual, self._noise(detections), jacobian))

    def start(self, tracks: WorldTracks, detections: Array) -> None:
        """At the distance at which the class's height looks like this; sure across the ray, unsure along it."""
        sizes, spreads = self._class_sizes(self.seen.labels[detections])
        u, v, _, height = self.seen.measurements[:, detections]
        (fx, skew, cx), (_, fy, cy) = self.view.intrinsics[:2]
        depth = fy * sizes[2] / height
        y = (v - cy) / fy
        x = (u - cx - skew * y) / fx
        rotation, translation = self.view.world_T_camera[:3, :3], self.view.world_T_camera[:3, 3:]
        rays = rotation @ np.stack([x, y, np.ones_like(x)])
        noise = self._noise(detections)
        across = np.stack([noise[0, 0] / fx**2, noise[1, 1] / fy**2, np.zeros_like(x)]) * depth**2
        along = (spreads * depth) ** 2 + noise[1, 1] * (depth / height) ** 2
        covariance = np.einsum("ik,kn,jk->ijn", rotation, across, rotation) + along * rays[:, None] * rays[None]
        yaws = np.arctan2(rays[1], rays[0])
        self._append(tracks, translation + rays * depth, sizes, yaws, covariance, detections)

    def _append(
        self, tracks: WorldTracks, centers: Array, sizes: Array, yaws: Array, covariance: Array, detections: Array
    ) -> None:
        measurements = np.concatenate([centers, sizes, yaws[None]])
        scores, labels = self.seen.scores[detections], self.seen.labels[detections]
        count, motion = len(tracks), tracks.motion
        motion.start(Observations(self.seen.stamp_ns, measurements, scores, labels, self.seen.class_count))
        new = np.arange(count, count + len(detections))
        started = motion.state.take(new)
        wider = started.covariance.copy()
        wider[:3, :3] += covariance
        motion.state = motion.state.put(new, KalmanState(started.mean, wider))

    @cached_property
    def _corners(self) -> Array:
        """x1 y1 x2 y2 (N, 4)."""
        middle, half = self.seen.measurements[:2], self.seen.measurements[2:] / 2.0
        return np.asarray(np.concatenate([middle - half, middle + half]).T)

    def _images(self, tracks: WorldTracks, rows: Array | slice) -> tuple[Array, Array]:
        """Where the boxes of tracks are in the image, x1 y1 x2 y2 (4, N), and which are in it (N,)."""
        motion = tracks.motion
        boxes, visible = self.view.image_boxes(
            motion.state.mean[:3, rows].T, motion.sizes_m[rows], motion.yaws_rad[rows]
        )
        return boxes.T, visible

    def _noise(self, detections: Array) -> Array:
        """Covariance (3, 3, N) of middle and height, px^2."""
        config = self.config
        width, height = self.seen.measurements[2:, detections]
        left_right, top_bottom = self._touching[:, detections]
        sigmas = np.stack([
            config.camera_noise_px + width * np.where(left_right, 0.5, config.camera_noise_sizes),
            config.camera_noise_px + height * np.where(top_bottom, 0.5, config.camera_noise_sizes),
            config.camera_noise_px + height * np.where(top_bottom, 1.0, config.camera_height_noise),
        ])  # fmt: skip
        return kalman.diagonal_noise(sigmas**2)

    @cached_property
    def _touching(self) -> Array:
        """Which boxes touch the image's left or right, and its upper or lower border, (2, N)."""
        low, high = np.split(self._corners.T, 2)
        limits = np.array([[self.view.width_px], [self.view.height_px]])
        result: Array = (low < _BORDER_PX) | (high > limits - 1.0 - _BORDER_PX)
        return result

    def _class_sizes(self, labels: Array) -> tuple[Array, Array]:
        """Sizes (3, N) m of classes, zero where unknown, and how much their heights differ, (N,)."""
        table = [CLASS_SIZES_M.get(name, ((0.0, 0.0, 0.0), 0.0)) for name in self.config.classes]
        sizes, spreads = np.array([size for size, _ in table]), np.array([spread for _, spread in table])
        return sizes[labels].T, spreads[labels]


def undistorted_boxes(boxes_xyxy_px: Array, camera: CameraInfo) -> Array:
    """Boxes (N, 4) as a pinhole without distortion would see them: the middles of their sides are put right.

    Raises Rejected for a calibration that is none, or a distortion that is not plumb_bob (Brown's, 4 or 5 terms).
    """
    fx, fy = camera.intrinsics[0, 0], camera.intrinsics[1, 1]
    if not (np.isfinite(camera.intrinsics).all() and fx > 0.0 and fy > 0.0 and camera.width_px > 0 < camera.height_px):
        raise Rejected("the camera's calibration is none")
    if not np.any(camera.distortion):
        return boxes_xyxy_px
    if camera.distortion_model != "plumb_bob" or len(camera.distortion) not in (4, 5):
        raise Rejected("the camera's distortion is of an unknown kind")
    x1, y1, x2, y2 = boxes_xyxy_px.T
    x, y = (x1 + x2) / 2.0, (y1 + y2) / 2.0
    with np.errstate(invalid="ignore", over="ignore"):
        sides = _undistort(np.stack([np.stack([x1, x, x2, x]), np.stack([y, y1, y, y2])]), camera)
    return np.stack([sides[0, 0], sides[1, 1], sides[0, 2], sides[1, 3]], axis=1)


def _undistort(points_px: Array, camera: CameraInfo) -> Array:
    """Points (2, ...) by Brown's model turned round, in a few steps of a fixed-point iteration."""
    k1, k2, p1, p2, k3 = [*camera.distortion, 0.0][:5]
    (fx, skew, cx), (_, fy, cy) = camera.intrinsics[:2]
    y0 = (points_px[1] - cy) / fy
    x0 = (points_px[0] - cx - skew * y0) / fx
    x, y = x0, y0
    for _ in range(_UNDISTORT_STEPS):
        r2 = x * x + y * y
        radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
        dx = 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
        dy = p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
        x, y = (x0 - dx) / radial, (y0 - dy) / radial
    return np.stack([fx * x + skew * y + cx, fy * y + cy])
