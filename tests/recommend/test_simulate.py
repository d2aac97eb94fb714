"""The recommendation: better than what was trained, and consistent with itself."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import pytest
import torch

from regmix_active.errors import StudyError
from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.space import MixtureSpace
from regmix_active.recommend.passes import REFINEMENTS
from regmix_active.recommend.simulate import Recommendation, Rule, recommend
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Posterior, Surrogate
from regmix_active.surrogate.belief import target_std
from regmix_active.surrogate.gaussian_process import GaussianProcess

D = 5
SPACE = MixtureSpace(tuple(f"d{i}" for i in range(D)), np.array([0.1, 0.1, 0.2, 0.3, 0.3]))
SCALE = np.array([2.0, 1.0, 1.0, 0.3, 0.1])


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def truth(mixtures: np.ndarray) -> np.ndarray:
    losses: np.ndarray = 2 + SCALE * (mixtures + 0.02) ** -0.4
    return losses


def history(n: int = 32, spec: object = "mean", noise: float = 0.005) -> History:
    rng = np.random.default_rng(0)
    mixtures = SPACE.dirichlet(n, np.ones(D), rng)
    losses = truth(mixtures) + noise * rng.normal(size=(n, D))
    return History(SPACE, Target.parse(spec, SPACE.domains), mixtures, losses, np.arange(n) * 2)  # type: ignore[arg-type]


def answer(learnt: History, seed: int = 0, top_k: int = 64, caution: float = 1.0) -> Recommendation:
    return recommend(learnt, GaussianProcess(), 4000, top_k, np.random.default_rng(seed), caution)


@pytest.fixture(scope="module")
def found() -> Recommendation:
    return answer(history())


def test_better_than_the_best_trained_mixture(found: Recommendation) -> None:
    """The optimum in closed form: weights proportional to scale^(1 / 1.4), less the offset."""
    target = found.history.target
    weights = found.found.weights
    trained = found.history.mixtures
    assert target(truth(weights[None]))[0] < target(truth(trained)).min()
    ideal = SCALE ** (1 / 1.4)
    ideal = ideal / ideal.sum() * (1 + 0.02 * D) - 0.02
    assert target(truth(weights[None]))[0] - target(truth(ideal[None]))[0] < 0.01
    np.testing.assert_allclose(weights, ideal, atol=0.06)


def test_predictions_are_those_of_the_surrogate(found: Recommendation) -> None:
    surrogate = GaussianProcess().fit(found.history.mixtures, found.history.losses)
    target = found.history.target
    for prediction in (found.found, found.natural, found.uniform, found.best_trained):
        posterior = surrogate.posterior(prediction.weights[None])
        np.testing.assert_allclose(prediction.losses, surrogate.predict(prediction.weights[None])[0], atol=1e-9)
        np.testing.assert_allclose(prediction.losses_std**2, posterior.variance[0], atol=1e-9)
        assert prediction.mean == pytest.approx(float(target(prediction.losses[None])[0]))
        assert prediction.std == pytest.approx(float(target_std(posterior, target.weights)[0]))
    assert found.found.mean <= min(found.natural.mean, found.uniform.mean, found.best_trained.mean)


def test_it_says_what_it_was_made_from(found: Recommendation) -> None:
    learnt = found.history
    np.testing.assert_array_equal(found.natural.weights, SPACE.natural)
    np.testing.assert_allclose(found.uniform.weights, 1 / D)
    np.testing.assert_array_equal(found.best_trained.weights, learnt.mixtures[learnt.best])
    assert found.best_slot == learnt.best * 2
    assert found.best_value == learnt.values.min()
    assert found.averaged == 64
    assert found.simulated == 4000 + REFINEMENTS * (4000 // (2 * REFINEMENTS))
    assert found.surrogate == "gp"
    assert list(found.weights) == list(SPACE.domains)
    assert sum(found.weights.values()) == pytest.approx(1)
    SPACE.check(found.found.weights)


def test_a_seed_gives_one_answer(found: Recommendation) -> None:
    np.testing.assert_array_equal(answer(history()).found.weights, found.found.weights)
    other = answer(history(), seed=1).found.weights
    assert not np.array_equal(other, found.found.weights)
    np.testing.assert_allclose(other, found.found.weights, atol=0.05)


def test_a_corner_can_be_the_answer() -> None:
    found = answer(history(spec={"d0": 1}), caution=0)
    assert found.found.weights[0] > 0.95


def test_caution_stays_where_proxies_were() -> None:
    """The same question: nobody trained near that corner, so a cautious answer keeps some distance."""
    bold, careful, timid = (answer(history(spec={"d0": 1}), caution=c).found for c in (0, 1, 5))
    assert bold.mean < careful.mean < timid.mean
    assert bold.std > careful.std > timid.std
    assert careful.mean + careful.std < bold.mean + bold.std


def test_memory_does_not_grow_with_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as many simulations as fit a chunk: no array of mixtures is longer than a chunk and what is kept."""
    monkeypatch.setattr("regmix_active.recommend.simulate.CHUNK", 500)
    monkeypatch.setattr("regmix_active.recommend.simulate.PASSED", 100)
    lengths = []

    class Counting(GaussianProcess):
        def predict(self, mixtures: np.ndarray) -> np.ndarray:
            lengths.append(len(mixtures))
            return super().predict(mixtures)

    found = recommend(history(), Counting(max_iterations=5), 5000, 50, np.random.default_rng(0))
    longest = max(lengths)
    assert sorted(lengths)[-20] <= 500
    assert sum(lengths) >= found.simulated == 5000 + REFINEMENTS * (5000 // (2 * REFINEMENTS))
    lengths.clear()
    recommend(history(), Counting(max_iterations=5), 40_000, 50, np.random.default_rng(0))
    assert max(lengths) == longest, "eight times as many mixtures, the same largest array"


@pytest.mark.parametrize("rule", ["mean", "thompson"])
def test_other_rules(rule: Rule, found: Recommendation) -> None:
    """All rules find the optimum of an easy problem; they differ in which mixtures are averaged."""
    learnt = history()
    other = recommend(learnt, GaussianProcess(), 4000, 64, np.random.default_rng(0), rule=rule)
    again = recommend(learnt, GaussianProcess(), 4000, 64, np.random.default_rng(0), rule=rule)
    np.testing.assert_array_equal(other.found.weights, again.found.weights)
    assert not np.array_equal(other.found.weights, found.found.weights)
    assert learnt.target(truth(other.found.weights[None]))[0] < learnt.target(truth(learnt.mixtures)).min()
    np.testing.assert_allclose(other.found.weights, found.found.weights, atol=0.08)
    assert (other.rule, found.rule) == (rule, "bound")


def test_the_rule_mean_is_the_bound_without_caution() -> None:
    learnt = history(16)
    mean = recommend(learnt, GaussianProcess(), 2000, 32, np.random.default_rng(0), 3.0, rule="mean")
    np.testing.assert_array_equal(mean.found.weights, answer_of(learnt, caution=0).found.weights)


def answer_of(learnt: History, caution: float) -> Recommendation:
    return recommend(learnt, GaussianProcess(), 2000, 32, np.random.default_rng(0), caution)


def test_constraints_hold_in_the_answer_and_are_said_of_its_rivals() -> None:
    bounds = (Bound("mixture.caps.d0", "d0 at most 0.2", np.eye(D)[0], high=0.2),)
    narrow = dataclasses.replace(SPACE, constraints=Constraints(bounds=bounds))
    learnt = dataclasses.replace(history(), space=narrow)
    found = recommend(learnt, GaussianProcess(), 2000, 32, np.random.default_rng(0), draws=16)
    assert narrow.feasible(found.found.weights[None]).all()
    assert found.found.weights[0] == pytest.approx(0.2, abs=0.02), "the best of all would have more"
    assert found.found.allowed
    assert found.natural.allowed
    assert found.best_trained.allowed
    assert found.doubt is not None
    assert narrow.feasible(found.doubt.next_runs, tolerance=1e-6).all()
    assert found.doubt.weights[0].max() <= 0.2 + 1e-9
    bounds = (Bound("mixture.floors.d0", "d0 at least 0.25", np.eye(D)[0], low=0.25),)
    high = dataclasses.replace(learnt, space=dataclasses.replace(SPACE, constraints=Constraints(bounds=bounds)))
    unlike = recommend(high, GaussianProcess(), 2000, 32, np.random.default_rng(0))
    assert (unlike.natural.allowed, unlike.uniform.allowed, unlike.found.allowed) == (False, False, True)


def test_limits_hold_as_surely_as_asked_or_it_is_said() -> None:
    """The first loss wants the first domain; its limit takes away what the last one would like."""
    free = answer(history(spec={"d4": 1})).found
    ceiling = float(truth(np.full((1, D), 1 / D))[0, 0])
    spec = {"weights": {"d4": 1}, "limits": {"d0": {"at_most": ceiling, "probability": 0.9}}}
    found = answer(history(spec=spec))
    assert truth(free.weights[None])[0, 0] > ceiling > truth(found.found.weights[None])[0, 0]
    assert found.found.weights[4] < free.weights[4]
    assert not found.notes
    spec["limits"] = {"d0": {"at_most": 1.0, "probability": 0.9}}
    (note,) = answer(history(spec=spec)).notes
    assert "no mixture keeps the target's limits" in note


def test_two_valleys_are_told() -> None:
    """A surrogate that knows two good corners, and bad mixtures between them."""
    learnt = history(spec={"d0": 1})
    found = recommend(learnt, Valleys(), 4000, 400, np.random.default_rng(0), caution=0)
    assert len(found.notes) == 1
    assert "2 groups" in found.notes[0]
    assert found.averaged < 400
    assert found.found.weights[:2].max() > 0.8, "in one of the corners"


class Valleys(Surrogate):
    """Expects least at the first two corners, and is sure of it."""

    name = "valleys"

    def fit(self, mixtures: np.ndarray, losses: np.ndarray, noise: object = None) -> Valleys:
        self.losses = losses.shape[1]
        return self

    def predict(self, mixtures: np.ndarray) -> np.ndarray:
        value = 1 - np.maximum(mixtures[:, 0], mixtures[:, 1])
        return np.repeat(value[:, None], self.losses, axis=1)

    def posterior(self, mixtures: np.ndarray) -> Posterior:
        mean = self.predict(mixtures)
        return Posterior(mean, 1e-6 * np.ones_like(mean), lambda rows: np.zeros((len(rows), *mean.shape)), np.zeros(self.losses))


def test_replicates_of_other_seeds_do_not_mislead() -> None:
    """A second seed that lowers all losses by a nat makes its mixtures look best, until its offset is taken away."""
    learnt = history()
    rows = [int(i) for i in np.argsort(learnt.values)[-4:]]
    losses = np.concatenate([learnt.losses, learnt.losses[rows] - 1 + 0.001 * np.random.default_rng(0).normal(size=(4, D))])
    both = History(
        SPACE,
        learnt.target,
        np.concatenate([learnt.mixtures, learnt.mixtures[rows]]),
        losses,
        np.arange(len(losses)),
        replicates=np.repeat([0, 1], [len(learnt), 4]),
    )
    found = recommend(both, GaussianProcess(), 4000, 64, np.random.default_rng(0), draws=16)
    assert found.best_trained.weights == pytest.approx(learnt.mixtures[learnt.best])
    assert found.best_value == pytest.approx(learnt.values.min())
    assert learnt.target(truth(found.found.weights[None]))[0] < learnt.target(truth(learnt.mixtures)).min()
    assert found.doubt is not None
    assert found.doubt.noise is not None
    assert found.doubt.noise.target_offset == pytest.approx(np.sqrt(0.5), rel=0.01)
    assert found.doubt.fresh is not None
    assert found.doubt.fresh[1] - found.doubt.fresh[0] > 2


def test_more_averaged_than_simulated_at_first() -> None:
    found = answer(history(16), top_k=5000)
    assert found.averaged == 5000
    SPACE.check(found.found.weights)


def test_too_few_runs() -> None:
    with pytest.raises(StudyError, match="the study has 3"):
        answer(history(3))


class Credulous(GaussianProcess):
    """Sure of wonders at a corner that nobody trained, as long as it knows all runs."""

    def fit(self, mixtures: np.ndarray, losses: np.ndarray, noise: Any = None) -> Self:
        self._wonder = float(len(mixtures) == 30)
        return super().fit(mixtures, losses)

    def predict(self, mixtures: np.ndarray) -> np.ndarray:
        return super().predict(mixtures) - self._wonder * self._lift(mixtures)

    def posterior(self, mixtures: np.ndarray) -> Posterior:
        found = super().posterior(mixtures)
        found.mean = found.mean - self._wonder * self._lift(mixtures)
        return found

    @staticmethod
    def _lift(mixtures: np.ndarray) -> np.ndarray:
        return 5.0 * np.clip(mixtures[:, :1] - 0.9, 0.0, None) * 10


def test_an_answer_that_hangs_on_few_runs_is_not_given() -> None:
    rng = np.random.default_rng(0)
    mixtures = SPACE.dirichlet(30, np.full(D, 2.0), rng)
    target = Target.parse("mean", [f"l{j}" for j in range(2)])
    losses = 3 + ((mixtures[:, 1:3] - 0.3) ** 2) + 0.001 * rng.standard_normal((30, 2))
    learnt = History(SPACE, target, mixtures, losses, np.arange(30))
    bold, cautious = (recommend(learnt, Credulous(), 2000, 32, np.random.default_rng(1), caution) for caution in (0.0, 1.0))
    assert bold.found.weights[0] > 0.85
    assert cautious.found.weights[0] < 0.5
    assert "hang on few runs" in cautious.notes[0]
    assert not any("hang on" in note for note in recommend(learnt, GaussianProcess(), 2000, 32, np.random.default_rng(1)).notes)
