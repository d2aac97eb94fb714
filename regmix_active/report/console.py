"""The terminal: a live view while proxies train, and the tables at the end."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
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
        if self._searching and math.isfinite(value):
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


class StatusView(Observer):
    """A line that says what is done, for what takes seconds."""

    def __init__(self, console: Console, status: Status) -> None:
        """Show in a status line of a console."""
        self._console, self._status = console, status

    def on_stage(self, text: str) -> None:
        """Show it."""
        self._status.update(escape(text))

    def on_warning(self, text: str) -> None:
        """Print it."""
        self._console.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)


def mixture_table(found: Recommendation) -> Table:
    """Domain by domain: natural share, found share, their ratio."""
    doubt = found.doubt
    caption = (
        "where the best lies: weights of the best mixtures of functions that agree with the runs; the found one may lie outside"
    )
    table = Table(
        title=f"Found mixture after {len(found.history)} proxies",
        caption=None if doubt is None else caption,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("domain")
    columns = ["natural share", "found share", *([] if doubt is None else [f"where the best lies ({doubt.level:.0%})"]), "ratio"]
    for column in (*columns, "predicted loss", "with natural"):
        table.add_column(column, justify="right")
    ranges = dict(zip(found.history.space.domains, [] if doubt is None else doubt.weights.tolist(), strict=False))
    losses = dict(zip(found.history.target.loss_names, zip(found.found.losses, found.natural.losses, strict=True), strict=True))
    rows = zip(found.history.space.domains, found.natural.weights, found.found.weights, strict=True)
    for name, natural, share in sorted(rows, key=lambda row: -row[2]):
        ratio = f"{share / natural:.2f}×" if natural > 0 else "–"
        own = [f"{loss:.3f}" for loss in losses[name]] if name in losses else ["", ""]
        between = [f"{low:.1%} – {high:.1%}" for low, high in [ranges[name]]] if name in ranges else []
        table.add_row(escape(name), f"{natural:.1%}", f"{share:.1%}", *between, ratio, *own)
    for name in sorted(losses):
        if name not in found.history.space.domains:
            empty = [""] * (len(columns) - 1)
            table.add_row(escape(name), "only scored", *empty, *(f"{loss:.3f}" for loss in losses[name]))
    return table


def prediction_table(found: Recommendation) -> Table:
    """The predicted target of the found mixture beside those it should beat."""
    doubt = found.doubt
    widened = "" if doubt is None else "; the doubt about the found one is that of its interval, with what it hangs on few runs"
    table = Table(
        title=f"Target: {escape(found.history.target.describe())}, {found.history.target.unit}",
        caption="for the study's own seed: another seed moves all mixtures by about as much" + widened,
        title_justify="left",
        caption_justify="left",
    )
    for column in ("mixture", "predicted", "doubt (1 sd)", "trained"):
        table.add_column(column, justify="left" if column == "mixture" else "right")
    best = f"best trained ({_place(found.best_slot)})"
    named = [("found", found.found, ""), ("natural", found.natural, ""), ("uniform", found.uniform, "")]
    for name, prediction, trained in [*named, (best, found.best_trained, f"{found.best_value:.4f}")]:
        label = name if prediction.allowed else f"{name}, not allowed"
        style = "bold" if name == "found" else "" if prediction.allowed else "dim"
        std = doubt.std if name == "found" and doubt is not None else prediction.std
        table.add_row(label, f"{prediction.mean:.4f}", f"± {std:.4f}", trained, style=style)
    return table


def doubt_lines(found: Recommendation) -> list[str]:
    """How far the answer can be trusted, and what would help, a sentence or two a line."""
    doubt, unit = found.doubt, found.history.target.unit
    lines = [f"note: {note}" for note in found.notes]
    if found.choice:
        lines.append(f"surrogate {found.surrogate}: {found.choice}")
    if doubt is None:
        return lines
    low, high = doubt.interval
    lines.append(
        f"found: {doubt.level:.0%} interval of the target {low:.4f} to {high:.4f}; better than the natural mixture with "
        f"probability {_probability(doubt.beats_natural)}, than the best trained one {_probability(doubt.beats_best)}"
    )
    lines.append(
        f"perfect knowledge of all mixtures would gain another {doubt.regret:.4f} {unit} on average, as the surrogate believes; "
        "more proxies gain less"
    )
    if found.history.target.limits:
        lines.append(f"all limits of the target are kept with probability {_probability(doubt.limits)}")
    if doubt.fresh is not None and doubt.noise is not None:
        low, high = doubt.fresh
        lines.append(
            f"seeds: one changes the target of all mixtures by {doubt.noise.target_offset:.4f} (1 sd), of a single one by "
            f"{doubt.noise.target_std:.4f} more ({doubt.noise.mixtures} mixtures, {doubt.noise.seeds} seeds); a new training "
            f"with another seed ends between {low:.4f} and {high:.4f}"
        )
    lines.append(f"the nearest trained mixture ({_place(doubt.nearest_slot)}) differs in {doubt.nearest:.1%} of the tokens")
    if len(doubt.next_runs):
        lines.append(
            "runs that would reduce the doubt about the best region most; all of them leave "
            f"{doubt.next_std:.0%} of that about the found mixture:"
        )
    lines += [f"  {i}. {shares_text(found.history.space.as_dict(run))}" for i, run in enumerate(doubt.next_runs, start=1)]
    return lines


def answer_tables(found: Recommendation) -> list[Table]:
    """All tables of an answer."""
    front = pareto_table(found)
    return [mixture_table(found), prediction_table(found) if front is None else front]


def pareto_table(found: Recommendation) -> Table | None:
    """Trade-offs between several targets; None where there is one target."""
    front, history = found.pareto, found.history
    if front is None:
        return None
    table = Table(
        title="Trade-offs: no mixture is expected to be better in every target",
        caption="± 1 sd of the expectation, for the study's own seed; probability: that no other of them is better in every target",
        title_justify="left",
        caption_justify="left",
    )
    for name, target in zip(target_names(found), history.targets, strict=True):
        words = name if name == target.describe() else f"{name}: {target.describe()}"
        table.add_column(f"{escape(words)}, {target.unit}", justify="right")
    table.add_column("probability", justify="right")
    table.add_column("largest shares")
    rows = zip(front.weights, front.means, front.stds, front.probability, strict=True)
    for i, (weights, means, stds, probability) in enumerate(rows):
        values = [f"{mean:.4f} ± {std:.4f}" for mean, std in zip(means, stds, strict=True)]
        shares = shares_text(history.space.as_dict(weights), least=0.05)
        balanced = i == front.balanced
        mark = " (balanced)" if balanced else ""
        table.add_row(*values, f"{probability:.2f}", escape(shares) + mark, style="bold" if balanced else "")
    table.add_section()
    natural = [f"{mean:.4f} ± {std:.4f}" for mean, std in front.natural.T]
    shares = shares_text(history.space.as_dict(history.space.natural), least=0.05)
    table.add_row(*natural, "", escape(shares) + " (natural)")
    return table


def target_names(found: Recommendation) -> tuple[str, ...]:
    """What several targets are called; those without names by what they are."""
    return found.names or tuple(target.describe() for target in found.history.targets)


def verification_table(verification: Verification) -> Table:
    """True targets of all mixtures, from fresh seeds."""
    seeds = len(verification.seeds)
    table = Table(
        title=f"Trained again with {seeds} fresh seeds: {escape(verification.target.describe())}, {verification.target.unit}",
        title_justify="left",
    )
    limited = bool(verification.target.limits)
    for column in ("mixture", "target", "± se", "found is better by", "± se (paired)", *(["limits"] if limited else [])):
        table.add_column(column, justify="left" if column in ("mixture", "limits") else "right")
    for i, rival in enumerate(verification.rivals):
        difference = ("", "") if i == 0 else (f"{rival.gain:+.4f}", f"{rival.gain_error:.4f}")
        limits = [f"broken by {rival.broken:.4f} nats" if rival.broken else "kept"] if limited else []
        label = escape(rival.name) if rival.allowed else f"{escape(rival.name)}, not allowed"
        style = "bold" if i == 0 else "" if rival.counts else "dim"
        table.add_row(label, f"{rival.mean:.4f}", f"{rival.error:.4f}", *difference, *limits, style=style)
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


def _probability(value: float) -> str:
    """Of draws, of which there are some hundred."""
    return "above 0.99" if value > 0.99 else "below 0.01" if value < 0.01 else f"{value:.2f}"
