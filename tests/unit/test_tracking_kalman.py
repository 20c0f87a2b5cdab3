from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracking import kalman

Array = np.ndarray[Any, Any]


def matrices(d: int, dt: float, psd: Array) -> tuple[Array, Array, Array]:
    """F, Q and H, written out."""
    transition, noise = np.eye(2 * d), np.zeros((2 * d, 2 * d))
    for axis in range(d):
        transition[axis, d + axis] = dt
        noise[axis, axis], noise[d + axis, d + axis] = psd[axis] * dt**3 / 3, psd[axis] * dt
        noise[axis, d + axis] = noise[d + axis, axis] = psd[axis] * dt**2 / 2
    return transition, noise, np.hstack([np.eye(d), np.zeros((d, d))])


def textbook_update(x: Array, p: Array, h: Array, z: Array, r: Array) -> tuple[Array, Array]:
    gain = p @ h.T @ np.linalg.inv(h @ p @ h.T + r)
    joseph = np.eye(len(x)) - gain @ h
    return x + gain @ (z - h @ x), joseph @ p @ joseph.T + gain @ r @ gain.T


def random_spd(rng: np.random.Generator, size: int, count: int) -> Array:
    """Covariances (size, size, count), some of them strongly correlated."""
    factor = rng.normal(size=(count, size, size)) * rng.uniform(0.3, 3.0, (count, size, 1))
    return np.moveaxis(factor @ np.swapaxes(factor, 1, 2) + 0.05 * np.eye(size), 0, -1)


@given(
    seed=st.integers(0, 2**31),
    d=st.integers(1, 5),
    count=st.integers(0, 7),
    dt=st.floats(0.0, 3.0),
    per_track=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_the_batch_equals_a_textbook_filter_for_each_track(
    seed: int, d: int, count: int, dt: float, per_track: bool
) -> None:
    rng = np.random.default_rng(seed)
    state = kalman.KalmanState(rng.normal(0, 5, (2 * d, count)), random_spd(rng, 2 * d, count))
    psd = rng.uniform(0, 3, (d, count))
    dts = rng.uniform(0, 3, count) if per_track else np.full(count, dt)
    z, r = rng.normal(0, 5, (d, count)), random_spd(rng, d, count)

    predicted = kalman.predict(state, dts if per_track else dt, psd)
    distances = kalman.squared_mahalanobis(predicted, z, r)
    updated = kalman.update(predicted, z, r)

    for track in range(count):
        f, q, h = matrices(d, dts[track], psd[:, track])
        x = f @ state.mean[:, track]
        p = f @ state.covariance[:, :, track] @ f.T + q
        np.testing.assert_allclose(predicted.mean[:, track], x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(predicted.covariance[:, :, track], p, rtol=1e-9, atol=1e-9)
        s = h @ p @ h.T + r[:, :, track]
        innovation = z[:, track] - h @ x
        np.testing.assert_allclose(distances[track], innovation @ np.linalg.solve(s, innovation), rtol=1e-9, atol=1e-9)
        x, p = textbook_update(x, p, h, z[:, track], r[:, :, track])
        np.testing.assert_allclose(updated.mean[:, track], x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(updated.covariance[:, :, track], p, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_long_run_equals_filterpy(seed: int, d: int) -> None:
    filters = pytest.importorskip("filterpy.kalman", reason="filterpy>=2.0 is not installed")
    rng = np.random.default_rng(seed)
    z, r = rng.normal(0, 3, (d, 1)), random_spd(rng, d, 1)
    state = kalman.start(z, r, 4.0)
    theirs = filters.KalmanFilter(dim_x=2 * d, dim_z=d)
    theirs.x, theirs.P = state.mean.copy(), state.covariance[:, :, 0].copy()
    for _ in range(30):
        dt, psd = rng.uniform(0.01, 1.0), rng.uniform(0.1, 2.0, d)
        theirs.F, theirs.Q, theirs.H = matrices(d, dt, psd)
        z, r = rng.normal(0, 3, (d, 1)), random_spd(rng, d, 1)
        state = kalman.update(kalman.predict(state, dt, psd[:, None]), z, r)
        theirs.predict()
        theirs.update(z, R=r[:, :, 0])
    np.testing.assert_allclose(state.mean, theirs.x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(state.covariance[:, :, 0], theirs.P, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**31), parts=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_one_long_prediction_equals_many_short_ones(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    state = kalman.KalmanState(rng.normal(size=(6, 3)), random_spd(rng, 6, 3))
    short = state
    for _ in range(parts):
        short = kalman.predict(short, 2.0 / parts, 1.5)
    long = kalman.predict(state, 2.0, 1.5)
    np.testing.assert_allclose(short.mean, long.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(short.covariance, long.covariance, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**31), exponent=st.floats(-8.0, 8.0))
@settings(max_examples=30, deadline=None)
def test_covariances_stay_symmetric_and_positive_at_extreme_noise(seed: int, exponent: float) -> None:
    rng = np.random.default_rng(seed)
    state = kalman.start(rng.normal(size=(3, 5)), random_spd(rng, 3, 5), 1.0)
    for _ in range(50):
        state = kalman.predict(state, rng.uniform(0.001, 2.0), 1.0)
        state = kalman.update(state, rng.normal(size=(3, 5)), random_spd(rng, 3, 5) * 10.0**exponent)
    covariances = np.moveaxis(state.covariance, -1, 0)
    np.testing.assert_array_equal(covariances, np.swapaxes(covariances, 1, 2))
    assert (np.linalg.eigvalsh(covariances) > 0).all()


def test_float32_states_stay_float32() -> None:
    z = np.ones((3, 4), dtype=np.float32)
    noise = kalman.diagonal_noise(z)
    state = kalman.update(kalman.predict(kalman.start(z, noise, 4.0), 0.1, 1.0), z, noise)
    assert state.mean.dtype == state.covariance.dtype == np.float32


def test_a_constant_velocity_is_found() -> None:
    times = np.arange(1, 60) * 0.1
    truth = np.array([[1.0], [-2.0]]) + np.array([[3.0], [0.5]]) * times
    noise = kalman.diagonal_noise(np.full((2, 1), 1e-4))
    state = kalman.start(truth[:, :1], noise, 100.0)
    for place in truth.T[1:]:
        state = kalman.update(kalman.predict(state, 0.1, 1e-6), place[:, None], noise)
    np.testing.assert_allclose(state.velocities[:, 0], [3.0, 0.5], atol=1e-3)


def test_taking_putting_and_appending_keep_tracks_apart() -> None:
    rng = np.random.default_rng(0)
    state = kalman.KalmanState(rng.normal(size=(4, 5)), random_spd(rng, 4, 5))
    mask = np.array([True, False, True, True, False])
    rejoined = state.take(mask).append(state.take(~mask)).take(np.argsort(np.argsort(~mask, kind="stable")))
    np.testing.assert_array_equal(rejoined.mean, state.mean)
    np.testing.assert_array_equal(rejoined.covariance, state.covariance)
    changed = state.put(np.array([3, 1]), state.take(np.array([0, 2])))
    np.testing.assert_array_equal(changed.mean[:, [3, 1]], state.mean[:, [0, 2]])
    np.testing.assert_array_equal(changed.covariance[:, :, [0, 2, 4]], state.covariance[:, :, [0, 2, 4]])


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        kalman.KalmanState(np.zeros((4, 3)), np.zeros((4, 4, 2)))
    with pytest.raises(ValueError, match="do not fit"):
        kalman.KalmanState(np.zeros((3, 1)), np.zeros((3, 3, 1)))
