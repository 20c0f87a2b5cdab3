from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracking.association import gated_assignment, pairwise_distances, pairwise_iou

Array = np.ndarray[Any, Any]


def least_cost_by_trying_everything(costs: Array, gate: float) -> float:
    """The least total over all partial matchings, where each pair saves gate - cost."""
    n, m = costs.shape
    best = 0.0
    for count in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), count):
            for columns in itertools.permutations(range(m), count):
                pairs = [costs[r, c] for r, c in zip(rows, columns, strict=True)]
                if all(cost < gate for cost in pairs):
                    best = min(best, sum(cost - gate for cost in pairs))
    return best


@given(seed=st.integers(0, 2**31), n=st.integers(0, 5), m=st.integers(0, 5), forbidden=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_the_assignment_is_the_best_of_all_partial_matchings(seed: int, n: int, m: int, forbidden: float) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.uniform(0, 1, (n, m))
    costs[rng.uniform(size=(n, m)) < forbidden] = rng.choice([np.inf, np.nan])
    pairs = gated_assignment(costs, 0.7)
    found = costs[pairs.rows, pairs.columns]
    assert (found < 0.7).all()
    np.testing.assert_allclose((found - 0.7).sum(), least_cost_by_trying_everything(costs, 0.7), atol=1e-12)
    assert sorted([*pairs.rows, *pairs.unmatched_rows]) == list(range(n))
    assert sorted([*pairs.columns, *pairs.unmatched_columns]) == list(range(m))


@pytest.mark.parametrize("shape", [(80, 80), (50, 90), (90, 50)])
def test_large_assignments_cost_what_scipy_and_lapx_with_explicit_limits_find(shape: tuple[int, int]) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
    lap = pytest.importorskip("lap")
    costs = np.random.default_rng(3).exponential(size=shape)
    gate = 0.02
    pairs = gated_assignment(costs, gate)
    found = (costs[pairs.rows, pairs.columns] - gate).sum()
    clipped = np.minimum(costs, gate)
    rows, columns = optimize.linear_sum_assignment(clipped)
    np.testing.assert_allclose(found, (clipped[rows, columns] - gate).sum(), atol=1e-12)
    limited, _ = lap.lapjv(costs, extend_cost=True, cost_limit=gate, return_cost=False)
    kept = np.flatnonzero(limited >= 0)
    np.testing.assert_allclose(found, (costs[kept, limited[kept]] - gate).sum(), atol=1e-12)
    assert 0 < len(pairs.rows) < min(shape)


def test_a_good_pair_is_not_broken_to_make_two_poor_ones() -> None:
    pairs = gated_assignment(np.array([[0.0, 0.99], [0.9, np.inf]]), 1.0)
    assert pairs.rows.tolist() == [0]
    assert pairs.columns.tolist() == [0]


def test_costs_that_are_no_matrix_or_minus_infinity_are_refused() -> None:
    with pytest.raises(ValueError, match="matrix"):
        gated_assignment(np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="gate finite"):
        gated_assignment(np.zeros((2, 2)), np.inf)
    with pytest.raises(ValueError, match="minus infinity"):
        gated_assignment(np.array([[-np.inf]]), 1.0)


@given(seed=st.integers(0, 2**31), n=st.integers(0, 6), m=st.integers(0, 6))
@settings(max_examples=50, deadline=None)
def test_iou_equals_counting_unit_cells(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 12, (n + m, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    cells = np.arange(12)
    inside_x = (cells >= boxes[:, :1]) & (cells < boxes[:, 2:3])
    inside_y = (cells >= boxes[:, 1:2]) & (cells < boxes[:, 3:])
    masks = (inside_x[:, :, None] & inside_y[:, None, :]).reshape(n + m, 144)
    both = (masks[:n, None] & masks[None, n:]).sum(axis=2)
    either = (masks[:n, None] | masks[None, n:]).sum(axis=2)
    expected = both / np.maximum(either, 1)
    np.testing.assert_allclose(pairwise_iou(boxes[:n], boxes[n:]), expected, atol=1e-12)


def test_boxes_without_area_or_with_nan_overlap_nothing() -> None:
    odd = np.array([[0, 0, 0, 10], [5, 5, 1, 1], [np.nan, 0, 10, 10], [2, 2, 2, 2]], dtype=np.float64)
    whole = np.array([[0.0, 0.0, 10.0, 10.0]])
    assert (pairwise_iou(odd, whole) == 0.0).all()
    assert (pairwise_iou(odd, odd) == 0.0).all()


def test_distances_equal_the_norm_of_differences() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(4, 3))
    np.testing.assert_allclose(pairwise_distances(a, b), np.linalg.norm(a[:, None] - b[None], axis=2), rtol=1e-12)
