"""Procedural texture: values in 0..1 from one fixed noise picture, looked up by whole numbers.

A look-up gives the same bits on every machine, costs one gather, and needs no seed: worlds differ by where they look.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SIZE = 256


def _noise_picture() -> Array:
    """(256, 256) float32 white noise in 0..1."""
    return np.random.Generator(np.random.PCG64(1)).random((SIZE, SIZE), dtype=np.float32)


def _smoothed(picture: Array) -> Array:
    """Soft blotches eight texels wide, stretched to 0..1; it tiles."""
    for step in (1, 2, 4):
        for axis in (0, 1):
            picture = (picture + np.roll(picture, step, axis) + np.roll(picture, -step, axis)) / np.float32(3.0)
    stretched: Array = (picture - picture.min()) / (picture.max() - picture.min())
    return stretched


NOISE = _noise_picture()
BLOTCHES = _smoothed(NOISE)


def speckle(x: Array, y: Array, per_unit: float, picture: Array = BLOTCHES) -> Array:
    """The picture's values at (x, y), per_unit texels to a unit."""
    column = np.floor(x * per_unit).astype(np.int64) & (SIZE - 1)
    row = np.floor(y * per_unit).astype(np.int64) & (SIZE - 1)
    result: Array = picture[row, column]
    return result


def smooth_speckle(x: Array, y: Array, per_unit: float) -> Array:
    """Like speckle on BLOTCHES, interpolated between texels."""
    u, v = x * np.float32(per_unit), y * np.float32(per_unit)
    column, row = np.floor(u), np.floor(v)
    u, v = u - column, v - row
    left, top = column.astype(np.int64) & (SIZE - 1), row.astype(np.int64) & (SIZE - 1)
    right, bottom = (left + 1) & (SIZE - 1), (top + 1) & (SIZE - 1)
    upper = BLOTCHES[top, left] * (1 - u) + BLOTCHES[top, right] * u
    result: Array = upper * (1 - v) + (BLOTCHES[bottom, left] * (1 - u) + BLOTCHES[bottom, right] * u) * v
    return result


def clumps(x: Array, y: Array, z: Array, per_unit: float) -> Array:
    """White noise in little cubes, per_unit of them to a unit."""
    layer = np.floor(z * np.float32(per_unit)).astype(np.int64)
    column = np.floor(x * np.float32(per_unit)).astype(np.int64) + 101 * layer
    row = np.floor(y * np.float32(per_unit)).astype(np.int64) + 37 * layer
    result: Array = NOISE[row & (SIZE - 1), column & (SIZE - 1)]
    return result


def grain(x: Array, y: Array, distance_m: Array) -> Array:
    """Fine noise about 0 (-0.5..0.5) on a surface; coarser and weaker far away, where it would only flicker."""
    near = speckle(x, y, 40.0, NOISE)
    middle = speckle(x, y, 8.0)
    weight = 1.0 / (1.0 + (distance_m / 6.0) ** 2)
    far = 1.0 / (1.0 + (distance_m / 40.0) ** 2)
    result: Array = (near - 0.5) * weight + (middle - 0.5) * 0.8 * far
    return result


def hashed(numbers: Array) -> Array:
    """A number in 0..1, float32, for each whole number (int64)."""
    mixed = (numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    mixed = (mixed ^ (mixed >> np.uint64(11))) * np.uint64(0x5BD1E995) & np.uint64(0xFFFFFF)
    result: Array = mixed.astype(np.float32) / np.float32(1 << 24)
    return result
