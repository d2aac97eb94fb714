"""The posterior's bookkeeping against textbook algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix_active.surrogate.base import Array, Posterior
from regmix_active.surrogate.belief import TargetPosterior

QUICK = settings(max_examples=30, derandomize=True, deadline=None)


class Textbook:
    """m zero-mean Gaussian processes with known kernels on n training and q query points."""

    def __init__(self, n: int, q: int, m: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        roots = rng.normal(size=(m, n + q, n + q))
        self.K = roots @ roots.transpose(0, 2, 1) / (n + q) + 0.05 * np.eye(n + q)
        self.noise = rng.uniform(0.01, 0.3, size=m)
        self.n, self.q, self.m = n, q, m
        self.mean = rng.normal(size=(q, m))

    def posterior(self, correlation: Array | None = None) -> Posterior:
        n, inside, cross, outside = (
            self.n,
            self.K[:, : self.n, : self.n],
            self.K[:, : self.n, self.n :],
            self.K[:, self.n :, self.n :],
        )
        L = np.linalg.cholesky(inside + self.noise[:, None, None] * np.eye(n))
        V = np.linalg.solve(L, cross)
        after = outside - V.transpose(0, 2, 1) @ V
        return Posterior(
            self.mean.copy(), np.einsum("mqq->qm", after), lambda rows: after[:, rows].transpose(1, 2, 0), self.noise, correlation
        )

    def covariance(self, seen: list[int]) -> Array:
        """Posterior covariance of the q points after noisy observations at the training points and at `seen`, shape (m, q, q)."""
        rows = [*range(self.n), *(self.n + i for i in seen)]
        result = []
        for K, noise in zip(self.K, self.noise, strict=True):
            observed = K[np.ix_(rows, rows)] + noise * np.eye(len(rows))
            cross = K[np.ix_(rows, range(self.n, self.n + self.q))]
            result.append(K[self.n :, self.n :] - cross.T @ np.linalg.solve(observed, cross))
        return np.stack(result)


@QUICK
@given(st.integers(1, 8), st.integers(2, 9), st.integers(1, 4), st.integers(0, 1000), st.data())
def test_conditioning_equals_refitting(n: int, q: int, m: int, seed: int, data: st.DataObject) -> None:
    """Also when the same mixture is taken twice: it is observed twice, with noise."""
    book = Textbook(n, q, m, seed)
    posterior = book.posterior()
    seen: list[int] = []
    for step in range(4):
        wanted = book.covariance(seen)
        np.testing.assert_allclose(posterior.variance, np.einsum("mqq->qm", wanted), atol=1e-9)
        for i in range(q):
            np.testing.assert_allclose(posterior.covariance(i), wanted[:, i].T, atol=1e-9)
        if step < 3:
            seen.append(data.draw(st.integers(0, q - 1)))
            posterior.condition(seen[-1])
    np.testing.assert_array_equal(posterior.mean, book.mean)


def test_variance_is_the_covariances_diagonal_and_only_shrinks() -> None:
    book = Textbook(5, 6, 3, 0)
    posterior = book.posterior()
    for i in (2, 4, 2):
        before = posterior.variance.copy()
        posterior.condition(i)
        assert (posterior.variance <= before + 1e-12).all()
        assert (posterior.variance[i] < before[i]).all()
        diagonal = np.stack([posterior.covariance(j)[j] for j in range(book.q)])
        np.testing.assert_allclose(posterior.variance, diagonal, atol=1e-10)


def test_certainty_does_no_harm() -> None:
    zero = Posterior(np.zeros((3, 2)), np.zeros((3, 2)), lambda rows: np.zeros((len(rows), 3, 2)), np.zeros(2))
    zero.condition(1)
    assert np.isfinite(zero.variance).all()
    assert (zero.variance == 0).all()


def test_the_target_weighs_means_and_variances() -> None:
    book = Textbook(4, 7, 3, 1)
    weights = np.array([0.5, 0.3, 0.2])
    posterior = TargetPosterior(
        book.posterior(), weights, np.zeros((5, 2)), observed=np.array([5]), pending=np.array([], dtype=np.intp)
    )
    np.testing.assert_allclose(posterior.belief.mean, (book.mean @ weights)[:5])
    np.testing.assert_allclose(posterior.belief.std**2, np.einsum("mqq->qm", book.covariance([]))[:5] @ weights**2, atol=1e-10)
    assert posterior.belief.best == pytest.approx(float((book.mean @ weights)[5]))


def test_pending_mixtures_count_as_observed() -> None:
    book = Textbook(4, 7, 2, 2)
    weights = np.array([0.5, 0.5])
    posterior = TargetPosterior(book.posterior(), weights, np.zeros((5, 2)), observed=np.array([5]), pending=np.array([6]))
    values = book.mean @ weights
    assert posterior.belief.best == pytest.approx(min(values[5], values[6]))
    np.testing.assert_allclose(posterior.belief.std**2, np.einsum("mqq->qm", book.covariance([6]))[:5] @ weights**2, atol=1e-10)
    posterior.choose(int(np.argmin(values[:5])))
    assert posterior.belief.best == pytest.approx(values.min() if np.argmin(values) < 5 else min(values[:7]))


def test_without_observations_the_best_is_expected() -> None:
    book = Textbook(4, 5, 2, 3)
    none = np.array([], dtype=np.intp)
    posterior = TargetPosterior(book.posterior(), np.array([0.5, 0.5]), np.zeros((5, 2)), none, none)
    assert posterior.belief.best == pytest.approx(posterior.belief.mean.min())


def test_correlated_errors_widen_the_target() -> None:
    """Three losses that err together: the target's standard deviation is the mean of theirs, not a third's root of it."""
    book = Textbook(4, 6, 3, 4)
    weights, rows = np.full(3, 1 / 3), np.arange(4, 6)
    alone = TargetPosterior(book.posterior(), weights, np.zeros((4, 2)), rows, rows[:0])
    together = TargetPosterior(book.posterior(np.ones((3, 3))), weights, np.zeros((4, 2)), rows, rows[:0])
    variance = np.einsum("mqq->qm", book.covariance([]))[:4]
    np.testing.assert_allclose(together.belief.std, np.sqrt(variance) @ weights, atol=1e-10)
    assert (together.belief.std > alone.belief.std).all()
    for posterior in (alone, together):
        belief = posterior.belief
        covariance = belief.covariance(np.arange(4))
        np.testing.assert_allclose(np.diag(covariance), belief.std**2, atol=1e-10)
        np.testing.assert_allclose(covariance, covariance.T, atol=1e-10)
        assert np.linalg.eigvalsh(covariance).min() > -1e-10


def test_joint_samples_have_the_posterior_covariance() -> None:
    book = Textbook(4, 3, 2, 5)
    posterior = book.posterior()
    np.testing.assert_allclose(posterior.joint(), book.covariance([]), atol=1e-10)
    draws = posterior.sample(20_000, np.random.default_rng(0))
    assert draws.shape == (20_000, 3, 2)
    np.testing.assert_allclose(draws.mean(axis=0), book.mean, atol=0.03)
    for j in range(2):
        np.testing.assert_allclose(np.cov(draws[..., j].T), book.covariance([])[j], atol=0.03)
