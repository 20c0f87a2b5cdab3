"""How a sweep corrects the inertial filter: GICP's normal equations against a local map, but for what nothing holds.

Distances and their normal equations are small_gicp's (Koide, JOSS 2024; Segal, Haehnel and Thrun, "Generalized-ICP",
RSS 2009), summed up anew at each iterate of the filter; the two pass 6x6 numbers. Directions that the partners do not
hold (registration.local.settle) are projected out of them, after Zhang, Kaess and Singh (ICRA 2016):
nearest neighbours along a tunnel's wall would otherwise hold the sensor where the map was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.inertial import InertialState, Propagation, correction, lidar_jacobian, plus
from registration.local import Settled, motion_metric
from registration.local_map import LocalMap

Array = NDArray[Any]

_ORDER = [3, 4, 5, 0, 1, 2]  # small_gicp orders its tangent rx ry rz x y z; we x y z rx ry rz
_STEP_M, _STEP_RAD = 2e-3, 2e-4
_ANY_STEP = 1e9
_FAR_M = 20.0  # where the prediction's uncertain rotation is turned into metres
_MIN_PARTNERS = 20


@dataclass(frozen=True, eq=False)
class Fit:
    """The state and covariance (23, 23) after the update, and overlap: the share of the scan with partners.

    held: how the partners hold odom_T_lidar, before the last iterates. pose_covariance (6, 6), translation first, in
    the LiDAR's frame: held's, relative to the map, and along its degenerate directions the filter's.
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
    """A sweep (N, 3) thinned for the map (M, 3), and further, with covariances, for the fit."""
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
    point_weight: float,
) -> Fit | None:
    """Correct a prediction by a thin scan: FAST-LIO2's iterated update, partners sought anew at every iterate.

    Partners are sought as far as match_m and three standard deviations of the prediction (at most reach_m), and as far
    as match_m from the first iterate on that moved by less than half of that. None if hardly any are found, or if the
    iterates have not come so far after `updates`.
    """
    before, covariance = predicted.state, predicted.covariance
    match = max(match_m, min(reach_m, match_m + 3.0 * _uncertainty_m(before, covariance)))
    state, posterior, held, opened = before, covariance, None, np.zeros((6, 6))
    overlap, iterations = 0.0, 0
    while iterations < updates:
        iterations += 1
        information, gradient, partners = _normal_equations(local_map, scan, state.odom_T_lidar, match)
        if partners < _MIN_PARTNERS:
            return None
        overlap = partners / scan.size()
        information, gradient = _without(opened, information, gradient)
        step, posterior = correction(before, covariance, state, point_weight * information, point_weight * gradient)
        moved = lidar_jacobian(state) @ step
        state = plus(state, step)
        moved_m, turned_rad = np.linalg.norm(moved[:3]), np.linalg.norm(moved[3:])
        if held is not None and moved_m < _STEP_M and turned_rad < _STEP_RAD:
            break
        if held is None and moved_m + _FAR_M * turned_rad < 0.5 * match_m:
            match = match_m
            held = local_map.settle(scan, state.odom_T_lidar, before.odom_T_lidar, match, reach_m)
            opened = _projector(held, scan)
    if held is None:
        return None
    return Fit(state, posterior, overlap, iterations, held, _reported(state, posterior, held, opened))


def _uncertainty_m(state: InertialState, covariance: Array) -> float:
    """How far off the prediction may put a point, as a standard deviation."""
    jacobian = lidar_jacobian(state)
    variances = np.diag(jacobian @ covariance @ jacobian.T)
    return float(np.sqrt(variances[:3].max() + _FAR_M**2 * variances[3:].max()))


def _normal_equations(
    local_map: LocalMap, scan: small_gicp.PointCloud, odom_T_lidar: Array, match_m: float
) -> tuple[Array, Array, int]:
    """Information (6, 6) and gradient (6,) of GICP's cost at a pose, translation first, and the number of partners.

    small_gicp takes a step of its own, which is not used.
    """
    found = small_gicp.align(
        local_map.cloud,
        scan,
        local_map.tree,
        odom_T_lidar,
        registration_type="GICP",
        max_correspondence_distance=match_m,
        num_threads=1,
        max_iterations=1,
        translation_epsilon=_ANY_STEP,
        rotation_epsilon=_ANY_STEP,
    )
    return np.array(found.H)[np.ix_(_ORDER, _ORDER)], np.array(found.b).ravel()[_ORDER], int(found.num_inliers)


def _projector(held: Settled, scan: small_gicp.PointCloud) -> Array:
    """(6, 6): takes a tangent to its part along the degenerate directions, the rest being what moves the points most
    differently from them."""
    directions, metric = held.degenerate_directions, motion_metric(scan.points()[:, :3])
    if len(directions) == 0:
        return np.zeros((6, 6))
    result: Array = directions.T @ np.linalg.solve(directions @ metric @ directions.T, directions @ metric)
    return result


def _without(opened: Array, information: Array, gradient: Array) -> tuple[Array, Array]:
    """Normal equations that say nothing along the directions that a projector (6, 6) takes out."""
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
