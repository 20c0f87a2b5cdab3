"""Interacting multiple models over many tracks at once: a target that changes how it moves is followed by several
filters, each with dynamics of its own, and by the probability of each.

The cycle is Blom and Bar-Shalom's (Bar-Shalom, Li, Kirubarajan, Estimation with Applications to Tracking and
Navigation, 2001, section 11.6.6): mix the models' states by how likely the target changed from one to the other,
predict each, correct each, weigh them by the densities of the measurement. Every step takes in all tracks; the loops
are over models. Arrays keep tracks last, as in `tracking.kalman`: M models, N tracks.

All models share one state order and size: a model without acceleration keeps the rows and sets them to zero
(`tracking.motion_models`). Densities are compared in logarithms, so that no measurement, however far, makes all models
impossible. Angles in the state are mixed as they stand: a heading must not be wrapped between steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracking import kalman
from tracking.kalman import KalmanState

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ImmState:
    """What M models say of N tracks, and how probable each is: probabilities (M, N), which sum to one."""

    models: tuple[KalmanState, ...]
    probabilities: Array

    def __post_init__(self) -> None:
        shapes = {model.mean.shape for model in self.models}
        if len(shapes) != 1 or self.probabilities.shape != (len(self.models), len(self)):
            raise ValueError(
                f"states {sorted(shapes)} and probabilities {self.probabilities.shape} do not fit together"
            )

    def __len__(self) -> int:
        return len(self.models[0])

    def take(self, tracks: Array) -> ImmState:
        """The chosen tracks: indices (may repeat) or a boolean mask."""
        return ImmState(tuple(model.take(tracks) for model in self.models), self.probabilities[:, tracks])

    def put(self, tracks: Array, values: ImmState) -> ImmState:
        """These states with the tracks at the given distinct indices, or of a mask, replaced by `values`."""
        probabilities = self.probabilities.copy()
        probabilities[:, tracks] = values.probabilities
        models = (mine.put(tracks, theirs) for mine, theirs in zip(self.models, values.models, strict=True))
        return ImmState(tuple(models), probabilities)

    def append(self, values: ImmState) -> ImmState:
        """These states followed by those of `values`."""
        models = (mine.append(theirs) for mine, theirs in zip(self.models, values.models, strict=True))
        return ImmState(tuple(models), np.concatenate([self.probabilities, values.probabilities], axis=1))


def imm_start(state: KalmanState, probabilities: ArrayLike) -> ImmState:
    """All models at the same state; probabilities (M,) or (M, N)."""
    mu = np.asarray(probabilities, dtype=state.mean.dtype)
    mu = np.broadcast_to(mu[:, None] if mu.ndim == 1 else mu, (len(mu), len(state))).copy()
    return ImmState((state,) * len(mu), mu)


def imm_predict(state: ImmState, dynamics: Sequence[tuple[Array, Array]], transition: ArrayLike) -> ImmState:
    """States one step later: mixed, then each predicted by its model's (F, Q).

    transition (M, M) or (M, M, N): row i says what a target that moved by model i moves by now; rows sum to one.
    """
    if len(dynamics) != len(state.models):
        raise ValueError(f"{len(dynamics)} dynamics for {len(state.models)} models")
    mixed = _mix(state, np.asarray(transition, dtype=state.probabilities.dtype))
    models = (kalman.predict(model, F, Q) for model, (F, Q) in zip(mixed.models, dynamics, strict=True))
    return ImmState(tuple(models), mixed.probabilities)


def imm_update(
    state: ImmState, z: Array, R: ArrayLike, H: ArrayLike | None = None, *, angles: Sequence[int] = ()
) -> ImmState:
    """States and probabilities after one measurement z (D, N) of each track; arguments as of `kalman.update`."""
    models, log_densities = [], []
    for model in state.models:
        corrected, log_density = kalman.correct_and_weigh(model, kalman.residuals(model, z, H, angles=angles), R, H)
        models.append(corrected)
        log_densities.append(log_density)
    return ImmState(tuple(models), _reweigh(state.probabilities, np.stack(log_densities)))


def imm_combine(state: ImmState) -> KalmanState:
    """One Gaussian for each track, with the mean and covariance of the mixture."""
    return _moments(state.models, state.probabilities)


def switching(dt_s: float, mean_stay_s: Sequence[float]) -> Array:
    """Transition (M, M) over dt_s of models that are kept for mean_stay_s (M,) on average, and left for any other.

    The chain runs in continuous time, so that two short steps make one long one, at any frame times.
    """
    rates = 1.0 / np.asarray(mean_stay_s, dtype=np.float64)
    count = len(rates)
    generator = np.where(np.eye(count, dtype=bool), -rates[:, None], rates[:, None] / max(count - 1, 1))
    if count == 1:
        return np.ones((1, 1))
    # exp by Taylor's series of a small part, squared until it is the whole; of positive terms only (uniformization).
    fastest = rates.max() * dt_s
    squarings = max(0, int(np.ceil(np.log2(max(fastest, 1e-300)))) + 4)
    part = fastest / 2.0**squarings
    stay_or_go = np.eye(count) + generator / rates.max()
    term = np.eye(count) * np.exp(-part)
    total = term.copy()
    for order in range(1, 13):
        term = term @ stay_or_go * (part / order)
        total += term
    for _ in range(squarings):
        total = total @ total
    result: Array = total / total.sum(axis=1, keepdims=True)
    return result


def _mix(state: ImmState, transition: Array) -> ImmState:
    """States as they enter each model's prediction, with the models' predicted probabilities."""
    by_track = transition[:, :, None] if transition.ndim == 2 else transition
    joint = by_track * state.probabilities[:, None]  # (from, to, N)
    predicted = joint.sum(axis=0)
    unreachable = predicted <= 0.0
    weights = joint / np.where(unreachable, 1.0, predicted)
    if unreachable.any():  # a model that nothing leads to keeps what it has
        weights = np.where(unreachable, np.eye(len(weights), dtype=weights.dtype)[:, :, None], weights)
    models = tuple(_moments(state.models, weights[:, j]) for j in range(len(weights)))
    return ImmState(models, predicted)


def _moments(models: Sequence[KalmanState], weights: Array) -> KalmanState:
    """Mean and covariance of mixtures: the weighted covariances, and the spread of the means. weights (M, N)."""
    mean = np.zeros_like(models[0].mean)
    for model, weight in zip(models, weights, strict=True):
        mean += weight * model.mean
    away = np.stack([model.mean for model in models]) - mean
    covariance: Array = np.einsum("min,mjn->ijn", weights[:, None] * away, away)
    for model, weight in zip(models, weights, strict=True):
        covariance += weight * model.covariance
    return KalmanState(mean, kalman.mirror_lower(covariance))


def _reweigh(probabilities: Array, log_densities: Array) -> Array:
    """Bayes' rule over models; both (M, N). Where every density is zero or unknown, the probabilities stay."""
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities) + log_densities
    largest = logs.max(axis=0)
    known = np.isfinite(largest)
    weights = np.exp(logs - np.where(known, largest, 0.0), where=known, out=probabilities.copy())
    result: Array = weights / weights.sum(axis=0)
    return result
