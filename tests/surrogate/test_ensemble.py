"""The ensemble and the choice among surrogates: by held-out proxies alone, with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import ArrayLike

from regmix_active.errors import StudyError
from regmix_active.surrogate import ensemble
from regmix_active.surrogate.base import Array, Paths, Posterior, Surrogate, check_observations
from regmix_active.surrogate.blend import blend
from regmix_active.surrogate.ensemble import Auto, Ensemble
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.surrogate.held_out import held_out, stacking_weights

Problem = Callable[..., tuple[Any, Any]]


class Line(Surrogate):
    """Least squares on powers of the weights, with residuals as its only doubt: good or bad by its powers, and quick."""

    name = "line"

    def __init__(self, power: float) -> None:
        self.power = power
        self.fits: list[int] = []

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        X, Y, _ = check_observations(mixtures, losses, noise, self)
        self.fits.append(len(X))
        A = self._terms(X)
        self._slopes = np.stack([np.linalg.lstsq(A[s], Y[s, j], rcond=None)[0] for j, s in enumerate(~np.isnan(Y).T)], axis=1)
        self._noise = np.nanmean((A @ self._slopes - Y) ** 2, axis=0) + 1e-6
        return self

    def predict(self, mixtures: Array) -> Array:
        return self._terms(mixtures) @ self._slopes

    def posterior(self, mixtures: Array) -> Posterior:
        q, m = len(mixtures), len(self._noise)
        return Posterior(
            self.predict(mixtures),
            np.full((q, m), 1e-4),
            lambda rows: 1e-4 * np.repeat(np.eye(q)[rows][..., None], m, axis=2),
            self._noise,
        )

    def paths(self, n: int, rng: np.random.Generator) -> Paths:
        return lambda mixtures: np.broadcast_to(self.predict(mixtures), (n, len(mixtures), len(self._noise)))

    def _terms(self, X: Array) -> Array:
        return np.concatenate([np.ones((len(X), 1)), (X + 0.02) ** self.power], axis=1)


def lines() -> dict[str, Surrogate]:
    return {"good": Line(-0.4), "poor": Line(2.0)}


def test_shares_follow_held_out_likelihood(problem: Problem) -> None:
    X, Y = problem(40, noise=0.05)
    fitted = Ensemble(lines()).fit(X, Y)
    np.testing.assert_allclose(fitted.weights.sum(axis=0), 1)
    assert (fitted.weights[0] > 0.5).all()
    assert fitted.weights[0].mean() > 0.7
    assert [member.fits for member in fitted.members.values()] == [[30, 30, 30, 30, 40]] * 2  # type: ignore[attr-defined]
    mean = sum(w * member.predict(X) for w, member in zip(fitted.weights, fitted.members.values(), strict=True))
    np.testing.assert_allclose(fitted.predict(X), mean)
    np.testing.assert_allclose(fitted.posterior(X).mean, mean)


def test_the_proxys_own_fold_is_never_seen(problem: Problem) -> None:
    """A loss that nobody can know: an honest held-out prediction explains nothing of it."""
    X, _ = problem(40)
    Y = np.random.default_rng(0).normal(size=(40, 3))
    predicted = held_out(lines(), X, Y, None)
    assert (predicted.explained < 0.05).all()
    assert predicted.density.shape == predicted.error.shape == (2, 40, 3)


def test_stacking_weights_maximise_the_mixtures_likelihood() -> None:
    rng = np.random.default_rng(0)
    density = rng.normal(size=(3, 200, 1))
    weights = stacking_weights(density, prior=0.0, iterations=2000)[:, 0]

    def likelihood(w: Array) -> float:
        return float(np.logaddexp.reduce(density[..., 0] + np.log(np.maximum(w, 1e-12))[:, None], axis=0).mean())

    assert all(likelihood(weights) >= likelihood(other) - 1e-6 for other in rng.dirichlet(np.ones(3), size=500))


def test_missing_observations_have_no_say() -> None:
    density = np.random.default_rng(0).normal(size=(2, 30, 2))
    holes = density.copy()
    holes[:, ::2, 1] = np.nan
    np.testing.assert_allclose(stacking_weights(holes)[:, 1], stacking_weights(density[:, 1::2])[:, 1])
    np.testing.assert_allclose(stacking_weights(holes)[:, 0], stacking_weights(density)[:, 0])


def test_a_blend_is_the_mixture_of_its_parts() -> None:
    """Means and covariances against a large sample of the mixture."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(2, 3, 2))
    roots = 0.3 * rng.normal(size=(2, 2, 3, 3))
    joint = roots @ roots.transpose(0, 1, 3, 2)
    weights = np.array([[0.3, 0.8], [0.7, 0.2]])

    def part(k: int) -> Posterior:
        return Posterior(
            means[k], np.einsum("mqq->qm", joint[k]), lambda rows: joint[k][:, rows].transpose(1, 2, 0), np.full(2, 0.1)
        )

    mixed = blend([part(0), part(1)], weights)
    for j in range(2):
        chosen = rng.random(60_000) < weights[0, j]
        draws = np.where(
            chosen[:, None],
            means[0, :, j] + rng.normal(size=(60_000, 3)) @ roots[0, j].T,
            means[1, :, j] + rng.normal(size=(60_000, 3)) @ roots[1, j].T,
        )
        np.testing.assert_allclose(mixed.mean[:, j], draws.mean(axis=0), atol=0.03)
        np.testing.assert_allclose(mixed.joint()[j], np.cov(draws.T), atol=0.06)
    np.testing.assert_allclose(np.einsum("mqq->qm", mixed.joint()), mixed.variance)


def test_drawn_functions_are_the_members(problem: Problem) -> None:
    X, Y = problem(24, noise=0.05)
    fitted = Ensemble(lines()).fit(X, Y)
    draws = fitted.paths(400, np.random.default_rng(0))(X[:3])
    assert draws.shape == (400, 3, 6)
    good, poor = (member.predict(X[:3]) for member in fitted.members.values())
    is_good, is_poor = np.isclose(draws, good).all(axis=1), np.isclose(draws, poor).all(axis=1)
    assert (is_good | is_poor).all(), "a function of a loss is one member's everywhere"
    np.testing.assert_allclose(is_good.mean(axis=0), fitted.weights[0], atol=0.08)


def test_auto_chooses_what_predicts_and_says_why(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "MEMBERS", {"good": lambda: Line(-0.4), "poor": lambda: Line(2.0)})
    X, _ = problem(40)
    Y = (X + 0.02) ** -0.4 + 0.02 * np.random.default_rng(0).normal(size=X.shape)
    auto = Auto().fit(X, Y)
    np.testing.assert_array_equal(auto.predict(X), auto.chosen.predict(X))
    assert isinstance(auto.chosen, Line)
    assert auto.chosen.power == -0.4
    assert auto.reason.startswith("good predicts held-out runs best: log likelihood per loss, 4 folds of 40 runs: good ")
    assert "poor" in auto.reason
    assert "ensemble" in auto.reason


def test_auto_takes_the_ensemble_where_members_complement_each_other(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the losses are laws of one kind, half of the other."""
    monkeypatch.setattr(ensemble, "MEMBERS", {"good": lambda: Line(-0.4), "poor": lambda: Line(2.0)})
    X, Y = problem(60, noise=0.02)
    Y[:, 3:] = 5 * X[:, 3:] ** 2 + X[:, :3] ** 2 + 0.02 * np.random.default_rng(0).normal(size=(60, 3))
    auto = Auto().fit(X, Y)
    assert isinstance(auto.chosen, Ensemble)
    assert auto.reason.startswith("ensemble predicts")
    assert auto.posterior(X[:2]).mean.shape == auto.paths(1, np.random.default_rng(0))(X[:2])[0].shape == (2, 6)


@pytest.mark.parametrize("kind", [Ensemble, Auto])
def test_too_few_runs_are_refused_with_the_number(kind: type[Surrogate], problem: Problem) -> None:
    X, Y = problem(kind.minimum_runs - 1)
    with pytest.raises(StudyError, match=f"'{kind.name}' needs {kind.minimum_runs} finished proxies or more"):
        kind().fit(X, Y)


def test_real_members_together(problem: Problem) -> None:
    """The three surrogates on a law with noise and a hole: the ensemble is hardly worse than the best of them."""
    X, Y = problem(24, noise=0.05)
    Y[3, 2] = np.nan
    Z, truth = problem(100, seed=1)
    fitted = Ensemble().fit(X, Y)

    def error(surrogate: Surrogate) -> float:
        return float(np.abs(surrogate.predict(Z) - truth).mean())

    assert error(fitted) < 1.2 * min(error(member) for member in fitted.members.values())


def test_seeds_of_one_mixture_are_held_out_together(problem: Problem) -> None:
    """Losses that nobody can know, but that another seed of the mixture would give away."""
    X, _ = problem(10)
    Y = np.random.default_rng(0).normal(size=(10, 2))
    many, noisy = np.repeat(X, 4, axis=0), np.repeat(Y, 4, axis=0) + 0.01 * np.random.default_rng(1).normal(size=(40, 2))
    predicted = held_out({"gp": GaussianProcess(max_iterations=5)}, many, noisy, None)
    assert (predicted.fold.reshape(10, 4) == predicted.fold[::4, None]).all()
    assert (predicted.explained < 0.3).all()


def test_a_rare_loss_spoils_nothing(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Observed in twelve of forty runs, all but a few of them in one fold."""
    X, Y = problem(40, noise=0.02)
    rare = np.full(40, np.nan)
    rare[:44:4] = Y[:44:4, 0]
    rare[[1, 2]] = Y[[1, 2], 0]
    monkeypatch.setattr(ensemble, "MEMBERS", {"good": lambda: Line(-0.4), "poor": lambda: Line(2.0)})
    losses = np.column_stack([Y[:, 1:], rare])
    for surrogate in (Auto(), Ensemble(lines())):
        assert np.isfinite(surrogate.fit(X, losses).predict(X)).all()
