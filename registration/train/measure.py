"""How well descriptors match: mutual nearest neighbours between two views, and how many of them are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from registration.distant.patches import patches, pyramid
from registration.train.data import View, World
from registration.train.network import Descriptor

Array = NDArray[Any]

BINS_M = ((5.0, 10.0), (10.0, 20.0), (20.0, 30.0), (30.0, 40.0), (40.0, 50.0))
RIGHT_M = 1.5  # two voxels of a metre, each with its mean anywhere


@torch.no_grad()
def described(network: Descriptor, view: View) -> Array:
    """Descriptors (K, D) of a view's keypoints."""
    seen = patches(pyramid(view.grid), view.keypoints_m)
    result: Array = network(torch.from_numpy(seen), torch.from_numpy(view.height_m)).numpy()
    return result


def mutual_matches(target: Array, source: Array) -> tuple[Array, Array]:
    """Rows of target and of source (M,) that are each other's nearest, best first."""
    score = target @ source.T
    best = score.argmax(axis=1)
    rows = np.flatnonzero(score.argmax(axis=0)[best] == np.arange(len(target)))
    order = np.argsort(-score[rows, best[rows]], kind="stable")
    return rows[order], best[rows][order]


def pairs_of(world: World, nearest_m: float, farthest_m: float, count: int, seed: int) -> list[tuple[int, int]]:
    """Up to `count` pairs of views so far apart."""
    positions = world.positions_m
    distance_m = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    found = np.argwhere(np.triu((distance_m >= nearest_m) & (distance_m < farthest_m)))
    chosen = np.random.default_rng(seed).permutation(len(found))[:count]
    return [(int(a), int(b)) for a, b in found[chosen]]


def inlier_ratios(
    describe: Callable[[View], Array], worlds: list[World], nearest_m: float, farthest_m: float,
    *, count: int = 6, seed: int = 0,
) -> tuple[Array, Array]:  # fmt: skip
    """Of each pair of views, the share of mutual matches within RIGHT_M of the truth, and their number: (P,), (P,)."""
    shares, numbers = [], []
    for world in worlds:
        known: dict[int, Array] = {}
        for a, b in pairs_of(world, nearest_m, farthest_m, count, seed):
            for index in (a, b):
                known[index] = describe(world.views[index]) if index not in known else known[index]
            rows, columns = mutual_matches(known[a], known[b])
            apart_m = np.linalg.norm(world.views[a].world_m[rows] - world.views[b].world_m[columns], axis=1)
            shares.append(float(np.mean(apart_m < RIGHT_M)) if len(rows) else 0.0)
            numbers.append(int(np.sum(apart_m < RIGHT_M)))
    return np.array(shares), np.array(numbers)
