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

from regmix_active.errors import StrategyError
from regmix_active.mixture.designs import below_cap, regmix_design, regmix_draws, round_to_grain, spread, without_repetitions
from regmix_active.mixture.space import Mixtures, MixtureSpace

POOL = 2048
"""Mixtures that a design chooses from. One number for all design sizes, so that a longer design begins with the shorter one."""

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
    pool = _pool(space, n, rng)
    points = np.cbrt(pool)
    chosen = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < n:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return pool[chosen]


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
    pool = _pool(space, n, rng)
    points = np.cbrt(pool)
    terms = np.concatenate([np.ones((len(pool), 1)), points, points**2], axis=1)
    covariance = PRIOR_VARIANCE * np.eye(terms.shape[1])
    variance = PRIOR_VARIANCE * (terms**2).sum(axis=1)
    free = np.ones(len(pool), dtype=bool)
    chosen: list[int] = []
    for step in range(n):
        # The observation noise has variance 1: the determinant grows by the factor 1 + variance (matrix determinant lemma).
        chosen.append(int(np.argmax(np.where(free, variance, -np.inf))) if step else 0)
        free[chosen[-1]] = False
        known = covariance @ terms[chosen[-1]] / np.sqrt(1 + variance[chosen[-1]])
        covariance -= np.outer(known, known)
        variance -= (terms @ known) ** 2
    return pool[chosen]


INITIAL_DESIGNS: dict[str, Design] = {"regmix": regmix_design, "maximin": maximin_design, "d-optimal": d_optimal_design}
"""What ``search.initial_design`` calls them."""


def _pool(space: MixtureSpace, n: int, rng: np.random.Generator) -> Mixtures:
    """Different mixtures to choose from: the natural one, then half RegMix's draws, half spread over the feasible set; ``(q, d)``.

    RegMix's cap holds for all of them. Without it designs of this kind train rare domains alone, whose losses tell little about
    the mixtures that anybody would use.
    """
    size = max(POOL, 4 * n)
    scattered = spread(space, 4 * size, rng)
    scattered = scattered[below_cap(space, scattered)][: size // 2]
    pool = np.concatenate([space.natural[None], regmix_draws(space, size // 2, rng), round_to_grain(space, scattered)])
    pool = without_repetitions(pool)
    if len(pool) < n:
        raise StrategyError(
            f"an initial design of {n} mixtures was asked for, and only {len(pool)} different ones were found below the cap on "
            "natural shares; ask for fewer (search.initial), or give less extreme natural shares"
        )
    return pool
