"""Candidates: the mixtures among which an acquisition strategy chooses.

A structured pool covers the feasible set, the neighbourhood of the best proxies, and faces and corners, where optima of mixtures
lie. Where the surrogate has gradients, the best of the pool then climb to the local maxima of the score.

References:
    [1] Kivinen and Warmuth, Exponentiated Gradient versus Gradient Descent for Linear Predictors, Information and Computation 132,
        1997: steps that multiply weights stay on the simplex and on its faces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.designs import around, between, spread
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.surrogate.belief import TargetBelief, TargetModel

Score = Callable[[TargetBelief], NDArray[np.float64]]
Bound = Callable[[Mixtures, NDArray[np.float64]], NDArray[np.float64]]
"""Mixtures ``(s, d)`` and their scores ``(s,)`` → scores with what limits make of them."""

RESOLUTION = 1e-4
"""Mixtures whose weights agree to this are the same proxy."""

STEPS = 20
"""Gradient steps of a climb."""


def structured_pool(space: MixtureSpace, leaders: Mixtures, size: int, rng: np.random.Generator) -> Mixtures:
    """Mixtures all over the feasible set, around and between the leaders, the corners, the natural and the uniform mixture.

    Returns:
        Mixtures, shape ``(q, d)``; `size` of them and some more.
    """
    half, quarter = size // 2, size // 4
    landmarks = np.concatenate([np.eye(space.dim), space.natural[None], space.uniform[None]])
    return np.concatenate(
        [
            spread(space, half, rng),
            around(space, leaders, quarter, rng),
            between(space, leaders, quarter, rng),
            allowed(space, landmarks),
        ]
    )


def allowed(space: MixtureSpace, mixtures: Mixtures) -> Mixtures:
    """Mixtures of the simplex as the nearest ones of the feasible set, shape ``(n, d)``; untouched where that is the simplex."""
    return space.project(mixtures) if space.constrained else mixtures


def likely(log_kept: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which candidates are likely enough to keep a target's limits to be trained, shape ``(q,)``.

    Those that rather keep them than not: proxies on both sides of a limit tell where it is, which a margin would never learn. Where
    no candidate is likely to, those within a factor of two of the likeliest one: the search goes to where limits may be kept.

    Args:
        log_kept: Log-probability that all limits are kept, shape ``(q,)``.
    """
    mask: NDArray[np.bool_] = log_kept >= likely_bar(log_kept)
    return mask


def likely_bar(log_kept: NDArray[np.float64]) -> float:
    """The log-probability from which on a candidate is :func:`likely` enough."""
    highest = float(log_kept.max(initial=-np.inf))
    return np.log(0.5) if highest >= np.log(0.5) else highest - np.log(2)


def untaken(candidates: Mixtures, taken: Mixtures) -> Mixtures:
    """Candidates that are neither trained, pending nor listed before, in their order, shape ``(q, d)``.

    On a face or at a corner of the simplex many draws coincide, and the same proxy trained twice teaches nothing.
    """
    cells = np.rint(np.concatenate([taken, candidates]) / RESOLUTION).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return candidates[np.sort(first[first >= len(taken)]) - len(taken)]


def climb(
    space: MixtureSpace,
    model: TargetModel,
    score: Score,
    best: float,
    noise: float,
    starts: Mixtures,
    bound: Bound | None = None,
) -> Mixtures:
    """Local maxima of the score that gradient steps reach from given mixtures.

    The score of a mixture may depend on its own mean and standard deviation only; its derivatives by these are taken by
    differences, so that any score can climb, those of the surrogate by the weights are exact. A step multiplies the weights [1]: it
    stays on the face where it starts (the pool has starts on all kinds of faces), is brought back into the feasible set, and is
    taken only where the score rises.

    Args:
        space: The feasible set.
        model: Fitted, with a differentiable surrogate.
        score: The acquisition.
        best: Smallest expected target so far, as in :class:`TargetBelief`.
        noise: Standard deviation that a seed adds to the target.
        starts: Shape ``(s, d)``, feasible.
        bound: What limits make of scores; a climb goes up the score's own slope and stops where they take more than it gains.

    Returns:
        Mixtures, shape ``(s, d)``.
    """

    def evaluate(mixtures: Mixtures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score ``(s,)`` and its derivative by the weights ``(s, d)``."""
        mean, variance, mean_slope, variance_slope = model.gradients(mixtures)
        std = np.sqrt(np.maximum(variance, 1e-18))
        belief = TargetBelief(mixtures, mean, std, best, noise, _no_covariance)
        by_mean, by_std = (_slope(score, belief, name, 1e-4 * std) for name in ("mean", "std"))
        slope = by_mean[:, None] * mean_slope + by_std[:, None] * variance_slope / (2 * std[:, None])
        height = np.nan_to_num(score(belief), nan=-np.inf)
        return height if bound is None else bound(mixtures, height), np.nan_to_num(slope)

    here = starts.copy()
    height, slope = evaluate(here)
    rate = np.ones(len(here))
    for _ in range(STEPS):
        # Relative to the mean slope, since weights sum to one; scaled so that no weight changes more than e-fold in a step.
        free = slope - (slope * here).sum(axis=1, keepdims=True)
        free /= np.maximum(np.abs(np.where(here > 0, free, 0)).max(axis=1, keepdims=True), 1e-300)
        there = space.project(here * np.exp(np.minimum(rate[:, None] * free, 1.0)))
        there = space.project(np.where(there < RESOLUTION, 0.0, there))
        new_height, new_slope = evaluate(there)
        better = new_height > height
        here[better], height[better], slope[better] = there[better], new_height[better], new_slope[better]
        rate = np.where(better, np.minimum(1.5 * rate, 1.0), rate / 3)
    return here


def _slope(score: Score, belief: TargetBelief, name: str, step: NDArray[np.float64]) -> NDArray[np.float64]:
    value = getattr(belief, name)
    up, down = (score(dataclasses.replace(belief, **{name: value + sign * step})) for sign in (1, -1))
    return (up - down) / (2 * step)


def _no_covariance(rows: NDArray[np.intp]) -> NDArray[np.float64]:
    raise ValueError("the score of a climbing candidate knows no other candidates; set `pointwise = False` on the strategy's class")
