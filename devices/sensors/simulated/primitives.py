"""The solids that a simulated world is made of: structure-of-arrays, moving at constant velocity for a short while.

Three kinds are enough for a street and an orchard: upright boxes (any yaw), upright cylinders, and ellipsoids with one
axis upright. Everything is described by a middle, half extents and a yaw; a cylinder's first two half extents are both
its radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BOX, CYLINDER, ELLIPSOID = 0, 1, 2

# Materials: how a surface is painted (render.py) and how well it reflects the LiDAR (REFLECTIVITY below).
PLAIN, FACADE, FOLIAGE, BARK, CAR_BODY, CAR_CABIN, PAVING, WHEEL, SKIN, FRUIT_FOLIAGE = range(10)
REFLECTIVITY = np.array([0.45, 0.35, 0.30, 0.25, 0.70, 0.40, 0.30, 0.08, 0.40, 0.32], dtype=np.float32)

NO_OWNER = -1
CORNER_SIGNS = np.array([[x, y, z] for z in (-1, 1) for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Primitives:
    """N solids at a reference time.

    kind (N,) int8; centers_m (N, 3) float64; half_m (N, 3) float32 half extents along the solid's own axes; yaws_rad
    (N,) float64; velocities_mps (N, 3) and yaw_rates_radps (N,) float64, constant around the reference time;
    colors_bgr (N, 3) float32 in 0..1; material (N,) int8; pattern (N,) int32, varies the texture; swing_m (N,) float64,
    how far a walking person's limb swings forward (builders use it, the ray caster does not); owner (N,) int64, the id
    of the object that the solid is a part of, NO_OWNER for scenery.
    """

    kind: Array
    centers_m: Array
    half_m: Array
    yaws_rad: Array
    velocities_mps: Array
    yaw_rates_radps: Array
    colors_bgr: Array
    material: Array
    pattern: Array
    swing_m: Array
    owner: Array

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, index: Array) -> Primitives:
        """The primitives that an index or a mask names."""
        return Primitives(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass(frozen=True)
class Part:
    """One solid of a model, in the model's own frame (x forward, y left, z up from the ground)."""

    kind: int
    center_m: tuple[float, float, float]
    size_m: tuple[float, float, float]
    color_bgr: tuple[float, float, float]
    material: int = PLAIN
    yaw_rad: float = 0.0
    swing_m: float = 0.0


def from_parts(parts: Sequence[Part], *, pattern: int = 0, owner: int = NO_OWNER) -> Primitives:
    """Primitives at rest in the model's frame."""
    n = len(parts)
    return Primitives(
        kind=np.array([p.kind for p in parts], dtype=np.int8),
        centers_m=np.array([p.center_m for p in parts], dtype=np.float64).reshape(n, 3),
        half_m=np.array([p.size_m for p in parts], dtype=np.float32).reshape(n, 3) / np.float32(2.0),
        yaws_rad=np.array([p.yaw_rad for p in parts], dtype=np.float64),
        velocities_mps=np.zeros((n, 3)),
        yaw_rates_radps=np.zeros(n),
        colors_bgr=np.array([p.color_bgr for p in parts], dtype=np.float32).reshape(n, 3),
        material=np.array([p.material for p in parts], dtype=np.int8),
        pattern=np.full(n, pattern, dtype=np.int32),
        swing_m=np.array([p.swing_m for p in parts], dtype=np.float64),
        owner=np.full(n, owner, dtype=np.int64),
    )


def concatenate(groups: Sequence[Primitives]) -> Primitives:
    """All primitives of the groups, in order; none of them is an empty set of primitives."""
    groups = list(groups) or [from_parts([])]
    return Primitives(*(np.concatenate([getattr(g, f.name) for g in groups]) for f in fields(Primitives)))


@dataclass(frozen=True, eq=False)
class Placement:
    """Where N models stand and how they move: positions (N, 3) m on the ground, yaws (N,), velocities (N, 3) m/s, yaw
    rates (N,) rad/s, and for walkers the phase (N,) rad of their stride with its rate (N,) rad/s."""

    positions_m: Array
    yaws_rad: Array
    velocities_mps: Array
    yaw_rates_radps: Array
    stride_rad: Array
    stride_rate_radps: Array


def place(models: Primitives, row: Array, placement: Placement) -> Primitives:
    """Put models in the world: row (N,) says which row of the placement each of their primitives belongs to.

    A part's velocity is the model's, plus what its turning and the swing of its limbs add.
    """
    yaw = placement.yaws_rad[row]
    rate = placement.yaw_rates_radps[row]
    cos, sin = np.cos(yaw), np.sin(yaw)
    forward = models.centers_m[:, 0] + models.swing_m * np.sin(placement.stride_rad[row])
    left = models.centers_m[:, 1]
    arm = np.stack([cos * forward - sin * left, sin * forward + cos * left, models.centers_m[:, 2]], axis=1)
    swing_mps = models.swing_m * np.cos(placement.stride_rad[row]) * placement.stride_rate_radps[row]
    velocity = placement.velocities_mps[row].copy()
    velocity[:, 0] += -rate * arm[:, 1] + cos * swing_mps
    velocity[:, 1] += rate * arm[:, 0] + sin * swing_mps
    return replace(
        models,
        centers_m=placement.positions_m[row] + arm,
        yaws_rad=models.yaws_rad + yaw,
        velocities_mps=velocity,
        yaw_rates_radps=rate,
    )


def standing(positions_m: Array, yaws_rad: Array) -> Placement:
    """A placement of things that do not move."""
    n = len(yaws_rad)
    zero = np.zeros(n)
    return Placement(
        np.asarray(positions_m, dtype=np.float64), np.asarray(yaws_rad), np.zeros((n, 3)), zero, zero, zero
    )


def bounding_corners(primitives: Primitives, times_s: Array) -> Array:
    """Corners (N, K, 8, 3) of the boxes around the primitives at K times after their reference time."""
    yaw = primitives.yaws_rad[:, None] + primitives.yaw_rates_radps[:, None] * times_s
    cos, sin = np.cos(yaw)[..., None], np.sin(yaw)[..., None]
    offset = primitives.half_m.astype(np.float64)[:, None, :] * CORNER_SIGNS
    center = primitives.centers_m[:, None, :] + primitives.velocities_mps[:, None, :] * times_s[:, None]
    result = np.empty((len(primitives), len(times_s), 8, 3))
    x, y = offset[:, None, :, 0], offset[:, None, :, 1]
    result[..., 0] = cos * x - sin * y + center[..., None, 0]
    result[..., 1] = sin * x + cos * y + center[..., None, 1]
    result[..., 2] = offset[:, None, :, 2] + center[..., None, 2]
    return result
