"""Pose graphs: poses that fit all measured relative transforms between them best, and which of these are wrong.

Minimised is the sum of weight * |log(second_T_first_measured * first_T_second)|^2 over edges in the metric of their
information, by Levenberg-Marquardt (Marquardt 1963; Nocedal and Wright, section 10.3) over scipy's sparse matrices, on
the manifold: every step is applied on the right of each pose. The Jacobians are closed expressions with SE(3)'s inverse
Jacobian (Barfoot, "State Estimation for Robotics", 2017, equations 7.85 and 7.95).

Weights of edges marked as doubtful (loop closures) are found by graduated non-convexity with truncated least squares
(Yang et al., "Graduated Non-Convexity for Robust Spatial Perception", RA-L 2020, equations 8 to 14): first the cost is
all but quadratic, then it is bent step by step into one that does not grow beyond a bound. One step of the solver is
made between two bends, as the paper does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import require
from tercel.core.geometry import inverse, se3_exp, se3_log, skew

Array = NDArray[Any]

# Of six squared standard normals 99.9 % of sums are below this: an edge farther off is wrong, not unlucky.
CHI_SQUARED_OF_SIX = 22.46
_BEND = 1.4
_MAX_BENDS = 100
_TOLERANCE = 1e-9
_LARGEST_DAMPING = 1e12
_SMALL_ANGLE_RAD = 1e-3


@dataclass(frozen=True, eq=False)
class Edges:
    """M measured relative transforms between N poses.

    first, second (M,) int64: rows of poses. first_T_second (M, 4, 4): measured. information (M, 6, 6): inverse
    covariance of the tangent xi in truth = first_T_second @ se3_exp(xi), x y z rx ry rz. doubtful (M,) bool: may be
    wrong altogether.
    """

    first: Array
    second: Array
    first_T_second: Array
    information: Array
    doubtful: Array

    def __post_init__(self) -> None:
        count = len(self.first)
        shapes = (self.second.shape, self.first_T_second.shape, self.information.shape, self.doubtful.shape)
        if shapes != ((count,), (count, 4, 4), (count, 6, 6), (count,)):
            raise ValueError(f"edges have shapes {self.first.shape}, {', '.join(map(str, shapes))}")
        if not (np.isfinite(self.first_T_second).all() and np.isfinite(self.information).all()):
            raise ValueError("an edge's transform or information is not finite")

    def __len__(self) -> int:
        return len(self.first)

    @classmethod
    def joined(cls, parts: list[Edges]) -> Edges:
        """All edges of several lists over the same poses."""
        names = ("first", "second", "first_T_second", "information", "doubtful")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, eq=False)
class Optimised:
    """poses (N, 4, 4), the fixed one as it was. weights (M,) of the edges, 0 (wrong) or 1. chi_squared (M,): squared
    residuals in the metric of their information. converged: whether the last step gained next to nothing.
    """

    poses: Array
    weights: Array
    chi_squared: Array
    converged: bool
    iterations: int


def optimise(
    poses: Array, edges: Edges, *, fixed: int = 0, bound: float = CHI_SQUARED_OF_SIX, max_iterations: int = 100
) -> Optimised:
    """The poses (N, 4, 4) moved to where the edges fit best; the fixed one stays. bound: chi squared of a wrong edge.

    Raises ValueError if an edge names a pose that is not there, or edges leave a pose without a way to the fixed one;
    UserError if scipy is missing.
    """
    _check(poses, edges, fixed)
    weights = np.ones(len(edges))
    iterations = 0
    if edges.doubtful.any():
        poses, weights, iterations = _graduated(poses, edges, fixed, bound)
    poses, converged, more = _levenberg_marquardt(poses, edges, weights, fixed, max_iterations)
    residuals, _, _ = linearised(poses, edges)
    return Optimised(poses, weights, _chi_squared(residuals, edges), converged, iterations + more)


def marginal_covariance(poses: Array, edges: Edges, weights: Array, node: int, *, fixed: int = 0) -> Array:
    """Covariance (6, 6) of a pose's tangent (on its right) relative to the fixed pose, at the optimum."""
    if node == fixed:
        return np.zeros((6, 6))
    hessian, _ = _normal_equations(poses, edges, weights, fixed)
    row = 6 * (node - (node > fixed))
    wanted = np.zeros((hessian.shape[0], 6))
    wanted[row : row + 6] = np.eye(6)
    solution = _factorised(hessian).solve(wanted)[row : row + 6]
    result: Array = 0.5 * (solution + solution.T)
    return result


def linearised(poses: Array, edges: Edges) -> tuple[Array, Array, Array]:
    """Residuals (M, 6), and their derivatives (M, 6, 6) by the tangents of the first and of the second pose."""
    first_T_second = inverse(poses[edges.first]) @ poses[edges.second]
    residuals = se3_log(inverse(edges.first_T_second) @ first_T_second)
    by_second = se3_inverse_right_jacobian(residuals)
    by_first = -by_second @ se3_adjoint(inverse(first_T_second))
    return residuals, by_first, by_second


def se3_adjoint(transforms: Array) -> Array:
    """(..., 6, 6) of (..., 4, 4): T @ se3_exp(xi) == se3_exp(adjoint @ xi) @ T (Barfoot, equation 7.45)."""
    rotation = transforms[..., :3, :3]
    result = np.zeros((*transforms.shape[:-2], 6, 6))
    result[..., :3, :3] = result[..., 3:, 3:] = rotation
    result[..., :3, 3:] = skew(transforms[..., :3, 3]) @ rotation
    return result


def se3_inverse_right_jacobian(tangents: Array) -> Array:
    """(..., 6, 6) of (..., 6): se3_log(se3_exp(t) @ se3_exp(d)) == t + jacobian @ d for small d."""
    rho, phi = -tangents[..., :3], -tangents[..., 3:]  # the right Jacobian is the left one of the opposite
    angle = np.linalg.norm(phi, axis=-1)[..., None, None]
    safe = np.where(angle < _SMALL_ANGLE_RAD, 1.0, angle)
    small = angle < _SMALL_ANGLE_RAD
    half = safe / 2.0
    k, r = skew(phi), skew(rho)
    d = np.where(small, 1.0 / 12.0 + angle**2 / 720.0, (1.0 - half * np.cos(half) / np.sin(half)) / safe**2)
    inverse_left = np.eye(3) - 0.5 * k + d * (k @ k)
    b = np.where(small, 1.0 / 6.0 - angle**2 / 120.0, (safe - np.sin(safe)) / safe**3)
    c = np.where(small, 1.0 / 24.0 - angle**2 / 720.0, (safe**2 / 2.0 + np.cos(safe) - 1.0) / safe**4)
    e = np.where(small, -1.0 / 120.0, (safe - np.sin(safe) - safe**3 / 6.0) / safe**5)
    q = 0.5 * r + b * (k @ r + r @ k + k @ r @ k) + c * (k @ k @ r + r @ k @ k - 3.0 * (k @ r @ k))
    q = q + 0.5 * (c + 3.0 * e) * (k @ r @ k @ k + k @ k @ r @ k)
    result = np.zeros((*tangents.shape[:-1], 6, 6))
    result[..., :3, :3] = result[..., 3:, 3:] = inverse_left
    result[..., :3, 3:] = -inverse_left @ q @ inverse_left
    return result


def _graduated(poses: Array, edges: Edges, fixed: int, bound: float) -> tuple[Array, Array, int]:
    """Poses and weights (M,) after the doubtful edges were told apart, and the number of steps."""
    weights = np.ones(len(edges))
    poses, _, iterations = _levenberg_marquardt(poses, edges, weights, fixed, 20)
    mu = 0.0
    for _ in range(_MAX_BENDS):
        chi_squared = _chi_squared(linearised(poses, edges)[0], edges)[edges.doubtful]
        if mu == 0.0:
            if chi_squared.max() <= bound:  # nothing to reject
                break
            mu = bound / (2.0 * chi_squared.max() - bound)
        bent = np.sqrt(bound * mu * (mu + 1.0) / np.maximum(chi_squared, 1e-12)) - mu
        bent = np.where(chi_squared >= (mu + 1.0) / mu * bound, 0.0, bent)
        weights[edges.doubtful] = np.where(chi_squared <= mu / (mu + 1.0) * bound, 1.0, np.clip(bent, 0.0, 1.0))
        if mu > 1.0 and np.isin(weights, (0.0, 1.0)).all():
            break
        poses, _, steps = _levenberg_marquardt(poses, edges, weights, fixed, 1)
        iterations, mu = iterations + steps, mu * _BEND
    return poses, np.where(weights > 0.5, 1.0, 0.0), iterations


def _levenberg_marquardt(
    poses: Array, edges: Edges, weights: Array, fixed: int, max_iterations: int
) -> tuple[Array, bool, int]:
    """Poses, whether they converged, and the number of accepted steps."""
    sparse = require("scipy.sparse", extra="merge")
    damping, cost = 1e-9, _cost(poses, edges, weights)
    for iteration in range(max_iterations):
        hessian, gradient = _normal_equations(poses, edges, weights, fixed)
        # an addend: a pose whose doubtful edges were all found wrong is held by nothing, and stays
        diagonal = sparse.diags(hessian.diagonal() + 1.0)
        while True:
            step = _factorised(hessian + damping * diagonal).solve(-gradient)
            moved = _moved(poses, step, fixed)
            new_cost = _cost(moved, edges, weights)
            if new_cost <= cost or damping > _LARGEST_DAMPING:
                break
            damping *= 10.0
        gained = cost - new_cost
        if gained < 0.0:  # no step is small enough: this is the bottom, to rounding
            return poses, True, iteration
        poses, cost, damping = moved, new_cost, max(damping / 10.0, 1e-12)
        if gained <= _TOLERANCE * (cost + _TOLERANCE):
            return poses, True, iteration + 1
    return poses, False, max_iterations


def _cost(poses: Array, edges: Edges, weights: Array) -> float:
    first_T_second = inverse(poses[edges.first]) @ poses[edges.second]
    residuals = se3_log(inverse(edges.first_T_second) @ first_T_second)
    return float(weights @ _chi_squared(residuals, edges))


def _chi_squared(residuals: Array, edges: Edges) -> Array:
    result: Array = np.einsum("mi,mij,mj->m", residuals, edges.information, residuals)
    return result


def _moved(poses: Array, step: Array, fixed: int) -> Array:
    tangents = np.insert(step.reshape(-1, 6), fixed, 0.0, axis=0)
    result: Array = poses @ se3_exp(tangents)
    return result


def _normal_equations(poses: Array, edges: Edges, weights: Array, fixed: int) -> tuple[Any, Array]:
    """Sparse Hessian (6 (N - 1), 6 (N - 1)) of Gauss and Newton, and gradient, both without the fixed pose."""
    sparse = require("scipy.sparse", extra="merge")
    residuals, by_first, by_second = linearised(poses, edges)
    weighted = edges.information * weights[:, None, None]
    sides = [(edges.first, by_first), (edges.second, by_second)]
    size = 6 * len(poses)
    gradient = np.zeros((len(poses), 6))
    rows, columns, values = [], [], []
    within = np.arange(6)
    for node_a, jacobian_a in sides:
        product = np.swapaxes(jacobian_a, 1, 2) @ weighted
        np.add.at(gradient, node_a, np.einsum("mij,mj->mi", product, residuals))
        for node_b, jacobian_b in sides:
            block = product @ jacobian_b
            shape = block.shape
            rows.append(np.broadcast_to((6 * node_a[:, None] + within)[:, :, None], shape).ravel())
            columns.append(np.broadcast_to((6 * node_b[:, None] + within)[:, None, :], shape).ravel())
            values.append(block.ravel())
    hessian = sparse.coo_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(size, size)
    ).tocsc()
    free = np.delete(np.arange(size), slice(6 * fixed, 6 * fixed + 6))
    return hessian[free][:, free], gradient.ravel()[free]


def _factorised(hessian: Any) -> Any:
    """The LU decomposition of a sparse symmetric matrix, with an ordering for symmetric ones."""
    linalg = require("scipy.sparse.linalg", extra="merge")
    return linalg.splu(hessian.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})


def _check(poses: Array, edges: Edges, fixed: int) -> None:
    """Raises ValueError if the edges do not fit the poses, or do not hold all of them."""
    count = len(poses)
    if poses.shape != (count, 4, 4) or not np.isfinite(poses).all():
        raise ValueError(f"poses of shape {poses.shape} are not finite (N, 4, 4)")
    ends = np.concatenate([edges.first, edges.second])
    if not 0 <= fixed < count or (len(ends) and not 0 <= ends.min() <= ends.max() < count):
        raise ValueError(f"an edge or the fixed pose is beyond the {count} poses")
    sure = ~edges.doubtful
    csgraph = require("scipy.sparse.csgraph", extra="merge")
    sparse = require("scipy.sparse", extra="merge")
    links = sparse.coo_matrix((np.ones(len(edges)), (edges.first, edges.second)), shape=(count, count))
    if csgraph.connected_components(links, directed=False)[0] > 1:
        raise ValueError(f"the edges do not connect the {count} poses ({int(sure.sum())} of them are certain)")
