"""Which detection belongs to which track: pairwise similarities and gated optimal assignment.

Coordinates are broadcast one by one over (N, M): one broadcast over (N, M, 4) boxes costs nine times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lap
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Assignment:
    """rows[i] is assigned to columns[i]; the rest is unmatched. All index arrays are sorted by row, or ascending."""

    rows: Array
    columns: Array
    unmatched_rows: Array
    unmatched_columns: Array


def pairwise_iou(first_xyxy: Array, second_xyxy: Array) -> Array:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4), x1 y1 x2 y2 in any one unit.

    Boxes without area have an IoU of 0 with everything, and so have boxes with a NaN.
    """
    ax1, ay1, ax2, ay2 = np.asarray(first_xyxy, dtype=np.float64).T[:, :, None]
    bx1, by1, bx2, by2 = np.asarray(second_xyxy, dtype=np.float64).T[:, None, :]
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
    overlap = np.maximum(width, 0.0, out=width)
    overlap *= np.maximum(height, 0.0, out=height)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    result: Array = np.divide(overlap, union, out=np.zeros_like(overlap), where=(overlap > 0.0) & (union > 0.0))
    return result


def pairwise_distances(first: Array, second: Array) -> Array:
    """Euclidean distances (N, M) between points (N, D) and (M, D)."""
    squared = np.zeros((len(first), len(second)))
    for a, b in zip(first.T, second.T, strict=True):
        squared += (a[:, None] - b[None, :]) ** 2
    return np.sqrt(squared)


def gated_assignment(costs: Array, gate: float) -> Assignment:
    """The assignment of rows to columns with the least total cost, where leaving a pair apart costs `gate`.

    A pair with costs[i, j] >= gate, or NaN, is never assigned; give forbidden pairs a cost of infinity. Costs that
    stand in for "apart" are clipped to the gate, and the plain rectangular problem is solved: any partial matching
    extends to a full one by pairs that cost the gate at most, so the optimum is the same as with an (N + M)-square
    problem of explicit "unmatched" columns (lapx's cost_limit), at a tenth of the time.

    Raises ValueError if costs is not a matrix, gate is not finite, or a cost is minus infinity.
    """
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 2 or not np.isfinite(gate):
        raise ValueError(f"costs must be a matrix and the gate finite, not shape {costs.shape} and {gate}")
    inside = costs < gate
    if not inside.any():
        none = np.zeros(0, dtype=np.intp)
        return Assignment(none, none, np.arange(costs.shape[0]), np.arange(costs.shape[1]))
    clipped = np.where(inside, costs, gate)
    if clipped.min() == -np.inf:
        raise ValueError("a cost is minus infinity")
    column_of_row, _ = lap.lapjv(clipped, extend_cost=True, return_cost=False)
    rows = np.flatnonzero(column_of_row >= 0)
    columns = column_of_row[rows].astype(np.intp)
    matched = inside[rows, columns]
    rows, columns = rows[matched], columns[matched]
    return Assignment(rows, columns, _others(rows, costs.shape[0]), _others(columns, costs.shape[1]))


def _others(taken: Array, count: int) -> Array:
    """The indices below count that are not in taken, ascending."""
    free = np.ones(count, dtype=bool)
    free[taken] = False
    return np.flatnonzero(free)
