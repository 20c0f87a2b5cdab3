"""How the image moves because the camera does: what a tracker takes out before it predicts.

Two sources, each with its own strength. The camera's rotation, known from odometry, moves all pixels alike whatever
their depth: x' = K R K^-1 x, the infinite homography (Hartley and Zisserman, Multiple View Geometry, 2004, section
13.4); what translation does is left to each track's own velocity. Without odometry the images themselves tell: corners
outside of the tracked boxes are followed by pyramidal Lucas-Kanade, and a similarity (turn, scale, shift) is fitted to
them by RANSAC, as BoT-SORT does (Aharon et al., 2022).

Affine maps are (2, 3) float64, from pixels of the earlier image to pixels of the later one.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.messages import Image

Array = NDArray[Any]

_WIDTH_PX = 480  # images are followed at about this width
_CORNERS = 300
_LEAST_CORNERS = 12
_LEAST_AGREEING = 0.4  # of the followed corners; fewer is no camera motion but a guess
_RANSAC_PX = 1.5


def rotation_affine(intrinsics: Array, frame_R_before: Array, frame_R_now: Array, at_px: Array) -> Array:
    """The affine map (2, 3) that K R K^-1 is near the pixel at_px (2,).

    intrinsics (3, 3); frame_R_before and frame_R_now (3, 3): the camera's orientation in one fixed frame.
    """
    homography = intrinsics @ frame_R_now.T @ frame_R_before @ np.linalg.inv(intrinsics)
    x, y, w = homography @ np.array([at_px[0], at_px[1], 1.0])
    moved = np.array([x, y]) / w
    slope = (homography[:2, :2] - np.outer(moved, homography[2, :2])) / w
    return np.column_stack([slope, moved - slope @ at_px])


def follow_image(before: Array, now: Array, boxes_xyxy_px: Array) -> Array | None:
    """The similarity (2, 3) between two grey images (H, W) uint8 of one size; None where too few corners agree.

    boxes_xyxy_px (N, 4), in pixels of `before`: what moves by itself, and is left out. RANSAC draws from a fixed seed.
    """
    scale = min(1.0, _WIDTH_PX / before.shape[1])
    size = (max(1, round(before.shape[1] * scale)), max(1, round(before.shape[0] * scale)))
    first, second = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (before, now))
    mask = np.full(first.shape, 255, dtype=np.uint8)
    edges = np.clip(np.nan_to_num(boxes_xyxy_px * scale), -1.0, max(size) + 1.0).astype(int)
    for x1, y1, x2, y2 in edges:  # filling rectangles, a few dozen
        mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = 0
    corners = cv2.goodFeaturesToTrack(first, _CORNERS, 0.01, 8, mask=mask)
    if corners is None or len(corners) < _LEAST_CORNERS:
        return None
    followed, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None)  # type: ignore[call-overload]
    kept = found.ravel() == 1
    if kept.sum() < _LEAST_CORNERS:
        return None
    affine, agreeing = cv2.estimateAffinePartial2D(
        corners[kept], followed[kept], ransacReprojThreshold=_RANSAC_PX, maxIters=500
    )
    if affine is None or agreeing.sum() < max(_LEAST_CORNERS, _LEAST_AGREEING * kept.sum()):
        return None
    affine[:, 2] /= scale
    result: Array = affine
    return result


def grey(image: Image) -> Array:
    """(H, W) uint8 of an 8-bit colour or grey image. Raises Rejected for others, and for an empty one."""
    pixels = image.pixels
    if pixels.dtype != np.uint8 or pixels.size == 0 or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise Rejected(f"image of encoding {image.encoding} tells no camera motion")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels.reshape(pixels.shape[:2])
    code = cv2.COLOR_RGB2GRAY if image.encoding.startswith("rgb") else cv2.COLOR_BGR2GRAY
    result: Array = cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), code)
    return result
