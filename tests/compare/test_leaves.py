"""Leaf sets predict exactly what LightGBM does."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from regmix_active.compare.leaves import CHUNK, LeafSets


@pytest.mark.parametrize(("n", "d", "leaves"), [(300, 5, 31), (40, 17, 31), (300, 3, 52), (10, 3, 31)])
def test_equal_to_the_last_bit(n: int, d: int, leaves: int) -> None:
    rng = np.random.default_rng(n + d)
    X = np.where(rng.random((n, d)) < 0.3, 0.0, rng.dirichlet(np.ones(d), n))
    settings = {"verbosity": -1, "num_threads": 1, "num_leaves": leaves, "min_data_in_leaf": 3}
    booster = lightgbm.train(settings, lightgbm.Dataset(X, X[:, 0] ** 0.3 - X[:, 1] + 0.1 * rng.random(n)), 50)
    # The training mixtures hold values equal to thresholds, or next to them.
    asked = np.concatenate([X, rng.dirichlet(np.ones(d), CHUNK + 7), np.eye(d)])
    np.testing.assert_array_equal(LeafSets(booster).predict(asked), booster.predict(asked))


def test_larger_trees_are_refused() -> None:
    X = np.random.default_rng(0).random((400, 2))
    settings = {"verbosity": -1, "num_threads": 1, "num_leaves": 100, "min_data_in_leaf": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(X, X.sum(axis=1)), 2)
    with pytest.raises(ValueError, match="52 leaves at most"):
        LeafSets(booster)
