"""Proxies that are stopped early, and mixtures that are trained more than once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from regmix_active.config.schema import ProxyConfig, RunConfig
from regmix_active.errors import ConfigError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.runner import FunctionRunner
from regmix_active.proxy.training.stopping import EarlyStopping
from regmix_active.search.active import ActiveSearch

PROXY = ProxyConfig()
STEPS = (97, 195, 390)


class CurveRunner:
    """Losses of a function, approached from above; each round is one stack."""

    def __init__(self, inner: FunctionRunner) -> None:
        self.inner, self.domains, self.loss_names = inner, inner.domains, inner.loss_names
        self.stopping: EarlyStopping | None = None
        self.rounds: list[EarlyStopping | None] = []

    def stopping_early(
        self, pruner: str, weights: Mapping[str, float], finished: Sequence[Mapping[str, Mapping[str, float]]]
    ) -> CurveRunner:
        self.stopping = EarlyStopping.of_curves(pruner, weights, finished, PROXY)
        self.rounds.append(self.stopping)
        return self

    def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
        results = {result.slot: result for result in self.inner.run(requests)}
        curves = {
            slot: {step: {name: loss + 100 / step for name, loss in result.losses.items()} for step in STEPS}
            for slot, result in results.items()
        }
        stopped: dict[int, int] = {}
        for step in STEPS:
            seen = {slot: {s: curve[s] for s in STEPS if s <= step} for slot, curve in curves.items() if slot not in stopped}
            if self.stopping is not None and seen:
                stopped |= dict.fromkeys(self.stopping.hopeless(seen, step), step)
        for slot, result in results.items():
            last = stopped.get(slot, STEPS[-1])
            curve = {str(step * 512): curves[slot][step] for step in STEPS if step <= last}
            losses = {} if slot in stopped else result.losses
            if slot not in known:
                yield ProxyResult(slot, losses, tokens=last * 512, curve=curve, stopped=slot in stopped)


def test_hopeless_proxies_count_and_are_learnt_from(runner: FunctionRunner, config: Callable[..., RunConfig], out: Path) -> None:
    settings = config(
        search__pruner="asha", search__budget=32, search__initial=16, search__strategy="dirichlet", search__strategy_options={}
    )
    watched = CurveRunner(runner)
    search = ActiveSearch(settings, runner=watched, out=out)
    found = search.run()
    record = search.open_record()
    stopped = record.trials(TrialState.PRUNED)
    assert stopped
    assert record.count(TrialState.COMPLETE) + len(stopped) == 32
    assert len(found.history) == 32, "a stopped proxy tells what its curve led to"
    guessed = dict(zip(found.history.slots.tolist(), found.history.values.tolist(), strict=True))
    for trial in stopped:
        weights = record.weights(trial)
        truth = np.mean(list(next(iter(runner.run([ProxyRequest(0, weights, 0, 0)]))).losses.values()))
        assert guessed[trial.user_attrs["slot"]] == pytest.approx(truth, abs=1e-6)
        assert set(trial.intermediate_values) == {int(tokens) for tokens in trial.user_attrs["curve"]}
    complete = [t.user_attrs["round"] for t in record.trials(TrialState.COMPLETE)]
    known = [len(one.finished) for one in watched.rounds if one is not None]
    assert known == [sum(r < 1 + i for r in complete) for i in range(len(known))], "a round knows those before it"
    assert complete.count(0) == 16, "the initial design trains to its end"


def test_an_interrupted_round_is_stopped_alike(runner: FunctionRunner, config: Callable[..., RunConfig], tmp_path: Path) -> None:
    settings = config(
        search__pruner="hyperband", search__budget=32, search__initial=16, search__strategy="dirichlet", search__strategy_options={}
    )

    class Dying(CurveRunner):
        left = 21

        def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
            for result in super().run(requests, known):
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
                yield result

    whole = ActiveSearch(settings, runner=CurveRunner(runner), out=tmp_path / "whole").run()
    with pytest.raises(KeyboardInterrupt):
        ActiveSearch(settings, runner=Dying(runner), out=tmp_path / "broken").run()
    resumed = ActiveSearch(settings, runner=CurveRunner(runner), out=tmp_path / "broken").run()
    np.testing.assert_array_equal(resumed.history.losses, whole.history.losses)
    np.testing.assert_array_equal(resumed.found.weights, whole.found.weights)


def test_a_runner_without_curves_refuses_a_pruner(runner: FunctionRunner, config: Callable[..., RunConfig], out: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.pruner: asha needs the swarm's learning curves"):
        ActiveSearch(config(search__pruner="asha", search__budget=24), runner=runner, out=out).run()


def test_replicates_share_a_mixture_and_no_seed(runner: FunctionRunner, config: Callable[..., RunConfig], out: Path) -> None:
    settings = config(search__replicates=3, search__budget=25, search__initial=16, search__batch_size=9)
    search = ActiveSearch(settings, runner=runner, out=out)
    search.run()
    trials = search.open_record().trials()[16:]
    mixtures = {tuple(search.open_record().weights(trial)) for trial in trials}
    assert len(trials) == 9
    assert len(mixtures) == 3
    seeds = [(trial.user_attrs["init_seed"], trial.user_attrs["data_seed"]) for trial in trials]
    assert len(set(seeds)) == 3, "the same three seeds for every mixture: common random numbers"
    assert seeds[:3] == seeds[3:6] == seeds[6:]
