"""Local registration: two clouds that nearly fit, aligned from a guess, with a covariance and the directions left open.

The alignment is Segal, Haehnel and Thrun, "Generalized-ICP" (RSS 2009), in small_gicp (Koide, JOSS 2024): far partners
first, to reach the answer from a poor guess, then near ones. What GICP minimises weighs shapes, not sensor noise, so
the inverse of its Hessian is no covariance. Here the solution is linearised once more, point to plane (constraint):

- The covariance is the sandwich H^-1 (sum of g g^T) H^-1 over groups of neighbouring points, g being a group's gradient
  (Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 1986). Points that share a
  surface share their errors, which a count of points takes for independent: ten thousand points promise a tenth of a
  millimetre. One factor, fitted on simulated pairs, makes up for what the residuals do not show.
- A direction is degenerate if too little of the scan holds it. This is the eigen-analysis of Zhang, Kaess and Singh,
  "On Degeneracy of Optimization-based State Estimation Problems" (ICRA 2016), with two changes: rotations are counted
  in metres at the points' own distance, so that one threshold serves both kinds, and points whose share in a direction
  is within the noise of normals do not count, however many (Tuna et al., "X-ICP", T-RO 2024). Along such directions the
  answer keeps the guess, as in Zhang's solution remapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import small_gicp
from numpy.typing import NDArray

from tercel.core.geometry import inverse, orthonormalise, se3_exp, se3_log, transform_points

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
_INFLATION = 2.0
_NOISE_OF_NORMALS = 0.2
_HELD_SHARE = 0.01
_FLOOR_M = 1e-4
_STILL_M = 1e-3


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
    degenerate_directions (K, 6): orthonormal tangents of the same kind, once each radian counts lever_m metres (about
    how far the points are).
    """

    target_T_source: Array
    status: Status
    iterations: int
    inlier_ratio: float
    rmse_m: float
    information: Array
    covariance: Array
    degenerate_directions: Array
    lever_m: float = 1.0

    @property
    def converged(self) -> bool:
        """Whether the pose may be used."""
        return self.status in ("converged", "degenerate")


@dataclass(frozen=True, eq=False)
class Constraint:
    """What the partners at one pose say about it: see constraint."""

    rmse_m: float
    information: Array
    covariance: Array
    degenerate_directions: Array
    lever_m: float


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
    small_gicp.estimate_covariances(source, small_gicp.KdTree(source), NEIGHBOURS)
    far = align(target, source, tree, pose, reach_m, max_iterations)
    near = align(target, source, tree, far.T_target_source, voxel_m, max_iterations)
    # near partners of a sparse cloud may flip to and fro for ever; then the far pass, if it converged, stands
    best = near if near.converged else far
    found, iterations = np.array(best.T_target_source), far.iterations + near.iterations
    ratio = near.num_inliers / source.size()
    if not best.converged or ratio < min_overlap or near.num_inliers < MIN_POINTS or not np.isfinite(found).all():
        return unaligned(found, "not converged", iterations, ratio)
    held = constraint(target, source, tree, found, voxel_m, open_m=reach_m)
    found = remapped(found, pose, held)
    status: Status = "degenerate" if len(held.degenerate_directions) else "converged"
    return Registration(
        found,
        status,
        iterations,
        ratio,
        held.rmse_m,
        held.information,
        held.covariance,
        held.degenerate_directions,
        held.lever_m,
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
) -> Any:
    """small_gicp's result of one pass of GICP, with partners no farther than match_m, on one thread."""
    return small_gicp.align(
        target,
        source,
        tree,
        guess,
        registration_type="GICP",
        max_correspondence_distance=match_m,
        num_threads=1,
        max_iterations=max_iterations,
        translation_epsilon=STEP_OF_MATCH * match_m,
        rotation_epsilon=STEP_RAD,
    )


def constraint(
    target: small_gicp.PointCloud,
    source: small_gicp.PointCloud,
    tree: small_gicp.KdTree,
    target_T_source: Array,
    match_m: float,
    open_m: float,
) -> Constraint:
    """How the partners nearer than match_m hold the pose. The target needs normals; open_m: see _with_open_directions.

    With m a partner's normal in the source's frame and p the source point, the distance to the partner's plane changes
    by [m, p x m] . xi under target_T_source @ se3_exp(xi).
    """
    points = source.points()[:, :3]
    moved = transform_points(target_T_source, points)
    indices, squared = tree.batch_nearest_neighbor_search(moved)
    near = np.asarray(squared) < match_m**2
    partners = np.asarray(indices)[near]
    points, normals = points[near], target.normals()[partners, :3]
    residuals = np.einsum("ij,ij->i", moved[near] - target.points()[partners, :3], normals)
    m = np.einsum("ij,jk->ik", normals, target_T_source[:3, :3])
    jacobian = np.concatenate([m, np.cross(points, m)], axis=1)
    lever_m = max(float(np.sqrt(np.mean(np.square(points)) * 2.0)), 1e-3)
    directions = degenerate_directions(jacobian, lever_m)
    covariance = _sandwich(jacobian, residuals, points, lever_m)
    covariance, information = _with_open_directions(covariance, directions, lever_m, open_m)
    return Constraint(float(np.sqrt(np.mean(residuals**2))), information, covariance, directions, lever_m)


def degenerate_directions(jacobian: Array, lever_m: float) -> Array:
    """Tangents (K, 6) that the rows (N, 6) of a point-to-plane Jacobian do not hold; radians count lever_m metres.

    A direction is held by the rows whose share in it stands out of the noise of normals: if their squares add up to
    less than a share _HELD_SHARE of the number of rows, it is degenerate.
    """
    scaled = jacobian / np.repeat([1.0, lever_m], 3)
    _, vectors = np.linalg.eigh(np.einsum("ni,nj->ij", scaled, scaled))
    shares = np.abs(np.einsum("ni,ij->nj", scaled, vectors))
    held = np.where(shares > _NOISE_OF_NORMALS, shares**2, 0.0).mean(axis=0)
    directions: Array = vectors.T[held < _HELD_SHARE]
    return directions


def _sandwich(jacobian: Array, residuals: Array, points_m: Array, lever_m: float) -> Array:
    """Covariance (6, 6) of the least-squares pose, robust to errors shared within cubes of GROUP_M."""
    scale = np.repeat([1.0, lever_m], 3)
    scaled = jacobian / scale
    hessian = np.einsum("ni,nj->ij", scaled, scaled)
    cells = np.floor(points_m / GROUP_M).astype(np.int64)
    _, group = np.unique((cells @ [1, 1 << 20, 1 << 40]), return_inverse=True)
    gradients = np.stack([np.bincount(group, c * residuals) for c in scaled.T], axis=1)
    middle = np.einsum("gi,gj->ij", gradients, gradients) * len(gradients) / max(len(gradients) - 6, 1)
    inverse_hessian = np.linalg.inv(hessian + 1e-6 * np.trace(hessian) * np.eye(6))
    covariance = _INFLATION * inverse_hessian @ middle @ inverse_hessian + _FLOOR_M**2 * np.eye(6)
    result: Array = covariance / np.outer(scale, scale)
    return result


def _with_open_directions(covariance: Array, directions: Array, lever_m: float, open_m: float) -> tuple[Array, Array]:
    """A covariance that knows nothing along directions (K, 6) but open_m, without correlation; and its inverse."""
    scale = np.outer(np.repeat([1.0, lever_m], 3), np.repeat([1.0, lever_m], 3))
    closed = np.eye(6) - directions.T @ directions
    scaled = closed @ (covariance * scale) @ closed + open_m**2 * directions.T @ directions
    scaled = 0.5 * (scaled + scaled.T)
    return scaled / scale, np.linalg.inv(scaled) * scale


def remapped(pose: Array, guess: Array, held: Constraint) -> Array:
    """The pose (4, 4) with the guess's part along the degenerate directions, for which the scans had no say."""
    if len(held.degenerate_directions) == 0:
        return pose
    scale, directions = np.repeat([1.0, held.lever_m], 3), held.degenerate_directions
    change = se3_log(inverse(guess) @ pose) * scale
    result: Array = pose @ se3_exp(-(directions.T @ (directions @ change)) / scale)
    return result
