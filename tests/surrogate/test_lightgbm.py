"""LightGBM: RegMix's regression, with a doubt that grows away from the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from regmix_active.errors import ConfigError, StudyError
from regmix_active.surrogate.lightgbm import LightGBM
from regmix_active.surrogate.registry import SURROGATES, load_surrogate

Problem = Callable[..., tuple[Any, Any]]


def spearman(a: Any, b: Any) -> float:
    """Rank correlation of values without ties."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def quick() -> LightGBM:
    return LightGBM(trees=200, learning_rate=0.05)


def test_ranks_unseen_mixtures_and_repeats_itself(problem: Problem) -> None:
    """Measured when written: 0.94 and more from 64 runs."""
    X, Y = problem(64, noise=0.01)
    Z, truth = problem(200, seed=1)
    one, two = quick().fit(X, Y), quick().fit(X, Y)
    mean = one.predict(Z)
    assert mean.shape == (200, 6)
    assert spearman(mean.mean(axis=1), truth.mean(axis=1)) > 0.9
    np.testing.assert_array_equal(mean, two.predict(Z))
    a, b = one.posterior(Z), two.posterior(Z)
    np.testing.assert_array_equal(a.variance, b.variance)
    np.testing.assert_array_equal(a.mean, mean)


def test_doubt_grows_away_from_the_data(problem: Problem) -> None:
    X, Y = problem(64)
    left = X[:, 0] < np.median(X[:, 0])
    surrogate = quick().fit(X[left], Y[left])
    seen, unseen = surrogate.posterior(X[left]).variance.mean(), surrogate.posterior(X[~left]).variance.mean()
    assert unseen > 1.5 * seen


def test_doubt_has_the_size_of_the_errors(problem: Problem) -> None:
    """A nominal 95 %: between 75 and 100 % of 200 x 6 losses."""
    X, Y = problem(64, noise=0.02)
    Z, truth = problem(200, seed=1)
    posterior = quick().fit(X, Y).posterior(Z)
    inside = np.abs(posterior.mean - truth) < 1.96 * np.sqrt(posterior.variance)
    assert 0.75 < inside.mean() <= 1


def test_conditioning(problem: Problem) -> None:
    X, Y = problem(24)
    posterior = quick().fit(X, Y[:, :2]).posterior(X[:6] * 0.5 + 1 / 12)
    before, cross = posterior.variance.copy(), posterior.covariance(3).copy()
    np.testing.assert_allclose(cross[3], before[3], rtol=1e-8)
    posterior.condition(3)
    assert (posterior.variance <= before).all()
    assert (posterior.variance[3] < before[3]).all()


@pytest.mark.parametrize("n", [8, 12])
def test_few_runs_and_constant_losses_do_no_harm(problem: Problem, n: int) -> None:
    X, Y = problem(n)
    Y[:, 1] = 2.5
    posterior = quick().fit(X, Y[:, :2]).posterior(X)
    assert np.isfinite(posterior.mean).all()
    assert np.isfinite(posterior.variance).all()
    np.testing.assert_allclose(posterior.mean[:, 1], 2.5)


def test_repeated_mixtures(problem: Problem) -> None:
    X, Y = problem(6)
    surrogate = quick().fit(np.repeat(X, 4, axis=0), np.repeat(Y, 4, axis=0))
    assert np.isfinite(surrogate.posterior(X).variance).all()


def test_too_few_runs(problem: Problem) -> None:
    with pytest.raises(StudyError, match="needs 8 finished proxies or more; the study has 7"):
        LightGBM().fit(*problem(7))


def test_regmix_settings_are_the_defaults() -> None:
    assert (LightGBM().trees, LightGBM().learning_rate) == (1000, 0.01)


def test_surrogates_by_name() -> None:
    assert {name: load_surrogate(name).name for name in SURROGATES} == {"gp": "gp", "lightgbm": "lightgbm"}
    with pytest.raises(ConfigError, match="unknown surrogate 'lightgmb'; did you mean 'lightgbm'"):
        load_surrogate("lightgmb")
    with pytest.raises(ConfigError, match="choose one of: gp, lightgbm"):
        load_surrogate("forest")
