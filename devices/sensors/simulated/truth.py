"""The truth about a simulated world as messages: poses, boxes and depth, by the conventions of world.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.models import CLASS_NAMES
from devices.sensors.simulated.motion import Trajectory, states_at
from devices.sensors.simulated.primitives import NO_OWNER
from devices.sensors.simulated.scene import Objects
from tercel.core.geometry import box_corners, inverse, transform_points
from tercel.core.messages import Odometry, Tracks2D, Tracks3D

Array = NDArray[Any]

SEEN_POINTS = 5  # LiDAR returns that make an object seen
MIN_PIXELS = 24  # visible pixels that make a 2D box
MIN_VISIBLE = 0.10  # and the least share of the projected 3D box's rectangle that they fill


def odometry(trajectory: Trajectory, stamps_ns: list[int], epoch_ns: int) -> list[Odometry]:
    """The vehicle's true pose and velocities at each stamp."""
    state = states_at(trajectory, (np.array(stamps_ns, dtype=np.int64) - epoch_ns) / 1e9)
    poses = state.world_T_base
    linear = np.einsum("nji,nj->ni", state.rotations, state.velocities_mps)
    return [
        Odometry(
            stamp_ns=stamp,
            frame_id="world",
            child_frame_id="base_link",
            frame_T_child=np.round(poses[i], 12),
            linear_velocity_mps=np.round(linear[i], 9),
            angular_velocity_radps=np.round(state.body_rates_radps[i], 9),
        )
        for i, stamp in enumerate(stamps_ns)
    ]


def tracks_3d(objects: Objects, sensor_m: Array, reach_m: float, hit_owners: Array, stamp_ns: int) -> Tracks3D:
    """Boxes of the objects whose middle is within reach_m of the sensor; score 1 where the sweep saw it, else 0."""
    gap = objects.centers_m - sensor_m
    near = objects.take(np.flatnonzero(np.sqrt((gap * gap).sum(axis=1)) < reach_m))
    returns = _count(hit_owners, near.ids)
    return Tracks3D(
        stamp_ns=stamp_ns,
        frame_id="world",
        centers_m=np.round(near.centers_m, 9),
        sizes_m=near.sizes_m,
        yaws_rad=np.round(near.yaws_rad, 9),
        scores=(returns >= SEEN_POINTS).astype(np.float32),
        labels=near.labels,
        class_names=CLASS_NAMES,
        ids=near.ids,
        velocities_mps=np.round(near.velocities_mps, 9),
        ages_s=np.full(len(near.ids), np.nan, dtype=np.float32),
    )


def _count(owners: Array, ids: Array) -> Array:
    """How often each of the ids (N,) occurs among the owners."""
    order = np.argsort(ids)
    sorted_ids = ids[order]
    found = np.searchsorted(sorted_ids, owners)
    known = found < len(ids)
    known[known] = sorted_ids[found[known]] == owners[known]
    result = np.zeros(len(ids), dtype=np.int64)
    result[order] = np.bincount(found[known], minlength=len(ids))
    return result


def tracks_2d(objects: Objects, owner: Array, world_T_camera: Array, intrinsics: Array, stamp_ns: int) -> Tracks2D:
    """Boxes around what is visible of each object in an image whose pixels belong to owner (H, W)."""
    rows, columns = np.nonzero(owner != NO_OWNER)
    ids, which = np.unique(owner[rows, columns], return_inverse=True)
    pixels = np.bincount(which, minlength=len(ids))
    boxes = np.full((len(ids), 4), 0, dtype=np.int64)
    boxes[:, :2] = np.iinfo(np.int32).max
    for edge, values, extreme in (
        (0, columns, np.minimum),
        (1, rows, np.minimum),
        (2, columns, np.maximum),
        (3, rows, np.maximum),
    ):
        extreme.at(boxes[:, edge], which, values)
    boxes[:, 2:] += 1
    order = np.argsort(objects.ids)
    row = order[np.searchsorted(objects.ids[order], ids)]
    whole = projected_area(objects.take(row), world_T_camera, intrinsics, (owner.shape[1], owner.shape[0]))
    keep = np.flatnonzero((pixels >= MIN_PIXELS) & (pixels >= MIN_VISIBLE * whole))
    n = len(keep)
    return Tracks2D(
        stamp_ns=stamp_ns,
        frame_id="camera",
        boxes_xyxy_px=boxes[keep].astype(np.float32),
        scores=np.ones(n, dtype=np.float32),
        labels=objects.labels[row[keep]],
        class_names=CLASS_NAMES,
        ids=ids[keep],
        velocities_px_per_s=np.full((n, 2), np.nan, dtype=np.float32),
        ages_s=np.full(n, np.nan, dtype=np.float32),
    )


def projected_area(objects: Objects, world_T_camera: Array, intrinsics: Array, size_px: tuple[int, int]) -> Array:
    """Area (N,) px of the rectangle around each projected 3D box, within the image; corners behind the camera count as
    at the near plane."""
    corners = box_corners(objects.centers_m, objects.sizes_m, objects.yaws_rad)
    local = transform_points(inverse(world_T_camera), corners.reshape(-1, 3)).reshape(-1, 8, 3)
    depth = np.maximum(local[..., 2], 0.05)
    area = np.ones(len(corners))
    for axis, size in ((0, size_px[0]), (1, size_px[1])):
        pixel = intrinsics[axis, axis] * local[..., axis] / depth + intrinsics[axis, 2] + 0.5
        area *= np.clip(pixel.max(axis=1), 0, size) - np.clip(pixel.min(axis=1), 0, size)
    return area


def depth_mm(depth_m: Array) -> Array:
    """Depth (H, W) uint16 in mm; 0 where there is none or it is beyond 65.5 m."""
    good = np.isfinite(depth_m) & (depth_m < 65.535)
    return np.where(good, np.round(np.where(good, depth_m, 0) * np.float32(1000.0)), 0).astype(np.uint16)


def noisy_depth_mm(depth_m: Array, focal_px: float, rng: np.random.Generator) -> Array:
    """What a stereo depth camera with a 12 cm baseline reports, (H, W) uint16 mm: disparity with noise that neighbours
    share, in steps of 1/16 px; nothing beyond 40 m or at jumps of depth, where the two views differ."""
    height, width = depth_m.shape
    coarse = rng.standard_normal((height // 4 + 1, width // 4 + 1), dtype=np.float32) * np.float32(0.12)
    noise = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1)[:height, :width]
    scale = np.float32(focal_px * 0.12)
    good = np.isfinite(depth_m) & (depth_m < 40.0) & (depth_m > 0.3)
    disparity = scale / np.where(good, depth_m, np.float32(1.0)) + noise
    disparity = np.round(disparity * np.float32(16.0)) / np.float32(16.0)
    previous = np.roll(depth_m, 1, axis=1)
    with np.errstate(invalid="ignore"):
        jump = ~(np.abs(depth_m - previous) < np.float32(0.08) * depth_m)
    good &= ~jump & (disparity > scale / np.float32(40.0))
    return np.where(good, np.round(np.float32(1000.0) * scale / np.where(good, disparity, np.float32(1.0))), 0).astype(
        np.uint16
    )
