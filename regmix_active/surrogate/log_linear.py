"""The log-linear mixing law, with the uncertainty that its parameters have.

Each loss is a floor plus an exponential of the weights [1]; where there are proxies enough, a mean of this law and one with two
exponentials. The law is too stiff to follow losses everywhere, but what it sees holds at larger scales: from 1M to 1B parameters
it ranks best of all.

The uncertainty is that of the parameters (Laplace's approximation), carried to the losses by the law's derivatives. A law that does
not quite hold is surer of its parameters than it may be, so that held-out proxies set the scale.

References:
    [1] Ye et al., Data Mixing Laws: Optimizing Data Mixtures by Predicting Language Modeling Performance, arXiv 2403.16952.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regmix_active.surrogate.base import Array, Paths, Posterior, Surrogate, check_observations
from regmix_active.surrogate.calibration import err_together
from regmix_active.surrogate.law_choice import Choice, Part, choose_laws
from regmix_active.surrogate.mixing_law import jacobian, law, terms
from regmix_active.surrogate.residuals import error_correlation


@dataclass(frozen=True)
class FittedLaw:
    """What is believed about one loss.

    Attributes:
        choice: Its laws and their doubt, in their own units.
        lowest: Smallest observed loss, nats per token.
        unit: Standard deviation of the observed losses, nats per token.
    """

    choice: Choice
    lowest: float
    unit: float

    @property
    def noise(self) -> float:
        """Variance of the noise and of what the laws cannot follow, nats² per token²."""
        return self.choice.noise * self.unit**2

    def mean(self, mixtures: Array) -> Array:
        """Expected loss, shape ``(q,)``."""
        laws = [part.share * law(part.parameters[None], mixtures)[0] for part in self.choice.parts]
        mean: Array = self.lowest + self.unit * np.sum(laws, axis=0)
        return mean

    def factors(self, mixtures: Array) -> Array:
        """Rows whose inner products are the covariances of the loss, shape ``(q, parameters of all parts)``."""
        parts = self.choice.parts
        return np.hstack([self.unit * part.share * (jacobian(part.parameters[None], mixtures)[0] @ part.root) for part in parts])

    def slopes(self, mixtures: Array) -> tuple[Array, Array]:
        """Derivatives by the weights of the expected loss and of its variance, each shape ``(q, d)``."""
        mean, variance = np.zeros_like(mixtures), np.zeros_like(mixtures)
        for part in self.choice.parts:
            of_mean, of_variance = _slopes(part, mixtures)
            mean += self.unit * part.share * of_mean
            variance += (self.unit * part.share) ** 2 * of_variance
        return mean, variance


def _slopes(part: Part, mixtures: Array) -> tuple[Array, Array]:
    """Derivatives by the weights of a law and of its variance, each shape ``(q, d)``."""
    q, d = mixtures.shape
    lines, rates = part.parameters[1:].reshape(-1, d + 1), terms(part.parameters[None], mixtures)[0].T
    # The variance is a square of the law's derivatives by its parameters; of these, only the terms' change with the weights.
    outer = (2 * jacobian(part.parameters[None], mixtures)[0] @ part.root @ part.root.T)[:, 1:].reshape(q, -1, d + 1)
    whole = rates * (outer[..., 0] + np.einsum("qkd,qd->qk", outer[..., 1:], mixtures))
    variance: Array = whole @ lines[:, 1:] + np.einsum("qk,qkd->qd", rates, outer[..., 1:])
    return rates @ lines[:, 1:], variance


class LogLinear(Surrogate):
    """One mixing law per loss."""

    name: ClassVar[str] = "log-linear"
    minimum_runs: ClassVar[int] = 8
    differentiable: ClassVar[bool] = True

    def __init__(self, most_terms: int = 2) -> None:
        """Choose the law.

        Args:
            most_terms: Exponentials per loss, at most.
        """
        self.most_terms = most_terms

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        """Fit each loss on the proxies that have it; see :meth:`Surrogate.fit`."""
        X, Y, V = check_observations(mixtures, losses, noise, self)
        lowest, unit = np.nanmin(Y, axis=0), np.maximum(np.nanstd(Y, axis=0), 1e-9)
        choices = choose_laws(X, ((Y - lowest) / unit).T, np.zeros(Y.T.shape) if V is None else (V / unit**2).T, self.most_terms)
        self._laws = [FittedLaw(choice, float(low), float(std)) for choice, low, std in zip(choices, lowest, unit, strict=True)]
        self._correlation = error_correlation(np.column_stack([choice.errors for choice in choices]))
        return self

    def predict(self, mixtures: Array) -> Array:
        """Expected losses, shape ``(q, m)``; see :meth:`Surrogate.predict`."""
        return np.column_stack([one.mean(mixtures) for one in self._laws])

    def posterior(self, mixtures: Array) -> Posterior:
        """Expected losses with the covariance that their parameters give them; see :meth:`Surrogate.posterior`."""
        factors = [one.factors(mixtures) for one in self._laws]

        def rows(some: NDArray[np.intp]) -> Array:
            return np.stack([own[some] @ own.T for own in factors], axis=2)

        variance = np.column_stack([(own**2).sum(axis=1) for own in factors])
        return Posterior(self.predict(mixtures), variance, rows, self.noise_variance, self._correlation)

    def paths(self, n: int, rng: np.random.Generator) -> Paths:
        """`n` laws with random parameters, linear in them as the posterior is; see :meth:`Surrogate.paths`.

        Losses err together as they did on held-out proxies.
        """
        laws, correlation = self._laws, self._correlation
        drawn = [rng.standard_normal((sum(len(part.parameters) for part in one.choice.parts), n)) for one in laws]

        def losses(mixtures: Array) -> Array:
            factors = [one.factors(mixtures) for one in laws]
            std = np.column_stack([np.sqrt((own**2).sum(axis=1)) for own in factors])
            deviations = np.stack([(own @ random).T for own, random in zip(factors, drawn, strict=True)], axis=2)
            mean = np.column_stack([one.mean(mixtures) for one in laws])
            return mean + err_together(deviations / np.maximum(std, 1e-300), std, correlation)

        return losses

    def gradients(self, mixtures: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
        """Mean and variance of a weighed sum of losses with their derivatives; see :meth:`Surrogate.gradients`."""
        d_means, d_variances = (np.stack(slopes) for slopes in zip(*(one.slopes(mixtures) for one in self._laws), strict=True))
        std = np.column_stack([np.sqrt((one.factors(mixtures) ** 2).sum(axis=1)) for one in self._laws]) * weights
        together = std @ self._correlation
        # A standard deviation's slope is its variance's over twice itself.
        share = weights**2 * together / np.maximum(std, 1e-300)
        d_variance: Array = np.einsum("qm,mqd->qd", share, d_variances)
        return self.predict(mixtures) @ weights, (std * together).sum(axis=1), np.einsum("m,mqd->qd", weights, d_means), d_variance

    @property
    def noise_variance(self) -> Array:
        """Variance of the noise per loss and of what the law cannot follow, shape ``(m,)``, nats² per token²."""
        return np.array([one.noise for one in self._laws])
