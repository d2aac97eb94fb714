"""Fronts of simulated mixtures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.recommend.pareto import ParetoFront, pareto_front
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.surrogate.belief import TargetModel
from regmix_active.surrogate.fronts import non_dominated
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.testing.problems import broad_mixtures, problem_space

D = 5
SPACE = problem_space(D)
NAMES = ("a", "b")


def history_of(*specs: object, space: object = SPACE) -> History:
    mixtures = broad_mixtures(SPACE, 30, 0)
    losses = 2 + (mixtures[:, :2] + 0.05) ** -0.5
    targets = tuple(Target.parse(spec, NAMES) for spec in specs)  # type: ignore[arg-type]
    return History(space, targets[0], mixtures, losses, np.arange(30), targets=targets)  # type: ignore[arg-type]


def front_of(history: History, size: int = 9) -> ParetoFront:
    return pareto_front(history, GaussianProcess(max_iterations=10), 4000, size, np.random.default_rng(0))


def test_the_front_is_found_and_spread() -> None:
    """Mixtures of two domains; what each is worth is known."""
    history = history_of("a", "b")
    front = front_of(history)
    k = len(front.weights)
    assert (front.means.shape, front.stds.shape, front.probability.shape) == ((k, 2), (k, 2), (k,))
    assert k == 9
    assert non_dominated(front.means).all()
    assert (np.diff(front.means[:, 0]) > 0).all()
    assert (front.weights[:, :2].sum(axis=1) > 0.85).all()
    truth = 2 + (front.weights[:, :2] + 0.05) ** -0.5
    assert np.abs(front.means - truth).mean() < 0.15
    assert front.means[0, 0] < 3.1
    assert front.means[-1, 1] < 3.1
    assert ((front.probability >= 0) & (front.probability <= 1)).all()
    assert front.probability.mean() > 0.4
    share = front.weights[front.balanced, 0]
    assert 0.2 < share < 0.8
    again = front_of(history)
    np.testing.assert_array_equal(again.weights, front.weights)
    np.testing.assert_array_equal(again.probability, front.probability)


def test_means_and_deviations_are_the_models() -> None:
    history = history_of({"worst": True}, {"weights": {"b": 1}, "excess_over": "natural"})
    front = front_of(history, 5)
    for j, model in enumerate(TargetModel.several(history, GaussianProcess(max_iterations=10))):
        mean, std = model.moments(front.weights)
        np.testing.assert_allclose(front.means[:, j], mean, rtol=1e-6)
        np.testing.assert_allclose(front.stds[:, j], std, rtol=1e-6)


def test_constraints_and_limits_are_kept() -> None:
    cap = Bound("mixture.caps.domain-0", "domain-0 at most 0.4", np.eye(D)[0], high=0.4)
    space = replace(SPACE, constraints=Constraints((cap,)))
    limits = {"b": {"at_most": 3.6, "probability": 0.9}}
    history = history_of({"weights": {"a": 1}, "limits": limits}, {"weights": {"b": 1}, "limits": limits}, space=space)
    front = front_of(history)
    assert space.feasible(front.weights).all()
    model = TargetModel.several(history, GaussianProcess(max_iterations=10))[0]
    assert model.probability(front.weights).min() >= 0.9 - 1e-6
    assert front.means[:, 1].max() < 3.6
    impossible = {"b": {"at_most": 0.5}}
    history = history_of(*({"weights": {name: 1}, "limits": impossible} for name in NAMES))
    assert front_of(history).weights[:, 1].min() > 0.8, "the nearest to keeping it"


def test_a_front_keeps_away_from_what_diverged() -> None:
    history = replace(history_of("a", "b"), diverged=np.array([[0.02, 0.98, 0, 0, 0]]), diverged_slots=np.array([30]))
    front = front_of(history)
    assert front.weights[:, 1].max() < front_of(history_of("a", "b")).weights[:, 1].max()


def test_few_members() -> None:
    history = history_of("a", "b")
    assert len(front_of(history, 2).weights) == 2
    with pytest.raises(ValueError, match="two or more targets and members, got 2 and 1"):
        front_of(history, 1)
    with pytest.raises(ValueError, match="two or more targets and members, got 1 and 9"):
        front_of(history_of("a"))
