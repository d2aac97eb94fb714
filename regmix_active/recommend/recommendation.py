"""The answer of a search: the found mixture, what is expected of it and of its rivals, and how far that can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.space import Mixtures
from regmix_active.study.history import History
from regmix_active.study.noise import SeedNoise

if TYPE_CHECKING:
    from regmix_active.recommend.pareto import ParetoFront


@dataclass(frozen=True)
class Prediction:
    """What the surrogate expects of one mixture.

    Attributes:
        weights: Shape ``(d,)``.
        mean: Expected target, in its unit.
        std: Standard deviation of that expectation (doubt about the loss without the noise of seeds).
        losses: Expected loss per domain, nats per token, shape ``(m,)``.
        losses_std: Its standard deviation, shape ``(m,)``.
        allowed: Whether the mixture satisfies the constraints.
    """

    weights: NDArray[np.float64]
    mean: float
    std: float
    losses: NDArray[np.float64]
    losses_std: NDArray[np.float64]
    allowed: bool = True


@dataclass(frozen=True)
class Doubt:
    """How far an answer can be trusted; see :mod:`regmix_active.recommend.doubt`.

    Attributes:
        level: Probability of the intervals.
        interval: Where the noise-free target of the found mixture lies for the study's own seed, low and high, in its unit.
        fresh: Where the target of one new training with another seed lies; None while no mixture was trained with two seeds.
        weights: Where the weights of the best mixture lie, shape ``(d, 2)``.
        beats_natural: Probability that the found mixture has a smaller target than the natural one.
        beats_best: Probability that it has a smaller one than the best trained mixture.
        regret: What perfect knowledge of all mixtures would gain on average, in the target's unit, as the surrogate believes.
        limits: Probability that all limits of the target are kept; one without limits.
        nearest: Total variation to the nearest trained mixture: the share of the tokens that would have to change their domain.
        nearest_slot: Its slot.
        next_runs: The mixtures whose proxies would reduce the doubt about the best region most, shape ``(k, d)``.
        next_std: What would be left of the found mixture's doubt after them, as a share.
        noise: What a seed does to losses, from mixtures that were trained with several; None while there are none.
    """

    level: float
    interval: tuple[float, float]
    fresh: tuple[float, float] | None
    weights: NDArray[np.float64]
    beats_natural: float
    beats_best: float
    regret: float
    limits: float
    nearest: float
    nearest_slot: int
    next_runs: Mixtures
    next_std: float
    noise: SeedNoise | None = None

    @property
    def std(self) -> float:
        """Standard deviation of the noise-free target of the found mixture, as wide as :attr:`interval` makes it."""
        low, high = self.interval
        return (high - low) / 2 / NormalDist().inv_cdf(0.5 + self.level / 2)


@dataclass(frozen=True)
class Recommendation:
    """The found mixture beside those it should beat.

    Attributes:
        history: What it was learnt from, as it was recorded.
        surrogate: Name of the surrogate.
        found: The average of the best simulated mixtures.
        natural: The mixture that the data has by itself.
        uniform: Equal weights.
        best_trained: Mixture of the finished proxy with the smallest target.
        best_slot: That proxy's slot.
        best_value: The target that it showed, in its unit.
        simulated: Number of mixtures simulated.
        averaged: Number of mixtures averaged.
        rule: By what simulated mixtures were ranked.
        notes: What the user should know of how it was found, a sentence each.
        doubt: How far it can be trusted.
        pareto: The trade-offs, where several targets were asked for; the found mixture is the balanced one of them, and nothing is
            told of its doubt in any single target.
        names: What the several targets are called.
        choice: Why the surrogate stands for which other one, if it chose one.
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
    rule: str = "bound"
    notes: tuple[str, ...] = ()
    doubt: Doubt | None = None
    pareto: ParetoFront | None = None
    names: tuple[str, ...] = ()
    choice: str = ""

    @property
    def weights(self) -> dict[str, float]:
        """The found mixture by domain."""
        return self.history.space.as_dict(self.found.weights)
