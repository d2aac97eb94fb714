"""The terminal tables of an evaluation of surrogates."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from regmix_active.compare.evaluation import Evaluation, Summary

FIGURES = ("Spearman (worst)", "Pearson", "RMSE", "log lik.", "in 68 %", "in 90 %")

LEGEND = (
    "Medians over seeds. Spearman, Pearson: expected against observed. RMSE: nats per token. log lik.: mean log density of "
    "observed values, nats. in 68 %, 90 %: share of them inside these intervals."
)

OTHER_SIZE = "Where the test runs' models are of another size than the training runs', only the two correlations mean something."


def progress(console: Console) -> Progress:
    """A bar over fits on a terminal, nothing elsewhere."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def target_table(evaluation: Evaluation, test: str, target: str) -> Table:
    """Surrogate by training size: one target of one table of test runs."""
    described = evaluation.targets[target].describe()
    title = f"{escape(described)} of {escape(test)}"
    table = _table(title, "surrogate", "runs")
    for surrogate in evaluation.surrogates:
        for i, runs in enumerate(evaluation.sizes):
            summary = evaluation.summary(test, target, surrogate, runs)
            table.add_row(
                escape(surrogate) if i == 0 else "", str(runs), *_cells(summary), end_section=runs == evaluation.sizes[-1]
            )
    return table


def loss_table(evaluation: Evaluation, test: str, targets: list[str]) -> Table:
    """Target by surrogate, each fitted to the most runs: many targets at a glance."""
    runs = evaluation.sizes[-1]
    table = _table(f"single losses of {escape(test)}, from {runs} runs", "loss", "surrogate")
    for target in targets:
        for i, surrogate in enumerate(evaluation.surrogates):
            summary = evaluation.summary(test, target, surrogate, runs)
            last = len(evaluation.surrogates) > 1 and surrogate == evaluation.surrogates[-1]
            table.add_row(escape(target) if i == 0 else "", escape(surrogate), *_cells(summary), end_section=last)
    return table


def remarks(evaluation: Evaluation) -> Iterator[str]:
    """What was skipped and what surrogates say about themselves, in one line each."""
    skipped: dict[tuple[str, str], tuple[set[int], set[str]]] = {}
    for skip in evaluation.skips:
        runs, targets = skipped.setdefault((skip.surrogate, skip.why), (set(), set()))
        runs.add(skip.runs)
        targets.add(skip.target)
    for (surrogate, why), (runs, targets) in skipped.items():
        which = "all targets" if len(targets) == len(evaluation.targets) else _some(sorted(targets))
        yield f"{surrogate}, {_some([str(n) for n in sorted(runs)])} runs: {which} skipped: {why}"
    said: dict[str, tuple[int, str]] = {}
    for fit in evaluation.fits:  # ascending in runs: the largest training set has the last word
        if fit.reason is not None and fit.seed == 0:
            said[fit.surrogate] = (fit.runs, fit.reason)
    for surrogate, (largest, reason) in said.items():
        yield f"{surrogate}, {largest} runs: {reason}"


def _table(title: str, *keys: str) -> Table:
    table = Table(title=title, title_justify="left")
    for key in keys:
        table.add_column(key, justify="right" if key == "runs" else "left", overflow="fold")
    for figure in FIGURES:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def _cells(summary: Summary | None) -> list[str]:
    if summary is None:
        return ["–"] * len(FIGURES)
    median = summary.median
    spearman = _number(median.spearman, 3)
    if summary.seeds > 1:
        spearman += f" ({_number(summary.worst_spearman, 3)})"
    shares = [f"{share:.0%}" for share in (median.coverage_68, median.coverage_90)]
    return [spearman, _number(median.pearson, 3), _number(median.rmse, 4), _number(median.log_likelihood, 2), *shares]


def _number(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
