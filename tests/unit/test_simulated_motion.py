"""Vehicle motion and the IMU: derivatives against numbers, readings against the trajectory they came from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.sensors.simulated.inertial import ImuNoise, draw_bias, geodetic, readings, true_readings
from devices.sensors.simulated.motion import GRAVITY_MPS2, Road, random_waves, states_at, stream
from devices.sensors.simulated.world import WORLDS, make_scene
from tercel.core.geometry import from_rotation_translation, so3_exp, so3_log

BOTH = pytest.mark.parametrize("world", WORLDS)


@BOTH
def test_velocity_and_body_rates_are_the_derivatives_of_the_pose(world):
    trajectory = make_scene(world, 3).trajectory
    times = np.linspace(0.2, 70.0, 400)
    h = 1e-4
    before, now, after = (states_at(trajectory, times + d) for d in (-h, 0.0, h))
    slope = (after.positions_m - before.positions_m) / (2 * h)
    turn = so3_log(np.swapaxes(before.rotations, -1, -2) @ after.rotations) / (2 * h)
    assert np.abs(slope - now.velocities_mps).max() < 1e-5
    assert np.abs(turn - now.body_rates_radps).max() < 1e-5


@BOTH
def test_true_imu_readings_integrate_to_the_true_pose(world):
    trajectory = make_scene(world, 1).trajectory
    base_T_imu = from_rotation_translation(so3_exp(np.array([0.1, -0.2, 0.7])), np.array([-0.4, 0.3, 0.6]))
    dt = 1e-3
    times = np.arange(0, 8.0, dt)
    rates, force = true_readings(trajectory, times + dt / 2, base_T_imu)
    poses = states_at(trajectory, np.append(times, times[-1] + dt)).world_T_base @ base_T_imu
    rotation, position = poses[0, :3, :3], poses[0, :3, 3]
    velocity = (poses[1, :3, 3] - poses[0, :3, 3]) / dt
    for i in range(len(times)):
        middle = rotation @ so3_exp(rates[i] * dt / 2)
        acceleration = middle @ force[i] - [0, 0, GRAVITY_MPS2]
        position = position + velocity * dt + acceleration * dt**2 / 2
        velocity = velocity + acceleration * dt
        rotation = rotation @ so3_exp(rates[i] * dt)
    assert np.linalg.norm(position - poses[-1, :3, 3]) < 5e-3
    assert np.linalg.norm(so3_log(rotation.T @ poses[-1, :3, :3])) < 1e-4
    assert np.linalg.norm(poses[-1, :3, 3] - poses[0, :3, 3]) > 10.0, "the vehicle has gone somewhere"


def test_an_imu_at_rest_feels_gravity_upwards():
    trajectory = make_scene("street", 5).trajectory
    rates, force = true_readings(trajectory, np.array([0.1, 0.2]), np.eye(4))
    assert np.allclose(np.linalg.norm(force, axis=1), GRAVITY_MPS2)
    assert (force[:, 2] > 9.8).all()
    assert np.allclose(rates, 0.0)


def test_imu_noise_has_the_stated_bias_and_spread():
    noise, bias = ImuNoise(), draw_bias(stream(1), ImuNoise())
    trajectory = make_scene("orchard", 5).trajectory
    times = np.arange(4000) * 0.005
    rates, force = readings(trajectory, times, np.eye(4), bias, noise, stream(2))
    true_rates, true_force = true_readings(trajectory, times, np.eye(4))
    error = np.concatenate([rates - true_rates, force - true_force], axis=1)
    sigma = np.array([noise.gyro_radps] * 3 + [noise.accel_mps2] * 3)
    assert np.allclose(error.mean(axis=0), bias, atol=5 * sigma.max() / np.sqrt(len(times)))
    assert np.allclose(error.std(axis=0), sigma, rtol=0.08)


@BOTH
def test_the_vehicle_stands_turns_and_keeps_a_sensible_pace(world):
    state = states_at(make_scene(world, 2).trajectory, np.arange(0, 120, 0.05))
    speed = np.linalg.norm(state.velocities_mps, axis=1)
    assert (speed[:10] < 1e-9).all()
    assert 3.0 < speed.max() < 14.0
    assert np.abs(state.body_rates_radps[:, 2]).max() > 0.1, "yaw is exercised"
    assert np.abs(state.body_rates_radps).max() < 1.5
    assert np.abs(state.accelerations_mps2).max() < 6.0


def test_a_drone_rolls_and_pitches_and_a_car_hardly_does():
    tilt = {}
    for world in WORLDS:
        angles = make_scene(world, 2).trajectory.angles(np.arange(5, 80, 0.1))
        tilt[world] = np.abs(angles[:, :2]).max()
    assert 0.1 < tilt["orchard"] < 0.6
    assert 0.005 < tilt["street"] < 0.06


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(-500, 3000), st.floats(-10, 10))
def test_a_point_beside_the_road_is_found_there(seed, u, lateral):
    road = Road(random_waves(stream(seed), (36.0, 9.0), (420.0, 150.0)))
    x, y = road(np.array([u]), lateral).point[0]
    found_u, found = road.locate(np.array([x]), np.array([y]))
    assert abs(found[0] - lateral) < 0.05
    assert abs(found_u[0] - u) < 0.7


def test_a_metre_north_and_a_metre_east_are_a_metre_on_the_ellipsoid():
    latitude, longitude, altitude = geodetic(np.zeros(3))
    north, east = geodetic(np.array([0, 1000.0, 0]))[0], geodetic(np.array([1000.0, 0, 5.0]))[1]
    # Lengths of a degree at 47.3769 N on WGS 84 by the usual series: 111,179 m of latitude, 75,505 m of longitude.
    assert (north - latitude) * 111_178.6 == pytest.approx(1000.0, rel=2e-5)
    assert (east - longitude) * 75_504.0 == pytest.approx(1000.0, rel=5e-4)
    assert geodetic(np.array([0, 0, 5.0]))[2] == altitude + 5.0
