"""Smooth vehicle motion with exact derivatives: what odometry, IMU and the motion during a sweep are made from.

A vehicle follows a plane curve P(u); u(t) stands still for half a second and then rises smoothly. Heading is the
curve's tangent, and roll and pitch lean with the acceleration and sway with sums of sines. Positions, velocities and
angles are closed expressions; accelerations and body rates are central differences of those over 1 ms, right to about
1e-7 of their size. The world is x east, y north, z up; a vehicle is x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import wrap_angle

Array = NDArray[Any]

GRAVITY_MPS2 = 9.81
DIFFERENCE_S = 1e-3
STANDING_S = 0.5
RAMP_S = 3.0


def stream(*key: int) -> np.random.Generator:
    """A random generator of its own for each key of non-negative integers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@dataclass(frozen=True)
class Waves:
    """A sum of sines: amplitudes a, wave numbers k and phases p, each a tuple of the same length."""

    amplitudes: tuple[float, ...]
    rates: tuple[float, ...]
    phases: tuple[float, ...]

    def __call__(self, x: Array, derivative: int = 0) -> Array:
        """The derivative-th derivative at x."""
        total = np.zeros(np.shape(x))
        for a, k, p in zip(self.amplitudes, self.rates, self.phases, strict=True):
            total += a * k**derivative * np.sin(k * x + p + derivative * np.pi / 2)
        return total


def random_waves(rng: np.random.Generator, amplitudes: tuple[float, ...], lengths: tuple[float, ...]) -> Waves:
    """Waves of given amplitudes and wave lengths (both varied by up to a tenth), with random phases."""
    vary = rng.uniform(0.9, 1.1, (2, len(amplitudes)))
    return Waves(
        tuple(float(a * v) for a, v in zip(amplitudes, vary[0], strict=True)),
        tuple(float(2 * np.pi / (w * v)) for w, v in zip(lengths, vary[1], strict=True)),
        tuple(float(p) for p in rng.uniform(0, 2 * np.pi, len(amplitudes))),
    )


@dataclass(frozen=True)
class Progress:
    """u(t): stands, then rises to rate_per_s along a smooth ramp, and swells and ebbs with `swell` (waves in u)."""

    rate_per_s: float
    swell: Waves

    def __call__(self, time_s: Array) -> tuple[Array, Array, Array]:
        """u and its first two derivatives."""
        tau = np.clip((np.asarray(time_s, dtype=np.float64) - STANDING_S) / RAMP_S, 0.0, None)
        r = np.minimum(tau, 1.0)
        distance = r**6 - 3 * r**5 + 2.5 * r**4 + (tau - r)
        speed = 6 * r**5 - 15 * r**4 + 10 * r**3
        change = 30 * r**4 - 60 * r**3 + 30 * r**2
        v = self.rate_per_s
        ramp, ramp1, ramp2 = v * RAMP_S * distance, v * speed, v / RAMP_S * change
        slope = 1 + self.swell(ramp, 1)
        return (
            ramp + self.swell(ramp) - self.swell(np.zeros(1)),
            slope * ramp1,
            slope * ramp2 + self.swell(ramp, 2) * ramp1**2,
        )


@dataclass(frozen=True, eq=False)
class Curve:
    """A plane curve's point (..., 2), derivative by u (..., 2), heading and heading's derivative by u."""

    point: Array
    tangent: Array
    heading_rad: Array
    turn: Array


@dataclass(frozen=True)
class Road:
    """The street's middle line y = F(x): it bends for ever and never meets itself. u is x."""

    shape: Waves

    def __call__(self, u: Array, lateral_m: Array | float = 0.0) -> Curve:
        """The line at a constant distance to the left of the middle line."""
        slope, bend = self.shape(u, 1), self.shape(u, 2)
        length = np.sqrt(1 + slope**2)
        turn = bend / (1 + slope**2)
        point = np.stack([u - lateral_m * slope / length, self.shape(u) + lateral_m / length], axis=-1)
        along = length - lateral_m * turn
        tangent = np.stack([along / length, along * slope / length], axis=-1)
        return Curve(point, tangent, np.arctan(slope), turn)

    def locate(self, x: Array, y: Array) -> tuple[Array, Array]:
        """u of the nearest point of the middle line and the distance to its left: one Newton step from u = x, right to
        about a centimetre within 10 m of the line."""
        slope, gap = self.shape(x, 1), y - self.shape(x)
        foot = x + gap * slope / (1 + slope * slope)
        slope = self.shape(foot, 1)
        length = np.sqrt(1 + slope * slope)
        dx, dy = x - foot, y - self.shape(foot)
        return foot + (dx + slope * dy) / (length * length), (dy - slope * dx) / length


@dataclass(frozen=True)
class Loop:
    """An ellipse flown counter-clockwise from its southernmost point; u is its parameter in radians."""

    semi_x_m: float
    semi_y_m: float

    def __call__(self, u: Array) -> Curve:
        """The ellipse at u."""
        a, b = self.semi_x_m, self.semi_y_m
        sin, cos = np.sin(u), np.cos(u)
        tangent = np.stack([a * cos, b * sin], axis=-1)
        turn = a * b / (a**2 * cos**2 + b**2 * sin**2)
        return Curve(
            np.stack([a * sin, -b * cos], axis=-1), tangent, np.arctan2(tangent[..., 1], tangent[..., 0]), turn
        )


@dataclass(frozen=True)
class Trajectory:
    """A vehicle on a curve.

    height: waves about height_m, in u. sway: roll and pitch in u, heading in u (a drone looks around); hover: roll and
    pitch in t (wind). lean: radians of roll per m/s^2 of acceleration to the left and of pitch per m/s^2 forward; a
    drone banks into a turn, a car leans out of it.
    """

    path: Road | Loop
    lateral_m: float
    progress: Progress
    height_m: float
    height: Waves
    sway: tuple[Waves, Waves, Waves]
    hover: tuple[Waves, Waves]
    lean: tuple[float, float]

    def _curve(self, u: Array) -> Curve:
        return self.path(u, self.lateral_m) if isinstance(self.path, Road) else self.path(u)

    def position(self, time_s: Array) -> Array:
        """(N, 3) m in the world."""
        u = self.progress(time_s)[0]
        height = self.height_m + self.height(u)
        return np.concatenate([self._curve(u).point, height[..., None]], axis=-1)

    def velocity(self, time_s: Array) -> Array:
        """(N, 3) m/s in the world."""
        u, u1, _ = self.progress(time_s)
        return np.concatenate([self._curve(u).tangent * u1[..., None], (self.height(u, 1) * u1)[..., None]], axis=-1)

    def angles(self, time_s: Array) -> Array:
        """Roll, pitch, yaw (N, 3) rad: world_R_base = Rz(yaw) Ry(pitch) Rx(roll)."""
        time_s = np.asarray(time_s, dtype=np.float64)
        u, u1, u2 = self.progress(time_s)
        curve = self._curve(u)
        length = np.sqrt((curve.tangent**2).sum(axis=-1))
        roll = self.lean[0] * length * curve.turn * u1**2 + self.sway[0](u) + self.hover[0](time_s)
        pitch = self.lean[1] * length * u2 + self.sway[1](u) + self.hover[1](time_s)
        yaw = curve.heading_rad + self.sway[2](u)
        return np.stack([roll, pitch, yaw], axis=-1)


def rotation_of(angles_rad: Array) -> Array:
    """world_R_base (N, 3, 3) of roll, pitch, yaw (N, 3)."""
    (cr, cp, cy), (sr, sp, sy) = np.moveaxis(np.cos(angles_rad), -1, 0), np.moveaxis(np.sin(angles_rad), -1, 0)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


@dataclass(frozen=True, eq=False)
class States:
    """A vehicle at N times: world_R_base (N, 3, 3), position (N, 3), velocity and acceleration (N, 3) in the world,
    body rates (N, 3) in the body."""

    rotations: Array
    positions_m: Array
    velocities_mps: Array
    accelerations_mps2: Array
    body_rates_radps: Array

    @property
    def world_T_base(self) -> Array:
        """Poses (N, 4, 4)."""
        result = np.zeros((len(self.positions_m), 4, 4))
        result[:, :3, :3], result[:, :3, 3], result[:, 3, 3] = self.rotations, self.positions_m, 1.0
        return result


def states_at(trajectory: Trajectory, times_s: Array) -> States:
    """The vehicle's full state at times (N,) s since the world began."""
    times_s = np.atleast_1d(np.asarray(times_s, dtype=np.float64))
    angles = trajectory.angles(times_s)
    before, after = times_s - DIFFERENCE_S, times_s + DIFFERENCE_S
    acceleration = (trajectory.velocity(after) - trajectory.velocity(before)) / (2 * DIFFERENCE_S)
    return States(
        rotation_of(angles),
        trajectory.position(times_s),
        trajectory.velocity(times_s),
        acceleration,
        body_rates(trajectory, times_s),
    )


def body_rates(trajectory: Trajectory, times_s: Array) -> Array:
    """Angular velocity (N, 3) rad/s in the body, from the rates of roll, pitch and yaw."""
    turned = wrap_angle(trajectory.angles(times_s + DIFFERENCE_S) - trajectory.angles(times_s - DIFFERENCE_S))
    roll_rate, pitch_rate, yaw_rate = np.moveaxis(turned / (2 * DIFFERENCE_S), -1, 0)
    roll, pitch, _ = np.moveaxis(trajectory.angles(times_s), -1, 0)
    return np.stack(
        [
            roll_rate - yaw_rate * np.sin(pitch),
            pitch_rate * np.cos(roll) + yaw_rate * np.sin(roll) * np.cos(pitch),
            yaw_rate * np.cos(roll) * np.cos(pitch) - pitch_rate * np.sin(roll),
        ],
        axis=-1,
    )
