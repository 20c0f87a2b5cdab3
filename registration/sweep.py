"""One sweep of a LiDAR: which of its points are usable, and how they lie without the sensor's motion meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected

Array = NDArray[Any]

_NO_ROTATION_RADPS = 1e-9
_LONGEST_SWEEP_S = 2.0
MAX_CELLS = 2**20  # of a grid, from its middle to its end


@dataclass(frozen=True, eq=False)
class Sweep:
    """The usable points of one sweep (N, 3), and when each was measured after the sweep's middle (N,), None if unknown.

    middle_s: when the middle was, after the stamp.
    """

    points_m: Array
    time_s: Array | None
    middle_s: float

    def straightened(self, twist: Array, instead_of: Array | None = None) -> Sweep:
        """The points as the sweep's middle would have seen them, if they have been straightened with another twist."""
        if self.time_s is None:
            return self
        points_m = self.points_m if instead_of is None else deskew(self.points_m, self.time_s, -instead_of)
        return Sweep(deskew(points_m, self.time_s, twist), self.time_s, self.middle_s)

    def thinned(self, edge_m: float) -> Sweep:
        """One point a voxel: the mean of those in it, with their mean time."""
        if self.time_s is None:
            return Sweep(voxel_means(self.points_m, edge_m), None, self.middle_s)
        means = voxel_means(np.column_stack([self.points_m, self.time_s]), edge_m)
        return Sweep(means[:, :3], means[:, 3], self.middle_s)


def voxel_means(rows: Array, edge_m: float) -> Array:
    """The means (M, C) float64 of the rows (N, C), x y z and more, of each voxel that has any, in the grid's order.

    small_gicp's grid does it for x y z alone, and no faster: where scans come in the order of the sweep, the stable
    sort has little to do. The grid has at most 2^21 cells a side, as the caller must see to.
    """
    key = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T[:3]:
        cell = np.floor(column * column.dtype.type(1.0 / edge_m)).astype(np.int64)
        cell -= cell.min()
        key *= cell.max() + 1
        key += cell
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    sums: Array = np.add.reduceat(rows.take(order, axis=0), first, axis=0, dtype=np.float64)
    return sums / np.diff(first, append=len(key))[:, None]


def usable_sweep(
    points_m: Array, time_offset_s: Array | None, min_range_m: float, max_range_m: float, min_points: int
) -> Sweep:
    """The points (N, 3) that are finite and in range, with their times (N,), None if there are none.

    Raises Rejected if fewer than min_points are left, or if times are further from the stamp than any sweep is long.
    """
    usable = within_range(points_m, min_range_m, max_range_m)
    if time_offset_s is not None:
        usable &= np.isfinite(time_offset_s)
    points_m = points_m[usable].astype(np.float32, copy=False)  # to 8 um at 100 m, in half the time
    if len(points_m) < min_points:
        raise Rejected("too few usable points")
    if time_offset_s is None:
        return Sweep(points_m, None, 0.0)
    time_s = time_offset_s[usable].astype(np.float32)
    if np.abs(time_s).max() > _LONGEST_SWEEP_S:
        raise Rejected("times of the points are not those of one sweep")
    middle_s = 0.5 * (float(time_s.min()) + float(time_s.max()))
    return Sweep(points_m, time_s - np.float32(middle_s), middle_s)


def within_range(points_m: Array, min_range_m: float, max_range_m: float) -> Array:
    """Mask (N,) of the points that are finite and between two distances from the sensor."""
    x, y, z = points_m.T
    with np.errstate(over="ignore", invalid="ignore"):
        squared = x * x + y * y + z * z
    result: Array = (squared >= min_range_m**2) & (squared <= max_range_m**2)
    return result


def deskew(points_m: Array, time_offset_s: Array, twist: Array) -> Array:
    """Points (N, 3) as one instant would have seen them, though each was measured time_offset_s (N,) after it.

    twist (6,): the sensor's velocity, m/s and rad/s in its own frame, constant over the sweep. Each point moves by
    exp(twist t): Rodrigues' formula with one axis for all points, coordinate by coordinate, which is several times
    quicker than rows of three.
    """
    dtype = points_m.dtype
    v, w = twist[:3], twist[3:]
    rate = max(float(np.linalg.norm(w)), _NO_ROTATION_RADPS)
    k = w / rate
    kv, k2v = np.cross(k, v) / rate, np.cross(k, np.cross(k, v))
    t = time_offset_s.astype(dtype)
    sine, one_less_cosine = np.sin(dtype.type(rate) * t), np.sin(dtype.type(0.5 * rate) * t)
    one_less_cosine *= 2.0 * one_less_cosine  # 1 - cos would cancel
    p, axis = np.ascontiguousarray(points_m.T), k.astype(dtype)
    along = axis[0] * p[0] + axis[1] * p[1] + axis[2] * p[2]
    along_t, along_sine, along_cosine = (part.astype(dtype) for part in (v + k2v, -k2v / rate, kv))
    result = np.empty_like(points_m)
    for i, j, n in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        moved = p[i] + along_t[i] * t
        moved += sine * (axis[j] * p[n] - axis[n] * p[j] + along_sine[i])
        moved += one_less_cosine * (axis[i] * along - p[i] + along_cosine[i])
        result[:, i] = moved
    return result
