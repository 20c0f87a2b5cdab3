"""How a sweep corrects the inertial filter: distances to the planes of a local map, but for what no plane holds.

The iterated update with point-to-plane distances is FAST-LIO2's (Xu et al., T-RO 2022, section V-C): partners are
sought anew at every iterate, and the prior pulls at each. It departs from it in two things:

- distances count by Tukey's biweight, whose width begins at how far partners are sought and narrows once the iterates
  stand still: a narrow one from the start would take a wrong prediction's few contradicting planes for outliers;
- directions that no plane holds (registration.local.settle) are projected out of the normal equations, after Zhang,
  Kaess and Singh, "On Degeneracy of Optimization-based State Estimation Problems" (ICRA 2016): the noise of normals
  along a tunnel's wall would otherwise hold the sensor where the map was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.inertial import InertialState, Propagation, correction, lidar_jacobian, plus
from registration.local import Settled
from registration.local_map import LocalMap
from tercel.core.geometry import skew, transform_points

Array = NDArray[Any]

_FAR_M = 20.0  # where an uncertain rotation is turned into metres
_STEP_M = 2e-3
_MIN_PARTNERS = 20
_AGREEING_NORMALS = 0.7
_NARROW_M = 0.1
_TUKEY_WIDTHS = 3.0 * 1.4826  # of the median distance: three robust standard deviations


@dataclass(frozen=True, eq=False)
class Fit:
    """The state and covariance (23, 23) after the update, and overlap: the share of the scan with partners.

    held: how the partners hold odom_T_lidar. pose_covariance (6, 6), translation first, in the LiDAR's frame: held's,
    relative to the map, and along its degenerate directions the filter's.
    """

    state: InertialState
    covariance: Array
    overlap: float
    iterations: int
    held: Settled
    pose_covariance: Array


def thin(
    points_m: Array, map_voxel_m: float, scan_voxel_m: float, neighbours: int
) -> tuple[Array, small_gicp.PointCloud]:
    """A sweep (N, 3) thinned for the map (M, 3), and further, with normals, for the fit."""
    dense = small_gicp.voxelgrid_sampling(small_gicp.PointCloud(points_m.astype(np.float64)), map_voxel_m)
    scan = small_gicp.voxelgrid_sampling(dense, scan_voxel_m)
    if scan.size() >= neighbours:
        small_gicp.estimate_normals_covariances(scan, small_gicp.KdTree(scan), neighbours)
    return dense.points()[:, :3], scan


def fit(
    local_map: LocalMap,
    scan: small_gicp.PointCloud,
    predicted: Propagation,
    *,
    updates: int,
    reach_m: float,
    match_m: float,
    point_noise_m: float,
) -> Fit | None:
    """Correct a prediction by a thin scan.

    Partners are sought as far as match_m and three standard deviations of the prediction (at most reach_m), until an
    iterate moves points by less than half of match_m, and then as far as match_m. None if hardly any are found, or if
    the iterates have not come so far after `updates`.
    """
    before, covariance = predicted.state, predicted.covariance
    match = width = max(match_m, min(reach_m, match_m + 3.0 * _uncertainty_m(before, covariance)))
    state, posterior, held, opened = before, covariance, None, np.zeros((6, 6))
    partners = iterations = 0
    while iterations < updates:
        information, gradient, partners = _normal_equations(local_map, scan, state.odom_T_lidar, match, width)
        if partners < _MIN_PARTNERS:
            return None
        information, gradient = _without(opened, information / point_noise_m**2, gradient / point_noise_m**2)
        step, posterior = correction(before, covariance, state, information, gradient)
        moved = lidar_jacobian(state) @ step
        state, iterations = plus(state, step), iterations + 1
        moved_m = np.linalg.norm(moved[:3]) + _FAR_M * np.linalg.norm(moved[3:])
        if held is not None and moved_m < _STEP_M:
            break
        if held is None and moved_m < 0.5 * match_m:
            match, width = match_m, _NARROW_M
            points_m, normals = scan.points()[:, :3], scan.normals()[:, :3]
            held = local_map.settle(points_m, normals, state.odom_T_lidar, before.odom_T_lidar, match_m, reach_m)
            opened = _projector(held, points_m)
    if held is None:
        return None
    reported = _reported(state, posterior, held, opened)
    return Fit(state, posterior, partners / scan.size(), iterations, held, reported)


def _uncertainty_m(state: InertialState, covariance: Array) -> float:
    """How far off the prediction may put a point, as a standard deviation."""
    jacobian = lidar_jacobian(state)
    variances = np.diag(jacobian @ covariance @ jacobian.T)
    return float(np.sqrt(variances[:3].max() + _FAR_M**2 * variances[3:].max()))


def _normal_equations(
    local_map: LocalMap, scan: small_gicp.PointCloud, odom_T_lidar: Array, match_m: float, width_m: float
) -> tuple[Array, Array, int]:
    """Information (6, 6) and gradient (6,) of half the squared distances, and how many points have a partner.

    Distances count if the normals agree, and by Tukey's weights, width_m wide at least. With m a partner's normal in
    the LiDAR's frame and p the point, a distance changes by [m, p x m] . xi under odom_T_lidar @ se3_exp(xi).
    """
    cloud, tree, points = local_map.cloud, local_map.tree, scan.points()[:, :3]
    if cloud is None or tree is None:
        raise ValueError("the map is empty")
    moved = transform_points(odom_T_lidar, points)
    indices, squared = tree.batch_nearest_neighbor_search(moved)
    near = np.flatnonzero(np.asarray(squared) < match_m**2)
    partners = np.asarray(indices)[near]
    normals = cloud.normals()[partners, :3]
    residuals = np.einsum("ij,ij->i", moved[near] - cloud.points()[partners, :3], normals)
    turned = np.einsum("ij,jk->ik", normals, odom_T_lidar[:3, :3])
    agreeing = np.abs(np.einsum("ij,ij->i", turned, scan.normals()[near, :3])) > _AGREEING_NORMALS
    if not agreeing.any():
        return np.zeros((6, 6)), np.zeros(6), 0
    turned, residuals = turned[agreeing], residuals[agreeing]
    jacobian = np.concatenate([turned, np.cross(points[near][agreeing], turned)], axis=1)
    width = max(_TUKEY_WIDTHS * float(np.median(np.abs(residuals))), width_m)
    weighted = jacobian * np.square(np.maximum(1.0 - np.square(residuals / width), 0.0))[:, None]
    return np.einsum("ni,nj->ij", weighted, jacobian), np.einsum("ni,n->i", weighted, residuals), len(near)


def _projector(held: Settled, points_m: Array) -> Array:
    """(6, 6): takes a tangent to its part along the degenerate directions.

    The rest is orthogonal to it in how the points (N, 3) move.
    """
    directions = held.degenerate_directions
    if len(directions) == 0:
        return np.zeros((6, 6))
    second = np.einsum("ni,nj->ij", points_m, points_m) / len(points_m)
    metric = np.eye(6)
    metric[:3, 3:] = -skew(points_m.mean(axis=0))
    metric[3:, :3] = -metric[:3, 3:]
    metric[3:, 3:] = np.trace(second) * np.eye(3) - second
    result: Array = directions.T @ np.linalg.solve(directions @ metric @ directions.T, directions @ metric)
    return result


def _without(opened: Array, information: Array, gradient: Array) -> tuple[Array, Array]:
    """Normal equations that say nothing along what a projector (6, 6) keeps."""
    closed = np.eye(6) - opened
    return closed.T @ information @ closed, closed.T @ gradient


def _reported(state: InertialState, posterior: Array, held: Settled, opened: Array) -> Array:
    """The pose's covariance: the partners' own, and the filter's where they say nothing.

    Elsewhere the filter's is too small: it takes what sweeps share, the map and how it is sampled, for new each time.
    """
    jacobian, closed = lidar_jacobian(state), np.eye(6) - opened
    filtered = jacobian @ posterior @ jacobian.T
    result: Array = closed @ held.covariance @ closed.T + opened @ filtered @ opened.T
    return result
