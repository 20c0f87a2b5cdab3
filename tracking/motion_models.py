"""Linear motion models over many tracks at once: dynamics F and process noise Q for `tracking.kalman.predict`.

A state is all positions, then all velocities, then all accelerations. Time steps come from stamps: one for all tracks,
or one for each. Process noise is integrated from continuous white noise, so that one long step adds as much as many
short ones. Source: Bar-Shalom, Li, Kirubarajan, Estimation with Applications to Tracking and Navigation, 2001, sections
6.2.2 and 6.2.3 (white-noise acceleration and jerk), 8.2.3 (Singer's model), 11.7.1 (coordinated turn, where the noise
is held over a step; here it is white).

All functions return (F, Q), float64, each (S, S), or (S, S, N) where it differs between tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Entries = Sequence[Sequence[ArrayLike]]  # of one coordinate's matrix, each () or (N,)

BOX_YAW_ROW = 3  # the one angle in the states of `constant_velocity_box` and in measurements of a box
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def constant_velocity(
    dt_s: ArrayLike, acceleration_psd: ArrayLike, dimensions: int, *, accelerations: bool = False
) -> tuple[Array, Array]:
    """D positions whose accelerations are white noise: S = 2D.

    dt_s is a number or (N,); acceleration_psd, in unit^2 / s^3, is a number, (D,), (D, 1) or (D, N). With
    `accelerations` the state has these too, S = 3D, and they become zero: for filters that share their states with
    `constant_acceleration`.
    """
    dt = _time_step(dt_s)
    F: Entries = [[1.0, dt], [0.0, 1.0]]
    Q: Entries = [[dt**3 / 3.0, dt**2 / 2.0], [dt**2 / 2.0, dt]]
    return _per_axis(F, Q, dt, acceleration_psd, dimensions, 3 if accelerations else 2)


def constant_acceleration(dt_s: ArrayLike, jerk_psd: ArrayLike, dimensions: int) -> tuple[Array, Array]:
    """D positions whose jerks are white noise: S = 3D. jerk_psd, in unit^2 / s^5, as in `constant_velocity`."""
    dt = _time_step(dt_s)
    F: Entries = [[1.0, dt, dt**2 / 2.0], [0.0, 1.0, dt], [0.0, 0.0, 1.0]]
    Q: Entries = [
        [dt**5 / 20.0, dt**4 / 8.0, dt**3 / 6.0],
        [dt**4 / 8.0, dt**3 / 3.0, dt**2 / 2.0],
        [dt**3 / 6.0, dt**2 / 2.0, dt],
    ]
    return _per_axis(F, Q, dt, jerk_psd, dimensions, 3)


def decaying_acceleration(
    dt_s: ArrayLike, acceleration_variance: ArrayLike, time_constant_s: float, dimensions: int
) -> tuple[Array, Array]:
    """D positions whose accelerations fade and come anew, Singer's model of a manoeuvre: S = 3D.

    Accelerations decay by exp(-dt / time_constant_s) and have, in the long run, acceleration_variance, in unit^2 / s^4,
    shaped as in `constant_velocity`. Q is exact to 1e-9 for steps up to 10 time constants.
    """
    if not time_constant_s > 0.0:
        raise ValueError(f"time_constant_s must be above 0, not {time_constant_s}")
    dt = _time_step(dt_s)
    column = _faded_acceleration(dt, time_constant_s)
    F: Entries = [[1.0, dt, column[0]], [0.0, 1.0, column[1]], [0.0, 0.0, column[2]]]
    # The white noise behind the acceleration, of power density 2 variance / time constant, is integrated by quadrature:
    # at short steps the closed form cancels to nothing.
    columns = _faded_acceleration(np.multiply.outer((_NODES + 1.0) / 2.0, dt), time_constant_s)
    density = dt / time_constant_s
    Q: Entries = [[density * np.tensordot(_WEIGHTS, x * y, axes=1) for y in columns] for x in columns]
    return _per_axis(F, Q, dt, acceleration_variance, dimensions, 3)


def coordinated_turn(
    dt_s: ArrayLike,
    turn_rate_rps: ArrayLike,
    acceleration_psd: ArrayLike,
    dimensions: int = 2,
    *,
    accelerations: bool = False,
) -> tuple[Array, Array]:
    """x and y turning at a known rate, z if there is one as in `constant_velocity`: D = 2 or 3.

    The rate, in rad / s from x to y, is a number or (N,). All else is as in `constant_velocity`, with the same power
    density in x and y.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"a turn has 2 or 3 dimensions, not {dimensions}")
    dt, rate = np.broadcast_arrays(_time_step(dt_s), np.asarray(turn_rate_rps, dtype=np.float64))
    psd = _densities(acceleration_psd, dimensions)
    if (psd[0] != psd[1]).any():
        raise ValueError("a turn needs the same power density in x and y")
    F, Q = constant_velocity(dt, psd, dimensions, accelerations=accelerations)
    angle = rate * dt
    along, across = dt * np.sinc(angle / np.pi), dt * (angle / 2.0) * np.sinc(angle / (2.0 * np.pi)) ** 2
    x, y, vx, vy = 0, 1, dimensions, dimensions + 1
    F[x, vx] = F[y, vy] = along
    F[y, vx], F[x, vy] = across, -across
    F[vx, vx] = F[vy, vy] = np.cos(angle)
    F[vy, vx], F[vx, vy] = np.sin(angle), -np.sin(angle)
    # Of a velocity's kick s ago, a position keeps (exp(i w s) - 1) / (i w) and the velocity exp(i w s): their products,
    # integrated over s.
    psd, lag = psd[0], _lag(angle)
    Q[x, x] = Q[y, y] = psd * dt**3 * 2.0 * lag
    Q[x, vx] = Q[vx, x] = Q[y, vy] = Q[vy, y] = psd * dt**2 / 2.0 * np.sinc(angle / (2.0 * np.pi)) ** 2
    Q[y, vx] = Q[vx, y] = -psd * dt**2 * angle * lag
    Q[x, vy] = Q[vy, x] = psd * dt**2 * angle * lag
    return F, Q


def constant_velocity_box(dt_s: ArrayLike, acceleration_psd: ArrayLike, size_psd: ArrayLike) -> tuple[Array, Array]:
    """An upright box: x, y, z, yaw, length, width, height, then the rates of the first four. S = 11.

    acceleration_psd is that of x, y, z (m^2 / s^3) and yaw (rad^2 / s^3): a number, (4,), (4, 1) or (4, N). Sizes drift
    as random walks of power density size_psd (m^2 / s): a number, (3,), (3, 1) or (3, N). The yaw is an angle: name
    BOX_YAW_ROW in `angles` of `kalman.update`. Its mean is not wrapped, and counts full turns.
    """
    dt = _time_step(dt_s)
    moving = constant_velocity(dt, acceleration_psd, 4)
    drifting = _per_axis([[1.0]], [[dt]], dt, size_psd, 3, 1)
    F, Q = (_box_matrix(*pair) for pair in zip(moving, drifting, strict=True))
    return F, Q


def _box_matrix(moving: Array, drifting: Array) -> Array:
    """(11, 11) of the eight rows that move, and of the three sizes."""
    if moving.ndim != drifting.ndim:
        moving, drifting = (matrix if matrix.ndim == 3 else matrix[:, :, None] for matrix in (moving, drifting))
    rows = np.r_[0:4, 7:11]
    matrix = np.zeros((11, 11, *np.broadcast_shapes(moving.shape[2:], drifting.shape[2:])))
    matrix[np.ix_(rows, rows)] = moving
    matrix[4:7, 4:7] = drifting
    return matrix


def _time_step(dt_s: ArrayLike) -> Array:
    dt = np.asarray(dt_s, dtype=np.float64)
    if dt.ndim > 1:
        raise ValueError(f"dt_s is a number or (N,), not {dt.shape}")
    if not (dt >= 0.0).all():
        raise ValueError(f"dt_s must be 0 or more, not {dt.min()}")
    return dt


def _densities(values: ArrayLike, dimensions: int) -> Array:
    """Noise densities as (D,), or (D, N) where they differ between tracks."""
    psd = np.asarray(values, dtype=np.float64)
    if psd.ndim == 2 and psd.shape[1] == 1:
        psd = psd[:, 0]
    return np.broadcast_to(psd, (dimensions,) if psd.ndim < 2 else (dimensions, psd.shape[1]))


def _per_axis(
    F: Entries, Q: Sequence[Sequence[ArrayLike]], dt: Array, densities: ArrayLike,
    dimensions: int, orders: int,
) -> tuple[Array, Array]:  # fmt: skip
    """The same dynamics for each of D coordinates, whose noise densities scale Q.

    F and Q are given for one coordinate, entries () or (N,); orders beyond theirs are zero.
    """
    psd = _densities(densities, dimensions)
    trailing = np.broadcast_shapes(dt.shape, psd.shape[1:])
    scale = psd if psd.ndim > 1 or not trailing else psd[:, None]
    size, axes = dimensions * orders, np.arange(dimensions)
    transition, noise = np.zeros((size, size, *dt.shape)), np.zeros((size, size, *trailing))
    for i, (transition_row, noise_row) in enumerate(zip(F, Q, strict=True)):
        for j, (entry, added) in enumerate(zip(transition_row, noise_row, strict=True)):
            transition[i * dimensions + axes, j * dimensions + axes] = entry
            noise[i * dimensions + axes, j * dimensions + axes] = scale * added
    return transition, noise


def _faded_acceleration(after_s: Array, time_constant_s: float) -> list[Array]:
    """The position, velocity and acceleration that one unit of fading acceleration has become, some seconds after."""
    a = after_s / time_constant_s
    gone = -np.expm1(-a)
    drift = np.where(a < 1e-3, a**2 * (0.5 - a / 6.0 + a**2 / 24.0 - a**3 / 120.0), a - gone)
    return [time_constant_s**2 * drift, time_constant_s * gone, 1.0 - gone]


def _lag(angle: Array) -> Array:
    """(a - sin a) / a^3, without cancellation near zero, where it is 1/6."""
    squared = angle * angle
    series = 1.0 / 6.0 - squared / 120.0 * (1.0 - squared / 42.0 * (1.0 - squared / 72.0 * (1.0 - squared / 110.0)))
    near = np.abs(angle) < 0.5
    divisor = np.where(near, 1.0, angle)
    return np.where(near, series, (divisor - np.sin(divisor)) / divisor**3)
