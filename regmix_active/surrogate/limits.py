"""Belief about limits: how likely the losses of a mixture stay below their ceilings, all together.

A ceiling above the natural mixture's loss is believed, not known: what counts is the difference of two losses, with the covariance
between the two mixtures.

References:
    [1] Genz, Numerical Computation of Multivariate Normal Probabilities, Journal of Computational and Graphical Statistics 1, 1992.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri
from scipy.stats import qmc

from regmix_active.study.target import Target
from regmix_active.study.terms import SLACK
from regmix_active.surrogate.base import Array, Posterior

DRAWS = 64
"""Quasi-random draws of a joint probability."""


@dataclass(frozen=True)
class Kept:
    """What is believed about a target's limits at q mixtures.

    Attributes:
        log_probability: Logarithm of the probability that all of them are kept, shape ``(q,)``.
        short: By how much the probability of a limit falls short of the one that it asks for, the largest of them; 0 where every
            limit is kept as surely as it asks, shape ``(q,)``.
    """

    log_probability: Array
    short: Array

    @property
    def surely(self) -> NDArray[np.bool_]:
        """Where every limit is kept with the probability that it asks for, shape ``(q,)``."""
        return self.short <= 0


def kept(target: Target, posterior: Posterior, natural: int | None = None) -> Kept:
    """How likely every mixture of a posterior keeps the limits of a target.

    Args:
        target: Over the posterior's losses.
        posterior: Belief about the losses at the mixtures, and at the natural one where a limit is above it.
        natural: Row of the natural mixture.
    """
    room = headroom(target, posterior, natural)
    short = np.zeros(len(room))
    for limit in target.limits:
        columns = target.limited(limit)
        probability = np.exp(log_orthant(room[:, columns], posterior.correlation[np.ix_(columns, columns)]))
        short = np.maximum(short, limit.probability - probability)
    limited = np.flatnonzero(np.isfinite(room).all(axis=0))
    together = log_orthant(room[:, limited], posterior.correlation[np.ix_(limited, limited)])
    return Kept(together, short)


def headroom(target: Target, posterior: Posterior, natural: int | None = None) -> Array:
    """How many standard deviations every loss is believed to be below its ceiling, shape ``(q, m)``; infinite without one.

    Args:
        target: Over the posterior's losses.
        posterior: Belief about the losses.
        natural: Row of the natural mixture.

    Raises:
        ValueError: If a limit is above the natural mixture's loss, and its row is not given.
    """
    room = np.full(posterior.mean.shape, np.inf)
    for limit in target.limits:
        columns = target.limited(limit)
        mean, variance = posterior.mean[:, columns], posterior.variance[:, columns]
        if limit.at_most is not None:
            below = limit.at_most - mean
        elif natural is None:
            raise ValueError("limits above the natural mixture need its row in the posterior")
        else:
            factor = 1 + (limit.above_natural or 0.0)
            below = factor * mean[natural] - mean
            shared = posterior.covariance(natural)[:, columns]
            variance = variance + factor**2 * variance[natural] - 2 * factor * shared
        # Rounding leaves a variance where a mixture is the natural one itself.
        room[:, columns] = (below + SLACK) / np.sqrt(np.maximum(variance, (SLACK / 10) ** 2))
    return room


def log_orthant(upper: Array, correlation: Array) -> Array:
    """Log-probability that correlated standard normal variables are all below their bounds, shape ``(q,)`` [1].

    The variables are drawn one after the other, each below its bound, and what that costs is multiplied: unlike a count of draws it
    is above zero, and smooth. Without correlation it is exact.

    Args:
        upper: Bounds, shape ``(q, m)``.
        correlation: Shape ``(m, m)``.
    """
    q, m = upper.shape
    upper = np.clip(upper, -1e8, 1e8)
    if m == 0:
        return np.zeros(q)
    if np.array_equal(correlation, np.eye(m)):
        alone: Array = log_ndtr(upper).sum(axis=1)
        return alone
    # Losses that err as one have a singular correlation.
    L = np.asarray(np.linalg.cholesky(correlation + 1e-9 * np.eye(m)), dtype=np.float64)
    result = np.empty(q)
    for start in range(0, q, step := max(1, 2**21 // (DRAWS * m))):
        result[start : start + step] = _sequential(upper[start : start + step], L)
    return result


def _sequential(upper: Array, L: Array) -> Array:
    uniform = _uniform(L.shape[0])
    drawn = np.empty((len(upper), *uniform.shape))
    total = np.zeros((len(upper), len(uniform)))
    for j in range(L.shape[0]):
        bound = (upper[:, j, None] - drawn[:, :, :j] @ L[j, :j]) / L[j, j]
        total += log_ndtr(bound)
        drawn[:, :, j] = ndtri(np.clip(uniform[:, j] * ndtr(bound), 1e-300, 1 - 1e-16))
    mean: Array = logsumexp(total, axis=1) - np.log(len(uniform))
    return np.minimum(mean, 0.0)


@functools.lru_cache(maxsize=16)
def _uniform(m: int) -> Array:
    points: Array = np.clip(qmc.Sobol(m, scramble=True, rng=0).random(DRAWS), 1e-12, 1 - 1e-12)
    points.setflags(write=False)
    return points
