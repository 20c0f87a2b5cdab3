"""Rotations and rigid transforms over numpy arrays, with any leading batch dimensions.

`target_T_source` (..., 4, 4) float64 maps points of `source` into `target`, so chains read as products:
`world_T_body @ body_T_lidar`. Quaternions are x y z w. A pose's tangent is (translation m, rotation vector rad), in
that order, and is applied on the right: world_T_body @ se3_exp(tangent).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_SMALL_ANGLE_RAD = 1e-6


def transform_points(target_T_source: Array, points: Array) -> Array:
    """Map points (N, 3) of source into target; the result keeps the points' dtype.

    Not by `@`: BLAS would spread so small a product over all cores and wait for each, 50 ms where they are busy.
    """
    rotation = target_T_source[:3, :3].astype(points.dtype)
    translation = target_T_source[:3, 3].astype(points.dtype)
    result: Array = np.einsum("ij,kj->ik", points, rotation) + translation
    return result


def inverse(target_T_source: Array) -> Array:
    """source_T_target, by transposing the rotation."""
    rotation_t = np.swapaxes(target_T_source[..., :3, :3], -1, -2)
    result = np.zeros_like(target_T_source)
    result[..., :3, :3] = rotation_t
    result[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_t, target_T_source[..., :3, 3])
    result[..., 3, 3] = 1.0
    return result


def from_rotation_translation(rotation: Array, translation: Array) -> Array:
    """(..., 4, 4) from (..., 3, 3) and (..., 3)."""
    result = np.zeros((*np.shape(rotation)[:-2], 4, 4))
    result[..., :3, :3] = rotation
    result[..., :3, 3] = translation
    result[..., 3, 3] = 1.0
    return result


def skew(vectors: Array) -> Array:
    """(..., 3, 3) cross-product matrices of (..., 3)."""
    result = np.zeros((*np.shape(vectors), 3))
    x, y, z = np.moveaxis(np.asarray(vectors, dtype=np.float64), -1, 0)
    result[..., 0, 1], result[..., 0, 2] = -z, y
    result[..., 1, 0], result[..., 1, 2] = z, -x
    result[..., 2, 0], result[..., 2, 1] = -y, x
    return result


def so3_exp(rotation_vectors_rad: Array) -> Array:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3): Rodrigues' formula."""
    vectors = np.asarray(rotation_vectors_rad, dtype=np.float64)
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    small = angle < _SMALL_ANGLE_RAD
    safe = np.where(small, 1.0, angle)
    a = np.where(small, 1.0 - angle**2 / 6.0, np.sin(safe) / safe)
    b = np.where(small, 0.5 - angle**2 / 24.0, (1.0 - np.cos(safe)) / safe**2)
    k = skew(vectors)
    result: Array = np.eye(3) + a * k + b * (k @ k)
    return result


def so3_log(rotations: Array) -> Array:
    """Rotation vectors (..., 3) of rotation matrices (..., 3, 3), angle in 0..pi, by way of the quaternion."""
    quat = quat_xyzw_from_rotation(rotations)
    quat = np.where(quat[..., 3:] < 0, -quat, quat)
    norm = np.linalg.norm(quat[..., :3], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(norm, quat[..., 3:])
    scale = np.where(norm < _SMALL_ANGLE_RAD, 2.0, angle / np.maximum(norm, _SMALL_ANGLE_RAD))
    result: Array = quat[..., :3] * scale
    return result


def se3_exp(tangents: Array) -> Array:
    """Transforms (..., 4, 4) of tangents (..., 6): translation part first (m), then the rotation vector (rad)."""
    tangents = np.asarray(tangents, dtype=np.float64)
    rho, phi = tangents[..., :3], tangents[..., 3:]
    angle = np.linalg.norm(phi, axis=-1)[..., None, None]
    small = angle < _SMALL_ANGLE_RAD
    safe = np.where(small, 1.0, angle)
    b = np.where(small, 0.5 - angle**2 / 24.0, (1.0 - np.cos(safe)) / safe**2)
    c = np.where(small, 1.0 / 6.0 - angle**2 / 120.0, (safe - np.sin(safe)) / safe**3)
    k = skew(phi)
    left_jacobian = np.eye(3) + b * k + c * (k @ k)
    return from_rotation_translation(so3_exp(phi), np.einsum("...ij,...j->...i", left_jacobian, rho))


def se3_log(transforms: Array) -> Array:
    """Tangents (..., 6) of transforms (..., 4, 4); the inverse of se3_exp for angles below pi."""
    phi = so3_log(transforms[..., :3, :3])
    angle = np.linalg.norm(phi, axis=-1)[..., None, None]
    small = angle < 1e-4
    safe = np.where(small, 1.0, angle)
    half = safe / 2.0
    d = np.where(small, 1.0 / 12.0 + angle**2 / 720.0, (1.0 - half * np.cos(half) / np.sin(half)) / safe**2)
    k = skew(phi)
    inverse_left_jacobian = np.eye(3) - 0.5 * k + d * (k @ k)
    rho = np.einsum("...ij,...j->...i", inverse_left_jacobian, transforms[..., :3, 3])
    return np.concatenate([rho, phi], axis=-1)


def quat_xyzw_from_rotation(rotations: Array) -> Array:
    """Unit quaternions (..., 4), x y z w, of rotation matrices (..., 3, 3).

    Shepperd's method: of four formulas take the one with the largest divisor, so that no angle loses precision.
    """
    r = np.asarray(rotations, dtype=np.float64)
    trace = np.trace(r, axis1=-2, axis2=-1)
    diagonal = np.stack([r[..., 0, 0], r[..., 1, 1], r[..., 2, 2], trace], axis=-1)
    a, b, c = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    dx, dy, dz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    candidates = np.stack(
        [
            np.stack([1 + dx - dy - dz, xy, xz, a], axis=-1),
            np.stack([xy, 1 - dx + dy - dz, yz, b], axis=-1),
            np.stack([xz, yz, 1 - dx - dy + dz, c], axis=-1),
            np.stack([a, b, c, 1 + trace], axis=-1),
        ],
        axis=-2,
    )
    best = np.argmax(diagonal, axis=-1)
    quat = np.take_along_axis(candidates, best[..., None, None], axis=-2)[..., 0, :]
    result: Array = quat / np.linalg.norm(quat, axis=-1, keepdims=True)
    return result


def rotation_from_quat_xyzw(quats: Array) -> Array:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4). Raises ValueError for a quaternion of length zero."""
    quats = np.asarray(quats, dtype=np.float64)
    norm = np.linalg.norm(quats, axis=-1, keepdims=True)
    if not np.all(norm > 1e-9):
        raise ValueError("a quaternion of length zero has no rotation")
    x, y, z, w = np.moveaxis(quats / norm, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_about_z(yaws_rad: Array | float) -> Array:
    """Rotation matrices (..., 3, 3) about z."""
    yaw = np.asarray(yaws_rad, dtype=np.float64)
    result = np.zeros((*yaw.shape, 3, 3))
    result[..., 0, 0], result[..., 0, 1] = np.cos(yaw), -np.sin(yaw)
    result[..., 1, 0], result[..., 1, 1] = np.sin(yaw), np.cos(yaw)
    result[..., 2, 2] = 1.0
    return result


def yaw_from_rotation(rotations: Array) -> Array:
    """Heading (...,) rad about z of the rotated x axis."""
    result: Array = np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0])
    return result


def wrap_angle(angles_rad: Array) -> Array:
    """Angles in -pi..pi."""
    result: Array = np.mod(np.asarray(angles_rad) + np.pi, 2.0 * np.pi) - np.pi
    return result


def orthonormalise(transform: Array) -> Array:
    """The rigid transform nearest to a nearly rigid (4, 4), by SVD of its rotation.

    Raises ValueError if it holds a NaN or is not near a rotation (a reflection, a scale).
    """
    u, singular, vt = np.linalg.svd(transform[:3, :3]) if np.isfinite(transform).all() else (None, np.zeros(3), None)
    if u is None or np.abs(singular - 1.0).max() > 0.1 or np.linalg.det(u @ vt) < 0:
        raise ValueError("not a rigid transform")
    return from_rotation_translation(u @ vt, transform[:3, 3])


def box_corners(centers_m: Array, sizes_m: Array, yaws_rad: Array) -> Array:
    """Corners (N, 8, 3) of upright boxes: centres (N, 3), sizes (N, 3) length width height, yaws (N,).

    The first four corners are the bottom face, counter-clockwise seen from above, beginning front left.
    """
    half = np.array(
        [[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, 1]]
    )
    offsets = half[None] * (np.asarray(sizes_m)[:, None, :] / 2.0)
    result: Array = np.einsum("nij,nkj->nki", rotation_about_z(yaws_rad), offsets) + np.asarray(centers_m)[:, None, :]
    return result
