"""Cross-validation inside the finished proxies: what each surrogate would have said about proxies that it had not seen.

References:
    [1] Yao et al., Using Stacking to Average Bayesian Predictive Distributions, Bayesian Analysis 13, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array, Surrogate

FOLDS = 4


@dataclass(frozen=True)
class HeldOut:
    """Predictions of k surrogates for n proxies, each from a fit without the proxy's fold.

    Attributes:
        names: Of the surrogates.
        density: Log likelihood of each noisy observation, shape ``(k, n, m)``, for standardised losses; NaN where one is missing.
        error: Prediction minus observation, shape ``(k, n, m)``, standardised.
        fold: Of each proxy, shape ``(n,)``.
    """

    names: tuple[str, ...]
    density: Array
    error: Array
    fold: NDArray[np.int64]

    @property
    def explained(self) -> Array:
        """Share of the variance that each surrogate explains, mean over predicted losses, shape ``(k,)``."""
        losses = (~np.isnan(self.error)).any(axis=(0, 1))
        mean: Array = 1 - np.nanmean(self.error[:, :, losses] ** 2, axis=1).mean(axis=1)
        return mean


def held_out(surrogates: Mapping[str, Surrogate], mixtures: Array, losses: Array, noise: Array | None) -> HeldOut:
    """Cross-validate in :data:`FOLDS` folds, every fourth mixture in each: the folds look alike when proxies get better with time.

    Proxies of one mixture share a fold, or another seed of it would give its loss away. A loss that is too rare for a surrogate
    without some fold is not predicted there.

    Args:
        surrogates: By name; each is left fitted without the last fold.
        mixtures: Shape ``(n, d)``.
        losses: Shape ``(n, m)``, NaN where missing.
        noise: Known noise variances, shape ``(n, m)``, or None.
    """
    _, first, of = np.unique(mixtures, axis=0, return_index=True, return_inverse=True)
    fold = (np.argsort(np.argsort(first))[of.reshape(-1)] % FOLDS).astype(np.int64)
    scale = np.maximum(np.nanstd(losses, axis=0, ddof=1), 1e-9)
    density, error = np.full((2, len(surrogates), *losses.shape), np.nan)
    for k, surrogate in enumerate(surrogates.values()):
        for f in range(FOLDS):
            out = fold == f
            known = np.flatnonzero((~np.isnan(losses[~out])).sum(axis=0) >= surrogate.minimum_runs)
            if not len(known) or not out.any():
                continue
            surrogate.fit(mixtures[~out], losses[~out][:, known], None if noise is None else noise[~out][:, known])
            posterior = surrogate.posterior(mixtures[out])
            variance = np.maximum((posterior.variance + posterior.noise) / scale[known] ** 2, 1e-12)
            errors = (posterior.mean - losses[out][:, known]) / scale[known]
            error[k][np.ix_(out, known)] = errors
            density[k][np.ix_(out, known)] = -0.5 * (np.log(2 * math.pi * variance) + errors**2 / variance)
    # All surrogates are judged by the same observations.
    lost = np.isnan(density).any(axis=0)
    density[:, lost] = error[:, lost] = np.nan
    return HeldOut(tuple(surrogates), density, error, fold)


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
