"""What is simulated, for one target and for trade-offs between several alike: a first pass, then the neighbourhood of the best."""

from __future__ import annotations

import numpy as np

from regmix_active.mixture.designs import COVER, around, between, spread
from regmix_active.mixture.space import Mixtures, MixtureSpace

MARGIN = 4.0
"""The answer is nearer to proxies that finished than to any that diverged, by this factor; a proposal may go half way."""

REFINEMENTS = 3
"""Times that the neighbourhood of the best simulated mixtures is simulated again."""


def first_pass(space: MixtureSpace, leaders: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
    """A quarter around the natural mixture, a quarter all over the feasible set, the rest around and between leaders, ``(n, d)``.

    Args:
        space: The feasible set.
        leaders: The best trained mixtures, feasible, shape ``(k, d)``.
        n: How many.
        rng: Source of randomness.
    """
    quarter = n // 4
    natural = space.dirichlet(quarter, space.natural, rng, sweeps=COVER)
    parts = [natural, spread(space, quarter, rng), around(space, leaders, quarter, rng)]
    return np.concatenate([*parts, between(space, leaders, n - 3 * quarter, rng)])


def sizes(simulations: int, least: int) -> list[int]:
    """Mixtures of the first pass and of the refinements, which add a half of it together, but each at least so many."""
    return [simulations] + [max(simulations // (2 * REFINEMENTS), least)] * REFINEMENTS
