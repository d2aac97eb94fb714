"""The rivals: RegMix, CLIMB, and Optuna's samplers, each as its authors describe it.

References:
    [1] Liu et al., RegMix: Data Mixture as Regression for Language Model Pre-training, arXiv 2407.01492.
    [2] Diao et al., CLIMB: CLustering-based Iterative Data Mixture Bootstrapping for Language Model Pre-training, arXiv 2504.13161.
    [3] Watanabe, Tree-Structured Parzen Estimator, arXiv 2304.11127 (Optuna's TPESampler).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import lightgbm
import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import Trial, TrialState, create_trial

from regmix_active.compare.leaves import LeafSets
from regmix_active.compare.methods import Method, Rows, nearest
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.study.history import History
from regmix_active.surrogate.base import Array

LIGHTGBM: dict[str, Any] = {
    "objective": "regression",
    "num_threads": 1,
    "deterministic": True,
    "verbosity": -1,
    "seed": 0,
}

REGMIX_TREES, REGMIX_RATE = 1000, 0.01
REGMIX_DRAWS, REGMIX_AVERAGED = 100_000, 128

CLIMB_TREES, CLIMB_RATE, CLIMB_DEPTH, CLIMB_LEAST = 1000, 0.01, 4, 5
CLIMB_SHARES = (4, 2, 1)
"""Its rounds of 64, 32 and 16 proxies, for any budget."""
CLIMB_CANDIDATES = 10_000


class RegMixRegression:
    """RegMix's regression with its published settings [1], one ensemble per loss, fitted to all runs.

    Its notebook stops boosting early by the error on test runs, which no search has; this does not.
    """

    def fit(self, mixtures: Mixtures, losses: Array) -> None:
        """Learn from mixtures ``(n, d)`` and losses ``(n, m)``."""
        settings = {**LIGHTGBM, "learning_rate": REGMIX_RATE}
        self._ensembles = [
            LeafSets(lightgbm.train(settings, lightgbm.Dataset(mixtures, column), REGMIX_TREES)) for column in losses.T
        ]

    def predict(self, mixtures: Mixtures) -> Array:
        """Expected losses, shape ``(q, m)``."""
        return np.column_stack([ensemble.predict(mixtures) for ensemble in self._ensembles])


def regmix_answers(space: MixtureSpace, mixtures: Mixtures, losses: Array, weights: Array, rng: np.random.Generator) -> Array:
    """What RegMix recommends after its one round: of 100,000 draws around the natural mixture the mean of the best 128 [1].

    Args:
        space: The feasible set.
        mixtures: Trained ones, shape ``(n, d)``.
        losses: Shape ``(n, m)``.
        weights: Targets as weights over the losses, shape ``(t, m)``; all of them share the regression and the draws.
        rng: Of the draws.

    Returns:
        A mixture per target, shape ``(t, d)``.
    """
    regression = RegMixRegression()
    regression.fit(mixtures, losses)
    draws = space.dirichlet(REGMIX_DRAWS, space.natural, rng)
    expected = regression.predict(draws) @ weights.T
    best = np.argsort(expected, axis=0, kind="stable")[:REGMIX_AVERAGED]
    return space.project(draws[best].mean(axis=0))


class Climb(Method):
    """CLIMB [2]: rounds of 4 : 2 : 1; each after the first trains what a regression of the target predicts to be best.

    Candidates are Dirichlet draws around the natural mixture; the answer is the best predicted one. The first round is the game's
    random one, so that luck with it is everybody's.
    """

    plans_budget: ClassVar[bool] = True
    published_budgets: ClassVar[tuple[int, ...]] = (64 + 32 + 16,)

    def rounds(self, initial: int, batch: int, budget: int) -> list[int]:
        """Three rounds, whatever the game's batches are."""
        ends = [round(budget * share / sum(CLIMB_SHARES)) for share in np.cumsum(CLIMB_SHARES)]
        return [size for size in np.diff([0, *ends]).tolist() if size]

    def propose(self, history: History, n: int, rng: np.random.Generator) -> Mixtures:
        """The best predicted candidates."""
        candidates = self._candidates(history, rng)
        return candidates[self.select(history, candidates, n, rng)]

    def select(self, history: History, candidates: Mixtures, n: int, rng: np.random.Generator) -> Rows:
        """The best predicted ones; of equal ones, which small ensembles often predict, any."""
        expected = self._predict(history, candidates)
        return np.lexsort([rng.random(len(candidates)), expected])[:n]

    def recommend(self, history: History, rng: np.random.Generator) -> Array:
        """The best predicted mixture of new candidates and those that were trained."""
        candidates = np.concatenate([history.mixtures, self._candidates(history, rng)])
        best: Array = candidates[np.argmin(self._predict(history, candidates))]
        return best

    @staticmethod
    def _candidates(history: History, rng: np.random.Generator) -> Mixtures:
        return history.space.dirichlet(CLIMB_CANDIDATES, history.space.natural, rng)

    @staticmethod
    def _predict(history: History, mixtures: Mixtures) -> Array:
        settings = {**LIGHTGBM, "learning_rate": CLIMB_RATE, "max_depth": CLIMB_DEPTH, "min_data_in_leaf": CLIMB_LEAST}
        booster = lightgbm.train(settings, lightgbm.Dataset(history.mixtures, history.values), CLIMB_TREES)
        return LeafSets(booster).predict(mixtures)


class OptunaSampler(Method):
    """A sampler of Optuna's on one number from 0 to 1 per domain, divided by their sum: how Optuna is used off the shelf.

    The first, random mixtures are told as finished trials. Answers with the best trained mixture.
    """

    def __init__(self, sampler: Literal["tpe", "gp-sampler"], seed: int) -> None:
        """Choose the sampler; both get Optuna's own defaults.

        Args:
            sampler: TPE [3], or Optuna's Gaussian process.
            seed: Of the sampler.
        """
        with _quiet_optuna():
            chosen = optuna.samplers.TPESampler(seed=seed) if sampler == "tpe" else optuna.samplers.GPSampler(seed=seed)
            self._study = optuna.create_study(sampler=chosen)
        self._asked: dict[int, Trial] = {}
        self._told = 0

    def propose(self, history: History, n: int, rng: np.random.Generator) -> Mixtures:
        """Ask for a batch; each trial is told when its run is in the history."""
        trials, mixtures = self._ask(history, n)
        self._asked = dict(enumerate(trials, start=len(history)))
        return mixtures

    def select(self, history: History, candidates: Mixtures, n: int, rng: np.random.Generator) -> Rows:
        """The rows nearest to a batch of proposals; they are told as what they are, not as what was asked for."""
        trials, mixtures = self._ask(history, n)
        for trial in trials:
            self._study.tell(trial, state=TrialState.FAIL)
        return nearest(mixtures, candidates)

    def _ask(self, history: History, n: int) -> tuple[list[Trial], Mixtures]:
        names = history.space.domains
        distributions: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in names}
        with _quiet_optuna():
            for row in range(self._told, len(history)):
                value = float(history.values[row])
                if row in self._asked:
                    self._study.tell(self._asked[row], value)
                    continue
                weights = history.space.as_dict(np.clip(history.mixtures[row], 0.0, 1.0))
                self._study.add_trial(create_trial(params=weights, distributions=distributions, value=value))
            self._told = len(history)
            trials = [self._study.ask(distributions) for _ in range(n)]
        return trials, np.stack([_normalised(np.array([trial.params[name] for name in names])) for trial in trials])


def _normalised(numbers: NDArray[np.float64]) -> Array:
    total = numbers.sum()
    return numbers / total if total > 0 else np.full(len(numbers), 1 / len(numbers))


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Without a line per study, and without advice about packages that would make the sampler faster."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
