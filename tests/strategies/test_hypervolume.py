"""Trade-offs between two targets whose front is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from botorch.utils.multi_objective.hypervolume import Hypervolume as Volume

from regmix_active.errors import StrategyError
from regmix_active.mixture.space import Mixtures
from regmix_active.strategies import load_strategy
from regmix_active.strategies.hypervolume import Hypervolume
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.surrogate.fronts import non_dominated
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.testing.problems import broad_mixtures, problem_space

D = 6
SPACE = problem_space(D)
NAMES = ("a", "b")
TARGETS = (Target.parse("a", NAMES), Target.parse("b", NAMES))
REFERENCE = np.array([4.0, 4.0])


def losses_of(mixtures: Mixtures) -> Mixtures:
    """Each of two losses wants its own domain: the front is all mixtures of these two."""
    return np.asarray(2 + (mixtures[:, :2] + 0.05) ** -0.5)


def found_volume(losses: Mixtures) -> float:
    front = losses[non_dominated(losses)]
    return float(Volume(torch.from_numpy(-REFERENCE)).compute(torch.from_numpy(-front[(front < REFERENCE).all(axis=1)])))


def history_of(mixtures: Mixtures, seed: int = 0) -> History:
    noise = 0.005 * np.random.default_rng(seed).standard_normal((len(mixtures), 2))
    return History(SPACE, TARGETS[0], mixtures, losses_of(mixtures) + noise, np.arange(len(mixtures)), targets=TARGETS)


def strategy() -> Hypervolume:
    found = load_strategy("hypervolume", {"candidates": 128, "shortlist": 48}, GaussianProcess(max_iterations=8))
    assert isinstance(found, Hypervolume)
    return found


def test_more_volume_than_random_search_finds() -> None:
    """24 runs from 8; the front's own volume is the most there is."""
    share = np.linspace(0, 1, 2001)[:, None]
    most = found_volume(losses_of(np.concatenate([share, 1 - share, np.zeros((2001, D - 2))], axis=1)))
    for seed in range(3):
        mixtures = broad_mixtures(SPACE, 8, seed)
        random = broad_mixtures(SPACE, 24, 100 + seed)
        for round_ in range(4):
            rng = np.random.default_rng([seed, round_])
            mixtures = np.concatenate([mixtures, strategy().propose(history_of(mixtures), np.empty((0, D)), 4, rng)])
        active, blind = found_volume(losses_of(mixtures)), found_volume(losses_of(random))
        assert active > 0.75 * most
        assert active - blind > 0.1 * most, (seed, active, blind, most)


def test_a_batch_is_spread_along_the_front() -> None:
    mixtures = broad_mixtures(SPACE, 20, 0)
    batch = strategy().propose(history_of(mixtures), np.empty((0, D)), 6, np.random.default_rng(0))
    assert batch[:, :2].sum(axis=1).min() > 0.7
    assert np.ptp(batch[:, 0]) > 0.2
    first = strategy().propose(history_of(mixtures), np.empty((0, D)), 1, np.random.default_rng(0))
    other = strategy().propose(history_of(mixtures), first, 1, np.random.default_rng(0))
    assert np.abs(first - other).max() > 5e-3


def test_what_keeps_the_limits_is_preferred() -> None:
    limited = tuple(Target.parse({"weights": {name: 1}, "limits": {"a": {"at_most": 3.2}}}, NAMES) for name in NAMES)
    history = replace(history_of(broad_mixtures(SPACE, 20, 0)), target=limited[0], targets=limited)
    batch = strategy().propose(history, np.empty((0, D)), 6, np.random.default_rng(0))
    assert (losses_of(batch)[:, 0] < 3.3).mean() > 0.8


def test_given_candidates() -> None:
    candidates = broad_mixtures(SPACE, 64, 7)
    rows = strategy().select(history_of(broad_mixtures(SPACE, 12, 0)), np.empty((0, D)), candidates, 5, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 5
    assert candidates[rows, :2].sum(axis=1).mean() > candidates[:, :2].sum(axis=1).mean() + 0.2


def test_with_one_target_it_is_expected_improvement() -> None:
    history = replace(history_of(broad_mixtures(SPACE, 12, 0)), targets=())
    other = load_strategy("expected-improvement", {"candidates": 128}, GaussianProcess(max_iterations=8))
    answers = [s.propose(history, np.empty((0, D)), 3, np.random.default_rng(0)) for s in (strategy(), other)]
    np.testing.assert_array_equal(*answers)
    candidates = broad_mixtures(SPACE, 30, 1)
    rows = [
        s.select(history, np.empty((0, D)), candidates, 3, np.random.default_rng(0))
        for s in (Hypervolume(GaussianProcess(max_iterations=8)), other)
    ]
    np.testing.assert_array_equal(*rows)


def test_one_mixture_that_is_best_at_everything() -> None:
    """A front of one point gives no range for a reference."""
    mixtures = np.concatenate([broad_mixtures(SPACE, 8, 0) @ np.diag([0.1, 0.1, 1, 1, 1, 1]), [[0.5, 0.5, 0, 0, 0, 0]]])
    history = history_of(SPACE.project(mixtures))
    batch = strategy().propose(history, np.empty((0, D)), 3, np.random.default_rng(0))
    assert SPACE.feasible(batch).all()
    assert batch[:, :2].sum(axis=1).mean() > 0.5


def test_wrong_options() -> None:
    with pytest.raises(StrategyError, match="shortlist and draws must be 1 or more, got 0 and 64"):
        load_strategy("hypervolume", {"shortlist": 0})
