"""Whether two scans contradict each other at a pose: what one saw through, the other must not have hit.

A scan says of each direction how far it is free. A structure point of the other scan that lies nearer was seen through
and contradicts the pose; one that lies at what was hit supports it; one behind says nothing. At a small overlap most
points say nothing, and the few that do must agree. This is the visibility check of range-image map cleaning (Pomerleau
et al., ICRA 2014; Kim and Kim, "Remove, then revert", IROS 2020), asked of poses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import inverse, transform_points

Array = NDArray[Any]

_STEP_RAD = np.radians(1.0)
_LOW_RAD, _HIGH_RAD = np.radians(-50.0), np.radians(50.0)
_COLUMNS, _ROWS = round(2 * np.pi / _STEP_RAD), round((_HIGH_RAD - _LOW_RAD) / _STEP_RAD)
_TOLERANCE_M, _TOLERANCE_SHARE = 0.5, 0.01
_MAX_POINTS = 60_000


@dataclass(frozen=True, eq=False)
class View:
    """What one scan saw: the nearest and farthest return (rows * columns,) float32 in each direction, inf and 0 where
    there is none, in the frame of its sensor."""

    near_m: Array
    far_m: Array


@dataclass(frozen=True)
class Agreement:
    """How many points of either scan support the pose, and how many contradict it."""

    supporting: int
    contradicting: int


def view_of(points_m: Array) -> View:
    """The view of a scan (N, 3) in its sensor's frame; points that are not finite are left out."""
    points_m = points_m[:: 1 + len(points_m) // _MAX_POINTS]
    points_m = points_m[np.isfinite(points_m).all(axis=1)]
    cell, range_m = _directions(points_m)
    near_m = np.full(_ROWS * _COLUMNS, np.inf, np.float32)
    far_m = np.zeros(_ROWS * _COLUMNS, np.float32)
    np.minimum.at(near_m, cell, range_m)
    np.maximum.at(far_m, cell, range_m)
    return View(near_m, far_m)


def agreement(target: View, source: View, target_m: Array, source_m: Array, target_T_source: Array) -> Agreement:
    """Hold the structure of each scan, (N, 3) and (M, 3) in its own sensor's frame, against the other's view."""
    supporting, contradicting = 0, 0
    for view, points_m in (
        (target, transform_points(target_T_source, source_m)),
        (source, transform_points(inverse(target_T_source), target_m)),
    ):
        cell, range_m = _directions(points_m)
        tolerance_m = _TOLERANCE_M + _TOLERANCE_SHARE * range_m
        near_m, far_m = view.near_m[cell], view.far_m[cell]
        contradicting += int(np.count_nonzero((range_m < near_m - tolerance_m) & (far_m > 0)))
        supporting += int(np.count_nonzero((range_m >= near_m - tolerance_m) & (range_m <= far_m + tolerance_m)))
    return Agreement(supporting, contradicting)


def _directions(points_m: Array) -> tuple[Array, Array]:
    """Each point's cell (N,) of the spherical image and its range (N,) float32."""
    level_m = np.hypot(points_m[:, 0], points_m[:, 1])
    azimuth, elevation = np.arctan2(points_m[:, 1], points_m[:, 0]), np.arctan2(points_m[:, 2], level_m)
    column = np.floor((azimuth + np.pi) / _STEP_RAD).astype(np.int64) % _COLUMNS
    row = np.clip(np.floor((elevation - _LOW_RAD) / _STEP_RAD).astype(np.int64), 0, _ROWS - 1)
    return row * _COLUMNS + column, np.hypot(level_m, points_m[:, 2]).astype(np.float32)
