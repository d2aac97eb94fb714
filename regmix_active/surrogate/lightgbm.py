"""LightGBM, RegMix's own regression, with the uncertainty that its trees imply.

Two mixtures are alike for an ensemble of trees when they fall into the same leaves. The share of trees in which they do is a
positive definite kernel, and the Gaussian process on that kernel keeps the trees' shape of the function while it knows what it has
not seen. Trees were grown on the same losses that the process is conditioned on, which makes it overconfident; residuals of
held-out runs set the scale of its variance.

References:
    [1] Liu et al., RegMix, arXiv 2407.01492: 1,000 trees, learning rate 0.01, one model per loss.
    [2] Boström et al.; Thebelt et al., tree ensemble kernels for Bayesian optimization, arXiv 2207.00879.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import lightgbm
import numpy as np
from numpy.typing import ArrayLike, NDArray

from regmix_active.errors import StudyError
from regmix_active.surrogate.base import Array, Posterior, Surrogate

KERNEL_TREES = 100
"""Trees, evenly spaced over the ensemble, whose leaves make the kernel."""

NOISE_GRID = np.geomspace(1e-4, 1.0, 13)
"""Candidate ratios of noise to signal variance."""


class LightGBM(Surrogate):
    """One gradient-boosted ensemble per loss with RegMix's settings [1]; a leaf kernel for the uncertainty [2]."""

    name: ClassVar[str] = "lightgbm"
    minimum_runs: ClassVar[int] = 8

    def __init__(self, trees: int = 1000, learning_rate: float = 0.01, folds: int = 4) -> None:
        """Choose the ensembles.

        Args:
            trees: Boosting rounds per loss.
            learning_rate: Shrinkage of each tree.
            folds: Folds of the held-out residuals that calibrate the variance.
        """
        self.trees = trees
        self.learning_rate = learning_rate
        self.folds = folds

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        """Grow one ensemble per loss and calibrate its kernel; see :meth:`Surrogate.fit`."""
        n, m = losses.shape
        if n < self.minimum_runs:
            raise StudyError(f"LightGBM needs {self.minimum_runs} finished proxies or more; the study has {n}")
        self._X, self._losses = mixtures, losses
        self._boosters = [self._grow(mixtures, losses[:, j]) for j in range(m)]
        self._signal, self._noise = self._calibrate()
        self._leaves = [self._leaf_indices(booster, mixtures) for booster in self._boosters]
        self._L = np.stack(
            [np.linalg.cholesky(_kernel(a, a) + r * np.eye(n)) for a, r in zip(self._leaves, self._noise, strict=True)]
        )
        return self

    def predict(self, mixtures: Array) -> Array:
        """The ensembles' predictions, shape ``(q, m)``; see :meth:`Surrogate.predict`."""
        return np.column_stack([booster.predict(mixtures) for booster in self._boosters])

    def posterior(self, mixtures: Array) -> Posterior:
        """The ensembles' predictions with the leaf kernel's covariance; see :meth:`Surrogate.posterior`."""
        leaves = [self._leaf_indices(booster, mixtures) for booster in self._boosters]
        signal = self._signal
        cross = np.stack([_kernel(a, b) for a, b in zip(self._leaves, leaves, strict=True)])
        V = np.linalg.solve(self._L, cross) * np.sqrt(signal)[:, None, None]

        def rows(i: int) -> Array:
            prior = np.stack([s * _kernel(b[i : i + 1], b)[0] for s, b in zip(signal, leaves, strict=True)], axis=1)
            return prior - np.einsum("mn,mnq->qm", V[:, :, i], V)

        variance = signal - np.einsum("mnq,mnq->qm", V, V)
        return Posterior(self.predict(mixtures), variance, rows, self.noise_variance)

    @property
    def noise_variance(self) -> Array:
        """Fitted observation noise per loss, shape ``(m,)``, nats² per token²."""
        return self._noise * self._signal

    def _grow(self, X: Array, y: Array) -> lightgbm.Booster:
        params: dict[str, Any] = {
            "objective": "regression",
            "learning_rate": self.learning_rate,
            # The default of 20 predicts a constant below some 40 runs.
            "min_child_samples": 20 if len(X) > 400 else 5,
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        return lightgbm.train(params, lightgbm.Dataset(X, y, free_raw_data=True), num_boost_round=self.trees)

    def _leaf_indices(self, booster: lightgbm.Booster, X: Array) -> NDArray[np.int32]:
        """Leaf of every mixture in :data:`KERNEL_TREES` trees, shape ``(q, trees)``."""
        leaves = np.asarray(booster.predict(X, pred_leaf=True), dtype=np.int32).reshape(len(X), -1)
        return leaves[:, np.unique(np.linspace(0, leaves.shape[1] - 1, KERNEL_TREES).round().astype(int))]

    def _calibrate(self) -> tuple[Array, Array]:
        """Signal variance and noise ratio per loss under which held-out residuals are likeliest, each shape ``(m,)``."""
        n, m = self._losses.shape
        fold_of = np.arange(n) % self.folds
        likelihood = np.zeros((m, len(NOISE_GRID)))
        scale = np.zeros((m, len(NOISE_GRID)))
        for j in range(m):
            squares, logs = np.zeros(len(NOISE_GRID)), np.zeros(len(NOISE_GRID))
            for fold in range(self.folds):
                out = fold_of == fold
                booster = self._grow(self._X[~out], self._losses[~out, j])
                residual = self._losses[out, j] - booster.predict(self._X[out])
                inside, outside = self._leaf_indices(booster, self._X[~out]), self._leaf_indices(booster, self._X[out])
                K, k = _kernel(inside, inside), _kernel(inside, outside)
                eigenvalues, U = np.linalg.eigh(K)
                projected = (U.T @ k) ** 2
                for g, ratio in enumerate(NOISE_GRID):
                    variance = np.maximum(1 - (projected / (eigenvalues[:, None] + ratio)).sum(axis=0), 0) + ratio
                    squares[g] += (residual**2 / variance).sum()
                    logs[g] += np.log(variance).sum()
            scale[j] = squares / n
            likelihood[j] = -0.5 * (n * np.log(np.maximum(scale[j], 1e-300)) + logs)
        best = likelihood.argmax(axis=1)
        rows = np.arange(m)
        return np.maximum(scale[rows, best], 1e-12), NOISE_GRID[best]


def _kernel(a: NDArray[np.int32], b: NDArray[np.int32]) -> Array:
    """Share of trees in which two mixtures fall into the same leaf, shape ``(len(a), len(b))``."""
    same = np.zeros((len(a), len(b)))
    for tree in range(a.shape[1]):
        same += a[:, tree, None] == b[None, :, tree]
    return same / a.shape[1]
