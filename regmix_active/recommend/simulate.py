"""The answer of a search: many simulated mixtures, the best of them averaged.

References:
    [1] Liu et al., RegMix, arXiv 2407.01492, section 3.3: 100,000 simulated mixtures, the mean of the best 128.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.designs import around, between, spread, trusted
from regmix_active.mixture.space import Mixtures
from regmix_active.study.history import History
from regmix_active.surrogate.base import Surrogate
from regmix_active.surrogate.belief import TargetModel, target_std

CHUNK = 32_768
"""Mixtures simulated at once: memory does not grow with the number of simulations."""

PASSED = 2048
"""Mixtures of a pass whose doubt is looked at."""

MARGIN = 4.0
"""The answer is nearer to proxies that finished than to any that diverged, by this factor; a proposal may go half way."""

REFINEMENTS = 3
"""Times that the neighbourhood of the best simulated mixtures is simulated again."""


@dataclass(frozen=True)
class Prediction:
    """What the surrogate expects of one mixture.

    Attributes:
        weights: Shape ``(d,)``.
        mean: Expected target, nats per token.
        std: Standard deviation of that expectation (doubt about the loss without the noise of seeds).
        losses: Expected loss per domain, nats per token, shape ``(m,)``.
        losses_std: Its standard deviation, shape ``(m,)``.
    """

    weights: NDArray[np.float64]
    mean: float
    std: float
    losses: NDArray[np.float64]
    losses_std: NDArray[np.float64]


@dataclass(frozen=True)
class Recommendation:
    """The found mixture beside those it should beat.

    Attributes:
        history: What it was learnt from.
        surrogate: Name of the surrogate.
        found: The average of the best simulated mixtures.
        natural: The mixture that the data has by itself.
        uniform: Equal weights.
        best_trained: Mixture of the finished proxy with the smallest target.
        best_slot: That proxy's slot.
        best_value: The target that it showed, nats per token.
        simulated: Number of mixtures simulated.
        averaged: Number of mixtures averaged.
    """

    history: History
    surrogate: str
    found: Prediction
    natural: Prediction
    uniform: Prediction
    best_trained: Prediction
    best_slot: int
    best_value: float
    simulated: int
    averaged: int

    @property
    def weights(self) -> dict[str, float]:
        """The found mixture by domain."""
        return self.history.space.as_dict(self.found.weights)


def recommend(
    history: History, surrogate: Surrogate, simulations: int, top_k: int, rng: np.random.Generator, caution: float = 1.0
) -> Recommendation:
    """Fit the surrogate to all finished proxies, simulate the simplex and average the best mixtures.

    A quarter of the mixtures is drawn around the natural one as RegMix does [1], a quarter all over the simplex, the rest around
    and between the best trained proxies; then the neighbourhood of the best is simulated again. An active search knows more about
    that region than a hundred thousand blind draws would hit.

    The best of many predictions are also the luckiest ones. So mixtures are passed on by their expected target, and those that
    pass are ranked by what it may well be: the expectation and `caution` standard deviations.

    Args:
        history: Finished proxies.
        surrogate: Fitted here.
        simulations: Number of mixtures of the first pass; the refinements add a half of it together.
        top_k: Number of mixtures that are averaged.
        rng: Source of randomness.
        caution: Standard deviations that count as loss; 0 is RegMix's rule.

    Raises:
        StudyError: If there are too few finished proxies to fit.
    """
    space, target = history.space, history.target
    # Losses that the target does not weigh are fitted once, for the table, not simulated a hundred thousand times.
    model = TargetModel(surrogate, target.weights).fit(history.mixtures, history.losses)
    leaders = history.mixtures[np.argsort(model.predict(history.mixtures), kind="stable")[:16]]

    def first(n: int) -> Mixtures:
        quarter = n // 4
        parts = [space.dirichlet(quarter, space.natural, rng), spread(space, quarter, rng), around(space, leaders, quarter, rng)]
        return np.concatenate([*parts, between(space, leaders, n - 3 * quarter, rng)])

    best, values, simulated = np.empty((0, space.dim)), np.empty(0), 0
    sizes = [simulations] + [max(simulations // (2 * REFINEMENTS), top_k)] * REFINEMENTS
    for i, size in enumerate(sizes):
        draw = first if i == 0 else partial(around, space, best, rng=rng)
        passed = _passed(model, draw, size, max(PASSED, top_k))
        safe = trusted(passed, history.diverged, history.mixtures, MARGIN)
        passed = passed[safe] if safe.any() else passed
        simulated += size
        worst = model.pessimistic(passed, caution) if caution else model.predict(passed)
        best, values = _smallest(np.concatenate([best, passed]), np.concatenate([values, worst]), top_k)
    found = space.project(best.mean(axis=0))[0]
    if not trusted(found[None], history.diverged, history.mixtures, MARGIN)[0]:  # good mixtures on two sides of bad ones
        found = best[0]
    if (target.weights == 0).any():
        surrogate.fit(history.mixtures, history.losses)
    return judge(history, surrogate, found, simulated, len(best))


def _passed(model: TargetModel, draw: Callable[[int], Mixtures], size: int, n: int) -> Mixtures:
    """The `n` of `size` drawn mixtures with the smallest expected target, in chunks: memory does not grow with `size`."""
    best, values = draw(0), np.empty(0)
    while size > 0:
        drawn = draw(min(CHUNK, size))
        size -= len(drawn)
        best, values = _smallest(np.concatenate([best, drawn]), np.concatenate([values, model.predict(drawn)]), n)
    return best


def judge(history: History, surrogate: Surrogate, found: NDArray[np.float64], simulated: int, averaged: int) -> Recommendation:
    """What a fitted surrogate expects of a mixture, beside those that it should beat.

    Args:
        history: Finished proxies that the surrogate was fitted to.
        surrogate: Fitted.
        found: The mixture, shape ``(d,)``.
        simulated: Number of mixtures that were simulated for it.
        averaged: Number of mixtures that were averaged for it.
    """
    space, target = history.space, history.target
    trained = history.mixtures[history.best]
    rows = np.stack([found, space.natural, space.uniform, trained])
    posterior = surrogate.posterior(rows)
    means, stds = target(posterior.mean), target_std(posterior, target.weights)
    predictions = [
        Prediction(row, float(mean), float(std), losses, losses_std)
        for row, mean, std, losses, losses_std in zip(rows, means, stds, posterior.mean, np.sqrt(posterior.variance), strict=True)
    ]
    return Recommendation(
        history=history,
        surrogate=surrogate.name,
        found=predictions[0],
        natural=predictions[1],
        uniform=predictions[2],
        best_trained=predictions[3],
        best_slot=int(history.slots[history.best]),
        best_value=float(history.values[history.best]),
        simulated=simulated,
        averaged=averaged,
    )


def _smallest(mixtures: Mixtures, values: NDArray[np.float64], k: int) -> tuple[Mixtures, NDArray[np.float64]]:
    order = np.argsort(values, kind="stable")[:k]
    return mixtures[order], values[order]
