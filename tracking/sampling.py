"""When a camera or a detector has to run next, so that tracks stay within an error budget.

BlinkBud's question (its answer: an extended Kalman filter and a learned sampling policy) has a closed form for tracks
of nearly constant velocity. Without a look, a track's mean squared position error grows as a cubic of time (the trace
of F P F' + Q of `tracking.motion_models.constant_velocity`):

    tr Ppp + 2 t tr Ppv + t^2 tr Pvv + D q t^3 / 3

- error: it reaches the budget's square at the smallest positive root;
- confusion: two tracks whose relative position, D + V t, is within z standard deviations of its own error of the point
  halfway between them may be exchanged; z^2 (relative error) - |D + V t|^2 / 4 is a cubic too.

For what is not tracked yet there is only a longest interval (`tracking.sampling_policy`): one that shrank with the rate
of new tracks did worse than looks at even intervals.

All roots are taken at once, over tracks and pairs. Lengths are in px or m, as the tracks' are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

_HALVINGS = 30
_NEIGHBOURS = 4  # of each track that are looked at for confusion


def time_to_budget_s(covariances: Array, acceleration_psd: ArrayLike, budget: ArrayLike) -> Array:
    """Seconds (N,) until each track's root mean square position error is its budget; 0 where it is over it already.

    covariances (N, 2D, 2D) of position and velocity; acceleration_psd (unit^2 / s^3) and budget (unit) broadcast to
    (N,). A covariance that is not finite is over any budget. Raises ValueError for a budget that is not positive.
    """
    budget = np.asarray(budget, dtype=np.float64)
    if not (budget > 0.0).all():
        raise ValueError(f"budget must be above 0, not {budget.min()}")
    coefficients = error_growth(covariances, acceleration_psd)
    coefficients[0] -= budget**2
    return first_crossing(coefficients)


def error_growth(covariances: Array, acceleration_psd: ArrayLike) -> Array:
    """The mean squared position error t seconds ahead as coefficients (4, N) of 1, t, t^2, t^3."""
    d = covariances.shape[-1] // 2
    axes = np.arange(d)
    coefficients = np.empty((4, len(covariances)))
    coefficients[0] = covariances[:, axes, axes].sum(axis=1)
    coefficients[1] = 2.0 * covariances[:, axes, axes + d].sum(axis=1)
    coefficients[2] = covariances[:, axes + d, axes + d].sum(axis=1)
    coefficients[3] = np.asarray(acceleration_psd, dtype=np.float64) * (d / 3.0)
    return coefficients


def time_to_confusion_s(
    positions: Array, velocities: Array, covariances: Array, acceleration_psd: ArrayLike, sigmas: float = 1.0
) -> Array:
    """Seconds (N,) until each track may be taken for one of its nearest neighbours; infinity where it has none.

    positions and velocities (N, D), covariances (N, 2D, 2D); tracks' errors are taken to be independent.
    """
    count = len(positions)
    if count < 2:
        return np.full(count, np.inf)
    gaps = np.zeros((count, count))
    for axis in positions.T:
        gaps += (axis[:, None] - axis[None, :]) ** 2
    np.fill_diagonal(gaps, np.inf)
    near = min(_NEIGHBOURS, count - 1)
    others = np.argpartition(gaps, near - 1, axis=1)[:, :near].ravel()
    ones = np.repeat(np.arange(count), near)
    growth = error_growth(covariances, acceleration_psd)
    offset, closing = positions[others] - positions[ones], velocities[others] - velocities[ones]
    halfway = np.stack([(offset**2).sum(axis=1), 2.0 * (offset * closing).sum(axis=1), (closing**2).sum(axis=1)]) / 4.0
    risk = sigmas**2 * (growth[:, ones] + growth[:, others])
    risk[:3] -= halfway
    result: Array = first_crossing(risk).reshape(count, near).min(axis=1)
    return result


def first_crossing(coefficients: Array, limit_s: float = 3600.0) -> Array:
    """Smallest t >= 0 (N,) at which the cubic c0 + c1 t + c2 t^2 + c3 t^3 is not below zero; infinity beyond limit_s.

    coefficients (4, N). Where one is not finite, 0. The roots of the derivative part the time in up to three stretches
    on which the cubic rises or falls throughout; in the first that ends at zero or above, Newton's method and bisection
    take turns. (Cardano's formula loses all digits where one root is far larger than another.)
    """
    coefficients = np.asarray(coefficients, dtype=np.float64)
    known = np.isfinite(coefficients).all(axis=0)
    c = np.where(known, coefficients, 0.0)
    ends = np.sort(np.concatenate([_turning_points(c, limit_s), np.full((1, c.shape[1]), limit_s)]), axis=0)
    reached = _cubic(c, ends) >= 0.0
    first = reached.argmax(axis=0)
    columns = np.arange(c.shape[1])
    high = ends[first, columns]
    low = np.where(first > 0, ends[first - 1, columns], 0.0)
    t = (low + high) / 2.0
    for _ in range(_HALVINGS):
        over = _cubic(c, t) >= 0.0
        high, low = np.where(over, t, high), np.where(over, low, t)
        slope = c[1] + t * (2.0 * c[2] + t * 3.0 * c[3])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            newton = t - _cubic(c, t) / slope
        t = np.where((newton > low) & (newton < high), newton, t)
        over = _cubic(c, t) >= 0.0
        high, low = np.where(over, np.minimum(t, high), high), np.where(over, low, np.maximum(t, low))
        t = (low + high) / 2.0
    now = ~known | (c[0] >= 0.0)
    return np.where(now, 0.0, np.where(reached.any(axis=0), high, np.inf))


def _cubic(c: Array, t: Array) -> Array:
    result: Array = c[0] + t * (c[1] + t * (c[2] + t * c[3]))
    return result


def _turning_points(c: Array, limit_s: float) -> Array:
    """Where the cubics stop rising or falling, (2, N), in 0 to limit_s; the nearer end where they do not."""
    a, b, d = 3.0 * c[3], c[2], c[1]  # a t^2 + 2 b t + d
    root = np.sqrt(np.maximum(b * b - a * d, 0.0))
    larger = -(b + np.copysign(root, b))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        points = np.stack([larger / a, d / larger])
    return np.clip(np.where(np.isfinite(points), points, 0.0), 0.0, limit_s)
