"""What a surrogate is, and the posterior that it returns.

Every surrogate fits all losses at once and answers with a :class:`Posterior` over any set of mixtures. The posterior knows each
loss's mean and covariance between those mixtures, and can be conditioned on mixtures whose losses are not known yet, which
is what batches and pending proxies need. Strategies are written against this page only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regmix_active.errors import StudyError

Array = NDArray[np.float64]

Paths = Callable[[Array], Array]
"""Functions drawn from a surrogate's posterior: mixtures ``(q, d)`` → losses ``(s, q, m)``, nats per token, without noise. The same
mixture always gets the same losses, in whatever company it is asked for."""


class Posterior:
    """Joint Gaussian belief about m losses at q mixtures.

    Conditioning keeps one row per mixture that was conditioned on, so that picking a batch from thousands of candidates costs no
    new factorisation (the same update as in a pivoted Cholesky decomposition).

    Attributes:
        mean: Shape ``(q, m)``, nats per token.
        noise: Observation noise variance per loss, shape ``(m,)``, nats² per token².
        updates: What each conditioning took from the covariance, one root per mixture that was conditioned on: the covariance of
            mixtures i and k has lost the sum of ``update[i] * update[k]``; shapes ``(q, m)``.
        correlation: Correlation between the losses' errors at one mixture, shape ``(m, m)``; the identity unless the surrogate has
            measured it. Losses of one proxy err together (similar texts, one seed), so a weighed sum of them is less certain
            than independent errors would make it.
    """

    def __init__(
        self,
        mean: Array,
        variance: Array,
        rows: Callable[[NDArray[np.intp]], Array],
        noise: Array,
        correlation: Array | None = None,
    ) -> None:
        """Describe the belief.

        Args:
            mean: Shape ``(q, m)``.
            variance: Of the noise-free losses, shape ``(q, m)``.
            rows: Posterior covariance of some mixtures with all q, as a function of their indices ``(r,)`` → ``(r, q, m)``; many
                at once cost little more than one.
            noise: Observation noise variance per loss, shape ``(m,)``.
            correlation: Between the losses' errors, shape ``(m, m)``; default: none.
        """
        self.mean = mean
        self.noise = noise
        self.correlation = np.eye(mean.shape[1]) if correlation is None else correlation
        self._variance = np.clip(variance, 0.0, None)
        self._rows_of = rows
        self.updates: list[Array] = []

    @property
    def variance(self) -> Array:
        """Variance of the noise-free losses, shape ``(q, m)``."""
        return self._variance

    def covariance(self, i: int) -> Array:
        """Covariance of the losses at mixture `i` with those at all q mixtures, shape ``(q, m)``."""
        cross = self.unconditioned(np.array([i]))[0]
        for row in self.updates:
            cross = cross - row[i] * row
        return cross

    def unconditioned(self, rows: NDArray[np.intp]) -> Array:
        """Covariance of some mixtures with all q before any conditioning, shape ``(r, q, m)``."""
        return self._rows_of(rows)

    def joint(self) -> Array:
        """Covariance between all mixtures, shape ``(m, q, q)``: for some hundred of them."""
        together = np.ascontiguousarray(self.unconditioned(np.arange(len(self.mean))).transpose(2, 0, 1))
        for row in self.updates:
            together -= row.T[:, :, None] * row.T[:, None]
        return together

    def condition(self, i: int) -> None:
        """Account for a proxy that will train at mixture `i`: its expected losses are believed, the variance shrinks.

        Believing the mean leaves every mean as it is (Kriging believer: Ginsbourger et al., 2010).
        """
        row = self.covariance(i) / np.sqrt(np.maximum(self._variance[i] + self.noise, 1e-18))
        self.updates.append(row)
        self._variance = np.clip(self._variance - row**2, 0.0, None)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Joint draws of the noise-free losses, each loss by itself, shape ``(n, q, m)``: for some hundred mixtures."""
        values, vectors = np.linalg.eigh(self.joint())
        roots = vectors * np.sqrt(np.clip(values, 0.0, None))[:, None, :]
        standard = rng.standard_normal((n, self.mean.shape[1], len(self.mean), 1))
        draws: Array = self.mean + np.moveaxis((roots @ standard)[..., 0], 1, 2)
        return draws


class Surrogate(ABC):
    """A probabilistic regression from mixtures to losses, one belief per loss."""

    name: ClassVar[str]
    """What ``--surrogate`` calls it."""

    minimum_runs: ClassVar[int] = 4
    """Fewer observed mixtures than this cannot be fitted."""

    differentiable: ClassVar[bool] = False
    """Whether :meth:`gradients` is there, so that candidates can be optimised continuously."""

    @abstractmethod
    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        """Learn from finished proxies; calling it again forgets what was learnt. The result depends on the arguments alone.

        Args:
            mixtures: Shape ``(n, d)``.
            losses: Shape ``(n, m)``, nats per token; NaN where a metric is missing.
            noise: Known variance of the observation noise, nats² per token²: one number, one per loss ``(m,)``, or one per
                observation ``(n, m)``; default: estimated.

        Raises:
            StudyError: If a loss has fewer than :attr:`minimum_runs` observations, or anything else is not finite.
        """

    @abstractmethod
    def predict(self, mixtures: Array) -> Array:
        """Mean losses only, shape ``(q, m)``: cheap enough for a million mixtures."""

    @abstractmethod
    def posterior(self, mixtures: Array) -> Posterior:
        """Joint belief about the noise-free losses of `mixtures`, shape ``(q, d)``; for up to some ten thousand mixtures."""

    def paths(self, n: int, rng: np.random.Generator) -> Paths:
        """`n` functions drawn from the posterior, for Thompson sampling.

        Surrogates without function draws of their own draw jointly over the mixtures of each call, which costs the cube of their
        number, and a second call draws anew.
        """
        return lambda mixtures: self.posterior(mixtures).sample(n, rng)

    def gradients(self, mixtures: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
        """Mean and variance of a weighed sum of losses with their derivatives by the weights of the domains.

        Args:
            mixtures: Shape ``(q, d)``.
            weights: The target's weights over losses, shape ``(m,)``.

        Returns:
            Mean ``(q,)``, variance ``(q,)``, derivative of the mean ``(q, d)``, derivative of the variance ``(q, d)``.

        Raises:
            NotImplementedError: If the surrogate is not :attr:`differentiable`.
        """
        raise NotImplementedError(f"the surrogate {self.name!r} has no gradients")


def check_observations(
    mixtures: ArrayLike, losses: ArrayLike, noise: ArrayLike | None, surrogate: Surrogate
) -> tuple[Array, Array, Array | None]:
    """What a surrogate is fitted to, with rows left out that have no loss at all.

    Returns:
        Mixtures ``(n, d)``, losses ``(n, m)`` with NaN where missing, and noise variances ``(n, m)`` or None.

    Raises:
        StudyError: If a loss has too few observations, or anything but a missing loss is not finite.
    """
    X, Y = np.asarray(mixtures, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
        raise StudyError(f"mixtures (n, d) and losses (n, m) must have equally many rows, got {X.shape} and {Y.shape}")
    if not np.isfinite(X).all() or np.isinf(Y).any():
        raise StudyError("mixtures must be finite, and losses finite or NaN (missing); leave diverged runs out")
    V = None if noise is None else np.broadcast_to(np.asarray(noise, dtype=np.float64), Y.shape)
    seen = ~np.isnan(Y)
    if (least := int(seen.sum(axis=0).min(initial=len(Y)))) < surrogate.minimum_runs:
        raise StudyError(
            f"the surrogate {surrogate.name!r} needs {surrogate.minimum_runs} finished proxies or more; the study has {least}"
            + ("" if least == len(Y) else f" for loss {int(seen.sum(axis=0).argmin())}")
        )
    if V is not None and not ((V >= 0) & np.isfinite(V)).all():
        raise StudyError("noise variances must be finite and >= 0")
    rows = seen.any(axis=1)
    return X[rows], Y[rows], None if V is None else V[rows]
