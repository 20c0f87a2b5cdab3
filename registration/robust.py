"""A rigid transform from point correspondences of which most may be wrong.

Three steps, after TEASER++ (Yang, Shi, Carlone, T-RO 2020):

1. Two right correspondences keep their distance, |target_i - target_j| = |source_i - source_j|, whatever the transform.
   The graph of all pairs that do has the right ones as a clique.
2. Large cliques are found by peeling: around one correspondence take its neighbours and drop the least connected until
   all know each other. Seeds are taken by the graph's leading eigenvector (Leordeanu and Hebert, ICCV 2005). This is a
   lower bound of the maximum clique, not the maximum: a right clique that is a little too small step 3 makes whole.
3. Graduated non-convexity with truncated least squares (Yang, Antonante, Tzoumas, Carlone, RA-L 2020, equations 12 and
   14) over the clique, rotation and translation at once, then over everything that the answer explains.

No randomness and no clock: the same input gives the same answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import from_rotation_translation, transform_points

Array = NDArray[Any]

MAX_NODES = 3000
_ROWS_AT_A_TIME = 128
_POWER_ITERATIONS = 12
_GNC_GROWTH = 1.4
_MAX_GNC_STEPS = 60
_MAX_REFITS = 10


def transform_from_correspondences(
    target_m: Array, source_m: Array, *, noise_m: float, max_nodes: int = MAX_NODES
) -> tuple[Array, Array]:
    """The transform that explains most correspondences: target_T_source (4, 4), and which it explains, (N,) bool.

    target_m, source_m (N, 3): row i of one is believed to be row i of the other. noise_m: a right one is off by no more
    than this. Of more than max_nodes rows only the first make the graph (so give the best first), but all can be
    explained. Rows that are not finite are never explained.

    Where nothing fixes a transform (fewer than three rows that agree, or all of them on a line) the transform is NaN
    and the mask all False. A few wrong correspondences always agree by chance: how many are enough is the caller's to
    judge. Raises ValueError for other shapes or a noise_m that is not above 0.
    """
    found = hypotheses_from_correspondences(target_m, source_m, noise_m=noise_m, count=1, max_nodes=max_nodes)
    return found[0] if found else (np.full((4, 4), np.nan), np.zeros(len(target_m), dtype=bool))


def hypotheses_from_correspondences(
    target_m: Array, source_m: Array, *, noise_m: float, count: int, max_nodes: int = MAX_NODES, seeds: int = 30
) -> list[tuple[Array, Array]]:
    """Up to `count` different transforms with their masks, the one that explains most first; may be empty.

    As transform_from_correspondences, for scenes that look alike in several poses. seeds: how many correspondences a
    clique is grown from. Two hypotheses are different if neither explains half of what the other does.
    """
    target, source = np.asarray(target_m, np.float64), np.asarray(source_m, np.float64)
    if target.shape != source.shape or target.ndim != 2 or target.shape[1] != 3:
        raise ValueError(f"correspondences have shapes {target.shape} and {source.shape}, not the same (N, 3)")
    if not 0.0 < noise_m < np.inf:
        raise ValueError(f"noise_m must be above 0, not {noise_m}")
    finite = np.flatnonzero(np.isfinite(target).all(axis=1) & np.isfinite(source).all(axis=1))
    target, source = target[finite], source[finite]
    graph = consistency_graph(target[:max_nodes], source[:max_nodes], noise_m)

    answers = []
    for clique in large_cliques(graph, seeds):
        answer = _refine(target, source, clique, noise_m)
        if answer is not None:
            answers.append(answer)
    answers.sort(key=lambda answer: -int(answer[1].sum()))  # stable: equal ones stay in the order of their seeds
    different: list[tuple[Array, Array]] = []
    for transform, explained in answers:
        if all((explained & other).sum() < 0.5 * explained.sum() for _, other in different):
            different.append((transform, explained))
    return [(transform, _mask(finite[explained], len(target_m))) for transform, explained in different[:count]]


def consistency_graph(target_m: Array, source_m: Array, noise_m: float) -> Array:
    """Which correspondences keep their distance to each other, (N, N) float32 of 0 and 1, 0 on the diagonal.

    Each end is off by at most noise_m, so a distance by at most twice that. A pair nearer than this to each other in
    both clouds agrees whatever the transform and says nothing, but is kept: it does no harm to a clique.
    """
    count = len(target_m)
    graph = np.empty((count, count), dtype=np.float32)
    target, source = (np.asarray(p - p.mean(axis=0), np.float32) if count else p for p in (target_m, source_m))
    for first in range(0, count, _ROWS_AT_A_TIME):
        rows = slice(first, first + _ROWS_AT_A_TIME)
        difference = _distances(target[rows], target) - _distances(source[rows], source)
        graph[rows] = np.abs(difference) <= 2.0 * noise_m
    np.fill_diagonal(graph, 0.0)
    return graph


def large_cliques(graph: Array, seeds: int) -> list[Array]:
    """Large cliques of a graph (N, N) of 0 and 1, each as ascending indices (K,), grown from up to `seeds` nodes.

    A node that is already in a clique is no seed for another.
    """
    order = np.argsort(-_leading_eigenvector(graph), kind="stable")
    degree = graph.sum(axis=1)
    cliques: list[Array] = []
    taken = np.zeros(len(graph), dtype=bool)
    largest = 0
    for seed in order:
        if len(cliques) == seeds:
            break
        if taken[seed] or degree[seed] < 2 or degree[seed] < 0.5 * largest:
            continue
        clique = _peel(graph, int(seed))
        taken[clique] = True
        largest = max(largest, len(clique))
        cliques.append(clique)
    return cliques


def fit_rigid(target_m: Array, source_m: Array, weights: Array) -> Array:
    """target_T_source (4, 4) of least weighted squares over correspondences (N, 3), (N, 3), (N,); some weight is not 0.

    Closed form by SVD: Umeyama, TPAMI 1991, equations 40 to 42, with weights and without scale.
    """
    share = weights / weights.sum()
    target_mean, source_mean = share @ target_m, share @ source_m
    covariance = ((target_m - target_mean) * share[:, None]).T @ (source_m - source_mean)
    u, _, vt = np.linalg.svd(covariance)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u * sign @ vt
    return from_rotation_translation(rotation, target_mean - rotation @ source_mean)


def fit_rigid_robustly(target_m: Array, source_m: Array, noise_m: float) -> tuple[Array, Array]:
    """target_T_source (4, 4) and weights (N,) 0..1 of truncated least squares, by graduated non-convexity.

    Good for up to about 70 % of wrong correspondences (N, 3), (N, 3); noise_m is where the cost is truncated.
    """
    weights = np.ones(len(target_m))
    transform = fit_rigid(target_m, source_m, weights)
    bound = noise_m**2
    squared = _squared_errors(transform, target_m, source_m)
    mu = bound / max(2.0 * float(squared.max()) - bound, 1e-12)
    for _ in range(_MAX_GNC_STEPS):
        if squared.max() <= bound:  # nothing is left to reject
            return transform, np.ones(len(target_m))
        low, high = mu / (mu + 1.0) * bound, (mu + 1.0) / mu * bound
        between = np.sqrt(bound * mu * (mu + 1.0) / np.clip(squared, low, high)) - mu
        weights = np.where(squared <= low, 1.0, np.where(squared >= high, 0.0, between))
        if weights.sum() < 1e-9:
            break
        transform = fit_rigid(target_m, source_m, weights)
        squared = _squared_errors(transform, target_m, source_m)
        if ((weights == 0.0) | (weights == 1.0)).all():
            break
        mu *= _GNC_GROWTH
    return transform, weights


def _refine(target: Array, source: Array, clique: Array, noise_m: float) -> tuple[Array, Array] | None:
    """Transform and mask over all correspondences from a clique of them; None if they do not fix one."""
    if len(clique) < 3:
        return None
    transform, _ = fit_rigid_robustly(target[clique], source[clique], noise_m)
    explained = np.zeros(len(target), dtype=bool)
    for _ in range(_MAX_REFITS):
        before = explained
        explained = _squared_errors(transform, target, source) <= noise_m**2
        if not _fix_a_transform(source[explained], noise_m):
            return None
        if (explained == before).all():
            break
        transform = fit_rigid(target[explained], source[explained], np.ones(int(explained.sum())))
    return transform, explained


def _fix_a_transform(points: Array, noise_m: float) -> bool:
    """Whether points are three or more and spread further from a line than their noise."""
    if len(points) < 3:
        return False
    spread_m = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) / np.sqrt(len(points))
    return bool(spread_m[1] > noise_m)


def _peel(graph: Array, seed: int) -> Array:
    """A clique with the seed: of its neighbours the least connected goes until all are connected."""
    members = np.flatnonzero(graph[seed])
    inner = graph[np.ix_(members, members)]
    degree = inner.sum(axis=1)
    alive = len(members)
    kept = np.ones(alive, dtype=bool)
    while alive:
        weakest = int(np.argmin(degree))
        if degree[weakest] >= alive - 1:
            break
        degree -= inner[weakest]
        degree[weakest] = np.inf
        kept[weakest] = False
        alive -= 1
    result: Array = np.sort(np.append(members[kept], seed))
    return result


def _leading_eigenvector(graph: Array) -> Array:
    """How strongly each node belongs to the graph's densest part, (N,), by power iteration."""
    vector: Array = graph.sum(axis=1)
    for _ in range(_POWER_ITERATIONS):
        vector = graph @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
    return vector


def _distances(a: Array, b: Array) -> Array:
    """Distances (A, B) between points (A, 3) and (B, 3); by differences, since squares would cancel in float32."""
    squared = np.square(a[:, None, 0] - b[None, :, 0])
    squared += np.square(a[:, None, 1] - b[None, :, 1])
    squared += np.square(a[:, None, 2] - b[None, :, 2])
    result: Array = np.sqrt(squared, out=squared)
    return result


def _squared_errors(target_T_source: Array, target: Array, source: Array) -> Array:
    difference = target - transform_points(target_T_source, source)
    result: Array = np.einsum("ij,ij->i", difference, difference)
    return result


def _mask(indices: Array, count: int) -> Array:
    mask = np.zeros(count, dtype=bool)
    mask[indices] = True
    return mask
