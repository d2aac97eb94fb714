"""The published suite on every strategy of ours, and on strategies that break one promise each."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regmix_active.mixture.space import Mixtures
from regmix_active.strategies import AcquisitionStrategy, Strategy, available, load_strategy
from regmix_active.strategies.greedy import Greedy
from regmix_active.study.history import History
from regmix_active.surrogate.belief import TargetModel
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.testing import ConformanceError, check_strategy


@pytest.mark.parametrize("name", sorted(available()))
def test_our_strategies_conform(name: str) -> None:
    options = {"candidates": 256} if issubclass(available()[name], AcquisitionStrategy) else {}
    report = check_strategy(load_strategy(name, options, GaussianProcess(max_iterations=5)))
    assert report.passed
    assert report.subject == name
    assert f"{name}: all {len(report.checks)} checks passed" in str(report)


def test_strategies_are_asked_as_early_as_the_search_asks() -> None:
    report = check_strategy(load_strategy("dirichlet"))
    assert any("8 finished proxies" in check.name for check in report.checks)


class _Sound(Strategy):
    """Keeps every promise; those below break one each."""

    name = "sound"

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return history.space.dirichlet(n, np.ones(history.space.dim), rng)


class _Few(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return super().propose(history, pending, n, rng)[: max(n - 1, 1)]


class _Heavy(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return 1.2 * super().propose(history, pending, n, rng)


class _Undefined(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        mixtures = super().propose(history, pending, n, rng)
        mixtures[-1, 0] = np.nan
        return mixtures


class _Nothing(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return None  # type: ignore[return-value]


class _Monotonous(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return np.repeat(super().propose(history, pending, 1, rng), n, axis=0)


class _Backward(_Sound):
    """Trains the best one again."""

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        best = history.mixtures[[np.nanargmin(history.values)]]
        return np.concatenate([best, super().propose(history, pending, n, rng)])[:n]


class _Blind(_Sound):
    """The same sequence whatever is pending."""

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return super().propose(history, pending, n, np.random.default_rng(len(history)))


class _Stubborn(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return super().propose(history, pending, n, np.random.default_rng())


class _NumpyGlobal(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return super().propose(history, pending, n, np.random.default_rng(np.random.randint(2**31)))  # noqa: NPY002


class _PythonGlobal(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return super().propose(history, pending, n, np.random.default_rng(random.randrange(2**31)))


class _TorchGlobal(_Sound):
    """Harmless to itself, and to nobody else."""

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        torch.manual_seed(0)
        return super().propose(history, pending, n, rng)


class _Rememberer(_Sound):
    def __init__(self) -> None:
        self.longest = 0

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        if history.space.dim == 5:
            self.longest = 1
        return super().propose(history, pending, n + self.longest, rng)[:n]


class _Vandal(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        history.losses.sort(axis=0)
        pending += 0.1
        return super().propose(history, pending, n, rng)


class _Complete(_Sound):
    """Cannot do without a loss."""

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        if np.isnan(history.values).any():
            raise ValueError("a target is missing")
        return super().propose(history, pending, n, rng)


class _Seventeen(_Sound):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return rng.dirichlet(np.ones(17), n)


class _Repetitive(Greedy):
    name = "repetitive"

    def choose(
        self, model: TargetModel, history: History, pending: Mixtures, candidates: Mixtures, n: int, rng: np.random.Generator
    ) -> NDArray[np.intp]:
        return np.zeros(n, dtype=np.intp)


@dataclass
class _Nameless(Strategy):
    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        return history.space.dirichlet(n, np.ones(history.space.dim), rng)


def test_the_sound_one_passes() -> None:
    assert check_strategy(_Sound()).passed
    assert check_strategy(_Sound(), seed=7).passed


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (_Few(), "batches of", r"returned shape \(7, 17\) where \(8, 17\) was wanted: 8 mixtures of 17 domains"),
        (_Heavy(), "batches of", r"mixture 0: weights sum to 1\.2, not to 1 .*history\.space\.project"),
        (_Undefined(), "2 domains", r"mixture 7: weight of 'domain-0' is nan"),
        (_Nothing(), "batches of", r"returned shape \(\) where \(1, 17\) was wanted|raised TypeError"),
        (_Monotonous(), "batches of", r"mixture 1 of 8 \(17 domains\) is mixture 0 of the same batch again"),
        (_Backward(), "trained ones", r"mixture 0 of 8 .* is the mixture of row 16, which is trained, again"),
        (_Blind(), "trained ones", r"mixture 0 of 8 .* is the mixture of row 0, which is in training \(pending\), again"),
        (_Stubborn(), "equal answer", r"two calls with equal arguments differ by up to 0\.\d+ in a weight; draw from"),
        (
            _NumpyGlobal(),
            "no randomness",
            r"the global generator of numpy\.random was used or seeded; draw from the generator `rng`",
        ),
        (_PythonGlobal(), "no randomness", r"the global generator of random was used or seeded"),
        (_TorchGlobal(), "no randomness", r"the global generator of torch was used or seeded"),
        (_Rememberer(), "equal answer", r"after a call for another search the answer differs by .*keep nothing between calls"),
        (_Vandal(), "left as they are", r"history\.losses was changed in place; work on a copy \(history\.losses\.copy\(\)\)"),
        (_Complete(), "missing", r"raised ValueError: a target is missing \(at .*test_conformance\.py:\d+\)"),
        (_Seventeen(), "100 domains", r"returned shape \(8, 17\) where \(8, 100\) was wanted"),
        (_Repetitive(GaussianProcess(max_iterations=2), candidates=16), "given candidates", r"select chose a row twice: \[0, 0, "),
        (_Nameless(), "has a name", r'the class has no name \(found None\); decorate it: @strategy\("my-strategy"\)'),
    ],
    ids=lambda value: type(value).__name__.strip("_") if isinstance(value, Strategy) else "",
)
def test_a_broken_promise_is_named_with_numbers_and_remedy(broken: Strategy, check: str, message: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_strategy(broken)
    (found,) = [one for one in caught.value.report.checks if check in one.name]
    assert found.faults, str(caught.value)
    assert any(re.search(message, fault) for fault in found.faults), found.faults


@pytest.mark.parametrize("broken", [_NumpyGlobal(), _TorchGlobal(), _Rememberer(), _Vandal(), _Complete(), _Nameless()])
def test_nothing_else_is_blamed(broken: Strategy) -> None:
    with pytest.raises(ConformanceError, match="1 of 16 checks failed"):
        check_strategy(broken)


def test_the_first_traceback_is_kept() -> None:
    with pytest.raises(AssertionError, match="FAILED  losses that are missing") as caught:
        check_strategy(_Complete())
    assert isinstance(caught.value.__cause__, ValueError)


def test_global_generators_are_left_as_they_were() -> None:
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    with pytest.raises(ConformanceError):
        check_strategy(_TorchGlobal())
    assert np.array_equal(before[0], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_class_is_not_an_instance() -> None:
    with pytest.raises(TypeError, match=r"needs an instance of a Strategy, got .*; make one: _Sound\(\)"):
        check_strategy(_Sound)
    with pytest.raises(TypeError, match="needs an instance of a Strategy, got 'greedy'"):
        check_strategy("greedy")
