"""The rivals do what their authors say."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from regmix_active.compare.benchmark import make_method
from regmix_active.compare.methods import Method, nearest
from regmix_active.compare.rivals import REGMIX_DRAWS, Climb, OptunaSampler, RegMixRegression, regmix_answers
from regmix_active.mixture.designs import regmix_design
from regmix_active.mixture.space import MixtureSpace
from regmix_active.study.history import History
from regmix_active.study.target import Target
from tests.compare.replays import DOMAINS, LOSSES, true_losses

SPACE = MixtureSpace(DOMAINS, np.array([0.4, 0.3, 0.2, 0.1]))


def history(n: int, target: str = "books") -> History:
    mixtures = regmix_design(SPACE, n, np.random.default_rng(0))
    return History(SPACE, Target.parse(target, LOSSES), mixtures, true_losses(mixtures), np.arange(n))


@pytest.fixture(params=["climb", "tpe", "gp-sampler", "random", "expected-improvement", "dirichlet"])
def method(request: pytest.FixtureRequest) -> Method:
    return make_method(request.param, "gp", "regmix", seed=3)


def test_proposals_are_feasible_and_choices_differ(method: Method) -> None:
    known, rng = history(20), np.random.default_rng(1)
    proposed = method.propose(known, 5, rng)
    assert proposed.shape == (5, 4)
    SPACE.check(proposed)
    candidates = np.random.default_rng(2).dirichlet(np.ones(4), 30)
    rows = method.select(known, candidates, 6, rng)
    assert len(set(rows.tolist())) == 6
    assert set(rows.tolist()) <= set(range(30))


@pytest.mark.parametrize("name", ["climb", "tpe", "gp-sampler", "random"])
def test_same_seed_same_search(name: str) -> None:
    def played() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        method, known = make_method(name, "gp", "regmix", seed=3), history(16)
        chosen = method.propose(known, 4, np.random.default_rng(0))
        mixtures = np.concatenate([known.mixtures, chosen])
        grown = History(SPACE, known.target, mixtures, true_losses(mixtures), np.arange(20))
        return np.concatenate([chosen, method.propose(grown, 4, np.random.default_rng(1))])

    np.testing.assert_array_equal(played(), played())


def test_regmix_regression_is_lightgbm_with_the_published_settings() -> None:
    known = history(100)
    regression = RegMixRegression()
    regression.fit(known.mixtures, known.losses)
    settings = {"learning_rate": 0.01, "verbosity": -1, "num_threads": 1}
    published = lightgbm.train(settings, lightgbm.Dataset(known.mixtures, known.losses[:, 1]), 1000)
    np.testing.assert_allclose(regression.predict(known.mixtures)[:, 1], published.predict(known.mixtures), atol=1e-12)


def test_regmix_averages_the_best_of_its_draws() -> None:
    known = history(200)
    weights = np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    answers = regmix_answers(SPACE, known.mixtures, known.losses, weights, np.random.default_rng(0))
    SPACE.check(answers)
    draws = SPACE.dirichlet(REGMIX_DRAWS, SPACE.natural, np.random.default_rng(0))
    for row, target in zip(answers, weights, strict=True):
        values = true_losses(draws) @ target
        assert (true_losses(row[None]) @ target)[0] < np.quantile(values, 0.02)


@pytest.mark.parametrize(("budget", "rounds"), [(112, [64, 32, 16]), (40, [23, 11, 6]), (7, [4, 2, 1]), (1, [1])])
def test_climb_rounds(budget: int, rounds: list[int]) -> None:
    assert Climb().rounds(16, 8, budget) == rounds


def test_climb_chooses_what_it_predicts_to_be_best() -> None:
    known = history(60)
    candidates = np.concatenate([np.full((5, 4), 0.25), [[0.97, 0.01, 0.01, 0.01], [0.0, 0.0, 1.0, 0.0]]])
    assert Climb().select(known, candidates, 1, np.random.default_rng(0)).tolist() == [5]
    assert Climb().recommend(known, np.random.default_rng(0))[0] > 0.7


def test_optuna_is_told_every_run_once() -> None:
    method, known = OptunaSampler("tpe", seed=0), history(16)
    chosen = method.propose(known, 4, np.random.default_rng(0))
    mixtures = np.concatenate([known.mixtures, chosen])
    grown = History(SPACE, known.target, mixtures, true_losses(mixtures), np.arange(20))
    method.propose(grown, 2, np.random.default_rng(0))
    finished = [trial for trial in method._study.trials if trial.state.is_finished()]
    np.testing.assert_allclose(sorted(t.value for t in finished if t.value is not None), sorted(grown.values))
    # What was asked for keeps its own numbers, from 0 to 1 each; they are divided by their sum to be a mixture.
    asked = np.array([[trial.params[name] for name in DOMAINS] for trial in method._study.trials[16:20]])
    np.testing.assert_allclose(asked / asked.sum(axis=1, keepdims=True), chosen)
    np.testing.assert_array_equal(method.recommend(grown, np.random.default_rng(0)), grown.mixtures[grown.best])


def test_optuna_in_a_pool_is_told_the_rows() -> None:
    method, known = OptunaSampler("tpe", seed=0), history(16)
    candidates = np.random.default_rng(0).dirichlet(np.ones(4), 9)
    rows = method.select(known, candidates, 3, np.random.default_rng(0))
    mixtures = np.concatenate([known.mixtures, candidates[rows]])
    grown = History(SPACE, known.target, mixtures, true_losses(mixtures), np.arange(19))
    method.select(grown, candidates, 3, np.random.default_rng(0))
    told = [trial for trial in method._study.trials if trial.value is not None]
    np.testing.assert_allclose([[trial.params[name] for name in DOMAINS] for trial in told], mixtures)


def test_nearest_takes_no_row_twice() -> None:
    candidates = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert nearest(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), candidates).tolist() == [0, 1, 2]
