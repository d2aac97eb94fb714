"""Several beliefs as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array, Posterior


def blend(posteriors: Sequence[Posterior], weights: Array) -> Posterior:
    """The belief of a mixture of Gaussians: its mean, and the mean of the covariances plus the covariance of the means.

    Where the parts disagree, the blend is in doubt.

    Args:
        posteriors: k beliefs about the same mixtures.
        weights: Share of each part in each loss, shape ``(k, m)``, columns sum to 1.
    """
    means = np.stack([posterior.mean for posterior in posteriors])
    mean = np.einsum("km,kqm->qm", weights, means)
    apart = means - mean
    variance = np.einsum("km,kqm->qm", weights, np.stack([posterior.variance for posterior in posteriors]) + apart**2)

    def rows(some: NDArray[np.intp]) -> Array:
        together = np.zeros((len(some), *mean.shape))
        for share, posterior, away in zip(weights, posteriors, apart, strict=True):
            together += share * (posterior.unconditioned(some) + away[some, None] * away)
        return together

    noise = np.einsum("km,km->m", weights, np.stack([posterior.noise for posterior in posteriors]))
    share = weights.mean(axis=1)
    correlation = np.einsum("k,kij->ij", share, np.stack([posterior.correlation for posterior in posteriors]))
    return Posterior(mean, variance, rows, noise, correlation)
