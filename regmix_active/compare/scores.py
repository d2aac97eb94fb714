"""How well a belief fits losses that were measured but not shown to it.

Two kinds of question are asked. Does it rank mixtures right (Spearman, Pearson)? Then a search finds good ones. And does it know
how wrong it is (likelihood, coverage of its intervals)? Then a search knows where to look. What is scored is the belief about
*observed* losses, which vary around the noise-free ones by the seed of a proxy.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, pearsonr, spearmanr

from regmix_active.surrogate.base import Array, Posterior
from regmix_active.surrogate.belief import target_std

FEWEST = 3
"""Fewer observations than this have no correlation worth a number."""

RESOLUTION = 1e-10
"""Values whose range is smaller than this share of them are constant but for rounding, which must not be ranked."""


@dataclass(frozen=True)
class Score:
    """One belief against one set of observations; NaN where nothing can be said.

    Attributes:
        n: Observations that were scored.
        spearman: Rank correlation of expected with observed values.
        pearson: Linear correlation of them.
        rmse: Root of the mean squared error, nats per token.
        log_likelihood: Mean Gaussian log density, nats per observation.
        coverage_68: Share of observations inside the central 68 % interval.
        coverage_90: Share of observations inside the central 90 % interval.
    """

    n: int
    spearman: float
    pearson: float
    rmse: float
    log_likelihood: float
    coverage_68: float
    coverage_90: float

    @property
    def mse(self) -> float:
        """Mean squared error, nats² per token²."""
        return self.rmse**2

    def as_dict(self) -> dict[str, float | None]:
        """All figures by name, with None for NaN, as JSON has it."""
        figures = {**dataclasses.asdict(self), "mse": self.mse}
        return {name: None if math.isnan(value) else value for name, value in figures.items()}


def score(observed: ArrayLike, mean: ArrayLike, variance: ArrayLike) -> Score:
    """Score a Gaussian belief.

    Args:
        observed: Shape ``(n,)``; NaN where missing, and then not scored.
        mean: Expected values, shape ``(n,)``.
        variance: Variance of observations, noise included, shape ``(n,)``.
    """
    y, mu, v = (np.asarray(values, dtype=np.float64) for values in (observed, mean, variance))
    known = ~(np.isnan(y) | np.isnan(mu))
    y, mu, v = y[known], mu[known], np.maximum(v[known], 1e-300)
    if not len(y):
        return Score(0, *[math.nan] * 6)
    error = y - mu
    z = np.abs(error) / np.sqrt(v)
    density = -0.5 * (np.log(2 * np.pi * v) + z**2)
    return Score(
        n=len(y),
        spearman=_correlation(spearmanr, mu, y),
        pearson=_correlation(pearsonr, mu, y),
        rmse=float(np.sqrt(np.mean(error**2))),
        log_likelihood=float(density.mean()),
        coverage_68=float(np.mean(z <= norm.ppf(0.84))),
        coverage_90=float(np.mean(z <= norm.ppf(0.95))),
    )


def predicted_target(posterior: Posterior, weights: Array) -> tuple[Array, Array]:
    """Mean and variance, noise included, of an observed target at every mixture of a posterior, each shape ``(q,)``.

    Args:
        posterior: Belief about m losses.
        weights: The target's weights over them, shape ``(m,)``; a single loss is a target with one weight of 1.
    """
    return posterior.mean @ weights, target_std(posterior, weights) ** 2 + posterior.noise @ weights**2


def observed_target(losses: Array, weights: Array) -> Array:
    """Target of measured losses ``(n, m)``, shape ``(n,)``; NaN where a loss that it weighs is missing."""
    weighed = weights > 0
    value: Array = losses[:, weighed] @ weights[weighed]
    return value


def score_losses(posterior: Posterior, losses: Array) -> list[Score]:
    """Score every loss of a posterior by itself against measured losses ``(q, m)``."""
    return [score(losses[:, j], *predicted_target(posterior, one)) for j, one in enumerate(np.eye(losses.shape[1]))]


def score_target(posterior: Posterior, losses: Array, weights: Array) -> Score:
    """Score a target, with `weights` ``(m,)``, against measured losses ``(q, m)``."""
    return score(observed_target(losses, weights), *predicted_target(posterior, weights))


def _correlation(function: object, a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < FEWEST or any(np.ptp(values) <= RESOLUTION * np.abs(values).max() for values in (a, b)):
        return math.nan
    result: float = function(a, b).statistic  # type: ignore[operator]
    return float(result)
