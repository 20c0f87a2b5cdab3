"""Which rays of a grid can meet which primitive: a rectangle of rows and columns around each.

A window is conservative: it holds every ray that meets the primitive, and usually some more. For a spinning LiDAR it is
bounded in azimuth and elevation as seen from sample poses along the sweep; for a pinhole image by the projection of
the corners, clipped at a near plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.primitives import Primitives, bounding_corners

Array = NDArray[Any]

NEAR_PLANE_M = 0.05
# Edges of a box by its corners (CORNER_SIGNS), and of a box with its shadow on the ground (corners 8..15).
_BOX_EDGES = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]
BOX_EDGES = np.array(_BOX_EDGES)
SHADOW_EDGES = np.array(_BOX_EDGES + [(a + 8, b + 8) for a, b in _BOX_EDGES] + [(i, i + 8) for i in range(8)])


@dataclass(frozen=True, eq=False)
class Windows:
    """M rectangles: rays rows[i, 0] <= row < rows[i, 1] and columns[i, 0] <= column < columns[i, 1] may meet
    primitive[i], which is nowhere nearer than distance_m[i] (float32)."""

    primitive: Array
    rows: Array
    columns: Array
    distance_m: Array

    @property
    def rays(self) -> Array:
        """Rays in each window."""
        result: Array = (self.rows[:, 1] - self.rows[:, 0]) * (self.columns[:, 1] - self.columns[:, 0])
        return result

    def take(self, index: Array) -> Windows:
        """The windows that an index names."""
        return Windows(self.primitive[index], self.rows[index], self.columns[index], self.distance_m[index])

    def sorted_by_distance(self) -> Windows:
        """Near ones first."""
        return self.take(np.argsort(self.distance_m, kind="stable"))

    def tuples(self) -> Iterator[tuple[int, int, int, int, int, float]]:
        """(primitive, first row, end row, first column, end column, distance) of each."""
        return zip(
            self.primitive.tolist(),
            *self.rows.T.tolist(),
            *self.columns.T.tolist(),
            self.distance_m.tolist(),
            strict=True,
        )

    def batches(self, max_rays: int) -> Iterator[Windows]:
        """The windows in groups of about max_rays rays."""
        group = np.cumsum(self.rays) // max_rays
        for start, end in zip(*_runs(group), strict=True):
            yield self.take(np.arange(start, end))

    def pairs(self) -> tuple[Array, Array, Array, Array]:
        """Every (primitive, row, column) of the windows, and the primitive's distance: each (n,)."""
        counts = self.rays
        window = np.repeat(np.arange(len(counts)), counts)
        step = np.arange(len(window)) - np.repeat(np.cumsum(counts) - counts, counts)
        width = (self.columns[:, 1] - self.columns[:, 0])[window]
        row_step = step // width
        row = self.rows[window, 0] + row_step
        column = self.columns[window, 0] + step - row_step * width
        return self.primitive[window], row, column, self.distance_m[window]


def _runs(group: Array) -> tuple[Array, Array]:
    """Starts and ends of the runs of equal numbers."""
    if not len(group):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    cuts = np.flatnonzero(np.diff(group)) + 1
    return np.concatenate([[0], cuts]), np.concatenate([cuts, [len(group)]])


def spinning_windows(
    primitives: Primitives,
    positions_m: Array,
    rotations: Array,
    times_s: Array,
    elevations_rad: Array,
    columns: int,
    max_range_m: float,
) -> Windows:
    """Windows in a sweep that turns clockwise from straight behind: column c looks at azimuth pi - (c + 1/2) 2 pi / C.

    positions_m (K, 3), rotations world_R_sensor (K, 3, 3) and times_s (K,) are sample poses along the sweep, close
    enough together that what happens between two of them lies within one column of what happens at them.
    elevations_rad (R,) ascends.
    """
    distance = box_distance(primitives, positions_m, times_s).min(axis=1)
    chosen = np.flatnonzero(distance < max_range_m)
    near = primitives.take(chosen)
    distance = distance[chosen]
    corners = bounding_corners(near, times_s) - positions_m[:, None, :]
    local = np.einsum("kji,nkcj->nkci", rotations, corners)
    first, last = _azimuth_columns(local, columns)
    row0, row1 = _elevation_rows(local, distance, elevations_rad)
    full = (last - first >= columns) | (distance <= 0.0)
    first, last = np.where(full, 0, first), np.where(full, columns, last)
    turn = np.floor_divide(first, columns) * columns
    first, last = first - turn, last - turn
    windows = Windows(
        np.concatenate([chosen, chosen]),
        np.stack([np.tile(row0, 2), np.tile(row1, 2)], axis=1),
        np.stack(
            [
                np.concatenate([first, np.zeros_like(first)]),
                np.concatenate([np.minimum(last, columns), last - columns]),
            ],
            1,
        ),
        np.tile(distance, 2).astype(np.float32) - np.float32(1e-3),
    )
    seen = (windows.rows[:, 0] < windows.rows[:, 1]) & (windows.columns[:, 0] < windows.columns[:, 1])
    return windows.take(np.flatnonzero(seen))


def box_distance(primitives: Primitives, positions_m: Array, times_s: Array) -> Array:
    """Distance (N, K) from sensor positions to the boxes around the primitives; 0 inside."""
    yaw = primitives.yaws_rad[:, None] + primitives.yaw_rates_radps[:, None] * times_s
    gap = positions_m - primitives.centers_m[:, None, :] - primitives.velocities_mps[:, None, :] * times_s[:, None]
    cos, sin = np.cos(yaw), np.sin(yaw)
    half = primitives.half_m[:, None, :]
    x = np.maximum(np.abs(cos * gap[..., 0] + sin * gap[..., 1]) - half[..., 0], 0.0)
    y = np.maximum(np.abs(cos * gap[..., 1] - sin * gap[..., 0]) - half[..., 1], 0.0)
    z = np.maximum(np.abs(gap[..., 2]) - half[..., 2], 0.0)
    result: Array = np.sqrt(x * x + y * y + z * z)
    return result


def _azimuth_columns(local: Array, columns: int) -> tuple[Array, Array]:
    """First and end column (N,) of corners (N, K, 8, 3) in sensor axes; not yet wrapped into 0..C."""
    middle = local.mean(axis=2)
    heading = np.arctan2(middle[..., 1], middle[..., 0])
    heading = heading[:, :1] + _wrapped(heading - heading[:, :1])
    off = _wrapped(np.arctan2(local[..., 1], local[..., 0]) - heading[..., None])
    low, high = off.min(axis=2), off.max(axis=2)
    around = (high - low >= np.pi).any(axis=1)
    per_column = 2.0 * np.pi / columns
    first = np.floor((np.pi - (heading + high).max(axis=1)) / per_column - 0.5).astype(np.int64) - 1
    last = np.ceil((np.pi - (heading + low).min(axis=1)) / per_column - 0.5).astype(np.int64) + 2
    return np.where(around, 0, first), np.where(around, columns, last)


def _wrapped(angle: Array) -> Array:
    result: Array = angle - 2.0 * np.pi * np.round(angle / (2.0 * np.pi))
    return result


def _elevation_rows(local: Array, distance: Array, elevations_rad: Array) -> tuple[Array, Array]:
    """First and end row (N,): heights are bounded by the corners, ranges by the distance and the farthest corner."""
    low, high = local[..., 2].min(axis=(1, 2)), local[..., 2].max(axis=(1, 2))
    far = np.sqrt((local * local).sum(axis=-1).max(axis=(1, 2)))
    near = np.maximum(distance, 1e-6)
    top = np.arcsin(np.clip(high / np.where(high > 0, near, far), -1.0, 1.0))
    bottom = np.arcsin(np.clip(low / np.where(low < 0, near, far), -1.0, 1.0))
    margin = 2e-3
    return np.searchsorted(elevations_rad, bottom - margin), np.searchsorted(elevations_rad, top + margin, side="right")


def pinhole_windows(
    points_m: Array,
    edges: Array,
    distance_m: Array,
    camera_T_world: Array,
    intrinsics: Array,
    size_px: tuple[int, int],
    primitive: Array,
) -> Windows:
    """Windows in an image around convex solids, each the hull of points_m (N, P, 3) with edges (E, 2).

    distance_m (N,): each solid's distance from the camera; size_px: (width, height); primitive (N,): the indices to
    write into the windows. Pixel (row, column) looks through its middle, image point (column, row).
    """
    local = np.einsum("ij,npj->npi", camera_T_world[:3, :3], points_m) + camera_T_world[:3, 3]
    depth = local[..., 2] - NEAR_PLANE_M
    start, end = local[:, edges[:, 0]], local[:, edges[:, 1]]
    d0, d1 = depth[:, edges[:, 0]], depth[:, edges[:, 1]]
    crossing = (d0 > 0) != (d1 > 0)
    fraction = np.where(crossing, d0 / np.where(crossing, d0 - d1, 1.0), 0.0)
    points = np.concatenate([local, start + fraction[..., None] * (end - start)], axis=1)
    valid = np.concatenate([depth > 0, crossing], axis=1)
    z = np.where(valid, points[..., 2], 1.0)
    bounds = []
    for axis, size in ((0, size_px[0]), (1, size_px[1])):
        pixel = intrinsics[axis, axis] * points[..., axis] / z + intrinsics[axis, 2]
        low = np.where(valid, pixel, np.inf).min(axis=1)
        high = np.where(valid, pixel, -np.inf).max(axis=1)
        first = np.clip(np.floor(low - 0.5), 0, size).astype(np.int64)
        bounds.append(np.stack([first, np.clip(np.ceil(high + 0.5) + 1, 0, size).astype(np.int64)], axis=1))
    windows = Windows(primitive, bounds[1], bounds[0], distance_m.astype(np.float32) - np.float32(1e-3))
    seen = (windows.rows[:, 0] < windows.rows[:, 1]) & (windows.columns[:, 0] < windows.columns[:, 1])
    return windows.take(np.flatnonzero(seen))
