"""Belief about the target: the surrogate's belief about each loss, weighed as the target weighs the losses.

Fitting each loss by itself and weighing afterwards needs about half the runs of fitting the weighed loss (a sum of sharp
functions of different domains is harder to learn than each of them).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array, Posterior


class TargetBelief:
    """Gaussian belief about the target at q candidate mixtures, given what is observed and pending.

    Attributes:
        mixtures: The candidates, shape ``(q, d)``.
        mean: Expected target, shape ``(q,)``, nats per token.
        best: Smallest expected target among the observed mixtures and those already chosen.
    """

    def __init__(
        self, posterior: Posterior, weights: Array, mixtures: Array, observed: NDArray[np.intp], pending: NDArray[np.intp]
    ) -> None:
        """Combine losses to a target.

        Args:
            posterior: Belief about the losses at the candidates, then at the observed and pending mixtures.
            weights: The target's weights over losses, shape ``(m,)``.
            mixtures: The candidates, shape ``(q, d)``.
            observed: Rows of the posterior that hold observed mixtures.
            pending: Rows that hold mixtures in training.
        """
        self.mixtures = mixtures
        self._posterior, self._weights, self._q = posterior, weights, len(mixtures)
        self._mean = posterior.mean @ weights
        self.mean: Array = self._mean[: self._q]
        self.best = float(self._mean[observed].min()) if len(observed) else float(self._mean.min())
        for row in pending:
            self.choose(int(row))

    @property
    def std(self) -> Array:
        """Standard deviation of the noise-free target, shape ``(q,)``."""
        std: Array = np.sqrt(self._posterior.variance[: self._q] @ self._weights**2)
        return std

    def choose(self, i: int) -> None:
        """Take candidate `i` into the batch: the belief now counts on its proxy."""
        self._posterior.condition(i)
        self.best = min(self.best, float(self._mean[i]))
