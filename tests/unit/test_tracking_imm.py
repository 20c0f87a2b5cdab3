from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from tracking import kalman, motion_models
from tracking.imm import ImmState, imm_combine, imm_predict, imm_start, imm_update, switching

filters = pytest.importorskip("filterpy.kalman", reason="filterpy>=2.0 is not installed")

Array = np.ndarray[Any, Any]
Dynamics = tuple[Array, Array]


def random_spd(rng: np.random.Generator, size: int, count: int) -> Array:
    factor = rng.normal(size=(count, size, size))
    return np.moveaxis(factor @ np.swapaxes(factor, 1, 2) + 0.05 * np.eye(size), 0, -1)


def random_rows(rng: np.random.Generator, count: int) -> Array:
    """A row-stochastic matrix."""
    rows = rng.uniform(0.02, 1.0, (count, count))
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def three_models(dt: Any) -> list[Dynamics]:
    return [
        motion_models.constant_velocity(dt, 0.05, 2, accelerations=True),
        motion_models.constant_acceleration(dt, 3.0, 2),
        motion_models.coordinated_turn(dt, 1.0, 0.5, accelerations=True),
    ]


def random_state(rng: np.random.Generator, models: int, count: int) -> ImmState:
    probabilities = rng.uniform(0.05, 1.0, (models, count))
    states = (kalman.KalmanState(rng.normal(size=(6, count)), random_spd(rng, 6, count)) for _ in range(models))
    return ImmState(tuple(states), probabilities / probabilities.sum(axis=0))


def filterpy_imm(state: ImmState, track: int, transition: Array) -> Any:
    theirs = []
    for model in state.models:
        one = filters.KalmanFilter(dim_x=6, dim_z=2)
        one.x, one.P = model.mean[:, track : track + 1].copy(), model.covariance[:, :, track].copy()
        one.H = np.eye(2, 6)
        theirs.append(one)
    return filters.IMMEstimator(theirs, state.probabilities[:, track].copy(), transition)


@given(seed=st.integers(0, 2**31), models=st.integers(2, 3))
@settings(max_examples=15, deadline=None)
def test_random_runs_equal_filterpy(seed: int, models: int) -> None:
    rng = np.random.default_rng(seed)
    state, transition = random_state(rng, models, 2), random_rows(rng, models)
    theirs = [filterpy_imm(state, track, transition) for track in range(2)]
    for _ in range(15):
        dynamics = three_models(rng.uniform(0.02, 0.5))[:models]
        z, R = rng.normal(0, 2, (2, 2)), random_spd(rng, 2, 2)
        state = imm_update(imm_predict(state, dynamics, transition), z, R)
        combined = imm_combine(state)
        for track, imm in enumerate(theirs):
            for one, (F, Q) in zip(imm.filters, dynamics, strict=True):
                one.F, one.Q, one.R = F, Q, R[:, :, track]
            imm.predict()
            imm.update(z[:, track : track + 1])
            np.testing.assert_allclose(state.probabilities[:, track], imm.mu, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(combined.mean[:, track], imm.x[:, 0], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(combined.covariance[:, :, track], imm.P, rtol=1e-9, atol=1e-9)
            for ours, one in zip(state.models, imm.filters, strict=True):
                np.testing.assert_allclose(ours.mean[:, track], one.x[:, 0], rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(ours.covariance[:, :, track], one.P, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_prediction_predicts_the_mixed_states_and_their_probabilities(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state, transition = random_state(rng, 3, 4), random_rows(rng, 3)
    predicted = imm_predict(state, three_models(0.2), transition)
    np.testing.assert_allclose(predicted.probabilities, transition.T @ state.probabilities, rtol=1e-12)
    # The mixture's mean does not change by mixing: with one dynamics for all, it is predicted as a whole.
    alike = imm_combine(imm_predict(state, three_models(0.2)[:1] * 3, transition))
    whole = kalman.predict(imm_combine(state), *three_models(0.2)[0])
    np.testing.assert_allclose(alike.mean, whole.mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(alike.covariance, whole.covariance, rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_one_gaussian_has_the_moments_of_the_mixture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = random_state(rng, 3, 2)
    combined = imm_combine(state)
    mean = np.einsum("mn,msn->sn", state.probabilities, [model.mean for model in state.models])
    second = sum(
        p * (model.covariance + model.mean[:, None] * model.mean[None])
        for p, model in zip(state.probabilities, state.models, strict=True)
    )
    np.testing.assert_allclose(combined.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(combined.covariance, second - mean[:, None] * mean[None], rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_probabilities_sum_to_one_and_covariances_stay_positive(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state, transition = random_state(rng, 3, 4), random_rows(rng, 3)
    for _ in range(20):
        R = np.eye(2) * 10.0 ** rng.uniform(-6, 4)
        state = imm_update(
            imm_predict(state, three_models(rng.uniform(0, 2, 4)), transition), rng.normal(0, 10, (2, 4)), R
        )
        np.testing.assert_allclose(state.probabilities.sum(axis=0), 1.0, rtol=1e-12)
        assert (state.probabilities >= 0.0).all()
    covariances = np.moveaxis(imm_combine(state).covariance, -1, 0)
    np.testing.assert_array_equal(covariances, np.swapaxes(covariances, 1, 2))
    # Where no model with accelerations is left, these are zero without doubt.
    assert (np.linalg.eigvalsh(covariances[:, :4, :4]) > 0.0).all()
    assert (np.einsum("nii->ni", covariances) >= 0.0).all()


def test_equal_models_are_one_filter() -> None:
    rng = np.random.default_rng(1)
    one = kalman.KalmanState(rng.normal(size=(6, 3)), random_spd(rng, 6, 3))
    state, dynamics = imm_start(one, [0.7, 0.3]), three_models(0.1)[1]
    for _ in range(10):
        z = rng.normal(size=(2, 3))
        state = imm_update(imm_predict(state, [dynamics] * 2, random_rows(rng, 2)), z, np.eye(2))
        one = kalman.update(kalman.predict(one, *dynamics), z, np.eye(2))
    np.testing.assert_allclose(imm_combine(state).mean, one.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(imm_combine(state).covariance, one.covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("distance", [1e3, 1e9, 1e150])
def test_a_measurement_that_no_model_explains_leaves_probabilities_sound(distance: float) -> None:
    state = random_state(np.random.default_rng(2), 3, 2)
    updated = imm_update(state, np.full((2, 2), distance), np.eye(2) * 1e-6)
    assert np.isfinite(updated.probabilities).all()
    np.testing.assert_allclose(updated.probabilities.sum(axis=0), 1.0)


def test_a_measurement_that_is_not_finite_leaves_probabilities_as_they_were() -> None:
    state = random_state(np.random.default_rng(3), 2, 2)
    updated = imm_update(state, np.array([[np.nan, 1.0], [0.0, 1.0]]), np.eye(2))
    np.testing.assert_allclose(updated.probabilities[:, 0], state.probabilities[:, 0])
    assert np.isfinite(updated.models[0].mean[:, 1]).all()


def test_a_model_that_nothing_leads_to_has_no_part_and_stays_finite() -> None:
    rng = np.random.default_rng(4)
    state = imm_start(kalman.KalmanState(rng.normal(size=(6, 1)), random_spd(rng, 6, 1)), [1.0, 0.0])
    for _ in range(3):
        state = imm_update(imm_predict(state, three_models(0.1)[:2], np.eye(2)), np.zeros((2, 1)), np.eye(2))
    np.testing.assert_array_equal(state.probabilities[:, 0], [1.0, 0.0])
    assert np.isfinite(state.models[1].mean).all()


def follow(truth: Array, dt: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Positions that the IMM gives (2, T) and the probabilities of its models (3, T) along a true path (2, T)."""
    R = np.eye(2) * 0.04
    state = imm_start(kalman.start(truth[:, :1], R, 25.0, 4.0), [0.8, 0.1, 0.1])
    transition = switching(dt, [10.0, 2.0, 2.0])
    places, probabilities = [truth[:, 0]], [state.probabilities[:, 0]]
    for place in truth.T[1:]:
        z = (place + rng.normal(0, 0.2, 2))[:, None]
        state = imm_update(imm_predict(state, three_models(dt), transition), z, R)
        places.append(imm_combine(state).mean[:2, 0])
        probabilities.append(state.probabilities[:, 0])
    return np.stack(places, axis=1), np.stack(probabilities, axis=1)


def test_a_turn_is_recognised_and_followed() -> None:
    dt, speed = 0.1, 8.0
    headings = np.concatenate([np.zeros(60), 1.0 * dt * np.arange(40), np.full(60, 4.0)])
    truth = np.cumsum(speed * dt * np.stack([np.cos(headings), np.sin(headings)]), axis=1)
    places, probabilities = follow(truth, dt, np.random.default_rng(0))
    assert probabilities[0, 40:60].mean() > 0.7  # straight on
    assert probabilities[2, 75:100].mean() > 0.7  # turning at 1 rad/s
    assert probabilities[0, 140:].mean() > 0.7
    assert np.linalg.norm(places - truth, axis=0)[10:].max() < 0.7


@given(
    first=st.floats(0.0, 20.0),
    second=st.floats(0.0, 20.0),
    stays=st.lists(st.floats(0.05, 1e4), min_size=1, max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_switching_is_a_chain_in_continuous_time(first: float, second: float, stays: list[float]) -> None:
    whole = switching(first + second, stays)
    np.testing.assert_allclose(whole.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(switching(first, stays) @ switching(second, stays), whole, rtol=1e-9, atol=1e-12)
    if len(stays) > 1:
        rates = 1.0 / np.array(stays)
        generator = np.where(np.eye(len(stays), dtype=bool), -rates[:, None], rates[:, None] / (len(stays) - 1))
        np.testing.assert_allclose(whole, expm(generator * (first + second)), rtol=1e-8, atol=1e-10)


def test_no_tracks_are_no_trouble() -> None:
    state = imm_start(kalman.start(np.zeros((2, 0)), np.eye(2), 1.0, 1.0), [0.5, 0.5])
    state = imm_update(imm_predict(state, three_models(0.1)[:2], np.full((2, 2), 0.5)), np.zeros((2, 0)), np.eye(2))
    assert len(state) == len(imm_combine(state)) == 0


def test_taking_putting_and_appending_keep_tracks_apart() -> None:
    state = random_state(np.random.default_rng(5), 2, 4)
    mask = np.array([True, False, False, True])
    rejoined = state.take(mask).append(state.take(~mask)).take(np.array([0, 2, 3, 1]))
    np.testing.assert_array_equal(rejoined.probabilities, state.probabilities)
    changed = state.put(np.array([1]), state.take(np.array([3])))
    np.testing.assert_array_equal(changed.probabilities[:, 1], state.probabilities[:, 3])
    np.testing.assert_array_equal(changed.models[1].mean[:, [0, 1, 2, 3]], state.models[1].mean[:, [0, 3, 2, 3]])


def test_states_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(6)
    state = random_state(rng, 2, 3)
    with pytest.raises(ValueError, match="do not fit"):
        ImmState(state.models, state.probabilities[:, :2])
    with pytest.raises(ValueError, match="3 dynamics for 2 models"):
        imm_predict(state, three_models(0.1), np.eye(2))
