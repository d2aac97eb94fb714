"""Belief about the target: the surrogate's belief about each loss, combined as the target combines the losses.

Fitting each loss by itself and weighing afterwards needs about half the runs of fitting the weighed loss (a sum of sharp
functions of different domains is harder to learn than each of them).

A worst-case target is the largest of several Gaussians: its moments come from :mod:`~regmix_active.surrogate.worst`, and for
covariances and gradients it is, near each mixture, the sum of the losses weighed by how likely each is the worst. Where a target
counts what is above the natural mixture, the reference is the belief's expectation there, a number: its doubt is the same for all
mixtures, and what tells mixtures apart is left. Limits above the natural mixture count that doubt, with its covariance, and so do
the moments that are told of a target (:meth:`TargetModel.moments`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.space import MixtureSpace
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.study.terms import Terms
from regmix_active.surrogate.base import Array, Posterior, Surrogate
from regmix_active.surrogate.limits import Kept, kept
from regmix_active.surrogate.worst import Worst, worst


@dataclass(frozen=True)
class TargetBelief:
    """What is believed about the target at q candidate mixtures, given what is observed, pending and chosen so far.

    Attributes:
        mixtures: The candidates, shape ``(q, d)``.
        mean: Expected target with the pull of the space, shape ``(q,)``, in the target's unit.
        std: Standard deviation of the noise-free target, shape ``(q,)``.
        best: Smallest expected target among the observed mixtures, those in training and those already chosen; of those that are
            feasible and keep the target's limits as surely as it asks, or else of the one that likeliest does.
        noise: Standard deviation of the target that the seed of one proxy adds.
        covariance: Covariance of the noise-free target at some candidates with that at all of them: indices ``(r,)`` → ``(r, q)``.
        log_kept: Log-probability that all limits of the target are kept, shape ``(q,)``; None if it has none.
    """

    mixtures: Array
    mean: Array
    std: Array
    best: float
    noise: float
    covariance: Callable[[NDArray[np.intp]], Array]
    log_kept: Array | None = None


class TargetPosterior:
    """The target's share of a joint posterior over losses; conditioned on mixtures as they are chosen."""

    def __init__(
        self,
        posterior: Posterior,
        terms: Terms | Array,
        mixtures: Array,
        observed: NDArray[np.intp],
        pending: NDArray[np.intp],
        *,
        added: Array | None = None,
        limits: Kept | None = None,
    ) -> None:
        """Combine losses to a target.

        Args:
            posterior: Belief about the losses at the candidates, then at the observed and pending mixtures.
            terms: The target's arithmetic over the losses, or weights of shape ``(m,)``.
            mixtures: The candidates, shape ``(q, d)``.
            observed: Rows of the posterior that hold observed mixtures that are feasible.
            pending: Rows that hold mixtures in training.
            added: What is added to the target at every row of the posterior; default: nothing.
            limits: Belief about the target's limits at every row; None if it has none.
        """
        terms = terms if isinstance(terms, Terms) else Terms.of(terms)
        self._mixtures, self._posterior, self._limits = mixtures, posterior, limits
        self._q = len(mixtures)
        self._rows: dict[int, Array] = {}
        # What the target is near each mixture: a weighed sum of losses, whose deviation is the target's up to a factor.
        self._weights, self._factor = terms.scale, np.ones(len(posterior.mean))
        if terms.linear:
            self._mean = combined(posterior.mean, terms)
        else:
            moments = moments_of(posterior, terms)
            self._mean, self._weights = moments.mean, moments.weights
            self._factor = moments.std / np.maximum(target_std(posterior, moments.weights), 1e-300)
        if added is not None:
            self._mean = self._mean + added
        self._best, self._sure = self._first_best(observed)
        for row in pending:
            self.choose(int(row))

    @property
    def belief(self) -> TargetBelief:
        """What is believed now."""
        squares = self._weights**2 if self._weights.ndim == 1 else (self._weights[: self._q] ** 2).mean(axis=0)
        noise = float(np.sqrt(self._posterior.noise @ squares))
        std = self._std()[: self._q]
        log_kept = None if self._limits is None else self._limits.log_probability[: self._q]
        return TargetBelief(self._mixtures, self._mean[: self._q], std, self._best, noise, self._covariance, log_kept)

    def choose(self, i: int) -> None:
        """Take candidate `i` into the batch: the belief now counts on its proxy."""
        self._posterior.condition(i)
        if self._limits is None or self._limits.surely[i]:
            value = float(self._mean[i])
            self._best = min(self._best, value) if self._sure else value
            self._sure = True

    def _first_best(self, observed: NDArray[np.intp]) -> tuple[float, bool]:
        """Smallest expected target of observed mixtures, and whether it is of one that keeps the limits."""
        if not len(observed):
            return float(self._mean[: self._q].min()), True
        if self._limits is None:
            return float(self._mean[observed].min()), True
        if (sure := observed[self._limits.surely[observed]]).size:
            return float(self._mean[sure].min()), True
        return float(self._mean[observed[np.argmax(self._limits.log_probability[observed])]]), False

    def _std(self) -> Array:
        return target_std(self._posterior, self._weights) * self._factor

    def _covariance(self, rows: NDArray[np.intp]) -> Array:
        variance, weights = self._posterior.variance, np.broadcast_to(self._weights, self._posterior.variance.shape)
        squares = self._weights**2
        # A strategy asks for the same rows after every choice of a batch.
        if new := sorted(set(rows.tolist()) - set(self._rows)):
            cross = self._posterior.unconditioned(np.array(new))
            if self._weights.ndim == 1:
                weighed = cross @ squares
            else:
                weighed = np.einsum("rqm,rm,qm->rq", cross, weights[new], weights, optimize=True)
            self._rows.update(zip(new, weighed[:, : self._q], strict=True))
        cross = np.stack([self._rows[i] for i in rows.tolist()])
        for update in self._posterior.updates:
            if self._weights.ndim == 1:
                cross -= (update[rows] * squares) @ update[: self._q].T
            else:
                cross -= (update[rows] * weights[rows]) @ (update * weights)[: self._q].T
        alone = np.sqrt(np.maximum((variance * squares).sum(axis=1) if squares.ndim == 2 else variance @ squares, 1e-300))
        ratio = self._std() / alone
        scaled: Array = cross * ratio[rows, None] * ratio[: self._q]
        return scaled


def target_std(posterior: Posterior, weights: Array) -> Array:
    """Standard deviation of a weighed sum of the noise-free losses at every mixture of a posterior, shape ``(q,)``.

    The losses' errors are correlated as the surrogate has measured them (:attr:`Posterior.correlation`).

    Args:
        posterior: Belief about the losses.
        weights: Of the losses, shape ``(m,)``, or at every mixture, shape ``(q, m)``.
    """
    spread = np.sqrt(posterior.variance) * weights
    std: Array = np.sqrt(np.clip(np.einsum("qj,jk,qk->q", spread, posterior.correlation, spread), 0.0, None))
    return std


def combined(losses: Array, terms: Terms) -> Array:
    """The target of losses ``(..., m)`` that all are numbers, shape ``(...)``."""
    if not terms.linear:
        return terms(losses)
    value: Array = losses @ terms.scale
    return value - constant if (constant := terms.constant) else value


def moments_of(posterior: Posterior, terms: Terms) -> Worst:
    """Moments of a worst-case target at every mixture of a posterior."""
    return worst(posterior.mean, np.sqrt(posterior.variance), posterior.correlation, terms)


class TargetModel:
    """A surrogate seen through a target: only the losses that the target weighs or limits are fitted."""

    def __init__(
        self,
        surrogate: Surrogate,
        target: Target | Array,
        space: MixtureSpace | None = None,
        needed: NDArray[np.bool_] | None = None,
    ) -> None:
        """Look through a target.

        Args:
            surrogate: Fitted by :meth:`fit`.
            target: The target, or its weights over losses, shape ``(m,)``.
            space: The feasible set, whose natural mixture references and limits are of, and whose pull is added to the target;
                weights can do without.
            needed: Losses that are fitted, shape ``(m,)``; default: those that the target needs.

        Raises:
            ValueError: If the target needs the natural mixture, and `space` is not given.
        """
        if not isinstance(target, Target):
            target = Target(tuple(map(str, range(len(target)))), target)
        if target.needs_natural and space is None:
            raise ValueError("a target over the natural mixture needs the mixture space; use TargetModel.of(history, surrogate)")
        self.surrogate, self.space = surrogate, space
        self._needed = target.needed if needed is None else needed
        self.target = target.narrowed(self._needed)
        self._terms = self.target.terms()
        self._references: Array | None = None

    @classmethod
    def of(cls, history: History, surrogate: Surrogate) -> TargetModel:
        """A surrogate fitted to a history, seen through its target."""
        return cls(surrogate, history.target, history.space).fit(history.mixtures, history.losses)

    @classmethod
    def several(cls, history: History, surrogate: Surrogate) -> list[TargetModel]:
        """A surrogate fitted once to a history, seen through each of its targets."""
        needed = np.any([target.needed for target in history.targets], axis=0)
        models = [cls(surrogate, target, history.space, needed) for target in history.targets]
        models[0].fit(history.mixtures, history.losses)
        for model in models[1:]:
            model._settle()
        return models

    @property
    def weights(self) -> Array:
        """The target's weights over the fitted losses, shape ``(m,)``."""
        return self.target.weights

    @property
    def terms(self) -> Terms:
        """The target's arithmetic over the fitted losses, with believed references."""
        return self._terms

    def fit(self, mixtures: Array, losses: Array) -> Self:
        """Fit the surrogate to mixtures ``(n, d)`` and all their losses ``(n, m)``; see :meth:`Surrogate.fit`."""
        self.surrogate.fit(mixtures, losses[:, self._needed])
        self._settle()
        return self

    def _settle(self) -> None:
        """Take the references from the belief: expected losses of the natural mixture."""
        if self.target.needs_natural and self.space is not None:
            self._references = self.surrogate.predict(self.space.natural[None])[0]
            self._terms = self.target.terms(self._references)

    def predict(self, mixtures: Array) -> Array:
        """Expected target with the space's pull, shape ``(q,)``: cheap enough for a million mixtures.

        Of a worst-case target it is the worst of the expected losses, which doubt raises: :meth:`moments` counts that.
        """
        return self._pulled(mixtures, combined(self.surrogate.predict(mixtures), self._terms))

    def violations(self, mixtures: Array) -> Array:
        """By how much expected losses break the limit that they break most, nats per token, shape ``(q,)``; 0 if none: cheap enough
        for a million mixtures, and 0 where limits are likelier kept than not.
        """
        return self.broken(self.surrogate.predict(mixtures)) if self.target.limits else np.zeros(len(mixtures))

    def broken(self, losses: Array) -> Array:
        """As :meth:`violations`, from predicted losses, shape ``(q, m)``."""
        return self.target.violations(losses, self._references)

    def moments(self, mixtures: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noise-free target, without the space's pull, each ``(q,)``: what is told of it.

        What is over the natural mixture is believed together with it: the natural mixture itself is at 0, without doubt.
        """
        if not isinstance(self.target.excess_over, str) or self.space is None:
            return self._moments(self.surrogate.posterior(mixtures))
        posterior, q = self.surrogate.posterior(self._beside_natural(mixtures)), len(mixtures)
        # Of differences, or of ratios by their linear part.
        factor = posterior.mean / np.maximum(posterior.mean[q], 1e-9) if self.target.relative else np.ones_like(posterior.mean)
        variance = posterior.variance + factor**2 * posterior.variance[q] - 2 * factor * posterior.covariance(q)
        over = Posterior(posterior.mean, variance, posterior.unconditioned, posterior.noise, posterior.correlation)
        mean, std = self._moments(over)
        itself = np.abs(mixtures - self.space.natural).sum(axis=1) <= 1e-9
        return np.where(itself, 0.0, mean[:q]), np.where(itself, 0.0, std[:q])

    def _moments(self, posterior: Posterior) -> tuple[Array, Array]:
        if self._terms.linear:
            return combined(posterior.mean, self._terms), target_std(posterior, self._terms.scale)
        moments = moments_of(posterior, self._terms)
        return moments.mean, moments.std

    def pessimistic(self, mixtures: Array, caution: float) -> Array:
        """What the target may well be: expectation with the space's pull and `caution` standard deviations, shape ``(q,)``."""
        mean, std = self._moments(self.surrogate.posterior(mixtures))
        return self._pulled(mixtures, mean + caution * std)

    def kept(self, mixtures: Array) -> Kept:
        """What is believed about the target's limits at mixtures ``(q, d)``."""
        q = len(mixtures)
        if not self.target.limits:
            return Kept(np.zeros(q), np.zeros(q))
        posterior = self.surrogate.posterior(self._beside_natural(mixtures))
        found = kept(self.target, posterior, q)
        return Kept(found.log_probability[:q], found.short[:q])

    def probability(self, mixtures: Array) -> Array:
        """With which all limits of the target are kept, together, shape ``(q,)``; ones without limits."""
        probability: Array = np.exp(self.kept(mixtures).log_probability)
        return probability

    def posterior(self, candidates: Array, observed: Array, pending: Array) -> TargetPosterior:
        """Joint belief about the target at `candidates` ``(q, d)``, beside mixtures that are observed or in training.

        Observed mixtures that are not feasible are known to the surrogate, but none of them is the best so far.
        """
        if self.space is not None:
            observed = observed[self.space.feasible(observed, tolerance=1e-6)]
        rows = np.concatenate([candidates, observed, pending.reshape(-1, candidates.shape[1])])
        known, n = np.arange(len(candidates), len(rows)), len(observed)
        limited = bool(self.target.limits)
        rows = self._beside_natural(rows) if limited else rows
        posterior = self.surrogate.posterior(rows)
        return TargetPosterior(
            posterior,
            self._terms,
            candidates,
            known[:n],
            known[n:],
            added=None if self.space is None else self.space.penalty(rows),
            limits=kept(self.target, posterior, len(rows) - 1) if limited else None,
        )

    @property
    def differentiable(self) -> bool:
        """Whether :meth:`gradients` is there."""
        return self.surrogate.differentiable

    def gradients(self, mixtures: Array) -> tuple[Array, Array, Array, Array]:
        """Mean ``(q,)`` and variance ``(q,)`` of the target with their derivatives ``(q, d)``; see :meth:`Surrogate.gradients`.

        The mean is with the space's pull.
        """
        if self._terms.linear:
            mean, variance, by_mean, by_variance = self.surrogate.gradients(mixtures, self._terms.scale)
            if constant := self._terms.constant:
                mean = mean - constant
        else:
            mean, variance, by_mean, by_variance = self._worst_gradients(mixtures)
        return self._pulled(mixtures, mean), variance, by_mean + self._pull_slope(mixtures), by_variance

    def _worst_gradients(self, mixtures: Array) -> tuple[Array, Array, Array, Array]:
        """By the chain rule through each loss's mean and standard deviation."""
        posterior = self.surrogate.posterior(mixtures)
        found = moments_of(posterior, self._terms)
        by_mean, by_variance = np.zeros(mixtures.shape), np.zeros(mixtures.shape)
        for j in np.flatnonzero(self._terms.scale > 0):
            # Losses that are nowhere near the worst cost nothing.
            rows = np.flatnonzero((found.weights[:, j] != 0) | (found.variance_by_mean[:, j] != 0))
            if not len(rows):
                continue
            _, variance, mean_slope, slope = self.surrogate.gradients(mixtures[rows], np.eye(len(self._terms.scale))[j])
            std_slope = slope / (2 * np.sqrt(np.maximum(variance, 1e-300)))[:, None]
            by_mean[rows] += found.weights[rows, j, None] * mean_slope + found.mean_by_std[rows, j, None] * std_slope
            by_variance[rows] += found.variance_by_mean[rows, j, None] * mean_slope
            by_variance[rows] += found.variance_by_std[rows, j, None] * std_slope
        return found.mean, found.std**2, by_mean, by_variance

    def paths(self, n: int, rng: np.random.Generator) -> Callable[[Array], Array]:
        """`n` targets drawn from the posterior, as a function from mixtures ``(q, d)`` to targets ``(n, q)``.

        With the space's pull.
        """
        drawn = self.surrogate.paths(n, rng)
        return lambda mixtures: self._pulled(mixtures, combined(drawn(mixtures), self._terms))

    def paths_and_violations(self, n: int, rng: np.random.Generator) -> Callable[[Array], tuple[Array, Array]]:
        """As :meth:`paths`, with what each draw breaks of the target's limits beside the targets, nats per token, both ``(n, q)``.

        A limit above the natural mixture is one above the draw's own loss there.
        """
        drawn = self.surrogate.paths(n, rng)

        def values(mixtures: Array) -> tuple[Array, Array]:
            q = len(mixtures)
            losses = drawn(self._beside_natural(mixtures) if self.target.limits else mixtures)
            targets = self._pulled(mixtures, combined(losses[:, :q], self._terms))
            broken = np.zeros(targets.shape)
            for s in range(n if self.target.limits else 0):
                broken[s] = self.target.violations(losses[s, :q], losses[s, q])
            return targets, broken

        return values

    def _beside_natural(self, mixtures: Array) -> Array:
        """Mixtures with the natural one as the last row; without a space the last one again, which no limit looks at."""
        last = mixtures[-1:] if self.space is None else self.space.natural[None]
        return np.concatenate([mixtures, last])

    def _pulled(self, mixtures: Array, target: Array) -> Array:
        return target if self.space is None else target + self.space.penalty(mixtures)

    def _pull_slope(self, mixtures: Array) -> Array:
        """Derivative of the space's pull by the weights, shape ``(q, d)``."""
        pull = None if self.space is None else self.space.pull
        return np.zeros(mixtures.shape) if pull is None else pull.slope(mixtures)
