"""Local registration of simulated pairs whose truth is known, of scenes that hold only some directions, and of junk."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_gicp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registration.local import Registration, motion_metric, register_local
from tercel.core.geometry import inverse, se3_exp, se3_log, so3_exp, transform_points
from tests.unit.lidar_scenes import HeightField, SceneBoxes, flat, scan, standing_on

Array = NDArray[Any]

NOISE_M = 0.01


@cache
def yard(seed: int) -> tuple[HeightField, SceneBoxes]:
    """Level ground with 25 boxes of all sizes around."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-25, 25, (40, 2))
    xy = xy[np.linalg.norm(xy, axis=1) > 5.0][:25]
    return flat(1.7), standing_on(flat(1.7), xy, rng.uniform(1, 5, (len(xy), 3)), rng.uniform(-3, 3, len(xy)))


@cache
def pair(seed: int) -> tuple[Array, Array, Array]:
    """Two scans of a yard from two places: target, source, and the true target_T_source."""
    ground, boxes = yard(seed)
    rng = np.random.default_rng(100 + seed)
    yaw, shift = rng.uniform(-0.3, 0.3), np.array([*rng.uniform(-1.5, 1.5, 2), 0.0])
    truth = se3_exp(np.zeros(6))
    truth[:3, :3], truth[:3, 3] = so3_exp(np.array([0.0, 0.0, yaw])), shift
    centers = transform_points(inverse(truth), boxes.centers_m)
    moved = SceneBoxes(centers, boxes.sizes_m, boxes.yaws_rad - yaw)
    target = scan(ground, boxes, noise_m=NOISE_M, seed=seed, columns=600).points_m
    return target, scan(ground, moved, noise_m=NOISE_M, seed=seed + 1000, columns=600).points_m, truth


def guess_near(truth: Array, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return truth @ se3_exp(rng.normal(0, 1, 6) * np.repeat([0.2, 0.02], 3))


def error_of(result: Registration, truth: Array) -> Array:
    return se3_log(inverse(result.target_T_source) @ truth)


def test_a_pair_is_aligned_to_the_centimetre() -> None:
    for seed in range(3):
        target, source, truth = pair(seed)
        result = register_local(target, source, guess_near(truth, seed))
        error = error_of(result, truth)
        assert result.status == "converged"
        assert result.converged
        assert np.linalg.norm(error[:3]) < 0.02
        assert np.linalg.norm(error[3:]) < 0.002
        assert result.inlier_ratio > 0.4
        assert 0.5 * NOISE_M < result.rmse_m < 0.1
        assert result.degenerate_directions.shape == (0, 6)


def test_swapping_the_clouds_inverts_the_answer() -> None:
    target, source, truth = pair(0)
    forth = register_local(target, source, guess_near(truth, 0))
    back = register_local(source, target, inverse(guess_near(truth, 0)))
    around = se3_log(forth.target_T_source @ back.target_T_source)
    assert np.linalg.norm(around[:3]) < 0.03
    assert np.linalg.norm(around[3:]) < 0.003


def test_the_same_clouds_give_the_same_bytes() -> None:
    target, source, truth = pair(0)
    first, second = (register_local(target, source, guess_near(truth, 0)) for _ in range(2))
    assert first.target_T_source.tobytes() == second.target_T_source.tobytes()
    assert first.covariance.tobytes() == second.covariance.tobytes()


def test_errors_are_as_large_as_the_covariances_say() -> None:
    normalised = []
    for seed in range(8):
        target, source, truth = pair(seed)
        result = register_local(target, source, guess_near(truth, seed))
        assert result.converged
        error = error_of(result, truth)
        normalised.append(error @ np.linalg.solve(result.covariance, error))
        np.testing.assert_allclose(result.covariance @ result.information, np.eye(6), atol=1e-6)
        assert (np.linalg.eigvalsh(result.covariance) > 0).all()
    # Chi-squared with 6 degrees of freedom has mean 6. Boxes are held better than the leaves that this was fitted on.
    assert 0.01 < np.mean(normalised) < 12.0


def test_more_noise_widens_the_covariance() -> None:
    target, source, truth = pair(0)
    rng = np.random.default_rng(0)
    noisy = source + rng.normal(0, 0.15, source.shape).astype(np.float32)
    clean, loose = (register_local(target, s, guess_near(truth, 0)) for s in (source, noisy))
    assert np.trace(loose.covariance) > 1.5 * np.trace(clean.covariance)


def sheet(normal_axis: int, offset_m: float, extents_m: tuple[float, float, float], seed: int) -> Array:
    """A rough plane (4000, 3) across one axis."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (4000, 3)) * np.array(extents_m)
    points[:, normal_axis] = offset_m + rng.normal(0, NOISE_M, 4000)
    return points.astype(np.float32)


def tunnel(seed: int) -> Array:
    """Floor, roof and two walls along x."""
    sides = [(2, -1.5, (20, 3, 0)), (2, 3.0, (20, 3, 0)), (1, 3.0, (20, 0, 2.2)), (1, -3.0, (20, 0, 2.2))]
    return np.concatenate([sheet(axis, at, size, 10 * seed + k) for k, (axis, at, size) in enumerate(sides)])


def shaft(seed: int) -> Array:
    """A vertical pipe: nothing holds z, nor the turn about it."""
    rng = np.random.default_rng(seed)
    angle, z = rng.uniform(-np.pi, np.pi, 8000), rng.uniform(-10, 10, 8000)
    radius = 4.0 + rng.normal(0, NOISE_M, 8000)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle), z]).astype(np.float32)


SCENES = {  # what each leaves open, as rows of the identity: x y z rx ry rz
    "tunnel": (tunnel, [0]),
    "wall": (lambda seed: sheet(0, 6.0, (0, 12, 3), seed), [1, 2, 3]),
    "ground": (lambda seed: sheet(2, -1.5, (15, 15, 0), seed), [0, 1, 5]),
    "corner": (
        lambda seed: np.concatenate([sheet(2, -1.5, (15, 9, 0), seed), sheet(1, 9.0, (15, 0, 4), seed + 1)]),
        [0],
    ),
    "shaft": (shaft, [2, 5]),
}


@pytest.mark.parametrize("name", SCENES)
def test_what_a_scene_leaves_open_is_named_and_keeps_the_guess(name: str) -> None:
    build, open_axes = SCENES[name]
    guess = se3_exp(np.array([0.1, -0.08, 0.06, 0.004, -0.003, 0.005]))
    result = register_local(build(1), build(2), guess)
    assert result.status == "degenerate"
    assert result.converged
    assert len(result.degenerate_directions) == len(open_axes)
    named, wanted = result.degenerate_directions, np.eye(6)[open_axes]
    np.testing.assert_allclose(np.linalg.norm(named, axis=1), 1.0)
    # each axis is in the span of what is named (turning about a far wall's normal shifts it, too)
    metric = motion_metric(build(2).astype(np.float64).T)
    for axis in wanted:
        inside = named.T @ np.linalg.lstsq(named.T, axis, rcond=None)[0]
        assert (inside - axis) @ metric @ (inside - axis) < 0.05 * axis @ metric @ axis, axis
    kept, change = np.diag(result.covariance)[open_axes], se3_log(result.target_T_source)
    assert (kept > 0.1**2).all()
    closed = [k for k in range(3) if k not in open_axes]
    np.testing.assert_allclose(change[closed], 0.0, atol=0.02)
    np.testing.assert_allclose(change[open_axes], se3_log(guess)[open_axes], atol=0.04)


def test_a_yard_holds_everything_however_far_the_frame_is_from_it() -> None:
    target, source, truth = pair(0)
    far = np.eye(4)
    far[:3, 3] = [300.0, -200.0, 20.0]
    here = register_local(target, source, guess_near(truth, 0))
    there = register_local(transform_points(far, target), source, far @ guess_near(truth, 0))
    assert here.status == there.status == "converged"
    np.testing.assert_allclose(error_of(there, far @ truth), error_of(here, truth), atol=0.01)


JUNK = {
    "empty": np.zeros((0, 3)),
    "one point": np.ones((1, 3)),
    "all NaN": np.full((5000, 3), np.nan),
    "all infinite": np.full((5000, 3), np.inf),
    "all in one place": np.full((5000, 3), 3.0),
    "out of the grid": np.full((5000, 3), 1e30),
}


@pytest.mark.parametrize("name", JUNK)
def test_a_cloud_without_points_is_a_status_and_no_crash(name: str) -> None:
    target, source, truth = pair(0)
    for clouds in ((JUNK[name], source), (target, JUNK[name]), (JUNK[name], JUNK[name])):
        result = register_local(*clouds, truth)
        assert result.status == "too few points"
        assert not result.converged
        np.testing.assert_allclose(result.target_T_source, truth, atol=1e-12)
        assert np.isinf(np.diag(result.covariance)).all()
        assert not result.information.any()


def test_points_that_are_not_finite_are_dropped_and_the_rest_used() -> None:
    target, source, truth = pair(0)
    junk = np.array([[np.nan, 0, 0], [0, np.inf, 0], [1e30, 0, 0]], np.float32)
    clean = register_local(target, source, truth)
    dirty = register_local(np.concatenate([junk, target]), np.concatenate([source, junk]), truth)
    assert dirty.target_T_source.tobytes() == clean.target_T_source.tobytes()


def test_clouds_of_different_places_do_not_converge() -> None:
    target, source, _ = pair(0)
    apart = np.eye(4)
    apart[:3, 3] = [500.0, 0.0, 0.0]
    result = register_local(target, source, apart)
    assert result.status == "not converged"
    assert not result.converged
    assert result.inlier_ratio == 0.0


def test_a_guess_that_is_not_finite_gives_no_pose() -> None:
    target, source, _ = pair(0)
    for bad in (np.nan, np.inf):
        guess = np.eye(4)
        guess[0, 3] = bad
        result = register_local(target, source, guess)
        assert result.status == "not converged"
        assert np.isnan(result.target_T_source).all()


def test_a_guess_that_is_nearly_rigid_is_made_rigid() -> None:
    target, source, truth = pair(0)
    sloppy = truth.copy()
    sloppy[:3, :3] *= 1.02
    rotation = register_local(target, source, sloppy).target_T_source[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: register_local(a[:, :2], b),
        lambda a, b: register_local(a, b, np.eye(3)),
        lambda a, b: register_local(a, b, 2.0 * np.eye(4)),
        lambda a, b: register_local(a, b, voxel_m=0.0),
        lambda a, b: register_local(a, b, reach_m=-1.0),
    ],
)
def test_a_programmers_mistake_is_a_value_error(call: Any) -> None:
    target, source, _ = pair(0)
    with pytest.raises(ValueError, match="shape|rigid|above 0"):
        call(target, source)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_metric_is_the_mean_square_of_how_far_points_move(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, motion = rng.normal(rng.normal(0, 5, 3), 3.0, (50, 3)), rng.normal(size=6) * 1e-6
    moved = transform_points(se3_exp(motion), points) - points
    expected = np.mean(np.sum(moved**2, axis=1))
    assert motion @ motion_metric(points.T) @ motion == pytest.approx(expected, rel=1e-3)


def test_a_real_pair_half_a_metre_apart_is_registered_to_the_known_answer(shared_data: Path) -> None:
    folder = shared_data / "lidar_pairs" / "small_gicp"
    target, source = (
        np.asarray(small_gicp.read_ply(str(folder / f"{name}.ply")).points())[:, :3] for name in ("target", "source")
    )
    result = register_local(target, source, voxel_m=0.25)
    error = error_of(result, np.loadtxt(folder / "T_target_source.txt"))
    assert result.converged
    assert np.linalg.norm(error[:3]) < 0.02
    assert np.degrees(np.linalg.norm(error[3:])) < 0.35
