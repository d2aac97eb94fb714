from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.trial import TrialState

from regmix_active import ActiveSearch, FunctionRunner, History, Observer, RunConfig, Strategy, load_config
from regmix_active.errors import ConfigError, ProxyError, StrategyError, StudyBusyError, StudyError, StudyMismatchError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.search.loop import INITIAL_DESIGN
from regmix_active.study.lock import exclusive

Config = Callable[..., RunConfig]


Table = list[tuple[int, str, tuple[float, ...], float | None]]
BROKEN = {"search__initial": 12, "search__batch_size": 4, "search__budget": 16}


def table(search: ActiveSearch) -> Table:
    """Slot, proposer, weights and value of every trial."""
    record = search.open_record()
    return [(t.user_attrs["slot"], t.user_attrs["proposer"], tuple(record.weights(t)), t.value) for t in record.trials()]


class DriverDiesError(Exception):
    """The driver's sudden end, in tests."""


class DyingRunner(FunctionRunner):
    """Delivers so many results, then the driver dies."""

    def __init__(self, inner: FunctionRunner, after: int) -> None:
        self.domains, self.loss_names, self._inner, self._left = inner.domains, inner.loss_names, inner, after

    def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
        for result in self._inner.run(requests, known):
            if self._left == 0:
                raise DriverDiesError
            self._left -= 1
            yield result


def test_search_beats_what_it_started_from_and_leaves_its_files(runner: FunctionRunner, config: Config, out: Path) -> None:
    search = ActiveSearch(config(search__budget=24), out=out, runner=runner)
    found = search.run()
    assert len(found.history) == 24
    natural = np.mean(list(runner._losses(found.natural.weights).values()))
    truth = np.mean(list(runner._losses(found.found.weights).values()))
    assert truth < natural
    assert truth <= found.best_value + 1e-3
    assert abs(found.found.mean - truth) < 0.05
    assert sum(found.weights.values()) == pytest.approx(1)
    for file in ("mixture.yaml", "trials.csv", "config.yaml", "run.log", "study.db"):
        assert (out / file).stat().st_size > 0, file


def test_rounds_follow_the_settings(runner: FunctionRunner, config: Config, out: Path) -> None:
    search = ActiveSearch(config(search__budget=21, search__initial=8, search__batch_size=5), out=out, runner=runner)
    search.run()
    rounds = search.open_record().rounds()
    assert [len(trials) for trials in rounds] == [8, 5, 5, 3]
    proposers = [{t.user_attrs["proposer"] for t in trials} for trials in rounds]
    assert proposers == [{INITIAL_DESIGN}, *[{"variance-reduction"}] * 3]


@pytest.mark.parametrize("surrogate", ["gp", "lightgbm"])
def test_continuing_to_a_larger_budget_equals_searching_at_once(
    surrogate: str, runner: FunctionRunner, config: Config, tmp_path: Path
) -> None:
    settings = {"search__initial": 12, "search__batch_size": 4, "search__surrogate": surrogate}
    whole = ActiveSearch(config(**settings), out=tmp_path / "whole", runner=runner)
    at_once = whole.run(budget=18)
    for budget in (10, 16, 18):
        search = ActiveSearch(config(**settings), out=tmp_path / "parts", runner=runner)
        in_parts = search.run(budget=budget)
    assert table(search) == table(whole)
    assert in_parts.weights == at_once.weights


@pytest.fixture(scope="module")
def whole(config: Config, runner: FunctionRunner, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """What a search leaves that nothing broke."""
    search = ActiveSearch(config(**BROKEN), out=tmp_path_factory.mktemp("whole"), runner=runner)
    search.run()
    return table(search)


@pytest.mark.parametrize("after", [0, 3, 12, 14])
def test_killed_driver_goes_on_as_the_unbroken_one(
    after: int, runner: FunctionRunner, config: Config, out: Path, whole: Table
) -> None:
    broken = ActiveSearch(config(**BROKEN), out=out, runner=DyingRunner(runner, after))
    with pytest.raises(DriverDiesError):
        broken.run()
    assert broken.open_record().count(TrialState.COMPLETE) == after
    again = ActiveSearch(config(**BROKEN), out=out, runner=runner)
    again.run()
    assert table(again) == whole


def test_half_planned_round_is_planned_again(runner: FunctionRunner, config: Config, out: Path, whole: Table) -> None:
    search = ActiveSearch(config(**BROKEN), out=out, runner=runner)
    search.run(budget=12)
    record = search.open_record(create=True)
    slot, proposer, weights, _ = whole[12]
    init_seed, data_seed = (record.trials()[0].user_attrs[key] for key in ("init_seed", "data_seed"))
    record.plan([ProxyRequest(slot, np.array(weights), init_seed, data_seed)], 1, 4, proposer)
    ActiveSearch(config(**BROKEN), out=out, runner=runner).run()
    assert table(search) == whole


def test_failed_proxies_are_recorded_and_do_not_count(config: Config, runner: FunctionRunner, out: Path) -> None:
    def losses(weights: NDArray[np.float64]) -> dict[str, float]:
        if weights[0] > 0.5:
            raise ProxyError("diverged: loss nan")
        return dict(runner._losses(weights))

    search = ActiveSearch(config(search__budget=16, search__initial=12), out=out, runner=FunctionRunner(runner.domains, losses))
    found = search.run()
    record = search.open_record()
    failed = record.trials(TrialState.FAIL)
    assert failed
    assert all(record.weights(trial)[0] > 0.5 and "diverged" in trial.user_attrs["failure"] for trial in failed)
    assert len(found.history) == record.count(TrialState.COMPLETE) == 16


def test_search_ends_when_everything_fails(config: Config, runner: FunctionRunner, out: Path) -> None:
    def losses(weights: NDArray[np.float64]) -> dict[str, float]:
        if not np.allclose(weights, 0.25):
            raise ProxyError("diverged: loss nan")
        return dict(runner._losses(weights))

    search = ActiveSearch(config(), out=out, runner=FunctionRunner(runner.domains, losses))
    with pytest.raises(ProxyError, match=r"\d of the last 5 proxies failed .*diverged: loss nan.*learning rate"):
        search.run()


def test_other_meaning_is_refused_with_its_differences(config: Config, runner: FunctionRunner, out: Path) -> None:
    ActiveSearch(config(search__budget=4), out=out, runner=runner).run()
    other = FunctionRunner(("books", "code", "poems"), lambda w: {"books": 1.0, "code": 1.0, "poems": 1.0})
    with pytest.raises(StudyMismatchError, match=r"(?s)domains: 4 → 3 \(without talk, web; with poems\).*seed: 0 → 7"):
        ActiveSearch(config(search__budget=8, seed=7), out=out, runner=other).run()
    assert ActiveSearch(config(), out=out, runner=runner).open_record().count() == 4


def test_recommend_answers_another_target_without_training(config: Config, runner: FunctionRunner, out: Path) -> None:
    search = ActiveSearch(config(search__budget=24), out=out, runner=runner)
    mean = search.run()
    code = search.recommend(target={"code": 1}, top_k=16)
    assert code.weights["code"] > mean.weights["code"]
    assert code.averaged == 16
    with pytest.raises(ConfigError, match="unknown loss 'cod'; did you mean 'code'"):
        search.recommend(target={"cod": 1})


def test_recommend_needs_a_study_with_enough_proxies(config: Config, runner: FunctionRunner, out: Path) -> None:
    with pytest.raises(StudyError, match=r"study\.db is missing.*regmix-active run"):
        ActiveSearch(config(), out=out, runner=runner).recommend()
    with pytest.raises(ConfigError, match=r"search\.budget: 2 proxies are too few for the surrogate 'gp', which needs 4"):
        ActiveSearch(config(search__budget=2), out=out, runner=runner).run()
    assert not out.exists()
    ActiveSearch(config(search__budget=4), out=out, runner=runner).run()
    with pytest.raises(StudyError, match="holds 4 completed proxies; the surrogate 'lightgbm' needs 8"):
        ActiveSearch(config(search__surrogate="lightgbm"), out=out, runner=runner).recommend()


def test_strategy_outside_the_feasible_set_is_refused(config: Config, runner: FunctionRunner, out: Path) -> None:
    class Wild(Strategy):
        name = "wild"

        def propose(self, history: History, pending: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
            return np.full((n, 4), 0.3)

    with pytest.raises(StrategyError, match=r"'wild' proposed an infeasible mixture: mixture 0: weights sum to 1\.2"):
        ActiveSearch(config(), out=out, runner=runner, strategy=Wild()).run()


def test_second_driver_is_refused(config: Config, runner: FunctionRunner, out: Path) -> None:
    out.mkdir()
    with exclusive(out / ".lock", "the run"), pytest.raises(StudyBusyError, match="is being written by process"):
        ActiveSearch(config(), out=out, runner=runner).run()


def test_observer_hears_everything(config: Config, runner: FunctionRunner, out: Path) -> None:
    heard: list[str] = []

    class Listener(Observer):
        def on_start(self, completed: int, budget: int, best: float | None) -> None:
            heard.append(f"start {completed}/{budget}")

        def on_round(self, index: int, size: int, unfinished: int, proposer: str) -> None:
            heard.append(f"round {index}: {unfinished}/{size} {proposer}")

        def on_result(self, result: ProxyResult, value: float | None) -> None:
            heard.append("result")

    search = ActiveSearch(
        config(search__budget=12, search__initial=8, search__batch_size=4), out=out, runner=runner, observer=Listener()
    )
    search.run()
    assert heard == [
        "start 0/12",
        "round 0: 8/8 initial design",
        *["result"] * 8,
        "round 1: 4/4 variance-reduction",
        *["result"] * 4,
    ]


def test_automatic_batches_grow_with_the_study(config: Config, runner: FunctionRunner, out: Path) -> None:
    search = ActiveSearch(config(search__strategy="dirichlet", search__strategy_options={}), out=out, runner=runner)
    search.run(budget=160)
    sizes = [len(trials) for trials in search.open_record().rounds()]
    assert sizes == [16 + 4, *[8] * 6, 16, 16, 24, 24, 12]


def test_seeds_are_common_unless_asked_otherwise(config: Config, runner: FunctionRunner, tmp_path: Path) -> None:
    for common in (True, False):
        search = ActiveSearch(
            config(search__budget=6, proxy__common_random_numbers=common), out=tmp_path / str(common), runner=runner
        )
        search.run()
        seeds = {(t.user_attrs["init_seed"], t.user_attrs["data_seed"]) for t in search.open_record().trials()}
        assert len(seeds) == (1 if common else 6)


def test_resolved_config_of_a_run_loads_again(config: Config, runner: FunctionRunner, out: Path) -> None:
    settings = config(search__budget=5, target={"code": 2, "web": 1})
    ActiveSearch(settings, out=out, runner=runner).run()
    assert load_config(out / "config.yaml").config == settings


def test_a_runner_of_your_own_needs_no_configuration(runner: FunctionRunner, out: Path) -> None:
    search = ActiveSearch(runner=runner, out=out)
    assert search.config == RunConfig()
    assert ActiveSearch(out=out).config.name == "embedded"


def test_half_planned_round_keeps_what_was_planned_under_other_settings(
    runner: FunctionRunner, config: Config, out: Path, whole: Table
) -> None:
    search = ActiveSearch(config(**BROKEN), out=out, runner=runner)
    search.run(budget=12)
    record = search.open_record(create=True)
    planned = np.array([0.1, 0.2, 0.3, 0.4])
    record.plan([ProxyRequest(12, planned, 1, 2)], 1, 4, "expected-improvement")
    ActiveSearch(config(**BROKEN, search__strategy="greedy"), out=out, runner=runner).run()
    first = search.open_record().rounds()[1][0]
    assert search.open_record().weights(first).tolist() == planned.tolist()
    assert first.user_attrs["losses"] == runner._losses(planned)


def test_two_folders_cannot_drive_one_study(runner: FunctionRunner, config: Config, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    shared = config(search__budget=8, study__storage=storage)

    class Meanwhile(Observer):
        def on_round(self, index: int, size: int, unfinished: int, proposer: str) -> None:
            with pytest.raises(StudyBusyError, match=r"study 'embedded' in sqlite:///.*shared\.db is being written by process"):
                ActiveSearch(shared, out=tmp_path / "second", runner=runner).run()

    ActiveSearch(shared, out=tmp_path / "first", runner=runner, observer=Meanwhile()).run()


def test_a_runner_with_other_facts_is_refused(runner: FunctionRunner, config: Config, out: Path) -> None:
    ActiveSearch(config(search__budget=4), out=out, runner=runner, facts={"model": "small"}).run()
    with pytest.raises(StudyMismatchError, match="model: small → large"):
        ActiveSearch(config(search__budget=8), out=out, runner=runner, facts={"model": "large"}).run()


def test_losses_need_not_be_plain_floats(config: Config, runner: FunctionRunner, out: Path) -> None:
    single = FunctionRunner(runner.domains, lambda w: {k: cast("float", np.float32(v)) for k, v in runner._losses(w).items()})
    assert len(ActiveSearch(config(search__budget=4), out=out, runner=single).run().history) == 4


def test_a_strategy_that_fails_is_named_with_its_line(config: Config, runner: FunctionRunner, out: Path) -> None:
    class Broken(Strategy):
        name = "broken"

        def propose(self, history: History, pending: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
            raise ZeroDivisionError("oh no")

    with pytest.raises(StrategyError, match=r"'broken' failed at .*test_active_search\.py:\d+: ZeroDivisionError: oh no"):
        ActiveSearch(config(), out=out, runner=runner, strategy=Broken()).run()
    assert "Traceback" in (out / "run.log").read_text(encoding="utf-8")


def test_looking_at_a_run_loads_no_strategy(config: Config, runner: FunctionRunner, out: Path) -> None:
    ActiveSearch(config(search__budget=8), out=out, runner=runner).run()
    gone = config(search__strategy="gone.py:Name")
    assert ActiveSearch(gone, out=out, runner=runner).recommend().weights
    with pytest.raises(StrategyError, match="no such file"):
        ActiveSearch(gone, out=out, runner=runner).run()


def test_the_written_answer_is_what_is_verified(config: Config, runner: FunctionRunner, out: Path) -> None:
    search = ActiveSearch(config(search__budget=16), out=out, runner=runner)
    search.run()
    code = search.recommend(target="code", top_k=8)
    written = (out / "mixture.yaml").read_text(encoding="utf-8")
    answer = search.answer()
    assert answer.history.target.describe() == "code"
    assert answer.found.weights == pytest.approx(code.found.weights, abs=1e-5)
    assert answer.found.mean == pytest.approx(code.found.mean, abs=1e-3)
    assert (answer.averaged, answer.simulated) == (code.averaged, code.simulated)
    search.verify(answer)
    assert (out / "mixture.yaml").read_text(encoding="utf-8") == written
    (out / "mixture.yaml").write_text(written.replace("books: ", "poems: "), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mixture\.yaml: unknown domain 'poems'.*regmix-active recommend"):
        search.answer()
    assert "target: code" in (out / "verification.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("relative", [False, True])
def test_a_new_study_of_a_target_over_the_natural_mixture(
    config: Callable[..., RunConfig], runner: FunctionRunner, out: Path, relative: bool
) -> None:
    """Before the first round there is no reference: its proxies have no target yet, and none of them is the best at 0."""

    class Heard(Observer):
        def __init__(self) -> None:
            self.values: list[float | None] = []

        def on_result(self, result: ProxyResult, value: float | None) -> None:
            self.values.append(value)

    heard = Heard()
    target = {"weights": "mean", "worst": True, "excess_over": "natural", "relative": relative}
    settings = config(search__budget=12, search__initial=8, target=target)
    found = ActiveSearch(settings, out=out, runner=runner, observer=heard).run()
    told = np.array(heard.values, dtype=float)
    assert np.isnan(told[:8]).all()
    assert np.isfinite(told[8:]).all()
    assert np.isfinite(found.history.values).all()
