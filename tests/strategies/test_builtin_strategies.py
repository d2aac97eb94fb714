"""Invariants that every built-in strategy keeps, and what tells them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from regmix_active.mixture.space import Mixtures
from regmix_active.strategies import AcquisitionStrategy, Strategy, available, load_strategy
from regmix_active.strategies.candidates import RESOLUTION
from regmix_active.strategies.expected_improvement import log_improvement
from regmix_active.study.history import History
from regmix_active.surrogate.belief import TargetBelief
from regmix_active.surrogate.gaussian_process import GaussianProcess

MakeHistory = Callable[..., History]
NAMES = sorted(available())
ACQUISITIONS = [name for name in NAMES if issubclass(available()[name], AcquisitionStrategy)]


def load(name: str, candidates: int = 256) -> Strategy:
    options = {"candidates": candidates} if name in ACQUISITIONS else {}
    return load_strategy(name, options, GaussianProcess(max_iterations=10))


def propose(name: str, history: History, n: int, seed: int = 0, pending: Mixtures | None = None) -> Mixtures:
    none = np.empty((0, history.space.dim))
    return load(name).propose(history, none if pending is None else pending, n, np.random.default_rng(seed))


def gap(a: Mixtures, b: Mixtures) -> NDArray[np.float64]:
    """Largest difference of weights between every pair of mixtures, shape ``(len(a), len(b))``."""
    distance: NDArray[np.float64] = np.abs(a[:, None] - b[None]).max(axis=2)
    return distance


def distinct(mixtures: Mixtures) -> bool:
    """Whether no two mixtures fall into the same cell."""
    return len(np.unique(np.rint(mixtures / RESOLUTION), axis=0)) == len(mixtures)


def test_what_is_built_in() -> None:
    assert NAMES == [
        "confidence-bound",
        "dirichlet",
        "expected-improvement",
        "greedy",
        "hypervolume",
        "thompson",
        "variance-reduction",
    ]
    assert [available()[name].name for name in NAMES] == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("d", [2, 40])
def test_batches_are_feasible_distinct_new_and_reproducible(make_history: MakeHistory, name: str, d: int) -> None:
    history = make_history(n=16, d=d)
    batch = propose(name, history, 9)
    assert batch.shape == (9, d)
    np.testing.assert_allclose(history.space.check(batch), batch, atol=1e-12)
    assert distinct(batch)
    if name in ACQUISITIONS:
        assert distinct(np.concatenate([batch, history.mixtures]))
    np.testing.assert_array_equal(batch, propose(name, history, 9))
    assert not np.allclose(batch, propose(name, history, 9, seed=1))
    assert propose(name, history, 1).shape == (1, d)


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_acquisitions_find_the_useful_domains(make_history: MakeHistory, name: str) -> None:
    """Two of six domains matter; random mixtures give them a third of the weight."""
    history = make_history(n=24, d=6)
    batch = propose(name, history, 4)
    assert batch[:, :2].sum(axis=1).mean() > 0.7
    assert history.target(2 + (batch[:, :2] + 0.02) ** -0.4).min() < history.values.min()


@pytest.mark.parametrize("name", ["expected-improvement", "confidence-bound"])
def test_pending_mixtures_move_the_choice_away(make_history: MakeHistory, name: str) -> None:
    history = make_history(n=12, d=4)
    first = propose(name, history, 1)
    second = propose(name, history, 1, pending=first)
    # The neighbourhood counts as seen too: more than the rounding within which candidates are the same.
    assert gap(first, second).min() > 5e-3


def test_a_batch_is_the_first_choice_and_more(make_history: MakeHistory) -> None:
    history = make_history(n=12, d=4)
    np.testing.assert_array_equal(propose("expected-improvement", history, 1)[0], propose("expected-improvement", history, 5)[0])


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_an_optimum_at_a_corner_is_not_trained_twice(make_history: MakeHistory, name: str) -> None:
    """At a corner many candidates coincide; a greedy batch would be one mixture n times, and the next round again."""
    history = make_history(n=16, d=3, losses=1)
    batch = propose(name, history, 6)
    assert distinct(batch)
    corner = np.array([[1.0, 0.0, 0.0]])
    mixtures = np.concatenate([history.mixtures, corner])
    losses = np.concatenate([history.losses, [[2 + 1.02**-0.4]]])
    seen = History(history.space, history.target, mixtures, losses, np.arange(17))
    assert distinct(np.concatenate([propose(name, seen, 6), corner]))
    assert distinct(np.concatenate([propose(name, history, 6, pending=corner), corner]))


def test_greedy_ignores_doubt_and_the_bound_seeks_it(make_history: MakeHistory) -> None:
    history = make_history(n=12, d=4)
    surrogate = GaussianProcess(max_iterations=10).fit(history.mixtures, history.losses)

    def beliefs(batch: Mixtures) -> tuple[float, float]:
        posterior = surrogate.posterior(batch)
        return float(history.target(posterior.mean)[0]), float(posterior.variance[0] @ history.target.weights**2)

    greedy = beliefs(propose("greedy", history, 1))
    bold = load_strategy("confidence-bound", {"beta": 20, "candidates": 256}, GaussianProcess(max_iterations=10))
    adventurous = beliefs(bold.propose(history, np.empty((0, 4)), 1, np.random.default_rng(0)))
    assert greedy[0] < adventurous[0]
    assert greedy[1] < adventurous[1]


@dataclass
class _Undecided(AcquisitionStrategy):
    """Scores nothing but NaN."""

    def score(self, belief: TargetBelief) -> NDArray[np.float64]:
        return np.full(len(belief.mean), np.nan)


def test_nan_scores_still_give_a_batch(make_history: MakeHistory) -> None:
    history = make_history(n=8, d=3)
    batch = _Undecided(GaussianProcess(max_iterations=5), candidates=64).propose(
        history, np.empty((0, 3)), 5, np.random.default_rng(0)
    )
    assert distinct(batch)


@pytest.mark.parametrize("options", [{"candidates": 3}, {"leaders": 0}, {"climbers": -1}])
def test_sizes_that_leave_no_choice(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="candidates must be 4 or more, leaders 1 or more and climbers 0 or more"):
        _Undecided(**options)


# log(φ(u) + u Φ(u)) to 20 digits, from mpmath with 80; the first two from the asymptotic series.
IMPROVEMENT = {
    -1e7: -50000000000033.15513,
    -1e5: -5000000023.9447894634,
    -1000.0: -500014.73445209115845,
    -50.0: -1258.7441828684608531,
    -5.0: -16.744301162660990143,
    -1.0: -2.4851210257126413368,
    -1e-3: -0.92019213276972643705,
    0.0: -0.91893853320467274178,
    1.0: 0.080026218849306940029,
    10.0: 2.302585092994045684,
    50.0: 3.9120230054281460586,
    1e6: 13.815510557964274104,
}


def test_log_improvement_against_high_precision() -> None:
    u, wanted = np.array(list(IMPROVEMENT)), np.array(list(IMPROVEMENT.values()))
    np.testing.assert_allclose(log_improvement(u), wanted, rtol=1e-12, atol=1e-13)


def test_log_improvement_keeps_its_tail() -> None:
    """What remains beside -u²/2 is -2 log|u| up to 3/u²: rounding must not eat it, nor the switch of formulas show."""
    u = -np.concatenate([np.geomspace(1e2, 1e6, 400), np.linspace(9.9e4, 1.01e5, 400)])
    rest = log_improvement(u) + u**2 / 2 + np.log(2 * np.pi) / 2
    np.testing.assert_allclose(rest, -2 * np.log(-u) - 3 / u**2, atol=2e-4)


def test_log_improvement_rises() -> None:
    u = np.sort(
        np.concatenate([np.linspace(-200, 50, 2001), -np.geomspace(1e-6, 1e7, 2001), np.geomspace(1e-6, 1e7, 501), [-1e5, 0]])
    )
    values = log_improvement(np.unique(u))
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all()
