"""Pairs of scans a given distance apart, from trajectories whose truth is known.

As the evaluation of GCL and APR (Liu et al., ICCV 2023 and RA-L 2023): pairs in bins of distance up to 50 m. Harder in
one thing: each source is turned by any yaw and tilted a little, as two vehicles that meet would stand, so that no
method profits from all scans of one drive looking the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, so3_exp

Array = NDArray[Any]

BINS_M: tuple[tuple[float, float], ...] = ((5, 10), (10, 20), (20, 30), (30, 40), (40, 50))
MAX_TILT_RAD = np.radians(2.0)


@dataclass(frozen=True, eq=False)
class Pair:
    """target, source: indices of the scans. bin_m: the distance's bin. turned_T_source (4, 4): apply it to the source's
    points before they are registered. target_T_turned (4, 4): the truth for points so turned."""

    target: int
    source: int
    bin_m: tuple[float, float]
    turned_T_source: Array
    target_T_turned: Array


def choose_pairs(
    world_T_target: Array,
    world_T_source: Array,
    *,
    per_bin: int,
    seed: int,
    bins_m: tuple[tuple[float, float], ...] = BINS_M,
) -> list[Pair]:
    """Up to per_bin pairs for each bin, from poses (N, 4, 4) and (M, 4, 4) of the two sensors in one world.

    Both may be the same trajectory. Each bin draws from its own stream, so that one more bin changes no other.
    """
    between_m = np.linalg.norm(world_T_target[:, None, :3, 3] - world_T_source[None, :, :3, 3], axis=2)
    pairs = []
    for number, (low_m, high_m) in enumerate(bins_m):
        rng = np.random.default_rng([seed, number])
        targets, sources = np.nonzero((between_m >= low_m) & (between_m < high_m))
        for k in rng.permutation(len(targets))[:per_bin]:
            turned_T_source = random_turn(rng)
            target_T_source = inverse(world_T_target[targets[k]]) @ world_T_source[sources[k]]
            truth = target_T_source @ inverse(turned_T_source)
            pairs.append(Pair(int(targets[k]), int(sources[k]), (low_m, high_m), turned_T_source, truth))
    return pairs


def random_turn(rng: np.random.Generator) -> Array:
    """A rotation (4, 4): any yaw, after a tilt of up to 2 degrees about a random level axis."""
    yaw, direction, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), rng.uniform(0, MAX_TILT_RAD)
    tilted = so3_exp(tilt * np.array([np.cos(direction), np.sin(direction), 0.0]))
    return from_rotation_translation(rotation_about_z(yaw) @ tilted, np.zeros(3))
