"""Transforms from mostly wrong correspondences, against planted answers, brute force and the plain least squares."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registration.robust import (
    consistency_graph,
    fit_rigid,
    fit_rigid_robustly,
    hypotheses_from_correspondences,
    large_cliques,
    transform_from_correspondences,
)
from registration.trajectory import umeyama
from tercel.core.geometry import from_rotation_translation, inverse, se3_exp, se3_log, transform_points

Array = NDArray[Any]

NOISE_M = 0.3


def scene(rng: np.random.Generator, count: int) -> Array:
    """Points as a LiDAR sees them: wide and flat."""
    return rng.uniform(-40.0, 40.0, (count, 3)) * [1.0, 1.0, 0.1]


def some_transform(rng: np.random.Generator) -> Array:
    return se3_exp(rng.normal(0.0, 1.0, 6) * [20.0, 20.0, 1.0, 0.1, 0.1, 3.0])


def correspondences(seed: int, count: int, wrong: float, noise_m: float = 0.0) -> tuple[Array, Array, Array, Array]:
    """target, source, the truth, and which are right."""
    rng = np.random.default_rng(seed)
    source, truth = scene(rng, count), some_transform(rng)
    target = transform_points(truth, source) + rng.uniform(-noise_m, noise_m, (count, 3))
    right = np.ones(count, dtype=bool)
    right[rng.permutation(count)[: round(wrong * count)]] = False
    target[~right] = transform_points(truth, scene(rng, int((~right).sum())))
    return target, source, truth, right


def error(estimate: Array, truth: Array) -> float:
    return float(np.abs(se3_log(inverse(truth) @ estimate)).max())


@pytest.mark.parametrize(("count", "wrong"), [(60, 0.5), (200, 0.9), (600, 0.95)])
def test_exact_correspondences_among_wrong_ones_give_the_exact_transform(count: int, wrong: float) -> None:
    for seed in range(3):
        target, source, truth, right = correspondences(seed, count, wrong)
        estimate, explained = transform_from_correspondences(target, source, noise_m=0.05)
        assert error(estimate, truth) < 1e-3  # a wrong one may agree by chance, to within noise_m
        assert explained[right].all()
        assert (explained & ~right).sum() <= 2


def test_noisy_correspondences_among_wrong_ones_give_what_the_right_ones_alone_would() -> None:
    target, source, truth, right = correspondences(7, 500, 0.92, noise_m=0.1)
    estimate, explained = transform_from_correspondences(target, source, noise_m=NOISE_M)
    best = fit_rigid(target[right], source[right], np.ones(int(right.sum())))
    assert error(estimate, truth) < error(best, truth) + 0.02
    assert explained[right].all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_moving_either_cloud_moves_the_answer_with_it(seed: int) -> None:
    target, source, _, _ = correspondences(seed, 80, 0.6, noise_m=0.1)
    rng = np.random.default_rng(seed)
    a, b = some_transform(rng), some_transform(rng)
    plain, explained = transform_from_correspondences(target, source, noise_m=NOISE_M)
    moved, explained_moved = transform_from_correspondences(
        transform_points(a, target), transform_points(b, source), noise_m=NOISE_M
    )
    assert (explained == explained_moved).mean() > 0.97  # one at the very bound may fall to either side
    assert error(moved, a @ plain @ inverse(b)) < 0.05


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_swapping_the_clouds_inverts_the_transform(seed: int) -> None:
    target, source, _, _ = correspondences(seed, 80, 0.6, noise_m=0.1)
    there, _ = transform_from_correspondences(target, source, noise_m=NOISE_M)
    back, _ = transform_from_correspondences(source, target, noise_m=NOISE_M)
    assert error(back, inverse(there)) < 0.05


def test_the_same_correspondences_give_the_same_bytes() -> None:
    target, source, _, _ = correspondences(3, 400, 0.95, noise_m=0.1)
    answers = [transform_from_correspondences(target.copy(), source.copy(), noise_m=NOISE_M) for _ in range(2)]
    assert answers[0][0].tobytes() == answers[1][0].tobytes()
    assert (answers[0][1] == answers[1][1]).all()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_correspondences_explain_nothing(count: int) -> None:
    points = np.arange(3.0 * count).reshape(count, 3) ** 2
    transform, explained = transform_from_correspondences(points, points, noise_m=0.1)
    assert np.isnan(transform).all()
    assert explained.shape == (count,)
    assert not explained.any()


def test_correspondences_on_a_line_fix_no_rotation_and_explain_nothing() -> None:
    line = np.linspace(0.0, 50.0, 40)[:, None] * np.array([0.6, 0.8, 0.0])
    noise = np.random.default_rng(0).normal(0.0, 0.02, (40, 3))
    transform, explained = transform_from_correspondences(line + noise + 5.0, line, noise_m=0.1)
    assert np.isnan(transform).all()
    assert not explained.any()


def test_correspondences_in_one_plane_fix_a_transform() -> None:
    rng = np.random.default_rng(1)
    source, truth = scene(rng, 40) * [1.0, 1.0, 0.0], some_transform(rng)
    estimate, explained = transform_from_correspondences(transform_points(truth, source), source, noise_m=0.1)
    assert error(estimate, truth) < 1e-6
    assert explained.all()


def test_rows_that_are_not_finite_are_left_out() -> None:
    target, source, truth, _ = correspondences(2, 60, 0.3)
    target[3], source[10, 1] = np.nan, np.inf
    estimate, explained = transform_from_correspondences(target, source, noise_m=0.05)
    assert error(estimate, truth) < 1e-2
    assert not explained[[3, 10]].any()


def test_rows_past_the_graphs_bound_are_explained_all_the_same() -> None:
    target, source, truth, right = correspondences(5, 2000, 0.5)
    estimate, explained = transform_from_correspondences(target, source, noise_m=0.05, max_nodes=100)
    assert error(estimate, truth) < 1e-2
    assert explained[right].all()


def test_a_mirrored_cloud_is_not_taken_for_a_rotation() -> None:
    source = np.random.default_rng(4).uniform(-20.0, 20.0, (30, 3))
    transform, explained = transform_from_correspondences(source * [1.0, 1.0, -1.0], source, noise_m=0.1)
    assert explained.sum() < 8  # keeps all distances, so only the fit can tell
    assert explained.sum() == 0 or np.linalg.det(transform[:3, :3]) == pytest.approx(1.0)


def test_a_scene_that_looks_alike_in_two_poses_gives_both() -> None:
    rng = np.random.default_rng(6)
    source = scene(rng, 90)
    first, second = some_transform(rng), some_transform(rng)
    target = np.concatenate([transform_points(first, source[:50]), transform_points(second, source[50:])])
    found = hypotheses_from_correspondences(target, source, noise_m=0.1, count=4)
    assert error(found[0][0], first) < 1e-6
    assert error(found[1][0], second) < 1e-6
    assert [int(mask.sum()) >= least for (_, mask), least in zip(found, (50, 40), strict=False)] == [True, True]


def test_the_graph_is_that_of_the_definition() -> None:
    target, source, _, _ = correspondences(8, 150, 0.5, noise_m=0.1)
    graph = consistency_graph(target, source, NOISE_M)
    for i, j in combinations(range(150), 2):
        change = abs(np.linalg.norm(target[i] - target[j]) - np.linalg.norm(source[i] - source[j]))
        if abs(change - 2 * NOISE_M) > 1e-4:
            assert graph[i, j] == graph[j, i] == (change <= 2 * NOISE_M)
    assert not graph.diagonal().any()


def largest_clique(graph: Array) -> int:
    """The size of the maximum clique, by Bron and Kerbosch."""
    neighbours = [set(np.flatnonzero(row)) for row in graph]

    def grow(size: int, candidates: set[int]) -> int:
        best = size
        for node in list(candidates):
            best = max(best, grow(size + 1, candidates & neighbours[node]))
            candidates = candidates - {node}
        return best

    return grow(0, set(range(len(graph))))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.floats(0.1, 0.5))
def test_cliques_are_cliques_and_nearly_the_largest(seed: int, density: float) -> None:
    upper = np.triu(np.random.default_rng(seed).random((24, 24)) < density, 1)
    graph = (upper | upper.T).astype(np.float32)
    cliques = large_cliques(graph, seeds=24)
    for clique in cliques:
        assert graph[np.ix_(clique, clique)].sum() == len(clique) * (len(clique) - 1)
    assert max(map(len, cliques), default=1) >= largest_clique(graph) - 1


def test_a_planted_clique_is_found_whole() -> None:
    rng = np.random.default_rng(9)
    upper = np.triu(rng.random((400, 400)) < 0.1, 1)
    planted = np.sort(rng.permutation(400)[:20])
    upper[np.ix_(planted, planted)] = np.triu(np.ones((20, 20), dtype=bool), 1)
    graph = (upper | upper.T).astype(np.float32)
    assert set(planted) <= set(max(large_cliques(graph, seeds=10), key=len))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_with_equal_weights_the_fit_is_umeyamas(seed: int) -> None:
    target, source, _, _ = correspondences(seed, 20, 0.2, noise_m=1.0)
    rotation, translation, _ = umeyama(target, source)
    fitted = fit_rigid(target, source, np.full(20, 0.7))
    assert fitted == pytest.approx(from_rotation_translation(rotation, translation), abs=1e-9)


def test_weights_count_as_repeated_rows() -> None:
    target, source, _, _ = correspondences(1, 12, 0.3, noise_m=1.0)
    times = np.arange(1, 13) % 4
    repeated = fit_rigid(np.repeat(target, times, axis=0), np.repeat(source, times, axis=0), np.ones(int(times.sum())))
    assert fit_rigid(target, source, times.astype(float)) == pytest.approx(repeated, abs=1e-9)


def test_graduated_non_convexity_alone_bears_half_wrong() -> None:
    for seed in range(5):
        target, source, truth, right = correspondences(seed, 80, 0.5, noise_m=0.1)
        estimate, weights = fit_rigid_robustly(target, source, NOISE_M)
        assert error(estimate, truth) < 0.1
        assert (weights[right] > 0.5).all()
        assert (weights[~right] < 0.5).mean() > 0.95


def test_wrong_shapes_and_a_senseless_noise_are_a_programmers_mistakes() -> None:
    points = np.zeros((5, 3))
    with pytest.raises(ValueError, match="shapes"):
        transform_from_correspondences(points, points[:4], noise_m=0.1)
    with pytest.raises(ValueError, match="noise_m"):
        transform_from_correspondences(points, points, noise_m=0.0)
