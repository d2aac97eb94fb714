"""Functions drawn from the posterior, each with an optimum of its own: what the answer might have been.

References:
    [1] Thompson, On the Likelihood that One Unknown Probability Exceeds Another, Biometrika 25, 1933.
    [2] Hernández-Lobato, Hoffman and Ghahramani, Predictive Entropy Search, NeurIPS 2014: the distribution of the optimum by optima
        of functions drawn from the posterior.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Optima:
    """The best mixture of every drawn function.

    Attributes:
        mixtures: Shape ``(s, d)``.
        targets: Its target under the draw, with the space's pull, shape ``(s,)``.
    """

    mixtures: Mixtures
    targets: Array


class Draws:
    """Functions of the posterior: targets of any mixtures under each of them, with the space's pull."""

    def __init__(self, model: TargetModel, n: int, rng: np.random.Generator) -> None:
        """Draw.

        Args:
            model: Fitted.
            n: How many functions.
            rng: Source of randomness.
        """
        self._paths = model.paths_and_violations(n, rng)

    def targets(self, mixtures: Mixtures) -> Array:
        """Targets of mixtures ``(q, d)`` under every draw, whether limits are kept or not, shape ``(s, q)``."""
        return self._both(mixtures)[0]

    def ranked(self, mixtures: Mixtures) -> Array:
        """Targets by which mixtures ``(q, d)`` are ranked, far above where a draw breaks a limit, shape ``(s, q)``."""
        targets, broken = self._both(mixtures)
        return targets + BROKEN * broken

    def optima(self, space: MixtureSpace, pool: Mixtures, rng: np.random.Generator) -> Optima:
        """Every draw's best mixture of a pool ``(q, d)`` and of the neighbourhoods of such best ones."""
        best, least, targets = self._best(pool)
        for _ in range(ROUNDS):
            near, lower, here = self._best(around(space, np.unique(best, axis=0), REFINED, rng))
            better = lower < least
            best = np.where(better[:, None], near, best)
            least, targets = np.where(better, lower, least), np.where(better, here, targets)
        return Optima(best, targets)

    def _both(self, mixtures: Mixtures) -> tuple[Array, Array]:
        """Targets and what is broken of limits, both ``(s, q)``."""
        return self._paths(mixtures)

    def _best(self, mixtures: Mixtures) -> tuple[Mixtures, Array, Array]:
        """Each draw's best of some mixtures, what it is ranked by, and its target."""
        targets, broken = self._both(mixtures)
        ranked = targets + BROKEN * broken
        rows = ranked.argmin(axis=1)
        draws = np.arange(len(rows))
        return mixtures[rows], ranked[draws, rows], targets[draws, rows]


def votes(values: Array, k: int) -> Array:
    """How many draws ``(s, q)`` have each mixture among their best `k`, shape ``(q,)`` [1]."""
    k = min(k, values.shape[1])
    chosen = np.argpartition(values, k - 1, axis=1)[:, :k]
    return np.bincount(chosen.ravel(), minlength=values.shape[1]).astype(np.float64)
