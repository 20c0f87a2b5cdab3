"""A street seen by a LiDAR and a camera, as streams of messages for tests of fusion: things on straight paths, a robot
that drives and turns, noise from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, transform_points
from tercel.core.messages import CameraInfo, Detections2D, Detections3D, Odometry, Transforms
from tracking.fusion_camera import View

Array = Any

EPOCH_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
CLASSES = ("car", "person")
INTRINSICS = np.array([[700.0, 0.0, 600.0], [0.0, 700.0, 200.0], [0.0, 0.0, 1.0]])
WIDTH_PX, HEIGHT_PX = 1200, 400
SIZES_M = {"car": (4.2, 1.8, 1.5), "person": (0.6, 0.6, 1.7)}
LIDAR_T_CAMERA = from_rotation_translation(
    np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.array([0.3, 0.0, -0.2])
)

TRANSFORMS = Transforms(
    stamp_ns=0, frame_id="", parents=("lidar",), children=("camera",), parent_T_child=LIDAR_T_CAMERA[None]
)
CAMERA_INFO = CameraInfo(
    stamp_ns=0, frame_id="camera", width_px=WIDTH_PX, height_px=HEIGHT_PX, intrinsics=INTRINSICS,
    distortion_model="plumb_bob", distortion=np.zeros(5), rectification=np.eye(3), projection=np.zeros((3, 4)),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Street:
    """Things in the world: places at frame 0 (N, 3), velocities (N, 3), labels (N,) into CLASSES."""

    places_m: Array
    velocities_mps: Array
    labels: Array
    noise_m: float = 0.1
    noise_px: float = 1.0
    turn_radps: float = 0.05
    speed_mps: float = 3.0

    def stamp(self, frame: float) -> int:
        return EPOCH_NS + round(frame * PERIOD_NS)

    def places(self, frame: float) -> Array:
        return self.places_m + self.velocities_mps * frame * PERIOD_NS * 1e-9

    @property
    def sizes_m(self) -> Array:
        return np.array([SIZES_M[CLASSES[label]] for label in self.labels]).reshape(-1, 3)

    def world_T_lidar(self, frame: float) -> Array:
        t = frame * PERIOD_NS * 1e-9
        return from_rotation_translation(
            rotation_about_z(self.turn_radps * t), np.array([self.speed_mps * t, 0.02 * t, 1.0])
        )

    def odometry(self, frame: float) -> Odometry:
        return Odometry(
            stamp_ns=self.stamp(frame), frame_id="odom", child_frame_id="lidar",
            frame_T_child=self.world_T_lidar(frame),
        )  # fmt: skip

    def lidar(self, frame: float, *, seen: Array | None = None, class_names: tuple[str, ...] = CLASSES) -> Detections3D:
        """Boxes of the things in `seen` (indices; all): in the LiDAR's frame, in random order."""
        rng = np.random.default_rng(self.stamp(frame) % 2**31)
        order = rng.permutation(len(self.labels) if seen is None else np.asarray(seen, dtype=int))
        noisy = self.places(frame)[order] + rng.normal(0.0, self.noise_m, (len(order), 3))
        labels = self.labels[order] if class_names == CLASSES else np.zeros(len(order))
        return Detections3D(
            stamp_ns=self.stamp(frame), frame_id="lidar", sizes_m=self.sizes_m[order],
            centers_m=transform_points(inverse(self.world_T_lidar(frame)), noisy),
            yaws_rad=np.full(len(order), -self.turn_radps * frame * PERIOD_NS * 1e-9),
            scores=np.full(len(order), 0.9), labels=labels, class_names=class_names,
        )  # fmt: skip

    def camera(self, frame: float, *, seen: Array | None = None) -> Detections2D:
        """Boxes of the things in `seen` that are in the image."""
        rng = np.random.default_rng(self.stamp(frame) % 2**31 + 1)
        order = rng.permutation(len(self.labels) if seen is None else np.asarray(seen, dtype=int))
        view = View(self.world_T_lidar(frame) @ LIDAR_T_CAMERA, INTRINSICS, WIDTH_PX, HEIGHT_PX)
        boxes, visible = view.image_boxes(self.places(frame)[order], self.sizes_m[order], np.zeros(len(order)))
        boxes = boxes[visible] + rng.normal(0.0, self.noise_px, (int(visible.sum()), 4))
        return Detections2D(
            stamp_ns=self.stamp(frame), frame_id="camera", boxes_xyxy_px=boxes, scores=np.full(len(boxes), 0.8),
            labels=self.labels[order][visible], class_names=CLASSES,
        )  # fmt: skip


def street(count: int, seed: int = 0, **settings: Any) -> Street:
    """Cars and people ahead of the robot, well apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    x = np.linspace(8.0, 60.0, count) if count > 1 else np.full(count, 15.0)
    y = rng.permutation(np.linspace(-0.5, 0.5, count)) * x if count > 1 else np.zeros(count)
    heights = np.array([SIZES_M[CLASSES[label]][2] for label in labels])
    speeds = np.where(labels == 0, 6.0, 1.0)
    velocities = np.column_stack([rng.normal(0.0, 1.0, count) * speeds, rng.normal(0.0, 0.2, count), np.zeros(count)])
    return Street(np.column_stack([x, y, heights / 2.0]), velocities, labels, **settings)


def at(message: Any, stamp_ns: int) -> Any:
    """The same message with another stamp."""
    return replace(message, stamp_ns=stamp_ns)
