"""One sweep of a LiDAR: which of its points are usable, and how they lie without the sensor's motion meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.geometry import skew

Array = NDArray[Any]

_NO_ROTATION_RADPS = 1e-9
_LEVER_M = 10.0  # how far away points are, to weigh turning against moving


@dataclass(frozen=True, eq=False)
class Sweep:
    """The usable points of one sweep (N, 3), and when each was measured after the sweep's middle (N,), None if unknown.

    middle_s: when the middle was, after the stamp.
    """

    points_m: Array
    time_s: Array | None
    middle_s: float

    def straightened(self, twist: Array) -> Array:
        """The points as the sweep's middle would have seen them."""
        return self.points_m if self.time_s is None else deskew(self.points_m, self.time_s, twist)

    def bend_m(self, change_of_twist: Array) -> float:
        """How far the sweep's ends move if the twist changes."""
        if self.time_s is None:
            return 0.0
        speed_mps = np.linalg.norm(change_of_twist[:3]) + _LEVER_M * np.linalg.norm(change_of_twist[3:])
        return float(speed_mps * np.abs(self.time_s).max())


def usable_sweep(
    points_m: Array, time_offset_s: Array | None, min_range_m: float, max_range_m: float, min_points: int
) -> Sweep:
    """The points (N, 3) that are finite and in range, with their times (N,), None if there are none.

    Raises Rejected if fewer than min_points are left.
    """
    usable = within_range(points_m, min_range_m, max_range_m)
    if time_offset_s is not None:
        usable &= np.isfinite(time_offset_s)
    points_m = points_m[usable]
    if len(points_m) < min_points:
        raise Rejected("too few usable points")
    if time_offset_s is None:
        return Sweep(points_m, None, 0.0)
    time_s = time_offset_s[usable]
    middle_s = 0.5 * (float(time_s.min()) + float(time_s.max()))
    return Sweep(points_m, time_s - time_s.dtype.type(middle_s), middle_s)


def within_range(points_m: Array, min_range_m: float, max_range_m: float) -> Array:
    """Mask (N,) of the points that are finite and between two distances from the sensor."""
    squared = np.einsum("ij,ij->i", points_m, points_m)
    result: Array = (squared >= min_range_m**2) & (squared <= max_range_m**2)
    return result


def deskew(points_m: Array, time_offset_s: Array, twist: Array) -> Array:
    """Points (N, 3) as one instant would have seen them, though each was measured time_offset_s (N,) after it.

    twist (6,): the sensor's velocity, m/s and rad/s in its own frame, constant over the sweep. Each point moves by
    exp(twist t): Rodrigues' formula with one axis for all points, so that a sweep costs two matrix products.
    """
    dtype = points_m.dtype
    v, w = twist[:3], twist[3:]
    rate = max(float(np.linalg.norm(w)), _NO_ROTATION_RADPS)
    k = skew(w / rate)
    kv, k2v = k @ v / rate, k @ k @ v
    t = time_offset_s.astype(dtype)
    sine, one_less_cosine = np.sin(rate * t), 2.0 * np.sin(0.5 * rate * t) ** 2  # 1 - cos would cancel

    result: Array = points_m + sine[:, None] * _product(points_m, k.T)
    result += one_less_cosine[:, None] * _product(points_m, (k @ k).T)
    result += _product(np.stack([t, one_less_cosine, sine], axis=1), np.stack([v + k2v, kv, -k2v / rate]))
    return result


def _product(rows: Array, matrix: Array) -> Array:
    """rows (N, 3) times (3, 3), in the rows' dtype. Not by BLAS, whose threads wait for each other on a busy board."""
    result: Array = np.einsum("ij,jk->ik", rows, matrix.astype(rows.dtype))
    return result
