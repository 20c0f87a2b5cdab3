"""Extended Kalman updates over many tracks at once, for sensors that measure bearings, ranges or pixels.

A measurement model is a function of the states' means (S, N), tracks last as in `tracking.kalman`. It returns what the
sensor should have measured (D, N) and the Jacobian of that (D, S, N). The functions below make such models from a
sensor's pose; the first three states are x, y, z in metres in the world, and all others are free.

A point that the sensor cannot measure (behind the camera, or at the sensor itself) has a predicted measurement of NaN.
`extended_update` leaves such tracks as they are and says so, and their distance is infinite: they are never corrected
by the mirror image that the equations would yield.

The update is the first-order one (Bar-Shalom, Li, Kirubarajan, Estimation with Applications to Tracking and Navigation,
2001, section 10.3.2): the linear filter's in Joseph's form, at the Jacobian of the predicted state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracking import kalman
from tracking.kalman import KalmanState

Array = NDArray[Any]
Measure = Callable[[Array], tuple[Array, Array]]  # mean (S, N) -> predicted (D, N), Jacobian (D, S, N)

AZIMUTH_ROWS = (0,)  # the angles of measurements of `bearings` and `planar_bearings`, which wrap
_NEAREST_M = 1e-3  # a point nearer to the sensor, or to the axis that a bearing turns about, has no bearing


def extended_update(
    state: KalmanState, z: Array, R: ArrayLike, measure: Measure, *, angles: Sequence[int] = ()
) -> tuple[KalmanState, Array]:
    """States after one measurement z (D, N) of each track, and which of them (N,) bool could be measured.

    R is (D, D) or (D, D, N). Rows of z named in `angles` are in radians and wrap. Tracks that the sensor cannot
    measure, or whose z is not finite, stay as they are.
    """
    residual, jacobian, measurable = _linearise(state, z, measure, angles)
    if measurable.all():
        return kalman.correct(state, residual, R, jacobian), measurable
    R = np.asarray(R)
    corrected = kalman.correct(
        state.take(measurable),
        residual[:, measurable],
        R[:, :, measurable] if R.ndim == 3 else R,
        jacobian[:, :, measurable],
    )
    return state.put(measurable, corrected), measurable


def extended_innovation(
    state: KalmanState, z: Array, R: ArrayLike, measure: Measure, *, angles: Sequence[int] = ()
) -> tuple[Array, Array]:
    """The residual (D, N) of each track's own measurement, NaN where there can be none, and its covariance."""
    residual, jacobian, measurable = _linearise(state, z, measure, angles)
    residual[:, ~measurable], jacobian[:, :, ~measurable] = np.nan, 0.0
    return residual, kalman.innovation_covariance(state, R, jacobian)


def extended_squared_mahalanobis(
    state: KalmanState, z: Array, R: ArrayLike, measure: Measure, *, angles: Sequence[int] = ()
) -> Array:
    """Squared Mahalanobis distance (N,) of each track to its own measurement, infinite where there can be none."""
    squared = kalman.squared_length(*extended_innovation(state, z, R, measure, angles=angles))
    return np.where(np.isnan(squared), np.inf, squared)


def extended_log_likelihood(
    state: KalmanState, z: Array, R: ArrayLike, measure: Measure, *, angles: Sequence[int] = ()
) -> Array:
    """Log of the density (N,) of each track's own measurement, minus infinity where there can be none."""
    logs = kalman.log_density(*extended_innovation(state, z, R, measure, angles=angles))
    return np.where(np.isnan(logs), -np.inf, logs)


def bearings(world_T_sensor: Array, *, ranges: bool = False) -> Measure:
    """Azimuth, elevation (rad) and, with `ranges`, range (m) from a sensor with x forward, y left, z up.

    world_T_sensor is (4, 4). Use it with angles=AZIMUTH_ROWS.
    """
    rotation, translation = _pose(world_T_sensor, 3)

    def measure(mean: Array) -> tuple[Array, Array]:
        x, y, z = point = _away_from_axis(rotation.T @ (mean[:3] - translation))
        level = np.hypot(x, y)
        distance = np.hypot(level, z)
        predicted = np.stack([np.arctan2(y, x), np.arctan2(z, level), distance])
        local = np.stack([
            np.stack([-y, x, np.zeros_like(x)]) / level**2,
            np.stack([-x * z / level, -y * z / level, level]) / distance**2,
            point / distance,
        ])  # fmt: skip
        rows = 3 if ranges else 2
        return predicted[:rows], _in_world(local[:rows], rotation, mean)

    return measure


def planar_bearings(world_T_sensor: Array, *, ranges: bool = False) -> Measure:
    """Azimuth (rad) and, with `ranges`, range (m) in the plane of the first two states, x and y.

    world_T_sensor is (3, 3), planar, or the (4, 4) of a level sensor. Use it with angles=AZIMUTH_ROWS.
    """
    rotation, translation = _pose(world_T_sensor, 2)

    def measure(mean: Array) -> tuple[Array, Array]:
        x, y = point = _away_from_axis(rotation.T @ (mean[:2] - translation))
        distance = np.hypot(x, y)
        predicted = np.stack([np.arctan2(y, x), distance])
        local = np.stack([np.stack([-y, x]) / distance**2, point / distance])
        rows = 2 if ranges else 1
        return predicted[:rows], _in_world(local[:rows], rotation, mean)

    return measure


def pixels(
    world_T_camera: Array, intrinsics: Array, *, heights_m: ArrayLike | None = None, nearest_m: float = 0.1
) -> Measure:
    """u, v (px) of the point and, for things of known heights_m (a number or (N,)), the height of their box (px).

    The camera is a pinhole with x right, y down, z forward: world_T_camera (4, 4), intrinsics (3, 3); pixels are
    without distortion. Points nearer to the image plane than nearest_m, or behind it, cannot be measured. A box is as
    high as f_y height / depth, which makes it a cue of depth: its noise must hold how much heights vary in the class.
    """
    rotation, translation = _pose(world_T_camera, 3)
    focal, center = np.asarray(intrinsics, dtype=np.float64)[:2, :2], np.asarray(intrinsics, dtype=np.float64)[:2, 2:]

    def measure(mean: Array) -> tuple[Array, Array]:
        point = rotation.T @ (mean[:3] - translation)
        inverse_depth = 1.0 / np.where(point[2] > nearest_m, point[2], np.nan)
        offset = focal @ (point[:2] * inverse_depth)  # px from the principal point
        predicted, local = offset + center, np.empty((2, 3, mean.shape[1]))
        local[:, :2] = focal[:, :, None] * inverse_depth
        local[:, 2] = -offset * inverse_depth
        if heights_m is not None:
            box_heights = focal[1, 1] * np.asarray(heights_m, dtype=np.float64) * inverse_depth
            slopes = np.stack([np.zeros_like(point[0]), np.zeros_like(point[0]), -box_heights * inverse_depth])
            predicted, local = np.concatenate([predicted, box_heights[None]]), np.concatenate([local, slopes[None]])
        return predicted, _in_world(local, rotation, mean)

    return measure


def _pose(world_T_sensor: Array, dimensions: int) -> tuple[Array, Array]:
    """Rotation (D, D), whose transpose will serve as inverse, and translation (D, 1) of a pose."""
    pose = np.asarray(world_T_sensor, dtype=np.float64)
    if pose.shape not in ((4, 4), (dimensions + 1, dimensions + 1)):
        raise ValueError(f"a pose in {dimensions} dimensions cannot be {pose.shape}")
    rotation = pose[:dimensions, :dimensions]
    if not np.allclose(rotation @ rotation.T, np.eye(dimensions), atol=1e-6):
        raise ValueError(
            f"the pose's rotation is none{' in the plane' if dimensions == 2 else ''}: {rotation.tolist()}"
        )
    return rotation, pose[:dimensions, -1:]


def _away_from_axis(points: Array) -> Array:
    """Points (D, N), NaN where they are too near to the axis that azimuths turn about."""
    result: Array = np.where(np.hypot(points[0], points[1]) > _NEAREST_M, points, np.nan)
    return result


def _in_world(local: Array, rotation: Array, mean: Array) -> Array:
    """The Jacobian (D, S, N) with respect to states, of one (D, K, N) with respect to points in the sensor's frame."""
    jacobian = np.zeros((len(local), *mean.shape))
    np.einsum("dkn,ik->din", local, rotation, out=jacobian[:, : len(rotation)])
    return jacobian


def _linearise(state: KalmanState, z: Array, measure: Measure, angles: Sequence[int]) -> tuple[Array, Array, Array]:
    """Residual (D, N), Jacobian (D, S, N), and whether both are finite (N,)."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        predicted, jacobian = measure(state.mean)
        residual = kalman.wrap_rows(z - predicted, angles)
    measurable = np.asarray(np.isfinite(residual).all(axis=0) & np.isfinite(jacobian).all(axis=(0, 1)))
    return residual, jacobian, measurable
