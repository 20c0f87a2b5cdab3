"""What stands and moves in the worlds, put together from boxes, cylinders and ellipsoids.

Each builder returns parts in the model's own frame: x forward, y left, z up from the ground, the origin in the middle
of the footprint. Colours are blue, green, red in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from devices.sensors.simulated.primitives import (
    BARK,
    BOX,
    CAR_BODY,
    CAR_CABIN,
    CYLINDER,
    ELLIPSOID,
    FACADE,
    FOLIAGE,
    FRUIT_FOLIAGE,
    PAVING,
    PLAIN,
    SKIN,
    WHEEL,
    Part,
    Primitives,
    from_parts,
)

CLASS_NAMES = ("person", "car", "truck")
PERSON, CAR, TRUCK = range(3)

Color = tuple[float, float, float]

_PAINTS: tuple[Color, ...] = (
    (0.75, 0.75, 0.74),
    (0.16, 0.15, 0.15),
    (0.45, 0.43, 0.42),
    (0.14, 0.12, 0.62),
    (0.55, 0.27, 0.10),
    (0.90, 0.90, 0.90),
    (0.20, 0.34, 0.12),
    (0.16, 0.48, 0.80),
)
_CLOTHES: tuple[Color, ...] = (
    (0.55, 0.25, 0.15),
    (0.20, 0.20, 0.72),
    (0.22, 0.50, 0.28),
    (0.20, 0.68, 0.85),
    (0.80, 0.80, 0.80),
    (0.25, 0.22, 0.22),
    (0.60, 0.30, 0.55),
    (0.15, 0.42, 0.85),
)
_TROUSERS: tuple[Color, ...] = ((0.32, 0.22, 0.14), (0.16, 0.16, 0.16), (0.30, 0.38, 0.45), (0.45, 0.45, 0.45))
_SKINS: tuple[Color, ...] = ((0.62, 0.74, 0.90), (0.42, 0.56, 0.76), (0.22, 0.32, 0.48))
_WALLS: tuple[Color, ...] = (
    (0.62, 0.74, 0.80),
    (0.34, 0.40, 0.66),
    (0.66, 0.66, 0.64),
    (0.45, 0.62, 0.78),
    (0.72, 0.76, 0.70),
    (0.40, 0.46, 0.54),
    (0.78, 0.82, 0.84),
    (0.52, 0.58, 0.80),
)
_TYRE: Color = (0.07, 0.07, 0.07)
_METAL: Color = (0.42, 0.42, 0.40)


@dataclass(frozen=True, eq=False)
class Model:
    """Parts with an identity: label indexes CLASS_NAMES; size_m is the truth box, length, width, height."""

    object_id: int
    label: int
    size_m: tuple[float, float, float]
    parts: Primitives


def _pick(rng: np.random.Generator, choices: tuple[Color, ...]) -> Color:
    return choices[int(rng.integers(len(choices)))]


def _wheels(xs: tuple[float, ...], half_track_m: float, radius_m: float, width_m: float = 0.24) -> list[Part]:
    size = (2 * radius_m, width_m, 2 * radius_m)
    return [Part(ELLIPSOID, (x, y, radius_m), size, _TYRE, WHEEL) for x in xs for y in (-half_track_m, half_track_m)]


def car(rng: np.random.Generator, object_id: int) -> Model:
    """A hatchback or saloon of random size and paint."""
    length, width, height = rng.uniform(3.9, 4.8), rng.uniform(1.70, 1.86), rng.uniform(1.42, 1.60)
    paint = _pick(rng, _PAINTS)
    shoulder = 0.56 * height
    cabin_length, cabin_back = length * rng.uniform(0.48, 0.56), -length * rng.uniform(0.03, 0.09)
    parts = [
        Part(BOX, (0.0, 0.0, (0.22 + shoulder) / 2), (length, width, shoulder - 0.22), paint, CAR_BODY),
        Part(
            BOX,
            (cabin_back, 0.0, (shoulder + height) / 2),
            (cabin_length, width - 0.24, height - shoulder),
            paint,
            CAR_CABIN,
        ),
        *_wheels((-0.31 * length, 0.31 * length), width / 2 - 0.10, 0.32),
    ]
    return Model(
        object_id, CAR, (length, width, height), from_parts(parts, pattern=int(rng.integers(1 << 16)), owner=object_id)
    )


def truck(rng: np.random.Generator, object_id: int) -> Model:
    """A lorry: cab, cargo box, three axles."""
    length, width, height = rng.uniform(6.5, 8.0), 2.3, rng.uniform(2.9, 3.3)
    paint = _pick(rng, _PAINTS)
    cab, cargo = 1.9, length - 2.15
    parts = [
        Part(BOX, (length / 2 - cab / 2, 0.0, 1.45), (cab, width - 0.1, 2.1), paint, CAR_CABIN),
        Part(BOX, (0.0, 0.0, 0.62), (length, 1.1, 0.3), (0.15, 0.15, 0.15)),
        Part(
            BOX, (-length / 2 + cargo / 2, 0.0, (0.85 + height) / 2), (cargo, width, height - 0.85), (0.82, 0.84, 0.84)
        ),
        *_wheels((-0.36 * length, -0.20 * length, 0.33 * length), 0.95, 0.44, 0.34),
    ]
    return Model(
        object_id,
        TRUCK,
        (length, width, height),
        from_parts(parts, pattern=int(rng.integers(1 << 16)), owner=object_id),
    )


def tractor(rng: np.random.Generator, object_id: int) -> Model:
    """A tractor with large rear wheels and a glazed cab."""
    paint = ((0.18, 0.22, 0.72), (0.20, 0.48, 0.14), (0.62, 0.34, 0.12))[int(rng.integers(3))]
    parts = [
        Part(BOX, (0.75, 0.0, 0.98), (1.8, 0.75, 0.72), paint, CAR_BODY),
        Part(BOX, (-0.6, 0.0, 0.85), (1.4, 1.0, 0.5), paint),
        Part(BOX, (-0.65, 0.0, 1.75), (1.2, 1.25, 1.5), paint, CAR_CABIN),
        Part(CYLINDER, (1.1, 0.22, 1.75), (0.09, 0.09, 0.9), (0.1, 0.1, 0.1)),
        *_wheels((-0.85,), 0.80, 0.78, 0.48),
        *_wheels((1.15,), 0.72, 0.45, 0.34),
    ]
    return Model(
        object_id, TRUCK, (3.3, 2.08, 2.5), from_parts(parts, pattern=int(rng.integers(1 << 16)), owner=object_id)
    )


def person(rng: np.random.Generator, object_id: int) -> Model:
    """A walking person; arms and legs swing with the stride."""
    height = float(rng.uniform(1.58, 1.90))
    top, trousers, skin = _pick(rng, _CLOTHES), _pick(rng, _TROUSERS), _pick(rng, _SKINS)
    s = height / 1.75
    leg, arm = 0.82 * s, 0.58 * s
    parts = [
        *(
            Part(CYLINDER, (0.0, y, z + h / 2), (d, d, h), c, PLAIN, 0.0, swing)
            for y, side in ((0.10 * s, 1.0), (-0.10 * s, -1.0))
            for z, h, d, c, swing in (
                (0.0, leg / 2, 0.13 * s, trousers, 0.17 * side),
                (leg / 2, leg / 2, 0.16 * s, trousers, 0.08 * side),
            )
        ),
        Part(ELLIPSOID, (0.0, 0.0, leg + 0.28 * s), (0.27 * s, 0.44 * s, 0.78 * s), top),
        *(
            Part(CYLINDER, (0.0, y, leg + 0.54 * s - arm / 2), (0.09 * s, 0.09 * s, arm), top, PLAIN, 0.0, swing)
            for y, swing in ((0.25 * s, -0.08), (-0.25 * s, 0.08))
        ),
        Part(CYLINDER, (0.0, 0.0, height - 0.24 * s), (0.10 * s, 0.10 * s, 0.12 * s), skin),
        Part(ELLIPSOID, (0.02, 0.0, height - 0.12 * s), (0.20 * s, 0.17 * s, 0.24 * s), skin, SKIN),
    ]
    size = (0.62 * s, 0.60 * s, height)
    return Model(object_id, PERSON, size, from_parts(parts, pattern=int(rng.integers(1 << 16)), owner=object_id))


def street_tree(rng: np.random.Generator, x: float, y: float) -> list[Part]:
    """A trunk and five overlapping crowns."""
    trunk, spread = rng.uniform(2.2, 3.0), rng.uniform(2.6, 3.8)
    green: Color = (rng.uniform(0.12, 0.22), rng.uniform(0.38, 0.50), rng.uniform(0.18, 0.34))
    turn = rng.uniform(0, 2 * np.pi)
    crowns = [Part(ELLIPSOID, (x, y, trunk + 1.5), (0.80 * spread, 0.80 * spread, 0.95 * spread), green, FOLIAGE)]
    for k in range(4):
        angle, size, out = turn + 1.6 * k, spread * rng.uniform(0.50, 0.66), 0.30 * spread
        at = (x + out * float(np.cos(angle)), y + out * float(np.sin(angle)), trunk + 0.7 + 0.5 * k)
        crowns.append(Part(ELLIPSOID, at, (size, size, 0.9 * size), green, FOLIAGE))
    return [Part(CYLINDER, (x, y, trunk / 2), (0.28, 0.28, trunk), (0.20, 0.27, 0.34), BARK), *crowns]


def fruit_tree(rng: np.random.Generator, x: float, y: float) -> list[Part]:
    """A low trunk and two crowns with fruit."""
    height, spread = rng.uniform(3.0, 3.9), rng.uniform(2.0, 2.8)
    green: Color = (rng.uniform(0.10, 0.18), rng.uniform(0.36, 0.48), rng.uniform(0.18, 0.30))
    dx, dy = rng.uniform(-0.3, 0.3, 2)
    low = Part(ELLIPSOID, (x + dx, y + dy, 0.55 * height), (spread, spread, 0.62 * height), green, FRUIT_FOLIAGE)
    top = Part(
        ELLIPSOID, (x - dx, y - dy, 0.76 * height), (0.66 * spread, 0.66 * spread, 0.48 * height), green, FRUIT_FOLIAGE
    )
    return [Part(CYLINDER, (x, y, 0.5), (0.20, 0.20, 1.0), (0.20, 0.27, 0.34), BARK), low, top]


def lamp(x: float, y: float, yaw_rad: float) -> list[Part]:
    """A lamp post; its arm points along yaw."""
    cos, sin = float(np.cos(yaw_rad)), float(np.sin(yaw_rad))
    return [
        Part(CYLINDER, (x, y, 3.0), (0.14, 0.14, 6.0), _METAL),
        Part(BOX, (x + 0.7 * cos, y + 0.7 * sin, 6.0), (1.5, 0.10, 0.08), _METAL, PLAIN, yaw_rad),
        Part(BOX, (x + 1.3 * cos, y + 1.3 * sin, 5.93), (0.6, 0.24, 0.10), (0.8, 0.85, 0.9), PLAIN, yaw_rad),
    ]


def building(
    rng: np.random.Generator, x: float, y: float, yaw_rad: float, size_m: tuple[float, float], front: float
) -> list[Part]:
    """A house with storeys of 3 m, a cornice and sometimes a hut on the roof; (x, y) is the middle of its footprint,
    size_m its width and depth; its front is its right side (front -1) or left side (1) as seen along yaw."""
    width, depth = size_m
    storeys = int(rng.integers(2, 7))
    height = 3.0 * storeys + 0.8
    wall = _pick(rng, _WALLS)
    cornice: Color = (0.8 * wall[0], 0.8 * wall[1], 0.8 * wall[2])
    parts = [
        Part(BOX, (x, y, height / 2), (width, depth, height), wall, FACADE, yaw_rad),
        Part(BOX, (x, y, height + 0.12), (width + 0.5, depth + 0.5, 0.24), cornice, PLAIN, yaw_rad),
    ]
    if rng.random() < 0.6:
        hut = (rng.uniform(2.0, 4.0), rng.uniform(2.0, 4.0), rng.uniform(1.2, 2.4))
        parts.append(Part(BOX, (x, y, height + 0.24 + hut[2] / 2), hut, (0.30, 0.36, 0.52), PLAIN, yaw_rad))
    cos, sin = float(np.cos(yaw_rad)), float(np.sin(yaw_rad))
    for along, out, z, size, color in _relief(rng, width, storeys, cornice):
        across = front * (depth / 2 + out)
        at = (x + cos * along - sin * across, y + sin * along + cos * across, z)
        parts.append(Part(BOX, at, size, color, PLAIN, yaw_rad))
    return parts


def _relief(
    rng: np.random.Generator, width: float, storeys: int, trim: Color
) -> list[tuple[float, float, float, tuple[float, float, float], Color]]:
    """What stands out of a front: a ledge, downpipes, awnings and balconies as (along, out, height, size, colour)."""
    bays = max(int(width / 2.6), 1)
    bay = width / bays
    relief = [
        (0.0, 0.06, 2.96, (width, 0.22, 0.18), trim),
        (-width / 2 + 0.25, 0.08, 1.5 * storeys, (0.14, 0.16, 3.0 * storeys), (0.40, 0.40, 0.40)),
    ]
    for i in range(bays):
        along, kind = -width / 2 + (i + 0.5) * bay, rng.random()
        if kind < 0.18:
            relief.append((along, 0.5, 2.55, (0.9 * bay, 1.0, 0.10), _pick(rng, _CLOTHES)))
        if storeys > 1 and kind > 0.72:
            floor = 3.0 * int(rng.integers(1, storeys))
            relief.append((along, 0.55, floor + 0.08, (0.85 * bay, 1.1, 0.16), trim))
            relief.append((along, 1.06, floor + 0.58, (0.85 * bay, 0.06, 0.95), (0.30, 0.30, 0.28)))
    return relief


def pavement(x: float, y: float, yaw_rad: float, length_m: float, width_m: float) -> list[Part]:
    """A slab of raised pavement with its kerb."""
    return [Part(BOX, (x, y, 0.07), (length_m, width_m, 0.14), (0.60, 0.62, 0.63), PAVING, yaw_rad)]
