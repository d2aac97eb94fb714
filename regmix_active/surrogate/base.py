"""What a surrogate is, and the belief that it returns.

Every surrogate fits all losses at once and answers with a :class:`Posterior` over any set of mixtures. The posterior knows each
loss's mean and covariance between those mixtures, and can be conditioned on mixtures whose losses are not known yet, which
is what batches and pending proxies need. Strategies are written against this page only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Posterior:
    """Joint Gaussian belief about m losses at q mixtures.

    Internally per loss: covariance = prior covariance - V'V, with V of shape (n, q) from the Cholesky factor of the training
    kernel. Conditioning appends one row to V, so that picking a batch from thousands of candidates costs no new factorisation
    (the same update as in a pivoted Cholesky decomposition).

    Attributes:
        mean: Shape ``(q, m)``, nats per token.
        variance: Of the noise-free loss, shape ``(q, m)``.
    """

    def __init__(self, mean: Array, prior_rows: Callable[[int], Array], prior_diagonal: Array, V: Array, noise: Array) -> None:
        """Describe the belief.

        Args:
            mean: Shape ``(q, m)``.
            prior_rows: Prior covariance of mixture i with all q, as a function i → ``(m, q)``.
            prior_diagonal: Prior variances, shape ``(m, q)``.
            V: Shape ``(m, n, q)``.
            noise: Observation noise variance per loss, shape ``(m,)``.
        """
        self.mean = mean
        self._prior_rows = prior_rows
        self._rows = [V]
        self._noise = noise
        self._variance = np.clip(prior_diagonal - np.einsum("mnq,mnq->mq", V, V), 0.0, None)

    @property
    def variance(self) -> Array:
        """Variance of the noise-free losses, shape ``(q, m)``."""
        return self._variance.T

    def covariance(self, i: int) -> Array:
        """Covariance of the losses at mixture `i` with those at all q mixtures, shape ``(q, m)``."""
        cross = self._prior_rows(i)
        for V in self._rows:
            cross = cross - np.einsum("mn,mnq->mq", V[:, :, i], V)
        return cross.T

    def condition(self, i: int) -> None:
        """Account for a proxy that will train at mixture `i`: its expected losses are believed, the variance shrinks.

        Believing the mean leaves every mean as it is (Kriging believer: Ginsbourger et al., 2010).
        """
        cross = self.covariance(i).T
        row = cross / np.sqrt(np.maximum(self._variance[:, i] + self._noise, 1e-18))[:, None]
        self._rows.append(row[:, None, :])
        self._variance = np.clip(self._variance - row**2, 0.0, None)


class Surrogate(ABC):
    """A probabilistic regression from mixtures to losses, one belief per loss."""

    name: ClassVar[str]
    """What ``--surrogate`` calls it."""

    minimum_runs: ClassVar[int] = 4
    """Fewer observed mixtures than this cannot be fitted."""

    @abstractmethod
    def fit(self, mixtures: Array, losses: Array) -> Self:
        """Learn from finished proxies; calling it again forgets what was learnt (and may start from it).

        Args:
            mixtures: Shape ``(n, d)``.
            losses: Shape ``(n, m)``, nats per token.

        Raises:
            StudyError: If there are fewer than :attr:`minimum_runs` mixtures.
        """

    @abstractmethod
    def predict(self, mixtures: Array) -> Array:
        """Mean losses only, shape ``(q, m)``: cheap enough for a hundred thousand mixtures."""

    @abstractmethod
    def posterior(self, mixtures: Array) -> Posterior:
        """Joint belief about the noise-free losses of `mixtures`, shape ``(q, d)``; for up to some ten thousand mixtures."""
