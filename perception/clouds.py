"""What the LiDAR algorithms share: cleaning a cloud, a square bird's-eye grid, and sums over sorted segments.

A grid is centred on the sensor and its size depends on the configured range alone, never on the data: a cloud with a
coordinate of 1e30 costs no more memory than any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_SIDE = 4096


@dataclass(frozen=True)
class Grid:
    """A square bird's-eye grid around the origin: `side` x `side` cells of `cell_m`, row along y, column along x."""

    cell_m: float
    side: int

    @classmethod
    def covering(cls, range_m: float, cell_m: float) -> Grid:
        """The grid whose cells cover -range_m..range_m in x and y.

        Raises ValueError if it would have more than MAX_SIDE cells a side.
        """
        cells = 2.0 * range_m / cell_m
        if not 0.0 < cells < MAX_SIDE:
            raise ValueError(f"a grid of {cell_m} m over {range_m} m has {cells:.0f} cells a side, not 1..{MAX_SIDE}")
        # A point on the edge must not round, as float32, into a cell that is not there.
        return cls(cell_m, 2 * int(np.floor(cells / 2.0 + 0.01) + 1))

    def cells(self, points_m: Array) -> Array:
        """Flat cell indices (N,) int64 of points (N, 2 or more) that lie within the covered range."""
        scale, half = points_m.dtype.type(1.0 / self.cell_m), points_m.dtype.type(self.side / 2)
        columns = (points_m[:, 0] * scale + half).astype(np.int64)
        rows: Array = (points_m[:, 1] * scale + half).astype(np.int64)
        rows *= self.side
        rows += columns
        return rows

    def axis_m(self) -> Array:
        """Coordinates (side,) float64 of the cells' centres along either axis."""
        result: Array = (np.arange(self.side) + 0.5 - self.side / 2) * self.cell_m
        return result


def usable_points(points_m: Array, min_range_m: float, max_range_m: float) -> Array:
    """Indices (M,) of the points (N, 3) that are finite, at least min_range_m away and within max_range_m.

    min_range_m is a distance in space: it drops the vehicle itself and not the ground below a drone. max_range_m is a
    distance in the plane, and bounds the height too.
    """
    x, y, z = points_m.T
    with np.errstate(over="ignore", invalid="ignore"):
        plane_sq, z_sq = x * x + y * y, z * z
        # NaN compares false, and what overflows to inf is too far.
        inside = (plane_sq <= max_range_m**2) & (z_sq <= max_range_m**2) & (plane_sq + z_sq >= min_range_m**2)
    return np.flatnonzero(inside)


@dataclass(frozen=True)
class Segments:
    """Rows brought together by group. order (N,): the rows, group by group; starts, counts (G,): each group's place."""

    order: Array
    starts: Array
    counts: Array

    @classmethod
    def of(cls, groups: Array) -> Segments:
        """From group numbers (N,), N at least 1; groups come out in ascending order, rows in theirs."""
        order = np.argsort(groups, kind="stable")
        ordered = groups[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        return cls(order, starts, np.diff(np.append(starts, len(groups))))

    def reduce(self, ufunc: np.ufunc, ordered_values: Array) -> Array:
        """Reduce values (..., N), already in this order, over each group: (..., G)."""
        result: Array = ufunc.reduceat(ordered_values, self.starts, axis=-1)
        return result

    def spread(self, group_values: Array) -> Array:
        """Give every ordered row its group's value: (..., G) to (..., N)."""
        result: Array = np.repeat(group_values, self.counts, axis=-1)
        return result


def group_bounds(values: Array, groups: Array, size: int) -> tuple[Array, Array]:
    """Least and greatest (size,) float32 of values (N,) by group number (N,) in 0..size-1; inf, -inf where none."""
    low, high = np.full(size, np.inf, np.float32), np.full(size, -np.inf, np.float32)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    return low, high
