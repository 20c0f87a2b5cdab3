from __future__ import annotations

import itertools
import math
import time
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracking.association import (
    Assignment,
    Pairs,
    assign,
    assign_greedily,
    gated_assignment,
    near_pairs,
    overlapping_pairs,
    paired_iou,
    pairwise_distances,
    pairwise_giou,
    pairwise_iou,
)

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


SHAPES = [(0, 0), (0, 5), (5, 0), (1, 1), (7, 9), (64, 65), (99, 101), (120, 130), (1, 12_000), (12_000, 1), (350, 300)]


def random_boxes(rng: np.random.Generator, count: int, spread: float, odd: float = 0.0) -> Array:
    """Boxes (count, 4), some repeated, of which the part `odd` has a coordinate that is no place or no box."""
    corner = rng.uniform(0, spread, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(1, 60, (count, 2)) * rng.choice([0.1, 1.0, 5.0], (count, 1))])
    broken = rng.random(count) < odd
    places = rng.integers(0, 4, count)
    values = rng.choice([np.nan, np.inf, -np.inf, 0.0, -1e3, 1e200, -1e308], count)
    boxes[broken, places[broken]] = values[broken]
    flat = rng.random(count) < 0.3 * odd
    boxes[flat, 2:] = boxes[flat, :2]
    again = rng.random(count) < 0.1
    return boxes[np.where(again, rng.integers(0, max(count, 1), count), np.arange(count))] if count else boxes


def iou_one_by_one(a: Array, b: Array) -> float:
    """In plain arithmetic, of two boxes that may be anything; 0 where it has no sense."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.tolist(), b.tolist()
    if not all(math.isfinite(value) for value in (*a, *b)):
        return 0.0
    width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
    if not (width > 0 and height > 0):
        return 0.0
    both = width * height
    return both / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both)


def as_table(pairs: Pairs) -> dict[tuple[int, int], float]:
    found = zip(pairs.rows.tolist(), pairs.columns.tolist(), strict=True)
    return dict(zip(found, pairs.costs.tolist(), strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("odd", [0.0, 0.3])
@pytest.mark.parametrize("min_iou", [0.0, 0.3])
def test_overlapping_pairs_are_those_that_a_matrix_shows(shape: tuple[int, int], odd: float, min_iou: float) -> None:
    rng = np.random.default_rng(sum(shape))
    first, second = (random_boxes(rng, count, 400.0, odd) for count in shape)
    second[: min(shape) // 2] = first[: min(shape) // 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = overlapping_pairs(first, second, min_iou)
    with np.errstate(all="ignore"):
        iou = pairwise_iou(first, second)
    rows, columns = np.nonzero(iou > min_iou)
    assert pairs.shape == shape
    assert sorted(as_table(pairs)) == sorted(zip(rows.tolist(), columns.tolist(), strict=True))
    assert len(as_table(pairs)) == len(pairs.rows)
    np.testing.assert_allclose(1.0 - pairs.costs, iou[pairs.rows, pairs.columns], atol=1e-12)


@given(seed=st.integers(0, 2**31), n=st.integers(0, 12), m=st.integers(0, 12), many=st.booleans())
@settings(max_examples=100, deadline=None)
def test_overlaps_equal_plain_arithmetic_box_by_box(seed: int, n: int, m: int, many: bool) -> None:
    """Between many far boxes, for which the pairs are found in another way, the same few are found."""
    rng = np.random.default_rng(seed)
    first, second = random_boxes(rng, n, 100.0, 0.3), random_boxes(rng, m, 100.0, 0.3)
    expected = {
        (row, column): 1.0 - iou
        for row, a in enumerate(first)
        for column, b in enumerate(second)
        if (iou := iou_one_by_one(a, b)) > 0.1
    }
    if many:
        far = 1e4 + 100.0 * np.arange(110)[:, None] + np.array([0.0, 0.0, 1.0, 1.0])
        first, second = np.vstack([first, -far]), np.vstack([second, far])
    found = as_table(overlapping_pairs(first, second, 0.1))
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[pair] for pair in expected], list(expected.values()), atol=1e-12)


def test_more_overlaps_than_are_held_at_one_time_are_all_found() -> None:
    rng = np.random.default_rng(5)
    first, second = random_boxes(rng, 1900, 60.0), random_boxes(rng, 1700, 60.0)
    pairs = overlapping_pairs(first, second, 0.5)
    rows, columns = np.nonzero(pairwise_iou(first, second) > 0.5)
    order = np.lexsort([pairs.columns, pairs.rows])
    np.testing.assert_array_equal(pairs.rows[order], rows)
    np.testing.assert_array_equal(pairs.columns[order], columns)


def test_iou_of_pairs_is_the_matrix_read_at_the_pairs() -> None:
    rng = np.random.default_rng(1)
    first, second = random_boxes(rng, 40, 100.0), random_boxes(rng, 40, 100.0)
    np.testing.assert_allclose(paired_iou(first, second), np.diag(pairwise_iou(first, second)), atol=1e-15)


def giou_one_by_one(a: Array, b: Array) -> float:
    """Algorithm 1 of Rezatofighi et al. (2019), for two boxes; -1 where one is no box."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.tolist(), b.tolist()
    if not (ax2 > ax1 and ay2 > ay1 and bx2 > bx1 and by2 > by1):
        return -1.0
    both = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    either = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both
    around = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return both / either - (around - either) / around


@given(seed=st.integers(0, 2**31), n=st.integers(0, 8), m=st.integers(0, 8))
@settings(max_examples=50, deadline=None)
def test_generalised_iou_equals_the_papers_algorithm_box_by_box(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = random_boxes(rng, n, 200.0), random_boxes(rng, m, 200.0)
    for boxes in (first, second):
        broken = rng.random(boxes.shape) < 0.05
        boxes[broken] = rng.choice([np.nan, 0.0, -1e3], int(broken.sum()))
    found = pairwise_giou(first, second)
    assert found.shape == (n, m)
    expected = [[giou_one_by_one(a, b) for b in second] for a in first]
    np.testing.assert_allclose(found, np.reshape(expected, (n, m)), atol=1e-12)
    assert (found >= -1.0).all()
    assert (found <= 1.0).all()
    np.testing.assert_allclose(pairwise_giou(second, first), found.T, atol=1e-12)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_near_pairs_are_those_below_the_gate_at_their_distance(dimensions: int) -> None:
    rng = np.random.default_rng(2)
    first, second = rng.uniform(0, 10, (30, dimensions)), rng.uniform(0, 10, (25, dimensions))
    first[3], second[4] = np.nan, second[5]
    found = as_table(near_pairs(first, second, 2.5))
    expected = {(i, j): math.dist(first[i], second[j]) for i in range(30) for j in range(25)}
    expected = {pair: distance for pair, distance in expected.items() if distance < 2.5}
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[pair] for pair in expected], list(expected.values()), rtol=1e-12)
    assert near_pairs(first[:0], second, 2.5).shape == (0, 25)


def random_pairs(rng: np.random.Generator, shape: tuple[int, int], per_row: float) -> Pairs:
    """Each cell with the same chance, so that a row has `per_row` on average; a few costs are NaN or infinite."""
    cells = np.flatnonzero(rng.random(shape[0] * shape[1]) < per_row / max(shape[1], 1))
    rng.shuffle(cells)
    costs = rng.uniform(-0.5, 1.0, len(cells))
    costs[rng.random(len(cells)) < 0.02] = rng.choice([np.nan, np.inf])
    return Pairs(cells // max(shape[1], 1), cells % max(shape[1], 1), costs, shape)


def least_total(pairs: Pairs, gate: float) -> float:
    """scipy's optimum of the problem with explicit places for the unmatched: rows + columns on each side.

    Of every two sides that are left over each costs half the gate; a pair that is none costs more than any solution.
    """
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
    n, m = pairs.shape
    table = np.full((n + m, n + m), gate / 2.0)
    table[:n, :m] = 1e6
    table[n:, m:] = 0.0
    kept = pairs.costs < gate
    table[pairs.rows[kept], pairs.columns[kept]] = pairs.costs[kept]
    rows, columns = optimize.linear_sum_assignment(table)
    return float(table[rows, columns].sum())


def check_assignment(found: Assignment, pairs: Pairs, gate: float) -> None:
    """Each row and column once, of the given pairs, in order, all below the gate."""
    cost_of = as_table(pairs)
    chosen = list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert [cost_of[pair] for pair in chosen] == found.costs.tolist()
    assert (found.costs < gate).all()
    assert found.rows.tolist() == sorted(set(found.rows.tolist()))
    for used, rest, count in (
        (found.rows, found.unmatched_rows, pairs.shape[0]),
        (found.columns, found.unmatched_columns, pairs.shape[1]),
    ):
        assert sorted([*used.tolist(), *rest.tolist()]) == list(range(count))
        assert rest.tolist() == sorted(rest.tolist())


@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(0, 4), (4, 0), (3, 3), (20, 30), (64, 64), (65, 64), (90, 50), (110, 120)]),
    per_row=st.sampled_from([0.0, 0.5, 2.0, 20.0]),
    gate=st.sampled_from([0.3, 0.9, 5.0]),
)
@settings(max_examples=80, deadline=None)
def test_an_assignment_of_pairs_costs_what_scipy_finds_with_places_for_the_unmatched(
    seed: int, shape: tuple[int, int], per_row: float, gate: float
) -> None:
    pairs = random_pairs(np.random.default_rng(seed), shape, per_row)
    found = assign(pairs, gate)
    check_assignment(found, pairs, gate)
    left_over = len(found.unmatched_rows) + len(found.unmatched_columns)
    np.testing.assert_allclose(found.costs.sum() + gate / 2.0 * left_over, least_total(pairs, gate), atol=1e-9)


@given(seed=st.integers(0, 2**31), shape=st.sampled_from([(0, 4), (6, 5), (40, 30), (110, 120)]), coarse=st.booleans())
@settings(max_examples=80, deadline=None)
def test_greedy_assignment_equals_taking_the_cheapest_pair_again_and_again(
    seed: int, shape: tuple[int, int], coarse: bool
) -> None:
    pairs = random_pairs(np.random.default_rng(seed), shape, 6.0)
    if coarse:  # many equals: of these the lowest row, then the lowest column
        pairs = pairs.at(np.round(pairs.costs, 1))
    gate = 0.75
    free_rows, free_columns, expected = set(range(shape[0])), set(range(shape[1])), []
    allowed = as_table(pairs.where(pairs.costs < gate))
    for row, column in sorted(allowed, key=lambda pair: (allowed[pair], pair)):
        if row in free_rows and column in free_columns:
            expected.append((row, column))
            free_rows.remove(row)
            free_columns.remove(column)
    found = assign_greedily(pairs, gate)
    check_assignment(found, pairs, gate)
    assert list(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == sorted(expected)


def test_dropping_pairs_of_an_assignment_leaves_their_rows_and_columns_unmatched() -> None:
    found = gated_assignment(np.array([[0.1, 1.0, 1.0], [1.0, 0.6, 1.0]]), 0.9)
    kept = found.where(found.costs < 0.5)
    assert (kept.rows.tolist(), kept.columns.tolist()) == ([0], [0])
    assert (kept.unmatched_rows.tolist(), kept.unmatched_columns.tolist()) == ([1], [1, 2])


@pytest.mark.parametrize(("count", "limit_s"), [(1000, 1.0), (5000, 10.0)])
def test_thousands_of_boxes_are_compared_and_assigned_in_bounded_time(count: int, limit_s: float) -> None:
    """As dense as a crowd: each box overlaps some twenty others. The limits are many times what it takes."""
    rng = np.random.default_rng(4)
    corner = rng.uniform(0, 40.0 * math.sqrt(count), (count, 2))
    tracks = np.hstack([corner, corner + rng.uniform(40, 120, (count, 2))])
    begin = time.perf_counter()
    pairs = overlapping_pairs(tracks, tracks + rng.normal(0, 3, (count, 4)))
    found = assign(pairs, 1.0)
    spent_s = time.perf_counter() - begin
    assert len(found.rows) > 0.95 * count
    assert spent_s < limit_s


def test_thousands_of_boxes_on_one_heap_take_bounded_time_and_are_mostly_assigned() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 30, (3000, 2))
    heap = np.hstack([corner, corner + 100.0])
    began = time.process_time()
    pairs = overlapping_pairs(heap, heap + rng.normal(0, 0.1, heap.shape), 0.3)
    found = assign(pairs, 0.7)
    assert time.process_time() - began < 30.0  # 3 s on an idle core
    assert len(pairs.rows) <= 40 * 3000
    assert len(found.rows) > 2500
    assert len(set(found.columns.tolist())) == len(found.rows)
