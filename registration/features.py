"""What the surroundings of a point look like, whatever the pose, and which points of two clouds look most alike.

Fast point feature histograms (Rusu, Blodow, Beetz, "Fast Point Feature Histograms (FPFH) for 3D Registration", ICRA
2009), as PCL and Open3D compute them: three angles between the normals of a point and of each neighbour, counted in
eleven bins each, and averaged over the neighbours with weights of the inverse squared distance. Clouds must be thinned
by voxels of one size first, or else histograms tell of the sensor's density and not of the surface.

Vectorised over points and neighbours; nearest neighbours come from small_gicp's tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

Array = NDArray[Any]

BINS = 11
_ROWS_AT_A_TIME = 4096
_MATCH_ROWS_AT_A_TIME = 1024


@dataclass(frozen=True, eq=False)
class Surface:
    """points_m (N, 3) float64 with unit normals (N, 3) that face the sensor, at the origin, and their neighbours
    within a radius, nearest first: neighbours (N, K) int64 indices, distances_m (N, K) float32, infinite where a point
    has fewer than K of them. variation (N,): 0 where the surroundings are a plane, up to 1/3 where they are a ball."""

    points_m: Array
    normals: Array
    neighbours: Array
    distances_m: Array
    variation: Array


def surface(points_m: Array, *, radius_m: float, neighbours: int, normal_radius_m: float) -> Surface:
    """Normals and neighbours of a thinned cloud (N, 3); those beyond radius_m, or past the nearest K, do not count.

    A normal is that of the plane through the neighbours within normal_radius_m; with fewer than three it is zero.
    """
    points = np.ascontiguousarray(points_m, dtype=np.float64)
    count = min(neighbours + 1, len(points))
    indices, squared = small_gicp.KdTree(points).batch_knn_search(points, count)
    indices, squared = np.asarray(indices)[:, 1:].astype(np.int64), np.asarray(squared)[:, 1:].astype(np.float32)
    distances = np.where(squared <= radius_m**2, np.sqrt(squared), np.float32(np.inf))
    normals, variation = _normals(points, indices, distances <= normal_radius_m)
    return Surface(points, normals, indices, distances, variation)


def fpfh(cloud: Surface, rows: Array) -> Array:
    """Histograms (R, 33) float32 of the points at `rows` (R,); each third adds up to 100, or to 0 without neighbours.

    The point's own histogram plus the mean of its neighbours', weighted by the inverse squared distance (the paper's
    equation 2 in PCL's and Open3D's reading: each third of the mean is brought to 100).
    """
    rows = np.asarray(rows, dtype=np.int64)
    near = np.isfinite(cloud.distances_m[rows])
    needed = np.unique(np.concatenate([rows, cloud.neighbours[rows][near]]))
    place = np.full(len(cloud.points_m), len(needed), dtype=np.int64)
    place[needed] = np.arange(len(needed))
    simple = np.concatenate([_simple_histograms(cloud, needed), np.zeros((1, 3 * BINS), dtype=np.float32)])
    result = simple[place[rows]]
    for first in range(0, len(rows), _ROWS_AT_A_TIME):
        part = rows[first : first + _ROWS_AT_A_TIME]
        weights = 1.0 / np.maximum(np.square(cloud.distances_m[part]), 1e-6)  # 0 for those that do not count
        mean = np.einsum("nk,nkb->nb", weights, simple[place[cloud.neighbours[part]]])
        thirds = mean.reshape(-1, 3, BINS)
        thirds *= 100.0 / np.maximum(thirds.sum(axis=2, keepdims=True), 1e-12)
        result[first : first + _ROWS_AT_A_TIME] += mean
    return result


def mutual_matches(target: Array, source: Array) -> tuple[Array, Array, Array]:
    """Pairs of descriptors (N, D), (M, D) that are each other's nearest: indices into both, and how distinct they are.

    Most distinct first. Distinctness (K,) is 1 minus the distance over that to the second nearest (Lowe's ratio), on
    the less distinct side.
    """
    if not len(target) or not len(source):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    to_source, first_t, second_t = _nearest_two(target, source)
    to_target, first_s, second_s = _nearest_two(source, target)
    chosen = np.flatnonzero(to_target[to_source] == np.arange(len(target)))
    partner = to_source[chosen]
    ratio = np.maximum(first_t[chosen] / second_t[chosen], first_s[partner] / second_s[partner])
    order = np.argsort(ratio, kind="stable")
    return chosen[order], partner[order], 1.0 - ratio[order]


def _nearest_two(queries: Array, others: Array) -> tuple[Array, Array, Array]:
    """Index of the nearest of others (M, D) to each query (N, D), and the distances (N,) to the two nearest."""
    nearest = np.empty(len(queries), dtype=np.int64)
    first, second = np.empty(len(queries), np.float32), np.empty(len(queries), np.float32)
    norms = np.einsum("ij,ij->i", others, others)
    for start in range(0, len(queries), _MATCH_ROWS_AT_A_TIME):
        rows = slice(start, start + _MATCH_ROWS_AT_A_TIME)
        part = queries[rows]
        squared = norms - 2.0 * (part @ others.T)
        nearest[rows] = squared.argmin(axis=1)
        each = np.arange(len(part))
        offset = np.einsum("ij,ij->i", part, part)
        first[rows] = np.sqrt(np.maximum(squared[each, nearest[rows]] + offset, 0.0))
        squared[each, nearest[rows]] = np.inf
        second[rows] = np.sqrt(np.maximum(squared.min(axis=1) + offset, 1e-12))
    return nearest, first, second


def _simple_histograms(cloud: Surface, rows: Array) -> Array:
    """SPFH (R, 33) float32: the angles between each point's normal and its neighbours', counted."""
    result = np.zeros((len(rows), 3 * BINS), dtype=np.float32)
    points, normals = cloud.points_m.astype(np.float32), cloud.normals.astype(np.float32)
    for first in range(0, len(rows), _ROWS_AT_A_TIME):
        part = rows[first : first + _ROWS_AT_A_TIME]
        which, column = np.nonzero(np.isfinite(cloud.distances_m[part]))
        a, b = part[which], cloud.neighbours[part][which, column]
        bins = _pair_bins(points[b] - points[a], cloud.distances_m[a, column], normals[a], normals[b])
        counts = np.bincount((which[:, None] * (3 * BINS) + bins).ravel(), minlength=len(part) * 3 * BINS)
        counts = counts.reshape(len(part), 3 * BINS)
        result[first : first + _ROWS_AT_A_TIME] = counts * (300.0 / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    return result


def _pair_bins(line: Array, distance: Array, normal_a: Array, normal_b: Array) -> Array:
    """Histogram bins (P, 3) of the Darboux frame's three angles, for pairs with `line` (P, 3) from a to b.

    The frame stands at the point whose normal is nearer to the line, so that a pair is the same from both its ends.
    """
    line = line / np.maximum(distance, 1e-6)[:, None]
    along_a, along_b = _dot(normal_a, line), _dot(normal_b, line)
    swap = np.abs(along_a) < np.abs(along_b)
    u = np.where(swap[:, None], normal_b, normal_a)
    other = np.where(swap[:, None], normal_a, normal_b)
    line = np.where(swap[:, None], -line, line)
    phi = np.where(swap, -along_b, along_a)
    v = np.cross(line, u)
    v /= np.maximum(np.sqrt(_dot(v, v)), 1e-6)[:, None]
    w = np.cross(u, v)
    theta = np.arctan2(_dot(w, other), _dot(u, other))
    alpha = _dot(v, other)
    shares = np.stack([(theta + np.pi) / (2.0 * np.pi), (alpha + 1.0) / 2.0, (phi + 1.0) / 2.0], axis=1)
    bins: Array = np.clip((BINS * shares).astype(np.int64), 0, BINS - 1) + np.array([0, BINS, 2 * BINS])
    return bins


def _normals(points: Array, neighbours: Array, near: Array) -> tuple[Array, Array]:
    """Unit normals (N, 3) facing the origin, and the share (N,) of the variance along them."""
    weights = near.astype(np.float64)
    count = weights.sum(axis=1) + 1.0  # with the point itself
    offsets = (points[neighbours] - points[:, None]) * weights[:, :, None]
    mean = offsets.sum(axis=1) / count[:, None]
    covariance = np.einsum("nki,nkj->nij", offsets, offsets) / count[:, None, None]
    covariance -= mean[:, :, None] * mean[:, None, :]
    values, vectors = np.linalg.eigh(covariance)
    normals = vectors[:, :, 0]
    normals *= np.where(_dot(normals, points) > 0.0, -1.0, 1.0)[:, None]
    normals[count < 4] = 0.0
    return normals, values[:, 0] / np.maximum(values.sum(axis=1), 1e-12)


def _dot(a: Array, b: Array) -> Array:
    result: Array = np.einsum("ij,ij->i", a, b)
    return result
