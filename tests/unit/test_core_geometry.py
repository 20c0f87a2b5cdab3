from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from tercel.core import geometry

tangents = st.lists(st.floats(-1.7, 1.7), min_size=6, max_size=6).map(np.array)
# Below the zero rotation and at a half turn the formulas change branch.
edge_vectors = [np.zeros(3), np.array([1e-9, 0, 0]), np.array([np.pi, 0, 0]), np.array([0, -np.pi + 1e-7, 0])]


@given(tangents)
def test_exponentials_equal_the_matrix_exponential(tangent: np.ndarray) -> None:
    generator = np.zeros((4, 4))
    generator[:3, :3] = geometry.skew(tangent[3:])
    generator[:3, 3] = tangent[:3]
    np.testing.assert_allclose(geometry.se3_exp(tangent), expm(generator), atol=1e-9)


@given(tangents)
def test_log_inverts_exp(tangent: np.ndarray) -> None:
    np.testing.assert_allclose(geometry.se3_log(geometry.se3_exp(tangent)), tangent, atol=1e-7)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).map(np.array).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_quaternions_agree_with_scipy(quat: np.ndarray) -> None:
    rotation = Rotation.from_quat(quat)
    np.testing.assert_allclose(geometry.rotation_from_quat_xyzw(quat), rotation.as_matrix(), atol=1e-12)
    back = geometry.quat_xyzw_from_rotation(rotation.as_matrix())
    np.testing.assert_allclose(np.abs(back @ rotation.as_quat()), 1.0, atol=1e-12)


@pytest.mark.parametrize("vector", edge_vectors)
def test_rotation_vectors_agree_with_scipy_at_the_edges(vector: np.ndarray) -> None:
    matrix = Rotation.from_rotvec(vector).as_matrix()
    np.testing.assert_allclose(geometry.so3_exp(vector), matrix, atol=1e-12)
    again = geometry.so3_exp(geometry.so3_log(matrix))
    np.testing.assert_allclose(again, matrix, atol=1e-7)


@given(tangents, tangents)
def test_a_product_with_the_inverse_is_identity_in_batches_too(a: np.ndarray, b: np.ndarray) -> None:
    poses = geometry.se3_exp(np.stack([a, b]))
    np.testing.assert_allclose(geometry.inverse(poses) @ poses, np.broadcast_to(np.eye(4), (2, 4, 4)), atol=1e-9)


def test_transformed_points_keep_their_dtype_and_follow_the_matrix() -> None:
    target_T_source = geometry.se3_exp(np.array([1.0, 2.0, 3.0, 0.1, -0.2, 0.3]))
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    moved = geometry.transform_points(target_T_source, points)
    homogeneous = np.c_[points, np.ones(50)] @ target_T_source.T
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, homogeneous[:, :3], atol=1e-5)


def test_orthonormalise_mends_a_nearly_rigid_matrix_and_refuses_others() -> None:
    pose = geometry.se3_exp(np.array([1.0, 2.0, 3.0, 0.1, -0.2, 0.3]))
    noisy = pose.copy()
    noisy[:3, :3] += 1e-3
    mended = geometry.orthonormalise(noisy)
    np.testing.assert_allclose(mended[:3, :3] @ mended[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(mended, pose, atol=2e-3)
    for bad in (np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([2.0, 2.0, 2.0, 1.0]), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match="not a rigid transform"):
            geometry.orthonormalise(bad)


def test_a_zero_quaternion_is_an_error_and_not_the_identity() -> None:
    with pytest.raises(ValueError, match="length zero"):
        geometry.rotation_from_quat_xyzw(np.zeros(4))


def test_box_corners_of_a_turned_box() -> None:
    corners = geometry.box_corners(np.array([[10.0, 0, 1]]), np.array([[4.0, 2, 2]]), np.array([np.pi / 2]))[0]
    np.testing.assert_allclose(corners.min(axis=0), [9, -2, 0], atol=1e-12)
    np.testing.assert_allclose(corners.max(axis=0), [11, 2, 2], atol=1e-12)
    np.testing.assert_allclose(corners[0], [9, 2, 0], atol=1e-12)  # front left: forward is +y, left is -x


@given(st.floats(-100, 100))
def test_wrapped_angles_point_the_same_way(angle: float) -> None:
    wrapped = float(geometry.wrap_angle(np.array(angle)))
    assert -np.pi <= wrapped <= np.pi
    assert np.exp(1j * wrapped) == pytest.approx(np.exp(1j * angle), abs=1e-9)
