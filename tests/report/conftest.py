"""A recommendation for domains with odd names."""

from __future__ import annotations

import numpy as np
import pytest

from regmix_active.mixture.space import MixtureSpace
from regmix_active.recommend.simulate import Prediction, Recommendation
from regmix_active.study.history import History
from regmix_active.study.target import Target

DOMAINS = ("books", "code [x]", "日本: 1")


@pytest.fixture
def found() -> Recommendation:
    space = MixtureSpace(DOMAINS, np.array([0.5, 0.3, 0.2]))
    mixtures = space.dirichlet(4, np.ones(3), np.random.default_rng(0))
    history = History(space, Target.parse("mean", DOMAINS), mixtures, 2 + mixtures, np.array([0, 1, 5, 6]))

    def predict(weights: np.ndarray, mean: float) -> Prediction:
        losses = np.array([mean - 1, mean, mean + 0.5])
        return Prediction(np.asarray(weights, dtype=float), mean, 0.05, losses, np.array([0.1, 0.2, 0.3]))

    return Recommendation(
        history=history,
        surrogate="gp",
        found=predict(np.array([1 / 3, 0.0, 2 / 3]), 2.5),
        natural=predict(space.natural, 3.0),
        uniform=predict(space.uniform, 3.25),
        best_trained=predict(mixtures[2], 2.75),
        best_slot=5,
        best_value=2.7654321,
        simulated=1000,
        averaged=64,
    )
