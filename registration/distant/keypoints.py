"""Keypoints on what stands on the ground, and a classical descriptor of what surrounds each.

The descriptor sees occupied cells, not points, so that density does not change it; it knows up from down, and forgets
the heading by taking magnitudes of Fourier coefficients over azimuth, as Scan Context's Fourier successors do
(Kim and Kim, IROS 2018; RING, Lu et al., 2022), here around every keypoint. `registration.distant.learned` gives other
descriptors of the same keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.distant.structure import MAX_RANGE_M, Scene, upright_scene

Array = NDArray[Any]

MAX_KEYPOINTS = 1024
_KEYPOINT_VOXEL_M = 1.0
_CELL_M = 0.5
SLABS_M = (0.4, 1.0, 2.0, 3.5, 5.5, 9.0, np.inf)  # heights above the ground that part the slabs of occupancy
_RINGS_M = (0.0, 1.5, 3.0, 5.0, 7.5, 10.0)
_HARMONICS = 4


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan made ready for matching. scene: the upright scan; keypoints_m (K, 3) float32 in its level frame, K at most
    MAX_KEYPOINTS, each the mean of the structure in one voxel; height_m (K,) float32 of each above its ground."""

    scene: Scene
    keypoints_m: Array
    height_m: Array


def prepare(points_m: Array, *, max_keypoints: int = MAX_KEYPOINTS) -> Prepared:
    """Level, thin and part a scan (N, 3) of the sensor's frame, and choose its keypoints.

    Keypoints are spread evenly over the structure: voxels grow until there are no more than allowed. Raises Rejected
    as upright_scene does.
    """
    scene = upright_scene(points_m)
    voxel_m = _KEYPOINT_VOXEL_M
    while True:
        keypoints_m, height_m = _voxel_means(scene.structure_m, scene.height_m, voxel_m)
        if len(keypoints_m) <= max_keypoints:
            return Prepared(scene, keypoints_m, height_m)
        voxel_m *= 1.1


def describe(prepared: Prepared) -> Array:
    """Descriptors (K, D) float32 of unit length, one for each keypoint; compare them by Euclidean distance.

    For each slab of height and ring of distance: how much of it is occupied, and how unevenly over azimuth (magnitudes
    of the first harmonics). Square roots keep one large wall from outweighing all else.
    """
    slabs = occupancy_slabs(prepared.scene)
    count, side, _ = slabs.shape
    offsets, basis = _polar_basis()
    cells = _cells(prepared.keypoints_m, side)
    padding = int(np.abs(offsets).max())
    padded = np.pad(slabs, ((0, 0), (padding, padding), (padding, padding)))
    width = side + 2 * padding
    index = (cells[:, 0] + padding) * width + cells[:, 1] + padding
    index = index[:, None] + (offsets[:, 0] * width + offsets[:, 1])[None, :]
    parts = []
    for slab in padded.reshape(count, -1):  # a loop over six slabs
        moments = slab[index] @ basis
        parts.append(np.sqrt(np.hypot(moments[:, 0::2], moments[:, 1::2])))
    height = np.minimum(prepared.height_m, 10.0)[:, None] / 10.0
    descriptors = np.concatenate([*parts, height], axis=1)
    result: Array = descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)
    return result.astype(np.float32)


def occupancy_slabs(scene: Scene, cell_m: float = _CELL_M) -> Array:
    """(S, side, side) float32 of 0 and 1: whether a cell of a height slab holds structure; row x, column y."""
    side = 2 * int(np.ceil(MAX_RANGE_M / cell_m))
    slabs = np.zeros((len(SLABS_M) - 1, side, side), np.float32)
    slab = np.clip(np.searchsorted(SLABS_M, scene.height_m) - 1, 0, len(slabs) - 1)
    cells = _cells(scene.structure_m, side, cell_m)
    slabs[slab, cells[:, 0], cells[:, 1]] = 1.0
    return slabs


def _cells(points_m: Array, side: int, cell_m: float = _CELL_M) -> Array:
    """(N, 2) int64 cells of a grid of side x side about the origin."""
    result: Array = np.clip(np.floor(points_m[:, :2] / cell_m).astype(np.int64) + side // 2, 0, side - 1)
    return result


@lru_cache(maxsize=1)
def _polar_basis() -> tuple[Array, Array]:
    """Cells (C, 2) of the disc around a keypoint, and the real and imaginary parts of each ring's harmonics
    (C, 2 * rings * harmonics) float32, scaled so that a full ring has the magnitude 1."""
    reach = int(np.ceil(_RINGS_M[-1] / _CELL_M))
    rows, columns = (axis.ravel() for axis in np.meshgrid(*2 * [np.arange(-reach, reach + 1)], indexing="ij"))
    distance_m = np.hypot(rows, columns) * _CELL_M
    inside = distance_m < _RINGS_M[-1]
    offsets = np.stack([rows[inside], columns[inside]], axis=1)
    azimuth = np.arctan2(offsets[:, 1], offsets[:, 0])
    ring = np.searchsorted(_RINGS_M, distance_m[inside], side="right") - 1
    parts = []
    for k in range(len(_RINGS_M) - 1):
        in_ring = (ring == k) / np.count_nonzero(ring == k)
        for harmonic in range(_HARMONICS):
            parts += [in_ring * np.cos(harmonic * azimuth), in_ring * np.sin(harmonic * azimuth)]
    return offsets, np.stack(parts, axis=1).astype(np.float32)


def _voxel_means(points_m: Array, height_m: Array, voxel_m: float) -> tuple[Array, Array]:
    """Mean point (K, 3) and height (K,) of each occupied voxel, in order of the voxels' keys."""
    cells = np.floor(points_m / voxel_m).astype(np.int64)
    key = (cells[:, 0] * 2048 + cells[:, 1]) * 2048 + cells[:, 2]
    _, owner, count = np.unique(key, return_inverse=True, return_counts=True)
    sums = [np.bincount(owner, weights=values, minlength=len(count)) for values in (*points_m.T, height_m)]
    means = (np.stack(sums, axis=1) / count[:, None]).astype(np.float32) if len(count) else np.zeros((0, 4), np.float32)
    return means[:, :3], means[:, 3]
