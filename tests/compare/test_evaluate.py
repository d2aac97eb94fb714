"""Evaluation of surrogates: the right runs are hidden, every figure is there, and what cannot be scored says why."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pytest
from numpy.typing import ArrayLike

from regmix_active.compare import evaluate as module
from regmix_active.compare.evaluate import evaluate
from regmix_active.compare.evaluation import HELD_OUT, Evaluation
from regmix_active.errors import ConfigError
from regmix_active.report.evaluation import loss_table, remarks, target_table
from regmix_active.report.plots import learning_curves, predicted_against_observed, save
from regmix_active.study.table import RunTable
from regmix_active.surrogate.base import Array, Posterior, Surrogate, check_observations


class Linear(Surrogate):
    """Least squares with a constant spread; says what it was given."""

    name: ClassVar[str] = "linear"
    seen: ClassVar[list[Array]] = []

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        X, Y, _ = check_observations(mixtures, losses, noise, self)
        self.seen.append(X)
        self._B = np.stack([np.linalg.lstsq(X[known := ~np.isnan(y)], y[known], rcond=None)[0] for y in Y.T], axis=1)
        self.reason = f"saw {len(X)} runs"
        return self

    def predict(self, mixtures: Array) -> Array:
        return mixtures @ self._B

    def posterior(self, mixtures: Array) -> Posterior:
        mean = self.predict(mixtures)
        return Posterior(
            mean, np.full(mean.shape, 0.01), lambda rows: np.zeros((len(rows), *mean.shape)), np.full(mean.shape[1], 0.01)
        )


class Broken(Linear):
    """Fails as no surrogate should."""

    name: ClassVar[str] = "broken"

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        raise ZeroDivisionError("no luck")


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two surrogates instead of the registry's, which take a second and more."""
    classes = {"linear": Linear, "broken": Broken}
    monkeypatch.setattr(module, "SURROGATES", classes)
    monkeypatch.setattr(module, "load_surrogate", lambda name: classes[name]())
    monkeypatch.setattr(Linear, "seen", [])


def runs(n: int, seed: int = 0, name: str = "toy", m: int = 2) -> RunTable:
    rng = np.random.default_rng(seed)
    X = rng.dirichlet(np.ones(3), n)
    Y = X @ np.random.default_rng(99).uniform(1, 3, (3, m)) + rng.normal(0, 0.01, (n, m))
    names = tuple("xyzuvw"[:m])
    return RunTable(name, ("a", "b", "c"), names, X, Y, tuple(map(str, range(n))), ("a", "b", "c"), names)


def test_test_runs() -> None:
    train, tests = runs(40), [runs(30, 1, "t"), runs(20, 2, "t")]
    evaluation = evaluate(train, tests, surrogates=["linear"], seeds=3)
    assert evaluation.sizes == (16, 32, 40)
    assert evaluation.tests == ("t", "t (2)")
    assert list(evaluation.targets) == ["mean", "x", "y"]
    assert len(evaluation.results) == (3 + 3 + 1) * 2 * 3
    assert [len(X) for X in Linear.seen] == [40, *[32] * 3, *[16] * 3]
    np.testing.assert_array_equal(Linear.seen[0], train.mixtures)
    for small, large in zip(Linear.seen[4:], Linear.seen[1:4], strict=True):
        np.testing.assert_array_equal(small, large[:16])
    summary = evaluation.summary("t (2)", "mean", "linear", 32)
    assert summary is not None
    assert summary.seeds == 3
    assert summary.median.n == 20
    assert summary.worst_spearman <= summary.median.spearman <= summary.best_spearman
    assert summary.median.spearman > 0.9
    assert {p.test for p in evaluation.predictions} == {"t", "t (2)"}


def test_held_out_runs_are_hidden() -> None:
    train = runs(25)
    evaluation = evaluate(train, surrogates=["linear"], seeds=2)
    assert evaluation.tests == (HELD_OUT,)
    assert evaluation.sizes == (16, 20)
    assert len(Linear.seen) == 2 * 5 * 2
    # Each seed's five largest training sets leave out every run once.
    left_out = [row.tobytes() for X in Linear.seen[:5] for row in train.mixtures if row.tobytes() not in {r.tobytes() for r in X}]
    assert sorted(left_out) == sorted(row.tobytes() for row in train.mixtures)
    assert all(result.score.n == 25 for result in evaluation.results)
    assert not np.isnan(evaluation.predictions[0].mean).any()


def test_runs_of_one_mixture_are_hidden_together() -> None:
    train = runs(12)
    twice = RunTable.join([train, runs(12, 0, "again")])
    evaluate(twice, surrogates=["linear"], sizes=[4], seeds=1, folds=3)
    evaluation = evaluate(twice, surrogates=["linear"], seeds=1, folds=3)
    assert evaluation.sizes == (16,)
    for X in Linear.seen[3:]:
        _, counts = np.unique(X, axis=0, return_counts=True)
        assert set(counts) == {2}
    with pytest.raises(ConfigError, match="12 different mixtures are too few for 13 folds; use fewer"):
        evaluate(twice, folds=13)


def test_same_seeds_same_scores() -> None:
    first, second = (evaluate(runs(30), surrogates=["linear"], seeds=2) for _ in range(2))
    assert first.results == second.results


def test_missing_losses_and_few_runs_say_why() -> None:
    train = runs(24)
    train.losses[3:, 1] = np.nan
    evaluation = evaluate(train, [runs(10, 1, "t")], surrogates=["linear"], sizes=[2, 24], seeds=1)
    assert {r.target for r in evaluation.results} == {"x"}
    skips = {(s.runs, s.target): s.why for s in evaluation.skips}
    assert skips[2, "x"] == "needs 4 runs or more of a loss, got 2"
    assert skips[24, "mean"] == skips[24, "y"] == "needs 4 runs or more of the loss 'y', got 3"
    lines = list(remarks(evaluation))
    assert "linear, 24 runs: mean, y skipped: needs 4 runs or more of the loss 'y', got 3" in lines
    assert "linear, 2 runs: all targets skipped: needs 4 runs or more of a loss, got 2" in lines
    assert "linear, 24 runs: saw 24 runs" in lines


def test_losses_that_test_runs_lack() -> None:
    test = runs(10, 1, "t", m=1)
    evaluation = evaluate(runs(20), [test], surrogates=["linear"], sizes=[20])
    assert "t lacks y" in evaluation.notes
    assert {r.target for r in evaluation.results} == {"x"}
    assert {s.why for s in evaluation.skips} == {"no run of t has every loss of it"}


def test_a_surrogate_that_fails_leaves_the_others() -> None:
    evaluation = evaluate(runs(20), [runs(10, 1, "t")], sizes=[20])
    assert evaluation.surrogates == ("linear", "broken")
    assert {r.surrogate for r in evaluation.results} == {"linear"}
    assert {s.why for s in evaluation.skips} == {"ZeroDivisionError: no luck"}


def test_training_runs_among_the_test_runs_are_told() -> None:
    train = runs(20)
    told: list[str] = []
    evaluate(train, [train.subset(range(5))], surrogates=["linear"], sizes=[20], on_start=lambda total, notes: told.extend(notes))
    assert told == ["toy: 5 of 5 test runs are training runs too; their scores are no test"]


@pytest.mark.parametrize(
    ("sizes", "tests", "message"),
    [
        ([16, 21], True, "sizes: 21 training runs asked for; toy can train on 2 to 20"),
        ([20], False, "sizes: 20 training runs asked for; 5-fold cross-validation on the 20 runs of toy can train on 2 to 16"),
        ([1], True, "sizes: 1 training runs asked for"),
    ],
)
def test_sizes_that_are_not_there(sizes: list[int], tests: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(runs(20), [runs(10, 1, "t")] if tests else [], sizes=sizes)


def test_every_figure_is_json_without_nan() -> None:
    train = runs(20)
    train.losses[:, 1] = 2.0
    evaluation = evaluate(train, [runs(10, 1, "t")], surrogates=["linear"], sizes=[20])
    content = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))
    assert content["mode"] == "test runs"
    assert content["targets"]["mean"] == {"x": 0.5, "y": 0.5}
    assert len(content["scores"]) == 3
    assert {"surrogate", "runs", "seed", "test", "target", "n", "spearman", "mse", "coverage_90"} <= set(content["scores"][0])
    assert content["fits"][0]["reason"] == "saw 20 runs"
    assert content["fits"][0]["seconds"] >= 0


@pytest.fixture
def small() -> Evaluation:
    return evaluate(runs(20), surrogates=["linear"], sizes=[8, 16], seeds=2)


def test_tables_show_each_size_and_loss(small: Evaluation) -> None:
    from rich.console import Console

    console = Console(width=100, record=True)
    console.print(target_table(small, HELD_OUT, "mean"), loss_table(small, HELD_OUT, ["x", "y"]))
    shown = console.export_text()
    assert "mean of 2 losses of held-out folds" in shown
    assert "single losses of held-out folds, from 16 runs" in shown
    summary = small.summary(HELD_OUT, "mean", "linear", 8)
    assert summary is not None
    assert f"{summary.median.spearman:.3f} ({summary.worst_spearman:.3f})" in shown
    assert not math.isnan(summary.median.log_likelihood)


def test_plots_are_written(small: Evaluation, tmp_path: Path) -> None:
    paths = save(learning_curves(small, HELD_OUT), tmp_path, "curves of $a/b")
    assert [path.name for path in paths] == ["curves-of--a-b.svg", "curves-of--a-b.png"]
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    figure = predicted_against_observed(small, HELD_OUT, "mean")
    assert figure is not None
    assert "Spearman" in figure.axes[0].get_title()
    assert len(figure.axes) == 1
    assert predicted_against_observed(small, HELD_OUT, "nothing") is None
    again = save(learning_curves(small, HELD_OUT), tmp_path, "again")
    assert "<dc:date>" not in again[0].read_text(encoding="utf-8")


def test_the_registry_is_what_is_evaluated_by_default() -> None:
    assert evaluate(runs(20), [runs(10, 1, "t")], sizes=[16], seeds=1).surrogates == ("linear", "broken")
