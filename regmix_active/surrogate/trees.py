"""Boosted trees as a map from mixtures to leaves.

A forest of boosted trees cuts the simplex into leaves, and every mixture falls into one leaf per tree. A function that adds up
one value per leaf is evaluated as fast as LightGBM predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import lightgbm
import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array

T = TypeVar("T", np.float32, np.float64)

Leaves = NDArray[np.unsignedinteger[Any]]
"""Leaf of every mixture in every tree, counted through the forest, shape ``(q, trees)``."""


@dataclass(frozen=True)
class TreeSettings:
    """How one ensemble is boosted.

    Attributes:
        trees: Boosting rounds.
        learning_rate: Shrinkage of each tree.
        depth: Most splits on the way to a leaf.
        smallest_leaf: Fewest proxies in a leaf.
        random_thresholds: One random threshold per domain is tried instead of all (extremely randomised trees).
        seed: Of the random thresholds.
    """

    trees: int
    learning_rate: float
    depth: int
    smallest_leaf: int
    random_thresholds: bool = False
    seed: int = 0


def grow(X: Array, y: Array, settings: Sequence[TreeSettings], weight: Array) -> list[lightgbm.Booster]:
    """Boost ensembles on mixtures ``(n, d)`` and a loss ``(n,)``, which count by `weight` ``(n,)``: the same each time."""
    common: dict[str, Any] = {
        "objective": "regression",
        # By default three proxies share a bin, and no threshold may part them.
        "min_data_in_bin": 1,
        "feature_pre_filter": False,
        # An ensemble keeps its histograms, in megabytes: without a bound, those of a hundred losses fill the memory.
        "histogram_pool_size": 1,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(X, y, weight=weight, params=common)
    boosters = []
    for each in settings:
        own = {
            "learning_rate": each.learning_rate,
            "max_depth": each.depth,
            "num_leaves": 2**each.depth,
            "min_child_samples": each.smallest_leaf,
            "extra_trees": each.random_thresholds,
            "seed": each.seed,
        }
        booster = lightgbm.Booster({**common, **own}, data)
        # lightgbm.train does the same, but its callbacks cost as much again as trees this small.
        for _ in range(each.trees):
            if booster.update():
                break
        boosters.append(booster.free_dataset())
    return boosters


class Forest:
    """Several ensembles for one loss, whose trees are taken together.

    Attributes:
        values: The boosted prediction as a value per leaf, shape ``(leaves,)``: a mixture's values add up to the ensembles' mean.
        share: Weight of every tree in the kernel, shape ``(trees,)``, adding up to one.
    """

    def __init__(self, X: Array, y: Array, settings: Sequence[TreeSettings], weight: Array) -> None:
        """Grow on mixtures ``(n, d)`` and a loss ``(n,)``; `weight` ``(n,)`` says how much each proxy counts."""
        self._boosters = grow(X, y, settings, weight)
        found = [self._within(booster, X) for booster in self._boosters]
        counts = [within.max(axis=0) + 1 for within in found]  # a leaf holds at least one of the mixtures that it was grown on
        every = np.concatenate(counts)
        self._starts = (np.cumsum(every) - every).astype(np.uint16 if every.sum() < 2**16 else np.uint32)
        self._of_tree = np.repeat(np.arange(len(every)), every)
        self.values: Array = np.array(
            [
                booster.get_leaf_output(tree, leaf)
                for booster, leaves in zip(self._boosters, counts, strict=True)
                for tree, count in enumerate(leaves.tolist())
                for leaf in range(count)
            ]
        ) / len(settings)
        # Late trees split on noise but hardly move the prediction; in the kernel, too, a tree counts by how far it does.
        spread = self.values[np.hstack(found) + self._starts].std(axis=0)
        self.share: Array = spread / spread.sum() if spread.sum() > 1e-9 else np.full(len(every), 1 / len(every))

    @staticmethod
    def _within(booster: lightgbm.Booster, X: Array) -> Leaves:
        found = booster.predict(X, pred_leaf=True, num_threads=1)
        return np.asarray(found).astype(np.uint16).reshape(len(X), -1)

    def leaves(self, X: Array) -> Leaves:
        """Leaf of every mixture in every tree, shape ``(q, trees)``."""
        leaves: Leaves = np.hstack([self._within(booster, X) for booster in self._boosters]) + self._starts
        return leaves

    def features(self, leaves: Leaves, precision: type[T]) -> NDArray[T]:
        """A row per mixture whose inner products are the kernel, shape ``(q, leaves of the forest)``.

        The kernel of two mixtures is the total share of the trees in which they fall into the same leaf.
        """
        result = np.zeros((len(leaves), len(self.values)), dtype=precision)
        result[np.arange(len(leaves))[:, None], leaves] = np.sqrt(self.share)
        return result

    def total(self, leaves: Leaves, values: Array) -> Array:
        """Sum of a value per leaf over each mixture's leaves, shape ``(q,)``."""
        total: Array = values[leaves].sum(axis=1)
        return total

    def kernel_values(self, leaves: Leaves, weights: Array) -> Array:
        """The values, shape ``(leaves,)``, whose :meth:`total` is the weighed sum of the kernels with these mixtures."""
        reached = np.bincount(leaves.reshape(-1), np.repeat(weights, leaves.shape[1]), minlength=len(self.values))
        values: Array = reached * self.share[self._of_tree]
        return values

    def set_values(self, values: Array) -> None:
        """Let :meth:`predict` add up other values, shape ``(leaves,)``, than the boosted ones."""
        self.values = values
        ends = np.append(self._starts[1:], len(values)).tolist()
        spans = iter(zip(self._starts.tolist(), ends, strict=True))
        for booster in self._boosters:
            for tree in range(booster.num_trees()):
                start, end = next(spans)
                for leaf, value in enumerate((len(self._boosters) * values[start:end]).tolist()):
                    booster.set_leaf_output(tree, leaf, value)

    def predict(self, X: Array) -> Array:
        """Sum of :attr:`values` over each mixture's leaves, shape ``(q,)``; LightGBM adds them up without storing the leaves."""
        predicted: Array = np.mean([booster.predict(X, num_threads=1) for booster in self._boosters], axis=0)
        return predicted
