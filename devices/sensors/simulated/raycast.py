"""Cast rays on upright boxes, upright cylinders, ellipsoids and the ground, with numpy alone.

The rays form a grid of rows and columns: a LiDAR sweep (rings x azimuth steps) or an image. A column has one time and,
for primary rays, one origin, so that a sensor and objects that move during a sweep cost nothing extra. Four things make
it fast:

* a window of rows and columns around each primitive (windows.py), so that only rays which can meet it are tested;
* large windows are tested one primitive after the other, near ones first, on contiguous blocks; a primitive that
  begins behind everything already found in its window is skipped;
* small windows are flattened into one list of (primitive, ray) pairs and tested together;
* float32. Only + - * / sqrt, minimum and maximum touch float32 numbers: IEEE 754 fixes their results to the last bit,
  so every machine finds the same hits. Sines and cosines, which differ in the last bit between processors, are taken
  in float64 and rounded.

The intersections are the slab method (Kay and Kajiya, 1986) in the form "interval of ray parameters inside the solid";
circles and ellipsoids use the numerically robust distance form of Haines et al., Ray Tracing Gems (2019), chapter 7.
A ray that begins inside a solid does not see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.primitives import BOX, CYLINDER, ELLIPSOID, NO_OWNER, Primitives
from devices.sensors.simulated.windows import Windows

Array = NDArray[Any]
Triple = tuple[Array, Array, Array]

MISS, GROUND = -1, -2
SMALL_WINDOW_RAYS = 384  # below this, numpy's cost per call outweighs the cost per ray
MAX_PAIRS = 400_000  # bounds the memory of one flattened batch


@dataclass(frozen=True, eq=False)
class Rays:
    """A grid of R x C rays in the world's axes.

    origins_m: x, y, z, each (C,) or (R, C) float64; directions: x, y, z, each (R, C) float32 of unit length (or () for
    parallel rays); times_s (C,) float64 after the primitives' reference time.
    """

    origins_m: Triple
    directions: Triple
    times_s: Array


@dataclass(frozen=True, eq=False)
class Hits:
    """range_m (R, C) float32, inf where nothing is met; primitive (R, C) int32, an index, GROUND or MISS."""

    range_m: Array
    primitive: Array


def cast(rays: Rays, primitives: Primitives, windows: Windows, *, max_range_m: float) -> Hits:
    """The first surface that each ray meets: a primitive's or the ground's (the plane z = 0).

    A primitive is only tested against the rays of its windows (see windows.py; a primitive may have several).
    """
    scene = _local(rays, primitives)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        down = rays.directions[2] < 0
        to_ground = np.where(down, -rays.origins_m[2].astype(np.float32) / rays.directions[2], np.float32(np.inf))
        to_ground[~(to_ground <= max_range_m)] = np.inf
        range_m = np.ascontiguousarray(to_ground, dtype=np.float32)
        index = np.where(np.isfinite(range_m), np.int32(GROUND), np.int32(MISS))
        small = windows.rays <= SMALL_WINDOW_RAYS
        for window in windows.take(np.flatnonzero(~small)).sorted_by_distance().tuples():
            _cast_block(scene, window, range_m, index)
        for batch in windows.take(np.flatnonzero(small)).batches(MAX_PAIRS):
            _cast_pairs(scene, batch, range_m, index)
    index[~(range_m <= max_range_m)] = MISS
    range_m[index == MISS] = np.inf
    return Hits(range_m, index)


def cast_shadow(rays: Rays, primitives: Primitives, windows: Windows, lit: Array) -> Array:
    """Which rays of lit (R, C) bool meet any primitive: (R, C) bool. For parallel rays from surfaces to the sun."""
    scene = _local(rays, primitives)
    waiting = lit.copy()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for p, r0, r1, c0, c1, _ in windows.tuples():
            block = waiting[r0:r1, c0:c1]
            if not block.any():
                continue
            near, far = _span(scene, p, slice(r0, r1), slice(c0, c1))
            block &= ~((near <= far) & (far > 0))
    result: Array = lit & ~waiting
    return result


@dataclass(frozen=True, eq=False)
class _Scene:
    """Rays and primitives relative to a common point, so that float32 is precise near the sensor."""

    origins: Triple
    directions: Triple
    times: Array
    primitives: Primitives
    centers: Array  # (N, 3) float32, relative to the common point
    velocities: Array  # (N, 3) float32
    cos: Array  # (N,) float32 of the yaw
    sin: Array
    moving: Array  # (N,) bool


def _local(rays: Rays, primitives: Primitives) -> _Scene:
    """Subtract the first ray's origin in float64, then go to float32."""
    common = np.array([float(axis.flat[0]) for axis in rays.origins_m])
    x, y, z = ((axis - base).astype(np.float32) for axis, base in zip(rays.origins_m, common, strict=True))
    return _Scene(
        origins=(x, y, z),
        directions=rays.directions,
        times=rays.times_s,
        primitives=primitives,
        centers=(primitives.centers_m - common).astype(np.float32),
        velocities=primitives.velocities_mps.astype(np.float32),
        cos=np.cos(primitives.yaws_rad).astype(np.float32),
        sin=np.sin(primitives.yaws_rad).astype(np.float32),
        moving=(primitives.velocities_mps != 0).any(axis=1) | (primitives.yaw_rates_radps != 0),
    )


def _span(scene: _Scene, p: int, rows: slice, columns: slice) -> tuple[Array, Array]:
    """Entry and exit of each ray of a window, in metres along the ray. near > far (or NaN): no meeting."""
    window = (rows, columns)
    ox, oy, oz = (axis[window] if axis.ndim == 2 else axis[columns] for axis in scene.origins)
    dx, dy, dz = (axis[window] if axis.ndim == 2 else axis for axis in scene.directions)
    cx, cy, cz = scene.centers[p]
    cos, sin = scene.cos[p], scene.sin[p]
    if scene.moving[p]:
        times = scene.times[columns]
        seconds = times.astype(np.float32)
        vx, vy, vz = scene.velocities[p]
        cx, cy, cz = cx + vx * seconds, cy + vy * seconds, cz + vz * seconds
        yaw = scene.primitives.yaws_rad[p] + scene.primitives.yaw_rates_radps[p] * times
        cos, sin = np.cos(yaw).astype(np.float32), np.sin(yaw).astype(np.float32)
    return _kind_span(
        int(scene.primitives.kind[p]),
        (ox - cx, oy - cy, oz - cz),
        (dx, dy, dz),
        cos,
        sin,
        tuple(scene.primitives.half_m[p]),
    )


def _kind_span(kind: int, origin: Triple, direction: Triple, cos: Array, sin: Array, half: Any) -> tuple[Array, Array]:
    """The interval of each ray inside a solid of one kind whose middle is the zero of `origin`."""
    if kind == CYLINDER:
        return _cylinder_span(origin, direction, half)
    ox, oy, oz = origin
    dx, dy, dz = direction
    origin = (cos * ox + sin * oy, cos * oy - sin * ox, oz)
    direction = (cos * dx + sin * dy, cos * dy - sin * dx, dz)
    return _box_span(origin, direction, half) if kind == BOX else _ellipsoid_span(origin, direction, half)


def _box_span(origin: Triple, direction: Triple, half: Any) -> tuple[Array, Array]:
    near, far = _slab(origin[0], direction[0], half[0])
    for axis in (1, 2):
        enter, leave = _slab(origin[axis], direction[axis], half[axis])
        near, far = np.maximum(near, enter), np.minimum(far, leave)
    return near, far


def _slab(origin: Array, direction: Array, half: Any) -> tuple[Array, Array]:
    inverse = np.float32(1.0) / direction
    first, second = (-half - origin) * inverse, (half - origin) * inverse
    return np.minimum(first, second), np.maximum(first, second)


def _cylinder_span(origin: Triple, direction: Triple, half: Any) -> tuple[Array, Array]:
    """The circle's chord, by the distance of the ray's line from the axis, cut by the slab between the caps."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    square = dx * dx + dy * dy
    cross = ox * dy - oy * dx
    chord = np.sqrt(square * (half[0] * half[0]) - cross * cross)  # NaN where the line passes by
    middle = -(ox * dx + oy * dy)
    enter, leave = _slab(oz, dz, half[2])
    return np.maximum((middle - chord) / square, enter), np.minimum((middle + chord) / square, leave)


def _ellipsoid_span(origin: Triple, direction: Triple, half: Any) -> tuple[Array, Array]:
    """The unit sphere's chord, in axes scaled by the half extents."""
    ox, oy, oz = (o / h for o, h in zip(origin, half, strict=True))
    dx, dy, dz = (d / h for d, h in zip(direction, half, strict=True))
    square = dx * dx + dy * dy + dz * dz
    middle = -(ox * dx + oy * dy + oz * dz) / square
    fx, fy, fz = ox + middle * dx, oy + middle * dy, oz + middle * dz
    chord = np.sqrt((np.float32(1.0) - (fx * fx + fy * fy + fz * fz)) / square)  # NaN where the line passes by
    return middle - chord, middle + chord


def _cast_block(scene: _Scene, window: tuple[int, int, int, int, int, float], range_m: Array, index: Array) -> None:
    """Test one primitive on all rays of its window; update range_m and index in place."""
    p, r0, r1, c0, c1, distance = window
    best = range_m[r0:r1, c0:c1]
    if not (best > distance).any():
        return
    near, far = _span(scene, p, slice(r0, r1), slice(c0, c1))
    hit = near <= far
    hit &= near > 0
    hit &= near < best
    np.copyto(best, near, where=hit)
    np.copyto(index[r0:r1, c0:c1], np.int32(p), where=hit)


def _cast_pairs(scene: _Scene, windows: Windows, range_m: Array, index: Array) -> None:
    """Test many small windows at once, as a flat list of (primitive, row, column)."""
    p, row, column, distance = windows.pairs()
    open_ = range_m[row, column] > distance
    p, row, column = p[open_], row[open_], column[open_]
    best = range_m.ravel()
    flat = row * range_m.shape[1] + column
    near = np.full(len(p), np.inf, dtype=np.float32)
    kinds = scene.primitives.kind[p]
    for kind in (BOX, CYLINDER, ELLIPSOID):
        chosen = np.flatnonzero(kinds == kind)
        near[chosen] = _pair_near(scene, kind, p[chosen], row[chosen], column[chosen])
    np.minimum.at(best, flat, near)
    won = near == best[flat]
    won &= np.isfinite(near)
    index.ravel()[flat[won]] = p[won]


def _pair_near(scene: _Scene, kind: int, p: Array, row: Array, column: Array) -> Array:
    """Entry distance of each pair, inf where they do not meet."""
    times = scene.times[column]
    seconds = times.astype(np.float32)
    ox, oy, oz = (
        (axis[row, column] if axis.ndim == 2 else axis[column])
        - (scene.centers[p, k] + scene.velocities[p, k] * seconds)
        for k, axis in enumerate(scene.origins)
    )
    dx, dy, dz = (axis[row, column] for axis in scene.directions)
    cos, sin = scene.cos[p], scene.sin[p]
    turning = np.flatnonzero(scene.primitives.yaw_rates_radps[p])
    if len(turning):
        yaw = scene.primitives.yaws_rad[p[turning]] + scene.primitives.yaw_rates_radps[p[turning]] * times[turning]
        cos[turning], sin[turning] = np.cos(yaw), np.sin(yaw)
    half = tuple(scene.primitives.half_m[p].T)
    near, far = _kind_span(kind, (ox, oy, oz), (dx, dy, dz), cos, sin, half)
    return np.where((near <= far) & (near > 0), near, np.float32(np.inf))


def surface(rays: Rays, hits: Hits, primitives: Primitives, rows: Array, columns: Array) -> tuple[Array, Array]:
    """Where on its primitive each named ray ends, and the normal there.

    rows, columns (n,): rays that met a primitive. Returns (local_m (n, 3), normals (n, 3)), float32: the point in the
    primitive's own axes about its middle, and the outward unit normal in the world's axes.
    """
    scene = _local(rays, primitives)
    p = hits.primitive[rows, columns]
    distance = hits.range_m[rows, columns]
    times = scene.times[columns]
    seconds = times.astype(np.float32)
    x, y, z = (
        (o[rows, columns] if o.ndim == 2 else o[columns])
        - (scene.centers[p, k] + scene.velocities[p, k] * seconds)
        + distance * d[rows, columns]
        for k, (o, d) in enumerate(zip(scene.origins, scene.directions, strict=True))
    )
    cos, sin = scene.cos[p], scene.sin[p]
    local = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1)
    normal = _local_normals(primitives.kind[p], local, primitives.half_m[p])
    world = np.stack(
        [cos * normal[:, 0] - sin * normal[:, 1], sin * normal[:, 0] + cos * normal[:, 1], normal[:, 2]], 1
    )
    return local, world


def owners(hits: Hits, primitives: Primitives) -> Array:
    """The id (R, C) int64 of the object that each ray meets, NO_OWNER for scenery, ground and sky."""
    if not len(primitives):
        return np.full(hits.primitive.shape, NO_OWNER, dtype=np.int64)
    return np.where(hits.primitive >= 0, primitives.owner[np.maximum(hits.primitive, 0)], np.int64(NO_OWNER))


def _local_normals(kind: Array, local: Array, half: Array) -> Array:
    """Outward unit normals (n, 3) in the primitives' own axes."""
    unit = local / half
    size = np.abs(unit)
    normal = np.zeros_like(local)
    axis = np.argmax(size, axis=1)
    cylinder = kind == CYLINDER
    across = unit[:, 0] * unit[:, 0] + unit[:, 1] * unit[:, 1]
    capped = cylinder & (size[:, 2] * size[:, 2] > across)
    flat = (kind == BOX) | capped
    axis[capped] = 2
    which = np.flatnonzero(flat)
    normal[which, axis[which]] = np.sign(local[which, axis[which]])
    side = np.flatnonzero(cylinder & ~capped)
    normal[side, :2] = unit[side, :2]
    round_ = np.flatnonzero(kind == ELLIPSOID)
    normal[round_] = unit[round_] / half[round_]
    n0, n1, n2 = normal[:, 0], normal[:, 1], normal[:, 2]
    length = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
    result: Array = normal / np.maximum(length, np.float32(1e-12))[:, None]
    return result
