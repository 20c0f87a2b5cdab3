"""How a sweep corrects the inertial filter: GICP's normal equations against a local map, without what the sweep leaves open.

Distances and their normal equations are small_gicp's (Koide, JOSS 2024; Segal, Haehnel and Thrun, "Generalized-ICP",
RSS 2009), summed up anew at each iterate of the filter; the two pass 6x6 numbers. Directions that the sweep's own
normals do not hold (registration.local.degenerate_directions) are projected out of them, after Zhang, Kaess and Singh
(ICRA 2016): nearest neighbours along a tunnel's wall would otherwise hold the sensor where the map was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.inertial import InertialState, Propagation, correction, lidar_jacobian, minus, plus
from registration.local import degenerate_directions
from registration.odometry import LocalMap

Array = NDArray[Any]

_ORDER = [3, 4, 5, 0, 1, 2]  # small_gicp orders its tangent rx ry rz x y z; we x y z rx ry rz
_STEP_M, _STEP_RAD = 2e-3, 2e-4
_ANY_STEP = 1e9
_FAR_M = 20.0  # where the prediction's uncertain rotation is turned into metres
_LEAST_LEVER_M = 1e-3


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep at one instant: points for the map (M, 3), a thinner cloud with covariances for the fit, the directions
    (K, 6) that it cannot hold, in which a radian counts lever_m metres."""

    dense_m: Array
    scan: small_gicp.PointCloud
    open_directions: Array
    lever_m: float


@dataclass(frozen=True, eq=False)
class Fit:
    """The state and covariance (23, 23) after the update. overlap: share of the thin cloud with partners at the last
    iterate. information (6, 6): what the sweep itself said about odom_T_lidar."""

    state: InertialState
    covariance: Array
    overlap: float
    iterations: int
    information: Array


def prepare(points_m: Array, map_voxel_m: float, scan_voxel_m: float, neighbours: int, min_points: int) -> Sweep | None:
    """Thin a sweep (N, 3) and find what it cannot hold; None if fewer than min_points are left."""
    if len(points_m) < min_points:
        return None
    dense = small_gicp.voxelgrid_sampling(small_gicp.PointCloud(points_m.astype(np.float64)), map_voxel_m)
    scan = small_gicp.voxelgrid_sampling(dense, scan_voxel_m)
    if scan.size() < min_points:
        return None
    small_gicp.estimate_normals_covariances(scan, small_gicp.KdTree(scan), neighbours)
    points, normals = scan.points()[:, :3], scan.normals()[:, :3]
    lever_m = max(float(np.sqrt(2.0 * np.mean(np.square(points)))), _LEAST_LEVER_M)
    jacobian = np.concatenate([normals, np.cross(points, normals)], axis=1)
    return Sweep(dense.points()[:, :3], scan, degenerate_directions(jacobian, lever_m), lever_m)


def fit(
    local_map: LocalMap,
    sweep: Sweep,
    predicted: Propagation,
    *,
    updates: int,
    reach_m: float,
    match_m: float,
    point_weight: float,
) -> Fit:
    """Correct a prediction by a sweep: FAST-LIO2's iterated update, partners sought anew at every iterate.

    Partners are sought as far as match_m and three standard deviations of the prediction, but no farther than reach_m,
    and at the later iterates as far as match_m.
    """
    before, covariance = predicted.state, predicted.covariance
    state, posterior = before, covariance
    match = min(reach_m, match_m + 3.0 * _uncertainty_m(before, covariance))
    for iteration in range(1, updates + 1):
        information, gradient, overlap = _normal_equations(local_map, sweep, state.odom_T_lidar, match)
        information, gradient = point_weight * information, point_weight * gradient
        step, posterior = correction(before, covariance, state, information, gradient)
        moved = lidar_jacobian(state) @ step
        state = plus(state, step)
        small = np.linalg.norm(moved[:3]) < _STEP_M and np.linalg.norm(moved[3:]) < _STEP_RAD
        if small and match == match_m:
            break
        match = match_m if small or iteration > 1 else match
    return Fit(state, posterior, overlap, iteration, information)


def _uncertainty_m(state: InertialState, covariance: Array) -> float:
    """How far off the prediction may put a point, as a standard deviation."""
    jacobian = lidar_jacobian(state)
    variances = np.diag(jacobian @ covariance @ jacobian.T)
    return float(np.sqrt(variances[:3].max() + _FAR_M**2 * variances[3:].max()))


def _normal_equations(local_map: LocalMap, sweep: Sweep, odom_T_lidar: Array, match_m: float) -> tuple[Array, Array, float]:
    """Information (6, 6) and gradient (6,) of GICP's cost at a pose, translation first, without the directions that the
    sweep leaves open; and the share of points with partners. small_gicp takes one step of its own, which is not used."""
    found = small_gicp.align(
        local_map.cloud,
        sweep.scan,
        local_map.tree,
        odom_T_lidar,
        registration_type="GICP",
        max_correspondence_distance=match_m,
        num_threads=1,
        max_iterations=1,
        translation_epsilon=_ANY_STEP,
        rotation_epsilon=_ANY_STEP,
    )
    information, gradient = np.array(found.H)[np.ix_(_ORDER, _ORDER)], np.array(found.b).ravel()[_ORDER]
    overlap = found.num_inliers / sweep.scan.size()
    if len(sweep.open_directions):
        scale = np.repeat([1.0, sweep.lever_m], 3)
        closed = np.eye(6) - sweep.open_directions.T @ sweep.open_directions
        closed = scale[:, None] * closed / scale
        information, gradient = closed @ information @ closed.T, closed @ gradient
    return information, gradient, overlap
