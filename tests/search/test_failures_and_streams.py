"""Failed proxies: kept away from, counted, never fed to a surrogate. Asynchronous searches: pending proxies, interruption."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.trial import TrialState

from regmix_active import ActiveSearch
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.mixture.designs import trusted
from regmix_active.mixture.space import Mixtures
from regmix_active.observer import Observer
from regmix_active.proxy.base import Propose, ProxyRequest, ProxyResult
from regmix_active.proxy.runner import FunctionRunner
from regmix_active.strategies import Strategy
from regmix_active.study.history import History
from regmix_active.study.imported import ImportedRun

Config = Callable[..., RunConfig]


class StreamRunner(FunctionRunner):
    """Trains in three places; which of them ends first is drawn."""

    workers, stack = 3, 2

    def __init__(self, inner: FunctionRunner, rng: np.random.Generator, die_after: int | None = None) -> None:
        super().__init__(inner.domains, inner._losses)
        self._rng, self.trained = rng, list[int]()
        self._left = die_after
        self.most = 0

    def _result(self, request: ProxyRequest) -> ProxyResult:
        (result,) = self.run([request])
        self.trained.append(request.slot)
        return result

    def stream(self, propose: Propose) -> Generator[ProxyResult, None, None]:
        flying: list[Sequence[ProxyRequest]] = []
        while True:
            while len(flying) < self.workers and (requests := propose(self.stack)):
                flying.append(requests)
            if not flying:
                return
            self.most = max(self.most, len(flying))
            for request in flying.pop(self._rng.integers(len(flying))):
                if self._left is not None:
                    if self._left == 0:
                        raise KeyboardInterrupt
                    self._left -= 1
                yield self._result(request)


class Spy(Strategy):
    """Proposes at random and notes what was pending."""

    name = "spy"

    def __init__(self) -> None:
        self.pending: list[int] = []

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        self.pending.append(len(pending))
        assert pending.shape[1] == history.space.dim
        return history.space.dirichlet(n, history.space.natural, rng)


def test_an_asynchronous_search_reaches_its_budget_with_each_slot_once(config: Config, runner: FunctionRunner, out: Path) -> None:
    stream, spy = StreamRunner(runner, np.random.default_rng(3)), Spy()
    search = ActiveSearch(config(search__budget=31, search__asynchronous=True), out=out, runner=stream, strategy=spy)
    search.run()
    record = search.open_record()
    assert sorted(stream.trained) == list(range(31))
    assert record.count(TrialState.COMPLETE) == record.count() == 31
    assert stream.most == 3, "no place stays empty"
    assert max(spy.pending) == 4, "two jobs of two proxies train while the third is chosen"


def test_an_interrupted_asynchronous_search_trains_what_it_had_planned(config: Config, runner: FunctionRunner, out: Path) -> None:
    settings = config(search__budget=30, search__asynchronous=True)
    first = StreamRunner(runner, np.random.default_rng(3), die_after=21)
    with pytest.raises(KeyboardInterrupt):
        ActiveSearch(settings, out=out, runner=first, strategy=Spy()).run()
    planned = ActiveSearch(settings, out=out, runner=runner).open_record().trials(TrialState.RUNNING)
    assert planned
    second = StreamRunner(runner, np.random.default_rng(4))
    search = ActiveSearch(settings, out=out, runner=second, strategy=Spy())
    search.run()
    assert {trial.user_attrs["slot"] for trial in planned} <= set(second.trained)
    assert search.open_record().count(TrialState.COMPLETE) == search.open_record().count() == 30


def test_rounds_go_on_where_a_stream_was_interrupted(config: Config, runner: FunctionRunner, out: Path) -> None:
    first = StreamRunner(runner, np.random.default_rng(3), die_after=21)
    with pytest.raises(KeyboardInterrupt):
        ActiveSearch(config(search__budget=30, search__asynchronous=True), out=out, runner=first, strategy=Spy()).run()
    search = ActiveSearch(config(search__budget=30), out=out, runner=StreamRunner(runner, np.random.default_rng(4)), strategy=Spy())
    search.run()
    assert search.open_record().count(TrialState.COMPLETE) == 30


def test_a_runner_of_rounds_cannot_stream(config: Config, runner: FunctionRunner, out: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.asynchronous: this runner trains in rounds only"):
        ActiveSearch(config(search__asynchronous=True), out=out, runner=runner, strategy=Spy()).run()


def test_asynchronous_search_says_that_order_matters(config: Config, runner: FunctionRunner, out: Path) -> None:
    warnings: list[str] = []

    class Listener(Observer):
        def on_warning(self, text: str) -> None:
            warnings.append(text)

    stream = StreamRunner(runner, np.random.default_rng(3))
    settings = config(search__budget=17, search__asynchronous=True)
    ActiveSearch(settings, out=out, runner=stream, strategy=Spy(), observer=Listener()).run()
    assert any("depends on the order in which proxies end" in text for text in warnings)


class Cliff(FunctionRunner):
    """Diverges where there is much of the first domain, which would otherwise be best."""

    def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
        for request in requests:
            if request.slot not in known:
                (result,) = super().run([request])
                yield self.fallen(request) if request.weights[0] > 0.4 else result

    def fallen(self, request: ProxyRequest) -> ProxyResult:
        return ProxyResult(request.slot, {}, failure="diverged: loss not finite", diverged=True)


def greedy_for_books(weights: NDArray[np.float64]) -> dict[str, float]:
    return {"books": 3.0 - float(weights[0]) + 0.1 * float(weights[1]), "code": 3.0, "talk": 3.0, "web": 3.0}


def test_where_a_proxy_diverged_nobody_goes_again(config: Config, out: Path) -> None:
    cliff = Cliff(("books", "code", "talk", "web"), greedy_for_books)
    search = ActiveSearch(config(search__budget=40, search__failure_rate=1.0), out=out, runner=cliff)
    found = search.run()
    record = search.open_record()
    failed = record.trials(TrialState.FAIL)
    assert failed
    assert all(trial.user_attrs["diverged"] for trial in failed)
    assert all(np.isfinite(found.history.losses).ravel())
    designed = [t for t in record.trials() if t.user_attrs["proposer"] == "initial design"]
    proposed = [t for t in record.trials() if t.user_attrs["proposer"] != "initial design"]
    rate = sum(t in failed for t in proposed) / len(proposed)
    assert rate < 0.4, "a search that did not keep away would send most of its proxies over the cliff"
    assert any(t in failed for t in designed)
    assert found.found.weights[0] < 0.42, "the answer is on this side of the cliff"
    assert found.found.weights[0] > 0.3, "and close to it, where the best proxies are"


def test_whom_to_trust() -> None:
    mixtures = np.array([[1.0, 0.0], [0.8, 0.2], [0.75, 0.25], [0.5, 0.5]])
    finished, diverged = np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])
    assert trusted(mixtures, diverged, finished).tolist() == [False, False, False, True]
    assert trusted(mixtures, np.empty((0, 2)), finished).all()
    assert not trusted(mixtures, diverged, np.empty((0, 2))).any()


def test_most_of_the_last_results_must_be_good(config: Config, runner: FunctionRunner, out: Path) -> None:
    class Flaky(FunctionRunner):
        broken = True

        def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
            for request in requests:
                if request.slot in known:
                    continue
                if self.broken and request.slot >= 20:
                    yield ProxyResult(request.slot, {}, failure="crashed: the node is broken")
                else:
                    yield from super().run([request])

    flaky = Flaky(runner.domains, runner._losses)
    search = ActiveSearch(config(search__budget=40), out=out, runner=flaky, strategy=Spy())
    with pytest.raises(ProxyError, match=r"11 of the last 20 proxies failed .*search.failure_rate.*the node is broken"):
        search.run()
    assert search.open_record().count(TrialState.FAIL) == 11
    flaky.broken = False
    search.run()
    assert search.open_record().count(TrialState.COMPLETE) == 40, "a mended search is not judged by its past"


def test_imported_runs_stand_for_the_initial_design_and_cost_no_budget(config: Config, runner: FunctionRunner, out: Path) -> None:
    ActiveSearch(config(search__budget=4, search__initial=4), out=out, runner=runner, strategy=Spy()).run()
    search = ActiveSearch(config(search__budget=20, search__initial=16), out=out, runner=runner, strategy=Spy())
    record = search.open_record(create=True)
    mixtures = record.space.dirichlet(10, record.space.natural, np.random.default_rng(5))
    runs = [ImportedRun(str(i), w, runner._losses(w)) for i, w in enumerate(mixtures)]
    assert record.add_imported(runs, "elsewhere") == 10
    assert record.add_imported(runs, "elsewhere") == 0, "they are there"
    found = search.run()
    record = search.open_record()
    assert record.count(TrialState.COMPLETE) == 20
    assert len(found.history) == 30
    assert found.history.slots[:10].tolist() == list(range(-10, 0))
    initial = [t for t in record.trials() if t.user_attrs["proposer"] == "initial design"]
    assert len(initial) == 6, "4 before the import, 2 more to make 16 with 10 imported"
