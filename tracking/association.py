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
_NONE = np.zeros(0, dtype=np.intp)
_MAX_TABLE = 1_500_000  # contested rows x columns up to which the optimum is sought in any case,
_CROWD = 8  # and beyond it up to so many partners a row; a heap of boxes is assigned greedily
_HEAP = 4_000_000  # candidates from which on boxes lie on one heap,
_NEAREST = 32  # and that many partners are kept for each row
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
    """rows[i] is assigned to columns[i] at costs[i], sorted by row; the rest is unmatched, ascending."""

    rows: Array
    columns: Array
    costs: Array
    unmatched_rows: Array
    unmatched_columns: Array

    def where(self, kept: Array) -> Assignment:
        """The assigned pairs of a mask; the rows and columns of the others join the unmatched."""
        if kept.all():
            return self
        shape = (len(self.rows) + len(self.unmatched_rows), len(self.columns) + len(self.unmatched_columns))
        return assignment(self.rows[kept], self.columns[kept], self.costs[kept], shape)


# --- costs ---------------------------------------------------------------------------------------------------------


def overlapping_pairs(first_xyxy: Array, second_xyxy: Array, min_iou: float = 0.0) -> Pairs:
    """The pairs of boxes (N, 4) and (M, 4), x1 y1 x2 y2, whose IoU is above min_iou (0 or more), at a cost of 1 - IoU.

    Boxes without area and boxes with a NaN overlap nothing.
    """
    first, second = np.asarray(first_xyxy, dtype=np.float64).T, np.asarray(second_xyxy, dtype=np.float64).T
    with np.errstate(invalid="ignore", over="ignore"):  # boxes of any size and kind; NaN is above nothing
        rows, columns = touching(first, second)
        overlap = _iou(*first.take(rows, axis=1), *second.take(columns, axis=1))
        kept = overlap > min_iou
    pairs = Pairs(rows, columns, 1.0 - overlap, (first.shape[1], second.shape[1]))
    return pairs if kept.all() else pairs.where(kept)


def touching(first: Array, second: Array) -> tuple[Array, Array]:
    """Rows and columns of all pairs of boxes x1 y1 x2 y2, (4, N) and (4, M), that share some area."""
    if first.shape[1] * second.shape[1] > _DENSE:
        return _sweep(first, second)
    sides = np.minimum(first[2:, :, None], second[2:, None, :])
    sides -= np.maximum(first[:2, :, None], second[:2, None, :])
    rows, columns = (np.minimum(sides[0], sides[1]) > 0.0).nonzero()
    return rows, columns


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
    """Generalised IoU (N, M), -1 to 1 (Rezatofighi et al., 2019): IoU - (hull - union) / hull; -1 without area.

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
    time. A heap of boxes, where thousands contest each other and the optimum would take minutes, is assigned
    greedily.

    Raises ValueError if the gate is not finite or a cost is minus infinity.
    """
    return assignment(*assigned_pairs(pairs, gate), pairs.shape)


def assigned_pairs(pairs: Pairs, gate: float) -> tuple[Array, Array, Array]:
    """Rows, columns and costs of the assigned pairs in any order: what is new in `assign`."""
    if not np.isfinite(gate):
        raise ValueError(f"the gate must be finite, not {gate}")
    if pairs.costs.min(initial=np.inf) == -np.inf:
        raise ValueError("a cost is minus infinity")
    inside = pairs.costs < gate
    if not inside.all():
        pairs = pairs.where(inside)
    rows, columns, costs, shape = pairs.rows, pairs.columns, pairs.costs, pairs.shape
    if not len(rows):
        return rows, columns, costs
    contested = contested_pairs(pairs)
    if not contested.any():
        return rows, columns, costs
    row_names, in_rows = _compact(rows[contested], shape[0])
    column_names, in_columns = _compact(columns[contested], shape[1])
    if len(row_names) * len(column_names) > _MAX_TABLE and len(in_rows) > _CROWD * len(row_names):
        chosen = _greedy(pairs)
        return rows[chosen], columns[chosen], costs[chosen]
    solved = _solve(Pairs(in_rows, in_columns, costs[contested], (len(row_names), len(column_names))), gate)
    plain = ~contested
    return (
        np.concatenate([rows[plain], row_names[solved[0]]]),
        np.concatenate([columns[plain], column_names[solved[1]]]),
        np.concatenate([costs[plain], solved[2]]),
    )


def contested_pairs(pairs: Pairs) -> Array:
    """Which pairs share their row or their column with another pair, (K,) bool."""
    rows, columns = pairs.rows, pairs.columns
    contested: Array = (np.bincount(rows).take(rows) > 1) | (np.bincount(columns).take(columns) > 1)
    return contested


def assign_greedily(pairs: Pairs, gate: float) -> Assignment:
    """Pairs below the gate, the cheapest first, each row and column once; of equals the lowest row, then column.

    All pairs that are the cheapest of both their row and their column are taken at once, until none is left.
    """
    pairs = pairs.where(pairs.costs < gate)
    chosen = _greedy(pairs)
    return assignment(pairs.rows[chosen], pairs.columns[chosen], pairs.costs[chosen], pairs.shape)


def gated_assignment(costs: Array, gate: float) -> Assignment:
    """`assign` for a matrix of costs (N, M); give forbidden pairs a cost of infinity.

    Raises ValueError if costs is not a matrix, gate is not finite, or a cost is minus infinity.
    """
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 2 or not np.isfinite(gate):
        raise ValueError(f"costs must be a matrix and the gate finite, not shape {costs.shape} and {gate}")
    rows, columns = np.nonzero(costs < gate)
    return assign(Pairs(rows, columns, costs[rows, columns], costs.shape), gate)


def assignment(rows: Array, columns: Array, costs: Array, shape: tuple[int, int]) -> Assignment:
    """The assignment of these pairs, each row and column at most once, in any order."""
    if len(rows) > 1 and (rows[1:] < rows[:-1]).any():
        order = rows.argsort(kind="stable")
        rows, columns, costs = rows.take(order), columns.take(order), costs.take(order)
    return Assignment(rows, columns, costs, _others(rows, shape[0]), _others(columns, shape[1]))


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


def _sweep(first: Array, second: Array) -> tuple[Array, Array]:
    """`touching` for many boxes: sorted by x1, and in parts whose candidates are few enough to hold at once.

    Where thousands of boxes lie on one heap, each row keeps its nearest partners only.

    A box that overlaps [x1, x2] begins before x2, and after x1 by no more than the widest box.
    """
    widths = second[2] - second[0]
    widest = widths[np.isfinite(widths)].max(initial=0.0)
    order = np.argsort(second[0], kind="stable")
    ranked = second.take(order, axis=1)  # by x1, NaN last
    begin = np.searchsorted(ranked[0], first[0] - widest, side="left")
    counts = np.maximum(np.searchsorted(ranked[0], first[2], side="left") - begin, 0)
    totals = np.cumsum(counts)
    cuts = np.searchsorted(totals, np.arange(_MAX_SWEEP, totals[-1] + 1, _MAX_SWEEP), side="left") + 1
    parts = []
    for part in np.split(np.arange(len(counts)), cuts):
        rows = np.repeat(part, counts[part])
        ranks = np.arange(len(rows)) + np.repeat(begin[part] - (np.cumsum(counts[part]) - counts[part]), counts[part])
        meet = (ranked[1].take(ranks) < first[3].take(rows)) & (ranked[3].take(ranks) > first[1].take(rows))
        meet &= ranked[2].take(ranks) > first[0].take(rows)
        meeting = meet.nonzero()[0]
        rows, columns = rows.take(meeting), order.take(ranks.take(meeting))
        if totals[-1] > _HEAP:
            nearest = _nearest(first, second, rows, columns)
            rows, columns = rows.take(nearest), columns.take(nearest)
        parts.append((rows, columns))
    rows, columns = map(np.concatenate, zip(*parts, strict=True))
    return rows, columns


def _greedy(pairs: Pairs) -> Array:
    """Indices of the pairs that `assign_greedily` takes."""
    left = np.lexsort([pairs.columns, pairs.rows, pairs.costs])  # indices of pairs, the best first
    taken = [left[:0]]
    free_rows, free_columns = np.ones(pairs.shape[0], dtype=bool), np.ones(pairs.shape[1], dtype=bool)
    while len(left):
        rows, columns, ranks = pairs.rows[left], pairs.columns[left], np.arange(len(left))
        best = (_first_rank(rows)[rows] == ranks) & (_first_rank(columns)[columns] == ranks)
        taken.append(left[best])
        free_rows[rows[best]] = free_columns[columns[best]] = False
        left = left[free_rows[rows] & free_columns[columns]]
    return np.concatenate(taken)


def _nearest(first: Array, second: Array, rows: Array, columns: Array) -> Array:
    """Indices of the pairs whose column is among the nearest of its row, by the distance of the boxes' middles."""
    x = first[0].take(rows) + first[2].take(rows) - second[0].take(columns) - second[2].take(columns)
    y = first[1].take(rows) + first[3].take(rows) - second[1].take(columns) - second[3].take(columns)
    order = np.lexsort([x * x + y * y, rows])
    sorted_rows = rows.take(order)
    rank = np.arange(len(rows)) - np.searchsorted(sorted_rows, sorted_rows, side="left")
    kept: Array = order[rank < _NEAREST]
    return kept


def _solve(pairs: Pairs, gate: float) -> tuple[Array, Array, Array]:
    """Rows, columns and costs of the optimal assignment of pairs that are all below the gate."""
    table = np.empty(pairs.shape)
    table.fill(gate)
    table[pairs.rows, pairs.columns] = pairs.costs
    column_of_row, _ = lap.lapjv(table, extend_cost=True, return_cost=False)
    rows = (column_of_row >= 0).nonzero()[0]
    columns = column_of_row.take(rows).astype(np.intp)
    costs = table[rows, columns]
    good = costs < gate
    return (rows, columns, costs) if good.all() else (rows[good], columns[good], costs[good])


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


def _others(taken: Array, count: int) -> Array:
    """The indices below count that are not in taken, ascending."""
    if len(taken) == count:
        return _NONE
    free = np.ones(count, dtype=bool)
    free[taken] = False
    return free.nonzero()[0]
