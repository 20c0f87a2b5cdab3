"""A constant-velocity Kalman filter whose coordinates do not depend on each other, for thousands of tracks.

Where dynamics, measurement and first covariance treat each coordinate by itself (as in SORT, ByteTrack, OC-SORT and
AB3DMOT), the filter of D positions falls apart into D filters of position and velocity, exactly. What is left of the
covariance is three numbers for each coordinate instead of a (2D, 2D) matrix, and a cycle of predict and update costs
some twenty array operations. `tracking.kalman` is the filter for coordinates that do depend on each other.

A state is one array (5, D, N), tracks last: position, velocity, variance of the position, their covariance, variance
of the velocity. take, put and append are indexing and concatenation on the last axis. A coordinate that has no
velocity has one that is zero with variance zero. All functions return new arrays of the dtype of their first argument.

For one scalar measurement with variance r and innovation variance s = p + r, Joseph's form of the updated position
variance, (1 - k)^2 p + k^2 r with k = p / s, is p r / s: a product of positive numbers, and computed as such.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def start(measurements: Array, variances: ArrayLike, velocity_variances: ArrayLike) -> Array:
    """States (5, D, N) of tracks seen once, at the measurements (D, N) and at rest; variances broadcast to (D, N)."""
    state: Array = np.zeros((5, *measurements.shape), dtype=measurements.dtype)
    state[0] = measurements
    state[2] = variances
    state[4] = velocity_variances
    return state


def white_noise_acceleration(dt: float, psd: Array) -> Array:
    """What dt adds to the three variances, (3, ...), for a power density psd (...) of the acceleration.

    Bar-Shalom, Li, Kirubarajan (2001), section 6.2.2: one long step adds as much as many short ones.
    """
    added: Array = np.array([dt * dt * dt / 3.0, dt * dt / 2.0, dt]).reshape(3, *(1,) * psd.ndim) * psd
    return added


def predict(state: Array, dt: ArrayLike, noise: ArrayLike) -> Array:
    """States dt later. dt is a number or (N,), in the velocities' unit of time; noise, (3, D, N) or broadcast to it,
    is added to the variances and the covariance."""
    later: Array = state.copy()
    position, velocity, variance, covariance, velocity_variance = later
    carried = velocity_variance * dt
    position += velocity * dt
    variance += (covariance + covariance + carried) * dt
    covariance += carried
    later[2:] += noise
    return later


def update(state: Array, measurements: Array, variances: ArrayLike) -> Array:
    """States after one measurement (D, N) of each track's position, with variances r broadcast to (D, N)."""
    updated: Array = state.copy()
    position, velocity, variance, covariance, velocity_variance = updated
    inverse = 1.0 / (variance + variances)
    weighted = (measurements - position) * inverse
    position += variance * weighted
    velocity += covariance * weighted
    # A covariance is at most the root of the product of variances; rounding must not leave a variance below zero.
    velocity_variance -= covariance * covariance * inverse
    np.maximum(velocity_variance, 0.0, out=velocity_variance)
    updated[2:4] *= variances * inverse
    return updated


def squared_mahalanobis(state: Array, measurements: Array, variances: ArrayLike) -> Array:
    """Squared Mahalanobis distance (N,) of each track to its own measurement (D, N)."""
    innovation = measurements - state[0]
    result: Array = (innovation * innovation / (state[2] + variances)).sum(axis=0)
    return result
