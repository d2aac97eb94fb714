"""What a trial of somebody's own study gets."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState

from regmix_active.errors import ConfigError, StrategyError, StudyError
from regmix_active.mixture.initial import INITIAL_DESIGNS
from regmix_active.mixture.space import MixtureSpace
from regmix_active.optuna import MixtureSampler, UnfitStudyError, record_losses, suggest_mixture
from tests.optuna_side.studies import BEST, DOMAINS, Remembering, losses_of, mixtures_of, objective, study_with


def enqueue(study: optuna.Study, **weights: float) -> None:
    study.enqueue_trial({f"w/{name}": weight for name, weight in weights.items()})


def tell(study: optuna.Study, value: float | None = 1.0, state: TrialState | None = None) -> optuna.Trial:
    trial = study.ask()
    suggest_mixture(trial, DOMAINS)
    study.tell(trial, value, state)
    return trial


def test_the_initial_design_is_drawn_whole_and_indexed_by_trial_number() -> None:
    study = study_with(initial=6, seed=3)
    enqueue(study, books=0.6, code=0.4)
    study.optimize(objective, n_trials=6)
    space = MixtureSpace(DOMAINS, np.full(3, 1 / 3))
    expected = INITIAL_DESIGNS["d-optimal"](space, 6, np.random.default_rng([3, 0]))
    np.testing.assert_array_equal(mixtures_of(study)[1:], expected[1:])
    np.testing.assert_array_equal(mixtures_of(study)[0], [0.6, 0.4, 0])


def test_it_finds_the_best_mixture() -> None:
    study = study_with(initial=8)
    study.optimize(objective, n_trials=16)
    found = suggest_mixture(optuna.trial.FixedTrial(study.best_params), DOMAINS)
    assert max(abs(found[name] - BEST[name]) for name in BEST) < 0.05
    assert study.best_value < min(t.values[0] for t in study.trials[:8])


def test_a_study_that_goes_on_elsewhere_equals_the_unbroken_one() -> None:
    unbroken = study_with(initial=8, seed=5)
    unbroken.optimize(objective, n_trials=11)
    broken = study_with(initial=8, seed=5)
    for trials in (3, 6, 2):
        broken.sampler = MixtureSampler(DOMAINS, initial=8, seed=5)
        broken.sampler.reseed_rng()
        broken.optimize(objective, n_trials=trials)
    np.testing.assert_array_equal(mixtures_of(unbroken), mixtures_of(broken))
    other = study_with(initial=8, seed=6)
    other.optimize(objective, n_trials=8)
    assert not np.allclose(mixtures_of(other), mixtures_of(unbroken)[:8])


def test_the_order_of_domains_does_not_matter() -> None:
    natural = {"books": 1e6, "code": 3e6, "web": 5e6}
    studies = []
    for order in (("books", "code", "web"), ("web", "books", "code")):
        shares = [natural[name] for name in order]
        study = optuna.create_study(sampler=MixtureSampler(order, natural=shares, initial=8))
        study.optimize(objective, n_trials=9)
        studies.append(mixtures_of(study))
    np.testing.assert_array_equal(studies[0], studies[1])
    by_name = MixtureSampler(DOMAINS, natural=natural)
    np.testing.assert_allclose(by_name.space.natural, [1 / 9, 3 / 9, 5 / 9])


def test_a_space_is_taken_as_it_is_and_trials_are_read_by_name(remembering: Remembering) -> None:
    space = MixtureSpace(("web", "books", "code"), np.array([0.5, 0.3, 0.2]))
    study = optuna.create_study(sampler=MixtureSampler(space, strategy=remembering, initial=0))
    enqueue(study, books=0.1, code=0.2, web=0.7)
    study.optimize(objective, n_trials=1)
    for _ in range(8):
        study.add_trial(study.trials[0])
    assert sum(suggest_mixture(study.ask(), space).values()) == pytest.approx(1)
    history = remembering.asked[-1][0]
    np.testing.assert_allclose(history.mixtures, [[0.7, 0.1, 0.2]] * 9)


def test_constraints_are_kept_by_designs_and_strategies() -> None:
    sampler = MixtureSampler(DOMAINS, initial=8, constraints={"caps": {"books": 0.3}, "active": {"at_most": 2, "smallest": 0.1}})
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=10)
    assert sampler.space.feasible(mixtures_of(study)).all()


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"caps": {"book": 0.3}}, r"^mixture\.caps: unknown domain 'book'; did you mean 'books'\?$"),
        ({"cap": {"books": 0.3}}, r"^constraints: unknown key 'mixture\.cap'; did you mean 'caps'\?$"),
        (
            {"groups": {"a": {"members": ["books"], "maximum": 0.3}}},
            r"^constraints: unknown key 'mixture\.groups\.a\.maximum'",
        ),
        ({"caps": {"books": 3}}, r"^constraints: key 'mixture\.caps\.books': input should be less than or equal to 1 \(got 3\)$"),
        (["caps"], r"^constraints: keys of the section mixture are wanted, such as \{'caps'"),
        ({"match_repetition": True}, r"^mixture\.match_repetition: .* your objective.*; leave it out$"),
        ({"match_repetition": True, "target_tokens": 1e9, "tokens": dict.fromkeys(DOMAINS, 1e9)}, "your objective"),
        (
            {"fixed": {"books": 0.3}, "floors": {"code": 0.7}},
            r"one mixture only: \{code: 0\.7, books: 0\.3\}; .* loosen mixture\.fixed, mixture\.floors$",
        ),
    ],
)
def test_wrong_constraints(constraints: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MixtureSampler(DOMAINS, constraints=constraints)


def test_ask_and_tell(remembering: Remembering) -> None:
    study = study_with(remembering, initial=2)
    space: dict[str, BaseDistribution] = {f"w/{name}": FloatDistribution(0, 1) for name in DOMAINS}
    for _ in range(9):
        trial = study.ask(space)
        assert sum(trial.params.values()) == pytest.approx(1)
        study.tell(trial, 1.0)
    first, second, third = (study.ask() for _ in range(3))
    of_third = suggest_mixture(third, DOMAINS)
    # Two trials before it had no mixture yet: they choose first.
    assert remembering.asked[-1][2] == 3
    of_first = suggest_mixture(first, DOMAINS)
    history, pending, wanted = remembering.asked[-1]
    assert wanted == 1
    assert len(history) == 9
    np.testing.assert_allclose(pending, [list(of_third.values())])
    suggest_mixture(second, DOMAINS)
    np.testing.assert_allclose(remembering.asked[-1][1], [list(of_first.values()), list(of_third.values())])


def test_enqueued_mixtures_train_as_they_are(remembering: Remembering) -> None:
    study = study_with(remembering, initial=0)
    enqueue(study, books=0.25, code=0.25, web=0.5)
    enqueue(study, code=1.0)
    study.enqueue_trial({"lr": 0.5})
    trial = study.ask()
    assert suggest_mixture(trial, DOMAINS) == {"books": 0.25, "code": 0.25, "web": 0.5}
    study.tell(trial, 1.0)
    assert suggest_mixture(study.ask(), DOMAINS) == {"books": 0.0, "code": 1.0, "web": 0.0}
    trial = study.ask()
    assert trial.suggest_float("lr", 0, 1) == 0.5
    assert sum(suggest_mixture(trial, DOMAINS).values()) == pytest.approx(1)


def test_what_is_queued_counts_as_pending(remembering: Remembering) -> None:
    study = study_with(remembering, initial=0)
    for _ in range(9):
        tell(study)
    trial = study.ask()
    enqueue(study, code=1.0)
    suggest_mixture(trial, DOMAINS)
    np.testing.assert_allclose(remembering.asked[-1][1], [[0, 1, 0]])


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"books": 0.7}, "sum 1"), ({"books": 0.5, "cod": 0.5}, "'cod' is no domain"), ({"books": 2.0, "code": -1.0}, ">= 0")],
)
def test_an_enqueued_mixture_that_is_none_is_refused_before_it_trains(weights: dict[str, float], message: str) -> None:
    study = study_with()
    enqueue(study, **weights)
    with pytest.raises(StudyError, match=message):
        study.optimize(objective, n_trials=1)
    assert [t.state for t in study.trials] == [TrialState.FAIL]
    study.optimize(objective, n_trials=1)


def test_failed_and_pruned_trials_are_kept_away_from_and_not_learnt_from(remembering: Remembering) -> None:
    study = study_with(remembering, initial=9)
    good = [tell(study) for _ in range(8)]
    gone = [
        tell(study, None, TrialState.FAIL),
        tell(study, float("inf")),
        tell(study, None, TrialState.PRUNED),
    ]
    with pytest.warns(UserWarning, match="nan is not acceptable"):
        gone.append(tell(study, float("nan")))
    lost = study.ask()
    suggest_mixture(lost, DOMAINS)
    lost.set_user_attr("diverged", False)
    study.tell(lost, state=TrialState.FAIL)
    suggest_mixture(study.ask(), DOMAINS)
    history, pending, _ = remembering.asked[-1]
    np.testing.assert_array_equal(history.slots, [t.number for t in good])
    assert np.isfinite(history.losses).all()
    assert sorted(history.diverged_slots) == [t.number for t in gone]
    expected = np.array([[t.params[f"w/{name}"] for name in DOMAINS] for t in gone])
    assert {tuple(row) for row in history.diverged} == {tuple(row) for row in expected}
    assert {tuple(row) for row in pending} == {tuple(row) for row in expected}


def test_the_neighbourhood_of_failures_is_avoided() -> None:
    study = study_with(initial=8, seed=1)

    def failing(trial: optuna.Trial) -> float:
        value = objective(trial)
        return float("nan") if abs(trial.params["w/code"] - BEST["code"]) < 0.12 else value

    study.optimize(failing, n_trials=20)
    failed = np.array([[t.params[f"w/{name}"] for name in DOMAINS] for t in study.trials if t.state == TrialState.FAIL])
    later = mixtures_of(study)[8:]
    assert len(failed) >= 2
    between = np.abs(failed[:, None] - later[None]).sum(axis=2) / 2
    assert np.sort(between, axis=0)[1].min() >= 0.05 - 1e-9  # the nearest may be itself


def test_one_surrogate_per_recorded_loss(remembering: Remembering) -> None:
    study = study_with(remembering, initial=0, target={"code": 3, "web": 1})
    study.optimize(objective, n_trials=9)
    suggest_mixture(study.ask(), DOMAINS)
    history = remembering.asked[-1][0]
    assert history.target.loss_names == ("code", "web")
    np.testing.assert_allclose(history.target.weights, [0.75, 0.25])
    row = losses_of(dict(zip(DOMAINS, history.mixtures[3], strict=True)))
    np.testing.assert_allclose(history.losses[3], [row["code"], row["web"]])


def test_a_recorded_loss_that_is_not_finite_diverged(remembering: Remembering) -> None:
    study = study_with(remembering, initial=0)
    study.optimize(objective, n_trials=8)
    trial = study.ask()
    suggest_mixture(trial, DOMAINS)
    record_losses(trial, {"books": 3.0, "code": float("nan"), "web": 3.0})
    study.tell(trial, 3.0)
    suggest_mixture(study.ask(), DOMAINS)
    np.testing.assert_array_equal(remembering.asked[-1][0].diverged_slots, [8])


def test_losses_that_do_not_fit_the_target(remembering: Remembering) -> None:
    study = study_with(remembering, initial=0, target={"codes": 1})
    study.optimize(objective, n_trials=1)
    with pytest.raises(ConfigError, match="did you mean 'code'"):
        suggest_mixture(study.ask(), DOMAINS)

    study = study_with(remembering, initial=0, target="code")
    tell(study)
    with pytest.raises(ConfigError, match="record_losses"):
        suggest_mixture(study.ask(), DOMAINS)

    study = study_with(remembering, initial=0)
    study.optimize(objective, n_trials=8)
    trial = study.ask()
    suggest_mixture(trial, DOMAINS)
    record_losses(trial, {**losses_of(BEST), "extra": 3.0})
    study.tell(trial, 3.0)
    with pytest.raises(StudyError, match="loss 'extra' was recorded by 1 of 9 trials"):
        suggest_mixture(study.ask(), DOMAINS)


def test_trials_that_cannot_be_learnt_from_are_named(remembering: Remembering, caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with pytest.raises(StudyError, match="not to 1"):
        study.optimize(objective, n_trials=1)
    study.optimize(lambda trial: trial.suggest_float("w/books", 0, 1), n_trials=1)
    study.sampler = MixtureSampler(DOMAINS, strategy=remembering, initial=0)
    tell(study)
    study.optimize(objective, n_trials=10)
    assert len(remembering.asked[-1][0]) == 9
    assert [r.message for r in caplog.records] == [
        "some completed trials hold no mixture of these domains; they are not learnt from",
        "some completed trials have no recorded losses; they are not learnt from",
    ]


def test_no_mixture_trains_twice() -> None:
    stubborn = Remembering(same=[1.0, 0.0, 0.0])
    study = study_with(stubborn, initial=4)
    study.optimize(objective, n_trials=30)
    mixtures = mixtures_of(study)
    assert len(np.unique(np.rint(mixtures / 1e-4), axis=0)) == 30
    np.testing.assert_allclose(mixtures.sum(axis=1), 1)


def test_threads() -> None:
    study = study_with(Remembering(), initial=8)
    for i in range(4):
        enqueue(study, books=i / 10, code=1 - i / 10)
    study.optimize(objective, n_trials=40, n_jobs=8)
    assert len(np.unique(mixtures_of(study), axis=0)) == 40


def test_brackets_of_hyperband_hide_no_trial(remembering: Remembering) -> None:
    pruner = optuna.pruners.HyperbandPruner(max_resource=9)
    study = optuna.create_study(sampler=MixtureSampler(DOMAINS, strategy=remembering, initial=0), pruner=pruner)
    study.optimize(objective, n_trials=12)
    assert len(remembering.asked[-1][0]) == 11


@pytest.mark.parametrize("directions", [["maximize"], ["minimize", "minimize"]])
def test_a_study_of_another_kind_is_refused(directions: list[Literal["minimize", "maximize"]]) -> None:
    study = optuna.create_study(directions=directions, sampler=MixtureSampler(DOMAINS))
    with pytest.raises(UnfitStudyError, match="minimises one target"):
        study.ask()
    assert [t.state for t in study.trials] == [TrialState.FAIL]


def test_a_weight_alone_means_nothing() -> None:
    study = study_with()
    with pytest.raises(StudyError, match="proposed together"):
        study.ask().suggest_float("w/books", 0.5, 0.6)
    with pytest.raises(StudyError, match=r"'w/book'.*books, code, web"):
        study.ask().suggest_float("w/book", 0, 1)
    with pytest.raises(StudyError, match=r"books, code sum to 0.6.*, not to 1"):
        suggest_mixture(study_with().ask(), ["books", "code"])


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_weight_cannot_be_fixed_from_outside() -> None:
    study = optuna.create_study(sampler=optuna.samplers.PartialFixedSampler({"w/code": 0.5}, MixtureSampler(DOMAINS)))
    with pytest.raises(StudyError, match="'code' cannot be held fixed"):
        suggest_mixture(study.ask(), DOMAINS)


def test_other_parameters() -> None:
    studies = [study_with() for _ in range(2)]
    for study in studies:
        study.optimize(lambda trial: objective(trial) + trial.suggest_float("lr", 1e-4, 1e-2, log=True), n_trials=5)
    rates = [[t.params["lr"] for t in study.trials] for study in studies]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 5
    given = study_with(independent_sampler=optuna.samplers.GridSampler({"lr": [0.1, 0.2]}))
    given.optimize(lambda trial: objective(trial) + trial.suggest_float("lr", 0, 1), n_trials=2)
    assert {t.params["lr"] for t in given.trials} == {0.1, 0.2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"natural": [1, 2]}, "natural: needs one share"),
        ({"natural": {"books": 1}}, "natural: needs each of books, code, web"),
        ({"initial_design": "sobol"}, "regmix, maximin, d-optimal"),
        ({"initial": -1}, "0 or more"),
        ({"surrogate": "gpp"}, "did you mean 'gp'"),
        ({"strategy": "gready"}, "did you mean 'greedy'"),
        ({"domains": "books"}, "a list of names"),
        ({"domains": ["books", "books"]}, "different domains"),
        ({"domains": MixtureSpace(DOMAINS, np.full(3, 1 / 3)), "natural": [1, 1, 1]}, "leave it out"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, StrategyError), match=message):
        MixtureSampler(**{"domains": DOMAINS, **options})  # type: ignore[arg-type]


def test_no_losses_are_no_losses() -> None:
    with pytest.raises(ConfigError, match="no losses"):
        record_losses(study_with().ask(), {})


def test_an_infeasible_proposal_is_refused() -> None:
    study = study_with(Remembering(same=[0.5, 0.1, 0.1]), initial=8)
    study.optimize(objective, n_trials=8)
    with pytest.raises(StrategyError, match="'remembering' proposed an infeasible mixture"):
        study.optimize(objective, n_trials=1)
