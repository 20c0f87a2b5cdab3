from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracking import kalman, motion_models

filters = pytest.importorskip("filterpy.kalman", reason="filterpy>=2.0 is not installed")

Array = np.ndarray[Any, Any]


def random_spd(rng: np.random.Generator, size: int, count: int) -> Array:
    """Covariances (size, size, count), some of them strongly correlated."""
    factor = rng.normal(size=(count, size, size)) * rng.uniform(0.3, 3.0, (count, size, 1))
    return np.moveaxis(factor @ np.swapaxes(factor, 1, 2) + 0.05 * np.eye(size), 0, -1)


def random_state(rng: np.random.Generator, size: int, count: int) -> kalman.KalmanState:
    return kalman.KalmanState(rng.normal(0, 5, (size, count)), random_spd(rng, size, count))


def of_track(matrix: Array, track: int) -> Array:
    return matrix[:, :, track] if matrix.ndim == 3 else matrix


@dataclass
class System:
    """One step of a linear system over tracks; F, Q, R and H are one for all tracks, or one for each."""

    state: kalman.KalmanState
    F: Array
    Q: Array
    R: Array
    H: Array | None
    z: Array

    def filterpy(self, track: int) -> Any:
        """The same filter and state for one track."""
        size, d = len(self.state.mean), len(self.z)
        theirs = filters.KalmanFilter(dim_x=size, dim_z=d)
        theirs.x, theirs.P = self.state.mean[:, track : track + 1].copy(), self.state.covariance[:, :, track].copy()
        theirs.F, theirs.Q, theirs.R = (of_track(matrix, track) for matrix in (self.F, self.Q, self.R))
        theirs.H = np.eye(d, size) if self.H is None else of_track(self.H, track)
        return theirs


def random_matrix(rng: np.random.Generator, rows: int, columns: int, count: int) -> Array:
    """For all tracks or for each: dense, with zeros, or zeros and ones only."""
    values = rng.normal(size=(rows, columns, count) if rng.random() < 0.5 else (rows, columns))
    kind = rng.integers(3)
    if kind:
        values *= rng.random((rows, columns) + (1,) * (values.ndim - 2)) < 0.4
    return np.sign(np.abs(values)) if kind == 2 else values


@st.composite
def systems(draw: st.DrawFn) -> System:
    size, count = draw(st.integers(1, 8)), draw(st.integers(0, 4))
    d = draw(st.integers(1, min(size, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    Q, R = random_spd(rng, size, count), random_spd(rng, d, count)
    return System(
        state=random_state(rng, size, count),
        F=random_matrix(rng, size, size, count),
        Q=Q if draw(st.booleans()) else random_spd(rng, size, 1)[:, :, 0],
        R=R if draw(st.booleans()) else random_spd(rng, d, 1)[:, :, 0],
        H=None if draw(st.booleans()) else random_matrix(rng, d, size, count),
        z=rng.normal(0, 5, (d, count)),
    )


def assert_close(ours: Array, theirs: Array) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@given(system=systems())
@settings(max_examples=150, deadline=None)
def test_prediction_equals_filterpy_for_each_track(system: System) -> None:
    ours = kalman.predict(system.state, system.F, system.Q)
    for track in range(len(system.state)):
        theirs = system.filterpy(track)
        theirs.predict()
        assert_close(ours.mean[:, track], theirs.x[:, 0])
        assert_close(ours.covariance[:, :, track], theirs.P)


@given(system=systems())
@settings(max_examples=150, deadline=None)
def test_update_gate_and_likelihood_equal_filterpy_for_each_track(system: System) -> None:
    state, z, R, H = system.state, system.z, system.R, system.H
    ours = kalman.update(state, z, R, H)
    residual, innovation = kalman.innovation(state, z, R, H)
    squared, logs = kalman.squared_mahalanobis(state, z, R, H), kalman.log_likelihood(state, z, R, H)
    for track in range(len(state)):
        theirs = system.filterpy(track)
        theirs.update(z[:, track : track + 1])
        assert_close(ours.mean[:, track], theirs.x[:, 0])
        assert_close(ours.covariance[:, :, track], theirs.P)
        assert_close(residual[:, track], theirs.y[:, 0])
        assert_close(innovation[:, :, track], theirs.S)
        assert_close(np.sqrt(squared[track]), theirs.mahalanobis)
        assert_close(logs[track], theirs.log_likelihood)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 4), derivatives=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_a_long_run_at_irregular_times_equals_filterpy(seed: int, d: int, derivatives: int) -> None:
    rng = np.random.default_rng(seed)
    z, r = rng.normal(0, 3, (d, 1)), random_spd(rng, d, 1)
    state = kalman.start(z, r, *[4.0] * derivatives)
    size = d * (1 + derivatives)
    theirs = filters.KalmanFilter(dim_x=size, dim_z=d)
    theirs.x, theirs.P, theirs.H = state.mean.copy(), state.covariance[:, :, 0].copy(), np.eye(d, size)
    model = motion_models.constant_velocity if derivatives == 1 else motion_models.constant_acceleration
    for _ in range(30):
        F, Q = model(rng.uniform(0.01, 1.0), rng.uniform(0.1, 2.0, d), d)
        theirs.F, theirs.Q = F, Q
        z, r = rng.normal(0, 3, (d, 1)), random_spd(rng, d, 1)
        state = kalman.update(kalman.predict(state, F, Q), z, r)
        theirs.predict()
        theirs.update(z, R=r[:, :, 0])
    assert_close(state.mean, theirs.x)
    assert_close(state.covariance[:, :, 0], theirs.P)


def smallest_correlation_eigenvalue(state: kalman.KalmanState) -> float:
    """Of the covariances scaled to unit variances: positive where they are, whatever their units."""
    covariances = np.moveaxis(state.covariance, -1, 0).astype(np.float64)
    np.testing.assert_array_equal(covariances, np.swapaxes(covariances, 1, 2))
    variances = np.einsum("nii->ni", covariances)
    assert (variances > 0).all()
    deviations = np.sqrt(variances)
    return float(np.linalg.eigvalsh(covariances / deviations[:, :, None] / deviations[:, None]).min())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [1, 3])
def test_covariances_stay_symmetric_and_positive_over_thousands_of_steps(dtype: Any, d: int) -> None:
    rng = np.random.default_rng(d)
    noise = (random_spd(rng, d, 8) * 1e-4).astype(dtype)
    state = kalman.start(np.zeros((d, 8), dtype=dtype), noise, 1e12)
    for _ in range(3000):
        dynamics = motion_models.constant_velocity(rng.uniform(0.001, 1.0), 1e-6, d)
        state = kalman.update(kalman.predict(state, *dynamics), rng.normal(size=(d, 8)), noise)
    assert smallest_correlation_eigenvalue(state) > 1e-5


@given(
    seed=st.integers(0, 2**31),
    exponent=st.floats(0.0, 24.0),
    dtype=st.sampled_from([np.float64, np.float32]),
    derivatives=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_covariances_stay_positive_at_any_ratio_of_state_to_noise(
    seed: int, exponent: float, dtype: Any, derivatives: int
) -> None:
    rng = np.random.default_rng(seed)
    noise, wide = random_spd(rng, 2, 5).astype(dtype), 10.0 ** min(exponent, 24.0 if dtype == np.float64 else 10.0)
    state = kalman.start(np.zeros((2, 5), dtype=dtype), noise * wide, *[wide] * derivatives)
    model = motion_models.constant_velocity if derivatives == 1 else motion_models.constant_acceleration
    for _ in range(40):
        dynamics = model(10.0 ** rng.uniform(-3.0, 0.5), 10.0 ** rng.uniform(-6.0, 1.0), 2)
        state = kalman.update(kalman.predict(state, *dynamics), rng.normal(size=(2, 5)), noise)
        assert smallest_correlation_eigenvalue(state) > 0.0


def test_a_position_without_prior_takes_the_measurement_and_its_noise() -> None:
    noise = kalman.diagonal_noise(np.array([[1e-4], [4e-4]]))
    state = kalman.start(np.zeros((2, 1)), np.eye(2) * 1e10, 1.0)
    state = kalman.update(state, np.array([[3.0], [4.0]]), noise)
    np.testing.assert_allclose(state.positions[:, 0], [3.0, 4.0], rtol=1e-12)
    # What is added for rounding is 8 units of the last place of 1e10.
    np.testing.assert_allclose(state.covariance[:2, :2, 0], noise[:, :, 0], atol=2e-5)


def test_each_track_is_filtered_by_itself() -> None:
    rng = np.random.default_rng(4)
    state, z, R = random_state(rng, 6, 9), rng.normal(size=(3, 9)), random_spd(rng, 3, 9)
    dynamics = motion_models.constant_velocity(rng.uniform(0, 1, 9), rng.uniform(0, 1, (3, 9)), 3)
    whole = kalman.update(kalman.predict(state, *dynamics), z, R)
    chosen = np.array([7, 2])
    F, Q = (matrix[:, :, chosen] for matrix in dynamics)
    part = kalman.update(kalman.predict(state.take(chosen), F, Q), z[:, chosen], R[:, :, chosen])
    np.testing.assert_allclose(part.mean, whole.mean[:, chosen], rtol=1e-12)
    np.testing.assert_allclose(part.covariance, whole.covariance[:, :, chosen], rtol=1e-12)


def test_arguments_are_not_written_to() -> None:
    rng = np.random.default_rng(5)
    state, z, R, H = random_state(rng, 4, 3), rng.normal(size=(2, 3)), random_spd(rng, 2, 3), rng.normal(size=(2, 4))
    F, Q = motion_models.constant_velocity(0.1, 1.0, 2)
    arrays = (state.mean, state.covariance, z, R, H, F, Q)
    before = [array.copy() for array in arrays]
    kalman.update(kalman.predict(state, F, Q), z, R)
    kalman.update(state, z, R, H, angles=(1,))
    kalman.log_likelihood(state, z, R, angles=(0,))
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)


@given(turns=st.integers(-3, 3), heading=st.floats(-3.0, 3.0), innovation=st.floats(-3.0, 3.0))
def test_angles_are_corrected_the_short_way_round(turns: int, heading: float, innovation: float) -> None:
    state = kalman.KalmanState(np.array([[2.0], [heading]]), np.eye(2)[:, :, None])
    z = np.array([[2.5], [heading + innovation + turns * 2.0 * np.pi]])
    updated = kalman.update(state, z, np.eye(2), angles=(1,))
    np.testing.assert_allclose(updated.mean[:, 0], [2.25, heading + innovation / 2.0], atol=1e-12)
    squared = kalman.squared_mahalanobis(state, z, np.eye(2), angles=(1,))
    np.testing.assert_allclose(squared, (0.25 + innovation**2) / 2.0, atol=1e-12)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_gate_distances_of_true_measurements_follow_chi_square(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state, R = random_state(rng, 4, 1).take(np.zeros(2000, dtype=int)), random_spd(rng, 2, 1)[:, :, 0]
    spread = np.linalg.cholesky(state.covariance[:, :, 0])
    truth = state.mean + spread @ rng.normal(size=(4, 2000))
    z = truth[:2] + np.linalg.cholesky(R) @ rng.normal(size=(2, 2000))
    squared = kalman.squared_mahalanobis(state, z, R)
    assert abs(squared.mean() - 2.0) < 0.25
    assert abs((squared < 9.210).mean() - 0.99) < 0.012  # the 99 % gate of 2 degrees of freedom


def test_float32_states_stay_float32() -> None:
    z = np.ones((3, 4), dtype=np.float32)
    noise = kalman.diagonal_noise(z)
    dynamics = motion_models.constant_velocity(0.1, 1.0, 3)
    state = kalman.update(kalman.predict(kalman.start(z, noise, 4.0), *dynamics), z, noise)
    assert state.mean.dtype == state.covariance.dtype == np.float32
    state = kalman.update(state, z.astype(np.float64), np.eye(3), np.eye(3, 6))
    assert state.mean.dtype == state.covariance.dtype == np.float32


def test_no_tracks_are_no_trouble() -> None:
    state = kalman.start(np.zeros((2, 0)), np.eye(2), 1.0)
    dynamics = motion_models.constant_velocity(np.zeros(0), np.zeros((2, 0)), 2)
    state = kalman.update(kalman.predict(state, *dynamics), np.zeros((2, 0)), np.eye(2), np.eye(2, 4))
    assert len(state) == 0
    assert kalman.squared_mahalanobis(state, np.zeros((2, 0)), np.eye(2)).shape == (0,)


def test_a_measurement_that_is_not_finite_spoils_only_its_own_track() -> None:
    rng = np.random.default_rng(6)
    state, z = random_state(rng, 4, 3), rng.normal(size=(2, 3))
    z[1, 1] = np.nan
    updated = kalman.update(state, z, np.eye(2))
    assert np.isnan(updated.mean[:, 1]).all()
    assert np.isfinite(updated.mean[:, [0, 2]]).all()
    assert np.isfinite(updated.covariance).all()
    assert not kalman.squared_mahalanobis(state, z, np.eye(2))[1] < 1e9  # and no gate lets it in


def test_a_constant_velocity_is_found() -> None:
    times = np.arange(1, 60) * 0.1
    truth = np.array([[1.0], [-2.0]]) + np.array([[3.0], [0.5]]) * times
    noise = kalman.diagonal_noise(np.full((2, 1), 1e-4))
    state = kalman.start(truth[:, :1], noise, 100.0)
    dynamics = motion_models.constant_velocity(0.1, 1e-6, 2)
    for place in truth.T[1:]:
        state = kalman.update(kalman.predict(state, *dynamics), place[:, None], noise)
    np.testing.assert_allclose(state.velocities[:, 0], [3.0, 0.5], atol=1e-3)


def test_a_start_holds_the_noise_and_the_variances_of_each_derivative() -> None:
    rng = np.random.default_rng(7)
    z, noise = rng.normal(size=(2, 3)), random_spd(rng, 2, 3)
    state = kalman.start(z, noise, 4.0, np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(state.mean, np.concatenate([z, np.zeros((4, 3))]))
    np.testing.assert_array_equal(state.covariance[:2, :2], noise)
    np.testing.assert_array_equal(np.einsum("iin->in", state.covariance)[2:, 0], [4.0, 4.0, 1.0, 2.0])
    assert np.count_nonzero(state.covariance[:, :, 0]) == 8


def test_taking_putting_and_appending_keep_tracks_apart() -> None:
    state = random_state(np.random.default_rng(0), 4, 5)
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
        kalman.predict(kalman.start(np.zeros((2, 1)), np.eye(2), 1.0), np.eye(3), np.eye(4))
