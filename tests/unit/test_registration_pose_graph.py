"""Pose graphs: Jacobians by differences, the optimum by scipy's dense solver, wrong loops told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import least_squares

from registration.pose_graph import (
    CHI_SQUARED_OF_SIX,
    Edges,
    linearised,
    marginal_covariance,
    optimise,
    se3_adjoint,
    se3_inverse_right_jacobian,
)
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, se3_exp, se3_log

Array = NDArray[Any]

SIGMAS = np.array([0.02, 0.02, 0.03, 0.002, 0.002, 0.004])
tangents = st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6).map(np.array)


def circle(count: int, laps: int = 2) -> Array:
    """Poses along a circle of 20 m, driven more than once."""
    angle = np.linspace(0.0, 2 * np.pi * laps, count, endpoint=False)
    positions = np.stack([20 * np.cos(angle), 20 * np.sin(angle), 0.3 * np.sin(3 * angle)], axis=1)
    return from_rotation_translation(rotation_about_z(angle + np.pi / 2), positions)


def edges_between(truth: Array, first: Array, second: Array, rng: np.random.Generator, doubtful: bool) -> Edges:
    """Measured with SIGMAS of noise."""
    noise = rng.standard_normal((len(first), 6)) * SIGMAS
    information = np.broadcast_to(np.diag(SIGMAS**-2.0), (len(first), 6, 6))
    measured = inverse(truth[first]) @ truth[second] @ se3_exp(noise)
    return Edges(first, second, measured, information, np.full(len(first), doubtful))


def graph(count: int, loops: int, seed: int, *, doubtful: bool = False) -> tuple[Array, Array, Edges]:
    """Truth, odometry and edges of two laps."""
    rng = np.random.default_rng(seed)
    truth = circle(count)
    way = edges_between(truth, np.arange(count - 1), np.arange(1, count), rng, False)
    met = rng.choice(count // 2, loops, replace=False)
    closed = edges_between(truth, met, met + count // 2, rng, doubtful)
    poses = [truth[0]]
    for step in way.first_T_second:
        poses.append(poses[-1] @ step)
    return truth, np.array(poses), Edges.joined([way, closed])


def error_m(truth: Array, poses: Array) -> float:
    return float(np.sqrt(np.mean(np.sum((truth[:, :3, 3] - poses[:, :3, 3]) ** 2, axis=1))))


@settings(max_examples=40, deadline=None)
@given(tangent=tangents, scale=st.sampled_from([1e-6, 1e-3, 1.0, 2.0]))
def test_the_inverse_right_jacobian_is_the_derivative_of_the_logarithm(tangent: Array, scale: float) -> None:
    tangent = tangent * scale
    steps = np.eye(6) * 1e-6
    base = se3_exp(tangent)
    differences = (se3_log(base @ se3_exp(steps)) - se3_log(base @ se3_exp(-steps))) / 2e-6
    np.testing.assert_allclose(se3_inverse_right_jacobian(tangent), differences.T, atol=2e-8)


@settings(max_examples=20, deadline=None)
@given(tangent=tangents, step=tangents)
def test_the_adjoint_carries_a_step_from_the_right_to_the_left(tangent: Array, step: Array) -> None:
    transform = se3_exp(2.0 * tangent)
    left = se3_exp(se3_adjoint(transform) @ (0.1 * step)) @ transform
    np.testing.assert_allclose(transform @ se3_exp(0.1 * step), left, atol=1e-9)


def test_the_derivatives_of_residuals_are_those_of_differences() -> None:
    _, poses, edges = graph(12, 4, 1)
    _, by_first, by_second = linearised(poses, edges)
    for k in range(6):
        for node, jacobian in ((edges.first, by_first), (edges.second, by_second)):
            for m in (0, 5, 13):
                moved = []
                for sign in (1.0, -1.0):
                    changed = poses.copy()
                    changed[node[m]] = changed[node[m]] @ se3_exp(sign * 1e-6 * np.eye(6)[k])
                    moved.append(linearised(changed, edges)[0][m])
                np.testing.assert_allclose(jacobian[m][:, k], (moved[0] - moved[1]) / 2e-6, atol=1e-7)


def test_the_optimum_and_its_covariance_are_those_of_a_dense_solver() -> None:
    _, poses, edges = graph(8, 3, 2)
    found = optimise(poses, edges)
    roots = np.linalg.cholesky(edges.information)

    def dense(start: Array) -> Any:
        def residuals(free: Array) -> Array:
            moved = np.concatenate([start[:1], start[1:] @ se3_exp(free.reshape(-1, 6))])
            return np.asarray(np.einsum("mji,mj->mi", roots, linearised(moved, edges)[0])).ravel()

        return least_squares(residuals, np.zeros(6 * 7), method="lm", xtol=1e-12, ftol=1e-12)

    solved = dense(poses)
    expected = np.concatenate([poses[:1], poses[1:] @ se3_exp(solved.x.reshape(-1, 6))])
    assert found.converged
    np.testing.assert_allclose(found.poses, expected, atol=1e-6)
    assert found.chi_squared.sum() == pytest.approx(2 * solved.cost, rel=1e-9)
    jacobian = dense(found.poses).jac
    for node in (3, 7):
        rows = slice(6 * (node - 1), 6 * node)
        expected_covariance = np.linalg.inv(jacobian.T @ jacobian)[rows, rows]
        covariance = marginal_covariance(found.poses, edges, found.weights, node)
        np.testing.assert_allclose(covariance, expected_covariance, rtol=1e-3, atol=1e-9)


def test_loops_take_the_drift_away() -> None:
    truth, poses, edges = graph(120, 20, 3)
    found = optimise(poses, edges)
    assert found.converged
    assert error_m(truth, found.poses) < 0.5 * error_m(truth, poses)
    np.testing.assert_array_equal(found.poses[0], poses[0])


@pytest.mark.parametrize("wrong", [1, 15])
def test_wrong_loops_are_told_apart_and_change_nothing(wrong: int) -> None:
    truth, poses, edges = graph(120, 20, 4, doubtful=True)
    measured = edges.first_T_second.copy()
    rng = np.random.default_rng(5)
    measured[-wrong:] = measured[-wrong:] @ se3_exp(rng.uniform(-1, 1, (wrong, 6)) * [8.0, 8.0, 1.0, 0.1, 0.1, 2.0])
    damaged = Edges(edges.first, edges.second, measured, edges.information, edges.doubtful)
    found = optimise(poses, damaged)
    assert (found.weights[-wrong:] == 0.0).all()
    np.testing.assert_array_equal(found.weights[:-wrong], 1.0)
    assert (found.chi_squared[-wrong:] > CHI_SQUARED_OF_SIX).all()
    right = slice(None, -wrong)
    names = ("first", "second", "first_T_second", "information", "doubtful")
    without = Edges(*(getattr(damaged, name)[right] for name in names))
    np.testing.assert_allclose(found.poses, optimise(poses, without).poses, atol=1e-4)
    assert error_m(truth, found.poses) < error_m(truth, poses)


def test_a_pose_whose_edges_all_contradict_each_other_stays_and_the_edges_are_told() -> None:
    poses, count = np.tile(np.eye(4), (2, 1, 1)), 2
    measured = np.stack([se3_exp(np.array([x, 0.0, 0.0, 0.0, 0.0, 0.0])) for x in (100.0, -100.0)])
    first, second = np.zeros(count, np.int64), np.ones(count, np.int64)
    edges = Edges(first, second, measured, np.tile(1e4 * np.eye(6), (count, 1, 1)), np.ones(count, dtype=bool))
    found = optimise(poses, edges)
    np.testing.assert_array_equal(found.weights, 0.0)
    np.testing.assert_allclose(found.poses, poses, atol=1e-6)


def test_a_covariance_is_as_wide_as_the_errors_are() -> None:
    squared = []
    for seed in range(30):
        truth, poses, edges = graph(16, 2, 100 + seed)
        found = optimise(poses, edges)
        covariance = marginal_covariance(found.poses, edges, found.weights, 15)
        error = se3_log(inverse(found.poses[15]) @ truth[15])
        squared.append(error @ np.linalg.solve(covariance, error))
    assert 4.0 < np.mean(squared) < 8.5  # chi squared of six: mean 6, standard error 0.6


def test_mistakes_of_the_caller_raise() -> None:
    _, poses, edges = graph(6, 0, 6)
    with pytest.raises(ValueError, match="do not connect"):
        optimise(np.concatenate([poses, poses[:1]]), edges)
    with pytest.raises(ValueError, match="beyond"):
        optimise(poses[:4], edges)
    with pytest.raises(ValueError, match="not finite"):
        optimise(np.full_like(poses, np.nan), edges)
    with pytest.raises(ValueError, match="shapes"):
        Edges(edges.first, edges.second[:2], edges.first_T_second, edges.information, edges.doubtful)
    with pytest.raises(ValueError, match="not finite"):
        Edges(edges.first, edges.second, edges.first_T_second * np.nan, edges.information, edges.doubtful)
    np.testing.assert_array_equal(marginal_covariance(poses, edges, np.ones(len(edges)), 0), np.zeros((6, 6)))
