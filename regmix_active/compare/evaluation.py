"""What an evaluation of surrogates found: scores of every seed, and what could not be scored."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from regmix_active.compare.scores import Score
from regmix_active.study.table import RunTable
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Array

HELD_OUT = "held-out folds"
"""What stands for the test runs' name in a cross-validation."""


@dataclass(frozen=True)
class Result:
    """One score: a surrogate, fitted to `runs` runs drawn with `seed`, on one target of the test runs called `test`."""

    surrogate: str
    runs: int
    seed: int
    test: str
    target: str
    score: Score


@dataclass(frozen=True)
class Skip:
    """What could not be scored, and why."""

    surrogate: str
    runs: int
    seed: int
    target: str
    why: str


@dataclass(frozen=True)
class FitReport:
    """One fit: how long it took, and why the surrogate is what it is, if it chooses for itself."""

    surrogate: str
    runs: int
    seed: int
    seconds: float
    reason: str | None


@dataclass(frozen=True, eq=False)
class Prediction:
    """Observed and expected targets of the test runs, from the largest training set; standard deviations include the noise."""

    surrogate: str
    runs: int
    test: str
    target: str
    observed: Array
    mean: Array
    std: Array


@dataclass(frozen=True)
class Summary:
    """The scores of all seeds: medians, and the range of the rank correlation."""

    median: Score
    worst_spearman: float
    best_spearman: float
    seeds: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All scores.

    Attributes:
        train: The runs that surrogates were fitted to.
        tests: Names of the tables of test runs, or :data:`HELD_OUT`.
        targets: By name.
        surrogates: In the order asked for.
        sizes: Training runs, ascending.
        folds: Of the cross-validation; None with test runs.
        notes: What the user should know about the runs.
    """

    train: RunTable
    tests: tuple[str, ...]
    targets: Mapping[str, Target]
    surrogates: tuple[str, ...]
    sizes: tuple[int, ...]
    folds: int | None
    notes: tuple[str, ...]
    results: tuple[Result, ...]
    skips: tuple[Skip, ...]
    fits: tuple[FitReport, ...]
    predictions: tuple[Prediction, ...]

    def summary(self, test: str, target: str, surrogate: str, runs: int) -> Summary | None:
        """Over the seeds; None where nothing was scored."""
        scores = self._scores.get((test, target, surrogate, runs))
        if not scores:
            return None
        columns = zip(*([getattr(s, name) for name in Score.__dataclass_fields__] for s in scores), strict=True)
        n, *figures = (median(column) for column in columns)
        ranked = [s.spearman for s in scores if not math.isnan(s.spearman)]
        return Summary(Score(int(n), *figures), min(ranked, default=math.nan), max(ranked, default=math.nan), len(scores))

    @functools.cached_property
    def _scores(self) -> dict[tuple[str, str, str, int], list[Score]]:
        scores: dict[tuple[str, str, str, int], list[Score]] = {}
        for r in self.results:
            scores.setdefault((r.test, r.target, r.surrogate, r.runs), []).append(r.score)
        return scores

    def as_dict(self) -> dict[str, Any]:
        """Every figure of every seed, ready for JSON: None where there is no number."""
        return {
            "mode": "test runs" if self.folds is None else f"{self.folds}-fold cross-validation",
            "train": {"name": self.train.name, "runs": len(self.train), "domains": list(self.train.domains)},
            "losses": dict(zip(self.train.loss_names, self.train.loss_columns, strict=True)),
            "tests": list(self.tests),
            "targets": {
                name: {loss: float(w) for loss, w in zip(target.loss_names, target.weights, strict=True) if w}
                for name, target in self.targets.items()
            },
            "surrogates": list(self.surrogates),
            "sizes": list(self.sizes),
            "notes": list(self.notes),
            "scores": [
                {"surrogate": r.surrogate, "runs": r.runs, "seed": r.seed, "test": r.test, "target": r.target, **r.score.as_dict()}
                for r in self.results
            ],
            "skipped": [vars(skip) for skip in self.skips],
            "fits": [vars(fit) for fit in self.fits],
        }


def median(values: Iterable[float]) -> float:
    """Median of what is not NaN; NaN of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan
