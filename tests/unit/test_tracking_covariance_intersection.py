"""Covariance intersection against brute force: over correlations, over weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tracking.covariance_intersection import intersect, is_covariance
from tracking.kalman import KalmanState

Array = Any


def estimates(rng: np.random.Generator, count: int, size: int = 6, spread: float = 2.0) -> KalmanState:
    """Random estimates whose covariances have axes of very different lengths."""
    rotations = np.linalg.qr(rng.normal(size=(count, size, size)))[0]
    variances = 10.0 ** rng.uniform(-spread, spread, (count, size))
    covariances = np.einsum("nik,nk,njk->ijn", rotations, variances, rotations)
    return KalmanState(rng.normal(size=(size, count)), covariances)


def per_track(state: KalmanState) -> Array:
    return np.moveaxis(state.covariance, -1, 0)


def fused_directly(first: KalmanState, second: KalmanState, track: int, w: float) -> tuple[Array, Array]:
    """The two equations of the method, with inverses."""
    a, b = np.linalg.inv(per_track(first)[track]), np.linalg.inv(per_track(second)[track])
    covariance = np.linalg.inv(w * a + (1 - w) * b)
    return covariance @ (w * a @ first.mean[:, track] + (1 - w) * b @ second.mean[:, track]), covariance


def test_it_is_the_equations_at_the_weight_with_the_least_determinant() -> None:
    rng = np.random.default_rng(1)
    first, second = estimates(rng, 40), estimates(rng, 40)
    fused, weights = intersect(first, second)
    assert 0.05 < weights.mean() < 0.95
    for track, w in enumerate(weights):
        mean, covariance = fused_directly(first, second, track, w)
        np.testing.assert_allclose(fused.mean[:, track], mean, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(per_track(fused)[track], covariance, rtol=1e-7, atol=1e-9)
        best = minimize_scalar(
            lambda v, t=track: np.linalg.slogdet(fused_directly(first, second, t, v)[1])[1], bounds=(0, 1),
            method="bounded", options={"xatol": 1e-9},
        )  # fmt: skip
        assert np.linalg.slogdet(covariance)[1] <= best.fun + 1e-6


@given(st.integers(0, 2**32 - 1))
def test_it_is_never_overconfident_whatever_the_correlation_was(seed: int) -> None:
    """The true covariance of the fused estimate, for correlations up to the most extreme, is within the stated one."""
    rng = np.random.default_rng(seed)
    first, second = estimates(rng, 8, size=4, spread=1.0), estimates(rng, 8, size=4, spread=1.0)
    fused, weights = intersect(first, second)
    for track, w in enumerate(weights):
        Pa, Pb, P = per_track(first)[track], per_track(second)[track], per_track(fused)[track]
        Ka, Kb = w * P @ np.linalg.inv(Pa), (1 - w) * P @ np.linalg.inv(Pb)
        for strength in (0.0, 0.5, 1.0):
            # Every cross covariance that is possible at all is sqrt(Pa) C sqrt(Pb)' with a contraction C.
            u, s, vt = np.linalg.svd(rng.normal(size=(4, 4)))
            contraction = u @ np.diag(strength * s / s.max() if rng.random() < 0.5 else np.full(4, strength)) @ vt
            cross = np.linalg.cholesky(Pa) @ contraction @ np.linalg.cholesky(Pb).T
            true = Ka @ Pa @ Ka.T + Kb @ Pb @ Kb.T + Ka @ cross @ Kb.T + Kb @ cross.T @ Ka.T
            assert np.linalg.eigvalsh(P - true).min() > -1e-9 * np.abs(P).max()


def test_an_echo_of_ones_own_estimate_adds_nothing_however_often_it_comes() -> None:
    own = estimates(np.random.default_rng(2), 20)
    fused = own
    for _ in range(50):
        fused, _ = intersect(fused, own)
    np.testing.assert_allclose(fused.mean, own.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fused.covariance, own.covariance, rtol=1e-9, atol=1e-9)


def test_an_estimate_that_knows_less_in_every_direction_changes_nothing() -> None:
    own = estimates(np.random.default_rng(3), 20)
    vague = KalmanState(own.mean + 1.0, own.covariance * 1.5)
    fused, weights = intersect(own, vague)
    assert weights.tolist() == [1.0] * 20
    np.testing.assert_allclose(fused.mean, own.mean, rtol=1e-12)
    np.testing.assert_allclose(fused.covariance, own.covariance, rtol=1e-9)
    fused, weights = intersect(vague, own)
    assert weights.tolist() == [0.0] * 20
    np.testing.assert_allclose(fused.mean, own.mean, rtol=1e-9)


def test_two_views_from_different_sides_complement_each_other() -> None:
    """Ranges from the south and from the east: each knows the other's weak direction."""
    first = KalmanState(np.zeros((2, 1)), np.diag([0.01, 4.0])[:, :, None])
    second = KalmanState(np.ones((2, 1)), np.diag([4.0, 0.01])[:, :, None])
    fused, weights = intersect(first, second)
    np.testing.assert_allclose(weights, [0.5], atol=1e-5)
    assert np.all(np.diag(fused.covariance[:, :, 0]) < 0.021)
    np.testing.assert_allclose(fused.mean[:, 0], [0.0, 1.0], atol=0.01)


def test_no_pairs_are_no_pairs() -> None:
    none = KalmanState(np.zeros((6, 0)), np.zeros((6, 6, 0)))
    fused, weights = intersect(none, none)
    assert len(fused) == 0
    assert weights.shape == (0,)
    assert is_covariance(np.zeros((0, 6, 6))).tolist() == []


def test_what_is_no_covariance_is_told_from_what_is() -> None:
    good = np.diag([1.0, 2.0, 3.0])
    lopsided = good.copy()
    lopsided[0, 1] = 0.5
    flat = np.outer([1.0, 1, 1], [1.0, 1, 1])
    candidates = [good, good * np.nan, -good, np.zeros((3, 3)), lopsided, flat, np.full((3, 3), np.inf), good * 1e-12]
    assert is_covariance(np.stack(candidates)).tolist() == [True] + [False] * 7


@pytest.mark.parametrize("broken", [-np.eye(2), np.zeros((2, 2))])
def test_what_is_no_covariance_cannot_be_fused(broken: Array) -> None:
    good = KalmanState(np.zeros((2, 1)), np.eye(2)[:, :, None])
    bad = KalmanState(np.zeros((2, 1)), broken[:, :, None])
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="positive definite"):
            intersect(*pair)
    with pytest.raises(ValueError, match="no pairs"):
        intersect(good, KalmanState(np.zeros((3, 1)), np.eye(3)[:, :, None]))
