"""What ``regmix-active benchmark proxy`` shows: a bar with the remaining time, tables, a scatter plot."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from regmix_active.compare.proxy_benchmark import COMPUTE, Cost, NoiseReport, RankReport
from regmix_active.compare.proxy_ranks import Rank
from regmix_active.compare.seed_noise import PLAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANK_LEGEND = (
    "Spearman [90 % bootstrap interval over mixtures]. Wide: the search's initial design. Near uniform: Dirichlet draws whose "
    "weights vary by about 30 % of themselves. A single domain ranks alike in nats per token and "
    "bits per byte."
)

NOISE_LEGEND = (
    "Noise: standard deviation of a mixture's target between trainings; with common seeds, of what is left once the offset that a "
    "seed adds to all mixtures is removed. Ratio: of variances, to own seeds and independent draws [90 % bootstrap interval]."
)

LINE_EVERY = 60.0
"""Seconds between lines of progress where there is no terminal."""


class FidelityView:
    """Progress on the terminal: a bar by work done; a line a minute in a log."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = self._said = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("reading the corpus", total=None)

    def on_stage(self, text: str) -> None:
        """A step before the trainings."""
        self._bar.update(self._task, description=escape(text))

    def on_job(self, done: int, whole: int, share: float) -> None:
        """A job is finished; see :data:`regmix_active.compare.fidelity.Progress`."""
        self._bar.update(self._task, description=f"training, job {done} of {whole}", total=1.0, completed=share)
        now = time.monotonic()
        if done == 0:
            self._began = self._said = now
        elif not self.console.is_terminal and now - self._said > LINE_EVERY:
            self._said, left = now, (now - self._began) / share * (1 - share)
            self.console.print(f"{done} of {whole} jobs, about {left / 60:.0f} minutes left", highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()


def cost_table(costs: Mapping[str, Cost]) -> Table:
    """What one proxy of each setting costs; ratios to the first."""
    table = Table(title="cost of one proxy", title_justify="left")
    for name in ("setting", "parameters", "vocabulary", "tokens", "FLOPs", "ratio", "CPU-seconds"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    first = next(iter(costs.values()))
    for name, cost in costs.items():
        seconds = "–" if math.isnan(cost.cpu_seconds) else f"{cost.cpu_seconds:.2f}"
        ratio = f"{cost.flops / first.flops:.1f}"
        table.add_row(name, f"{cost.parameters:,}", f"{cost.vocab_size:,}", f"{cost.tokens:,}", f"{cost.flops:.2e}", ratio, seconds)
    return table


def rank_table(report: RankReport) -> Table:
    """Rank correlations: what is ranked by, on all mixtures and on each half."""
    parts = list(report.plan.parts)
    table = Table(title=f"ranks of {len(report.plan.weights)} mixtures, as the reference ranks them", title_justify="left")
    table.add_column("ranked by", overflow="fold")
    for part in parts:
        table.add_column(part, justify="right", no_wrap=True)
    singles = set(report.loss_names)
    for measure in report.measures:
        if measure.name not in singles:
            table.add_row(escape(measure.name), *[_rank(report.ranks[measure.name][part]) for part in parts])
    middle = [report.singles(part)[len(report.loss_names) // 2] for part in parts]
    table.add_row("median domain", *[_number(value) for value, _ in middle])
    worst = [report.singles(part)[0] for part in parts]
    table.add_row("worst domain", *[f"{_number(value)} {escape(name)}" for value, name in worst])
    return table


def noise_table(report: NoiseReport) -> Table:
    """Noise of the target and of the mean of all losses in each way of drawing random numbers, and the median over the losses."""
    table = Table(title=f"noise: {report.mixtures} near-uniform mixtures, {report.seeds} seeds", title_justify="left")
    for name in ("of", "seeds", "domain draws", "noise, nats", "ratio of variances"):
        right = name.startswith(("noise", "ratio"))
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name != "of")
    for name in report.shown:
        for i, (way, noise) in enumerate(report.noise[name].items()):
            ratio = "1" if way == PLAIN else f"{noise.ratio:.2f} [{noise.low:.2f}–{noise.high:.2f}]"
            seeds = "common" if way.common else "own"
            table.add_row(escape(name) if i == 0 else "", seeds, way.draws, f"{noise.std:.4f}", ratio, end_section=way == PLAIN)
    for i, way in enumerate(way for way in report.noise[report.shown[0]] if way != PLAIN):
        seeds = "common" if way.common else "own"
        table.add_row("median of single losses" if i == 0 else "", seeds, way.draws, "", f"{report.median_ratio(way):.2f}")
    return table


def remarks(report: RankReport) -> Iterator[str]:
    """What the reader should know about a comparison."""
    ratio = report.reference_cost.flops / report.cost.flops
    if ratio < COMPUTE:
        yield (
            f"the reference has {ratio:.1f} times the compute of the setting under test; one of {COMPUTE:.0f} times says more "
            "about larger models (--reference-set)"
        )
    if report.failures:
        yield f"{len(report.failures)} proxies failed, and their mixtures are left out; the first: {report.failures[0]}"


def scatter(report: RankReport) -> Figure:
    """Losses of the setting under test against those of the reference: the mean, and each domain that is only scored."""
    from regmix_active.report.plots import MARKERS, colour, panels

    shown = [m for m in report.measures if m.bits or m.name.startswith("held-out")]
    figure, axes = panels(len(shown), columns=2, width=4.4, height=4.0)
    for ax, measure in zip(axes, shown, strict=True):
        ours, theirs = report.tested.values(measure).mean(axis=0), report.reference.values(measure).mean(axis=0)
        for i, part in enumerate(("wide", "near uniform")):
            inside = report.plan.parts[part]
            ax.scatter(ours[inside], theirs[inside], s=14, color=colour(i), marker=MARKERS[i], alpha=0.7, label=part)
        title = f"{measure.name}: Spearman {report.ranks[measure.name]['all'].spearman:.3f}"
        ax.set_title(title, parse_math=False, fontsize="medium")
        unit = "bits per byte" if measure.bits else "nats per token"
        ax.set_xlabel(f"proxy under test, {unit}")
        ax.set_ylabel(f"reference, {unit}")
        ax.legend(frameon=False)
    return figure


def _rank(rank: Rank) -> str:
    return "–" if math.isnan(rank.spearman) else f"{rank.spearman:.3f} [{rank.low:.2f}–{rank.high:.2f}]"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
