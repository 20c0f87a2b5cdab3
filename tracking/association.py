"""Which detection belongs to which track: candidate pairs, their costs, and who goes with whom.

Most tracks are near one or two detections, so candidates are kept as a list of pairs, not as a matrix: `Pairs`. A cost
is computed for the pairs alone, several costs are added or multiplied pair by pair, and the assignment splits what is
plain (a track and a detection that have no one but each other) from what must be solved. Boxes that overlap are found
by a matrix where it is small, by a sorted sweep where it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lap
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DENSE = 10_000  # rows x columns up to which a matrix of overlaps is quicker than the sweep
_MAX_SWEEP = 2_000_000  # pairs of the sweep at one time: 16 MB for each of its arrays


@dataclass(frozen=True, eq=False)
class Pairs:
    """Candidates: row rows[k] with column columns[k], at costs[k]; (K,) each, of a table of `shape` rows and columns.

    Every pair stands in it at most once, in any order. Lower is better.
    """

    rows: Array
    columns: Array
    costs: Array
    shape: tuple[int, int]

    def where(self, kept: Array) -> Pairs:
        """The pairs of a mask (K,)."""
        return Pairs(self.rows[kept], self.columns[kept], self.costs[kept], self.shape)

    def at(self, costs: Array) -> Pairs:
        """The same pairs at other costs (K,)."""
        return Pairs(self.rows, self.columns, costs, self.shape)


@dataclass(frozen=True, eq=False)
class Assignment:
    """rows[i] is assigned to columns[i]; the rest is unmatched. All index arrays are sorted by row, or ascending."""

    rows: Array
    columns: Array
    unmatched_rows: Array
    unmatched_columns: Array

    def where(self, kept: Array) -> Assignment:
        """The assigned pairs of a mask; the rows and columns of the others join the unmatched."""
        if kept.all():
            return self
        shape = (len(self.rows) + len(self.unmatched_rows), len(self.columns) + len(self.unmatched_columns))
        return _sorted(self.rows[kept], self.columns[kept], shape)


# --- costs ---------------------------------------------------------------------------------------------------------


def overlapping_pairs(first_xyxy: Array, second_xyxy: Array, min_iou: float = 0.0) -> Pairs:
    """The pairs of boxes (N, 4) and (M, 4), x1 y1 x2 y2, whose IoU is above min_iou (0 or more), at a cost of 1 - IoU.

    Boxes without area and boxes with a NaN overlap nothing.
    """
    shape = (len(first_xyxy), len(second_xyxy))
    if shape[0] * shape[1] <= _DENSE:
        overlap = pairwise_iou(first_xyxy, second_xyxy)
        rows, columns = np.nonzero(overlap > min_iou)
        return Pairs(rows, columns, 1.0 - overlap[rows, columns], shape)
    found = [_sweep(first_xyxy, second_xyxy, chunk, min_iou) for chunk in _sweep_chunks(first_xyxy, second_xyxy)]
    rows, columns, costs = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Pairs(rows, columns, costs, shape)


def pairwise_iou(first_xyxy: Array, second_xyxy: Array) -> Array:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4), x1 y1 x2 y2 in any one unit.

    Boxes without area have an IoU of 0 with everything, and so have boxes with a NaN. Coordinates are broadcast one by
    one: a broadcast over (N, M, 4) boxes costs nine times as much.
    """
    ax1, ay1, ax2, ay2 = np.asarray(first_xyxy, dtype=np.float64).T[:, :, None]
    bx1, by1, bx2, by2 = np.asarray(second_xyxy, dtype=np.float64).T[:, None, :]
    return _iou(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2)


def paired_iou(first_xyxy: Array, second_xyxy: Array) -> Array:
    """IoU (K,) of each of the boxes (K, 4) with the one of the same row of the other (K, 4)."""
    return _iou(*np.asarray(first_xyxy, dtype=np.float64).T, *np.asarray(second_xyxy, dtype=np.float64).T)


def pairwise_giou(first_xyxy: Array, second_xyxy: Array) -> Array:
    """Generalised IoU (N, M), -1 to 1 (Rezatofighi et al., 2019): IoU - (hull - union) / hull; -1 without area or with NaN.

    It tells near from far where boxes do not overlap.
    """
    ax1, ay1, ax2, ay2 = np.asarray(first_xyxy, dtype=np.float64).T[:, :, None]
    bx1, by1, bx2, by2 = np.asarray(second_xyxy, dtype=np.float64).T[:, None, :]
    overlap = _overlap(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    hull = (np.maximum(ax2, bx2) - np.minimum(ax1, bx1)) * (np.maximum(ay2, by2) - np.minimum(ay1, by1))
    sound = (ax2 > ax1) & (ay2 > ay1) & (bx2 > bx1) & (by2 > by1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sound, overlap / union - (hull - union) / hull, -1.0)


def pairwise_distances(first: Array, second: Array) -> Array:
    """Euclidean distances (N, M) between points (N, D) and (M, D)."""
    squared = np.zeros((len(first), len(second)))
    for a, b in zip(first.T, second.T, strict=True):
        squared += (a[:, None] - b[None, :]) ** 2
    return np.sqrt(squared)


def near_pairs(first: Array, second: Array, gate: float) -> Pairs:
    """The pairs of points (N, D) and (M, D) nearer than the gate, at their distance."""
    distances = pairwise_distances(first, second)
    rows, columns = np.nonzero(distances < gate)
    return Pairs(rows, columns, distances[rows, columns], distances.shape)


# --- assignment ----------------------------------------------------------------------------------------------------


def assign(pairs: Pairs, gate: float) -> Assignment:
    """The assignment with the least total cost, where a row or column that is left alone with its like costs `gate`.

    A pair at or above the gate, or with NaN, is never assigned. A pair whose row and column occur in no other is
    settled at once. For the others, costs that stand in for "apart" are clipped to the gate and the plain rectangular
    problem is solved: any partial matching extends to a full one by pairs that cost the gate at most, so the optimum is
    the same as with an (N + M)-square problem of explicit "unmatched" columns (lapx's cost_limit), at a tenth of the
    time.

    Raises ValueError if the gate is not finite or a cost is minus infinity.
    """
    if not np.isfinite(gate):
        raise ValueError(f"the gate must be finite, not {gate}")
    if pairs.costs.min(initial=np.inf) == -np.inf:
        raise ValueError("a cost is minus infinity")
    inside = pairs.costs < gate
    if not inside.all():
        pairs = pairs.where(inside)
    rows, columns = pairs.rows, pairs.columns
    contested = (np.bincount(rows)[rows] > 1) | (np.bincount(columns)[columns] > 1) if len(rows) else inside[:0]
    if contested.any():
        solved = _solve(pairs.where(contested), gate)
        settled = ~contested
        rows = np.concatenate([rows[settled], solved[0]])
        columns = np.concatenate([columns[settled], solved[1]])
    return _sorted(rows, columns, pairs.shape)


def assign_greedily(pairs: Pairs, gate: float) -> Assignment:
    """Pairs below the gate, the cheapest first, each row and column once; of equals the lowest row, then column.

    All pairs that are the cheapest of both their row and their column are taken at once, until none is left.
    """
    pairs = pairs.where(pairs.costs < gate)
    order = np.lexsort([pairs.columns, pairs.rows, pairs.costs])
    rows, columns = pairs.rows[order], pairs.columns[order]
    taken_rows, taken_columns = [], []
    while len(rows):
        ranks = np.arange(len(rows))
        best = (_first_rank(rows)[rows] == ranks) & (_first_rank(columns)[columns] == ranks)
        taken_rows.append(rows[best])
        taken_columns.append(columns[best])
        left = ~(np.isin(rows, rows[best]) | np.isin(columns, columns[best]))
        rows, columns = rows[left], columns[left]
    none = np.zeros(0, dtype=np.intp)
    return _sorted(np.concatenate([none, *taken_rows]), np.concatenate([none, *taken_columns]), pairs.shape)


def gated_assignment(costs: Array, gate: float) -> Assignment:
    """`assign` for a matrix of costs (N, M); give forbidden pairs a cost of infinity.

    Raises ValueError if costs is not a matrix, gate is not finite, or a cost is minus infinity.
    """
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 2 or not np.isfinite(gate):
        raise ValueError(f"costs must be a matrix and the gate finite, not shape {costs.shape} and {gate}")
    rows, columns = np.nonzero(costs < gate)
    return assign(Pairs(rows, columns, costs[rows, columns], costs.shape), gate)


# --- inside --------------------------------------------------------------------------------------------------------


def _overlap(ax1: Any, ay1: Any, ax2: Any, ay2: Any, bx1: Any, by1: Any, bx2: Any, by2: Any) -> Array:
    """Area that boxes share, by numpy's broadcasting."""
    width = np.minimum(ax2, bx2)
    width -= np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2)
    height -= np.maximum(ay1, by1)
    np.maximum(width, 0.0, out=width)
    np.maximum(height, 0.0, out=height)
    width *= height
    shared: Array = width
    return shared


def _iou(ax1: Any, ay1: Any, ax2: Any, ay2: Any, bx1: Any, by1: Any, bx2: Any, by2: Any) -> Array:
    overlap = _overlap(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    result: Array = np.divide(overlap, union, out=np.zeros_like(overlap), where=(overlap > 0.0) & (union > 0.0))
    return result


def _sweep_chunks(first_xyxy: Array, second_xyxy: Array) -> list[tuple[Array, Array, Array]]:
    """Rows, and for each the range of columns, in order of x1, that may overlap it in x; few enough to hold at once.

    A box that overlaps [x1, x2] begins before x2, and after x1 by no more than the widest box.
    """
    x1 = second_xyxy[:, 0]
    widths = second_xyxy[:, 2] - x1
    widest = widths[np.isfinite(widths)].max(initial=0.0)
    order = np.argsort(x1, kind="stable")
    ranked = x1[order]  # NaN last
    begin = np.searchsorted(ranked, first_xyxy[:, 0] - widest, side="left")
    end = np.maximum(np.searchsorted(ranked, first_xyxy[:, 2], side="left"), begin)
    rows, totals = np.arange(len(first_xyxy)), np.cumsum(end - begin)
    cuts = np.searchsorted(totals, np.arange(_MAX_SWEEP, totals[-1] + 1, _MAX_SWEEP), side="left") + 1
    return [(part, np.stack([begin[part], end[part]]), order) for part in np.split(rows, cuts)]


def _sweep(
    first_xyxy: Array, second_xyxy: Array, chunk: tuple[Array, Array, Array], min_iou: float
) -> tuple[Array, Array, Array]:
    """Rows, columns and costs of the overlapping pairs of one chunk."""
    rows, (begin, end), order = chunk
    counts = end - begin
    total = int(counts.sum())
    starts = np.cumsum(counts) - counts
    candidates = np.arange(total) + np.repeat(begin - starts, counts)
    rows, columns = np.repeat(rows, counts), order[candidates]
    meet = (second_xyxy[columns, 1] < first_xyxy[rows, 3]) & (second_xyxy[columns, 3] > first_xyxy[rows, 1])
    rows, columns = rows[meet], columns[meet]
    overlap = paired_iou(first_xyxy[rows], second_xyxy[columns])
    kept = overlap > min_iou
    return rows[kept], columns[kept], 1.0 - overlap[kept]


def _solve(pairs: Pairs, gate: float) -> tuple[Array, Array]:
    """Rows and columns of the optimal assignment of pairs that are all below the gate."""
    row_names, rows = _compact(pairs.rows, pairs.shape[0])
    column_names, columns = _compact(pairs.columns, pairs.shape[1])
    costs = np.full((len(row_names), len(column_names)), float(gate))
    costs[rows, columns] = pairs.costs
    column_of_row, _ = lap.lapjv(costs, extend_cost=True, return_cost=False)
    solved = np.flatnonzero(column_of_row >= 0)
    solved = solved[costs[solved, column_of_row[solved]] < gate]
    return row_names[solved], column_names[column_of_row[solved]]


def _compact(indices: Array, count: int) -> tuple[Array, Array]:
    """The distinct indices, ascending, and where in them each index stands."""
    present = np.zeros(count, dtype=bool)
    present[indices] = True
    names = np.flatnonzero(present)
    places = np.empty(count, dtype=np.intp)
    places[names] = np.arange(len(names))
    return names, places[indices]


def _first_rank(indices: Array) -> Array:
    """Where each value first occurs in indices."""
    first = np.full(indices.max() + 1, len(indices))
    first[indices[::-1]] = np.arange(len(indices))[::-1]
    return first


def _sorted(rows: Array, columns: Array, shape: tuple[int, int]) -> Assignment:
    """The assignment of these pairs, in order of the rows."""
    order = np.argsort(rows, kind="stable")
    rows, columns = rows[order], columns[order]
    return Assignment(rows, columns, _others(rows, shape[0]), _others(columns, shape[1]))


def _others(taken: Array, count: int) -> Array:
    """The indices below count that are not in taken, ascending."""
    free = np.ones(count, dtype=bool)
    free[taken] = False
    return np.flatnonzero(free)
