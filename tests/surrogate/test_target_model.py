"""A surrogate seen through targets of every kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.pull import Pull
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Array
from regmix_active.surrogate.belief import TargetModel, target_std
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.testing.problems import LOSSES, broad_mixtures, power_law, problem_history, problem_space

SPACE = problem_space(5)
X = broad_mixtures(SPACE, 12, 5)
NONE = np.empty((0, 5))
NAMES = tuple(f"loss-{j}" for j in range(LOSSES))
WORST = {"weights": "mean", "worst": True, "excess_over": "natural"}


def model_of(spec: Any, **changes: Any) -> tuple[TargetModel, History]:
    history = replace(problem_history(5, 20, 0, spec), **changes)
    return TargetModel.of(history, GaussianProcess(max_iterations=8)), history


def test_weights_need_no_target() -> None:
    """And give the same numbers as ever."""
    model, history = model_of({"loss-0": 0.3, "loss-2": 0.7})
    plain = TargetModel(GaussianProcess(max_iterations=8), history.target.weights).fit(history.mixtures, history.losses)
    surrogate = GaussianProcess(max_iterations=8).fit(history.mixtures, history.losses[:, [0, 2]])
    weights = np.array([0.3, 0.7])
    posterior = surrogate.posterior(X)
    for one in (model, plain):
        np.testing.assert_array_equal(one.predict(X), surrogate.predict(X) @ weights)
        np.testing.assert_array_equal(one.pessimistic(X, 1.5), posterior.mean @ weights + 1.5 * target_std(posterior, weights))
        for mine, theirs in zip(one.gradients(X), surrogate.gradients(X, weights), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        belief = one.posterior(X, NONE, NONE).belief
        np.testing.assert_array_equal(belief.mean, posterior.mean @ weights)
        np.testing.assert_array_equal(belief.std, target_std(posterior, weights))
        assert belief.log_kept is None
        np.testing.assert_array_equal(one.probability(X), 1)
        np.testing.assert_array_equal(one.violations(X), 0)


def test_an_excess_is_less_by_the_believed_reference() -> None:
    plain, _ = model_of({"loss-0": 1.0})
    excess, history = model_of({"weights": {"loss-0": 1}, "excess_over": "natural"})
    natural = history.space.natural[None]
    np.testing.assert_allclose(excess.predict(X), plain.predict(X) - plain.predict(natural), atol=1e-9)
    assert excess.predict(natural)[0] == pytest.approx(0, abs=1e-12)
    share, _ = model_of({"weights": {"loss-0": 1}, "excess_over": "natural", "relative": True})
    np.testing.assert_allclose(share.predict(X), plain.predict(X) / plain.predict(natural) - 1, atol=1e-9)
    one, none = (share.pessimistic(X, caution) for caution in (1.0, 0.0))
    np.testing.assert_allclose(one - none, plain.moments(X)[1] / plain.predict(natural), rtol=1e-6)
    np.testing.assert_allclose(excess.gradients(X)[2], plain.gradients(X)[2])
    given, _ = model_of({"weights": {"loss-0": 1}, "excess_over": {"loss-0": 3.0}})
    np.testing.assert_allclose(given.paths(2, np.random.default_rng(0))(X), plain.paths(2, np.random.default_rng(0))(X) - 3.0)


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_nothing_is_doubted_of_the_natural_mixture_over_itself(worst: bool, relative: bool) -> None:
    model, _ = model_of({"excess_over": "natural", "worst": worst, "relative": relative})
    natural = SPACE.natural[None]
    mean, std = model.moments(np.concatenate([natural, X]))
    assert (mean[0], std[0]) == (0, 0)
    assert (std[1:] > 0).all()
    near = 0.999 * natural + 0.001 * X[:1]
    assert model.moments(near)[1][0] < 0.1 * std[1:].min(), "next to it little"
    losses = model.surrogate.paths(2000, np.random.default_rng(0))(np.concatenate([X, natural]))
    over = losses[:, :-1] / losses[:, -1:] - 1 if relative else losses[:, :-1] - losses[:, -1:]
    draws = over.max(axis=2) if worst else over.mean(axis=2)
    np.testing.assert_allclose(std[1:], draws.std(axis=0), rtol=0.3)


def test_a_worst_case_against_draws_of_functions() -> None:
    model, _ = model_of(WORST)
    mean, std = model.moments(X)
    losses = model.surrogate.paths(2000, np.random.default_rng(0))(np.concatenate([X, SPACE.natural[None]]))
    draws = (losses[:, :-1] - losses[:, -1:]).max(axis=2)
    np.testing.assert_allclose(mean, draws.mean(axis=0), atol=0.15 * std.max())
    np.testing.assert_allclose(std, draws.std(axis=0), rtol=0.3)
    assert (mean >= model.predict(X) - 1e-9).all(), "doubt raises the expected largest of several"
    belief = model.posterior(X, NONE, NONE).belief
    np.testing.assert_allclose(model.pessimistic(X, 2.0), belief.mean + 2 * belief.std)
    np.testing.assert_allclose(model.pessimistic(X, 0.0), belief.mean)
    np.testing.assert_allclose(belief.mean, mean, atol=0.15 * std.max())
    covariance = belief.covariance(np.arange(len(X)))
    np.testing.assert_allclose(np.diag(covariance), belief.std**2, rtol=1e-6)
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-9)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    assert belief.noise > 0


def test_a_worst_case_shrinks_as_a_batch_is_chosen() -> None:
    model, history = model_of(WORST)
    posterior = model.posterior(X, history.mixtures, NONE)
    before, taken = posterior.belief, posterior.belief.covariance(np.arange(3))
    posterior.choose(1)
    after = posterior.belief
    assert after.std[1] < 0.8 * before.std[1]
    assert (after.std <= before.std + 1e-9).all()
    np.testing.assert_array_equal(after.mean, before.mean)
    assert (np.abs(after.covariance(np.arange(3))) <= np.abs(taken) + 1e-9).diagonal().all()
    assert after.best == min(before.best, before.mean[1])


@pytest.mark.parametrize(
    "spec",
    [
        {"weights": "mean", "worst": True},
        {**WORST, "relative": True},
        {"weights": {"loss-0": 2, "loss-1": 1}, "worst": True, "excess_over": {"loss-0": 3.0, "loss-1": 3.2}},
        {"weights": {"loss-1": 1}, "excess_over": "natural"},
    ],
)
def test_gradients_are_those_of_differences(spec: Any) -> None:
    """Along the simplex, with a pull."""
    model, _ = model_of(spec, space=replace(SPACE, pull=Pull(SPACE.natural, 0.3)))
    Z = SPACE.project(X + 0.05)
    mean, variance, d_mean, d_variance = model.gradients(Z)
    np.testing.assert_allclose(mean, model.posterior(Z, NONE, NONE).belief.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(variance), model.posterior(Z, NONE, NONE).belief.std, rtol=1e-4)
    direction = np.random.default_rng(0).standard_normal(Z.shape)
    direction -= direction.mean(axis=1, keepdims=True)
    ahead, behind = (model.gradients(Z + sign * 1e-5 * direction) for sign in (1, -1))
    for slope, plus, minus in ((d_mean, ahead[0], behind[0]), (d_variance, ahead[1], behind[1])):
        wanted = (plus - minus) / 2e-5
        # The average of draws has kinks, where one loss takes over from another.
        np.testing.assert_allclose((slope * direction).sum(axis=1), wanted, atol=0.02 * np.abs(wanted).max())


def test_the_pull_is_in_what_is_minimised_and_not_in_what_is_told() -> None:
    pull = Pull(SPACE.natural, 0.5)
    pulled, _ = model_of("mean", space=replace(SPACE, pull=pull))
    plain, history = model_of("mean")
    added = pull.penalty(X)
    assert added.max() > 0.05
    np.testing.assert_allclose(pulled.predict(X), plain.predict(X) + added)
    np.testing.assert_allclose(pulled.pessimistic(X, 1.0), plain.pessimistic(X, 1.0) + added)
    np.testing.assert_array_equal(pulled.moments(X), plain.moments(X))
    values = [model.paths(3, np.random.default_rng(0))(X) for model in (pulled, plain)]
    np.testing.assert_allclose(values[0], values[1] + added)
    belief, bare = (model.posterior(X, history.mixtures, NONE).belief for model in (pulled, plain))
    np.testing.assert_allclose(belief.mean, bare.mean + added)
    np.testing.assert_array_equal(belief.std, bare.std)
    everything = plain.predict(history.mixtures) + pull.penalty(history.mixtures)
    assert belief.best == pytest.approx(everything.min(), rel=1e-6)


def test_only_feasible_mixtures_are_the_best_so_far() -> None:
    model, history = model_of({"loss-0": 1.0})
    best = int(np.argmin(model.predict(history.mixtures)))
    cap = Bound("mixture.caps.domain-0", "domain-0 at most 0.4", np.eye(5)[0], high=0.4)
    assert history.mixtures[best, 0] > 0.4
    narrow = replace(SPACE, constraints=Constraints((cap,)))
    bounded, _ = model_of({"loss-0": 1.0}, space=narrow)
    feasible = narrow.feasible(history.mixtures)
    assert 0 < feasible.sum() < len(feasible)
    found = bounded.posterior(X, history.mixtures, NONE).belief.best
    assert found == pytest.approx(model.predict(history.mixtures)[feasible].min(), rel=1e-6)


def limited(ceiling: dict[str, float]) -> tuple[TargetModel, History]:
    return model_of({"weights": {"loss-0": 1}, "limits": {"loss-1": ceiling}})


def test_the_best_so_far_keeps_the_limits() -> None:
    model, history = limited({"at_most": 3.2})
    belief = model.posterior(X, history.mixtures, NONE).belief
    kept, expected = model.kept(history.mixtures), model.predict(history.mixtures)
    assert 0 < kept.surely.sum() < len(history)
    assert belief.best == pytest.approx(expected[kept.surely].min(), rel=1e-6)
    assert belief.log_kept is not None
    np.testing.assert_allclose(belief.log_kept, model.kept(X).log_probability, atol=1e-6)
    np.testing.assert_allclose(model.probability(X), np.exp(model.kept(X).log_probability))
    np.testing.assert_array_equal(model.violations(X) == 0, model.surrogate.predict(X)[:, 1] <= 3.2)
    # None keeps it: that which likeliest does.
    model, _ = limited({"at_most": 2.0})
    kept = model.kept(history.mixtures)
    assert not kept.surely.any()
    posterior = model.posterior(X, history.mixtures, NONE)
    likeliest = int(np.argmax(kept.log_probability))
    assert posterior.belief.best == pytest.approx(model.predict(history.mixtures)[likeliest], rel=1e-6)
    posterior.choose(0)
    assert posterior.belief.best == pytest.approx(model.predict(history.mixtures)[likeliest], rel=1e-6), "nor does this one"


def test_limits_above_natural_in_draws_of_functions() -> None:
    """Each against its own natural loss; their share is the probability."""
    model, history = limited({"above_natural": 0.05})
    values, broken = model.paths_and_violations(1500, np.random.default_rng(0))(X)
    assert values.shape == broken.shape == (1500, len(X))
    np.testing.assert_allclose((broken == 0).mean(axis=0), model.probability(X), atol=0.12)
    np.testing.assert_allclose(values, model.paths(1500, np.random.default_rng(0))(X), rtol=1e-6)
    assert model.probability(history.space.natural[None])[0] > 0.9


def test_a_target_over_natural_needs_the_space() -> None:
    with pytest.raises(ValueError, match=r"needs the mixture space; use TargetModel\.of"):
        TargetModel(GaussianProcess(), Target.parse(WORST, NAMES))
    ceiling = Target.parse({"limits": {"loss-1": {"at_most": 3.2}}}, NAMES)
    model = TargetModel(GaussianProcess(max_iterations=5), ceiling)
    history = problem_history(5, 20, 0)
    model.fit(history.mixtures, history.losses)
    assert model.kept(X).log_probability.shape == (12,)
    assert model.posterior(X, history.mixtures, NONE).belief.log_kept is not None


def test_several_targets_share_one_fit() -> None:
    history = problem_history(5, 20, 0)
    specs: list[Any] = [{"loss-0": 1.0}, {"weights": {"loss-2": 1}, "excess_over": "natural"}]
    targets = tuple(Target.parse(spec, NAMES) for spec in specs)
    first, second = TargetModel.several(replace(history, targets=targets), GaussianProcess(max_iterations=8))
    assert first.surrogate is second.surrogate
    losses: Array = first.surrogate.predict(X)
    assert losses.shape == (12, 2)
    np.testing.assert_allclose(first.predict(X), losses[:, 0])
    np.testing.assert_allclose(second.predict(X), losses[:, 1] - first.surrogate.predict(SPACE.natural[None])[0, 1])
    truth = power_law(X)
    assert np.corrcoef(first.predict(X), truth[:, 0])[0, 1] > 0.9
