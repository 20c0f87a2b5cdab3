"""Group points into objects as seen from above, and fit an upright oriented box to each group.

Clusters: occupied cells of a bird's-eye grid that touch, also diagonally, are connected. Before, occupied cells are
dilated where the beams leave gaps on one object: by a cell along the line of sight, as few columns hit a surface at a
grazing angle, and few rings one seen from just above; and, where the beams have spread so far that neighbours no longer
touch, by a disc that grows with range. So far objects do not fall apart and near ones are not glued together.

Boxes: Zhang, Xu, Dong and Dolan, "Efficient L-shape fitting for vehicle detection using laser scanners" (IV 2017),
algorithms 2 and 4: of a fixed set of headings take the one whose rectangle's edges lie closest to the points. Three
departures: the points are the means of the occupied cells, so that a dense patch does not outvote the rest; a point's
distance is to the nearest of all four edges, not of two edges chosen beforehand; all clusters are searched at once,
first in steps of 6 degrees, then of 1. The rectangle's extent is that of all points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.clouds import Grid, Segments, group_bounds

Array = NDArray[Any]

_COARSE_RAD = np.radians(np.arange(0.0, 90.0, 6.0))
_FINE_RAD = np.radians(np.arange(-5.0, 6.0, 1.0))
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_SQUARE = np.ones((3, 3), np.uint8)
_CLOSEST_M = 0.1  # d0 of the paper: points nearer to an edge than this count the same


@dataclass(frozen=True)
class ClusterConfig:
    """How points are grouped.

    cell_m: the grid's cell; points of touching cells always connect. gap_rad: points also connect over gaps of up to
    this times their range, a few steps of the sensor's horizontal resolution. max_extent_m: clusters
    whose bounding rectangle has a longer diagonal are dropped. min_points: clusters of fewer are dropped.
    """

    cell_m: float = 0.15
    gap_rad: float = 0.02
    max_extent_m: float = 15.0
    min_points: int = 5

    def __post_init__(self) -> None:
        for name in ("cell_m", "max_extent_m"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0.0 <= self.gap_rad <= 0.2:
            raise ValueError(f"gap_rad is {self.gap_rad}; it must be 0..0.2")
        if self.min_points < 1:
            raise ValueError(f"min_points is {self.min_points}; it must be 1 or more")


@dataclass(frozen=True)
class Clusters:
    """Points grouped by way of their cells.

    point_cells (N,) int64: each point's cell, numbered 0..C-1; cell_clusters (C,) int64: each cell's cluster, numbered
    0..count-1 in the order of their first cells, or -1 where it was dropped.
    """

    point_cells: Array
    cell_clusters: Array
    count: int

    @property
    def of_points(self) -> Array:
        """Each point's cluster (N,) int64, or -1."""
        result: Array = self.cell_clusters.take(self.point_cells)
        return result


@dataclass(frozen=True)
class Boxes:
    """Upright boxes, float64.

    centers_m (K, 3); sizes_m (K, 3): length, width, height, length not below width; yaws_rad (K,): the length's, in
    -pi/2..pi/2; points (K,) int64: how many each holds.
    """

    centers_m: Array
    sizes_m: Array
    yaws_rad: Array
    points: Array

    def where(self, kept: Array) -> Boxes:
        """The boxes that a mask (K,) or indices name."""
        return Boxes(self.centers_m[kept], self.sizes_m[kept], self.yaws_rad[kept], self.points[kept])


def cluster(points_m: Array, range_m: float, config: ClusterConfig) -> Clusters:
    """Group points (N, 2 or more) that lie within range_m of the origin in x and y; N may be 0."""
    grid = Grid.covering(range_m, config.cell_m)
    cells = grid.cells(points_m)
    image = np.zeros((grid.side, grid.side), np.uint8)
    image.ravel()[cells] = 1
    occupied = np.flatnonzero(image.view(bool))
    number = np.empty(image.size, np.int32)
    number[occupied] = np.arange(len(occupied), dtype=np.int32)
    point_cells = number.take(cells).astype(np.int64)
    _, labels = cv2.connectedComponents(_dilated(image, grid, range_m, config), connectivity=8, ltype=cv2.CV_32S)
    cell_labels = labels.ravel().take(occupied).astype(np.int64)
    cell_points = np.bincount(point_cells, minlength=len(occupied))
    kept = _kept_labels(cell_labels, cell_points, *np.divmod(occupied, grid.side), config)
    return Clusters(point_cells, _in_order(cell_labels, kept), int(np.count_nonzero(kept)))


def _dilated(image: Array, grid: Grid, range_m: float, config: ClusterConfig) -> Array:
    """Occupied cells grown by a cell along the line of sight, and by k cells to all sides where they are far enough.

    Growing by a cross and by a square in turn makes octagons, which are nearly discs and much cheaper.
    """
    result: Array = image.copy()
    grown = image
    for k, zone in enumerate(_zones(grid, range_m, config.gap_rad)):
        grown = cv2.dilate(grown, _SQUARE if k % 2 else _CROSS)
        cv2.bitwise_or(result, grown, dst=result, mask=zone)
    for line, sector in _sectors(grid):
        cv2.bitwise_or(result, cv2.dilate(image, line), dst=result, mask=sector)
    return result


@lru_cache(maxsize=4)
def _zones(grid: Grid, range_m: float, gap_rad: float) -> tuple[Array, ...]:
    """For each k from 1, the cells (side, side) uint8 so far that gap_rad spans the 2 k + 1 cells bridged; 0 or 1."""
    squares_m2 = grid.axis_m() ** 2
    ranges_m2 = squares_m2[:, None] + squares_m2
    gaps_m = np.arange(3, gap_rad * range_m / grid.cell_m, 2) * grid.cell_m
    return tuple((ranges_m2 >= (gap_m / gap_rad) ** 2).astype(np.uint8) for gap_m in gaps_m)


@lru_cache(maxsize=4)
def _sectors(grid: Grid) -> tuple[tuple[Array, Array], ...]:
    """Four directions, each a line of three cells, and the cells (side, side) uint8 that are seen along it; 0 or 1."""
    axis_m = grid.axis_m()
    eighths = np.round(np.arctan2(axis_m[:, None], axis_m) / (np.pi / 4)).astype(int) % 4
    flat = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]], np.uint8)
    rising = np.eye(3, dtype=np.uint8)  # rows run along y: the main diagonal is the direction of 45 degrees
    lines = (flat, rising, flat.T.copy(), rising[::-1].copy())
    return tuple((line, (eighths == k).astype(np.uint8)) for k, line in enumerate(lines))


def _kept_labels(labels: Array, points: Array, rows: Array, columns: Array, config: ClusterConfig) -> Array:
    """Which labels (L,) have enough points and are not too large, from each occupied cell's label, points and place."""
    if not len(labels):
        return np.zeros(1, bool)
    size = int(labels.max()) + 1
    spans = []
    for index in (rows, columns):
        low, high = group_bounds(index.astype(np.float32), labels, size)
        spans.append(np.maximum(high - low, 0.0) * config.cell_m)
    enough = np.bincount(labels, weights=points, minlength=size) >= config.min_points
    result: Array = enough & (np.hypot(*spans) <= config.max_extent_m)
    return result


def _in_order(labels: Array, kept: Array) -> Array:
    """Kept labels (C,) as numbers from 0 in the order of their first cells, the others as -1.

    OpenCV's own numbers depend on how many threads it uses.
    """
    first = np.full(len(kept), len(labels))
    np.minimum.at(first, labels, np.arange(len(labels)))
    numbers = np.full(len(kept), -1)
    wanted = np.flatnonzero(kept)
    numbers[wanted[np.argsort(first[wanted])]] = np.arange(len(wanted))
    result: Array = numbers.take(labels)
    return result


def fit_boxes(points_m: Array, clusters: Clusters) -> Boxes:
    """One box per cluster of points (N, 3) float32.

    The heading is that of the length: which end is the front, one sweep does not say.
    """
    size = clusters.count
    if size == 0:
        return Boxes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0, np.int64))
    of_points = clusters.of_points
    kept = np.flatnonzero(of_points >= 0)
    groups = of_points.take(kept)
    x, y, z = np.ascontiguousarray(points_m.take(kept, axis=0).T)
    middles = np.stack([0.5 * np.add(*group_bounds(v, groups, size)) for v in (x, y)])
    # Small numbers about the middles, so that float32 is exact enough however far away.
    local = np.stack([x, y]) - middles.take(groups, axis=1)
    yaws = _headings(local, clusters, clusters.point_cells.take(kept))
    cos, sin = np.cos(yaws).astype(np.float32), np.sin(yaws).astype(np.float32)
    (turned_x, turned_y), cs = _turned(local, cos.take(groups), sin.take(groups)), np.stack([cos, sin])
    along, across = group_bounds(turned_x, groups, size), group_bounds(turned_y, groups, size)
    offset = 0.5 * np.stack([along[0] + along[1], across[0] + across[1]])
    centers = middles + np.stack([cs[0] * offset[0] - cs[1] * offset[1], cs[1] * offset[0] + cs[0] * offset[1]])
    sizes = np.stack([along[1] - along[0], across[1] - across[0]])
    yaws = np.where(sizes[1] > sizes[0], yaws + np.pi / 2, yaws)
    low_z, high_z = group_bounds(z, groups, size)
    return Boxes(
        np.column_stack([*centers, 0.5 * (low_z + high_z)]).astype(np.float64),
        np.column_stack([sizes.max(axis=0), sizes.min(axis=0), high_z - low_z]).astype(np.float64),
        np.mod(yaws + np.pi / 2, np.pi) - np.pi / 2,
        np.bincount(groups, minlength=size),
    )


def _headings(local_m: Array, clusters: Clusters, point_cells: Array) -> Array:
    """The best heading (K,) float64 of each cluster, of points (2, N) about their cluster's middle, and their cells."""
    counts = np.bincount(point_cells, minlength=len(clusters.cell_clusters))
    cells = np.flatnonzero(counts)
    sums = np.stack([np.bincount(point_cells, weights=v, minlength=len(counts)) for v in local_m])
    segments = Segments.of(clusters.cell_clusters.take(cells))
    means = (sums[:, cells] / counts[cells]).astype(np.float32)[:, segments.order]
    coarse = np.repeat(_COARSE_RAD[:, None], clusters.count, axis=1)
    return _closest(means, segments, _closest(means, segments, coarse) + _FINE_RAD[:, None])


def _closest(means_m: Array, segments: Segments, yaws_rad: Array) -> Array:
    """Of headings (A, K), those (K,) whose rectangles have the edges closest to the points (2, C): algorithm 4."""
    cos, sin = np.cos(yaws_rad).astype(np.float32), np.sin(yaws_rad).astype(np.float32)
    to_edges = []
    for turned in _turned(means_m, segments.spread(cos), segments.spread(sin)):
        from_low = turned - segments.spread(segments.reduce(np.minimum, turned))
        from_high = segments.spread(segments.reduce(np.maximum, turned)) - turned
        to_edges.append(np.minimum(from_low, from_high))
    to_edge = np.minimum(*to_edges)
    closeness = segments.reduce(np.add, 1.0 / np.maximum(to_edge, np.float32(_CLOSEST_M)))
    best = np.argmax(closeness, axis=0)
    result: Array = np.take_along_axis(yaws_rad, best[None], axis=0)[0]
    return result


def _turned(xy: Array, cos: Array, sin: Array) -> tuple[Array, Array]:
    """Coordinates along and across headings of points (2, N)."""
    return cos * xy[0] + sin * xy[1], cos * xy[1] - sin * xy[0]
