"""The simulated LiDAR: motion during a sweep, noise, dropouts, quantisation, and the order of returns."""

import numpy as np
import pytest

from devices.sensors.simulated.lidar import Lidar, lidar_rays, sweep
from devices.sensors.simulated.motion import stream
from devices.sensors.simulated.primitives import BOX, Part, Placement, from_parts, place
from devices.sensors.simulated.world import make_scene
from tercel.core.geometry import from_rotation_translation

MOUNT = from_rotation_translation(np.eye(3), np.array([0.0, 0.0, 1.0]))


def sensor(**changes):
    values = {"elevations_rad": np.radians(np.linspace(-15, 15, 16)), "columns": 720, "period_s": 0.1}
    return Lidar(**{**values, "base_T_lidar": MOUNT, **changes})


def moving_trajectory():
    return make_scene("orchard", 4).trajectory


def in_world(lidar, trajectory, end_s, result):
    """Points by the sensor's true pose at each one's own time."""
    _, positions, rotations = lidar_rays(lidar, trajectory, end_s)
    column = np.round(result.time_offset_s / lidar.period_s * lidar.columns).astype(int) + lidar.columns - 1
    return np.einsum("nij,nj->ni", rotations[column], result.points_m.astype(float)) + positions[column]


def wall_behind_and_ahead(trajectory, end_s):
    x, y, _ = trajectory.position(np.array([end_s]))[0]
    size = (0.4, 300.0, 40.0)
    return from_parts([Part(BOX, (x + d, y, 20.0), size, (0.5, 0.5, 0.5)) for d in (-15.0, 15.0)]), x


def test_undoing_the_true_motion_makes_a_wall_flat_and_ignoring_it_does_not():
    trajectory, end_s = moving_trajectory(), 20.0
    walls, x = wall_behind_and_ahead(trajectory, end_s)
    lidar = sensor(noise_m=0.0)
    result = sweep(lidar, trajectory, walls, end_s, stream(0))
    points = in_world(lidar, trajectory, end_s, result)
    on_wall = points[:, 2] > 0.1
    error = np.abs(np.abs(points[on_wall, 0] - x) - 14.8)
    assert on_wall.sum() > 500
    assert error.max() < 8e-3, "range step and coordinate step, no more"
    _, positions, rotations = lidar_rays(lidar, trajectory, end_s)
    frozen = result.points_m[on_wall] @ rotations[-1].T + positions[-1]
    assert np.abs(np.abs(frozen[:, 0] - x) - 14.8).max() > 0.1


def test_a_moving_box_is_seen_where_it_was_at_the_time_of_each_beam():
    trajectory, end_s = make_scene("street", 1).trajectory, 0.3  # the car stands
    start = trajectory.position(np.array([end_s]))[0]
    velocity = np.array([[12.0, -3.0, 0.0]])
    zero = np.zeros(1)
    box = from_parts([Part(BOX, (0, 0, 1.5), (4, 2, 3), (1, 1, 1))], owner=7)
    placement = Placement(start[None] + [[8.0, 6.0, 0.0]], zero + 0.4, velocity, zero + 0.8, zero, zero)
    lidar = sensor(noise_m=0.0, dropout=0.0)
    result = sweep(lidar, trajectory, place(box, np.zeros(1, int), placement), end_s, stream(0))
    mine = result.owner == 7
    points = in_world(lidar, trajectory, end_s, result)[mine]
    t = result.time_offset_s[mine].astype(float)
    gap = points - placement.positions_m - velocity * t[:, None]
    yaw = 0.4 + 0.8 * t
    local = np.stack(
        [np.cos(yaw) * gap[:, 0] + np.sin(yaw) * gap[:, 1], np.cos(yaw) * gap[:, 1] - np.sin(yaw) * gap[:, 0]], 1
    )
    on_a_face = np.minimum(np.abs(np.abs(local[:, 0]) - 2.0), np.abs(np.abs(local[:, 1]) - 1.0))
    assert mine.sum() > 50
    assert on_a_face.max() < 1e-2
    assert np.abs(t).max() > 0.03


def test_range_noise_and_dropouts_have_the_stated_statistics():
    trajectory, end_s = moving_trajectory(), 9.0
    walls, _ = wall_behind_and_ahead(trajectory, end_s)
    lidar = sensor(noise_m=0.03, dropout=0.2)
    clean = sweep(sensor(noise_m=0.0, dropout=-1.0), trajectory, walls, end_s, stream(0))
    result = sweep(lidar, trajectory, walls, end_s, stream(5))
    error = np.linalg.norm(result.points_m.astype(float), axis=1) - result.range_m
    assert error.mean() == pytest.approx(0.0, abs=2e-3)
    assert error.std() == pytest.approx(0.03, rel=0.05)
    near = clean.range_m < 25.0
    assert np.mean(result.range_m < 25.0) * len(result.range_m) / near.sum() == pytest.approx(0.8, abs=0.03)


def test_returns_come_in_firing_order_on_the_sensors_grid():
    trajectory = moving_trajectory()
    lidar = sensor(range_step_m=2.0**-6)
    result = sweep(lidar, trajectory, from_parts([]), 12.0, stream(3))
    assert (np.diff(result.time_offset_s) >= 0).all()
    assert result.time_offset_s.max() <= 0.0
    assert result.time_offset_s.min() > -0.1
    assert (result.points_m * 64 == np.round(result.points_m * 64)).all()
    assert ((result.intensity >= 0) & (result.intensity <= 1)).all()
    azimuth = np.arctan2(result.points_m[:, 1], result.points_m[:, 0])
    expected = np.pi - (np.round(result.time_offset_s / 0.1 * 720) + 719.5) * 2 * np.pi / 720
    gap = np.angle(np.exp(1j * (azimuth - expected)))
    assert np.abs(gap).max() < 0.01, "it turns clockwise from straight behind"
    elevation = np.arcsin(result.points_m[:, 2] / np.linalg.norm(result.points_m, axis=1))
    assert np.abs(elevation - lidar.elevations_rad[result.ring]).max() < 0.01


def test_the_randomness_drawn_does_not_depend_on_what_is_there():
    trajectory, rng_full, rng_empty = moving_trajectory(), stream(8), stream(8)
    walls, _ = wall_behind_and_ahead(trajectory, 5.0)
    sweep(sensor(), trajectory, walls, 5.0, rng_full)
    sweep(sensor(), trajectory, from_parts([]), 5.0, rng_empty)
    assert rng_full.random() == rng_empty.random()
