"""Point features against the paper's definition written as a loop, and matching against brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registration.features import Surface, fpfh, mutual_matches, surface
from tercel.core.geometry import se3_exp, transform_points
from tests.unit.lidar_scenes import flat, scan, standing_on

Array = NDArray[Any]

RADIUS_M, NEIGHBOURS = 3.0, 40


def scattered(seed: int, count: int = 120) -> Array:
    """A bumpy surface with some clutter, in front of the sensor."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-6.0, 6.0, (count, 2)) + np.array([10.0, 0.0])
    z = np.sin(xy[:, 0]) + 0.3 * rng.normal(size=count) - 2.0
    return np.column_stack([xy, z])


def described(points: Array) -> tuple[Surface, Array]:
    cloud = surface(points, radius_m=RADIUS_M, neighbours=NEIGHBOURS, normal_radius_m=2.0)
    return cloud, fpfh(cloud, np.arange(len(points)))


def angles(p: Array, n: Array, q: Array, m: Array) -> tuple[float, float, float]:
    """theta, alpha, phi of two points with normals (Rusu et al. 2009, equation 1), the frame at the flatter line."""
    line = (q - p) / np.linalg.norm(q - p)
    if abs(n @ line) < abs(m @ line):
        n, m, line = m, n, -line
    v = np.cross(line, n)
    v /= max(np.linalg.norm(v), 1e-6)  # a point with too few neighbours has no normal
    w = np.cross(n, v)
    return math.atan2(w @ m, n @ m), float(v @ m), float(n @ line)


def counted(cloud: Surface, i: int) -> Array:
    """A point's own histogram (33,)."""
    histogram = np.zeros((3, 11))
    near = [j for j, d in zip(cloud.neighbours[i], cloud.distances_m[i], strict=True) if np.isfinite(d)]
    for j in near:
        theta, alpha, phi = angles(cloud.points_m[i], cloud.normals[i], cloud.points_m[j], cloud.normals[j])
        for row, share in enumerate(((theta + math.pi) / (2 * math.pi), (alpha + 1) / 2, (phi + 1) / 2)):
            histogram[row, min(max(int(11 * share), 0), 10)] += 100.0 / len(near)
    return histogram.ravel()


def test_histograms_are_those_of_the_definition() -> None:
    cloud, histograms = described(scattered(0))
    own = np.array([counted(cloud, i) for i in range(len(cloud.points_m))])
    errors = []
    for i in range(len(own)):
        mean = np.zeros(33)
        for j, distance in zip(cloud.neighbours[i], cloud.distances_m[i], strict=True):
            if np.isfinite(distance):
                mean += own[j] / distance**2
        for third in range(3):
            part = mean[11 * third : 11 * third + 11]
            part *= 100.0 / max(part.sum(), 1e-12)
        errors.append(np.abs(histograms[i] - own[i] - mean).sum())
        assert histograms[i].reshape(3, 11).sum(axis=1) == pytest.approx([200.0] * 3, rel=1e-4)
    # float32 puts an angle that lies on a bin's edge into the next one, now and then, and not alike on all machines
    assert np.median(errors) < 1.0
    assert max(errors) < 0.1 * 600.0


def test_some_rows_alone_are_those_rows_of_all() -> None:
    cloud, histograms = described(scattered(1))
    rows = np.array([5, 3, 77])
    assert fpfh(cloud, rows) == pytest.approx(histograms[rows])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_turning_the_sensor_changes_no_histogram(seed: int) -> None:
    points = scattered(seed)
    turn = se3_exp(np.concatenate([np.zeros(3), np.random.default_rng(seed).normal(0.0, 2.0, 3)]))
    before, after = described(points)[1], described(transform_points(turn, points))[1]
    assert np.median(np.abs(before - after).sum(axis=1)) < 1.0


def test_normals_are_those_of_the_surface_and_face_the_sensor() -> None:
    grid = np.stack(np.meshgrid(np.arange(-5.0, 5.0, 0.5), np.arange(-5.0, 5.0, 0.5)), axis=-1).reshape(-1, 2)
    ground = np.column_stack([grid, np.full(len(grid), -1.5)])
    cloud = surface(ground, radius_m=2.0, neighbours=20, normal_radius_m=1.2)
    assert cloud.normals == pytest.approx(np.tile([0.0, 0.0, 1.0], (len(grid), 1)), abs=1e-6)
    assert cloud.variation == pytest.approx(np.zeros(len(grid)), abs=1e-9)
    above = surface(ground + np.array([0.0, 0.0, 5.0]), radius_m=2.0, neighbours=20, normal_radius_m=1.2)
    assert above.normals[:, 2] == pytest.approx(-1.0)


def test_only_neighbours_within_the_radius_count() -> None:
    points = scattered(2)
    cloud = surface(points, radius_m=1.0, neighbours=NEIGHBOURS, normal_radius_m=1.0)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert np.isfinite(cloud.distances_m).sum(axis=1).tolist() == (apart <= 1.0).sum(axis=1).tolist()


def test_a_lonely_point_has_an_empty_histogram() -> None:
    points = np.concatenate([scattered(3), [[200.0, 0.0, 0.0]]])
    assert not described(points)[1][-1].any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 60), m=st.integers(1, 60))
def test_matches_are_the_mutual_nearest_by_brute_force(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=(count, 8)).astype(np.float32) for count in (n, m))
    apart = np.linalg.norm(a[:, None] - b[None], axis=2)
    expected = {(i, int(apart[i].argmin())) for i in range(n) if apart[:, apart[i].argmin()].argmin() == i}
    rows_a, rows_b, distinct = mutual_matches(a, b)
    assert set(zip(rows_a.tolist(), rows_b.tolist(), strict=True)) == expected
    assert (np.diff(distinct) <= 0.0).all()
    assert ((distinct >= 0.0) & (distinct <= 1.0)).all()


def test_nothing_matches_nothing() -> None:
    for a, b in ((np.zeros((0, 33)), np.ones((4, 33))), (np.ones((4, 33)), np.zeros((0, 33)))):
        assert [len(part) for part in mutual_matches(a, b)] == [0, 0, 0]


def test_a_street_corner_seen_from_elsewhere_gives_right_matches() -> None:
    rng = np.random.default_rng(5)
    xy, sizes = rng.uniform(-25.0, 25.0, (12, 2)), rng.uniform(1.0, 6.0, (12, 3))
    moved = xy - [3.0, 1.0]
    clouds = [
        scan(flat(1.8), standing_on(flat(1.8), where, sizes, np.linspace(0, 3, 12)), seed=seed).points_m
        for seed, where in enumerate((xy, moved))
    ]
    parts = [described(np.unique(np.round(cloud / 0.4), axis=0) * 0.4) for cloud in clouds]
    keep = [np.flatnonzero(cloud.variation > 0.02) for cloud, _ in parts]
    rows_a, rows_b, _ = mutual_matches(*(histograms[rows] for (_, histograms), rows in zip(parts, keep, strict=True)))
    a, b = (parts[k][0].points_m[keep[k][rows]] for k, rows in ((0, rows_a), (1, rows_b)))
    right = np.linalg.norm(a - b - [3.0, 1.0, 0.0], axis=1) < 1.0
    assert right.mean() > 0.08  # by chance: 2 of 1000
