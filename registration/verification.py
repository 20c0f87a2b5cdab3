"""Whether two clouds fit at a pose: what each sees of the other's, and how likely that makes the pose.

Alignments go wrong in ways that their residuals do not show: on a street every wall is parallel to some wall, and the
ground fits everywhere. So only what stands on the ground counts, and three questions are asked of it, both ways:

- overlap: how much of it has something of the other cloud beside it?
- seen through: how much of it stands where the other sensor looked right through, to something farther away?
- distance: how well does that fit which fits?

The answers are weighed by a logistic function. Its weights were fitted on simulated worlds only (make them anew with
tests/benchmarks/bench_global.py --fit); how well it parts right from wrong on real scans is that benchmark's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from tercel.core.geometry import inverse, transform_points

Array = NDArray[Any]

NEAR_M = 0.6
_PIXEL_RAD = np.radians(2.0)
_ROWS, _COLUMNS = 90, 180
_MARGIN_M, _MARGIN_SHARE = 0.75, 0.02  # how much nearer than all around it a point must be to be seen through
_MAX_STRUCTURE = 8000

# Weights of Evidence.features and the constant, fitted on simulated streets and orchards.
WEIGHTS = np.array([4.0, 4.0, -10.0, -2.0])
CONSTANT = 2.0
THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class View:
    """A cloud made ready to be compared. structure_m (N, 3) float64: what stands on the ground, in the sensor's frame;
    tree: its search tree; nearest_m, farthest_m (rows, columns) float32: the ranges around each direction, NaN where
    nothing came back, None for a cloud that is no scan from one place."""

    structure_m: Array
    tree: small_gicp.KdTree
    nearest_m: Array | None
    farthest_m: Array | None


@dataclass(frozen=True)
class Evidence:
    """overlap, least_overlap: share of the structure with a partner, mean and lower one of both directions.
    seen_through: share of what the other sensor could judge, mean of both. distance_m: mean of the partners'."""

    overlap: float
    least_overlap: float
    seen_through: float
    distance_m: float

    def features(self) -> Array:
        """(4,) float64, what the logistic function weighs."""
        return np.array(
            [
                np.log(self.overlap + 0.02),
                np.log(self.least_overlap + 0.02),
                self.seen_through,
                self.distance_m / NEAR_M,
            ]
        )


def view_of(points_m: Array, structure_m: Array, *, from_one_place: bool = True) -> View:
    """A scan (N, 3), and what of it stands on the ground (M, 3), in the sensor's frame.

    from_one_place: whether the sensor was at the origin all the time, as in a scan and not in a map. All but every so
    many points of a large structure are left out.
    """
    structure = np.ascontiguousarray(structure_m[:: 1 + len(structure_m) // _MAX_STRUCTURE], dtype=np.float64)
    nearest, farthest = _range_images(points_m) if from_one_place else (None, None)
    return View(structure, small_gicp.KdTree(structure), nearest, farthest)


def evidence(target: View, source: View, target_T_source: Array) -> Evidence:
    """What two views say about a pose. Neither may be without structure."""
    there = _one_way(target, transform_points(target_T_source, source.structure_m))
    back = _one_way(source, transform_points(inverse(target_T_source), target.structure_m))
    return Evidence(
        overlap=0.5 * (there[0] + back[0]),
        least_overlap=min(there[0], back[0]),
        seen_through=0.5 * (there[1] + back[1]),
        distance_m=0.5 * (there[2] + back[2]),
    )


def confidence(found: Evidence) -> float:
    """How likely the pose is right, 0..1."""
    return float(1.0 / (1.0 + np.exp(-(WEIGHTS @ found.features() + CONSTANT))))


def _one_way(view: View, structure_m: Array) -> tuple[float, float, float]:
    """Overlap, share seen through and mean distance of structure (N, 3) that was moved into a view's frame."""
    _, squared = view.tree.batch_nearest_neighbor_search(structure_m)
    distance = np.sqrt(np.asarray(squared))
    near = distance < NEAR_M
    mean_m = float(distance[near].mean()) if near.any() else NEAR_M
    through = 0.0
    if view.nearest_m is not None and view.farthest_m is not None:
        row, column, range_m = _pixels(structure_m)
        margin = _MARGIN_M + _MARGIN_SHARE * range_m
        nearest, farthest = view.nearest_m[row, column], view.farthest_m[row, column]
        judged = range_m < farthest + margin  # False where nothing came back, and behind what did
        passed = judged & ~near & (range_m < nearest - margin)
        through = float(passed.sum() / max(int(judged.sum()), 1))
    return float(near.mean()), through, mean_m


def _range_images(points_m: Array) -> tuple[Array, Array]:
    """The least and the greatest range in each pixel and the eight around it (rows, columns); NaN in empty pixels."""
    row, column, range_m = _pixels(points_m[np.isfinite(points_m).all(axis=1)])
    pixel = row * _COLUMNS + column
    order = np.argsort(range_m, kind="stable")
    nearest, farthest = np.full(_ROWS * _COLUMNS, np.inf, np.float32), np.full(_ROWS * _COLUMNS, -np.inf, np.float32)
    farthest[pixel[order]] = range_m[order]  # the last of equal indices stands
    nearest[pixel[order[::-1]]] = range_m[order[::-1]]
    nearest, farthest = nearest.reshape(_ROWS, _COLUMNS), farthest.reshape(_ROWS, _COLUMNS)
    empty = np.isinf(nearest)
    nearest, farthest = -_greatest_around(-nearest), _greatest_around(farthest)
    nearest[empty], farthest[empty] = np.nan, np.nan
    return nearest, farthest


def _greatest_around(image: Array) -> Array:
    """Each pixel's greatest neighbour or itself; columns wrap around, rows end."""
    across = np.maximum(np.maximum(np.roll(image, 1, axis=1), np.roll(image, -1, axis=1)), image)
    result: Array = across.copy()
    result[1:] = np.maximum(result[1:], across[:-1])
    result[:-1] = np.maximum(result[:-1], across[1:])
    return result


def _pixels(points_m: Array) -> tuple[Array, Array, Array]:
    """Row, column and range (N,) of points in a range image."""
    x, y, z = points_m.T
    level = np.hypot(x, y)
    row = np.clip(((np.arctan2(z, level) + 0.5 * np.pi) / _PIXEL_RAD).astype(np.int64), 0, _ROWS - 1)
    column = np.clip(((np.arctan2(y, x) + np.pi) / _PIXEL_RAD).astype(np.int64), 0, _COLUMNS - 1)
    return row, column, np.hypot(level, z).astype(np.float32)
