"""Functions drawn from the posterior, each with an optimum of its own: what the answer might have been.

References:
    [1] Thompson, On the Likelihood that One Unknown Probability Exceeds Another, Biometrika 25, 1933.
    [2] Hernández-Lobato, Hoffman and Ghahramani, Predictive Entropy Search, NeurIPS 2014: the distribution of the optimum by optima
        of functions drawn from the posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.designs import around
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.surrogate.belief import TargetModel

Array = NDArray[np.float64]

ROUNDS = 2
"""Times that the neighbourhood of the draws' optima is looked at again."""

REFINED = 1024
"""Mixtures of such a look, for all draws together."""

BROKEN = 1e6
"""What a nat beyond a limit counts beside targets, so that mixtures that keep all limits come first."""

Drawn = Callable[[Mixtures], Array]
"""Targets of mixtures ``(q, d)`` under every draw, shape ``(s, q)``, with the space's pull; far above where a limit is broken."""


@dataclass(frozen=True)
class Optima:
    """The best mixture of every drawn function.

    Attributes:
        mixtures: Shape ``(s, d)``.
        values: Its target under the draw, shape ``(s,)``.
    """

    mixtures: Mixtures
    values: Array


def drawn_targets(model: TargetModel, n: int, rng: np.random.Generator, scale: float = 1.0) -> Drawn:
    """`n` functions of the posterior.

    Args:
        model: Fitted.
        n: How many.
        rng: Source of randomness.
        scale: Factor on their distance from the expected target, for a posterior that is too sure of itself.
    """
    both = model.paths_and_violations(n, rng)

    def values(mixtures: Mixtures) -> Array:
        targets, broken = both(mixtures)
        if scale != 1.0:
            expected = model.predict(mixtures)
            targets = expected + scale * (targets - expected)
        return targets + BROKEN * broken

    return values


def optima(space: MixtureSpace, drawn: Drawn, pool: Mixtures, rng: np.random.Generator) -> Optima:
    """Every draw's best mixture of a pool ``(q, d)`` and of the neighbourhoods of such best ones."""
    values = drawn(pool)
    first = values.argmin(axis=1)
    best, least = pool[first], values.min(axis=1)
    for _ in range(ROUNDS):
        near = around(space, np.unique(best, axis=0), REFINED, rng)
        values = drawn(near)
        better = values.min(axis=1) < least
        best = np.where(better[:, None], near[values.argmin(axis=1)], best)
        least = np.minimum(least, values.min(axis=1))
    return Optima(best, least)


def votes(values: Array, k: int) -> Array:
    """How many draws ``(s, q)`` have each mixture among their best `k`, shape ``(q,)`` [1]."""
    k = min(k, values.shape[1])
    chosen = np.argpartition(values, k - 1, axis=1)[:, :k]
    return np.bincount(chosen.ravel(), minlength=values.shape[1]).astype(np.float64)
