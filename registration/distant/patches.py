"""What surrounds a keypoint, as a small polar image that a network can read: occupied, seen to be free, or unknown.

A scan becomes one grid of cells, seen from above, each of 16 bits: which of eight slabs of height hold structure, which
of the lower seven the beams passed through, and whether the ground was seen. Bits, not counts, so that density drops
out; and what no beam reached is told apart from what is empty, since at 50 m most of what one vehicle sees is hidden
from the other. A patch samples the grid on rings around a keypoint, the farther ones from a coarser grid. Its azimuth
begins anywhere; who reads it must not mind (the cylindrical patches of SpinNet, Ao et al., CVPR 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.distant.structure import MAX_RANGE_M, Scene

Array = NDArray[Any]

CELL_M = 0.5
SLABS_M = (0.4, 0.8, 1.3, 1.9, 2.6, 3.5, 5.0, 7.5)  # lower bounds; the last slab is open above
RINGS_M = (0.5, 1.0, 1.5, 2.25, 3.0, 4.0, 5.5, 7.0, 9.0, 11.5, 14.5, 18.0)
LEVELS = (0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3)  # the ring's grid: cells of CELL_M * 2 ** level
AZIMUTHS = 24
BITS = 16
SIDE = 2 * int(np.ceil((MAX_RANGE_M + RINGS_M[-1] + 2.0) / CELL_M))
_GROUND_BIT = 15
_FREE_MIDDLES_M = (0.6, 1.05, 1.6, 2.25, 3.05, 4.25, 6.25)
_FREE_CELL = 2  # free space is looked up in cells this many times as long
_VIEW_COLUMNS, _VIEW_ROWS, _VIEW_STEP_RAD, _VIEW_LOWEST_RAD = 180, 48, np.radians(4.0 / 3.0), np.radians(-45.0)
_BEHIND_M = 1.0  # a cell is free if the beams near it went this much farther


@dataclass(frozen=True, eq=False)
class Pyramid:
    """The grid (SIDE, SIDE) uint16, row x, column y, origin in the middle, and coarser ones of the same size: each cell
    of level n holds the bits of the 2 ** n x 2 ** n cells that begin with it."""

    levels: tuple[Array, ...]


def grid_of(scene: Scene) -> Array:
    """The grid (SIDE, SIDE) uint16 of a scene, about the origin of its level frame."""
    grid = free_space(scene)
    slab = np.searchsorted(SLABS_M, scene.height_m, side="right") - 1
    stands = slab >= 0
    mark(grid, scene.structure_m[stands], slab[stands])
    mark(grid, scene.ground_m, np.full(len(scene.ground_m), _GROUND_BIT))
    return grid


def mark(grid: Array, points_m: Array, bits: Array) -> None:
    """Set a bit each in the cells of points (N, 3); what lies outside the grid is left out."""
    side = len(grid)
    cells = np.floor(points_m[:, :2] / CELL_M).astype(np.int64) + side // 2
    inside = ((cells >= 0) & (cells < side)).all(axis=1)
    flat, value = cells[inside, 0] * side + cells[inside, 1], np.left_shift(1, bits[inside])
    np.bitwise_or.at(grid.reshape(-1), flat, value.astype(np.uint16))


def free_space(scene: Scene) -> Array:
    """(SIDE, SIDE) uint16 with bits 8 to 14 where beams have passed through the lower seven slabs.

    A view of the nearest return by azimuth and elevation tells how far the beams came; a gap between beams takes what
    is nearest beside it.
    """
    reach = _view(scene)
    side = SIDE // _FREE_CELL
    centres = (np.arange(side) + 0.5 - side / 2) * CELL_M * _FREE_CELL
    x, y = np.meshgrid(centres, centres, indexing="ij")
    distance_m = np.hypot(x, y)
    column = _column(x, y)
    coarse = np.zeros((side, side), np.uint16)
    for slab, height_m in enumerate(_FREE_MIDDLES_M):
        row = _row(np.arctan2(height_m - scene.sensor_m, distance_m))
        passed = reach[row, column] > distance_m + _BEHIND_M
        coarse |= passed.astype(np.uint16) << np.uint16(8 + slab)
    return coarse.repeat(_FREE_CELL, axis=0).repeat(_FREE_CELL, axis=1)


def _view(scene: Scene) -> Array:
    """Horizontal distance (rows, columns) m of the nearest return; 0 where nothing is known."""
    points = np.concatenate([scene.structure_m, scene.ground_m])
    distance_m = np.hypot(points[:, 0], points[:, 1])
    row = _row(np.arctan2(points[:, 2] - scene.sensor_m, distance_m))
    nearest = np.full((_VIEW_ROWS, _VIEW_COLUMNS), np.inf)
    np.minimum.at(nearest, (row, _column(points[:, 0], points[:, 1])), distance_m)
    for _ in range(2):
        beside = np.minimum(np.roll(nearest, 1, axis=1), np.roll(nearest, -1, axis=1))
        above, below = np.full_like(nearest, np.inf), np.full_like(nearest, np.inf)
        above[:-1], below[1:] = nearest[1:], nearest[:-1]
        nearest = np.where(np.isinf(nearest), np.minimum(beside, np.minimum(above, below)), nearest)
    return np.where(np.isinf(nearest), 0.0, nearest)


def _row(elevation_rad: Array) -> Array:
    row = np.floor((elevation_rad - _VIEW_LOWEST_RAD) / _VIEW_STEP_RAD).astype(np.int64)
    result: Array = np.clip(row, 0, _VIEW_ROWS - 1)
    return result


def _column(x: Array, y: Array) -> Array:
    column = np.floor((np.arctan2(y, x) / (2 * np.pi) + 0.5) * _VIEW_COLUMNS).astype(np.int64)
    result: Array = np.clip(column, 0, _VIEW_COLUMNS - 1)
    return result


def pyramid(grid: Array) -> Pyramid:
    """The grid and its coarser levels, each a union of four cells of the one before."""
    levels = [grid]
    for level in range(max(LEVELS)):
        step = 2**level
        wider = levels[-1] | np.roll(levels[-1], -step, axis=0)
        levels.append(wider | np.roll(wider, -step, axis=1))
    return Pyramid(tuple(levels))


def patches(grids: Pyramid, keypoints_m: Array, turn_rad: float = 0.0) -> Array:
    """Patches (K, AZIMUTHS, rings * BITS) uint8 of 0 and 1 around keypoints (K, 2 or 3) m, each ring's bits together.

    turn_rad: where the azimuth begins. What lies outside the grid is unknown.
    """
    side = len(grids.levels[0])
    result = np.empty((len(keypoints_m), AZIMUTHS, len(RINGS_M)), np.uint16)
    for level, grid in enumerate(grids.levels):
        rings = [ring for ring, its in enumerate(LEVELS) if its == level]
        offsets = _offsets_m()[:, rings].reshape(-1, 2)
        cos, sin = np.cos(turn_rad), np.sin(turn_rad)
        turned = np.stack([offsets[:, 0] * cos - offsets[:, 1] * sin, offsets[:, 0] * sin + offsets[:, 1] * cos], 1)
        at = (keypoints_m[:, None, :2] + turned[None].astype(np.float32)) * np.float32(1.0 / CELL_M)
        at += side // 2 - (2**level - 1) / 2  # the window's first cell, for a window about the sample
        cells = np.clip(at.astype(np.int32), 0, side - 1)  # never negative within the scan's reach: truncation is floor
        result[:, :, rings] = grid[cells[..., 0], cells[..., 1]].reshape(len(keypoints_m), AZIMUTHS, len(rings))
    return unpacked(result)


def unpacked(masks: Array) -> Array:
    """Bits (..., R * BITS) uint8 of masks (..., R) uint16, the lowest bit first."""
    return np.unpackbits(masks.astype("<u2").view(np.uint8), axis=-1, bitorder="little")


@lru_cache(maxsize=1)
def _offsets_m() -> Array:
    """(AZIMUTHS, rings, 2) from a keypoint to the samples of its patch."""
    azimuth = np.arange(AZIMUTHS) * (2 * np.pi / AZIMUTHS)
    result: Array = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)[:, None] * np.array(RINGS_M)[None, :, None]
    return result
