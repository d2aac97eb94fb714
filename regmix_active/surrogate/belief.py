"""Belief about the target: the surrogate's belief about each loss, weighed as the target weighs the losses.

Fitting each loss by itself and weighing afterwards needs about half the runs of fitting the weighed loss (a sum of sharp
functions of different domains is harder to learn than each of them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array, Posterior, Surrogate


@dataclass(frozen=True)
class TargetBelief:
    """What is believed about the target at q candidate mixtures, given what is observed, pending and chosen so far.

    Attributes:
        mixtures: The candidates, shape ``(q, d)``.
        mean: Expected target, shape ``(q,)``, nats per token.
        std: Standard deviation of the noise-free target, shape ``(q,)``.
        best: Smallest expected target among the observed mixtures, those in training and those already chosen.
        noise: Standard deviation of the target that the seed of one proxy adds.
        covariance: Covariance of the noise-free target at some candidates with that at all of them: indices ``(r,)`` → ``(r, q)``.
    """

    mixtures: Array
    mean: Array
    std: Array
    best: float
    noise: float
    covariance: Callable[[NDArray[np.intp]], Array]


class TargetPosterior:
    """The target's share of a joint posterior over losses; conditioned on mixtures as they are chosen."""

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
        self._mixtures, self._posterior, self._weights = mixtures, posterior, weights
        self._q = len(mixtures)
        self._rows: dict[int, Array] = {}
        self._mean = posterior.mean @ weights
        self._best = float(self._mean[observed].min()) if len(observed) else float(self._mean.min())
        for row in pending:
            self.choose(int(row))

    @property
    def belief(self) -> TargetBelief:
        """What is believed now."""
        noise = float(np.sqrt(self._posterior.noise @ self._weights**2))
        std = target_std(self._posterior, self._weights)[: self._q]
        return TargetBelief(self._mixtures, self._mean[: self._q], std, self._best, noise, self._covariance)

    def choose(self, i: int) -> None:
        """Take candidate `i` into the batch: the belief now counts on its proxy."""
        self._posterior.condition(i)
        self._best = min(self._best, float(self._mean[i]))

    def _covariance(self, rows: NDArray[np.intp]) -> Array:
        variance, squares = self._posterior.variance, self._weights**2
        # A strategy asks for the same rows after every choice of a batch.
        if new := sorted(set(rows.tolist()) - set(self._rows)):
            self._rows.update(zip(new, (self._posterior.unconditioned(np.array(new)) @ squares)[:, : self._q], strict=True))
        cross = np.stack([self._rows[i] for i in rows.tolist()])
        for update in self._posterior.updates:
            cross -= (update[rows] * squares) @ update[: self._q].T
        alone = np.sqrt(np.maximum(variance @ squares, 1e-300))
        ratio = target_std(self._posterior, self._weights) / alone
        scaled: Array = cross * ratio[rows, None] * ratio[: self._q]
        return scaled


def target_std(posterior: Posterior, weights: Array) -> Array:
    """Standard deviation of the noise-free target at every mixture of a posterior, shape ``(q,)``.

    The losses' errors are correlated as the surrogate has measured them (:attr:`Posterior.correlation`).
    """
    spread = np.sqrt(posterior.variance) * weights
    std: Array = np.sqrt(np.clip(np.einsum("qj,jk,qk->q", spread, posterior.correlation, spread), 0.0, None))
    return std


class TargetModel:
    """A surrogate seen through a target: only the losses that the target weighs are fitted."""

    def __init__(self, surrogate: Surrogate, weights: Array) -> None:
        """Look through a target.

        Args:
            surrogate: Fitted by :meth:`fit`.
            weights: The target's weights over losses, shape ``(m,)``.
        """
        self.surrogate = surrogate
        self._needed = weights > 0
        self.weights = weights[self._needed]

    def fit(self, mixtures: Array, losses: Array) -> Self:
        """Fit the surrogate to mixtures ``(n, d)`` and all their losses ``(n, m)``; see :meth:`Surrogate.fit`."""
        self.surrogate.fit(mixtures, losses[:, self._needed])
        return self

    def predict(self, mixtures: Array) -> Array:
        """Expected target, shape ``(q,)``, nats per token."""
        expected: Array = self.surrogate.predict(mixtures) @ self.weights
        return expected

    def pessimistic(self, mixtures: Array, caution: float) -> Array:
        """What the target may well be: expectation and `caution` standard deviations, shape ``(q,)``, nats per token."""
        posterior = self.surrogate.posterior(mixtures)
        value: Array = posterior.mean @ self.weights + caution * target_std(posterior, self.weights)
        return value

    def posterior(self, candidates: Array, observed: Array, pending: Array) -> TargetPosterior:
        """Joint belief about the target at `candidates` ``(q, d)``, beside mixtures that are observed or in training."""
        rows = np.concatenate([candidates, observed, pending.reshape(-1, candidates.shape[1])])
        q, n = len(candidates), len(observed)
        known = np.arange(q, len(rows))
        return TargetPosterior(self.surrogate.posterior(rows), self.weights, candidates, known[:n], known[n:])

    @property
    def differentiable(self) -> bool:
        """Whether :meth:`gradients` is there."""
        return self.surrogate.differentiable

    def gradients(self, mixtures: Array) -> tuple[Array, Array, Array, Array]:
        """Mean ``(q,)`` and variance ``(q,)`` of the target with their derivatives ``(q, d)``; see :meth:`Surrogate.gradients`."""
        return self.surrogate.gradients(mixtures, self.weights)

    def paths(self, n: int, rng: np.random.Generator) -> Callable[[Array], Array]:
        """`n` targets drawn from the posterior, as a function from mixtures ``(q, d)`` to targets ``(n, q)``."""
        drawn = self.surrogate.paths(n, rng)
        return lambda mixtures: drawn(mixtures) @ self.weights
