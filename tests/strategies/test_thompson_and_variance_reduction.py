"""The two strategies that look at more than each candidate's own mean and doubt, against known beliefs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.stats import norm

from regmix_active.errors import StrategyError
from regmix_active.strategies import load_strategy
from regmix_active.strategies.confidence_bound import ConfidenceBound
from regmix_active.strategies.greedy import Greedy
from regmix_active.strategies.thompson import Thompson
from regmix_active.strategies.variance_reduction import VarianceReduction
from regmix_active.study.history import History
from regmix_active.surrogate.base import Array, Posterior, Surrogate
from regmix_active.surrogate.belief import TargetBelief, TargetModel
from regmix_active.surrogate.gaussian_process import GaussianProcess

MakeHistory = Callable[..., History]
NOISE = 0.05


class Known(Surrogate):
    """One loss, believed to be linear in the weights with known means and variances of the coefficients."""

    name = "known"

    def __init__(self, mean: ArrayLike, std: ArrayLike) -> None:
        self.mean, self.std = np.asarray(mean), np.asarray(std)

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        return self

    def predict(self, mixtures: Array) -> Array:
        return (mixtures @ self.mean)[:, None]

    def posterior(self, mixtures: Array) -> Posterior:
        joint = (mixtures * self.std**2) @ mixtures.T
        return Posterior(self.predict(mixtures), np.diag(joint)[:, None], lambda rows: joint[rows][..., None], np.array([NOISE**2]))


def believed(history: History, surrogate: Surrogate, candidates: Array) -> TargetBelief:
    model = TargetModel(surrogate, history.target.weights).fit(history.mixtures, history.losses)
    return model.posterior(candidates, history.mixtures, np.empty((0, history.space.dim))).belief


def test_thompson_trains_a_mixture_as_often_as_it_is_the_best(make_history: MakeHistory) -> None:
    """1,000 batches of one; each share within four standard errors of what 200,000 draws say."""
    history, corners = make_history(n=8, d=4, losses=1), np.eye(4)
    mean, std = np.array([2.0, 2.1, 2.3, 3.0]), np.array([0.05, 0.2, 0.3, 0.2])
    strategy, none = Thompson(Known(mean, std)), np.empty((0, 4))
    chosen = [strategy.select(history, none, corners, 1, np.random.default_rng(seed))[0] for seed in range(1000)]
    draws = mean + std * np.random.default_rng(0).standard_normal((200_000, 4))
    wanted = np.bincount(draws.argmin(axis=1), minlength=4) / len(draws)
    shares = np.bincount(chosen, minlength=4) / 1000
    assert (np.abs(shares - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / 1000) + 1e-3).all(), (shares, wanted)


def test_thompson_compares_its_functions_at_the_promising_candidates_only(make_history: MakeHistory) -> None:
    history, none = make_history(n=8, d=6, losses=1), np.empty((0, 6))
    surrogate = Known([2.0, 2.1, 2.2, 2.3, 2.4, 2.5], np.full(6, 1.0))
    few = Thompson(surrogate, shortlist=2)
    chosen = {int(few.select(history, none, np.eye(6), 1, np.random.default_rng(seed))[0]) for seed in range(40)}
    assert chosen == {0, 1}
    assert sorted(few.select(history, none, np.eye(6), 6, np.random.default_rng(0))) == list(range(6)), "a batch needs more"


def test_thompson_spreads_a_batch_and_greedy_does_not(make_history: MakeHistory) -> None:
    history, none = make_history(n=12, d=5), np.empty((0, 5))

    def width(strategy: type[Thompson | Greedy]) -> float:
        rng = np.random.default_rng(0)
        batch = strategy(GaussianProcess(max_iterations=10), candidates=512).propose(history, none, 12, rng)
        return float(np.linalg.norm(batch[:, None] - batch[None], axis=2).mean())

    assert width(Thompson) > 2 * width(Greedy)


def test_reduction_is_what_conditioning_takes(make_history: MakeHistory) -> None:
    """One loss; every candidate represents itself: the score is the weighed mean of the variances that vanish."""
    history = make_history(n=10, d=4, losses=1)
    candidates = history.space.dirichlet(30, np.ones(4), np.random.default_rng(1))
    surrogate = GaussianProcess(max_iterations=10)
    belief = believed(history, surrogate, candidates)
    scores = VarianceReduction(surrogate, top=30, representatives=30).score(belief)
    assert scores.shape == (30,)
    weights = norm.cdf((min(belief.best, belief.mean.min()) - belief.mean) / belief.std)
    for i in range(30):
        posterior = surrogate.posterior(candidates)
        before = posterior.variance[:, 0].copy()
        posterior.condition(i)
        wanted = weights @ (before - posterior.variance[:, 0]) / weights.sum()
        assert scores[i] == pytest.approx(wanted, rel=1e-2, abs=1e-12)


def test_reduction_counts_where_it_matters(make_history: MakeHistory) -> None:
    """Domain 3 is the most doubtful and surely bad; of the two good ones, the doubtful one is trained, and not the best."""
    history, none = make_history(n=8, d=4, losses=1), np.empty((0, 4))
    surrogate = Known([2.0, 2.05, 2.5, 9.0], [0.02, 0.2, 0.02, 1.0])
    for strategy, wanted in ((VarianceReduction(surrogate), 1), (Greedy(surrogate), 0), (ConfidenceBound(surrogate, beta=20), 3)):
        assert strategy.select(history, none, np.eye(4), 1, np.random.default_rng(0)).tolist() == [wanted]


def test_reduction_is_finite_where_nothing_can_be_better(make_history: MakeHistory) -> None:
    """Probabilities of an improvement that all round to zero still have ratios."""
    history = make_history(n=8, d=3, losses=1)
    belief = believed(history, Known([500.0, 600.0, 700.0], [0.1, 0.1, 0.1]), np.eye(3)[1:])
    scores = VarianceReduction(top=2, representatives=2).score(belief)
    assert np.isfinite(scores).all()
    assert scores[0] > scores[1] >= 0, "the likelier one counts"
    sure = believed(history, Known([2.0, 3.0, 4.0], np.zeros(3)), np.eye(3))
    assert (VarianceReduction(top=3, representatives=3).score(sure) == 0).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("thompson", {"shortlist": 0}, "shortlist must be 1 or more, got 0"),
        ("thompson", {"candidates": 0}, "candidates must be 4 or more"),
        ("variance-reduction", {"representatives": 0}, "representatives must be between 1 and top = 128, got 0"),
        ("variance-reduction", {"top": 16}, "representatives must be between 1 and top = 16, got 32"),
        ("variance-reduction", {"leaders": 0}, "leaders 1 or more"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        load_strategy(name, options)
