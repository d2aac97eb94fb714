"""Searches that end before their budget, and the second seeds of the first round."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.runner import FunctionRunner
from regmix_active.search.active import ActiveSearch
from regmix_active.search.loop import INITIAL_DESIGN
from regmix_active.search.stopping import reason_to_stop, remaining_improvement
from regmix_active.study.noise import seed_noise
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.testing.problems import problem_history

Config = Callable[..., RunConfig]


class Warnings(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def on_warning(self, text: str) -> None:
        self.said.append(text)


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def test_what_is_left_to_gain_falls_with_what_is_known() -> None:
    few, many = (remaining_improvement(problem_history(4, n, 0), GaussianProcess(), np.random.default_rng(0)) for n in (8, 48))
    assert few > 2 * many > 0
    again = remaining_improvement(problem_history(4, 8, 0), GaussianProcess(), np.random.default_rng(0))
    assert again == few


def test_the_reason() -> None:
    assert reason_to_stop(0.02, 0.01, 32, "nats per token") is None
    said = reason_to_stop(0.002, 0.01, 32, "nats per token")
    assert said is not None
    assert "after 32 proxies" in said
    assert "0.002 nats per token" in said
    assert "search.stop_when (0.01)" in said


def test_a_search_ends_when_little_is_left_and_stays_ended(
    config: Config, runner: FunctionRunner, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Warnings()
    settings = config(search__budget=24, search__initial=8, search__stop_when=0.3, search__noise_runs=0)
    with caplog.at_level(logging.INFO, logger="regmix_active"):
        ActiveSearch(settings, out=out, runner=runner, observer=watcher).run()
    search = ActiveSearch(settings, out=out, runner=runner)
    done = search.open_record().count()
    assert 8 <= done < 24
    (said,) = [text for text in watcher.said if text.startswith("stopped: ")]
    assert read(out / "mixture.yaml")["stopped"] == said.removeprefix("stopped: ")
    assert any("expected remaining improvement" in record.message for record in caplog.records)

    search.run()
    assert search.open_record().count() == done, "run again, it is still enough"
    search.recommend()
    assert "stopped" in read(out / "mixture.yaml"), "another answer from the same study"

    ActiveSearch(config(search__budget=done + 8, search__initial=8), out=out, runner=runner).run()
    assert search.open_record().count() == done + 8, "without the tolerance it goes on"
    assert "stopped" not in read(out / "mixture.yaml")


def test_a_search_that_has_much_to_gain_goes_on(config: Config, runner: FunctionRunner, out: Path) -> None:
    search = ActiveSearch(config(search__budget=16, search__initial=8, search__stop_when=1e-9), out=out, runner=runner)
    search.run()
    assert search.open_record().count() == 16
    assert "stopped" not in read(out / "mixture.yaml")


def test_asynchronous_searches_have_no_rounds_to_look_between(config: Config, runner: FunctionRunner, out: Path) -> None:
    search = ActiveSearch(config(search__asynchronous=True, search__stop_when=0.1), out=out, runner=runner)
    with pytest.raises(ConfigError, match=r"search\.(stop_when|asynchronous)"):
        search.run()


def seeded(request: ProxyRequest) -> dict[str, float]:
    """Losses of three domains; every seed has an offset, every mixture and seed a noise."""
    luck = np.random.default_rng(request.init_seed).normal(size=3)
    noise = np.random.default_rng([request.init_seed, int(1e6 * request.weights[0])]).normal(size=3)
    losses = 2 + (request.weights + 0.05) ** -0.4 + 0.2 * luck + 0.01 * noise
    return dict(zip(("a", "b", "c"), losses.tolist(), strict=True))


class SeededRunner:
    """Losses that depend on the seeds, too."""

    domains = loss_names = ("a", "b", "c")

    def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
        for request in requests:
            if request.slot not in known:
                yield ProxyResult(request.slot, seeded(request))


def test_some_mixtures_of_the_first_round_get_a_second_seed(config: Config, runner: FunctionRunner, tmp_path: Path) -> None:
    for budget, replicates in ((32, 0), (64, 2)):
        search = ActiveSearch(
            config(search__budget=budget, search__strategy="dirichlet", search__strategy_options={}),
            out=tmp_path / str(budget),
            runner=runner,
        )
        found = search.run()
        first = search.open_record().rounds()[0]
        assert len(first) == 16 + replicates
        assert {trial.user_attrs["proposer"] for trial in first} == {INITIAL_DESIGN}
        assert search.open_record().count() == budget, "they count"
        assert found.history.replicates.tolist() == [0] * 16 + [1] * replicates + [0] * (budget - 16 - replicates)
        again = found.history.mixtures[16 : 16 + replicates]
        apart = np.abs(found.history.mixtures[:16] - found.history.space.natural).sum(axis=1)
        np.testing.assert_array_equal(again, found.history.mixtures[np.argsort(apart, kind="stable")[:replicates]])
        assert not np.array_equal(again[1:], found.history.mixtures[15:16]), "the nearest to the natural one, not the last"


def test_a_study_without_second_seeds_goes_on_without(config: Config, runner: FunctionRunner, tmp_path: Path) -> None:
    """As one that was begun before there were any; also one that was stopped in its first round."""
    mixtures = []
    for name, noise_runs in (("old", 0), ("new", 4)):
        for budget in (10, 34):
            wanted = 0 if budget == 10 else noise_runs
            settings = config(
                search__budget=budget, search__noise_runs=wanted, search__strategy="dirichlet", search__strategy_options={}
            )
            search = ActiveSearch(settings, out=tmp_path / name, runner=runner)
            search.run()
        mixtures.append(search.open_record().rounds())
    old, new = ([trial.params for trials in rounds for trial in trials] for rounds in mixtures)
    assert old == new


def test_the_noise_of_seeds_reaches_the_answer(config: Config, out: Path) -> None:
    search = ActiveSearch(
        config(search__budget=32, search__noise_runs=6, search__initial=12, recommend__draws=16), out=out, runner=SeededRunner()
    )
    found = search.run()
    noise = seed_noise(found.history)
    assert noise is not None
    assert found.doubt is not None
    assert found.doubt.noise is not None
    assert found.doubt.noise.target_std == noise.target_std
    assert noise.target_std < 0.03 < noise.target_offset
    told = read(out / "mixture.yaml")["doubt"]["noise_of_seeds"]
    assert (told["mixtures"], told["seeds"]) == (6, 2)


def test_the_doubt_can_be_left_out(config: Config, runner: FunctionRunner, out: Path) -> None:
    search = ActiveSearch(config(search__budget=8), out=out, runner=runner)
    assert search.run().doubt is None
    asked = ActiveSearch(config(search__budget=8, recommend__draws=16, recommend__interval=0.8), out=out, runner=runner)
    found = asked.recommend()
    assert found.doubt is not None
    assert found.doubt.level == 0.8
    assert read(out / "mixture.yaml")["doubt"]["probability_of_intervals"] == 0.8


def test_trade_offs_between_targets(config: Config, runner: FunctionRunner, out: Path) -> None:
    settings = config(search__budget=12, targets={"mine": "books", "theirs": "code"})
    found = ActiveSearch(settings, out=out, runner=runner).run()
    assert found.pareto is not None
    np.testing.assert_array_equal(found.found.weights, found.pareto.weights[found.pareto.balanced])
    content = read(out / "mixture.yaml")
    assert len(content["pareto"]["members"]) == len(found.pareto.weights)
    assert content["rule"] == "pareto"
    assert list(content["targets"]) == list(content["predicted"]["found"]) == ["mine", "theirs"]
    assert found.doubt is None, "of no single target"
    picture = (out / "summary.svg").read_text(encoding="utf-8")
    search = ActiveSearch(settings, out=out, runner=runner)
    answer = search.answer()
    assert answer.rule == "pareto"
    search.verify(answer, 2)
    assert (out / "summary.svg").read_text(encoding="utf-8") == picture, "the front stays"
    assert (out / "verification.svg").is_file()
    one = ActiveSearch(settings, out=out, runner=runner).recommend(target="books")
    assert one.pareto is None
    assert one.found.mean < found.pareto.means[found.pareto.balanced, 0]


def test_several_targets_are_searched_by_hypervolume_unless_another_strategy_was_chosen(
    config: Config, runner: FunctionRunner, out: Path
) -> None:
    targets = {"mine": "books", "theirs": "code"}
    assert ActiveSearch(config(targets=targets, search__strategy_options={}), out=out, runner=runner).strategy.name == "hypervolume"
    assert ActiveSearch(config(search__strategy_options={}), out=out, runner=runner).strategy.name == "variance-reduction"
    watcher = Warnings()
    settings = config(search__budget=12, search__strategy="greedy", targets=targets)
    ActiveSearch(settings, out=out, runner=runner, observer=watcher).run()
    (said,) = [text for text in watcher.said if text.startswith("search.strategy")]
    assert "greedy trains for `target` alone, not for trade-offs between mine, theirs; for these, set it to hypervolume" in said


def test_trade_offs_say_that_no_mixture_keeps_the_limits(config: Config, runner: FunctionRunner, out: Path) -> None:
    limits = {"all": {"at_most": 0.5}}
    targets = {name: {"weights": {name: 1}, "limits": limits} for name in ("books", "code")}
    found = ActiveSearch(config(search__budget=8, targets=targets), out=out, runner=runner).run()
    assert any(note.startswith("no mixture keeps the target's limits as surely as it asks") for note in found.notes)
    assert read(out / "mixture.yaml")["pareto"]["members"][0]["limits_kept"] < 0.01


def test_tokens_of_the_target_run_are_written(config: Config, runner: FunctionRunner, out: Path) -> None:
    tokens = {"books": 4e9, "code": 2e9, "talk": 1e9, "web": 8e9}
    settings = config(search__budget=8, mixture__target_tokens=2e10, mixture__tokens=tokens)
    ActiveSearch(settings, out=out, runner=runner).run()
    content = read(out / "mixture.yaml")
    assert content["target_tokens"] == 20_000_000_000
    assert content["tokens"] == {name: int(n) for name, n in tokens.items()}
    assert content["weights"]["talk"] <= 0.2, "four epochs of a billion tokens"
