"""How good predictions are: displacement errors of the best of K hypotheses, misses, and calibration.

A forecast is K Gaussian hypotheses with probabilities for each of N cases at H horizons in D coordinates: positions
(N, K, H, D), covariances (N, K, H, D, D), probabilities (N, K). The truth is (N, H, D), NaN where it is not known.

- minADE_K and minFDE_K (as in Argoverse and nuScenes): of the K most probable hypotheses, the one that comes nearest,
  by its mean error over the horizons and by its error at the last. Only cases whose truth is known throughout count.
- A forecast is calibrated when truth falls into what it calls its 50 % region half of the time. Regions are ellipses of
  the combined Gaussian (moment-matched: one peak, whatever the hypotheses say), and regions of highest density of the
  mixture itself, whose content is estimated by sampling it.
- NEES, the squared Mahalanobis error of the combined Gaussian over D, is 1 on average (Bar-Shalom, section 5.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.prediction import combine

Array = NDArray[Any]

LEVELS = (0.5, 0.9, 0.99)


@dataclass(frozen=True, eq=False)
class Forecast:
    """Hypotheses and truth of N cases; see the module's docstring. All float64, in one unit."""

    positions: Array
    covariances: Array
    probabilities: Array
    truth: Array

    def __post_init__(self) -> None:
        n, k, h, d = self.positions.shape
        for name, shape in (("covariances", (n, k, h, d, d)), ("probabilities", (n, k)), ("truth", (n, h, d))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {shape}")

    def take(self, cases: Array) -> Forecast:
        """The chosen cases: indices or a boolean mask."""
        return Forecast(self.positions[cases], self.covariances[cases], self.probabilities[cases], self.truth[cases])


@dataclass(frozen=True)
class ForecastScores:
    """Scores of one forecast. Tuples by horizon have H entries; lengths are in the forecast's unit.

    cases: with truth at any horizon; complete: at all. error: mean error of the combined mean, by horizon. ade, fde: of
    the combined mean, over complete cases. min_ade, min_fde, miss_rate: by K. nees: by horizon. ellipses, regions: the
    share of truth inside the 50, 90 and 99 % ellipse or region, by level, then horizon. nll: mean negative log density
    of the mixture at the truth, by horizon.
    """

    cases: int
    complete: int
    error: tuple[float, ...]
    ade: float
    fde: float
    min_ade: dict[int, float]
    min_fde: dict[int, float]
    miss_rate: dict[int, float]
    nees: tuple[float, ...]
    ellipses: tuple[tuple[float, ...], ...]
    regions: tuple[tuple[float, ...], ...]
    nll: tuple[float, ...]

    def summary(self) -> dict[str, Any]:
        """The numbers as JSON has them."""
        return {
            name: {str(k): v for k, v in value.items()} if isinstance(value, dict) else value
            for name, value in vars(self).items()
        }


def evaluate(
    forecast: Forecast, miss_distance: float, *, ks: tuple[int, ...] = (1, 3, 5), samples: int = 200, seed: int = 0
) -> ForecastScores:
    """All scores. miss_distance: a best final error above it is a miss; samples: drawn for each case's regions.

    A K above the number of hypotheses is left out. NaN stands where no case counts.
    """
    mean, covariance = combine(forecast.positions, forecast.covariances, forecast.probabilities)
    error = np.linalg.norm(forecast.truth - mean, axis=-1)
    complete = np.isfinite(error).all(axis=1)
    ks = tuple(k for k in ks if k <= forecast.positions.shape[1])
    best = {k: best_of(forecast.take(complete), k) for k in ks}
    squared = squared_mahalanobis(forecast.truth - mean, covariance)
    ranks = density_ranks(forecast, samples, seed)
    dimensions = mean.shape[-1]
    return ForecastScores(
        cases=int(np.isfinite(error).any(axis=1).sum()),
        complete=int(complete.sum()),
        error=_by_horizon(error),
        ade=_mean(error[complete]),
        fde=_mean(error[complete][:, -1]),
        min_ade={k: _mean(ade) for k, (ade, _) in best.items()},
        min_fde={k: _mean(fde) for k, (_, fde) in best.items()},
        miss_rate={k: _mean(fde > miss_distance) for k, (_, fde) in best.items()},
        nees=_by_horizon(squared / dimensions),
        ellipses=tuple(_by_horizon(_within(_content(squared, dimensions), level)) for level in LEVELS),
        regions=tuple(_by_horizon(_within(ranks, level)) for level in LEVELS),
        nll=_by_horizon(-log_density(forecast.positions, forecast.covariances, forecast.probabilities, forecast.truth)),
    )


def best_of(forecast: Forecast, k: int) -> tuple[Array, Array]:
    """The lowest mean error over horizons, and the lowest error at the last (N,), of the k most probable hypotheses.

    Of equally probable hypotheses the first come first. The two may be of different hypotheses.
    """
    order = np.argsort(-forecast.probabilities, axis=1, kind="stable")[:, :k]
    chosen = np.take_along_axis(forecast.positions, order[:, :, None, None], axis=1)
    errors = np.linalg.norm(forecast.truth[:, None] - chosen, axis=-1)
    return errors.mean(axis=2).min(axis=1), errors[:, :, -1].min(axis=1)


def squared_mahalanobis(errors: Array, covariances: Array) -> Array:
    """e' C^-1 e (...) of errors (..., D) and covariances (..., D, D); NaN where the error has one."""
    whole = np.asarray(np.isfinite(errors).all(axis=-1))
    known = np.where(whole[..., None], errors, 0.0)
    solved = np.linalg.solve(covariances, known[..., None])[..., 0]
    return np.where(whole, (known * solved).sum(axis=-1), np.nan)


def log_density(positions: Array, covariances: Array, probabilities: Array, points: Array) -> Array:
    """Log density (N, H) of the mixtures at points (N, H, D), in nats; NaN where the point has one."""
    squared = squared_mahalanobis(points[:, None] - positions, covariances)
    log_scale = np.linalg.slogdet(covariances)[1] + positions.shape[-1] * np.log(2.0 * np.pi)
    with np.errstate(divide="ignore"):
        each = np.log(probabilities)[:, :, None] - 0.5 * (squared + log_scale)
    top = each.max(axis=1, keepdims=True)
    result: Array = (top + np.log(np.exp(each - top).sum(axis=1, keepdims=True)))[:, 0]
    return result


def density_ranks(forecast: Forecast, samples: int, seed: int) -> Array:
    """Probability (N, H) that the mixture gives to places that are denser than the truth; NaN where it is not known.

    Uniform over 0 to 1 when the forecast is calibrated. Estimated from `samples` draws of each mixture.
    """
    positions, covariances, probabilities = forecast.positions, forecast.covariances, forecast.probabilities
    at_truth = log_density(positions, covariances, probabilities, forecast.truth)
    factors = np.linalg.cholesky(covariances)
    edges = np.cumsum(probabilities, axis=1)
    rng = np.random.default_rng(seed)
    cases, count = np.arange(len(positions)), positions.shape[1]
    denser = np.zeros(at_truth.shape)
    for _ in range(samples):
        mode = np.minimum((rng.random((len(cases), 1)) > edges).sum(axis=1), count - 1)
        normal = rng.normal(size=forecast.truth.shape)
        drawn = positions[cases, mode] + (factors[cases, mode] @ normal[..., None])[..., 0]
        denser += log_density(positions, covariances, probabilities, drawn) > at_truth
    return np.where(np.isfinite(at_truth), denser / samples, np.nan)


def _content(squared: Array, dimensions: int) -> Array:
    """Probability content of the ellipsoid of a squared Mahalanobis radius: chi-squared with 2 or 3 degrees."""
    if dimensions not in (2, 3):
        raise ValueError(f"positions have 2 or 3 coordinates, not {dimensions}")
    outside: Array = np.exp(-squared / 2.0)
    if dimensions == 2:
        return 1.0 - outside
    radius = np.sqrt(squared)
    ball: Array = _error_function(radius / np.sqrt(2.0)) - np.sqrt(2.0 / np.pi) * radius * outside
    return ball


def _error_function(x: Array) -> Array:
    """erf(x) of x >= 0 to 2e-7: Abramowitz and Stegun 7.1.26 (numpy has none)."""
    t = 1.0 / (1.0 + 0.3275911 * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    result: Array = 1.0 - series * np.exp(-x * x)
    return result


def _within(values: Array, level: float) -> Array:
    """1 where a value is at most the level, 0 where it is not, NaN where it is NaN."""
    return np.where(np.isfinite(values), values <= level, np.nan)


def _by_horizon(values: Array) -> tuple[float, ...]:
    """Mean over the cases (N, H) of each horizon's known values."""
    return tuple(_mean(column[np.isfinite(column)]) for column in values.T)


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
