"""How strategies are named, found, loaded from files and given their options."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from regmix_active.errors import StrategyError
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.strategies import Strategy, available, load_strategy, registry, strategy
from regmix_active.strategies.confidence_bound import ConfidenceBound
from regmix_active.strategies.expected_improvement import ExpectedImprovement
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.surrogate.lightgbm import LightGBM

TEN_LINES = """
from __future__ import annotations

from dataclasses import dataclass

from regmix_active.strategies import AcquisitionStrategy


@dataclass
class Timid(AcquisitionStrategy):
    shyness: float = 1.0

    def score(self, belief):
        return -belief.mean - self.shyness * belief.std
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    available()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    for name in [name for name in sys.modules if name.startswith("regmix_active_user_")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def timid(tmp_path: Path) -> Path:
    file = tmp_path / "timid.py"
    file.write_text(TEN_LINES)
    return file


def test_names() -> None:
    assert type(load_strategy("expected-improvement")) is ExpectedImprovement
    with pytest.raises(
        StrategyError, match=r"unknown strategy 'expected-improvment'; did you mean 'expected-improvement'\?"
    ) as caught:
        load_strategy("expected-improvment")
    assert caught.value.exit_code == 2
    with pytest.raises(StrategyError, match=r"known strategies: confidence-bound, dirichlet.*path/to/file.py:Name"):
        load_strategy("qqq")


def test_a_name_is_taken_once() -> None:
    @strategy("mine")
    class First(Strategy):
        def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
            return history.space.dirichlet(n, history.space.natural, rng)

    with pytest.raises(StrategyError, match=r"strategy 'mine' of .* is already taken by .*choose another name"):

        @strategy("mine")
        class Second(First):
            pass

    strategy("mine")(First)  # loaded again
    assert type(load_strategy("mine")) is First
    assert First.name == "mine"


def test_options_and_the_surrogate_reach_the_strategy() -> None:
    surrogate = LightGBM()
    bound = load_strategy("confidence-bound", {"beta": 3, "candidates": 64}, surrogate)
    assert isinstance(bound, ConfidenceBound)
    assert (bound.beta, bound.candidates) == (3.0, 64)
    assert bound.surrogate is surrogate
    assert load_strategy("dirichlet", {}, surrogate).name == "dirichlet", "which has no surrogate"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betta": 1}, "has no option 'betta'.*its options are: beta, candidates, climbers, leaders"),
        ({"surrogate": 1}, "has no option 'surrogate'"),
        ({"beta": "many"}, "option 'beta' = 'many'.*valid number"),
        ({"candidates": 1.5}, "option 'candidates' = 1.5.*valid integer"),
        ({"candidates": 0}, "candidates must be 4 or more"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        load_strategy("confidence-bound", options)


def test_a_strategy_without_options_says_so() -> None:
    with pytest.raises(StrategyError, match="its options are: none"):
        load_strategy("dirichlet", {"beta": 1})


def test_a_file(timid: Path) -> None:
    """Also with string annotations, which dataclasses look up in the file's module."""
    loaded = load_strategy(f"{timid}:Timid", {"shyness": 2, "candidates": 32})
    assert loaded.name == "Timid"
    space = MixtureSpace(("a", "b"), np.array([0.5, 0.5]))
    mixtures = space.dirichlet(6, [1, 1], np.random.default_rng(0))
    history = History(space, Target.parse("mean", ("a", "b")), mixtures, 1 / (mixtures + 0.1), np.arange(6))
    assert space.check(loaded.propose(history, np.empty((0, 2)), 3, np.random.default_rng(0))).shape == (3, 2)
    assert type(load_strategy(f"{timid}:Timid")).__name__ == "Timid", "a second time"


def test_a_file_that_extends_a_built_in_strategy_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from regmix_active.strategies.confidence_bound import ConfidenceBound\nclass Mine(ConfidenceBound):\n    pass\n"
    )
    assert load_strategy(f"{tmp_path / 'mine.py'}:Mine").name == "Mine"
    assert ConfidenceBound.name == "confidence-bound"


def test_a_decorated_class_of_a_file_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from regmix_active.strategies import strategy\nfrom regmix_active.strategies.greedy import Greedy\n"
        "@strategy('greedy-mine')\nclass Mine(Greedy):\n    pass\n"
    )
    assert load_strategy(f"{tmp_path / 'mine.py'}:Mine").name == "greedy-mine"


@pytest.mark.parametrize(
    ("content", "attribute", "message"),
    [
        (None, "Timid", "strategy file .*mine.py: no such file"),
        (TEN_LINES, "Timidd", "has no strategy class 'Timidd'; it has: Timid"),
        ("x = 1", "x", "has no strategy class 'x'; it has: none"),
        ("class A: pass", "A", "has no strategy class 'A'; it has: none"),
        ("1 / 0", "A", "mine.py: ZeroDivisionError: division by zero"),
        ("import no_such_module_anywhere", "A", "mine.py: ModuleNotFoundError"),
        ("def f(:", "A", "mine.py: SyntaxError"),
        ("from regmix_active.strategies import Strategy\nclass A(Strategy): pass", "A", "abstract"),
    ],
)
def test_wrong_files(tmp_path: Path, content: str | None, attribute: str, message: str) -> None:
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StrategyError, match=message):
        load_strategy(f"{file}:{attribute}")


def _installed(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.ENTRY_POINTS else [])


def test_an_installed_package_brings_strategies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "regmix_plugin_for_test.py").write_text(TEN_LINES)
    monkeypatch.syspath_prepend(str(tmp_path))
    _installed(monkeypatch, "timid", "regmix_plugin_for_test:Timid")
    assert "timid" in available()
    assert load_strategy("timid", {"shyness": 0.5}).name == "timid"


def test_a_broken_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "gone", "no_such_module_anywhere:X")
    with pytest.raises(StrategyError, match=r"'gone' \(no_such_module_anywhere:X\) cannot be loaded.*reinstall"):
        available()


def test_a_broken_package_stands_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "broken", "no_such_module_anywhere:X")
    assert load_strategy("greedy").name == "greedy"
    with pytest.raises(StrategyError, match=r"'broken' .*cannot be loaded.*reinstall its package"):
        load_strategy("broken")


def test_built_in_names_are_refused_to_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "greedy", "regmix_active.strategies:Strategy")
    with pytest.raises(StrategyError, match=r"'greedy' of .* is already taken"):
        available()
    assert load_strategy("greedy").name == "greedy"


def test_a_file_cannot_take_a_built_in_name(tmp_path: Path) -> None:
    file = tmp_path / "taken.py"
    file.write_text(
        "from regmix_active import AcquisitionStrategy, strategy\n\n@strategy('greedy')\nclass Mine(AcquisitionStrategy):\n"
        "    def score(self, belief):\n        return belief.std\n"
    )
    with pytest.raises(StrategyError, match=r"already taken by regmix_active\.strategies\.greedy"):
        load_strategy(f"{file}:Mine")
