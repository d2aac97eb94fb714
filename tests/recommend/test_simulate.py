"""The recommendation: better than what was trained, and consistent with itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regmix_active.errors import StudyError
from regmix_active.mixture.space import MixtureSpace
from regmix_active.recommend.simulate import REFINEMENTS, Recommendation, recommend
from regmix_active.study.history import History
from regmix_active.study.target import Target
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
    assert max(lengths) <= 500
    assert sum(lengths) >= found.simulated == 5000 + REFINEMENTS * (5000 // (2 * REFINEMENTS))


def test_more_averaged_than_simulated_at_first() -> None:
    found = answer(history(16), top_k=5000)
    assert found.averaged == 5000
    SPACE.check(found.found.weights)


def test_too_few_runs() -> None:
    with pytest.raises(StudyError, match="the study has 3"):
        answer(history(3))
