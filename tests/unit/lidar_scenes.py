"""A small ray caster for the LiDAR tests: any height field with upright boxes on it, seen by a spinning scanner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
HeightField = Callable[[Array, Array], Array]

SIXTEEN_BEAMS = np.radians(np.linspace(-15.0, 15.0, 16))
SIXTY_FOUR_BEAMS = np.radians(np.linspace(-24.8, 2.0, 64))
DRONE_BEAMS = np.radians(np.linspace(-52.0, 7.0, 40))


@dataclass(frozen=True)
class SceneBoxes:
    """Boxes standing in a scene, in the sensor's frame."""

    centers_m: Array
    sizes_m: Array
    yaws_rad: Array


@dataclass(frozen=True)
class Scan:
    """points_m (N, 3) float32; owners (N,) the box of each, -1 for the ground."""

    points_m: Array
    owners: Array


def flat(height_m: float) -> HeightField:
    """Level ground height_m below the sensor."""
    return lambda x, y: np.zeros_like(x) - height_m + 0.0 * y


def slope(height_m: float, along_x: float, along_y: float) -> HeightField:
    """A plane with the given gradients."""
    return lambda x, y: along_x * x + along_y * y - height_m


def hills(height_m: float, amplitude_m: float, wavelength_m: float) -> HeightField:
    """Waves in x and y, level under the sensor."""
    k = 2.0 * np.pi / wavelength_m
    return lambda x, y: amplitude_m * (1.0 - np.cos(k * x) * np.cos(0.8 * k * y)) - height_m


def standing_on(ground: HeightField, xy_m: Array, sizes_m: Array, yaws_rad: Array) -> SceneBoxes:
    """Boxes (K, 2), (K, 3), (K,) whose bottom middle stands on the ground."""
    xy, sizes = np.asarray(xy_m, float).reshape(-1, 2), np.asarray(sizes_m, float).reshape(-1, 3)
    z = ground(xy[:, 0], xy[:, 1]) + sizes[:, 2] / 2
    return SceneBoxes(np.column_stack([xy, z]), sizes, np.asarray(yaws_rad, float))


def scan(
    ground: HeightField | None,
    boxes: SceneBoxes,
    elevations_rad: Array = SIXTEEN_BEAMS,
    columns: int = 900,
    max_range_m: float = 100.0,
    noise_m: float = 0.01,
    seed: int = 0,
) -> Scan:
    """One noise-stricken sweep from the origin."""
    azimuths = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    elevation, azimuth = (a.ravel() for a in np.meshgrid(elevations_rad, azimuths, indexing="ij"))
    rays = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    ranges = np.full((len(boxes.yaws_rad) + 1, rays.shape[1]), np.inf)
    if ground is not None:
        ranges[0] = _to_ground(ground, rays, max_range_m)
    if len(boxes.yaws_rad):
        ranges[1:] = _to_boxes(boxes, rays)
    owners, nearest = np.argmin(ranges, axis=0) - 1, ranges.min(axis=0)
    seen = nearest < max_range_m
    noisy = nearest[seen] + np.random.default_rng(seed).normal(0.0, noise_m, int(seen.sum()))
    return Scan((rays[:, seen] * noisy).T.astype(np.float32), owners[seen])


def _to_ground(ground: HeightField, rays: Array, max_range_m: float) -> Array:
    """Range of the first point below the ground: marching, then bisection."""
    low, high = np.zeros(rays.shape[1]), np.full(rays.shape[1], np.inf)
    for step in np.geomspace(0.5, max_range_m, 120):
        below = step * rays[2] < ground(step * rays[0], step * rays[1])
        high = np.where(below & np.isinf(high), step, high)
        low = np.where(np.isinf(high), step, low)
    hit = np.isfinite(high)
    low, high, rays = low[hit], high[hit], rays[:, hit]
    for _ in range(20):
        middle = 0.5 * (low + high)
        below = middle * rays[2] < ground(middle * rays[0], middle * rays[1])
        low, high = np.where(below, low, middle), np.where(below, middle, high)
    result = np.full(len(hit), np.inf)
    result[hit] = high
    return result


def _to_boxes(boxes: SceneBoxes, rays: Array) -> Array:
    """Ranges (K, N) by the slab method."""
    cos, sin = np.cos(boxes.yaws_rad)[:, None], np.sin(boxes.yaws_rad)[:, None]
    directions = np.stack(
        [
            cos * rays[0] + sin * rays[1],
            cos * rays[1] - sin * rays[0],
            np.broadcast_to(rays[2], (len(cos), rays.shape[1])),
        ]
    )
    cx, cy, cz = (-boxes.centers_m).T[..., None]
    origins = np.stack([cos * cx + sin * cy, cos * cy - sin * cx, cz])
    half = boxes.sizes_m.T[..., None] / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = np.stack([(-half - origins) / directions, (half - origins) / directions])
    near, far = sides.min(axis=0).max(axis=0), sides.max(axis=0).min(axis=0)
    return np.where((near <= far) & (near > 0), near, np.inf)
