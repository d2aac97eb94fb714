"""A recommendation for domains with odd names."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from regmix_active.mixture.space import MixtureSpace
from regmix_active.recommend.pareto import ParetoFront
from regmix_active.recommend.simulate import Doubt, Prediction, Recommendation
from regmix_active.study.history import History
from regmix_active.study.noise import SeedNoise
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


@pytest.fixture
def doubted(found: Recommendation) -> Recommendation:
    """All that can be said of an answer; the uniform mixture is not allowed."""
    noise = SeedNoise(np.zeros((2, 3)), np.full(3, 0.02), 0.01, 0.2, 12.0, 4.0, 4, 2)
    doubt = Doubt(
        level=0.8,
        interval=(2.4, 2.6),
        fresh=(2.0, 3.0),
        weights=np.array([[0.1, 0.4], [0.0, 0.2], [0.5, 0.9]]),
        beats_natural=0.75,
        beats_best=0.5,
        regret=0.0125,
        limits=1.0,
        nearest=0.25,
        nearest_slot=6,
        next_runs=np.eye(3)[:2],
        next_std=0.6,
        noise=noise,
    )
    uniform = dataclasses.replace(found.uniform, allowed=False)
    return dataclasses.replace(found, doubt=doubt, notes=("a note [/x]",), uniform=uniform)


@pytest.fixture
def trading(found: Recommendation) -> Recommendation:
    """Two targets, two trade-offs."""
    targets = tuple(Target.parse(name, DOMAINS) for name in DOMAINS[:2])
    front = ParetoFront(
        np.array([[1.0, 0, 0], [0.5, 0.5, 0]]),
        np.array([[1.0, 3], [2, 2]]),
        np.full((2, 2), 0.1),
        np.array([0.9, 0.6]),
        1,
        natural=np.array([[4.0, 5.0], [0.2, 0.3]]),
        kept=np.ones(2),
        surely=np.ones(2, dtype=bool),
    )
    return dataclasses.replace(found, history=dataclasses.replace(found.history, targets=targets), pareto=front)
