"""Batches of every strategy: in the feasible set whatever it is, and where a target's limits are likely kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.strategies import AcquisitionStrategy, available, load_strategy
from regmix_active.strategies.base import AcquisitionStrategy as Base
from regmix_active.strategies.candidates import allowed, likely, structured_pool
from regmix_active.strategies.expected_improvement import ExpectedImprovement
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.surrogate.belief import TargetBelief, TargetModel
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.testing.problems import power_law, problem_history, problem_space

NAMES = sorted(available())
ACQUISITIONS = [name for name in NAMES if issubclass(available()[name], AcquisitionStrategy)]


def propose(name: str, history: History, n: int, candidates: int = 256, pending: Mixtures | None = None) -> Mixtures:
    options = {"candidates": candidates} if name in ACQUISITIONS else {}
    strategy = load_strategy(name, options, GaussianProcess(max_iterations=8))
    none = np.empty((0, history.space.dim))
    return strategy.propose(history, none if pending is None else pending, n, np.random.default_rng(0))


def random_space(d: int, rng: np.random.Generator) -> MixtureSpace:
    """Floors, caps, a group and few domains at once, around a mixture that satisfies all of them."""
    inside = np.zeros(d)
    used = rng.choice(d, size=min(d, 6), replace=False)
    inside[used] = rng.dirichlet(np.full(len(used), 3.0))
    unit = np.eye(d)
    bounds = [Bound(f"caps.{i}", f"cap {i}", unit[i], high=float(inside[i] + rng.uniform(0.05, 0.3))) for i in range(d)]
    first = int(np.argmax(inside))
    bounds.append(Bound("floors", "floor", unit[first], low=float(inside[first] * rng.uniform(0.3, 0.9))))
    group = (rng.random(d) < 0.5).astype(float)
    share = float(group @ inside)
    bounds.append(Bound("groups", "group", group, low=max(0.0, share - 0.1), high=min(1.0, share + 0.1)))
    at_most = int(rng.integers(6, 9)) if d > 8 and rng.random() < 0.5 else None
    base = problem_space(d)
    return MixtureSpace(base.domains, base.natural, Constraints(tuple(bounds), at_most=at_most))


@pytest.mark.parametrize("name", NAMES)
def test_batches_satisfy_random_constraints(name: str) -> None:
    for seed, d in enumerate((3, 8, 20, 60)):
        space = random_space(d, np.random.default_rng(seed))
        # Trained before there were constraints.
        history = replace(problem_history(d, 16, seed), space=space)
        batch = propose(name, history, 5, candidates=64)
        assert batch.shape == (5, d)
        assert space.feasible(batch).all(), (seed, space.constraints)
        assert len(np.unique(np.rint(batch / 1e-4), axis=0)) == 5
        if name in ACQUISITIONS:
            again = propose(name, history, 2, candidates=64, pending=batch)
            gap = np.abs(again[:, None] - np.concatenate([batch, history.mixtures])).max(axis=2)
            assert gap.min() > 0.5e-4


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_where_one_mixture_is_feasible_it_is_trained_again(name: str) -> None:
    base, fixed = problem_space(4), np.array([0.4, 0.3, 0.2, 0.1])
    bounds = tuple(Bound(f"fixed.{i}", f"fixed {i}", np.eye(4)[i], low=float(fixed[i]), high=float(fixed[i])) for i in range(4))
    space = MixtureSpace(base.domains, base.natural, Constraints(bounds))
    history = replace(problem_history(4, 12, 0, extra=fixed[None]), space=space)
    np.testing.assert_allclose(propose(name, history, 3), np.broadcast_to(fixed, (3, 4)), atol=1e-8)


def test_all_candidates_are_feasible_and_those_of_the_simplex_are_untouched() -> None:
    space, rng = random_space(8, np.random.default_rng(3)), np.random.default_rng(0)
    leaders = space.sample(4, rng)
    assert space.feasible(structured_pool(space, leaders, 64, rng)).all()
    corners = np.eye(8)
    assert allowed(problem_space(8), corners) is corners
    assert space.feasible(allowed(space, corners)).all()


def limited(ceiling: float, n: int = 24) -> History:
    """Domain 0 is all that the target wants, and the limited loss wants domain 2."""
    return problem_history(4, n, 0, {"weights": {"loss-0": 1}, "limits": {"loss-2": {"at_most": ceiling}}})


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_proxies_are_trained_where_limits_are_likely_kept(name: str) -> None:
    history = limited(3.4)
    free = replace(history, target=Target.parse("loss-0", history.target.loss_names))
    model = TargetModel.of(history, GaussianProcess(max_iterations=8))
    batch, greedy = propose(name, history, 6), propose(name, free, 6)
    assert (model.probability(batch) > 0.3).mean() >= 0.8, model.probability(batch)
    assert (model.probability(greedy) > 0.3).mean() <= 0.5, "which without the limit is not so"
    broken = power_law(batch)[:, 2] - 3.4
    assert np.median(broken) < 0.05


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_where_nothing_keeps_the_limits_the_search_goes_where_they_may_be_kept(name: str) -> None:
    history = limited(1.0)
    batch = propose(name, history, 4)
    # One of a batch may still be where the doubt is largest.
    assert np.median(power_law(batch)[:, 2]) < np.quantile(history.losses[:, 2], 0.25)
    assert len(np.unique(np.rint(batch / 1e-4), axis=0)) == 4


def test_likely_candidates() -> None:
    assert likely(np.log([0.9, 0.51, 0.49, 0.1])).tolist() == [True, True, False, False]
    assert likely(np.log([0.2, 0.11, 0.09])).tolist() == [True, True, False]
    assert likely(np.array([-900.0, -900.1, -950.0])).tolist() == [True, True, False]
    assert likely(np.zeros(0)).tolist() == []


class _ByMean(Base):
    def score(self, belief: TargetBelief) -> NDArray[np.float64]:
        return -belief.mean


def belief(mean: list[float], kept: list[float] | None) -> TargetBelief:
    log_kept = None if kept is None else np.log(kept)
    mixtures = np.zeros((len(mean), 2))
    return TargetBelief(mixtures, np.array(mean), np.full(len(mean), 0.1), 1.0, 0.0, lambda rows: mixtures[rows], log_kept)


def test_a_score_need_not_know_of_limits() -> None:
    """Those that are likely kept by their score, then the others by their probability; a gain in logs is weighed."""
    one: Any = belief([1.0, 0.5, 0.2, 0.1], [0.9, 0.8, 0.3, 0.4])
    assert _ByMean().ranked(one).tolist() == [1, 0, 3, 2]
    assert _ByMean().ranked(belief([1.0, 0.5, 0.2, 0.1], None)).tolist() == [3, 2, 1, 0]
    weighed = ExpectedImprovement().ranked(belief([0.5, 0.5, 0.4], [0.9, 0.5, 0.5]))
    assert weighed.tolist() == [0, 2, 1]


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_a_worst_case_is_balanced(name: str) -> None:
    """Three losses want three of four domains; the mean is content with less balance than the worst of them."""
    history = problem_history(4, 24, 0, {"weights": "mean", "worst": True})
    batch = propose(name, history, 4)
    assert power_law(batch).max(axis=1).min() < history.values.min() + 0.02
    assert batch[:, 3].mean() < 0.3
