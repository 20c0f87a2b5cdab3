"""Clouds as seen from above: columns of a grid, groups of columns, and the shapes of groups."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_FAR_M = 20.0  # from here on, neighbouring beams leave gaps


class Columns(NamedTuple):
    """C occupied cells as seen from above: mean x, y (C, 2); lowest and highest point above the ground (C,); the
    ground's z (C,), level; how many points (C,); the integer cell (C, 2)."""

    xy_m: Array
    low_m: Array
    high_m: Array
    floor_m: Array
    points: Array
    cells: Array

    def take(self, index: Array) -> Columns:
        """The columns that an index or a mask names."""
        return Columns(*(field[index] for field in self))


def columns_of(points_m: Array, heights_m: Array, cell_m: float) -> Columns:
    """The occupied cells, in the order of their keys, of points (N, 3) with heights above the ground (N,)."""
    cells = np.floor(points_m[:, :2] / cell_m).astype(np.int64)
    _, first, index = np.unique(cell_keys(cells), return_index=True, return_inverse=True)
    size = len(first)
    counts = np.bincount(index, minlength=size)
    floors_m = points_m[:, 2] - heights_m
    x, y, floor = (np.bincount(index, weights=v, minlength=size) / counts for v in (*points_m[:, :2].T, floors_m))
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, index, heights_m)
    np.maximum.at(high, index, heights_m)
    return Columns(np.stack([x, y], axis=1), low, high, floor, counts, cells[first])


def cell_keys(cells: Array) -> Array:
    """One number per cell (C, 2), in lexicographic order."""
    result: Array = (cells[:, 0] + 2**20) * 2**21 + cells[:, 1] + 2**20
    return result


def groups_of(columns: Columns, cell_m: float, gap_m: float) -> Array:
    """The group (C,) of each column, numbered from 0: touching columns connect, far ones over a gap as well."""
    keys = cell_keys(columns.cells)
    far = np.hypot(*columns.xy_m.T) > _FAR_M
    reach = max(int(gap_m / cell_m), 1)
    steps = [(dx, dy) for dx in range(reach + 1) for dy in range(-reach, reach + 1) if (dx, dy) > (0, 0)]
    pairs = []
    for step in steps:
        wanted = cell_keys(columns.cells + step)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        linked = (keys[at] == wanted) & (far | (max(abs(step[0]), abs(step[1])) == 1))
        pairs.append(np.stack([np.flatnonzero(linked), at[linked]]))
    a, b = np.concatenate(pairs, axis=1)
    labels = np.arange(len(keys))
    while True:  # hooks each tree's root to the least neighbour, then halves the paths: a few rounds
        least = np.minimum(labels[a], labels[b])
        new = labels.copy()
        for at in (labels[a], labels[b], a, b):
            np.minimum.at(new, at, least)
        new = new[new]
        if (new == labels).all():
            return np.unique(labels, return_inverse=True)[1]
        labels = new


class Shapes(NamedTuple):
    """G groups of columns: the middle (G, 2), put back by the unseen side; the ground's z; the extent along and across
    the line of sight; lowest and highest point above the ground; how many columns."""

    xy_m: Array
    floor_m: Array
    deep_m: Array
    wide_m: Array
    low_m: Array
    high_m: Array
    columns: Array


def shapes_of(columns: Columns, groups: Array) -> Shapes:
    """The shapes of groups (C,) of columns, numbered from 0."""
    size = int(groups.max()) + 1 if len(groups) else 0
    counts = np.bincount(groups, minlength=size)
    mean = np.stack([np.bincount(groups, weights=v, minlength=size) / np.maximum(counts, 1) for v in columns.xy_m.T], 1)
    sight = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
    away = columns.xy_m - mean[groups]
    along = np.einsum("ij,ij->i", away, sight[groups])
    across = away[:, 1] * sight[groups, 0] - away[:, 0] * sight[groups, 1]
    spans = []
    for low_of, high_of in ((along, along), (across, across), (columns.low_m, columns.high_m)):
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        np.minimum.at(low, groups, low_of)
        np.maximum.at(high, groups, high_of)
        spans.append((low, high))
    (near, far), (right, left), (low, high) = spans
    floor = np.bincount(groups, weights=columns.floor_m, minlength=size) / np.maximum(counts, 1)
    wide = left - right
    nearest = mean + near[:, None] * sight
    middle = nearest + 0.5 * wide[:, None] * sight
    middle += (0.5 * (left + right))[:, None] * np.stack([-sight[:, 1], sight[:, 0]], axis=1)
    return Shapes(middle, floor, far - near, wide, low, high, counts)
