"""Linear Kalman filters over many tracks at once, structure-of-arrays.

Arrays keep the tracks on their last axis, so that every operation runs over contiguous tracks, and the loops that
remain run over coordinates, never over tracks. S states, D measured coordinates, N tracks:

    mean (S, N), covariance P (S, S, N), dynamics F and Q (S, S) or (S, S, N),
    measurement z (D, N), its noise R (D, D) or (D, D, N), its model H (D, S) or (D, S, N)

Without H the first D states are measured. Dynamics come from `tracking.motion_models`; measurements that are not linear
from `tracking.extended`; the states of `tracking.axis_kalman` are for coordinates that do not depend on each other.

The equations are the textbook's (Bar-Shalom, Li, Kirubarajan, Estimation with Applications to Tracking and Navigation,
2001, section 5.2.3), and exploit what dynamics are made of: zeros in F and H cost nothing, ones no multiplication. The
update has Joseph's form (their 5.2.3-18), which bears rounding in the gain K. It is computed as A = P - K (H P) and
P+ = A - (A H' - K R) K', which is the same and takes two rank-D updates instead of three products of (S, S) matrices:
rounding in A is in A H' too, and is undone with it. The lower triangle of the result is mirrored, so that P is
symmetric to the last bit.

Joseph's form alone still loses a positive P where P / R passes the number format: 1e15 in float64, and 1e7 in float32,
where that is a velocity unknown within 30 m/s beside a position known within 1 cm. So eight units of the last place of
the old variances are added to the new: what rounding may have taken is uncertainty. P then stays positive at any ratio
where states are measured as they are (unit rows of H); where H mixes states, H P H' must not be nearly singular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercel.core.geometry import wrap_angle

Array = NDArray[Any]
_ROUNDING = 8.0  # units of the last place of P. With 2, one random run of 1000 at 1e10 in float32 lost P; with 4, none
Run = tuple[int, int, int, bool]  # of entries along a diagonal: first row, row after the last, column - row, all are 1


@dataclass(frozen=True, eq=False)
class KalmanState:
    """Gaussian states of N tracks: mean (S, N) and covariance (S, S, N), both of one float dtype."""

    mean: Array
    covariance: Array

    def __post_init__(self) -> None:
        size, count = self.mean.shape
        if self.covariance.shape != (size, size, count):
            raise ValueError(f"mean {self.mean.shape} and covariance {self.covariance.shape} do not fit together")

    def __len__(self) -> int:
        return int(self.mean.shape[1])

    @property
    def positions(self) -> Array:
        """(D, N), a view, of states that are D positions and D velocities."""
        return self.mean[: len(self.mean) // 2]

    @property
    def velocities(self) -> Array:
        """(D, N), a view, of states that are D positions and D velocities; per second."""
        return self.mean[len(self.mean) // 2 :]

    def take(self, tracks: Array) -> KalmanState:
        """The chosen tracks: indices (may repeat) or a boolean mask."""
        return KalmanState(self.mean[:, tracks], self.covariance[:, :, tracks])

    def put(self, tracks: Array, values: KalmanState) -> KalmanState:
        """These states with the tracks at the given distinct indices, or of a mask, replaced by `values`."""
        mean, covariance = self.mean.copy(), self.covariance.copy()
        mean[:, tracks], covariance[:, :, tracks] = values.mean, values.covariance
        return KalmanState(mean, covariance)

    def append(self, values: KalmanState) -> KalmanState:
        """These states followed by those of `values`."""
        return KalmanState(
            np.concatenate([self.mean, values.mean], axis=-1),
            np.concatenate([self.covariance, values.covariance], axis=-1),
        )


def start(measurements: Array, noise: Array, *derivative_variances: ArrayLike) -> KalmanState:
    """States of tracks seen once: at the measurement (D, N), with its noise (D, D) or (D, D, N), at rest.

    derivative_variances, each broadcast to (D, N), say how large the velocities, then the accelerations may really be:
    with one of them the state is that of constant velocity (2D states), with two that of constant acceleration (3D).
    """
    d, count = measurements.shape
    size = d * (1 + len(derivative_variances))
    mean = np.zeros((size, count), dtype=measurements.dtype)
    mean[:d] = measurements
    covariance = np.zeros((size, size, count), dtype=mean.dtype)
    covariance[:d, :d] = _per_track(noise)
    axes = np.arange(d)
    for order, variances in enumerate(derivative_variances, start=1):
        covariance[order * d + axes, order * d + axes] = variances
    return KalmanState(mean, covariance)


def predict(state: KalmanState, F: ArrayLike, Q: ArrayLike) -> KalmanState:
    """States one step later: F x and F P F' + Q, with F and Q (S, S) or (S, S, N)."""
    size, dtype = len(state.mean), state.mean.dtype
    F, Q = np.asarray(F, dtype), np.asarray(Q, dtype)
    if F.shape[:2] != (size, size) or Q.shape[:2] != (size, size):
        raise ValueError(f"F {F.shape} and Q {Q.shape} do not fit {size} states")
    runs = _diagonal_runs(F)
    covariance = _product(F, np.swapaxes(_product(F, state.covariance, runs), 0, 1), runs)
    covariance += _per_track(Q)
    return KalmanState(_product(F, state.mean, runs), mirror_lower(covariance))


def update(
    state: KalmanState, z: Array, R: ArrayLike, H: ArrayLike | None = None, *, angles: Sequence[int] = ()
) -> KalmanState:
    """States after one measurement z (D, N) of each track. Rows of z named in `angles` are in radians and wrap."""
    return correct(state, residuals(state, z, H, angles=angles), R, H)


def innovation(
    state: KalmanState, z: Array, R: ArrayLike, H: ArrayLike | None = None, *, angles: Sequence[int] = ()
) -> tuple[Array, Array]:
    """The residual z - H x (D, N) of each track's own measurement, and its covariance H P H' + R (D, D, N)."""
    return residuals(state, z, H, angles=angles), innovation_covariance(state, R, H, dimensions=len(z))


def squared_mahalanobis(
    state: KalmanState, z: Array, R: ArrayLike, H: ArrayLike | None = None, *, angles: Sequence[int] = ()
) -> Array:
    """Squared Mahalanobis distance (N,) of each track to its own measurement (D, N).

    To gate pairs of tracks and measurements, `take` the tracks of the candidate pairs first: far pairs need no gate.
    """
    return squared_length(*innovation(state, z, R, H, angles=angles))


def log_likelihood(
    state: KalmanState, z: Array, R: ArrayLike, H: ArrayLike | None = None, *, angles: Sequence[int] = ()
) -> Array:
    """Log of the density (N,) of each track's own measurement (D, N), in nats."""
    return log_density(*innovation(state, z, R, H, angles=angles))


def diagonal_noise(variances: Array) -> Array:
    """Noise (D, D, N) of independent coordinates with variances (D, N)."""
    d, count = variances.shape
    noise = np.zeros((d, d, count), dtype=variances.dtype)
    axes = np.arange(d)
    noise[axes, axes] = variances
    return noise


def residuals(state: KalmanState, z: Array, H: ArrayLike | None = None, *, angles: Sequence[int] = ()) -> Array:
    """z - H x (D, N); the rows in `angles` wrapped to half a turn."""
    expected = state.mean[: len(z)] if H is None else _product(np.asarray(H, state.mean.dtype), state.mean)
    return wrap_rows(z - expected, angles)


def wrap_rows(residual: Array, angles: Sequence[int]) -> Array:
    """The residual (D, N) with the rows in `angles` (rad) wrapped to [-pi, pi), in place."""
    for row in angles:
        residual[row] = wrap_angle(residual[row])
    return residual


def innovation_covariance(
    state: KalmanState, R: ArrayLike, H: ArrayLike | None = None, *, dimensions: int | None = None
) -> Array:
    """H P H' + R (D, D, N). Without H, `dimensions` of the first states are measured (default: as many as R has)."""
    R = np.asarray(R, state.mean.dtype)
    d = dimensions or len(R)
    if H is None:
        result: Array = state.covariance[:d, :d] + _per_track(R)
        return result
    H = np.asarray(H, state.mean.dtype)
    covariance: Array = _product(H, np.swapaxes(_product(H, state.covariance), 0, 1)) + _per_track(R)
    return covariance


def correct(state: KalmanState, residual: Array, R: ArrayLike, H: ArrayLike | None = None) -> KalmanState:
    """States after measurements whose residuals (D, N) are known: the update proper, for filters of every kind."""
    return _correct(state, residual, R, H)[0]


def correct_and_weigh(
    state: KalmanState, residual: Array, R: ArrayLike, H: ArrayLike | None = None
) -> tuple[KalmanState, Array]:
    """`correct`, and the log of the density (N,) of each residual before it, for little more than the correction."""
    corrected, whitener = _correct(state, residual, R, H)
    return corrected, _log_density(residual, whitener)


def _correct(state: KalmanState, residual: Array, R: ArrayLike, H: ArrayLike | None) -> tuple[KalmanState, Array]:
    """The corrected states, and L^-1 (D, D, N) with L L' = H P H' + R."""
    d, dtype, P = len(residual), state.mean.dtype, state.covariance
    R = np.asarray(R, dtype)
    if H is None:
        HP: Array = P[:d]
        S: Array = P[:d, :d] + _per_track(R)
    else:
        H = np.asarray(H, dtype)
        HP = _product(H, P)
        S = _product(H, np.swapaxes(HP, 0, 1)) + _per_track(R)
    whitener = _inverse_cholesky(S)
    gain = _contract("den,ejn->djn", _contract("kdn,ken->den", whitener, whitener), HP)  # K' = S^-1 H P
    mean = state.mean + _contract("din,dn->in", gain, residual.astype(dtype, copy=False))

    # Where the first states are measured, the upper right blocks are neither read nor computed, but mirrored.
    split = max(d, len(P) // 2) if H is None else len(P)
    A: Array = np.empty_like(P)
    for rows, columns in ((slice(split), slice(split)), (slice(split, None), slice(None))):
        np.subtract(P[rows, columns], _outer(gain[:, rows], HP[:, columns]), out=A[rows, columns])
    HA = np.swapaxes(A[:, :d], 0, 1) if H is None else _product(H, np.swapaxes(A, 0, 1))
    excess = HA - _contract("den,ejn->djn", _per_track(R), gain)  # (A H' - K R)', but for rounding nothing
    for rows, columns in ((slice(split), slice(split)), (slice(split, None), slice(None))):
        A[rows, columns] -= _outer(excess[:, rows], gain[:, columns])
    lost = _ROUNDING * float(np.finfo(dtype).eps)
    np.einsum("iin->in", A)[...] += lost * np.einsum("iin->in", P)
    return KalmanState(mean, mirror_lower(A)), whitener


def squared_length(residual: Array, covariance: Array) -> Array:
    """Squared Mahalanobis length (N,) of residuals (D, N) with covariances (D, D, N)."""
    whitened = _contract("den,en->dn", _inverse_cholesky(covariance), residual)
    return _contract("dn,dn->n", whitened, whitened)


def log_density(residual: Array, covariance: Array) -> Array:
    """Log of the Gaussian density (N,) at residuals (D, N) with covariances (D, D, N)."""
    return _log_density(residual, _inverse_cholesky(covariance))


def _log_density(residual: Array, whitener: Array) -> Array:
    whitened = _contract("den,en->dn", whitener, residual)
    axes = np.arange(len(residual))
    result: Array = np.log(whitener[axes, axes]).sum(axis=0) - 0.5 * _contract("dn,dn->n", whitened, whitened)
    result -= 0.5 * len(residual) * np.log(2.0 * np.pi)
    return result


def _per_track(matrix: ArrayLike) -> Array:
    """A matrix (A, B) or (A, B, N) as one that broadcasts to (A, B, N)."""
    matrix = np.asarray(matrix)
    return matrix[:, :, None] if matrix.ndim == 2 else matrix


def _contract(subscripts: str, *operands: Array) -> Array:
    """einsum without temporaries: over tracks it runs contiguously, and the sum over d is fused with the product."""
    result: Array = np.einsum(subscripts, *operands)
    return result


def _outer(left: Array, right: Array) -> Array:
    """left' right (I, J, N) of left (D, I, N) and right (D, J, N)."""
    return _contract("din,djn->ijn", left, right)


def _product(matrix: Array, right: Array, runs: list[Run] | None = None) -> Array:
    """matrix (A, S) or (A, S, N) times right (S, N) or (S, C, N): (A, N) or (A, C, N).

    Goes along the diagonals of the matrix: a run of entries there is one operation over rows of `right`. Zeros cost
    nothing, ones no multiplication, so that the product with a constant-velocity F is a copy and one run.
    """
    runs = _diagonal_runs(matrix) if runs is None else runs
    per_row = (slice(None), *(None,) * (right.ndim - 2)) if matrix.ndim == 3 else (..., *(None,) * (right.ndim - 1))
    if runs and runs[0] == (0, len(matrix), 0, True):  # an identity, to begin with
        result: Array = right[: len(matrix)].copy()
        runs = runs[1:]
    else:
        result = np.zeros((len(matrix), *right.shape[1:]), dtype=right.dtype)
    for first, last, offset, ones in runs:
        source = right[first + offset : last + offset]
        if not ones:
            rows = np.arange(first, last)
            source = matrix[rows, rows + offset][per_row] * source
        result[first:last] += source
    return result


def _diagonal_runs(matrix: Array) -> list[Run]:
    """The runs of nonzero entries along the diagonals, the main one first.

    An entry that differs between tracks is zero, or one, if it is so for all of them.
    """
    nonzero, ones = matrix != 0.0, matrix == 1.0
    if matrix.ndim == 3:
        nonzero, ones = nonzero.any(axis=-1), ones.all(axis=-1)
    runs: list[Run] = []
    is_one = ones.tolist()
    rows, columns = np.nonzero(nonzero)
    entries = zip((columns - rows).tolist(), rows.tolist(), strict=True)
    for offset, row in sorted(entries, key=lambda entry: (abs(entry[0]), entry)):
        one = is_one[row][row + offset]
        if runs and runs[-1][1:] == (row, offset, one):
            runs[-1] = (runs[-1][0], row + 1, offset, one)
        else:
            runs.append((row, row + 1, offset, one))
    return runs


def mirror_lower(matrices: Array) -> Array:
    """Matrices (S, S, N) with the lower triangle copied to the upper, in place."""
    for row in range(1, len(matrices)):
        matrices[:row, row] = matrices[row, :row]
    return matrices


def _inverse_cholesky(matrices: Array) -> Array:
    """L^-1 (D, D, N), lower triangular, with L L' = matrices (D, D, N), of which the lower triangle is read."""
    size = len(matrices)
    factor: Array = matrices.copy()
    inverse: Array = np.zeros_like(matrices)
    for j in range(size):
        reciprocal = np.sqrt(factor[j, j])
        np.divide(1.0, reciprocal, out=reciprocal)
        factor[j + 1 :, j] *= reciprocal
        for k in range(j + 1, size):
            factor[k:, k] -= factor[k:, j] * factor[k, j]
        inverse[j, j] = 1.0
        for k in range(j):
            inverse[j, : k + 1] -= factor[j, k] * inverse[k, : k + 1]
        inverse[j, : j + 1] *= reciprocal
    return inverse
