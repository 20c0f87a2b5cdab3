"""How surfaces are painted: each material's colour at a point of its primitive.

Everything is a function of the point in the primitive's own axes, so that paint stays on things that move. Painters get
a patch: all the seen points of one material.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.primitives import (
    BARK,
    CAR_BODY,
    CAR_CABIN,
    FACADE,
    FOLIAGE,
    FRUIT_FOLIAGE,
    PAVING,
    SKIN,
    WHEEL,
    Primitives,
)
from devices.sensors.simulated.texture import clumps, hashed, speckle

Array = NDArray[Any]
F = np.float32

STOREY_M, BAY_M = 3.0, 2.6
GLASS_BGR = np.array([0.30, 0.24, 0.18], dtype=np.float32)
CAR_GLASS_BGR = np.array([0.22, 0.17, 0.13], dtype=np.float32)
DOOR_BGR = np.array([0.16, 0.24, 0.36], dtype=np.float32)
FRUIT_BGR = np.array([0.12, 0.16, 0.72], dtype=np.float32)
HAIR_BGR = np.array([0.10, 0.16, 0.24], dtype=np.float32)
HEADLAMP_BGR = np.array([0.92, 0.97, 0.98], dtype=np.float32)
TAIL_LAMP_BGR = np.array([0.10, 0.08, 0.80], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Patch:
    """n points of one material: their primitives' colours (n, 3), the points (n, 3) in the primitives' axes, half
    extents (n, 3), patterns (n,), and distances from the camera (n,). Painters change `color` in place."""

    color: Array
    local: Array
    half: Array
    pattern: Array
    distance: Array

    def faces(self) -> tuple[Array, Array, Array]:
        """For points on boxes: which axis their face is across, the place along the face, and its half width; (n,)."""
        axis = np.argmax(np.abs(self.local / self.half), axis=1)
        along = np.where(axis == 0, self.local[:, 1], self.local[:, 0])
        width = np.where(axis == 0, self.half[:, 1], self.half[:, 0])
        return axis, along, width


def albedo(primitives: Primitives, seen: Array, local_m: Array, distance_m: Array) -> Array:
    """Colours (n, 3) float32 of points local_m (n, 3) on primitives seen (n,) at distances (n,)."""
    color: Array = primitives.colors_bgr[seen]
    material = primitives.material[seen]
    for kind, paint in _PAINTERS.items():
        chosen = np.flatnonzero(material == kind)
        if len(chosen):
            p = seen[chosen]
            patch = Patch(
                color[chosen], local_m[chosen], primitives.half_m[p], primitives.pattern[p], distance_m[chosen]
            )
            paint(patch)
            color[chosen] = patch.color
    return color


def gloss(primitives: Primitives, seen: Array) -> Array:
    """How much of the sky a surface mirrors (n,) float32: car paint a little, its glass more."""
    material = primitives.material[seen]
    result = np.where(material == CAR_BODY, F(0.10), F(0.0))
    result[material == CAR_CABIN] = F(0.16)
    return np.asarray(result)


def _facade(patch: Patch) -> None:
    """Storeys of windows in frames, a ground floor of shop windows and doors, and a plastered wall."""
    color, half = patch.color, patch.half
    axis, along, width = patch.faces()
    wall = axis != 2
    bays = np.maximum(np.floor(2 * width / F(BAY_M)), F(1.0))
    bay = (along + width) / (2 * width) * bays
    height = patch.local[:, 2] + half[:, 2]
    storey = np.floor(height / F(STOREY_M))
    u, v = bay - np.floor(bay), height / F(STOREY_M) - storey
    ground = storey == 0
    number = patch.pattern.astype(np.int64) * 8191 + np.floor(bay).astype(np.int64) * 131 + storey.astype(np.int64) * 17
    mood = hashed(number + axis)

    color *= (F(0.94) + F(0.12) * speckle(along, height, 6.0))[:, None]
    color[~wall] *= F(0.62)
    color[(v > F(0.965)) & wall] *= F(0.82)
    color[ground & wall] *= F(0.80)
    _windows(patch, mood, wall & (height < 2 * half[:, 2] - F(0.8)), ground, u, v)
    door = ground & (mood > F(0.80)) & (np.abs(u - F(0.5)) < F(0.22)) & (v < F(0.76)) & wall
    color[door] = DOOR_BGR * (F(0.6) + mood[door][:, None])


def _windows(patch: Patch, mood: Array, wall: Array, ground: Array, u: Array, v: Array) -> None:
    """Panes, frames and glazing bars; u, v (n,) in 0..1 is the place within one bay of one storey."""
    wide = np.where(ground, F(0.40), F(0.26))
    low, high = np.where(ground, F(0.14), F(0.30)), np.where(ground, F(0.82), F(0.80))
    across = np.abs(u - F(0.5))
    window = (across < wide) & (v > low) & (v < high) & wall
    frame = (across < wide + F(0.035)) & (v > low - F(0.05)) & (v < high + F(0.03)) & wall & ~window
    patch.color[frame] = F(0.86)
    glass = GLASS_BGR * (F(0.75) + F(0.9) * mood[window][:, None])
    glass += np.where((u + v)[window][:, None] > F(0.95), F(0.10), F(0.0))
    bar = (across < F(0.018)) & ~ground
    patch.color[window] = np.where(bar[window][:, None], F(0.82), glass)


def _foliage(patch: Patch) -> None:
    """Clumps of leaves, darker below; far away only the clumps."""
    x, y, z = patch.local.T
    shift = patch.pattern.astype(np.float32)
    near = F(1.0) / (F(1.0) + patch.distance * patch.distance * F(1 / 300.0))
    clump = clumps(x + shift, y, z, 3.5) - F(0.5)
    leaf = (clumps(x + shift, y, z, 15.0) - F(0.5)) * near
    tone = F(0.92) + clump * F(0.45) + leaf * F(0.75) + z / patch.half[:, 2] * F(0.25)
    patch.color[...] *= np.maximum(tone, F(0.2))[:, None]


def _fruit_foliage(patch: Patch) -> None:
    """Leaves with red fruit of about 10 cm."""
    _foliage(patch)
    cells = patch.local * F(7.0) + patch.pattern.astype(np.float32)[:, None]
    off = cells - np.floor(cells) - F(0.5)
    inside = off[:, 0] * off[:, 0] + off[:, 1] * off[:, 1] + off[:, 2] * off[:, 2] < F(0.22)
    fruit = inside & (clumps(cells[:, 0], cells[:, 1], cells[:, 2], 1.0) > F(0.90))
    patch.color[fruit] = FRUIT_BGR


def _bark(patch: Patch) -> None:
    x, y, z = patch.local.T
    patch.color[...] *= (F(0.75) + F(0.5) * speckle(x + y, z, 9.0))[:, None]


def _car_body(patch: Patch) -> None:
    """Lamps, grille and number plates at the ends, a dark sill, door seams, dark wheel arches."""
    color, local, half = patch.color, patch.local, patch.half
    axis, along, width = patch.faces()
    height = local[:, 2] / half[:, 2]
    end, front = axis == 0, local[:, 0] > 0
    edge = np.abs(along) / width
    color[height < F(-0.72)] *= F(0.35)
    seam = (axis == 1) & (np.abs(np.abs(along) - F(0.16) * width) < F(0.015)) & (height > F(-0.7))
    color[seam] *= F(0.5)
    arch = np.abs(np.abs(local[:, 0]) - F(0.62) * half[:, 0])
    below = local[:, 2] + half[:, 2] - F(0.10)
    color[(axis == 1) & (arch * arch + below * below < F(0.38 * 0.38))] = F(0.06)
    color[end & (edge < F(0.35)) & (np.abs(height + F(0.35)) < F(0.14))] = F(0.88)
    color[end & front & (edge < F(0.5)) & (height > F(0.05)) & (height < F(0.45))] = F(0.10)
    lamp = end & (edge > F(0.62)) & (edge < F(0.96)) & (height > F(0.1)) & (height < F(0.72))
    color[lamp & front] = HEADLAMP_BGR
    color[lamp & ~front] = TAIL_LAMP_BGR


def _car_cabin(patch: Patch) -> None:
    """Glass all round between pillars, under a painted roof."""
    axis, along, width = patch.faces()
    edge = np.abs(along) / width
    pillar = (edge > F(0.90)) | ((axis == 1) & (np.abs(along + F(0.05)) < F(0.05)))
    patch.color[(axis != 2) & (patch.local[:, 2] < F(0.80) * patch.half[:, 2]) & ~pillar] = CAR_GLASS_BGR


def _paving(patch: Patch) -> None:
    """Slabs of half a metre; the kerb is lighter."""
    distance = patch.distance
    joint = F(0.03) * (F(1.0) + distance * F(0.08))
    u, v = patch.local[:, 0] * F(2.0), patch.local[:, 1] * F(2.0)
    seam = (u - np.floor(u) < joint) | (v - np.floor(v) < joint)
    slab = np.floor(u).astype(np.int64) * 57 + np.floor(v).astype(np.int64)
    tone = np.where(seam, F(0.72), F(0.90) + F(0.16) * hashed(slab))
    fade = F(1.0) / (F(1.0) + distance * distance * F(1 / 500.0))
    kerb = patch.half[:, 1] - np.abs(patch.local[:, 1]) < F(0.16)
    patch.color[...] *= np.where(kerb, F(1.18), F(0.97) + (tone - F(0.97)) * fade)[:, None]


def _wheel(patch: Patch) -> None:
    """A light hub in a dark tyre."""
    x, _, z = (patch.local / patch.half[:, :1]).T
    radius_squared = x * x + z * z
    patch.color[radius_squared < F(0.30)] = F(0.55)
    patch.color[radius_squared < F(0.03)] = F(0.20)


def _skin(patch: Patch) -> None:
    """A head: hair on top and behind."""
    x, _, z = (patch.local / patch.half).T
    hair = z - F(0.9) * x > F(0.25)
    tone = F(0.5) + F(1.8) * hashed(patch.pattern.astype(np.int64))
    patch.color[hair] = HAIR_BGR * tone[hair][:, None]


_PAINTERS = {
    FACADE: _facade,
    FOLIAGE: _foliage,
    FRUIT_FOLIAGE: _fruit_foliage,
    BARK: _bark,
    CAR_BODY: _car_body,
    CAR_CABIN: _car_cabin,
    PAVING: _paving,
    WHEEL: _wheel,
    SKIN: _skin,
}
