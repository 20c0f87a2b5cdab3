"""The best one-to-one choice among weighted pairs, frame by frame.

Pairs whose row and column nobody else wants are settled for all frames at once. Of two choices that are equally good,
as when a detector reports an object twice, a measure may like one better; published numbers rest on the one that scipy
happens to find, so that frames with equal weights are settled by the same algorithm, step by step: Crouse, On
Implementing 2D Rectangular Assignment Algorithms (2016).
"""

from __future__ import annotations

from typing import Any

import lap
import numpy as np
from numpy.typing import NDArray

from tracking.evaluation.overlaps import Overlaps

Array = NDArray[Any]


def best_pairs(overlaps: Overlaps, pairs: Array, weights: Array) -> Array:
    """Which of the pairs to keep, (P,) bool, so that weights sum to the most and no row occurs twice.

    pairs (P,): indices of pairs of the overlaps, ascending; weights (P,) above 0, those of other pairs are 0.
    """
    truth_rows, track_rows = overlaps.truth_rows[pairs], overlaps.track_rows[pairs]
    frames = overlaps.truth_frames[truth_rows]
    kept = uncontested(truth_rows, track_rows)
    for frame in np.unique(frames[~kept]):
        part = slice(*np.searchsorted(frames, [frame, frame + 1]))
        kept[part] = best_of_frame(overlaps, frame, truth_rows[part], track_rows[part], weights[part])
    return kept


def best_of_frame(overlaps: Overlaps, frame: int, truth_rows: Array, track_rows: Array, weights: Array) -> Array:
    """The same for pairs of one frame, given by their rows."""
    first_truth, end_truth = np.searchsorted(overlaps.truth_frames, [frame, frame + 1])
    first_track, end_track = np.searchsorted(overlaps.track_frames, [frame, frame + 1])
    rows, columns = truth_rows - first_truth, track_rows - first_track
    costs = np.zeros((end_truth - first_truth, end_track - first_track))
    costs[rows, columns] = -weights
    result: Array = least_cost(costs, ties=len(np.unique(weights)) < len(weights))[rows] == columns
    return result


def uncontested(rows: Array, columns: Array) -> Array:
    """Which pairs, (P,) bool, have a row and a column that occur in no other pair."""
    if len(rows) == 0:
        return np.zeros(0, dtype=bool)
    alone: Array = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    return alone


def least_cost(costs: Array, *, ties: bool) -> Array:
    """For each row of the (N, M) costs its column in the assignment of least total cost, -1 where there is none.

    ties: that several assignments may be equally good, and scipy's is wanted.
    """
    if not costs.size:
        return np.full(len(costs), -1)
    if not ties:
        column_of_row, _ = lap.lapjv(costs, extend_cost=True, return_cost=False)
        return np.asarray(column_of_row)
    if costs.shape[0] > costs.shape[1]:
        row_of_column = _augment(costs.T)
        column_of_row = np.full(len(costs), -1)
        column_of_row[row_of_column] = np.arange(costs.shape[1])
        return column_of_row
    return _augment(costs)


def _augment(costs: Array) -> Array:
    """Each row's column, (N,), for costs (N, M) with N not above M: one shortest augmenting path for each row."""
    rows, columns = costs.shape
    row_potential, column_potential = np.zeros(rows), np.zeros(columns)
    column_of_row, row_of_column = np.full(rows, -1), np.full(columns, -1)
    for start in range(rows):
        reached, settled, distance, via = _shortest_path(costs, start, row_potential, column_potential, row_of_column)
        end = settled[-1]
        row_potential[start] += distance[end]
        row_potential[reached[1:]] += distance[end] - distance[column_of_row[reached[1:]]]
        column_potential[settled] -= distance[end] - distance[settled]
        row, column = -1, end
        while row != start:
            row = via[column]
            row_of_column[column] = row
            column_of_row[row], column = column, column_of_row[row]
    return column_of_row


def _shortest_path(
    costs: Array, start: int, row_potential: Array, column_potential: Array, row_of_column: Array
) -> tuple[list[int], list[int], Array, Array]:
    """From a row to the nearest free column: rows and columns on the way, the columns' distances and predecessors."""
    count = costs.shape[1]
    distance, via = np.full(count, np.inf), np.full(count, -1)
    waiting = np.arange(count)[::-1].copy()  # scipy's order, which decides between columns that are equally near
    reached, settled, row, lowest = [start], [], start, 0.0
    for left in range(count, 0, -1):
        candidates = waiting[:left]
        length = lowest + costs[row, candidates] - row_potential[row] - column_potential[candidates]
        nearer = length < distance[candidates]
        distance[candidates[nearer]] = length[nearer]
        via[candidates[nearer]] = row
        lowest = distance[candidates].min()
        nearest = np.flatnonzero(distance[candidates] == lowest)
        free = nearest[row_of_column[candidates[nearest]] < 0]
        chosen = free[-1] if len(free) else nearest[0]
        column = int(candidates[chosen])
        settled.append(column)
        row = int(row_of_column[column])
        if row < 0:
            break
        reached.append(row)
        waiting[chosen] = waiting[left - 1]
    return reached, settled, distance, via
