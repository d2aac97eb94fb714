"""Initial designs: the mixtures that are trained before any loss is known.

Beside RegMix's random draws stand two designs that choose from many such draws. Distances and polynomials are those of the cube
roots of the weights, the coordinates in which losses are smooth: a domain's first percent changes them as much as its last ten.

Every design is a sequence: its first mixtures are a design themselves, so it does not matter in how many rounds it trains.

References:
    [1] Kennard and Stone, Computer Aided Design of Experiments, Technometrics 11, 1969.
    [2] Johnson, Moore and Ylvisaker, Minimax and Maximin Distance Designs, Journal of Statistical Planning and Inference 26, 1990.
    [3] DuMouchel and Jones, A Simple Bayesian Modification of D-Optimal Designs to Reduce Dependence on an Assumed Model,
        Technometrics 36, 1994.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import StrategyError
from regmix_active.mixture.designs import below_cap, distinct, farthest_first, regmix_design, regmix_draws, round_to_grain, spread
from regmix_active.mixture.space import Mixtures, MixtureSpace

BLOCK = 32
"""Mixtures of a design that are chosen from the same pool; then the pool grows, so that a longer design begins with the shorter."""

CHOICES = 4
"""Mixtures in the pool for each that is chosen. From many more, designs pick extremes that nobody would use, which teach less: off
the published runs and with 24 and 64 domains, 16 mixtures of 128 led to better answers than 16 of 2,048."""

PRIOR_VARIANCE = 100.0
"""Prior variance of a coefficient of the D-optimal design's polynomial, in units of the observation noise."""

Design = Callable[[MixtureSpace, int, np.random.Generator], Mixtures]
"""A space, the number of mixtures n and a generator → mixtures ``(n, d)``."""


def maximin_design(space: MixtureSpace, n: int, rng: np.random.Generator) -> Mixtures:
    """Mixtures far from each other: next comes always the one farthest from all before it [1], which nearly maximises the
    smallest distance [2]. The natural mixture is the first.

    Returns:
        Mixtures, shape ``(n, d)``.

    Raises:
        StrategyError: If the pool holds fewer different mixtures.
    """
    pool, opens = _pool(space, n, rng)
    return pool[farthest_first(np.cbrt(pool), n, opens)]


def d_optimal_design(space: MixtureSpace, n: int, rng: np.random.Generator) -> Mixtures:
    """Mixtures that determine a quadratic best: next comes always the one whose loss the polynomial of those before it knows
    least, which is the one that raises the information's determinant most. The natural mixture is the first.

    The polynomial has a constant, a linear and a square term per domain. Its coefficients have a prior [3], without which a
    design of fewer mixtures than coefficients would be singular.

    Returns:
        Mixtures, shape ``(n, d)``.

    Raises:
        StrategyError: If the pool holds fewer different mixtures.
    """
    pool, opens = _pool(space, n, rng)
    points = np.cbrt(pool)
    terms = np.concatenate([np.ones((len(pool), 1)), points, points**2], axis=1)
    covariance = PRIOR_VARIANCE * np.eye(terms.shape[1])
    variance = PRIOR_VARIANCE * (terms**2).sum(axis=1)
    free = np.ones(len(pool), dtype=bool)
    chosen: list[int] = []
    for step in range(n):
        # The observation noise has variance 1: the determinant grows by the factor 1 + variance (matrix determinant lemma).
        chosen.append(int(np.argmax(np.where(free & (opens <= step), variance, -np.inf))) if step else 0)
        free[chosen[-1]] = False
        known = covariance @ terms[chosen[-1]] / np.sqrt(1 + variance[chosen[-1]])
        covariance -= np.outer(known, known)
        variance -= (terms @ known) ** 2
    return pool[chosen]


INITIAL_DESIGNS: dict[str, Design] = {"regmix": regmix_design, "maximin": maximin_design, "d-optimal": d_optimal_design}
"""What ``search.initial_design`` calls them."""


def _pool(space: MixtureSpace, n: int, rng: np.random.Generator) -> tuple[Mixtures, NDArray[np.int64]]:
    """Different mixtures to choose from, and the step from which each may be chosen, shapes ``(q, d)`` and ``(q,)``.

    The natural mixture, then blocks: half RegMix's draws, half spread over the feasible set. RegMix's cap holds for all of them.
    Without it designs of this kind train rare domains alone, whose losses tell little about the mixtures that anybody would use.
    """
    half = CHOICES * BLOCK // 2
    parts, opens = [space.project(space.natural)], [np.zeros(1, dtype=np.int64)]
    for start in range(0, n, BLOCK):
        scattered = spread(space, 8 * half, rng)
        scattered = (scattered if space.constrained else scattered[below_cap(space, scattered)])[:half]
        block = np.concatenate([regmix_draws(space, half, rng), round_to_grain(space, scattered)])
        parts.append(block)
        opens.append(np.full(len(block), start))
    pool = np.concatenate(parts)
    rows = distinct(pool)
    pool, opened = pool[rows], np.concatenate(opens)[rows]
    if len(pool) < n or (np.searchsorted(opened, np.arange(n), side="right") <= np.arange(n)).any():
        raise StrategyError(
            f"an initial design of {n} mixtures was asked for, and only {len(pool)} different ones were found "
            + ("that the constraints allow" if space.constrained else "below the cap on natural shares")
            + "; ask for fewer (search.initial), or "
            + ("loosen mixture.active and the caps" if space.constrained else "give less extreme natural shares")
        )
    return pool, opened
