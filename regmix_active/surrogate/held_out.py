"""Cross-validation inside the finished proxies: what each surrogate would have said about proxies that it had not seen.

References:
    [1] Yao et al., Using Stacking to Average Bayesian Predictive Distributions, Bayesian Analysis 13, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from regmix_active.surrogate.base import Array, Surrogate

FOLDS = 4


@dataclass(frozen=True)
class HeldOut:
    """Predictions of k surrogates for n proxies, each from a fit without the proxy's fold.

    Attributes:
        names: Of the surrogates.
        density: Log likelihood of each noisy observation, shape ``(k, n, m)``, for standardised losses; NaN where one is missing.
        error: Prediction minus observation, shape ``(k, n, m)``, standardised.
    """

    names: tuple[str, ...]
    density: Array
    error: Array

    @property
    def likelihood(self) -> Array:
        """Mean log likelihood of an observation by surrogate and loss, shape ``(k, m)``, nats."""
        mean: Array = np.nanmean(self.density, axis=1)
        return mean

    @property
    def explained(self) -> Array:
        """Share of the variance that each surrogate explains, mean over losses, shape ``(k,)``."""
        mean: Array = 1 - np.nanmean(self.error**2, axis=1).mean(axis=1)
        return mean


def held_out(surrogates: Mapping[str, Surrogate], mixtures: Array, losses: Array, noise: Array | None) -> HeldOut:
    """Cross-validate in :data:`FOLDS` folds, every fourth proxy in each: the folds look alike when proxies get better with time.

    Args:
        surrogates: By name; each is left fitted without the last fold.
        mixtures: Shape ``(n, d)``.
        losses: Shape ``(n, m)``, NaN where missing.
        noise: Known noise variances, shape ``(n, m)``, or None.
    """
    fold = np.arange(len(mixtures)) % FOLDS
    scale = np.maximum(np.nanstd(losses, axis=0, ddof=1), 1e-9)
    density, error = np.full((2, len(surrogates), *losses.shape), np.nan)
    for k, surrogate in enumerate(surrogates.values()):
        for f in range(FOLDS):
            out = fold == f
            surrogate.fit(mixtures[~out], losses[~out], None if noise is None else noise[~out])
            posterior = surrogate.posterior(mixtures[out])
            variance = np.maximum((posterior.variance + posterior.noise) / scale**2, 1e-12)
            error[k, out] = (posterior.mean - losses[out]) / scale
            density[k, out] = -0.5 * (np.log(2 * math.pi * variance) + error[k, out] ** 2 / variance)
    return HeldOut(tuple(surrogates), density, error)


def stacking_weights(density: Array, prior: float = 1.0, iterations: int = 100) -> Array:
    """Shares under which the held-out observations are likeliest [1], shape ``(k, m)``; columns sum to 1.

    Expectation maximisation of the mixture's log likelihood, which is concave.

    Args:
        density: Log likelihoods, shape ``(k, n, m)``, NaN where missing.
        prior: Observations' worth of belief in equal shares, for each part: with few runs no part is ruled out.
        iterations: Of the maximisation.
    """
    k, _, m = density.shape
    seen = ~np.isnan(density[0])
    there = np.where(seen, density, 0.0)
    likelihood = np.where(seen, np.exp(there - there.max(axis=0)), 0.0)
    weights = np.full((k, m), 1 / k)
    for _ in range(iterations):
        joint = weights[:, None] * likelihood
        responsible = joint / np.maximum(joint.sum(axis=0), 1e-300)
        weights = (responsible.sum(axis=1) + prior) / (seen.sum(axis=0) + k * prior)
    return weights
