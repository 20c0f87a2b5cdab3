from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from tracking import kalman, motion_models

Array = np.ndarray[Any, Any]
Model = Callable[[Any], tuple[Array, Array]]

# name: the model as a function of dt, and the generator A and noise density of x' = A x + noise that it discretises
PSD = np.array([0.7, 0.7, 0.2])


def chain(orders: int, d: int = 3) -> Array:
    """x' = v, v' = a, ..."""
    return np.kron(np.eye(orders, k=1), np.eye(d))


def fading(time_constant_s: float, d: int = 3) -> Array:
    generator = chain(3, d)
    generator[2 * d :, 2 * d :] -= np.eye(d) / time_constant_s
    return generator


def turning(rate: float) -> Array:
    generator = chain(2)
    generator[3, 4], generator[4, 3] = -rate, rate
    return generator


def of_last(psd: Array, size: int) -> Array:
    return np.diag(np.concatenate([np.zeros(size - len(psd)), psd]))


MODELS: dict[str, tuple[Model, Array, Array]] = {
    "velocity": (lambda dt: motion_models.constant_velocity(dt, PSD, 3), chain(2), of_last(PSD, 6)),
    "acceleration": (lambda dt: motion_models.constant_acceleration(dt, PSD, 3), chain(3), of_last(PSD, 9)),
    "fading": (
        lambda dt: motion_models.decaying_acceleration(dt, PSD, 0.8, 3), fading(0.8), of_last(2.0 * PSD / 0.8, 9)
    ),
    "fading slowly": (
        lambda dt: motion_models.decaying_acceleration(dt, PSD, 1e5, 3), fading(1e5), of_last(2.0 * PSD / 1e5, 9)
    ),
    "turn": (lambda dt: motion_models.coordinated_turn(dt, 1.3, PSD, 3), turning(1.3), of_last(PSD, 6)),
    "slow turn": (lambda dt: motion_models.coordinated_turn(dt, -1e-5, PSD, 3), turning(-1e-5), of_last(PSD, 6)),
    "no turn": (lambda dt: motion_models.coordinated_turn(dt, 0.0, PSD, 3), turning(0.0), of_last(PSD, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dt", [0.0, 0.003, 0.1, 1.0, 4.0])
def test_dynamics_are_the_integral_of_the_continuous_model(name: str, dt: float) -> None:
    model, generator, density = MODELS[name]
    F, Q = model(dt)
    np.testing.assert_allclose(F, expm(generator * dt), rtol=1e-9, atol=1e-12)

    # Van Loan, 1978: exp of [[-A, D], [0, A']] dt holds F^-1 Q beside F'.
    size = len(generator)
    blocks = expm(np.block([[-generator, density], [np.zeros_like(density), generator.T]]) * dt)
    np.testing.assert_allclose(Q, blocks[size:, size:].T @ blocks[:size, size:], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dt", [1e-6, 1e-3, 0.1, 5.0])
def test_an_acceleration_that_hardly_fades_is_a_constant_one_however_short_the_step(dt: float) -> None:
    slow = motion_models.decaying_acceleration(dt, PSD, 1e9, 3)
    constant = motion_models.constant_acceleration(dt, 2.0 * PSD / 1e9, 3)
    np.testing.assert_allclose(slow[0], constant[0], rtol=1e-7)
    np.testing.assert_allclose(slow[1], constant[1], rtol=1e-7)


@pytest.mark.parametrize("name", MODELS)
@given(seed=st.integers(0, 2**31), parts=st.integers(1, 15))
@settings(max_examples=10, deadline=None)
def test_one_long_step_equals_many_short_ones(name: str, seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    model = MODELS[name][0]
    size = len(MODELS[name][1])
    factor = rng.normal(size=(size, size))
    state = kalman.KalmanState(rng.normal(size=(size, 1)), (factor @ factor.T)[:, :, None])
    cuts = np.sort(np.concatenate([[0.0, 2.0], rng.uniform(0.0, 2.0, parts - 1)]))
    short = state
    for dt in np.diff(cuts):
        short = kalman.predict(short, *model(dt))
    long = kalman.predict(state, *model(2.0))
    np.testing.assert_allclose(short.mean, long.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(short.covariance, long.covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_steps_of_each_track_are_those_of_one(name: str) -> None:
    model = MODELS[name][0]
    steps = np.array([0.0, 0.01, 0.4, 3.0])
    F, Q = model(steps)
    for track, dt in enumerate(steps):
        one = model(float(dt))
        np.testing.assert_allclose(np.broadcast_to(F.T, (4, *F.T.shape[1:])).T[:, :, track], one[0], rtol=1e-14)
        np.testing.assert_allclose(Q[:, :, track], one[1], rtol=1e-12, atol=1e-300)


def test_noise_may_be_one_number_or_differ_by_coordinate_or_track() -> None:
    one = motion_models.constant_velocity(0.3, 2.0, 2)[1]
    np.testing.assert_array_equal(motion_models.constant_velocity(0.3, [2.0, 2.0], 2)[1], one)
    np.testing.assert_array_equal(motion_models.constant_velocity(0.3, [[2.0], [2.0]], 2)[1], one)
    F, Q = motion_models.constant_velocity(0.3, np.array([[2.0, 1.0, 0.0], [2.0, 4.0, 0.0]]), 2)
    assert F.shape == (4, 4)
    np.testing.assert_array_equal(Q[:, :, 0], one)
    np.testing.assert_array_equal(Q[:, :, 1], motion_models.constant_velocity(0.3, [1.0, 4.0], 2)[1])
    assert not Q[:, :, 2].any()


def test_models_that_share_states_with_accelerations_set_them_to_zero() -> None:
    state = kalman.KalmanState(np.arange(6.0)[:, None] + 1.0, np.eye(6)[:, :, None])
    for dynamics in (
        motion_models.constant_velocity(0.5, 1.0, 2, accelerations=True),
        motion_models.coordinated_turn(0.5, 0.3, 1.0, accelerations=True),
    ):
        later = kalman.predict(state, *dynamics)
        assert not later.mean[4:].any()
        assert not later.covariance[4:].any()
        assert later.mean[:4].all()


def test_a_turn_of_a_full_circle_comes_back() -> None:
    F, _ = motion_models.coordinated_turn(4.0, 2.0 * np.pi / 4.0, 1.0)
    np.testing.assert_allclose(F, np.eye(4), atol=1e-12)


def test_a_turn_goes_from_x_to_y() -> None:
    F, _ = motion_models.coordinated_turn(1.0, np.pi / 2.0, 1.0)
    np.testing.assert_allclose(F @ [0.0, 0.0, 1.0, 0.0], [2.0 / np.pi, 2.0 / np.pi, 0.0, 1.0], atol=1e-12)


def test_each_track_turns_at_its_own_rate() -> None:
    rates = np.array([-2.0, 0.0, 0.4])
    F, Q = motion_models.coordinated_turn(0.7, rates, [[1.0, 2.0, 3.0]] * 2)
    for track, rate in enumerate(rates):
        one = motion_models.coordinated_turn(0.7, float(rate), float(track + 1))
        np.testing.assert_allclose(F[:, :, track], one[0], rtol=1e-14)
        np.testing.assert_allclose(Q[:, :, track], one[1], rtol=1e-12)


def test_a_box_moves_and_turns_and_keeps_its_size() -> None:
    F, Q = motion_models.constant_velocity_box(0.5, [1.0, 1.0, 0.1, 0.2], 0.01)
    box = np.array([1.0, 2.0, 0.0, 3.0, 4.5, 1.8, 1.5, 10.0, -2.0, 0.0, 1.0])
    np.testing.assert_allclose(F @ box, [6.0, 1.0, 0.0, 3.5, 4.5, 1.8, 1.5, 10.0, -2.0, 0.0, 1.0])
    np.testing.assert_allclose(np.diag(Q)[4:7], 0.005)
    moving = np.r_[0:4, 7:11]
    expected = motion_models.constant_velocity(0.5, [1.0, 1.0, 0.1, 0.2], 4)
    np.testing.assert_array_equal(F[np.ix_(moving, moving)], expected[0])
    np.testing.assert_array_equal(Q[np.ix_(moving, moving)], expected[1])


@pytest.mark.parametrize("steps", [0.5, np.array([0.5, 0.1])])
@pytest.mark.parametrize("sizes", [0.01, np.full((3, 2), 0.01)])
def test_boxes_may_differ_in_time_steps_and_noise(steps: Any, sizes: Any) -> None:
    F, Q = motion_models.constant_velocity_box(steps, [1.0, 1.0, 0.1, 0.2], sizes)
    one = motion_models.constant_velocity_box(0.5, [1.0, 1.0, 0.1, 0.2], 0.01)
    np.testing.assert_allclose(F[:, :, 0] if F.ndim == 3 else F, one[0])
    np.testing.assert_allclose(Q[:, :, 0] if Q.ndim == 3 else Q, one[1])


def test_a_box_that_turns_past_the_seam_is_followed() -> None:
    z = np.array([[5.0], [0.0], [0.0], [3.0], [4.0], [2.0], [1.5]])
    noise = np.diag([0.01] * 7)
    mean, covariance = np.zeros((11, 1)), np.zeros((11, 11, 1))
    mean[:7] = z
    covariance[:7, :7, 0], covariance[7:, 7:, 0] = noise, np.eye(4)
    state = kalman.KalmanState(mean, covariance)
    dynamics = motion_models.constant_velocity_box(0.1, 0.1, 1e-4)
    for step in range(1, 60):
        z[motion_models.BOX_YAW_ROW] = (3.0 + 0.05 * step + np.pi) % (2.0 * np.pi) - np.pi
        state = kalman.update(kalman.predict(state, *dynamics), z, noise, angles=(motion_models.BOX_YAW_ROW,))
    np.testing.assert_allclose(state.mean[motion_models.BOX_YAW_ROW], 3.0 + 0.05 * 59, atol=0.02)
    np.testing.assert_allclose(state.mean[10], 0.5, atol=0.05)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="time_constant_s"):
        motion_models.decaying_acceleration(0.1, 1.0, 0.0, 2)
    with pytest.raises(ValueError, match="2 or 3 dimensions"):
        motion_models.coordinated_turn(0.1, 1.0, 1.0, 4)
    with pytest.raises(ValueError, match="same power density"):
        motion_models.coordinated_turn(0.1, 1.0, [1.0, 2.0])
    with pytest.raises(ValueError, match="number or"):
        motion_models.constant_velocity(np.zeros((2, 2)), 1.0, 2)
    with pytest.raises(ValueError, match="0 or more"):
        motion_models.constant_acceleration(np.array([0.1, -0.1]), 1.0, 2)
