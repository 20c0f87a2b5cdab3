from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracking import axis_kalman, kalman, motion_models

filters = pytest.importorskip("filterpy.kalman", reason="filterpy>=2.0 is not installed")

Array = np.ndarray[Any, Any]


def filterpy_start(z: Array, variances: Array, velocity_variances: Array) -> Any:
    """One track of D coordinates, at rest at z (D,): positions first, then velocities."""
    d = len(z)
    theirs = filters.KalmanFilter(dim_x=2 * d, dim_z=d)
    theirs.x = np.concatenate([z, np.zeros(d)])[:, None]
    theirs.P = np.diag(np.concatenate([variances, velocity_variances]))
    theirs.H = np.eye(d, 2 * d)
    return theirs


def filterpy_predict(theirs: Any, dt: float, noise: Array) -> None:
    """noise (3, D): what the step adds to the variances of positions, the covariances, and those of velocities."""
    d = theirs.dim_z
    F = np.eye(2 * d)
    F[:d, d:] = dt * np.eye(d)
    Q = np.block([[np.diag(noise[0]), np.diag(noise[1])], [np.diag(noise[1]), np.diag(noise[2])]])
    theirs.predict(F=F, Q=Q)


def assert_equal_to_filterpy(state: Array, theirs: list[Any]) -> None:
    """To 1e-9 of each number, or of the scale of the coordinate's own deviations."""
    d = state.shape[1]
    axes = np.arange(d)
    for track, one in enumerate(theirs):
        np.testing.assert_allclose(state[:2, :, track].ravel(), one.x[:, 0], rtol=1e-9, atol=1e-9)
        scale = np.diag(one.P).max()
        for row, (i, j) in enumerate([(axes, axes), (axes, axes + d), (axes + d, axes + d)], start=2):
            np.testing.assert_allclose(state[row, :, track], one.P[i, j], rtol=1e-9, atol=1e-9 * min(1.0, scale))
        between = one.P.copy()
        between[axes, axes] = between[axes, axes + d] = between[axes + d, axes] = between[axes + d, axes + d] = 0.0
        np.testing.assert_allclose(between, 0.0, atol=1e-9)  # what the short form leaves out


@given(seed=st.integers(0, 2**31), d=st.integers(1, 7), standing=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_random_runs_equal_filterpys_filter_of_each_track(seed: int, d: int, standing: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4))
    moves = np.ones((d, 1))
    moves[: min(standing, d)] = 0.0  # coordinates without a velocity, as an aspect ratio
    z, r = rng.normal(0, 50, (d, count)), rng.uniform(0.01, 10, (d, count))
    velocity_variances = moves * rng.uniform(0.1, 1e3, (d, count))
    state = axis_kalman.start(z, r, velocity_variances)
    theirs = [filterpy_start(z[:, track], r[:, track], velocity_variances[:, track]) for track in range(count)]
    for _ in range(12):
        dt = rng.uniform(0.01, 1.5) if rng.random() < 0.5 else rng.uniform(0.01, 1.5, count)
        noise = rng.uniform(0, 2, (3, d, count)) * np.array([1.0, 0.1, 1.0])[:, None, None]
        noise[1:] *= moves
        state = axis_kalman.predict(state, dt, noise)
        for track, one in enumerate(theirs):
            filterpy_predict(one, float(np.broadcast_to(dt, count)[track]), noise[:, :, track])
        assert_equal_to_filterpy(state, theirs)
        if rng.random() < 0.8:
            z = state[0] + rng.normal(0, 5, (d, count))
            r = rng.uniform(0.01, 10, (d, count) if rng.random() < 0.5 else (d, 1))
            far = axis_kalman.squared_mahalanobis(state, z, r)
            state = axis_kalman.update(state, z, r)
            for track, one in enumerate(theirs):
                one.update(z[:, track : track + 1], R=np.diag(np.broadcast_to(r, (d, count))[:, track]))
                np.testing.assert_allclose(far[track], one.mahalanobis**2, rtol=1e-9, atol=1e-12)
            assert_equal_to_filterpy(state, theirs)
    assert (state[[1, 3, 4]] * (1.0 - moves) == 0.0).all()


@given(seed=st.integers(0, 2**31), d=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_random_runs_equal_the_full_filter_with_constant_velocity(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    z, r, v = rng.normal(0, 50, (d, count)), rng.uniform(0.01, 10, (d, count)), rng.uniform(0.1, 1e3, (d, count))
    ours, full = axis_kalman.start(z, r, v), kalman.start(z, kalman.diagonal_noise(r), v)
    axes = np.arange(d)
    for _ in range(10):
        dt, psd = float(rng.uniform(0.01, 1.5)), rng.uniform(0.01, 5, (d, count))
        ours = axis_kalman.predict(ours, dt, axis_kalman.white_noise_acceleration(dt, psd))
        full = kalman.predict(full, *motion_models.constant_velocity(dt, psd, d))
        z, r = full.positions + rng.normal(0, 5, (d, count)), rng.uniform(0.01, 10, (d, count))
        np.testing.assert_allclose(
            axis_kalman.squared_mahalanobis(ours, z, r),
            kalman.squared_mahalanobis(full, z, kalman.diagonal_noise(r)),
            rtol=1e-9,
            atol=1e-12,
        )
        ours, full = axis_kalman.update(ours, z, r), kalman.update(full, z, kalman.diagonal_noise(r))
        np.testing.assert_allclose(ours[:2].reshape(2 * d, count), full.mean, rtol=1e-9, atol=1e-9)
        blocks = full.covariance[axes, axes], full.covariance[axes, axes + d], full.covariance[axes + d, axes + d]
        np.testing.assert_allclose(ours[2:], blocks, rtol=1e-9, atol=1e-12)


@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([np.float32, np.float64]),
    r=st.sampled_from([1e-12, 1e-6, 1.0]),
    psd=st.sampled_from([0.0, 1e-9, 1.0]),
    velocity_variance=st.sampled_from([1e-6, 1.0, 1e10]),
)
@settings(max_examples=25, deadline=None)
def test_no_variance_is_negative_after_thousands_of_steps_with_almost_perfect_measurements(
    seed: int, dtype: Any, r: float, psd: float, velocity_variance: float
) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1e3, (2, 20)).astype(dtype)
    state = axis_kalman.start(z, r, velocity_variance)
    unit = np.finfo(dtype).eps
    for step in range(2000):
        dt = float(rng.choice([1e-3, 0.03, 1.0]))
        state = axis_kalman.predict(state, dt, axis_kalman.white_noise_acceleration(dt, np.full((2, 1), psd)))
        state = axis_kalman.update(state, z + rng.normal(0, 1, z.shape).astype(dtype), r)
        if step % 100 == 99:
            assert state.dtype == dtype
            assert np.isfinite(state).all()
            assert (state[2] > 0.0).all()
            assert (state[4] >= 0.0).all()
            assert (state[2] <= r * (1.0 + 4.0 * unit)).all()  # a measured place is no less sure than its measurement
            if dtype == np.float64 and velocity_variance <= 1.0:
                assert (state[3] ** 2 <= state[2] * state[4] * (1.0 + 1e-9)).all()


@given(seed=st.integers(0, 2**31), pieces=st.integers(2, 50))
@settings(max_examples=50, deadline=None)
def test_one_long_step_equals_many_short_ones(seed: int, pieces: int) -> None:
    rng = np.random.default_rng(seed)
    state = axis_kalman.start(rng.normal(0, 50, (4, 3)), rng.uniform(0, 10, (4, 3)), rng.uniform(0, 1e3, (4, 3)))
    state = axis_kalman.predict(state, 0.3, 0.0)
    state[1] = rng.normal(0, 5, (4, 3))
    psd = rng.uniform(0, 5, (4, 3))
    parts = rng.uniform(0.01, 0.5, pieces)
    short = state
    for part in parts:
        short = axis_kalman.predict(short, part, axis_kalman.white_noise_acceleration(part, psd))
    whole = float(parts.sum())
    long = axis_kalman.predict(state, whole, axis_kalman.white_noise_acceleration(whole, psd))
    np.testing.assert_allclose(short, long, rtol=1e-9, atol=1e-9)


def test_each_track_may_have_its_own_time_step() -> None:
    rng = np.random.default_rng(0)
    state = axis_kalman.predict(axis_kalman.start(rng.normal(size=(3, 5)), 1.0, 2.0), 1.0, 0.1)
    state[1] = rng.normal(size=(3, 5))
    dt = rng.uniform(0.0, 1.0, 5)
    together = axis_kalman.predict(state, dt, 0.0)
    for track in range(5):
        alone = axis_kalman.predict(state[:, :, track : track + 1], float(dt[track]), 0.0)
        np.testing.assert_array_equal(together[:, :, track : track + 1], alone)


def test_nothing_is_changed_in_place() -> None:
    z = np.ones((2, 3))
    state = axis_kalman.start(z, 1.0, 2.0)
    before = state.copy()
    moved = axis_kalman.predict(state, 0.5, 1.0)
    axis_kalman.update(state, z + 1.0, 1.0)
    axis_kalman.squared_mahalanobis(state, z + 1.0, 1.0)
    np.testing.assert_array_equal(state, before)
    np.testing.assert_array_equal(z, np.ones((2, 3)))
    assert not np.shares_memory(moved, state)


@pytest.mark.parametrize("count", [0, 1])
def test_no_tracks_are_as_good_as_one(count: int) -> None:
    z = np.zeros((4, count))
    state = axis_kalman.start(z, np.ones((4, count)), np.ones((4, count)))
    state = axis_kalman.predict(state, 0.1, axis_kalman.white_noise_acceleration(0.1, np.ones((4, count))))
    state = axis_kalman.update(state, z, np.ones((4, count)))
    assert state.shape == (5, 4, count)
    assert axis_kalman.squared_mahalanobis(state, z, np.ones((4, 1))).shape == (count,)
