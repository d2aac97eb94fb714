"""Plots as files. Figures are made without pyplot, so that nothing is global and no window is ever opened."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from regmix_active.compare.scores import score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from regmix_active.compare.evaluation import Evaluation, Prediction

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's palette: told apart by colour-blind readers too."""

MARKERS = "osD^vPX*"

FORMATS = ("svg", "png")


def panels(count: int, columns: int = 4, width: float = 3.4, height: float = 2.7) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows of at most `columns`; `width` and `height` of each in inches."""
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width, rows * height + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for ax in axes:
        ax.grid(visible=True, alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize("medium")
    return figure, axes


def colour(position: int) -> str:
    """The colour of the thing at a position, the same in every plot."""
    return COLOURS[position % len(COLOURS)]


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write a figure in all :data:`FORMATS`; characters that file names do not take become dashes."""
    safe = "".join(c if c.isalnum() or c in "._-=+" else "-" for c in stem)
    paths = [folder / f"{safe}.{suffix}" for suffix in FORMATS]
    for path in paths:
        # Without a date, so that the same figures give the same file.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
    return paths


def learning_curves(evaluation: Evaluation, test: str) -> Figure:
    """Rank correlation against training runs: a panel per target, a line per surrogate; the band spans all seeds."""
    figure, axes = panels(len(evaluation.targets))
    for ax, target in zip(axes, evaluation.targets, strict=True):
        for i, surrogate in enumerate(evaluation.surrogates):
            points = [
                (runs, summary.median.spearman, summary.worst_spearman, summary.best_spearman)
                for runs in evaluation.sizes
                if (summary := evaluation.summary(test, target, surrogate, runs)) is not None
            ]
            if points:
                runs, middle, low, high = np.array(points).T
                ax.plot(
                    runs, middle, color=colour(i), marker=MARKERS[i % len(MARKERS)], markersize=4, linewidth=1.4, label=surrogate
                )
                ax.fill_between(runs, low, high, color=colour(i), alpha=0.12, linewidth=0)
        ax.set_title(evaluation.targets[target].describe(), wrap=True, parse_math=False, fontsize="medium")
        ax.set_xscale("log", base=2)
        ax.set_xticks(evaluation.sizes, [str(runs) for runs in evaluation.sizes], rotation=45 if len(evaluation.sizes) > 6 else 0)
        ax.minorticks_off()
        ax.set_xlabel("training runs")
        ax.set_ylabel("Spearman")
    _legend(figure, axes)
    _heading(figure, f"{evaluation.train.name} → {test}: median over seeds, and their range")
    return figure


def predicted_against_observed(evaluation: Evaluation, test: str, target: str) -> Figure | None:
    """Expected against observed values, a panel per surrogate fitted to the most runs; None where none was scored."""
    shown = [p for p in evaluation.predictions if (p.test, p.target) == (test, target)]
    if not shown:
        return None
    figure, axes = panels(len(shown), columns=3, width=3.8, height=3.6)
    for ax, prediction in zip(axes, shown, strict=True):
        _scatter(ax, prediction, colour(evaluation.surrogates.index(prediction.surrogate)))
        spearman = score(prediction.observed, prediction.mean, prediction.std**2).spearman
        ax.set_title(
            f"{prediction.surrogate}, {prediction.runs} runs: Spearman {spearman:.3f}", parse_math=False, fontsize="medium"
        )
    _heading(figure, f"{evaluation.targets[target].describe()}, {test}")
    return figure


def _scatter(ax: Axes, prediction: Prediction, shade: str) -> None:
    known = ~np.isnan(prediction.observed)
    mean, observed, std = prediction.mean[known], prediction.observed[known], prediction.std[known]
    ax.errorbar(mean, observed, xerr=std, fmt="o", color=shade, markersize=3, elinewidth=0.6, alpha=0.6, linestyle="none")
    both = np.concatenate([mean, observed])
    ax.axline((both.min(), both.min()), slope=1, color="0.4", linewidth=0.8, linestyle="--")
    ax.set_xlabel("expected, nats per token (bar: 1 sd)")
    ax.set_ylabel("observed, nats per token")


def _heading(figure: Figure, text: str) -> None:
    figure.suptitle(text, fontsize="medium", wrap=True, parse_math=False)


def _legend(figure: Figure, axes: list[Axes]) -> None:
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), frameon=False)
