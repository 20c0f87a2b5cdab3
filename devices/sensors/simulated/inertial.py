"""An IMU and a satellite receiver on a known trajectory.

The IMU model is the usual one: reading = truth + constant bias + white noise. Specific force is what an accelerometer
feels: at rest, gravity pointing up. The IMU may sit away from the vehicle's origin; then it also feels the lever arm's
centripetal and angular acceleration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.motion import DIFFERENCE_S, GRAVITY_MPS2, Trajectory, body_rates, states_at

Array = NDArray[Any]

READING_STEP = 2.0**-18  # readings are rounded to this, so that a last bit's difference between machines vanishes
WGS84_RADIUS_M, WGS84_ECCENTRICITY_SQUARED = 6_378_137.0, 6.694379990141e-3
ORIGIN_DEG = (47.3769, 8.5417)  # latitude and longitude of the world's origin
ORIGIN_ALTITUDE_M = 408.0


@dataclass(frozen=True)
class ImuNoise:
    """Standard deviations: of one reading's white noise, and of the bias drawn once for a recording.

    vibration_radps, vibration_mps2: amplitude of the engine's shaking in each axis, at vibration_hz. So quick a motion
    moves nothing by more than a fraction of a millimetre, so only the IMU has it.
    """

    gyro_radps: float = 0.002
    accel_mps2: float = 0.03
    gyro_bias_radps: float = 0.002
    accel_bias_mps2: float = 0.04
    vibration_radps: float = 0.0
    vibration_mps2: float = 0.0
    vibration_hz: float = 83.0


def true_readings(trajectory: Trajectory, times_s: Array, base_T_imu: Array) -> tuple[Array, Array]:
    """Angular velocity (N, 3) rad/s and specific force (N, 3) m/s^2 in the IMU's axes, without bias or noise."""
    state = states_at(trajectory, times_s)
    rates = state.body_rates_radps
    spin_up = body_rates(trajectory, times_s + DIFFERENCE_S) - body_rates(trajectory, times_s - DIFFERENCE_S)
    spin_up /= 2 * DIFFERENCE_S
    arm = base_T_imu[:3, 3]
    felt = state.accelerations_mps2 + np.array([0.0, 0.0, GRAVITY_MPS2])
    force = (
        np.einsum("nji,nj->ni", state.rotations, felt) + np.cross(spin_up, arm) + np.cross(rates, np.cross(rates, arm))
    )
    return rates @ base_T_imu[:3, :3], force @ base_T_imu[:3, :3]


def draw_bias(rng: np.random.Generator, noise: ImuNoise) -> Array:
    """The recording's biases (6,): gyroscope, accelerometer."""
    sigma = np.array([noise.gyro_bias_radps] * 3 + [noise.accel_bias_mps2] * 3)
    bias: Array = rng.standard_normal(6) * sigma
    return bias


def readings(
    trajectory: Trajectory, times_s: Array, base_T_imu: Array, bias: Array, noise: ImuNoise, rng: np.random.Generator
) -> tuple[Array, Array]:
    """What the IMU reports: angular velocity and specific force, each (N, 3)."""
    rates, force = true_readings(trajectory, times_s, base_T_imu)
    white = rng.standard_normal((len(times_s), 6))
    if noise.vibration_radps or noise.vibration_mps2:
        phases = 2.0 * np.pi * noise.vibration_hz * np.asarray(times_s)[:, None] + np.arange(6.0)
        rates, force = (
            rates + noise.vibration_radps * np.sin(phases[:, :3]),
            force + noise.vibration_mps2 * np.sin(phases[:, 3:]),
        )
    rates = rates + bias[:3] + white[:, :3] * noise.gyro_radps
    force = force + bias[3:] + white[:, 3:] * noise.accel_mps2
    return np.round(rates / READING_STEP) * READING_STEP, np.round(force / READING_STEP) * READING_STEP


def geodetic(position_m: Array) -> tuple[float, float, float]:
    """Latitude and longitude (deg) and altitude (m) of a world point (3,), on the plane that touches the WGS 84
    ellipsoid at ORIGIN_DEG: right to centimetres within a kilometre."""
    sin = np.sin(np.radians(ORIGIN_DEG[0]))
    flat = 1.0 - WGS84_ECCENTRICITY_SQUARED * sin * sin
    across = WGS84_RADIUS_M / np.sqrt(flat)
    meridian = across * (1.0 - WGS84_ECCENTRICITY_SQUARED) / flat
    east, north, up = (float(value) for value in position_m)
    latitude = ORIGIN_DEG[0] + np.degrees(north / meridian)
    longitude = ORIGIN_DEG[1] + np.degrees(east / (across * np.cos(np.radians(ORIGIN_DEG[0]))))
    return round(float(latitude), 9), round(float(longitude), 9), round(ORIGIN_ALTITUDE_M + up, 4)
