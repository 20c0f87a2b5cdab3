"""A constant-velocity Kalman filter over many tracks at once, structure-of-arrays.

Each of the D measured coordinates has a position and a velocity; the state is all positions, then all velocities.
Arrays keep the tracks on their last axis, so that every operation below runs over contiguous tracks, and the loops
that remain run over coordinates (D is 2 to 7), never over tracks:

    mean (2D, N), covariance (2D, 2D, N), measurements (D, N), noise (D, D, N)

The motion model is discretised white-noise acceleration (Bar-Shalom, Li, Kirubarajan, Estimation with Applications to
Tracking and Navigation, 2001, section 6.2.2): for a power spectral density q of the acceleration and a time step dt,

    Q(dt) = q [[dt^3 / 3, dt^2 / 2], [dt^2 / 2, dt]]   per coordinate,

so that one long step adds as much uncertainty as many short ones.

The update factors the innovation covariance, S = L L', and subtracts W' W with W = L^-1 H P: rank-one downdates, one
for each coordinate, which is the scalar sequential update written for a full R. It keeps P exactly symmetric. It keeps
P positive as long as P / R stays below about 1e12; Joseph's form would go further and costs two to three times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class KalmanState:
    """Gaussian states of N tracks: mean (2D, N) and covariance (2D, 2D, N), both of one float dtype."""

    mean: Array
    covariance: Array

    def __post_init__(self) -> None:
        size, count = self.mean.shape
        if size % 2 or self.covariance.shape != (size, size, count):
            raise ValueError(f"mean {self.mean.shape} and covariance {self.covariance.shape} do not fit together")

    def __len__(self) -> int:
        return int(self.mean.shape[1])

    @property
    def dimensions(self) -> int:
        """D, the number of measured coordinates."""
        return len(self.mean) // 2

    @property
    def positions(self) -> Array:
        """(D, N), a view."""
        return self.mean[: self.dimensions]

    @property
    def velocities(self) -> Array:
        """(D, N), a view, per second."""
        return self.mean[self.dimensions :]

    def take(self, tracks: Array) -> KalmanState:
        """The chosen tracks: indices (may repeat) or a boolean mask."""
        return KalmanState(self.mean[:, tracks], self.covariance[:, :, tracks])

    def put(self, tracks: Array, values: KalmanState) -> KalmanState:
        """These states with the tracks at the given distinct indices replaced by `values`."""
        mean, covariance = self.mean.copy(), self.covariance.copy()
        mean[:, tracks], covariance[:, :, tracks] = values.mean, values.covariance
        return KalmanState(mean, covariance)

    def append(self, values: KalmanState) -> KalmanState:
        """These states followed by those of `values`."""
        return KalmanState(
            np.concatenate([self.mean, values.mean], axis=-1),
            np.concatenate([self.covariance, values.covariance], axis=-1),
        )


def start(measurements: Array, noise: Array, velocity_variances: ArrayLike) -> KalmanState:
    """States of tracks seen once: at the measurement (D, N), with its noise (D, D, N), at rest.

    velocity_variances, broadcast to (D, N), say how fast the thing may really be.
    """
    d, count = measurements.shape
    mean = np.concatenate([measurements, np.zeros_like(measurements)])
    covariance = np.zeros((2 * d, 2 * d, count), dtype=mean.dtype)
    covariance[:d, :d] = noise
    axes = np.arange(d, 2 * d)
    covariance[axes, axes] = velocity_variances
    return KalmanState(mean, covariance)


def predict(state: KalmanState, dt_s: ArrayLike, acceleration_psd: ArrayLike) -> KalmanState:
    """States dt_s later: F P F' + Q(dt).

    dt_s is a number or (N,); acceleration_psd (unit^2 / s^3) is broadcast to (D, N).
    """
    d, p = state.dimensions, state.covariance
    dt = np.asarray(dt_s, dtype=state.mean.dtype)
    psd = np.asarray(acceleration_psd, dtype=state.mean.dtype)
    mean = state.mean.copy()
    mean[:d] += dt * mean[d:]

    covariance = p.copy()
    position_velocity = p[:d, d:] + dt * p[d:, d:]
    covariance[:d, :d] += dt * (p[:d, d:] + p[d:, :d]) + dt**2 * p[d:, d:]
    covariance[:d, d:] = position_velocity
    covariance[d:, :d] = np.swapaxes(position_velocity, 0, 1)
    axes = np.arange(d)
    covariance[axes, axes] += psd * (dt**3 / 3.0)
    covariance[axes, axes + d] += psd * (dt**2 / 2.0)
    covariance[axes + d, axes] += psd * (dt**2 / 2.0)
    covariance[axes + d, axes + d] += psd * dt
    return KalmanState(mean, covariance)


def update(state: KalmanState, measurements: Array, noise: Array) -> KalmanState:
    """States after one position measurement (D, N) for each track, with covariance R = noise (D, D, N)."""
    d = state.dimensions
    factor = _cholesky(state.covariance[:d, :d] + noise)
    whitened = _solve_lower(factor, (measurements - state.positions)[:, None])  # L^-1 (z - H x): (D, 1, N)
    gains = _solve_lower(factor, state.covariance[:d])  # W = L^-1 H P: (D, 2D, N)
    mean, covariance = state.mean.copy(), state.covariance.copy()
    for innovation, gain in zip(whitened, gains, strict=True):
        mean += gain * innovation
        covariance -= gain[:, None] * gain[None, :]
    return KalmanState(mean, covariance)


def squared_mahalanobis(state: KalmanState, measurements: Array, noise: Array) -> Array:
    """Squared Mahalanobis distance (N,) of each track to its own measurement (D, N) with covariance noise (D, D, N).

    To gate pairs of tracks and measurements, `take` the tracks of the candidate pairs first: far pairs need no gate.
    """
    d = state.dimensions
    factor = _cholesky(state.covariance[:d, :d] + noise)
    whitened = _solve_lower(factor, (measurements - state.positions)[:, None])
    result: Array = (whitened[:, 0] ** 2).sum(axis=0)
    return result


def diagonal_noise(variances: Array) -> Array:
    """Noise (D, D, N) of independent coordinates with variances (D, N)."""
    d, count = variances.shape
    noise = np.zeros((d, d, count), dtype=variances.dtype)
    axes = np.arange(d)
    noise[axes, axes] = variances
    return noise


def _cholesky(matrices: Array) -> Array:
    """Lower factors L (D, D, N), L L' = matrices; the upper triangle is left as it was and must not be read."""
    factor: Array = matrices.copy()
    for j in range(len(factor)):
        factor[j, j] = np.sqrt(factor[j, j])
        factor[j + 1 :, j] /= factor[j, j]
        for k in range(j + 1, len(factor)):
            factor[k:, k] -= factor[k:, j] * factor[k, j]
    return factor


def _solve_lower(factor: Array, right: Array) -> Array:
    """X (D, C, N) with L X = right (D, C, N), by forward substitution."""
    solution: Array = right.copy()
    for j in range(len(factor)):
        solution[j] /= factor[j, j]
        for k in range(j + 1, len(factor)):
            solution[k] -= factor[k, j] * solution[j]
    return solution
