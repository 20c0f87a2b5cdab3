"""The ground's height map against scenes whose ground is known, and against what no ground is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.clouds import Grid, Segments, usable_points
from perception.ground import GroundConfig, fit_ground, fit_plane_below
from tests.unit.lidar_scenes import (
    DRONE_BEAMS,
    SIXTEEN_BEAMS,
    SIXTY_FOUR_BEAMS,
    Array,
    HeightField,
    SceneBoxes,
    flat,
    hills,
    scan,
    slope,
    standing_on,
)

RANGE_M = 60.0
SENSORS = {"16 beams": (SIXTEEN_BEAMS, 1.8), "64 beams": (SIXTY_FOUR_BEAMS, 1.73), "drone": (DRONE_BEAMS, 20.0)}


def parked_cars(ground: HeightField) -> SceneBoxes:
    angles = np.linspace(0.0, 2 * np.pi, 9)[:-1]
    ranges = np.array([8.0, 12.0, 17.0, 22.0, 10.0, 14.0, 20.0, 9.0])
    xy = np.stack([ranges * np.cos(angles), ranges * np.sin(angles)], axis=1)
    return standing_on(ground, xy, np.tile([4.2, 1.8, 1.5], (8, 1)), angles * 0.7)


def usable(points: Array) -> Array:
    return points[usable_points(points, 1.0, RANGE_M)]


@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize(("name", "kept"), [("level", 0.999), ("slope", 0.999), ("steep", 0.999), ("hills", 0.97)])
def test_ground_points_are_found_and_objects_stand_out(sensor: str, name: str, kept: float) -> None:
    beams, height = SENSORS[sensor]
    ground = {
        "level": flat(height),
        "slope": slope(height, 0.1, -0.05),
        "steep": slope(height, 0.25, 0.1),
        "hills": hills(height, 1.0, 60.0),
    }[name]
    scene = scan(ground, parked_cars(ground), beams, columns=900)
    inside = usable_points(scene.points_m, 1.0, RANGE_M)
    points, is_ground = scene.points_m[inside], scene.owners[inside] < 0
    surface = fit_ground(points, RANGE_M, GroundConfig())
    assert surface.found
    heights = points[:, 2] - surface.under_m(points)
    assert (np.abs(heights[is_ground]) < 0.25).mean() > kept
    truly_high = ~is_ground & (points[:, 2] - ground(points[:, 0], points[:, 1]) > 0.5)
    assert (heights[truly_high] > 0.25).mean() > 0.95


def test_the_fine_surface_is_within_a_few_centimetres_of_a_steep_slope() -> None:
    ground = slope(1.7, 0.2, -0.1)
    points = usable(scan(ground, parked_cars(ground), SIXTY_FOUR_BEAMS).points_m)
    surface = fit_ground(points, RANGE_M, GroundConfig())
    x, y = np.meshgrid(np.linspace(-15, 15, 20), np.linspace(-15, 15, 20))
    here = np.stack([x.ravel(), y.ravel()], axis=1)
    assert np.abs(surface.under_m(here) - ground(here[:, 0], here[:, 1])).max() < 0.15


@given(height=st.floats(0.3, 30.0), along_x=st.floats(-0.3, 0.3), along_y=st.floats(-0.3, 0.3))
@settings(max_examples=25, deadline=None)
def test_any_plane_is_ground_at_any_sensor_height(height: float, along_x: float, along_y: float) -> None:
    xy = np.random.default_rng(1).uniform(-50, 50, (4000, 2))
    z = slope(height, along_x, along_y)(xy[:, 0], xy[:, 1])
    points = usable(np.column_stack([xy, z]).astype(np.float32))
    surface = fit_ground(points, RANGE_M, GroundConfig())
    assert surface.found
    assert np.abs(points[:, 2] - surface.under_m(points)).max() < 0.25


def test_moving_the_cloud_up_moves_the_surface_up() -> None:
    points = usable(scan(flat(1.7), parked_cars(flat(1.7)), SIXTEEN_BEAMS).points_m)
    low = fit_ground(points, RANGE_M, GroundConfig()).heights_m
    high = fit_ground(points + np.array([0, 0, 5], np.float32), RANGE_M, GroundConfig()).heights_m
    np.testing.assert_allclose(high, low + 5.0, atol=1e-3)


def test_lone_points_below_the_ground_do_not_pull_it_down() -> None:
    clean = usable(scan(flat(1.7), parked_cars(flat(1.7)), SIXTY_FOUR_BEAMS, columns=900).points_m)
    below = np.array([[8.0, 3.0, -9.0], [15.0, -6.0, -4.0], [-12.0, 0.5, -5.0]], np.float32)
    dirty = fit_ground(np.vstack([clean, below]), RANGE_M, GroundConfig())
    assert np.abs(dirty.under_m(below) + 1.7).max() < 0.15


def test_a_cloud_without_ground_has_none() -> None:
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(2000, 3))
    ball = (ball / np.linalg.norm(ball, axis=1, keepdims=True) + [5.0, 0.0, 3.0]).astype(np.float32)
    assert not fit_ground(ball, RANGE_M, GroundConfig()).found


def test_an_empty_cloud_and_a_single_point_have_no_ground() -> None:
    assert not fit_ground(np.zeros((0, 3), np.float32), RANGE_M, GroundConfig()).found
    assert not fit_ground(np.array([[3.0, 4.0, -1.0]], np.float32), RANGE_M, GroundConfig()).found


def test_the_plane_has_the_asked_share_of_points_below() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-30, 30, (2, 3000))
    z = 0.1 * x - 0.05 * y + rng.exponential(2.0, 3000)
    a, b, c = fit_plane_below(x, y, z, 0.25)
    assert abs(np.mean(z < a * x + b * y + c) - 0.25) < 0.02
    np.testing.assert_allclose([a, b], [0.1, -0.05], atol=0.01)


@pytest.mark.parametrize(
    "values", [{"cell_m": 0.0}, {"levels": 0}, {"levels": 9}, {"quantile": 1.0}, {"slope": np.nan}, {"min_cells": 0}]
)
def test_a_ground_config_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        GroundConfig(**values)  # type: ignore[arg-type]


def test_a_grid_too_fine_is_refused() -> None:
    with pytest.raises(ValueError, match="cells a side"):
        Grid.covering(1000.0, 0.1)


@given(range_m=st.floats(1.0, 200.0), cell_m=st.floats(0.1, 4.0), part=st.floats(-1.0, 1.0), other=st.floats(-1.0, 1.0))
@settings(deadline=None)
def test_every_point_in_range_has_a_cell_whose_centre_is_near(
    range_m: float, cell_m: float, part: float, other: float
) -> None:
    grid = Grid.covering(range_m, cell_m)
    point = np.array([[part * range_m, other * range_m]])
    row, column = divmod(int(grid.cells(point)[0]), grid.side)
    axis = grid.axis_m()
    assert 0 <= row < grid.side
    assert abs(axis[column] - point[0, 0]) <= 0.501 * cell_m
    assert abs(axis[row] - point[0, 1]) <= 0.501 * cell_m


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_segments_reduce_like_a_loop_over_groups(groups: list[int]) -> None:
    values = np.arange(len(groups), dtype=float) ** 1.5
    segments = Segments.of(np.array(groups))
    expected = [values[np.array(groups) == g].sum() for g in sorted(set(groups))]
    np.testing.assert_allclose(segments.reduce(np.add, values[segments.order]), expected)
    np.testing.assert_array_equal(segments.spread(np.array(sorted(set(groups)))), np.array(groups)[segments.order])


def test_unusable_points_are_left_out() -> None:
    points = np.array(
        [[5, 0, 0], [np.nan, 1, 1], [np.inf, 0, 0], [0, 0, -np.inf], [1, 0, 0], [1e30, 0, 0], [0, 0, -20], [61, 0, 0]],
        np.float32,
    )
    np.testing.assert_array_equal(usable_points(points, 2.0, 60.0), [0, 6])
