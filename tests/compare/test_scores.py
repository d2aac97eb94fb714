"""Scores of a belief against observations: agreed with a second way to compute them, NaN where nothing can be said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from regmix_active.compare.scores import Score, observed_target, predicted_target, score, score_losses, score_target
from regmix_active.surrogate.base import Array, Posterior


def belief(mean: Array, variance: Array, noise: Array, correlation: Array | None = None) -> Posterior:
    return Posterior(mean, variance, lambda rows: np.zeros((len(rows), *variance.shape)), noise, correlation)


def test_calibrated_belief_has_its_nominal_coverage_and_likelihood() -> None:
    # 40,000 draws: the standard error of a coverage is at most 0.0024; four of them are a false alarm in 1 of 16,000 cases.
    rng = np.random.default_rng(0)
    mean, std = rng.normal(3, 1, 40_000), rng.uniform(0.1, 0.5, 40_000)
    observed = rng.normal(mean, std)
    result = score(observed, mean, std**2)
    assert result.n == 40_000
    assert result.coverage_68 == pytest.approx(0.68, abs=0.0096)
    assert result.coverage_90 == pytest.approx(0.90, abs=0.0062)
    density = [multivariate_normal(m, s**2).logpdf(y) for m, s, y in zip(mean[:200], std[:200], observed[:200], strict=True)]
    assert score(observed[:200], mean[:200], std[:200] ** 2).log_likelihood == pytest.approx(np.mean(density))
    assert result.rmse == pytest.approx(np.sqrt(np.mean((observed - mean) ** 2)))
    assert result.mse == pytest.approx(result.rmse**2)
    assert result.pearson == pytest.approx(np.corrcoef(mean, observed)[0, 1])


def test_rank_correlation_by_hand() -> None:
    # Ranks 1 2 3 4 against 2 1 3 4: 1 - 6 (1 + 1) / (4 * 15).
    assert score([2.0, 1.0, 30.0, 400.0], [1, 2, 3, 4], [1, 1, 1, 1]).spearman == pytest.approx(0.8)


def test_missing_observations_are_not_scored() -> None:
    whole = score([1.0, 2.0, 4.0], [1.0, 2.5, 3.0], [0.1, 0.2, 0.3])
    assert score([1.0, np.nan, 2.0, 4.0], [1.0, 9.0, 2.5, 3.0], [0.1, 0.1, 0.2, 0.3]) == whole


def test_nothing_is_said_about_nothing() -> None:
    none = score([np.nan], [1.0], [1.0])
    assert none.n == 0
    assert math.isnan(none.rmse)
    assert none.as_dict()["log_likelihood"] is None
    for values in ([1.0, 2.0], [1.0, 1.0, 1.0]):  # too few, and constant
        result = score(values, [1.0, 2.0, 3.0][: len(values)], np.ones(len(values)))
        assert math.isnan(result.spearman)
        assert math.isnan(result.pearson)
        assert result.rmse >= 0
    assert set(none.as_dict()) == {*Score.__dataclass_fields__, "mse"}


def test_target_combines_correlated_errors_and_noise() -> None:
    correlation = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    posterior = belief(np.array([[1.0, 2.0, 3.0]]), np.array([[0.04, 0.09, 1.0]]), np.array([0.01, 0.02, 5.0]), correlation)
    weights = np.array([0.25, 0.75, 0.0])
    mean, variance = predicted_target(posterior, weights)
    assert mean == pytest.approx([1.75])
    clean = 0.25**2 * 0.04 + 0.75**2 * 0.09 + 2 * 0.25 * 0.75 * 0.5 * 0.2 * 0.3
    assert variance == pytest.approx([clean + 0.25**2 * 0.01 + 0.75**2 * 0.02])


def test_target_is_observed_where_its_losses_are() -> None:
    losses = np.array([[1.0, 2.0, np.nan], [np.nan, 2.0, 3.0]])
    np.testing.assert_array_equal(observed_target(losses, np.array([0.5, 0.5, 0.0])), [1.5, np.nan])


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(3, 30))
def test_a_loss_is_a_target_with_one_weight(seed: int, m: int, q: int) -> None:
    rng = np.random.default_rng(seed)
    posterior = belief(rng.normal(size=(q, m)), rng.uniform(0.1, 1, (q, m)), rng.uniform(0, 1, m))
    losses = rng.normal(size=(q, m))
    losses[rng.random((q, m)) < 0.2] = np.nan
    for j, result in enumerate(score_losses(posterior, losses)):
        by_hand = score(losses[:, j], posterior.mean[:, j], posterior.variance[:, j] + posterior.noise[j])
        np.testing.assert_allclose(list(vars(result).values()), list(vars(by_hand).values()), rtol=1e-9)
        again = score_target(posterior, losses, np.eye(m)[j])
        np.testing.assert_array_equal(list(vars(again).values()), list(vars(result).values()))
