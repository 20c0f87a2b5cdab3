"""Candidate poses from descriptors: mutual nearest neighbours, then what is consistent among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.robust import hypotheses_from_correspondences

Array = NDArray[Any]

_NOISE_M = 1.5  # keypoints are means of voxels of about 1 m, each scan's of its own side of a thing


def mutual_matches(target: Array, source: Array) -> Array:
    """(M, 2) int64 indices of descriptors (K, D) and (L, D) that are each other's nearest, the nearest pair first."""
    if not len(target) or not len(source):
        return np.zeros((0, 2), np.int64)
    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab; descriptors number a thousand at most, so the whole table fits in 4 MB
    squared = (target**2).sum(axis=1)[:, None] + (source**2).sum(axis=1)[None, :] - 2.0 * target @ source.T
    to_source, to_target = squared.argmin(axis=1), squared.argmin(axis=0)
    mutual = np.flatnonzero(to_target[to_source] == np.arange(len(target)))
    mutual = mutual[np.argsort(squared[mutual, to_source[mutual]], kind="stable")]
    return np.stack([mutual, to_source[mutual]], axis=1)


def hypotheses(
    target_m: Array, source_m: Array, target_descriptors: Array, source_descriptors: Array, *, count: int
) -> list[tuple[Array, int]]:
    """Up to `count` transforms target_T_source (4, 4) with the number of matches that each explains, most first."""
    matches = mutual_matches(target_descriptors, source_descriptors)
    found = hypotheses_from_correspondences(
        target_m[matches[:, 0]], source_m[matches[:, 1]], noise_m=_NOISE_M, count=count
    )
    return [(transform, int(explained.sum())) for transform, explained in found]
