from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf
from scipy.stats import chi2, multivariate_normal

from tracking.evaluation.forecast import (
    Forecast,
    _content,
    _error_function,
    best_of,
    density_ranks,
    evaluate,
    log_density,
    squared_mahalanobis,
)


def random_forecast(seed: int, cases: int, *, d: int = 2, k: int = 3, h: int = 2, spread: float = 1.0) -> Forecast:
    """Hypotheses, and truth drawn from their mixture with deviations `spread` times as large as claimed."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(cases, k, h, d, d)) + 2.0 * np.eye(d)
    covariances = factors @ np.swapaxes(factors, -1, -2)
    positions = rng.normal(0.0, 4.0, (cases, k, h, d))
    probabilities = rng.dirichlet(np.ones(k), cases)
    mode = np.array([rng.choice(k, p=row) for row in probabilities])
    rows = np.arange(cases)
    drawn = (factors[rows, mode] @ rng.normal(0.0, spread, (cases, h, d, 1)))[..., 0]
    return Forecast(positions, covariances, probabilities, positions[rows, mode] + drawn)


def test_log_density_is_scipys() -> None:
    given = random_forecast(0, 5, d=3)
    found = log_density(given.positions, given.covariances, given.probabilities, given.truth)
    for n in range(5):
        for h in range(2):
            density = sum(
                given.probabilities[n, k]
                * multivariate_normal(given.positions[n, k, h], given.covariances[n, k, h]).pdf(given.truth[n, h])
                for k in range(3)
            )
            assert found[n, h] == pytest.approx(np.log(density), rel=1e-9)


def test_a_hypothesis_without_probability_changes_nothing() -> None:
    given = random_forecast(1, 4)
    without = given.probabilities.copy()
    without[:, 1] += without[:, 2]
    without[:, 2] = 0.0
    two = slice(0, 2)
    np.testing.assert_allclose(
        log_density(given.positions, given.covariances, without, given.truth),
        log_density(given.positions[:, two], given.covariances[:, two], without[:, two], given.truth),
    )


@pytest.mark.parametrize("d", [2, 3])
def test_the_content_of_an_ellipsoid_is_chi_squared(d: int) -> None:
    squared = np.linspace(0.0, 30.0, 200)
    np.testing.assert_allclose(_content(squared, d), chi2(d).cdf(squared), atol=1e-6)


def test_the_error_function_is_scipys() -> None:
    x = np.linspace(0.0, 6.0, 500)
    np.testing.assert_allclose(_error_function(x), erf(x), atol=2e-7)


def test_mahalanobis_lengths_keep_unknown_truth_unknown() -> None:
    errors = np.array([[3.0, 4.0], [np.nan, 1.0]])
    found = squared_mahalanobis(errors, np.broadcast_to(np.eye(2), (2, 2, 2)))
    assert found[0] == pytest.approx(25.0)
    assert np.isnan(found[1])


@pytest.mark.parametrize("d", [2, 3])
def test_a_forecast_is_calibrated_for_truth_drawn_from_it(d: int) -> None:
    ranks = density_ranks(random_forecast(2, 3000, d=d), samples=200, seed=0)
    for level in (0.5, 0.9, 0.99):
        assert (ranks <= level).mean() == pytest.approx(level, abs=0.02)


def test_one_gaussian_is_calibrated_by_ellipses_too_and_has_a_nees_of_one() -> None:
    scores = evaluate(random_forecast(3, 4000, k=1), 2.0, samples=100)
    np.testing.assert_allclose(scores.ellipses, [[0.5] * 2, [0.9] * 2, [0.99] * 2], atol=0.025)
    np.testing.assert_allclose(scores.regions, scores.ellipses, atol=0.025)
    np.testing.assert_allclose(scores.nees, 1.0, atol=0.06)


def test_overconfidence_shows_as_too_little_coverage_and_too_much_nees() -> None:
    scores = evaluate(random_forecast(4, 1000, k=1, spread=2.0), 2.0, samples=100)
    assert scores.regions[1][0] < 0.75
    assert scores.nees[0] > 3.0


def test_the_best_of_k_is_taken_from_the_most_probable() -> None:
    truth = np.zeros((1, 2, 2))
    positions = np.array([[[[0.0, 1.0]] * 2, [[0.0, 0.5]] * 2, [[0.0, 0.0]] * 2]])
    given = Forecast(
        positions, np.broadcast_to(np.eye(2), (1, 3, 2, 2, 2)), np.array([[0.5, 0.3, 0.2]]), truth
    )  # fmt: skip
    assert [float(best_of(given, k)[0][0]) for k in (1, 2, 3)] == [1.0, 0.5, 0.0]


def test_ade_counts_whole_futures_and_errors_what_there_is() -> None:
    truth = np.array([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 4.0], [np.nan, np.nan]]])
    positions = np.zeros((2, 1, 2, 2))
    scores = evaluate(
        Forecast(positions, np.broadcast_to(np.eye(2), (2, 1, 2, 2, 2)), np.ones((2, 1)), truth), 1.5, samples=5
    )
    assert (scores.cases, scores.complete) == (2, 1)
    assert (scores.ade, scores.fde, scores.min_ade[1], scores.min_fde[1]) == (1.5, 2.0, 1.5, 2.0)
    assert scores.error == (2.5, 2.0)
    assert scores.miss_rate[1] == 1.0


def test_no_case_at_all_is_nan_and_no_error() -> None:
    truth = np.full((1, 1, 2), np.nan)
    given = Forecast(np.zeros((1, 1, 1, 2)), np.eye(2).reshape(1, 1, 1, 2, 2), np.ones((1, 1)), truth)
    scores = evaluate(given, 2.0, samples=2)
    assert scores.cases == 0
    assert np.isnan(scores.ade)


def test_ks_beyond_the_hypotheses_are_left_out() -> None:
    assert list(evaluate(random_forecast(5, 10, k=3), 2.0, ks=(1, 3, 5), samples=5).min_ade) == [1, 3]


def test_shapes_that_do_not_fit_are_a_mistake() -> None:
    given = random_forecast(6, 3)
    with pytest.raises(ValueError, match="probabilities"):
        Forecast(given.positions, given.covariances, given.probabilities[:2], given.truth)


def test_the_same_seed_gives_the_same_scores() -> None:
    given = random_forecast(7, 50)
    assert evaluate(given, 2.0, seed=3).summary() == evaluate(given, 2.0, seed=3).summary()
