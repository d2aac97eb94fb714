"""LightGBM, RegMix's kind of regression, made for few runs and with the uncertainty that its trees imply.

RegMix's own settings [1] need some hundred proxies: below 40 they predict a constant. Here trees are as shallow as the number of
proxies demands, and two ensembles of three try one random threshold per domain instead of all [2]: losses are smooth in the
weights, and sums of randomly cut trees are smoother. That predicts better than RegMix's settings with 512 runs, too. How
trees become a belief is told in :mod:`~regmix_active.surrogate.leaf_process`.

References:
    [1] Liu et al., RegMix, arXiv 2407.01492: 1,000 trees, learning rate 0.01, one model per loss.
    [2] Geurts et al., Extremely randomized trees, Machine Learning 2006.
"""

from __future__ import annotations

import math
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regmix_active.surrogate.base import Array, Paths, Posterior, Surrogate, check_observations
from regmix_active.surrogate.calibration import err_together
from regmix_active.surrogate.leaf_process import LeafProcess
from regmix_active.surrogate.residuals import error_correlation
from regmix_active.surrogate.trees import TreeSettings


class LightGBM(Surrogate):
    """A forest of boosted trees per loss, and the Gaussian process on its leaves."""

    name: ClassVar[str] = "lightgbm"
    minimum_runs: ClassVar[int] = 8

    def __init__(self, trees: int = 75, learning_rate: float = 0.12, random_ensembles: int = 2) -> None:
        """Choose the forests.

        Args:
            trees: Boosting rounds of each ensemble.
            learning_rate: Shrinkage of each tree. RegMix's 1,000 trees of 0.01 hardly rank better and take ten times as long.
            random_ensembles: Ensembles with random thresholds, beside one that tries them all.
        """
        self.trees = trees
        self.learning_rate = learning_rate
        self.random_ensembles = random_ensembles

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        """Grow and calibrate one forest per loss, on the proxies that have it; see :meth:`Surrogate.fit`."""
        X, Y, V = check_observations(mixtures, losses, noise, self)
        self._processes: list[LeafProcess] = []
        errors = np.full_like(Y, np.nan)
        for j, y in enumerate(Y.T):
            seen = ~np.isnan(y)
            process = LeafProcess(X[seen], y[seen], None if V is None else V[seen, j], self._settings(int(seen.sum())))
            errors[seen, j] = process.errors
            self._processes.append(process)
        self._correlation = error_correlation(errors)
        return self

    def predict(self, mixtures: Array) -> Array:
        """Expected losses, shape ``(q, m)``; see :meth:`Surrogate.predict`."""
        return np.column_stack([process.predict(mixtures) for process in self._processes])

    def posterior(self, mixtures: Array) -> Posterior:
        """Expected losses with the covariance of the processes; see :meth:`Surrogate.posterior`."""
        processes = self._processes
        leaves = [process.forest.leaves(mixtures) for process in processes]
        variance = np.column_stack([process.variance(own) for process, own in zip(processes, leaves, strict=True)])

        def rows(some: NDArray[np.intp]) -> Array:
            known = list(zip(processes, leaves, strict=True))
            return np.stack([[process.covariance(own, int(i)) for process, own in known] for i in some]).transpose(0, 2, 1)

        return Posterior(self.predict(mixtures), variance, rows, self.noise_variance, self._correlation)

    def paths(self, n: int, rng: np.random.Generator) -> Paths:
        """`n` functions with random values in the leaves; see :meth:`Surrogate.paths`.

        Losses err together as they did on held-out proxies.
        """
        processes, correlation = self._processes, self._correlation
        drawn = [process.draw(n, rng) for process in processes]

        def losses(mixtures: Array) -> Array:
            deviations, std = zip(*(draw(mixtures) for draw in drawn), strict=True)
            mean = np.column_stack([process.predict(mixtures) for process in processes])
            return mean + err_together(np.stack(deviations, axis=2), np.stack(std, axis=1), correlation)

        return losses

    @property
    def noise_variance(self) -> Array:
        """Variance of the noise per loss and of what leaves cannot resolve, shape ``(m,)``, nats² per token²."""
        return np.array([process.noise for process in self._processes])

    def _settings(self, runs: int) -> list[TreeSettings]:
        """Of the ensembles, for so many proxies with that loss."""
        # Full trees have as many leaves as proxies in a leaf.
        depth = max(1, math.floor(math.log(runs, 4)))
        smallest = max(2, round(math.sqrt(runs) / 3))
        kinds = [(False, 0), *((True, seed) for seed in range(self.random_ensembles))]
        return [TreeSettings(self.trees, self.learning_rate, depth, smallest, random, seed) for random, seed in kinds]
