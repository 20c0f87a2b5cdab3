"""Local registration: two clouds that nearly fit, aligned from a guess, with a covariance and the directions left open.

The alignment is Segal, Haehnel and Thrun, "Generalized-ICP" (RSS 2009), in small_gicp (Koide, JOSS 2024): far partners
first, to reach the answer from a poor guess, then near ones. GICP takes every neighbourhood for a plane and every
partner at its word; what it minimises weighs shapes, not sensor noise, so the inverse of its Hessian is no covariance.
Therefore the pose settles once more (settle): point to plane, with partners whose normals agree, and Tukey's weights.
On simulated pairs that halves the error, and the residuals tell how good the answer is:

- The covariance is the sandwich H^-1 (sum of g g^T) H^-1 over groups of neighbouring points, g being a group's gradient
  (Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 1986). Points that share a
  surface share their errors, which a count of points takes for independent: ten thousand points promise a tenth of a
  millimetre. What the residuals do not show, since the choice of partners hides it, no density of points makes smaller:
  a factor and a least standard deviation, in proportion to the grid, were fitted to it on simulated pairs.
- A direction is degenerate if the planes see too little of how far it moves the points. This is the eigen-analysis of
  Zhang, Kaess and Singh, "On Degeneracy of Optimization-based State Estimation Problems" (ICRA 2016), with two changes:
  shares of motion have no unit, so that one threshold serves rotations and translations, and points that see no more
  than the noise of normals do not count, however many (Tuna et al., "X-ICP", T-RO 2024). Along such directions the
  answer keeps the guess, as in Zhang's solution remapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import small_gicp
from numpy.typing import NDArray

from tercel.core.geometry import inverse, orthonormalise, se3_exp, se3_log, skew, transform_points

Array = NDArray[Any]
Status = Literal["converged", "degenerate", "not converged", "too few points"]

# A pass has converged when its last step is below these. Smaller ones fail on sparse scans, whose partners flip to and
# fro between two states some millimetres apart for ever.
STEP_OF_MATCH = 0.01
STEP_RAD = 1e-3
NEIGHBOURS = 10
MIN_POINTS = 30
MAX_COORDINATE_M = 1e5  # small_gicp's grid has 2^21 cells a side and drops what lies outside
GROUP_M = 4.0
_ROBUST_STEPS = 3
_LEAST_WIDTH_M = 0.02
_AGREEING_NORMALS = 0.95
_NOISE_OF_NORMALS = 0.2
_HELD_SHARE = 0.01
_INFLATION = 10.0
_BIAS_OF_MATCH = np.repeat([6e-3, 1e-3], 3)  # m and rad, for each metre of match_m


@dataclass(frozen=True, eq=False)
class Registration:
    """Where the source lies in the target, and how well that is known.

    target_T_source (4, 4). status: "converged"; "degenerate" (converged, but nothing holds degenerate_directions, along
    which the guess stands); "not converged" (the alignment ran away or on for ever, or too few points found partners;
    the pose is not to be used); "too few points" (nothing was aligned, the pose is the guess; NaN if the guess was).
    iterations: of both passes. inlier_ratio: share of the thinned source's points with a partner. rmse_m: of the
    partners' point-to-plane distances, NaN if there are none.
    covariance (6, 6), m^2 and rad^2: of the tangent xi in truth = target_T_source @ se3_exp(xi), x y z rx ry rz in the
    source's frame. Along degenerate directions it is as wide as partners were looked for. Where nothing was aligned its
    diagonal is infinite. information (6, 6): its inverse.
    degenerate_directions (K, 6): tangents of the same kind, of length 1.
    """

    target_T_source: Array
    status: Status
    iterations: int
    inlier_ratio: float
    rmse_m: float
    information: Array
    covariance: Array
    degenerate_directions: Array

    @property
    def converged(self) -> bool:
        """Whether the pose may be used."""
        return self.status in ("converged", "degenerate")


@dataclass(frozen=True, eq=False)
class Settled:
    """A pose with what the partners say about it: the fields are those of Registration."""

    target_T_source: Array
    rmse_m: float
    information: Array
    covariance: Array
    degenerate_directions: Array


def register_local(
    target_m: Array,
    source_m: Array,
    guess: Array | None = None,
    *,
    voxel_m: float = 0.5,
    reach_m: float = 2.0,
    min_overlap: float = 0.1,
    max_iterations: int = 30,
) -> Registration:
    """Align source (M, 3) with target (N, 3) from a guess of target_T_source (4, 4), the identity if None.

    Both clouds are thinned to one point a voxel; reach_m is how far a point looks for a partner at first, later it is
    voxel_m. min_overlap: share of the source that must find partners. Points that are not finite are dropped; an almost
    rigid guess is made rigid. Raises ValueError for arrays of other shapes, lengths of 0 and a guess that is finite
    and not nearly rigid.
    """
    if not (voxel_m > 0.0 and reach_m > 0.0):
        raise ValueError(f"voxel_m and reach_m must be above 0, not {voxel_m} and {reach_m}")
    pose = np.eye(4) if guess is None else np.asarray(guess, dtype=np.float64)
    if pose.shape != (4, 4):
        raise ValueError(f"guess has shape {pose.shape}, not (4, 4)")
    if not np.isfinite(pose).all():
        return unaligned(np.full((4, 4), np.nan), "not converged")
    pose = orthonormalise(pose)
    target, source = thinned(target_m, voxel_m), thinned(source_m, voxel_m)
    if min(target.size(), source.size()) < MIN_POINTS:
        return unaligned(pose, "too few points")
    tree = small_gicp.KdTree(target)
    small_gicp.estimate_normals_covariances(target, tree, NEIGHBOURS)
    small_gicp.estimate_normals_covariances(source, small_gicp.KdTree(source), NEIGHBOURS)
    far = align(target, source, tree, pose, reach_m, max_iterations)
    near = align(target, source, tree, far.T_target_source, voxel_m, max_iterations)
    # near partners of a sparse cloud may flip to and fro for ever; then the far pass, if it converged, stands
    best = near if near.converged else far
    # and a pass that begins at the very optimum finds no step that lowers the cost, and calls that no convergence
    stands = best.converged or float(np.abs(np.linalg.lstsq(near.H, near.b, rcond=None)[0]).max()) < 0.1 * STEP_RAD
    found, iterations = np.array(best.T_target_source), far.iterations + near.iterations
    ratio = near.num_inliers / source.size()
    if not stands or ratio < min_overlap or near.num_inliers < MIN_POINTS or not np.isfinite(found).all():
        return unaligned(found, "not converged", iterations, ratio)
    source_m, normals = source.points()[:, :3], source.normals()[:, :3]
    settled = settle(target, tree, source_m, normals, found, pose, voxel_m, open_m=reach_m)
    count = len(settled.degenerate_directions)
    if count == 6:
        return unaligned(found, "not converged", iterations, ratio)
    return Registration(
        settled.target_T_source,
        "degenerate" if count else "converged",
        iterations,
        ratio,
        settled.rmse_m,
        settled.information,
        settled.covariance,
        settled.degenerate_directions,
    )


def unaligned(pose: Array, status: Status, iterations: int = 0, inlier_ratio: float = 0.0) -> Registration:
    """A result that says no more than that there is none."""
    unknown = np.diag(np.full(6, np.inf))
    return Registration(pose, status, iterations, inlier_ratio, np.nan, np.zeros((6, 6)), unknown, np.zeros((0, 6)))


def thinned(points_m: Array, voxel_m: float) -> small_gicp.PointCloud:
    """One point a voxel: the mean of those in it that are finite. Raises ValueError unless points are (N, 3)."""
    if points_m.ndim != 2 or points_m.shape[1] != 3:
        raise ValueError(f"points have shape {points_m.shape}, not (N, 3)")
    points = points_m[(np.abs(points_m) < min(MAX_COORDINATE_M, voxel_m * 2**20)).all(axis=1)]
    return small_gicp.voxelgrid_sampling(small_gicp.PointCloud(points.astype(np.float64)), voxel_m)


def align(
    target: small_gicp.PointCloud,
    source: small_gicp.PointCloud,
    tree: small_gicp.KdTree,
    guess: Array,
    match_m: float,
    max_iterations: int,
    method: Literal["GICP", "PLANE_ICP"] = "GICP",
) -> Any:
    """small_gicp's result of one pass, with partners no farther than match_m, on one thread.

    GICP needs covariances of both clouds, PLANE_ICP but the target's normals.
    """
    return small_gicp.align(
        target,
        source,
        tree,
        guess,
        registration_type=method,
        max_correspondence_distance=match_m,
        num_threads=1,
        max_iterations=max_iterations,
        translation_epsilon=STEP_OF_MATCH * match_m,
        rotation_epsilon=STEP_RAD,
    )


def settle(
    target: small_gicp.PointCloud,
    tree: small_gicp.KdTree,
    source_m: Array,
    normals: Array,
    aligned: Array,
    guess: Array,
    match_m: float,
    open_m: float,
) -> Settled:
    """The robust point-to-plane pose of points (N, 3) with normals (N, 3) next to an aligned one (4, 4), and how well
    their partners hold it.

    Partners are nearer than match_m, and their normals agree: on a lone scan line a normal is but noise, and holds
    nothing. The target needs normals, too. Along directions that nothing holds the guess stands, and the covariance
    lets the points move by open_m.
    """
    planes = _partners(target, tree, source_m, normals, aligned, match_m)
    metric = motion_metric(planes.points_m)
    open_directions, held = _split_directions(planes.jacobian(aligned), planes.points_m, metric)
    pose = _remapped(aligned, guess, open_directions, metric)
    # the steps are millimetres, over which distances change linearly
    jacobian, first_m = np.einsum("ki,in->kn", held, planes.jacobian(pose)), planes.residuals_m(pose)
    step, residuals_m = np.zeros(len(held)), first_m
    for _ in range(_ROBUST_STEPS):
        weighted = jacobian * _tukey(residuals_m)
        hessian = np.einsum("in,jn->ij", weighted, jacobian) + 1e-9 * len(first_m) * np.eye(len(held))
        step = -np.linalg.solve(hessian, np.einsum("in,n->i", weighted, first_m))
        residuals_m = first_m + np.einsum("i,in->n", step, jacobian)
    within = _sandwich(jacobian, residuals_m, planes.points_m)
    covariance = (
        held.T @ within @ held
        + np.diag(np.square(_BIAS_OF_MATCH * match_m))
        + open_m**2 * open_directions.T @ open_directions
    )
    rmse_m = float(np.sqrt(np.mean(residuals_m**2))) if len(residuals_m) else float("nan")
    return Settled(pose @ se3_exp(held.T @ step), rmse_m, inverted(covariance), covariance, unit(open_directions))


@dataclass(frozen=True, eq=False)
class _Planes:
    """Source points, and their partners' points and normals in the target: each (3, N), as sums run over points."""

    points_m: Array
    anchors_m: Array
    normals: Array

    def residuals_m(self, target_T_source: Array) -> Array:
        """Distances (N,) of the points from their partners' planes."""
        moved = np.einsum("ij,jn->in", target_T_source[:3, :3], self.points_m) + target_T_source[:3, 3:]
        result: Array = np.einsum("in,in->n", moved - self.anchors_m, self.normals)
        return result

    def jacobian(self, target_T_source: Array) -> Array:
        """Columns of (6, N): with m the normal in the source's frame, [m, p x m] . xi is a distance's change."""
        m = np.einsum("ji,jn->in", target_T_source[:3, :3], self.normals)
        return np.concatenate([m, _cross(self.points_m, m)])


def _partners(
    target: small_gicp.PointCloud, tree: small_gicp.KdTree, points_m: Array, normals: Array, pose: Array, match_m: float
) -> _Planes:
    """The points with a partner nearer than match_m and of the same normal."""
    indices, squared = tree.batch_nearest_neighbor_search(transform_points(pose, points_m))
    near = np.flatnonzero(np.asarray(squared) < match_m**2)
    partners = np.asarray(indices)[near]
    theirs = target.normals()[partners, :3]
    own = np.einsum("nj,ij->ni", normals[near], pose[:3, :3])
    agreeing = np.abs(np.einsum("ni,ni->n", own, theirs)) > _AGREEING_NORMALS
    columns = (points_m[near][agreeing], target.points()[partners[agreeing], :3], theirs[agreeing])
    return _Planes(*(np.ascontiguousarray(rows.T) for rows in columns))


def _cross(a: Array, b: Array) -> Array:
    """Cross products (3, N) of columns."""
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _tukey(residuals_m: Array) -> Array:
    """Weights (N,) of Tukey's biweight, three robust standard deviations wide."""
    width_m = max(3.0 * 1.4826 * float(np.median(np.abs(residuals_m))), _LEAST_WIDTH_M) if len(residuals_m) else 1.0
    result: Array = np.square(np.maximum(1.0 - np.square(residuals_m / width_m), 0.0))
    return result


def motion_metric(points_m: Array) -> Array:
    """M (6, 6) such that xi . M xi is the mean square of how far a small motion xi moves the points (3, N)."""
    count = max(points_m.shape[1], 1)
    mean, second = points_m.sum(axis=1) / count, np.einsum("in,jn->ij", points_m, points_m) / count
    metric = np.eye(6)
    metric[:3, 3:], metric[3:, :3] = -skew(mean), skew(mean)
    metric[3:, 3:] = (np.trace(second) + 1e-6) * np.eye(3) - second
    return metric


def _split_directions(jacobian: Array, points_m: Array, metric: Array) -> tuple[Array, Array]:
    """Motions (K, 6) that a point-to-plane Jacobian (6, N) does not see, and (6 - K, 6) that it does.

    The directions are those in which the planes see the largest and smallest shares of how far the points (3, N) move
    (generalised eigenvectors of the Hessian and the metric; they are metric-orthonormal).
    """
    lower = np.linalg.cholesky(metric)
    count = jacobian.shape[1]
    if count < MIN_POINTS:
        return np.linalg.inv(lower), np.zeros((0, 6))
    hessian = np.einsum("in,jn->ij", jacobian, jacobian) / count
    shares, vectors = np.linalg.eigh(np.linalg.solve(lower, np.linalg.solve(lower, hessian).T))
    directions = np.linalg.solve(lower.T, vectors).T
    # at most _NOISE_OF_NORMALS^2 of a share can be noise, so the larger ones need no second look
    doubtful = shares < _HELD_SHARE + _NOISE_OF_NORMALS**2
    held = ~doubtful
    for k in np.flatnonzero(doubtful):
        held[k] = _share_beyond_noise(directions[k], jacobian, points_m) > _HELD_SHARE
    return directions[~held], directions[held]


def _share_beyond_noise(direction: Array, jacobian: Array, points_m: Array) -> float:
    """Mean square of what the planes see of a motion (6,), without the points that move along theirs but for noise."""
    seen = np.square(np.einsum("i,in->n", direction, jacobian))
    move = direction[:3, None] + _cross(np.broadcast_to(direction[3:, None], points_m.shape), points_m)
    moved = np.einsum("in,in->n", move, move)
    return float(np.where(seen > _NOISE_OF_NORMALS**2 * moved, seen, 0.0).mean())


def _remapped(pose: Array, guess: Array, directions: Array, metric: Array) -> Array:
    """The pose (4, 4) with the guess's part along metric-orthonormal directions, for which the scans had no say."""
    if len(directions) == 0:
        return pose
    change = se3_log(inverse(guess) @ pose)
    result: Array = pose @ se3_exp(-directions.T @ (directions @ (metric @ change)))
    return result


def _sandwich(jacobian: Array, residuals_m: Array, points_m: Array) -> Array:
    """Covariance (D, D) of robust least squares of Jacobian (D, N), with errors shared within cubes of GROUP_M."""
    weighted = jacobian * _tukey(residuals_m)
    cells = np.floor(points_m / GROUP_M).astype(np.int64)
    groups, group = np.unique(cells[0] + (cells[1] << 20) + (cells[2] << 40), return_inverse=True)
    gradients = np.array([np.bincount(group, g * residuals_m) for g in weighted]).reshape(len(jacobian), len(groups))
    spread = _INFLATION * gradients.shape[1] / max(gradients.shape[1] - 6, 1)
    middle = spread * np.einsum("ig,jg->ij", gradients, gradients)
    hessian = np.einsum("in,jn->ij", weighted, jacobian)
    inverse_hessian = np.linalg.inv(hessian + 1e-9 * len(residuals_m) * np.eye(len(hessian)))
    result: Array = inverse_hessian @ middle @ inverse_hessian
    return result


def inverted(covariance: Array) -> Array:
    """The inverse of a covariance (6, 6) of mixed units."""
    scale = np.outer(*[np.sqrt(np.diag(covariance))] * 2)
    result: Array = np.linalg.inv(covariance / scale) / scale
    return result


def unit(directions: Array) -> Array:
    """Directions (K, 6), each of length 1."""
    result: Array = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return result
