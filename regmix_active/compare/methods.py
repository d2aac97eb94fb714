"""What plays a replay: methods that choose mixtures, round by round, and name the one that they recommend.

A method knows the feasible set, the target and the runs that were trained for it, all of them in a :class:`History`. The truth
stays with the game. Strategies of ours play as they would search; rivals are in :mod:`regmix_active.compare.rivals`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regmix_active.config.recommend import RecommendConfig
from regmix_active.mixture.designs import regmix_design
from regmix_active.mixture.initial import INITIAL_DESIGNS
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.recommend.simulate import recommend
from regmix_active.strategies import Strategy, load_strategy
from regmix_active.strategies.base import AcquisitionStrategy
from regmix_active.strategies.dirichlet import Dirichlet
from regmix_active.study.history import History
from regmix_active.surrogate.base import Array
from regmix_active.surrogate.registry import load_surrogate

Rows = NDArray[np.intp]


class Method(ABC):
    """One player of one search; it may remember what it proposed.

    Games begin with the same random mixtures for every method that has no better idea, ask for the rest in rounds, and show every
    result.
    """

    plans_budget: ClassVar[bool] = False
    """Whether what is trained depends on how much there will be, so that a smaller budget is another search."""

    published_budgets: ClassVar[tuple[int, ...]] = ()
    """Budgets of the method's authors, for methods that plan theirs."""

    def rounds(self, initial: int, batch: int, budget: int) -> list[int]:
        """Sizes of the rounds, the first of random mixtures; their sum is `budget`."""
        sizes = [min(initial, budget)]
        while (left := budget - sum(sizes)) > 0:
            sizes.append(min(batch, left))
        return sizes

    def begin(self, space: MixtureSpace, n: int, rng: np.random.Generator) -> Mixtures | None:
        """The `n` mixtures of the first round, where they may be any; default: the random ones that the game has for its seed."""
        return None

    @abstractmethod
    def propose(self, history: History, n: int, rng: np.random.Generator) -> Mixtures:
        """The next `n` mixtures, any of the feasible set, shape ``(n, d)``."""

    @abstractmethod
    def select(self, history: History, candidates: Mixtures, n: int, rng: np.random.Generator) -> Rows:
        """The next `n` of given candidates ``(q, d)`` that are not trained yet; their rows, shape ``(n,)``."""

    def recommend(self, history: History, rng: np.random.Generator) -> Array:
        """The answer, shape ``(d,)``: the best trained mixture, unless the method has a better idea."""
        best: Array = history.mixtures[history.best]
        return best


class Searching(Method):
    """A strategy of ours: proposes as in a search, answers by simulation through its surrogate."""

    def __init__(self, strategy: str, surrogate: str, initial_design: str) -> None:
        """Load the parts by name.

        Args:
            strategy: A name, or ``path/to/file.py:Name``.
            surrogate: A name.
            initial_design: A name.

        Raises:
            StrategyError: If there is no such strategy.
            ConfigError: If there is no such surrogate.
        """
        self.surrogate = load_surrogate(surrogate)
        self.strategy: Strategy = load_strategy(strategy, surrogate=self.surrogate)
        self.initial_design = INITIAL_DESIGNS[initial_design]

    def begin(self, space: MixtureSpace, n: int, rng: np.random.Generator) -> Mixtures | None:
        """The initial design."""
        return None if self.initial_design is regmix_design else self.initial_design(space, n, rng)

    def propose(self, history: History, n: int, rng: np.random.Generator) -> Mixtures:
        """See :meth:`Strategy.propose`; nothing is pending, because rounds end before the next begins."""
        return history.space.check(self.strategy.propose(history, _none(history), n, rng))

    def select(self, history: History, candidates: Mixtures, n: int, rng: np.random.Generator) -> Rows:
        """See :meth:`AcquisitionStrategy.select`; any other strategy gets the rows nearest to what it proposes."""
        if isinstance(self.strategy, Dirichlet):  # its proposals are random; the nearest rows to them would be outliers
            return rng.choice(len(candidates), size=n, replace=False)
        if isinstance(self.strategy, AcquisitionStrategy):
            return self.strategy.select(history, _none(history), candidates, n, rng)
        return nearest(self.propose(history, n, rng), candidates)

    def recommend(self, history: History, rng: np.random.Generator) -> Array:
        """As ``regmix-active run`` does."""
        settings = RecommendConfig()
        return recommend(history, self.surrogate, settings.simulations, settings.top_k, rng, settings.caution).found.weights


class RandomSwarm(Method):
    """RegMix's random mixtures; the best trained one is the answer."""

    def propose(self, history: History, n: int, rng: np.random.Generator) -> Mixtures:
        """More of what the game began with."""
        return regmix_design(history.space, n, rng)

    def select(self, history: History, candidates: Mixtures, n: int, rng: np.random.Generator) -> Rows:
        """Any of them."""
        return rng.choice(len(candidates), size=n, replace=False)


def nearest(proposed: Mixtures, candidates: Mixtures) -> Rows:
    """For each proposed mixture ``(n, d)`` the nearest candidate ``(q, d)`` that none before it has taken, shape ``(n,)``.

    Nearness is the share of tokens that would have to change its domain.
    """
    rows: list[int] = []
    for mixture in proposed:
        distance = np.abs(candidates - mixture).sum(axis=1)
        distance[rows] = np.inf
        rows.append(int(np.argmin(distance)))
    return np.array(rows, dtype=np.intp)


def _none(history: History) -> Mixtures:
    return np.empty((0, history.space.dim))
