"""Upright boxes in space, turned about the vertical: how much two of them overlap, for thousands of pairs at once.

Boxes are (7, N) float64: centre x, y, z (m), length, width, height (m) and yaw (rad) about z, in a frame with z up;
the length lies along the heading. Every function works on all boxes at once.

The area that two rectangles share is Green's theorem once around one of them. In the frame of the other, whose sides
are |x| <= a and |y| <= b, it is the integral of (clamp(y, -b, b) + b) dx over the part of each edge with |x| <= a: a
clamped straight line, integrated in closed form. No polygon is built and nothing is sorted, so that edges which
coincide, as those of equal boxes do, need no care.

The hull that the generalised IoU (Rezatofighi et al., 2019) asks for lies between two functions of x: at each of the
eight corners, the highest and the lowest of all chords that pass it.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.association import Pairs, touching

Array = NDArray[Any]

BOX_ROWS = ("x", "y", "z", "length", "width", "height", "yaw")
_UPRIGHT_M = 1e-12
_CORNER_X = np.array([0.5, -0.5, -0.5, 0.5])[:, None]
_CORNER_Y = np.array([0.5, 0.5, -0.5, -0.5])[:, None]
_NEXT = np.array([1, 2, 3, 0])
# Chords from corner i to corner j over a corner k between them, of eight corners from left to right, by k.
_CHORDS = np.array(sorted(((k, i, j) for i, k, j in combinations(range(8), 3)))).T
_CHORD_STARTS = np.searchsorted(_CHORDS[0], np.arange(1, 7))


def from_kitti(boxes: Array) -> Array:
    """Boxes (7, N) of KITTI's (N, 7): height, width, length, bottom centre x y z and turn ry in the rectified camera.

    The camera's x right, y down, z forward become x forward, y left, z up about the same origin.
    """
    height, width, length, x, y, z, turn = np.asarray(boxes, dtype=np.float64).T
    return np.stack([z, -x, height / 2.0 - y, length, width, height, -turn - np.pi / 2.0])


def to_kitti(boxes: Array) -> Array:
    """KITTI's boxes (N, 7) of boxes (7, N): the inverse of `from_kitti`, ry within -pi to pi."""
    x, y, z, length, width, height, yaw = boxes
    turn = (-yaw + np.pi / 2.0) % (2.0 * np.pi) - np.pi
    return np.stack([height, width, length, -y, height / 2.0 - z, x, turn], axis=1)


def corners_bev(boxes: Array) -> Array:
    """The corners x, y (2, 4, N) of boxes seen from above, counter-clockwise from front left."""
    cosine, sine = np.cos(boxes[6]), np.sin(boxes[6])
    along, across = _CORNER_X * boxes[3], _CORNER_Y * boxes[4]
    return np.stack([boxes[0] + along * cosine - across * sine, boxes[1] + along * sine + across * cosine])


# --- one by one ----------------------------------------------------------------------------------------------------


def paired_bev_iou(first: Array, second: Array) -> Array:
    """IoU from above (K,) of boxes (7, K) and (7, K), one by one. A box without a size or with NaN overlaps nothing."""
    return _paired(first, second, _bev_ious)


def paired_iou_3d(first: Array, second: Array) -> Array:
    """IoU of volumes (K,) of boxes (7, K) and (7, K), one by one. A box without a size or with NaN overlaps nothing."""
    return _paired(first, second, _volume_ious)


def paired_giou_3d(first: Array, second: Array) -> Array:
    """Generalised IoU (K,), -1 to 1, of boxes (7, K) and (7, K): IoU - (hull - union) / hull, in volumes.

    The hull is the smallest upright prism around both. -1 where a box has no volume or a NaN.
    """
    sound = _sound(first) & _sound(second)
    result = np.full(first.shape[1], -1.0)
    a, b = first[:, sound], second[:, sound]
    shared = shared_areas_bev(a, b) * _shared_heights(a, b)
    union = _volumes(a) + _volumes(b) - shared
    hull = hull_areas_bev(a, b) * _hull_heights(a, b)
    result[sound] = shared / union - (hull - union) / hull
    return result


def shared_areas_bev(first: Array, second: Array) -> Array:
    """The area (K,) in m^2 that each of the boxes (7, K) shares with its own of the other, from above."""
    cosine, sine = np.cos(second[6]), np.sin(second[6])
    across_x, across_y = corners_bev(first) - second[:2, None]
    x0 = across_x * cosine + across_y * sine
    y0 = across_y * cosine - across_x * sine
    x1, y1 = x0[_NEXT], y0[_NEXT]
    a, b = second[3] / 2.0, second[4] / 2.0
    # The part of each edge between the sides |x| = a, along which y climbs steadily.
    left, right = _clamped(x0, a), _clamped(x1, a)
    along = x1 - x0
    np.copyto(along, np.inf, where=np.abs(along) < _UPRIGHT_M)  # such an edge has no part in the integral
    climb = (y1 - y0) / along
    heights = _mean_clamped(y0 + (left - x0) * climb, y0 + (right - x0) * climb, b) + b
    area: Array = np.maximum(((left - right) * heights).sum(axis=0), 0.0)
    return area


def hull_areas_bev(first: Array, second: Array) -> Array:
    """The area (K,) in m^2 of the convex hull of each of the boxes (7, K) with its own of the other, from above."""
    corners = np.concatenate([corners_bev(first), corners_bev(second)], axis=1)
    x, y = corners[:, corners[0].argsort(axis=0), np.arange(corners.shape[2])]
    over, start, end = _CHORDS
    length = x[end] - x[start]
    share = np.divide(x[over] - x[start], length, out=np.zeros_like(length), where=length > 0.0)
    chords = y[start] + share * (y[end] - y[start])
    top, bottom = y.copy(), y.copy()
    np.maximum(top[1:7], np.maximum.reduceat(chords, _CHORD_STARTS, axis=0), out=top[1:7])
    np.minimum(bottom[1:7], np.minimum.reduceat(chords, _CHORD_STARTS, axis=0), out=bottom[1:7])
    # Corners one above the other, as the outermost of an upright box: the hull is as high there as all of them.
    thickness = top - bottom
    area: Array = ((thickness[1:] + thickness[:-1]) / 2.0 * np.diff(x, axis=0)).sum(axis=0)
    return area


# --- all with all --------------------------------------------------------------------------------------------------


def near_boxes(first: Array, second: Array, reach: float = 1.0) -> tuple[Array, Array]:
    """Rows and columns (K,) of the pairs of boxes (7, N) and (7, M) whose centres, from above, are nearer than `reach`
    times the sum of the radii of the circles around them. With 1, all that overlap are among them; none that has a NaN.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        limits = [np.hypot(boxes[3], boxes[4]) * (reach / 2.0) for boxes in (first, second)]
        squares = [
            np.concatenate([b[:2] - limit, b[:2] + limit]) for b, limit in zip((first, second), limits, strict=True)
        ]
        rows, columns = touching(*squares)
        x, y = first[:2].take(rows, axis=1) - second[:2].take(columns, axis=1)
        near = x * x + y * y < (limits[0].take(rows) + limits[1].take(columns)) ** 2
    return rows[near], columns[near]


def pairwise_bev_iou(first: Array, second: Array) -> Array:
    """IoU from above (N, M) of boxes (7, N) and (7, M)."""
    return _pairwise(first, second, paired_bev_iou)


def pairwise_iou_3d(first: Array, second: Array) -> Array:
    """IoU of volumes (N, M) of boxes (7, N) and (7, M)."""
    return _pairwise(first, second, paired_iou_3d)


def pairwise_giou_3d(first: Array, second: Array) -> Array:
    """Generalised IoU (N, M) of boxes (7, N) and (7, M)."""
    rows, columns = np.indices((first.shape[1], second.shape[1])).reshape(2, -1)
    return paired_giou_3d(first[:, rows], second[:, columns]).reshape(first.shape[1], second.shape[1])


def overlapping_pairs_3d(first: Array, second: Array, min_iou: float = 0.0) -> Pairs:
    """The pairs of boxes (7, N) and (7, M) whose IoU of volumes is above min_iou (0 or more), at a cost of 1 - IoU."""
    rows, columns = near_boxes(first, second)
    ious = paired_iou_3d(first[:, rows], second[:, columns])
    kept = ious > min_iou
    return Pairs(rows[kept], columns[kept], 1.0 - ious[kept], (first.shape[1], second.shape[1]))


def near_pairs_3d(first: Array, second: Array, min_giou: float) -> Pairs:
    """The pairs of boxes (7, N) and (7, M) whose generalised IoU is above min_giou, at a cost of 1 - GIoU.

    Looked for among boxes nearer than twice the sum of their radii: two of one size farther apart have less than -1/3.
    """
    rows, columns = near_boxes(first, second, reach=2.0)
    gious = paired_giou_3d(first[:, rows], second[:, columns])
    kept = gious > min_giou
    return Pairs(rows[kept], columns[kept], 1.0 - gious[kept], (first.shape[1], second.shape[1]))


# --- inside --------------------------------------------------------------------------------------------------------


def _mean_clamped(start: Array, end: Array, limit: Array) -> Array:
    """The mean of clamp(y, -limit, limit) over a straight way from y = start to y = end."""
    low, high = np.minimum(start, end), np.maximum(start, end)
    inside_low, inside_high = _clamped(low, limit), _clamped(high, limit)
    length = high - low
    below, above = np.maximum(np.minimum(high, -limit) - low, 0.0), np.maximum(high - np.maximum(low, limit), 0.0)
    parts = (above - below) * limit + (inside_high - inside_low) * (inside_high + inside_low) / 2.0
    mean: Array = np.divide(parts, length, out=inside_low, where=length > 0.0)
    return mean


def _clamped(values: Array, limit: Array) -> Array:
    clamped: Array = np.minimum(np.maximum(values, -limit), limit)
    return clamped


def _paired(first: Array, second: Array, ious: Any) -> Array:
    """Zero for the pairs that are faulty or too far apart, and `ious` of the others."""
    reach = (np.hypot(first[3], first[4]) + np.hypot(second[3], second[4])) / 2.0
    with np.errstate(invalid="ignore", over="ignore"):
        near = (first[0] - second[0]) ** 2 + (first[1] - second[1]) ** 2 < reach**2
        near &= _sound(first) & _sound(second)
    result = np.zeros(first.shape[1])
    result[near] = ious(first[:, near], second[:, near])
    return result


def _pairwise(first: Array, second: Array, paired: Any) -> Array:
    rows, columns = near_boxes(first, second)
    result = np.zeros((first.shape[1], second.shape[1]))
    result[rows, columns] = paired(first[:, rows], second[:, columns])
    return result


def _bev_ious(first: Array, second: Array) -> Array:
    shared = shared_areas_bev(first, second)
    ious: Array = shared / (first[3] * first[4] + second[3] * second[4] - shared)
    return ious


def _volume_ious(first: Array, second: Array) -> Array:
    heights = _shared_heights(first, second)
    shared = np.zeros(first.shape[1])
    meet = heights > 0.0
    shared[meet] = shared_areas_bev(first[:, meet], second[:, meet]) * heights[meet]
    return shared / (_volumes(first) + _volumes(second) - shared)


def _sound(boxes: Array) -> Array:
    """Which boxes are finite and have sizes, of which no product under- or overflows, (N,) bool."""
    with np.errstate(invalid="ignore", over="ignore"):
        volumes = _volumes(boxes)
        sound = (volumes > 0.0) & (volumes < np.inf)
        sound &= np.isfinite(boxes).all(axis=0)
        sound &= (boxes[3:6] > 0.0).all(axis=0)
    result: Array = sound
    return result


def _volumes(boxes: Array) -> Array:
    volumes: Array = boxes[3] * boxes[4] * boxes[5]
    return volumes


def _shared_heights(first: Array, second: Array) -> Array:
    top = np.minimum(first[2] + first[5] / 2.0, second[2] + second[5] / 2.0)
    heights: Array = np.maximum(top - np.maximum(first[2] - first[5] / 2.0, second[2] - second[5] / 2.0), 0.0)
    return heights


def _hull_heights(first: Array, second: Array) -> Array:
    top = np.maximum(first[2] + first[5] / 2.0, second[2] + second[5] / 2.0)
    heights: Array = top - np.minimum(first[2] - first[5] / 2.0, second[2] - second[5] / 2.0)
    return heights
