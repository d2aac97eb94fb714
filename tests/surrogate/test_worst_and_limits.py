"""Moments of the largest loss, and the probability of limits, against Monte Carlo and in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from regmix_active.study.target import Target
from regmix_active.study.terms import Terms
from regmix_active.surrogate.base import Array, Posterior
from regmix_active.surrogate.limits import headroom, kept, log_orthant
from regmix_active.surrogate.worst import worst

QUICK = settings(max_examples=15, derandomize=True, deadline=None)


def random_correlation(m: int, rng: np.random.Generator) -> Array:
    root = rng.normal(size=(m, m + 1))
    joint = root @ root.T
    scale = np.sqrt(np.diag(joint))
    correlation: Array = joint / np.outer(scale, scale)
    return correlation


@QUICK
@given(st.integers(2, 6), st.integers(0, 1000))
def test_moments_of_the_worst_against_monte_carlo(m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, std, correlation = rng.normal(size=(3, m)), rng.uniform(0.1, 1.5, size=(3, m)), random_correlation(m, rng)
    terms = Terms(rng.uniform(0.3, 1, m), rng.normal(size=m), worst=True)
    found = worst(mean, std, correlation, terms)
    draws = rng.multivariate_normal(np.zeros(m), correlation, 100_000)
    for i in range(3):
        values = (mean[i] + std[i] * draws) * terms.scale - terms.offset
        largest = values.max(axis=1)
        assert found.mean[i] == pytest.approx(largest.mean(), abs=0.03 * largest.std())
        assert found.std[i] == pytest.approx(largest.std(), rel=0.06)
        shares = np.bincount(values.argmax(axis=1), minlength=m) / len(draws)
        np.testing.assert_allclose(found.weights[i] / terms.scale, shares, atol=0.06)


def test_two_equal_losses_in_closed_form() -> None:
    """The larger of two standard normal variables has mean 1/√π and variance 1 - 1/π."""
    found = worst(np.zeros((1, 2)), np.ones((1, 2)), np.eye(2), Terms(np.ones(2), np.zeros(2), worst=True))
    assert found.mean[0] == pytest.approx(np.pi**-0.5, abs=5e-3)
    assert found.std[0] == pytest.approx(np.sqrt(1 - 1 / np.pi), abs=5e-3)


def test_what_is_surely_the_worst_keeps_its_own_moments() -> None:
    terms = Terms(np.array([1.0, 0.0, 2.0]), np.array([0.5, 0.0, 0.0]), worst=True)
    found = worst(np.array([[9.0, 99.0, 1.0]]), np.array([[0.1, 1.0, 0.2]]), random_correlation(3, np.random.default_rng(0)), terms)
    np.testing.assert_allclose([found.mean[0], found.std[0]], [8.5, 0.1], rtol=1e-12)
    np.testing.assert_allclose(found.weights, [[1, 0, 0]], atol=1e-12)


def test_derivatives_of_the_moments_are_those_of_differences() -> None:
    rng = np.random.default_rng(3)
    mean, std, correlation = rng.normal(size=(4, 3)), rng.uniform(0.5, 1.5, size=(4, 3)), random_correlation(3, rng)
    terms, step = Terms(np.array([1.0, 0.7, 0.4]), np.array([0.0, 0.1, -0.2]), worst=True), 1e-6
    found = worst(mean, std, correlation, terms)
    for j in range(3):
        for what, by_mean, by_variance in (
            ("mean", found.weights, found.variance_by_mean),
            ("std", found.mean_by_std, found.variance_by_std),
        ):
            shift = step * np.eye(3)[j]
            pairs = [
                worst(mean + sign * shift * (what == "mean"), std + sign * shift * (what == "std"), correlation, terms)
                for sign in (1, -1)
            ]
            np.testing.assert_allclose((pairs[0].mean - pairs[1].mean) / (2 * step), by_mean[:, j], atol=1e-3)
            np.testing.assert_allclose((pairs[0].std ** 2 - pairs[1].std ** 2) / (2 * step), by_variance[:, j], atol=5e-3)


def test_many_rows_are_what_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    arguments = (
        rng.normal(size=(7, 3)),
        rng.uniform(0.1, 1, size=(7, 3)),
        random_correlation(3, rng),
        Terms(np.ones(3), np.zeros(3), True),
    )
    whole = worst(*arguments)
    monkeypatch.setattr("regmix_active.surrogate.worst.HELD", 256 * 3 * 2)
    np.testing.assert_allclose(worst(*arguments).mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(worst(*arguments).variance_by_std, whole.variance_by_std, atol=1e-12)


@QUICK
@given(st.integers(1, 4), st.integers(0, 1000))
def test_joint_probabilities(m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    correlation, upper = random_correlation(m, rng), rng.normal(0.5, 1.0, size=(5, m))
    found = np.exp(log_orthant(upper, correlation))
    wanted = [multivariate_normal(np.zeros(m), correlation, allow_singular=True, seed=0).cdf(row) for row in upper]
    np.testing.assert_allclose(found, wanted, atol=0.015)


def test_joint_probabilities_at_their_ends() -> None:
    upper = np.array([[1.0, 2.0], [-40.0, 1.0], [np.inf, np.inf], [1e9, -1e9]])
    np.testing.assert_allclose(log_orthant(upper, np.eye(2))[:2], norm.logcdf(upper[:2]).sum(axis=1), rtol=1e-12)
    for correlation in (np.eye(2), np.ones((2, 2)), np.array([[1, -0.9], [-0.9, 1]])):
        found = log_orthant(upper, correlation)
        assert np.isfinite(found).all()
        assert (found <= 0).all()
        assert found[2] == pytest.approx(0, abs=1e-12)
        assert found[1] < -700
    # As one variable: the smaller bound is the one that counts.
    assert np.exp(log_orthant(upper[:1], np.ones((2, 2))))[0] == pytest.approx(norm.cdf(1), abs=0.01)
    assert log_orthant(np.empty((3, 0)), np.empty((0, 0))).tolist() == [0, 0, 0]


class Gaussian:
    """A known joint belief about m losses at q mixtures."""

    def __init__(self, q: int, m: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.mean = 3 + 0.1 * rng.normal(size=(q, m))
        self.roots = 0.1 * rng.normal(size=(m, q, q))
        self.joint = self.roots @ self.roots.transpose(0, 2, 1)

    def posterior(self, correlation: Array | None = None) -> Posterior:
        return Posterior(
            self.mean,
            np.einsum("mqq->qm", self.joint).copy(),
            lambda rows: self.joint[:, rows].transpose(1, 2, 0),
            np.full(self.mean.shape[1], 1e-4),
            correlation,
        )

    def draws(self, n: int) -> Array:
        standard = np.random.default_rng(0).normal(size=(n, *self.roots.shape[:2], 1))
        found: Array = self.mean + (self.roots @ standard)[..., 0].transpose(0, 2, 1)
        return found


@pytest.mark.parametrize(
    "limits",
    [
        {"all": {"above_natural": 0.01}},
        {"l0": {"at_most": 3.0}},
        {"l1": {"above_natural": -0.02}, "l2": {"at_most": 3.1, "probability": 0.6}},
    ],
)
def test_the_probability_of_limits_against_draws(limits: dict[str, Any]) -> None:
    """With the covariance between each mixture and the natural one, the last."""
    names, known = ("l0", "l1", "l2"), Gaussian(6, 3, 1)
    target = Target.parse({"weights": {"l0": 1}, "limits": limits}, names)
    found = kept(target, known.posterior(), 5)
    draws = known.draws(100_000)
    below = np.stack([draws[..., j] <= np.inf for j in range(3)], axis=2)
    for limit in target.limits:
        for j in target.limited(limit):
            ceiling = limit.at_most if limit.at_most is not None else draws[:, 5:, j] * (1 + limit.above_natural)  # type: ignore[operator]
            below[..., j] = draws[..., j] <= ceiling + 1e-4
    np.testing.assert_allclose(np.exp(found.log_probability), below.all(axis=2).mean(axis=0), atol=0.01)
    asked = [below[..., target.limited(limit)].all(axis=2).mean(axis=0) - limit.probability for limit in target.limits]
    np.testing.assert_allclose(found.short, np.maximum(0, -np.min(asked, axis=0)), atol=0.01)
    assert (found.surely == (found.short == 0)).all()


def test_the_natural_mixture_keeps_a_limit_at_its_own_loss() -> None:
    """Though nothing is sure about either loss, their difference is nothing."""
    known = Gaussian(4, 2, 0)
    target = Target.parse({"limits": {"all": {"above_natural": 0.0, "probability": 0.99}}}, ("a", "b"))
    assert kept(target, known.posterior(), 3).surely[3]
    assert kept(target, known.posterior(np.ones((2, 2))), 3).surely[3]
    with pytest.raises(ValueError, match="need its row"):
        headroom(target, known.posterior())


def test_losses_that_err_together_keep_limits_together() -> None:
    known = Gaussian(5, 3, 2)
    target = Target.parse({"limits": {"all": {"at_most": 3.0}}}, ("a", "b", "c"))
    alone, together = (kept(target, known.posterior(c)).log_probability for c in (None, np.full((3, 3), 0.9) + 0.1 * np.eye(3)))
    assert (together >= alone - 1e-6).all()
    assert (together > alone + 0.01).any()
