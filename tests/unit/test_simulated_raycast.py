"""The ray caster against a brute-force oracle: every ray with every solid, in float64, by other formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.sensors.simulated.primitives import BOX, CYLINDER, ELLIPSOID, Primitives, concatenate, from_parts
from devices.sensors.simulated.raycast import GROUND, MISS, Rays, cast, surface
from devices.sensors.simulated.render import Camera, camera_rays, image_windows
from devices.sensors.simulated.windows import Windows, box_distance, spinning_windows
from tercel.core.geometry import from_rotation_translation, rotation_about_z, so3_exp

MAX_RANGE_M = 60.0
GROW_M = 2e-3


def solids(rng, n, *, speed=0.0, around=30.0):
    result = from_parts([])
    return type(result)(
        kind=rng.integers(0, 3, n).astype(np.int8),
        centers_m=rng.uniform([-around, -around, 0], [around, around, 5], (n, 3)),
        half_m=same_radius(rng.uniform(0.15, 4.0, (n, 3)).astype(np.float32)),
        yaws_rad=rng.uniform(-4, 4, n),
        velocities_mps=rng.uniform(-speed, speed, (n, 3)) if speed else np.zeros((n, 3)),
        yaw_rates_radps=rng.uniform(-0.5, 0.5, n) if speed else np.zeros(n),
        colors_bgr=np.zeros((n, 3), np.float32),
        material=np.zeros(n, np.int8),
        pattern=np.zeros(n, np.int32),
        swing_m=np.zeros(n),
        owner=np.arange(n),
    )


def same_radius(half):
    half[:, 1] = np.where(np.arange(len(half)) % 2, half[:, 0], half[:, 1])
    return half


def round_cylinders(primitives):
    half = primitives.half_m.copy()
    half[:, 1] = np.where(primitives.kind == CYLINDER, half[:, 0], half[:, 1])
    return resized(primitives, half)


def resized(primitives, half):
    values = {**vars(primitives), "half_m": half.astype(np.float64)}
    return Primitives(**values)


def oracle(origins, directions, times, primitives):
    """Nearest entry (rays,) by testing candidate points on every face: planes for boxes, quadratics for the others."""
    best = np.full(len(origins), np.inf)
    down = directions[:, 2] < 0
    best[down] = -origins[down, 2] / directions[down, 2]
    for i in range(len(primitives)):
        rotation = rotation_about_z(-(primitives.yaws_rad[i] + primitives.yaw_rates_radps[i] * times))
        center = primitives.centers_m[i] + primitives.velocities_mps[i] * times[:, None]
        o = np.einsum("nij,nj->ni", rotation, origins - center)
        d = np.einsum("nij,nj->ni", rotation, directions)
        half = primitives.half_m[i].astype(np.float64)
        best = np.minimum(best, entry(int(primitives.kind[i]), o, d, half))
    return np.where(best <= MAX_RANGE_M, best, np.inf)


def entry(kind, o, d, half):
    candidates = []
    with np.errstate(all="ignore"):
        if kind == BOX:
            for axis in range(3):
                for sign in (-1, 1):
                    t = (sign * half[axis] - o[:, axis]) / d[:, axis]
                    point = o + t[:, None] * d
                    others = [k for k in range(3) if k != axis]
                    inside = (np.abs(point[:, others]) <= half[others]).all(axis=1)
                    candidates.append(np.where(inside & (t > 0), t, np.inf))
            return np.min(candidates, axis=0)
        scale = half if kind == ELLIPSOID else np.array([half[0], half[0], np.inf])
        p, q = o / scale, d / scale
        a, b, c = (q * q).sum(1), 2 * (p * q).sum(1), (p * p).sum(1) - 1
        root = np.sqrt(b * b - 4 * a * c)
        for t in ((-b - root) / (2 * a), (-b + root) / (2 * a)):
            height = np.abs(o[:, 2] + t * d[:, 2])
            ok = (t > 0) & ((height <= half[2]) if kind == CYLINDER else True)
            candidates.append(np.where(ok, t, np.inf))
        if kind == CYLINDER:
            for sign in (-1, 1):
                t = (sign * half[2] - o[:, 2]) / d[:, 2]
                point = o + t[:, None] * d
                ok = (t > 0) & ((point[:, :2] ** 2).sum(1) <= half[0] ** 2)
                candidates.append(np.where(ok, t, np.inf))
        return np.nan_to_num(np.min(candidates, axis=0), nan=np.inf)


def check_against_oracle(rays, primitives, windows):
    """A little smaller solids must be met no nearer, a little larger ones no farther: exact but for rounding."""
    hits = cast(rays, primitives, windows, max_range_m=MAX_RANGE_M)
    shape = hits.range_m.shape
    origins = np.stack([np.broadcast_to(o, shape).ravel() for o in rays.origins_m], axis=1).astype(np.float64)
    directions = np.stack([d.ravel() for d in rays.directions], axis=1).astype(np.float64)
    times = np.broadcast_to(rays.times_s, shape).ravel()
    far = oracle(origins, directions, times, resized(primitives, primitives.half_m - GROW_M))
    near = oracle(origins, directions, times, resized(primitives, primitives.half_m + GROW_M))
    found = hits.range_m.ravel().astype(np.float64)
    assert (found <= np.where(np.isfinite(far), far + 1e-3, np.inf)).all()
    near_the_end = near > MAX_RANGE_M - 1e-2
    assert (near_the_end | (found >= near - 1e-3)).all()
    assert ((hits.primitive == MISS) == ~np.isfinite(hits.range_m)).all()
    return hits


def outside(primitives, positions, times):
    distance = box_distance(primitives, positions, times).min(axis=1)
    return primitives.take(np.flatnonzero(distance > 0.3))


def sweep_rays(rng, rings, columns):
    elevation = np.linspace(-0.6, 0.4, rings)
    azimuth = np.pi - (np.arange(columns) + 0.5) * 2 * np.pi / columns
    times = np.linspace(-0.1, 0, columns)
    start = np.array([0.0, 0.0, rng.uniform(0.5, 6)])
    positions = start + rng.uniform(-8, 8, 3) * [1, 1, 0.05] * times[:, None]
    rotations = so3_exp(rng.uniform(-0.15, 0.15, 3)) @ so3_exp(times[:, None] * rng.uniform(-1, 1, 3))
    beam = [np.cos(elevation)[:, None] * np.cos(azimuth), np.cos(elevation)[:, None] * np.sin(azimuth)]
    beam.append(np.broadcast_to(np.sin(elevation)[:, None], beam[0].shape))
    directions = np.einsum("cij,jrc->irc", rotations, np.stack(beam)).astype(np.float32)
    return Rays(tuple(positions.T), tuple(directions), times), positions, rotations, elevation


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(8, 64), (12, 120), (40, 400)]))
def test_a_sweep_from_a_moving_sensor_over_moving_solids_equals_brute_force(seed, shape):
    rng = np.random.default_rng(seed)
    rays, positions, rotations, elevation = sweep_rays(rng, *shape)
    sample = np.linspace(0, shape[1] - 1, 5).astype(int)
    primitives = round_cylinders(solids(rng, 25, speed=10.0))
    primitives = outside(primitives, positions, rays.times_s)
    windows = spinning_windows(
        primitives, positions[sample], rotations[sample], rays.times_s[sample], elevation, shape[1], MAX_RANGE_M
    )
    check_against_oracle(rays, primitives, windows)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(48, 36), (160, 120)]))
def test_a_picture_equals_brute_force(seed, size):
    rng = np.random.default_rng(seed)
    camera = Camera.with_width(*size)
    world_T_camera = from_rotation_translation(so3_exp(rng.uniform(-2.5, 2.5, 3)), rng.uniform(0.5, 5, 3))
    primitives = outside(round_cylinders(solids(rng, 25)), world_T_camera[None, :3, 3], np.zeros(1))
    rays, _ = camera_rays(camera, world_T_camera)
    check_against_oracle(rays, primitives, image_windows(camera, world_T_camera, primitives))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_points_found_lie_on_their_surface_and_normals_face_the_ray(seed):
    rng = np.random.default_rng(seed)
    rays, positions, rotations, elevation = sweep_rays(rng, 16, 128)
    primitives = outside(round_cylinders(solids(rng, 20)), positions, rays.times_s)
    windows = spinning_windows(primitives, positions, rotations, rays.times_s, elevation, 128, MAX_RANGE_M)
    hits = cast(rays, primitives, windows, max_range_m=MAX_RANGE_M)
    rows, columns = np.nonzero(hits.primitive >= 0)
    local, normal = surface(rays, hits, primitives, rows, columns)
    p = hits.primitive[rows, columns]
    unit = np.abs(local / primitives.half_m[p])
    level = np.hypot(unit[:, 0], unit[:, 1])
    kind = primitives.kind[p]
    on = np.where(kind == BOX, unit.max(1, initial=0), np.maximum(level, unit[:, 2]))
    on = np.where(kind == ELLIPSOID, np.sqrt((unit**2).sum(1)), on)
    assert np.allclose(on, 1.0, atol=2e-3)
    assert np.allclose(np.sqrt((normal**2).sum(1)), 1.0, atol=1e-5)
    facing = sum(normal[:, k] * rays.directions[k][rows, columns] for k in range(3))
    assert (facing < 0.02).all()


def one_ray(origin, direction, primitives):
    everything = Windows(
        np.arange(len(primitives)),
        np.tile([0, 1], (len(primitives), 1)),
        np.tile([0, 1], (len(primitives), 1)),
        np.zeros(len(primitives), np.float32),
    )
    rays = Rays(
        tuple(np.array([v], dtype=np.float64) for v in origin),
        tuple(np.array([[v]], dtype=np.float32) for v in direction),
        np.zeros(1),
    )
    hits = cast(rays, primitives, everything, max_range_m=MAX_RANGE_M)
    return float(hits.range_m[0, 0]), int(hits.primitive[0, 0])


@pytest.fixture
def box():
    return round_cylinders(solids(np.random.default_rng(0), 1)).take(np.array([0]))


def test_a_ray_along_an_axis_meets_a_box_where_it_should(box):
    cube = Primitives(
        **{**vars(box), "kind": np.array([BOX]), "centers_m": np.array([[10.0, 0, 1]]), "yaws_rad": np.zeros(1)}
        | {"half_m": np.ones((1, 3), np.float32)}
    )
    assert one_ray((0, 0, 1), (1, 0, 0), cube) == (9.0, 0)
    assert one_ray((0, 0, 5), (0, 0, -1), cube) == (5.0, GROUND)
    assert one_ray((0, 0, 1), (-1, 0, 0), cube) == (np.inf, MISS)
    assert one_ray((10, 0, 1.5), (1, 0, 0), cube)[1] == MISS, "a ray that begins inside does not see the box"


def test_the_nearer_of_two_solids_hides_the_other(box):
    near = Primitives(**{**vars(box), "centers_m": np.array([[10.0, 0, 1]]), "half_m": np.ones((1, 3), np.float32)})
    far = Primitives(**{**vars(near), "centers_m": np.array([[20.0, 0, 1]])})
    assert one_ray((0, 0, 1), (1, 0, 0), concatenate([far, near]))[1] == 1
    assert one_ray((0, 0, 1), (1, 0, 0), concatenate([near, far]))[1] == 0


def test_a_world_without_solids_has_a_ground_and_a_sky():
    assert one_ray((0, 0, 2), (0, 0, -1), from_parts([])) == (2.0, GROUND)
    assert one_ray((0, 0, 2), (0, 0, 1), from_parts([])) == (np.inf, MISS)
