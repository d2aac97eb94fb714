"""Plots of a benchmark: regret in the pool, and what is recommended on the emulator, against the number of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from regmix_active.compare.replay import REGMIX
from regmix_active.compare.standings import Benchmark, Spread
from regmix_active.report.plots import MARKERS, colour, panels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


def regret_curves(benchmark: Benchmark) -> Figure:
    """Median simple regret after each run in the pool, a panel per target; bands are bootstrap intervals."""
    figure, axes = panels(len(benchmark.targets), columns=2, width=5.2, height=3.8)
    methods = _methods(benchmark)
    for ax, target in zip(axes, benchmark.targets, strict=True):
        for standing in (s for s in benchmark.pool if s.target == target):
            runs = np.arange(1, max(len(c.regret) for c in standing.chases.values()) + 1)
            spreads = [standing.regret(int(n)) for n in runs]
            _line(ax, runs.tolist(), spreads, methods.index(standing.method), standing.method, markers=False)
        # Linear near zero, so that a found best can be shown.
        ax.set_yscale("symlog", linthresh=0.01)
        ax.set_ylim(bottom=0)
        _label(ax, benchmark, target, "simple regret, nats per token")
    _finish(figure, axes, f"{benchmark.table.name}: in the pool")
    return figure


def recommendation_curves(benchmark: Benchmark) -> Figure:
    """Median true target of the recommended mixture, a panel per target; RegMix's one round is a line across."""
    figure, axes = panels(len(benchmark.targets), columns=2, width=5.2, height=3.8)
    methods = _methods(benchmark)
    last = benchmark.settings.budget
    for ax, target in zip(axes, benchmark.targets, strict=True):
        for standing in (s for s in benchmark.emulated if s.target == target):
            position = methods.index(standing.method)
            if standing.method == REGMIX:
                (runs,) = standing.checkpoints
                spread = standing.value(runs)
                ax.axhline(spread.median, color="0.3", linestyle="--", linewidth=1.2, label=f"{REGMIX} ({runs} runs)")
                ax.axhspan(spread.low, spread.high, color="0.3", alpha=0.1, linewidth=0)
                continue
            shown = [runs for runs in standing.checkpoints if runs <= last]
            _line(ax, shown, [standing.value(runs) for runs in shown], position, standing.method)
        _label(ax, benchmark, target, "true target, nats per token")
    _finish(figure, axes, f"{benchmark.table.name}: recommended mixture on the emulator")
    return figure


def _methods(benchmark: Benchmark) -> list[str]:
    played = [standing.method for standing in benchmark.pool] + [standing.method for standing in benchmark.emulated]
    return list(dict.fromkeys(played))


def _line(ax: Axes, runs: Sequence[int], spreads: Sequence[Spread], position: int, label: str, *, markers: bool = True) -> None:
    middle, low, high = np.array([(s.median, s.low, s.high) for s in spreads]).T
    marker = MARKERS[position % len(MARKERS)] if markers else None
    ax.plot(runs, middle, color=colour(position), marker=marker, markersize=4, linewidth=1.4, label=label)
    ax.fill_between(runs, low, high, color=colour(position), alpha=0.12, linewidth=0)


def _label(ax: Axes, benchmark: Benchmark, target: str, values: str) -> None:
    ax.set_title(benchmark.targets[target].describe(), wrap=True, parse_math=False, fontsize="medium")
    ax.set_xlabel("trained runs")
    ax.set_ylabel(values)


def _finish(figure: Figure, axes: Sequence[Axes], heading: str) -> None:
    figure.suptitle(f"{heading} (median over seeds, 90 % interval)", fontsize="medium", parse_math=False)
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
