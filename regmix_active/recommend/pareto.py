"""The answer of a search for trade-offs: mixtures that no other beats in all targets, and how sure that is.

Only a simulation can show a front: trained mixtures are few. Mixtures are drawn as for a single answer, those that are expected to
be non-dominated are kept, and their neighbourhood is drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.designs import around, trusted
from regmix_active.mixture.space import Mixtures
from regmix_active.recommend.passes import MARGIN, first_pass, sizes
from regmix_active.study.history import History
from regmix_active.surrogate.base import Surrogate
from regmix_active.surrogate.belief import TargetModel, combined
from regmix_active.surrogate.fronts import all_kept, layers, non_dominated

CHUNK = 8_192
"""Mixtures simulated at once: memory does not grow with the number of simulations."""

HELD = 512
"""Non-dominated mixtures that are kept from one chunk to the next."""

LEADERS = 16
"""Trained mixtures that others are drawn around, as many as non-dominated ones allow."""

DRAWS = 512
"""Draws of the targets by which it is told how likely a mixture is non-dominated."""


@dataclass(frozen=True)
class ParetoFront:
    """Mixtures that no other simulated one is expected to beat in every target, along the front.

    Attributes:
        weights: Shape ``(k, d)``, feasible; in the order of the first target.
        means: Expected targets, each in its own unit, shape ``(k, t)``.
        stds: Their standard deviations, doubt about the mean without the noise of seeds, shape ``(k, t)``.
        probability: With which none of the others beats it in every target, shape ``(k,)``.
        balanced: Row of the mixture whose largest regret is smallest: regrets are distances from each target's smallest value on
            the front, in units of the front's range.
        natural: Expected targets of the natural mixture and their standard deviations, shape ``(2, t)``.
        kept: Probability that the limits of all targets are kept, shape ``(k,)``; ones without limits.
        surely: Where each limit is kept as surely as it asks, shape ``(k,)``.
    """

    weights: Mixtures
    means: NDArray[np.float64]
    stds: NDArray[np.float64]
    probability: NDArray[np.float64]
    balanced: int
    natural: NDArray[np.float64]
    kept: NDArray[np.float64]
    surely: NDArray[np.bool_]


def pareto_front(history: History, surrogate: Surrogate, simulations: int, size: int, rng: np.random.Generator) -> ParetoFront:
    """Simulate mixtures and keep the best trade-offs between the targets of a history.

    Where targets have limits, mixtures keep each of them as surely as it asks; if none does, they are those that come nearest.

    Args:
        history: Finished proxies, with two or more targets.
        surrogate: Fitted here.
        simulations: Mixtures of the first pass; the refinements add a half of it together.
        size: Most mixtures of the front that is returned.
        rng: Source of randomness.

    Raises:
        ValueError: If the history has one target only, or `size` is below 2.
        StudyError: If there are too few finished proxies to fit.
    """
    if len(history.targets) < 2 or size < 2:
        raise ValueError(f"a front needs two or more targets and members, got {len(history.targets)} and {size}")
    space = history.space
    models = TargetModel.several(history, surrogate)
    trained = space.project(history.mixtures)
    leaders = trained[layers(_expected(models, trained), LEADERS)]
    front = np.empty((0, space.dim))
    for i, wanted in enumerate(sizes(simulations, size)):
        left = wanted
        draw = partial(first_pass, space, leaders) if i == 0 else partial(around, space, front)
        while left > 0:
            drawn = draw(min(CHUNK, left), rng)
            left -= len(drawn)
            front = _front(models, history, np.concatenate([front, drawn]))
    means, stds = (np.stack(both, axis=1) for both in zip(*(model.moments(front) for model in models), strict=True))
    rows = _spread_out(means, size)
    rows = rows[np.argsort(means[rows, 0], kind="stable")]
    regret = _regrets(means[rows]).max(axis=1)
    limits = all_kept(models, front[rows])
    natural = np.array([model.moments(space.natural[None]) for model in models])[:, :, 0].T
    return ParetoFront(
        front[rows],
        means[rows],
        stds[rows],
        _probability(models, front[rows], rng),
        int(np.argmin(regret)),
        natural,
        np.exp(limits.log_probability),
        limits.surely,
    )


def _expected(models: Sequence[TargetModel], mixtures: Mixtures, losses: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Expected targets with the space's pull, shape ``(q, t)``, from one prediction of the losses."""
    losses = models[0].surrogate.predict(mixtures) if losses is None else losses
    return np.stack([combined(losses, model.terms) for model in models], axis=1) + _pull(models, mixtures)


def _pull(models: Sequence[TargetModel], mixtures: Mixtures) -> NDArray[np.float64]:
    return np.zeros((len(mixtures), 1)) if models[0].space is None else models[0].space.penalty(mixtures)[:, None]


def _front(models: Sequence[TargetModel], history: History, mixtures: Mixtures) -> Mixtures:
    """The non-dominated ones of mixtures, at most :data:`HELD`; of those that keep the limits and are far from what diverged."""
    losses = models[0].surrogate.predict(mixtures)
    violation = np.max([model.broken(losses) for model in models], axis=0)
    # Limits that are kept by expectation first: the joint probability costs a covariance. Where none is, those nearest to it.
    enough = np.partition(violation, min(HELD, len(violation) - 1))[min(HELD, len(violation) - 1)]
    rows = np.flatnonzero(violation <= (0.0 if (violation <= 0).any() else enough))
    safe = rows[trusted(mixtures[rows], history.diverged, history.mixtures, MARGIN)]
    rows = safe if len(safe) else rows
    values = _expected(models, mixtures[rows], losses[rows])
    if any(model.target.limits for model in models):
        rows, values = _sure(models, mixtures, rows, values)
    chosen = np.flatnonzero(non_dominated(values))
    if len(chosen) > HELD:
        chosen = chosen[_spread_out(values[chosen], HELD)]
    return mixtures[rows[chosen]]


def _sure(
    models: Sequence[TargetModel], mixtures: Mixtures, rows: NDArray[np.intp], values: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Of the rows, layer by layer of their values, those that keep every limit as surely as it asks."""
    looked = layers(values, 2 * HELD)
    short = all_kept(models, mixtures[rows[looked]]).short
    kept = looked[short <= max(0.0, float(short.min()))]
    return rows[kept], values[kept]


def _regrets(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from each column's smallest value in units of its range, shape ``(k, t)``."""
    low = values.min(axis=0)
    return (values - low) / np.maximum(values.max(axis=0) - low, 1e-12)


def _spread_out(values: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    """Rows far from each other on the front, among them the most balanced one and the best of every target."""
    regrets = _regrets(values)
    kept = dict.fromkeys([int(np.argmin(regrets.max(axis=1))), *(int(j) for j in regrets.argmin(axis=0))])
    rest = [i for i in range(len(values)) if i not in kept]
    order = np.array([*kept, *rest])
    if len(values) <= size:
        return order
    if len(kept) >= size:
        return order[:size]
    distance = np.linalg.norm(regrets[:, None] - regrets[list(kept)], axis=2).min(axis=1)
    chosen = list(kept)
    for _ in range(size - len(kept)):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(regrets - regrets[chosen[-1]], axis=1))
    return np.array(chosen)


def _probability(models: Sequence[TargetModel], mixtures: Mixtures, rng: np.random.Generator) -> NDArray[np.float64]:
    """Share of joint draws in which no other mixture is better in every target, shape ``(k,)``."""
    losses = models[0].surrogate.paths(DRAWS, rng)(mixtures)
    values = np.stack([combined(losses, model.terms) for model in models], axis=2)
    return np.mean([non_dominated(draw) for draw in values], axis=0)
