"""The published suite on every surrogate of ours, and on surrogates that break one promise each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from regmix_active.surrogate.base import Array, Paths, Posterior, Surrogate, check_observations
from regmix_active.surrogate.ensemble import Ensemble
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.surrogate.lightgbm import LightGBM
from regmix_active.surrogate.registry import SURROGATES, load_surrogate
from regmix_active.testing import ConformanceError, check_surrogate

QUICK: dict[str, Callable[[], Surrogate]] = {
    "gp": lambda: GaussianProcess(max_iterations=10),
    "lightgbm": lambda: LightGBM(trees=100, learning_rate=0.05),
    "ensemble": lambda: Ensemble({"gp": GaussianProcess(max_iterations=3)}),
}
"""Cheap settings; the others are examined as they are."""


# `auto` is one of the others, whose choice has its own tests; it would take minutes here.
@pytest.mark.parametrize("name", [name for name in SURROGATES if name != "auto"])
def test_our_surrogates_conform(name: str) -> None:
    report = check_surrogate(QUICK[name]() if name in QUICK else load_surrogate(name))
    assert report.passed
    assert f"{name}: all {len(report.checks)} checks passed" in str(report)


class _Sound(Surrogate):
    """A Gaussian process with one fixed kernel: keeps every promise; those below break one each."""

    name = "sound"
    differentiable = True

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        X, Y, V = check_observations(mixtures, losses, noise, self)
        self._X, self._centre = X, np.nanmean(Y, axis=0)
        seen = ~np.isnan(Y)
        self._alpha, self._root = [], []
        for j in range(Y.shape[1]):
            K = _kernel(X, X) + np.diag(np.full(len(X), 0.01) if V is None else V[:, j])
            rows = np.flatnonzero(seen[:, j])
            inverse = np.zeros_like(K)
            inverse[np.ix_(rows, rows)] = np.linalg.inv(K[np.ix_(rows, rows)])
            self._alpha.append(inverse @ np.where(seen[:, j], Y[:, j] - self._centre[j], 0.0))
            self._root.append(inverse)
        self._m = Y.shape[1]
        return self

    def predict(self, mixtures: Array) -> Array:
        return _kernel(mixtures, self._X) @ np.stack(self._alpha, axis=1) + self._centre

    def posterior(self, mixtures: Array) -> Posterior:
        cross = _kernel(mixtures, self._X)
        joint = np.stack([_kernel(mixtures, mixtures) - cross @ inverse @ cross.T for inverse in self._root])
        return Posterior(
            self.predict(mixtures),
            np.einsum("mqq->qm", joint),
            lambda rows: joint[:, rows].transpose(1, 2, 0),
            np.full(self._m, 0.01),
        )

    def gradients(self, mixtures: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
        cross = _kernel(mixtures, self._X)
        slope = 2 * (self._X[None] - mixtures[:, None]) * cross[..., None]
        inverse = sum(w**2 * root for w, root in zip(weights, self._root, strict=True))
        variance = weights @ weights - np.einsum("qn,nk,qk->q", cross, inverse, cross)
        d_variance = -2 * np.einsum("qnd,nk,qk->qd", slope, inverse, cross)
        return self.predict(mixtures) @ weights, variance, np.einsum("qnd,nm,m->qd", slope, self._stacked, weights), d_variance

    @property
    def _stacked(self) -> Array:
        return np.stack(self._alpha, axis=1)


def _kernel(a: Array, b: Array) -> Array:
    kernel: Array = np.exp(-((a[:, None] - b[None]) ** 2).sum(axis=2))
    return kernel


class _Anonymous(_Sound):
    name = ""


class _Flat(_Sound):
    def predict(self, mixtures: Array) -> Array:
        return np.repeat(self._centre[None], len(mixtures), axis=0)


class _Chained(_Sound):
    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        super().fit(mixtures, losses, noise)
        return None  # type: ignore[return-value]


class _Transposed(_Sound):
    def predict(self, mixtures: Array) -> Array:
        return super().predict(mixtures).T


class _Warm(_Sound):
    """Starts where the last fit ended."""

    last: float | None = None

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        super().fit(mixtures, losses, noise)
        if self.last is not None and mixtures.shape[1] == 5:
            self._centre = self._centre + 0.1 * self.last
        self.last = float(mixtures.shape[1] - 5)
        return self


class _Shuffling(_Sound):
    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        super().fit(mixtures, losses, noise)
        self._centre = self._centre + 0.1 * torch.rand(1).item()
        return self


class _Vandal(_Sound):
    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        super().fit(mixtures, losses, noise)
        losses[:] = 0
        return self


class _Complete(_Sound):
    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        if np.isnan(losses).any():
            raise ValueError("losses hold NaN")
        return super().fit(mixtures, losses, noise)


class _Daring(_Sound):
    minimum_runs = 6

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        plain = _Sound()
        plain.fit(mixtures, losses, noise)
        self.__dict__.update(plain.__dict__)
        return self


class _Single(_Sound):
    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        return super().fit(mixtures, losses, None if noise is None else float(noise))  # type: ignore[arg-type]


class _Askew(_Sound):
    def posterior(self, mixtures: Array) -> Posterior:
        sound = super().posterior(mixtures)
        return Posterior(sound.mean, 2 * sound.variance, sound.unconditioned, sound.noise)


class _Forgetful(_Sound):
    """A posterior that conditions on nothing."""

    def posterior(self, mixtures: Array) -> Posterior:
        posterior = super().posterior(mixtures)
        posterior.condition = lambda i: None  # type: ignore[method-assign]
        return posterior


class _Leaking(_Sound):
    """A posterior that looks at the surrogate when it is asked."""

    def posterior(self, mixtures: Array) -> Posterior:
        sound = super().posterior(mixtures)
        rows = sound.unconditioned
        return Posterior(sound.mean, sound.variance, lambda some: len(self._X) / 40 * rows(some), sound.noise, sound.correlation)


class _Narrow(_Sound):
    def paths(self, n: int, rng: np.random.Generator) -> Paths:
        return lambda mixtures: np.repeat(self.predict(mixtures)[None], n, axis=0)


class _Jumping(_Sound):
    """Draws anew whenever it is asked."""

    def paths(self, n: int, rng: np.random.Generator) -> Paths:
        return lambda mixtures: self.posterior(mixtures).sample(n, rng)


class _Steep(_Sound):
    def gradients(self, mixtures: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
        mean, variance, d_mean, d_variance = super().gradients(mixtures, weights)
        return mean, variance, 1.1 * d_mean, d_variance


class _Ordered(_Sound):
    """Cares most about the first domain."""

    def predict(self, mixtures: Array) -> Array:
        return super().predict(mixtures) + mixtures[:, :1]

    def gradients(self, mixtures: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
        mean, variance, d_mean, d_variance = super().gradients(mixtures, weights)
        return mean, variance, d_mean + np.eye(mixtures.shape[1])[0] * weights.sum(), d_variance


def test_the_sound_one_passes() -> None:
    report = check_surrogate(_Sound())
    assert report.passed
    assert any("gradients" in check.name for check in report.checks)
    assert "of the true losses are within one standard deviation (nominal: 68 %)" in str(report)


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (_Anonymous(), "has a name", r"no name \(found ''\); add: name: ClassVar\[str\]"),
        (_Flat(), "learns", r"on 24 unseen mixtures its error is 0\.\d+ nats, the error of the mean of all losses 0\.\d+"),
        (_Chained(), "shapes", r"fit does not return the surrogate itself; end it with `return self`"),
        (
            _Transposed(),
            "shapes",
            r"predict\(mixtures\) has shape \(3, 1\), not \(1, 3\), when asked for q = 1 mixtures of 5 domains with m = 3 losses",
        ),
        (_Warm(), "forgets", r"after a fit to other data it differs by .*keep nothing between fits"),
        (_Shuffling(), "global randomness", r"the global generator of torch was used or seeded; use a generator of its own"),
        (_Vandal(), "left as they are", r"the losses were changed in place; work on a copy"),
        (_Complete(), "missing", r"raised ValueError: losses hold NaN \(at .*test_conformance\.py:\d+\)"),
        (_Daring(), "too few", r"5 observations were fitted although minimum_runs is 6 \(5 proxies\); raise StudyError"),
        (_Single(), "noise", r"raised TypeError"),
        (_Askew(), "one covariance", r"covariance\(i\)\[i\] and variance\[i\] differ by up to 0\.5 of the largest variance"),
        (_Forgetful(), "conditioning", r"condition\(0\) left the variance of mixture 0 itself as it was"),
        (_Leaking(), "outlives", r"a posterior changed when the surrogate was fitted again"),
        (_Narrow(), "functions drawn", r"functions spread by 0\.00 to 0\.00 of the belief's standard deviation, not by 1"),
        (_Jumping(), "functions drawn", r"a function has other losses when it is asked for one mixture alone"),
        (_Ordered(), "another order", r"domains in another order move the means by 0\.\d+ of the losses' spread"),
        (_Steep(), "gradients", r"the derivative of the mean is off by 0\.1 of its largest value"),
    ],
    ids=lambda value: type(value).__name__.strip("_") if isinstance(value, Surrogate) else "",
)
def test_a_broken_promise_is_named_with_numbers_and_remedy(broken: Surrogate, check: str, message: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_surrogate(broken)
    (found,) = [one for one in caught.value.report.checks if check in one.name]
    assert any(re.search(message, fault) for fault in found.faults), str(caught.value)


@pytest.mark.parametrize("broken", [_Anonymous(), _Vandal(), _Daring(), _Single(), _Leaking(), _Narrow(), _Jumping(), _Steep()])
def test_nothing_else_is_blamed(broken: Surrogate) -> None:
    with pytest.raises(ConformanceError, match="1 of 15 checks failed"):
        check_surrogate(broken)


def test_a_class_is_not_an_instance() -> None:
    with pytest.raises(TypeError, match=r"needs an instance of a Surrogate, got .*; make one: _Sound\(\)"):
        check_surrogate(_Sound)  # type: ignore[arg-type]
