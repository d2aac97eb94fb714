"""Designs: sets of mixtures chosen without looking at any loss.

References:
    [1] Liu et al., RegMix: Data Mixture as Regression for Language Model Pre-training, arXiv 2407.01492, section 3.1 and the
        published mixture generator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import StrategyError
from regmix_active.mixture.space import Mixtures, MixtureSpace

STRENGTHS = np.geomspace(0.1, 5.0, 15)
"""Concentrations of RegMix's Dirichlet draws: from nearly one domain at a time to nearly the prior."""

COVER = 20
"""Sweeps of the walk of mixtures that should cover the feasible set, in whatever density."""

GRAIN = 2e-4
"""Smallest weight; all weights are multiples of it."""

MAX_USAGE = 15.0
"""No weight exceeds this multiple of the domain's natural share."""


def regmix_design(space: MixtureSpace, n: int, rng: np.random.Generator, *, oversample: int = 100) -> Mixtures:
    """The initial batch, sampled as RegMix does [1].

    The natural mixture is flattened by a square root; each draw is Dirichlet(prior x strength) with one of 15 strengths at
    random; draws with a weight above ``min(15 x natural, 1)`` are dropped; weights below 2e-4 become zero, the rest are rounded
    to multiples of 2e-4; near duplicates (L1 below 1e-5) are dropped; `n` of the `oversample` x `n` that remain are chosen.

    Returns:
        Mixtures, shape ``(n, d)``.

    Raises:
        StrategyError: If the cap leaves too little room to draw from.
    """
    # Constrained draws are walks, and hardly ever equal.
    draws = regmix_draws(space, n * (min(oversample, 8) if space.constrained else oversample), rng)
    if len(draws) < n:
        raise StrategyError(
            f"an initial batch of {n} was asked for, and only {len(draws)} different mixtures were found "
            + (
                "that the constraints allow; ask for fewer (search.initial), or loosen mixture.active and the caps"
                if space.constrained
                else f"below {MAX_USAGE:g} x the natural shares; give less extreme natural shares (corpus.domains.*.natural_share)"
            )
        )
    return draws[rng.choice(len(draws), size=n, replace=False)]


def regmix_draws(space: MixtureSpace, wanted: int, rng: np.random.Generator) -> Mixtures:
    """Different mixtures of RegMix's distribution: `wanted` draws, less if there is too little room, without repetitions.

    Among constraints the cap is one more, as far as it leaves anything; nothing is rejected then.
    """
    if not space.constrained:
        kept: list[Mixtures] = []
        for _ in range(50):
            draws = space.dirichlet(wanted, space.prior * rng.choice(STRENGTHS, size=(wanted, 1)), rng)
            kept.append(draws[below_cap(space, draws)])
            if sum(map(len, kept)) >= wanted:
                break
        rounded = round_to_grain(space, np.concatenate(kept)[:wanted])
        return rounded[distinct(rounded)]
    found = np.empty((0, space.dim))
    for inside in (space.capped(MAX_USAGE * space.natural), space):
        if len(found) < wanted / 2:
            draws = inside.dirichlet(wanted, space.prior * rng.choice(STRENGTHS, size=(wanted, 1)), rng)
            found = np.concatenate([found, round_to_grain(inside, draws)])
            found = found[distinct(found)]
    return found


def below_cap(space: MixtureSpace, mixtures: Mixtures) -> NDArray[np.bool_]:
    """Which mixtures have no weight above :data:`MAX_USAGE` times its natural share, shape ``(n,)``."""
    return np.asarray((mixtures <= np.minimum(MAX_USAGE * space.natural, 1.0)).all(axis=1))


def distinct(mixtures: Mixtures) -> NDArray[np.intp]:
    """Rows of the first of each set of equal mixtures among rounded ones, in their order, shape ``(k,)``."""
    # Rounded weights are multiples of the grain, so equal cells are what L1 < 1e-5 finds.
    _, first = np.unique(np.rint(mixtures / GRAIN).astype(np.int64), axis=0, return_index=True)
    return np.sort(first)


def round_to_grain(space: MixtureSpace, mixtures: Mixtures) -> Mixtures:
    """Zero weights below :data:`GRAIN`, round the rest to multiples of it, renormalise."""
    rows = space.project(np.where(mixtures < GRAIN, 0.0, mixtures))
    return space.project(np.rint(rows / GRAIN) * GRAIN)


def around(space: MixtureSpace, centres: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
    """Mixtures near given ones: Dirichlet draws of mixed tightness, a part of them on the centre's faces.

    A third keeps the centre's zeros, a third may leave them, and a third has a random half of the small weights set to zero, so
    that the optimum is approached from inside and along the faces.

    Returns:
        Mixtures, shape ``(n, d)``.
    """
    chosen = centres[rng.integers(len(centres), size=n)]
    tightness = np.exp(rng.uniform(np.log(10.0), np.log(2000.0), size=(n, 1)))
    kind = rng.integers(3, size=(n, 1))
    base = np.where(kind == 0, chosen, 0.97 * chosen + 0.03 * space.uniform)
    drop = (kind == 2) & (chosen < 0.5 / space.dim) & (rng.random(chosen.shape) < 0.5)
    base = space.project(np.where(drop, 0.0, base))
    return space.dirichlet(n, base * tightness, rng, sweeps=0)


def between(space: MixtureSpace, centres: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
    """Random points on the segments between given mixtures, shape ``(n, d)``."""
    a, b = centres[rng.integers(len(centres), size=n)], centres[rng.integers(len(centres), size=n)]
    t = rng.random((n, 1))
    return space.project(t * a + (1 - t) * b)


def spread(space: MixtureSpace, n: int, rng: np.random.Generator) -> Mixtures:
    """Mixtures all over the simplex: Dirichlet draws around the flattened natural mixture and around the uniform one, from
    single domains to near the centre, shape ``(n, d)``.
    """
    centre = np.where(rng.random((n, 1)) < 0.5, space.prior, space.uniform)
    strength = np.exp(rng.uniform(np.log(0.3), np.log(20.0 * space.dim), size=(n, 1)))
    return space.dirichlet(n, centre * strength, rng, sweeps=COVER)


def trusted(mixtures: Mixtures, diverged: Mixtures, finished: Mixtures, margin: float = 1.0) -> NDArray[np.bool_]:
    """Which mixtures are not closer to one that diverged than to any that finished, in total variation; shape ``(n,)``.

    A rule without a radius: where little is known, a divergence warns of all around it; an unlucky one between proxies that
    finished warns of almost nothing.

    Args:
        mixtures: Shape ``(n, d)``.
        diverged: Shape ``(f, d)``; may be empty.
        finished: Shape ``(m, d)``.
        margin: How many times as close one that finished must be.
    """
    if not len(diverged):
        return np.ones(len(mixtures), dtype=bool)
    return margin * _nearest(mixtures, finished) < _nearest(mixtures, diverged)


def _nearest(mixtures: Mixtures, others: Mixtures) -> NDArray[np.float64]:
    nearest = np.full(len(mixtures), np.inf)
    for other in others:  # one by one: all pairs of a hundred thousand candidates would not fit
        np.minimum(nearest, np.abs(mixtures - other).sum(axis=1), out=nearest)
    return nearest


def farthest_first(points: NDArray[np.float64], n: int, opens: NDArray[np.int64] | None = None) -> list[int]:
    """Rows far from each other: the first, then always the one farthest from all before it (Kennard and Stone, 1969).

    Args:
        points: Shape ``(q, d)``.
        n: How many, at most q.
        opens: From which step on each may be chosen, shape ``(q,)``.
    """
    chosen = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    for step in range(1, n):
        chosen.append(int(np.argmax(distance if opens is None else np.where(opens <= step, distance, -np.inf))))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen
