"""The terminal's view of a benchmark of the swarm, its tables and its plot."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regmix_active.compare.swarm import Watcher
from regmix_active.compare.swarm_result import ALARM, Method, Range, Section, SwarmBenchmark
from regmix_active.proxy.planning.roofline import floor_seconds
from regmix_active.report.evaluation import progress
from regmix_active.report.plots import colour, panels

LEGEND = (
    "Median over repeats (lowest–highest). Times as fast: the swarm's fastest stack against this rival, within each repeat. "
    "Floor: share of what the roofline allows. MB: peak memory of all processes. Start-up (Python, imports, weights) and the first "
    "steps (compiling) are not in the speed. Loss: validation, mean over domains, of the proxy that all methods train. Rivals are "
    "ordinary processes; the swarm's keep freed memory (mallopt), as in a search."
)


BUSY = 0.5
"""A load average above the number of cores by more than this is not ours."""


class SwarmView(Watcher):
    """A benchmark on the terminal: what is measured, and a bar over the measurements."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.done = self.total = 0
        self._progress = progress(console)
        self._task = self._progress.add_task("reading", total=None)

    def on_start(self, benchmark: SwarmBenchmark, measurements: int) -> None:
        """See :class:`Watcher`."""
        self.total = measurements
        load = benchmark.machine["load_average"]
        busy = "" if load is None else f", load average {load:.1f}"
        asked = benchmark.settings
        self._line(
            f"{benchmark.machine['cpu']}, {benchmark.machine['cores']} cores{busy}; torch {benchmark.machine['torch']}; "
            f"{_repeats(asked.repeats)}, {asked.tokens:,} tokens per proxy, {measurements} measurements"
        )
        self._progress.update(self._task, total=measurements)

    def on_measure(self, section: str, method: str) -> None:
        """See :class:`Watcher`."""
        self._progress.update(self._task, description=f"{section}: {method}")

    def on_measured(self) -> None:
        """See :class:`Watcher`."""
        self.done += 1
        self._progress.advance(self._task)

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()


def section_table(found: SwarmBenchmark, section: Section) -> Table:
    """Method by method: speed, what the swarm gains, what it takes."""
    table = Table(title=escape(f"{section.title}: {section.unmeasured or section.unit}"), title_justify="left")
    table.add_column("method", overflow="fold", min_width=18)
    for column in ("thousand/s", "times as fast", "floor", "MB", "start s", "first s", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    best = found.best(section)
    for method in section.methods:
        name = f"[bold]{escape(method.name)}[/]" if method is best else escape(method.name)
        table.add_row(name, *_cells(found, section, method))
    return table


def _cells(found: SwarmBenchmark, section: Section, method: Method) -> list[str]:
    speed, runs = found.speed(section, method), found.of(section, method)
    if speed is None:
        return ["unmeasured" if section.unmeasured else "not run", *[""] * 6]
    ratio = found.ratio(section, method) if method.stack is None else None
    share, deviation = found.share(section, method), found.deviation(section, method)
    return [
        _range(speed, 1e-3, 0 if speed.median > 20e3 else 1),
        _range(ratio, 1, 2) if ratio else "",
        f"{share:.0%}" if share is not None else "",
        f"{max(m.memory for m in runs) / 1e6:.0f}",
        f"{max(o.startup_s for m in runs for o in m.outcomes):.1f}",
        # The slowest: compiled kernels are kept after the first repeat.
        f"{max(o.warm_s for m in runs for o in m.outcomes):.1f}",
        "" if deviation is None else f"{runs[0].loss:.3f}" + (" [red]≠[/]" if found.unequal(section, method) else ""),
    ]


def lines(found: SwarmBenchmark) -> Iterator[str]:
    """What the tables come to: ratios, roofline, rate of proxies, losses, and what was not run."""
    for section in found.sections:
        best, peak = found.best(section), found.peaks.get(section.title)
        if best is None:
            continue
        for rival in (m for m in section.methods if m.stack is None):
            if ratio := found.ratio(section, rival):
                yield f"{section.title}: {best.name} is {_range(ratio, 1, 2)} times as fast as {rival.name}"
        speed = found.speed(section, best)
        if speed and "CPU-second" not in section.unit and "GPU" not in section.title:
            yield f"{section.title}: {60 * speed.median / found.settings.tokens:.0f} proxies of so many tokens per minute"
        share = found.share(section, best)
        if section.cost and peak and share is not None:
            cost, most = section.cost, 1e-3 / floor_seconds(section.cost, peak)
            yield (
                f"{section.title}: a token costs {cost.flops / 1e3:,.0f} kFLOP ({cost.head_flops / cost.flops:.0%} in the head), "
                f"{cost.bytes / 1e3:,.1f} kB; the device reaches {peak.flops / 1e9:,.0f} GFLOP/s and {peak.bytes / 1e9:,.1f} GB/s, "
                f"so {most:,.0f} thousand tokens/s are the most; the swarm reaches {share:.0%} of them"
            )
    yield loss_line(found)
    loads = [m.load for m in found.measurements if m.load is not None]
    if loads and max(loads) > BUSY + found.machine["cores"]:
        yield (
            f"this machine was busy (load average up to {max(loads):.1f} on {found.machine['cores']} cores): compare CPU-seconds, "
            "and trust speeds per second less"
        )
    for section in found.sections:
        for method in section.methods:
            if why := method.skipped or found.failures.get((section.title, method.name)):
                yield f"{section.title}, {method.name}: not run: {why}"


def loss_line(found: SwarmBenchmark) -> str:
    """Whether all methods end at the same loss."""
    pairs = [(s, m) for s in found.sections for m in s.methods]
    known = [abs(deviation) for s, m in pairs if (deviation := found.deviation(s, m)) is not None]
    spread = found.seed_spread()
    text = f"losses of the same proxy differ by {max(known, default=0):.4f} nats at most from the methods' median"
    if spread is None:
        return f"{text}; too few seeds to say what chance explains (give a larger stack)"
    text += f"; seeds differ by {spread:.4f} (1 sd)"
    unequal = [m.name for s, m in pairs if found.unequal(s, m)]
    return f"{text}; NOT EQUAL beyond {ALARM:g} sd: {', '.join(unequal)}" if unequal else f"{text}: equal"


def _repeats(count: int) -> str:
    return f"{count} repeat{'s' if count > 1 else ''}"


def _range(values: Range, scale: float, decimals: int) -> str:
    low, median, high = (f"{value * scale:,.{decimals}f}" for value in (values.low, values.median, values.high))
    return median if low == high else f"{median} ({low}–{high})"


def speed_plot(found: SwarmBenchmark) -> Figure:
    """A panel per section: bars of median speed, whiskers over repeats, and what the roofline allows."""
    shown = [section for section in found.sections if found.best(section)]
    figure, axes = panels(len(shown), columns=2, width=6.0, height=3.6)
    for ax, section in zip(axes, shown, strict=True):
        bars = [(method, speed) for method in section.methods if (speed := found.speed(section, method))]
        for row, (method, speed) in enumerate(bars):
            whiskers = [[speed.median - speed.low], [speed.high - speed.median]]
            ax.barh(row, speed.median / 1e3, color=colour(0 if method.stack else 4), height=0.7)
            ax.errorbar(
                speed.median / 1e3,
                row,
                xerr=[[side / 1e3 for side in pair] for pair in whiskers],
                color="0.2",
                linewidth=1.2,
                capsize=3,
            )
        peak = found.peaks.get(section.title)
        if section.cost and peak:
            ax.axvline(1e-3 / floor_seconds(section.cost, peak), color="0.3", linestyle="--", linewidth=1.2)
        ax.set_yticks(range(len(bars)), [method.name for method, _ in bars], fontsize="small")
        ax.invert_yaxis()
        ax.set_xlabel(f"thousand {section.unit}; dashed: roofline")
        ax.set_title(section.title, parse_math=False, fontsize="medium")
    heading = f"{found.machine['gpu'] or found.machine['cpu']}: median and range of {_repeats(found.settings.repeats)}"
    figure.suptitle(heading, fontsize="medium", parse_math=False)
    return figure
