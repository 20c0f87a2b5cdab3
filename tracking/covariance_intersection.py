"""Covariance intersection: estimates of the same thing whose errors may depend on each other, nobody knows how.

Two robots' tracks share what both heard: a detection that was passed on, the process noise of one moving car, one's own
tracks come back as an echo. A Kalman update would count it twice and be too sure of itself. Covariance intersection
(Julier and Uhlmann, A non-divergent estimation algorithm in the presence of unknown correlations, 1997) takes a convex
combination of the two informations,

    P^-1 = w Pa^-1 + (1 - w) Pb^-1,    P^-1 x = w Pa^-1 xa + (1 - w) Pb^-1 xb,    0 <= w <= 1,

which is consistent for every w and every correlation: if Pa and Pb bound the true errors, so does P. An echo adds
nothing: with xb = xa and Pb >= Pa it is P = Pa. The weight w is the one with the least determinant of P, which, unlike
the trace, does not ask how many metres a metre per second is worth.

All pairs are solved at once. With Pa = T T' and Pb = T diag(d) T' the determinant's logarithm is a convex function of w
with the derivative sum((1/d - 1) / (w + (1 - w) / d)); its zero is found by bisection. That w is not exact costs a
trifle of precision and no consistency.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.kalman import KalmanState

Array = NDArray[Any]

_BISECTIONS = 20  # of the weight: to 1e-6


def intersect(first: KalmanState, second: KalmanState) -> tuple[KalmanState, Array]:
    """Each of the first N estimates with that of the second in the same place, and the weights (N,) of the first.

    Raises ValueError if a covariance is not positive definite: see `is_covariance`.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"{first.mean.shape} and {second.mean.shape} are no pairs of estimates")
    Pa, Pb = _tracks_first(first.covariance), _tracks_first(second.covariance)
    try:
        L = np.linalg.cholesky(Pa)
        whitened = np.linalg.solve(L, np.swapaxes(np.linalg.solve(L, Pb), 1, 2))
        d, U = np.linalg.eigh(whitened)
    except np.linalg.LinAlgError:
        raise ValueError("a covariance is not positive definite") from None
    if not (d > 0.0).all():
        raise ValueError("a covariance is not positive definite")
    information = 1.0 / d  # of the second, in coordinates in which that of the first is 1
    w = _weights(information)
    T = L @ U
    share = (1.0 - w[:, None]) * information
    variance = 1.0 / (w[:, None] + share)
    step = np.einsum("nji,nj->ni", U, np.linalg.solve(L, (second.mean - first.mean).T[:, :, None])[:, :, 0])
    mean = first.mean + np.einsum("nij,nj->in", T, share * variance * step)
    covariance = np.einsum("nik,nk,njk->ijn", T, variance, T)
    return KalmanState(mean, 0.5 * (covariance + np.swapaxes(covariance, 0, 1))), w


def is_covariance(covariances: Array, *, least: float = 1e-9) -> Array:
    """Which of the matrices (N, D, D) can be covariances, (N,) bool: finite, symmetric, eigenvalues above `least`.

    Symmetric to 1e-6 of the largest entry; the smallest eigenvalue must also be above 1e-12 of the largest, or the
    matrix cannot be inverted.
    """
    finite = np.asarray(np.isfinite(covariances).all(axis=(1, 2)))
    sound = np.where(finite[:, None, None], covariances, 0.0)
    scale = np.abs(sound).max(axis=(1, 2), initial=0.0)
    symmetric = np.abs(sound - np.swapaxes(sound, 1, 2)).max(axis=(1, 2), initial=0.0) <= 1e-6 * scale
    eigenvalues = np.linalg.eigvalsh(sound)
    result: Array = finite & symmetric & (eigenvalues[:, 0] > np.maximum(least, 1e-12 * eigenvalues[:, -1]))
    return result


def _weights(information: Array) -> Array:
    """w (N,) with the least determinant, for informations (N, D) of the second where that of the first is 1."""
    low, high = np.zeros(len(information)), np.ones(len(information))
    gain = 1.0 - information
    for _ in range(_BISECTIONS):
        w = 0.5 * (low + high)
        # The slope of log det P^-1 in w, which falls; the determinant of P is least where it is zero.
        rising = (gain / (information + w[:, None] * gain)).sum(axis=1) > 0.0
        low, high = np.where(rising, w, low), np.where(rising, high, w)
    # At the ends exactly, so that an estimate that knows nothing new changes nothing.
    result: Array = np.where(high == 1.0, 1.0, np.where(low == 0.0, 0.0, 0.5 * (low + high)))
    return result


def _tracks_first(covariance: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(covariance, -1, 0), dtype=np.float64)
