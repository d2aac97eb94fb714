"""What an answer hangs on: the surrogate fitted again, each time without a group of the runs.

By how much a prediction changes without some of the runs is its jackknife standard deviation [1], which knows nothing of the model.
A posterior can be sure of a mixture far from all runs because its hyperparameters happen to say so, and lose that belief without
one group: such a mixture is the best of a hundred thousand simulated ones more often than a sound one is. With one study seed of
the embedded corpus the answer was 0.12 nats worse than the best trained mixture, and promised to be 0.2 better.

References:
    [1] Tukey, Bias and Confidence in Not-Quite Large Samples, Annals of Mathematical Statistics 29, 1958; Efron and Stein, The
        Jackknife Estimate of Variance, Annals of Statistics 9, 1981; here with groups of runs left out.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import StudyError
from regmix_active.mixture.space import Mixtures
from regmix_active.study.history import History
from regmix_active.surrogate.belief import TargetModel

Array = NDArray[np.float64]

GROUPS, FEW, MANY = 5, 2, 128
"""Groups of runs that are left out in turn: so many, or few of them with more than so many runs, whose refits take seconds each."""

ENOUGH = 256
"""Runs beyond which nothing is left out: for 13 targets and 512 runs the jackknife was below the posterior each time, and the
posterior's own intervals held the emulator's truth each time."""


class LeftOut:
    """A fitted surrogate and its refits."""

    def __init__(self, model: TargetModel, refits: list[TargetModel]) -> None:
        """Keep them; see :meth:`of`."""
        self._model, self._refits = model, refits

    @classmethod
    def of(cls, model: TargetModel, history: History) -> LeftOut:
        """Fit again without each group of the runs.

        Args:
            model: Fitted to `history`; stays as it is.
            history: Finished proxies.
        """
        refits: list[TargetModel] = []
        if len(history) <= ENOUGH:
            groups = run_groups(history)
            try:
                for group in range(int(groups.max()) + 1):
                    other = TargetModel(copy.deepcopy(model.surrogate), history.target, history.space)
                    refits.append(other.fit(history.mixtures[groups != group], history.losses[groups != group]))
            except StudyError:  # too few runs without the group
                refits = []
        return cls(model, refits if len(refits) > 1 else [])

    @property
    def known(self) -> bool:
        """Whether there are refits: neither too few runs for them nor so many that they say nothing."""
        return bool(self._refits)

    def std(self, mixtures: Mixtures) -> Array:
        """Jackknife standard deviation of the expected target of mixtures ``(q, d)``, shape ``(q,)``; zeros without refits.

        About the whole fit, not about the refits' mean: what all of them take back alike was a belief of too few runs as well.
        """
        if not self._refits:
            return np.zeros(len(mixtures))
        changes = np.stack([refit.predict(mixtures) for refit in self._refits]) - self._model.predict(mixtures)
        return np.asarray(np.sqrt((len(changes) - 1) * (changes**2).mean(axis=0)))

    def pessimistic(self, mixtures: Mixtures, caution: float) -> Array:
        """What the target may well be, shape ``(q,)``: the expectation and `caution` of the larger standard deviation."""
        _, own = self._model.moments(mixtures)
        return self._model.pessimistic(mixtures, 0.0) + caution * np.maximum(own, self.std(mixtures))


def run_groups(history: History) -> NDArray[np.int64]:
    """Group of each run, shape ``(n,)``.

    Runs of one mixture go together, for another seed would give its loss away; neighbours in the study's order, often of one batch,
    go to different groups.
    """
    _, first, of = np.unique(history.mixtures.round(9), axis=0, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[of.reshape(-1)]
    groups: NDArray[np.int64] = place % min(GROUPS if len(first) <= MANY else FEW, len(first))
    return groups
