"""What a strategy is, and the batch selection that acquisition strategies share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.designs import around, trusted
from regmix_active.mixture.space import Mixtures
from regmix_active.study.history import History
from regmix_active.surrogate.base import Surrogate
from regmix_active.surrogate.belief import TargetBelief, TargetModel
from regmix_active.surrogate.gaussian_process import GaussianProcess

from .candidates import Bound, allowed, climb, likely, likely_bar, structured_pool, untaken

LEAST_RUNS = 8


class Strategy(ABC):
    """Proposes the next mixtures. Never trains anything, never touches the study."""

    name: ClassVar[str]
    """Set by :func:`regmix_active.strategies.strategy`; what ``--strategy`` calls it."""

    @property
    def least_runs(self) -> int:
        """Finished proxies without which it is not asked; random ones are trained until then, should the initial ones fail."""
        surrogate = getattr(self, "surrogate", None)
        return max(LEAST_RUNS, surrogate.minimum_runs) if isinstance(surrogate, Surrogate) else LEAST_RUNS

    @abstractmethod
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        """Choose `n` mixtures to train next.

        The answer must be a function of the arguments alone, so that a resumed search proposes what an unbroken one would have.

        Args:
            history: The finished proxies, with the feasible set and the target; the targets of a trade-off are `history.targets`.
            pending: Mixtures in training whose losses are not known yet, shape ``(p, d)``.
            n: How many are wanted.
            rng: The only source of randomness; seeded from the study's seed and the slot.

        Returns:
            Mixtures of the feasible set, shape ``(n, d)``.
        """


@dataclass
class AcquisitionStrategy(Strategy):
    """Maximises a score over candidate mixtures; batches and pending proxies are handled here, for every score.

    The candidates are drawn all over the feasible set, around and between the best proxies so far and on their faces; a second
    set is drawn around the candidates that score best, and those climb to the score's maxima where the surrogate has gradients.
    The batch is filled one by one: after each choice the belief
    counts on that proxy (its variance shrinks), so that the next choice goes elsewhere.

    Where the target has limits, scores need not know of them: the score chooses among the candidates that are likely enough to keep
    them (:func:`~regmix_active.strategies.candidates.likely`); to one that is :attr:`logarithmic` the log-probability is added.

    Attributes:
        surrogate: What the belief comes from.
        candidates: Size of each of the two sets.
        leaders: How many of the best mixtures candidates are drawn around.
        climbers: How many of the best candidates climb by gradients, where the surrogate has them; 0 for none.
    """

    pointwise: ClassVar[bool] = True
    """Whether a candidate's score follows from its own mean and standard deviation, so that it can climb."""

    logarithmic: ClassVar[bool] = False
    """Whether the score is the logarithm of a gain, which counts only if the target's limits are kept."""

    surrogate: Surrogate = field(default_factory=GaussianProcess)
    candidates: int = 2048
    leaders: int = 16
    climbers: int = 32

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to choose from."""
        if self.candidates < 4 or self.leaders < 1 or self.climbers < 0:
            got = f"{self.candidates}, {self.leaders} and {self.climbers}"
            raise ValueError(f"candidates must be 4 or more, leaders 1 or more and climbers 0 or more, got {got}")

    @abstractmethod
    def score(self, belief: TargetBelief) -> NDArray[np.float64]:
        """The acquisition of every candidate, shape ``(q,)``; the largest is trained."""

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        """See :meth:`Strategy.propose`."""
        model = self._fitted(history)
        candidates = self._candidates(model, history, pending, n, rng)
        return candidates[self.choose(model, history, pending, candidates, n, rng)]

    def select(
        self, history: History, pending: Mixtures, candidates: Mixtures, n: int, rng: np.random.Generator
    ) -> NDArray[np.intp]:
        """Choose `n` of given candidates ``(q, d)``, such as those of a table of recorded runs; their rows, shape ``(n,)``."""
        return self.choose(self._fitted(history), history, pending, candidates, n, rng)

    def choose(
        self, model: TargetModel, history: History, pending: Mixtures, candidates: Mixtures, n: int, rng: np.random.Generator
    ) -> NDArray[np.intp]:
        """Fill a batch from candidates, one by one, each counting on those before it; their rows, shape ``(n,)``."""
        posterior = model.posterior(candidates, history.mixtures, pending)
        chosen: list[int] = []
        for _ in range(n):
            order = self.ranked(posterior.belief)
            chosen.append(int(order[~np.isin(order, chosen)][0]))
            posterior.choose(chosen[-1])
        return np.array(chosen, dtype=np.intp)

    def ranked(self, belief: TargetBelief) -> NDArray[np.intp]:
        """Candidates by their score and the target's limits, the best first, shape ``(q,)``; those whose score is NaN last."""
        scores, log_kept = self.score(belief), belief.log_kept
        if log_kept is None:
            return np.argsort(-scores, kind="stable")
        if self.logarithmic:
            return np.argsort(-(scores + log_kept), kind="stable")
        preferred = likely(log_kept)
        return np.lexsort((np.where(preferred, -scores, -log_kept), ~preferred))

    def _fitted(self, history: History) -> TargetModel:
        return TargetModel.of(history, self.surrogate)

    def _candidates(self, model: TargetModel, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        """Mixtures worth scoring: all over the feasible set, around those that score best, and the maxima they climb to."""
        space = history.space
        leaders = self._leaders(model, history)
        taken = np.concatenate([history.mixtures, pending.reshape(len(pending), space.dim)])
        pool = structured_pool(space, leaders, self.candidates, rng)
        first = untaken(pool, taken)
        first = first if len(first) else pool  # where constraints leave next to nothing
        belief = model.posterior(first, history.mixtures, pending).belief
        order = self.ranked(belief)
        sets = [first[order[: self.candidates // 2]]]
        sets.append(around(space, first[order[: self.leaders]], max(self.candidates, 2 * n), rng))
        if self.climbers and self.pointwise and model.differentiable:
            starts = first[order[: self.climbers]]
            sets.append(climb(space, model, self.score, belief.best, belief.noise, starts, self._bound(model, belief)))
        drawn = np.concatenate(sets)
        found = untaken(drawn, taken)
        safe = found[trusted(found, history.diverged, history.mixtures)]
        found = safe if len(safe) >= n else found
        if len(found) < n:  # few mixtures are feasible: some are trained again
            found = np.concatenate([found, untaken(drawn, found)])
            found = found[np.arange(max(n, len(found))) % len(found)]
        return found

    def _leaders(self, model: TargetModel, history: History) -> Mixtures:
        """The best proxies, as feasible mixtures, those that are likely to keep the target's limits first, shape ``(k, d)``."""
        trained = allowed(history.space, history.mixtures)
        # Noise may have flattered the best proxies, so leaders are ranked by what the surrogate makes of them.
        order = np.argsort(model.predict(trained), kind="stable")
        if model.target.limits:
            order = order[np.argsort(~likely(model.kept(trained).log_probability[order]), kind="stable")]
        return trained[order[: self.leaders]]

    def _bound(self, model: TargetModel, belief: TargetBelief) -> Bound | None:
        """What limits make of the scores of climbing candidates."""
        if belief.log_kept is None:
            return None
        bar = likely_bar(belief.log_kept)

        def bound(mixtures: Mixtures, scores: NDArray[np.float64]) -> NDArray[np.float64]:
            log_kept = model.kept(mixtures).log_probability
            return scores + log_kept if self.logarithmic else np.where(log_kept >= bar, scores, -np.inf)

        return bound
