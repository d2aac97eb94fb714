"""The terminal tables of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regmix_active.compare.benchmark import Watcher
from regmix_active.compare.emulator import FAMILY, Emulator
from regmix_active.compare.standings import Benchmark, EmulatorStanding, PoolStanding, Settings, Spread
from regmix_active.report.evaluation import progress
from regmix_active.study.table import RunTable
from regmix_active.surrogate.base import Array

POOL_LEGEND = (
    "Median over seeds [90 % bootstrap interval]. Runs: trained when the round of the pool's best run ends. Position: of that run. "
    "Regret: best trained target less the pool's best after 24 and 40 runs, nats per token."
)

EMULATOR_LEGEND = (
    "Median over seeds [90 % bootstrap interval]. Value: true target of the recommended mixture, nats per token. "
    "Difference: less that of RegMix with the same seed; negative is better."
)

LONG = 180
"""Seconds from which on the remaining time is worth a line."""


class BenchmarkView(Watcher):
    """A benchmark on the terminal: what is replayed, and a bar over its searches."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = progress(console)
        self._task = self._progress.add_task("reading", total=None)

    def introduce(self, table: RunTable, settings: Settings) -> None:
        """What is replayed, and what was left out of it."""
        described = f"{table.name}: {len(table)} runs, {len(table.domains)} domains, {len(table.loss_names)} losses"
        ours = f"surrogate {settings.surrogate}, initial design {settings.initial_design}"
        self._line(f"{described}; {settings.seeds} seeds, batches of {settings.batch}; {ours}")
        for note in table.notes:
            self._line(f"note: {note}", "yellow")

    def on_stage(self, text: str) -> None:
        """See :class:`Watcher`."""
        self._progress.update(self._task, description=text)

    def on_emulator(self, emulator: Emulator, noise: Array) -> None:
        """See :class:`Watcher`."""
        self._line(emulator_line(emulator, noise))

    def on_start(self, searches: int) -> None:
        """See :class:`Watcher`."""
        self._line(f"{searches} searches")
        self._progress.update(self._task, description="replaying", total=searches)

    def on_search(self) -> None:
        """See :class:`Watcher`."""
        self._progress.advance(self._task)

    def on_estimate(self, seconds: float) -> None:
        """See :class:`Watcher`."""
        if seconds >= LONG:
            self._line(f"one seed is through; the others will take about {seconds / 60:.0f} minutes more")

    def _line(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()


def pool_table(benchmark: Benchmark, target: str) -> Table:
    """Method by method: runs until the pool's best is found."""
    best = benchmark.table.runs[benchmark.best[target]]
    described = escape(benchmark.targets[target].describe())
    table = Table(title=f"In the pool, {described}: runs until {escape(best)} is found", title_justify="left")
    table.add_column("method", overflow="fold", min_width=20)
    for column in ("runs", "worst", "found", "position", "worst", "regret 24", "40"):
        table.add_column(column, justify="right", no_wrap=True)
    for standing in (s for s in benchmark.pool if s.target == target):
        table.add_row(escape(standing.method), *_pool_cells(standing, benchmark.settings.pool_limit))
    return table


def _pool_cells(standing: PoolStanding, limit: int) -> list[str]:
    needed, found = standing.needed, standing.found
    limit = min(limit, max(len(c.regret) for c in standing.chases.values()))
    return [
        _interval(needed, 0, limit),
        _runs(needed.worst, limit),
        f"{standing.found_in}/{needed.seeds}",
        _runs(found.median, limit),
        _runs(found.worst, limit),
        f"{standing.regret(24).median:.3f}",
        f"{standing.regret(40).median:.3f}",
    ]


def emulator_table(benchmark: Benchmark, target: str) -> Table:
    """Method by method and checkpoint by checkpoint: the true value of what is recommended, beside RegMix's."""
    described = escape(benchmark.targets[target].describe())
    table = Table(title=f"Recommended mixture on the emulator, {described}", title_justify="left")
    table.add_column("method", overflow="fold", min_width=20)
    for column in ("runs", "value", "worst", "difference", "worst", "better"):
        table.add_column(column, justify="right", no_wrap=True)
    for standing in (s for s in benchmark.emulated if s.target == target):
        for i, runs in enumerate(standing.checkpoints):
            name = escape(standing.method) if i == 0 else ""
            table.add_row(name, str(runs), *_emulator_cells(standing, runs), end_section=runs == standing.checkpoints[-1])
    return table


def _emulator_cells(standing: EmulatorStanding, runs: int) -> list[str]:
    value, difference = standing.value(runs), standing.difference(runs)
    if difference is None:
        return [_interval(value, 3), f"{value.worst:.3f}", "", "", ""]
    wins = f"{standing.wins(runs)}/{difference.seeds}"
    return [f"{value.median:.3f}", f"{value.worst:.3f}", _interval(difference, 3, sign="+"), f"{difference.worst:+.3f}", wins]


def emulator_line(emulator: Emulator, noise: Array) -> str:
    """What the emulator is, how far it can be trusted, and what noise a training has on it."""
    r2 = emulator.held_out_r2[np.isfinite(emulator.held_out_r2)]
    trusted = f"held-out R² {r2.min():.3f} to {r2.max():.3f} (median {np.median(r2):.3f})" if len(r2) else "held-out R² unknown"
    return f"emulator: {FAMILY}; {trusted}; noise of a training {noise.min():.2g} to {noise.max():.2g} nats per token (1 sd)"


def remarks(benchmark: Benchmark) -> Iterator[str]:
    """What could not be played, in a line for each reason."""
    reasons: dict[tuple[str, str], set[int]] = {}
    for failure in benchmark.failures:
        reasons.setdefault((failure.method, failure.why), set()).add(failure.seed)
    for (method, why), seeds in reasons.items():
        count = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {min(seeds)}"
        yield f"{method}, {count}: not played: {why}"


def _interval(spread: Spread, decimals: int, limit: int | None = None, sign: str = "") -> str:
    def text(value: float) -> str:
        return _runs(value, limit) if limit is not None else f"{value:{sign}.{decimals}f}"

    if spread.seeds == 1:
        return text(spread.median)
    return f"{text(spread.median)} [{text(spread.low)}, {text(spread.high)}]"


def _runs(value: float, limit: int | None) -> str:
    return f">{limit}" if math.isinf(value) else f"{value:g}"
