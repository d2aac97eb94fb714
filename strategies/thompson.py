"""Thompson sampling with whole functions.

References:
    [1] Thompson, On the Likelihood that One Unknown Probability Exceeds Another, Biometrika 25, 1933.
    [2] Kandasamy et al., Parallelised Bayesian Optimisation via Thompson Sampling, AISTATS 2018.
    [3] Wilson et al., Efficiently Sampling Functions from Gaussian Process Posteriors, ICML 2020; Pathwise Conditioning of Gaussian
        Processes, JMLR 22, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.space import Mixtures
from regmix_active.study.history import History
from regmix_active.surrogate.belief import TargetBelief, TargetModel

from .base import AcquisitionStrategy
from .registry import strategy

OPTIMISM = 3.0
"""Standard deviations below its mean to which a drawn function is expected to reach, at some of the candidates."""


@strategy("thompson")
@dataclass
class Thompson(AcquisitionStrategy):
    """Draws one function per mixture from the belief and trains where each is smallest.

    A mixture is trained as often as it is believed to be the best one [1], of those that keep the target's limits. The draws are
    independent, so a batch spreads by itself and proxies in training need no bookkeeping [2]; the surrogate draws functions, not
    values at some mixtures [3].

    Attributes:
        shortlist: Candidates at which the functions are compared: those with the lowest confidence bounds.
    """

    shortlist: int = 512

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to choose from."""
        super().__post_init__()
        if self.shortlist < 1:
            raise ValueError(f"shortlist must be 1 or more, got {self.shortlist}")

    def score(self, belief: TargetBelief) -> NDArray[np.float64]:
        """How low a drawn function may reach; it ranks candidates for the shortlist, and does not choose among them."""
        return OPTIMISM * belief.std - belief.mean

    def choose(
        self, model: TargetModel, history: History, pending: Mixtures, candidates: Mixtures, n: int, rng: np.random.Generator
    ) -> NDArray[np.intp]:
        """Where each of `n` drawn functions is smallest, earlier choices left out; see :meth:`AcquisitionStrategy.choose`."""
        rows = self.ranked(model.posterior(candidates, history.mixtures, pending).belief)[: max(self.shortlist, n)]
        drawn, broken = model.paths_and_violations(n, rng)(candidates[rows])
        chosen: list[int] = []
        for values, violations in zip(drawn, broken, strict=True):
            violations[chosen] = np.inf
            # Of what keeps the draw's own limits, or comes nearest to it where nothing does.
            chosen.append(int(np.argmin(np.where(violations == violations.min(), values, np.inf))))
        return rows[chosen]
