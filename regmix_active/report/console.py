"""The terminal: a live view while proxies train, and the tables at the end."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from regmix_active.observer import Observer

if TYPE_CHECKING:
    from regmix_active.compare.verify import Verification
    from regmix_active.proxy.base import ProxyResult
    from regmix_active.recommend.simulate import Recommendation


class LiveView(Observer):
    """Progress of a search or a verification: a bar on a terminal, a line per round elsewhere."""

    def __init__(self, console: Console) -> None:
        """Show on a console; a context manager, so that the terminal is restored however the search ends."""
        self.console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(max_width=34, no_wrap=True, overflow="ellipsis")),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("proxies  {task.fields[best]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None, best="")
        self._best: float | None = None
        self._searching = True

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def on_stage(self, text: str) -> None:
        """Show what takes time."""
        self._progress.update(self._task, description=text)

    def on_warning(self, text: str) -> None:
        """Print it: it must outlast the live view."""
        self.console.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def on_start(self, completed: int, budget: int, best: float | None) -> None:
        """Show how far the study is."""
        self._best = best
        # A fresh task: the remaining time must not count the corpus as work on proxies, nor earlier sessions.
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task("starting", total=budget, completed=completed, best=self._best_text())
        if completed:
            self.console.print(f"continuing: {completed} proxies are in the study, the budget is {budget} · {self._best_text()}")

    def on_round(self, index: int, size: int, unfinished: int, proposer: str) -> None:
        """Show the new round."""
        proxies = f"{size} proxies" if unfinished == size else f"{unfinished} of {size} proxies"
        best = f" · {self._best_text()}" if self._best is not None else ""
        self.console.print(f"round {index}: {proxies} by {escape(proposer)}{best}", highlight=False)
        self._progress.update(self._task, description=f"round {index}")

    def on_result(self, result: ProxyResult, value: float | None) -> None:
        """Count a proxy."""
        if result.stopped:
            self._progress.update(self._task, advance=1)
            return
        if value is None:
            self.console.print(f"[yellow]proxy {result.slot} failed:[/] {escape(str(result.failure))}", highlight=False)
            return
        if self._searching:
            self._best = value if self._best is None else min(self._best, value)
        self._progress.update(self._task, advance=1, best=self._best_text())

    def verifying(self, total: int) -> None:
        """Show the trainings of a verification."""
        self._progress.remove_task(self._task)
        # The smallest of several seeds and mixtures would say nothing.
        self._searching, self._best = False, None
        self._task = self._progress.add_task("verifying", total=total, best="")
        if not self.console.is_terminal:
            self.console.print(f"verifying: {total} proxies with fresh seeds", highlight=False)

    def _best_text(self) -> str:
        return "" if self._best is None else f"best target {self._best:.4f}"


def mixture_table(found: Recommendation) -> Table:
    """Domain by domain: natural share, found share, their ratio."""
    table = Table(title=f"Found mixture after {len(found.history)} proxies", title_justify="left")
    table.add_column("domain")
    for column in ("natural share", "found share", "ratio", "predicted loss", "with natural"):
        table.add_column(column, justify="right")
    losses = dict(zip(found.history.target.loss_names, zip(found.found.losses, found.natural.losses, strict=True), strict=True))
    rows = zip(found.history.space.domains, found.natural.weights, found.found.weights, strict=True)
    for name, natural, share in sorted(rows, key=lambda row: -row[2]):
        ratio = f"{share / natural:.2f}×" if natural > 0 else "–"
        own = [f"{loss:.3f}" for loss in losses[name]] if name in losses else ["", ""]
        table.add_row(escape(name), f"{natural:.1%}", f"{share:.1%}", ratio, *own)
    for name in sorted(losses):
        if name not in found.history.space.domains:
            table.add_row(escape(name), "only scored", "", "", *(f"{loss:.3f}" for loss in losses[name]))
    return table


def prediction_table(found: Recommendation) -> Table:
    """The predicted target of the found mixture beside those it should beat."""
    table = Table(
        title=f"Target: {escape(found.history.target.describe())}, nats per token",
        caption="for the study's own seed: another seed moves all mixtures by about as much",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("mixture", "predicted", "doubt (1 sd)", "trained"):
        table.add_column(column, justify="left" if column == "mixture" else "right")
    named = [("found", found.found), ("natural", found.natural), ("uniform", found.uniform)]
    for name, prediction in named:
        table.add_row(name, f"{prediction.mean:.4f}", f"± {prediction.std:.4f}", "", style="bold" if name == "found" else "")
    best = found.best_trained
    table.add_row(f"best trained ({_place(found.best_slot)})", f"{best.mean:.4f}", f"± {best.std:.4f}", f"{found.best_value:.4f}")
    return table


def verification_table(verification: Verification) -> Table:
    """True targets of all mixtures, from fresh seeds."""
    seeds = len(verification.seeds)
    table = Table(
        title=f"Trained again with {seeds} fresh seeds: {escape(verification.target.describe())}, nats per token",
        title_justify="left",
    )
    for column in ("mixture", "target", "± se", "found is better by", "± se (paired)"):
        table.add_column(column, justify="left" if column == "mixture" else "right")
    for i, rival in enumerate(verification.rivals):
        difference = ("", "") if i == 0 else (f"{rival.gain:+.4f}", f"{rival.gain_error:.4f}")
        table.add_row(escape(rival.name), f"{rival.mean:.4f}", f"{rival.error:.4f}", *difference, style="bold" if i == 0 else "")
    return table


def shares_text(weights: Mapping[str, float], least: float = 0.005) -> str:
    """One mixture in a line, largest share first; shares below `least` are left out."""
    shown = sorted(((share, name) for name, share in weights.items() if share >= least), reverse=True)
    return ", ".join(f"{name} {share:.1%}" for share, name in shown)


def picture(tables: Sequence[RenderableType], title: str) -> str:
    """Tables as an SVG to share."""
    recorder = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    for table in tables:
        recorder.print(table, highlight=False)
    return recorder.export_svg(title=title)


def _place(slot: int) -> str:
    """Where a run stands in the study; imported ones have negative slots."""
    return f"slot {slot}" if slot >= 0 else "imported"
