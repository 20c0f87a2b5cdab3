"""Find the ground in one LiDAR sweep: a height map fitted coarse to fine under the lowest points.

No sensor height, ring number or point order is assumed, only that z points roughly up. Everything is done on a grid of
each cell's lowest point, so that the cost hardly depends on the number of points:

1. A plane below most of the cells, by quantile regression (Koenker and Bassett 1978). It is convex: it needs no start
   value and no random samples, and walls and trees above the ground cannot tilt it.
2. From coarse to fine, cells whose lowest point lies near the surface found so far are ground and correct it; others
   keep it. This is hierarchical robust interpolation (Pfeifer, Stadler and Briese 2001).
3. A cell that rises above the morphological opening of its neighbourhood is a bump that stands on the ground, not the
   ground, whatever the slope: the test of Zhang's progressive morphological filter (2003), but on what is left of the
   slope after step 2's coarser levels, so that it needs no slope parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.clouds import Grid

Array = NDArray[Any]

_PLANE_LEVEL = 3  # the plane is fitted to blocks of 2**3 cells a side
_PLANE_ROUNDS = 8
_SPREADS = 3  # how often a level's correction spreads to its neighbours; the finest level's need not
_SLOPE_REACH_M = 4.0  # over a longer way the ground's slopes even out
_OUTLIER_M = 0.5


@dataclass(frozen=True)
class GroundConfig:
    """How the ground may look.

    cell_m: the finest cell. levels: how many times, with the cell doubled each time. slope: how far the ground's slope
    may differ between one level and the next, as a tangent; 0.2 for hills, at the price of losing far objects that a
    sensor of few beams hits with one. curvature_per_m: one over the radius of the sharpest hilltop. roughness_m: how
    much the lowest points of level ground scatter. quantile: the part of the coarse cells that may lie below the plane.
    min_cells: fewer cells on the surface than this are no ground.
    """

    cell_m: float = 0.5
    levels: int = 5
    slope: float = 0.12
    curvature_per_m: float = 0.01
    roughness_m: float = 0.15
    quantile: float = 0.25
    min_cells: int = 30

    def __post_init__(self) -> None:
        for name in ("cell_m", "slope", "curvature_per_m", "roughness_m"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 1 <= self.levels <= 8:
            raise ValueError(f"levels is {self.levels}; it must be 1..8")
        if not 0.0 < self.quantile < 1.0:
            raise ValueError(f"quantile is {self.quantile}; it must lie between 0 and 1")
        if self.min_cells < 1:
            raise ValueError(f"min_cells is {self.min_cells}; it must be 1 or more")


@dataclass(frozen=True)
class Ground:
    """A surface: heights_m (side, side) float32 of the grid's cells; found is False where too little supports it."""

    grid: Grid
    heights_m: Array
    found: bool

    def under_m(self, points_m: Array) -> Array:
        """The surface's z (N,) float32 in the cells of points (N, 2 or more) within the grid's range."""
        result: Array = self.heights_m.ravel().take(self.grid.cells(points_m))
        return result


def fit_ground(points_m: Array, range_m: float, config: GroundConfig) -> Ground:
    """The ground under finite points (N, 3) float32 that lie within range_m of the origin in x and y; N may be 0."""
    grid = Grid.covering(range_m, config.cell_m)
    block = 2 ** (config.levels - 1)
    padded_side = -(-grid.side // block) * block
    lowest = np.full((padded_side, padded_side), np.inf, np.float32)
    lowest[: grid.side, : grid.side] = lowest_points(grid, points_m)
    if not np.isfinite(lowest).any():
        return Ground(grid, np.zeros((grid.side, grid.side), np.float32), False)
    axis_m = (np.arange(padded_side) + 0.5 - grid.side / 2.0) * config.cell_m
    surface = _plane(lowest, axis_m, config)
    for level in reversed(range(config.levels)):
        correction, accepted = _correction(_block_minima(lowest - surface, level), level, config)
        surface += cv2.resize(correction, surface.shape, interpolation=cv2.INTER_LINEAR)
    found = int(np.count_nonzero(accepted)) >= config.min_cells
    return Ground(grid, np.ascontiguousarray(surface[: grid.side, : grid.side]), found)


def lowest_points(grid: Grid, points_m: Array) -> Array:
    """(side, side) float32: the lowest z in each cell, inf where there is none; lone low outliers are taken out.

    Reflections on wet or shiny surfaces give points metres below the ground, one cell at a time.
    """
    lowest = np.full(grid.side**2, np.inf, np.float32)
    np.minimum.at(lowest, grid.cells(points_m), np.ascontiguousarray(points_m[:, 2]))
    image = lowest.reshape(grid.side, grid.side)
    ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    around = cv2.erode(image, ring, borderType=cv2.BORDER_CONSTANT, borderValue=np.inf)
    image[np.isfinite(around) & (image < around - _OUTLIER_M)] = np.inf
    return image


def fit_plane_below(x_m: Array, y_m: Array, z_m: Array, quantile: float) -> Array:
    """(3,) float64 a, b, c of the plane z = a x + b y + c that has `quantile` of the points (N,) below it.

    Quantile regression by iteratively reweighted least squares, with a small ridge on the slope so that points in a
    line, or a single one, still have an answer.
    """
    design = np.column_stack([x_m, y_m, np.ones_like(x_m)])
    plane = np.array([0.0, 0.0, np.quantile(z_m, quantile)])
    ridge = np.diag([1e-3, 1e-3, 1e-9]) * len(x_m)
    for _ in range(_PLANE_ROUNDS):
        residuals = z_m - design @ plane
        weights = np.where(residuals > 0, quantile, 1.0 - quantile) / np.maximum(np.abs(residuals), 0.05)
        weighted = design * weights[:, None]
        plane = np.linalg.solve(weighted.T @ design + ridge, weighted.T @ z_m)
    return plane


def _plane(lowest: Array, axis_m: Array, config: GroundConfig) -> Array:
    """(side, side) float32: the plane below the lowest points of blocks of cells.

    A block's lowest point on a slope lies at its lower edge, so a second fit is made to what the first leaves.
    """
    level = min(_PLANE_LEVEL, config.levels - 1)
    middles_m = axis_m.reshape(-1, 2**level).mean(axis=1)
    plane = np.zeros_like(lowest)
    for _ in range(2):
        blocks = _block_minima(lowest - plane, level)
        rows, columns = np.nonzero(np.isfinite(blocks))
        z_m = blocks[rows, columns].astype(np.float64)
        a, b, c = fit_plane_below(middles_m[columns], middles_m[rows], z_m, config.quantile)
        plane += (a * axis_m[None, :] + b * axis_m[:, None] + c).astype(np.float32)
    return plane


def _block_minima(image: Array, level: int) -> Array:
    """The least of each block of 2**level cells a side."""
    for _ in range(level):
        rows = np.minimum(image[0::2], image[1::2])
        image = np.minimum(rows[:, 0::2], rows[:, 1::2])
    return image


def _correction(residuals: Array, level: int, config: GroundConfig) -> tuple[Array, Array]:
    """What to add to the surface at one level, and which of its cells (bool) are ground.

    Each round accepts the cells near the corrected surface, so that a correction spreads from cell to cell up a hill.
    """
    size_m = config.cell_m * 2**level
    smooth = _bumps(residuals) < config.roughness_m + 0.5 * config.curvature_per_m * size_m**2
    tolerance_m = config.roughness_m + config.slope * min(size_m, _SLOPE_REACH_M)
    correction = np.zeros_like(residuals)
    for _ in range(_SPREADS if level else 1):
        accepted = smooth & (np.abs(residuals - correction) < tolerance_m)
        correction = _smoothed(residuals, accepted)
    return correction, accepted


def _bumps(residuals: Array) -> Array:
    """How far each cell rises above the opening by 3 x 3 cells: nothing on an even slope; inf where it is empty."""
    square = np.ones((3, 3), np.uint8)
    opened = cv2.dilate(cv2.erode(residuals, square), square)
    result: Array = np.subtract(residuals, opened, out=np.full_like(residuals, np.inf), where=np.isfinite(residuals))
    return result


def _smoothed(residuals: Array, accepted: Array) -> Array:
    """The mean of the accepted cells in each 3 x 3 neighbourhood, which fades to zero where there is none."""
    weights = cv2.GaussianBlur(accepted.astype(np.float32), (3, 3), 0, borderType=cv2.BORDER_CONSTANT)
    kept = np.where(accepted, residuals, np.float32(0.0))
    sums = cv2.GaussianBlur(kept, (3, 3), 0, borderType=cv2.BORDER_CONSTANT)
    result: Array = sums / (weights + np.float32(0.01))
    return result
