"""``regmix-active benchmark search``."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from regmix_active.cli.common import check_outputs, console, table_targets, write_json
from regmix_active.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from regmix_active.compare.standings import Benchmark, Game
    from regmix_active.study.table import RunTable
    from regmix_active.study.target import Target

FILE = click.Path(path_type=Path)

GAMES: dict[str, tuple[Game, ...]] = {"pool": ("pool",), "emulator": ("emulator",), "both": ("pool", "emulator")}


@click.command()
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True)
@click.option("--scale", help="Scale to read from folders of RegMix's.  [default: the one with the most runs]")
@click.option("--game", type=click.Choice(list(GAMES)), default="both", show_default=True, help="Which of the two games.")
@click.option(
    "--target",
    "specs",
    metavar="SPEC",
    multiple=True,
    help="mean, a loss, or weights: books=0.7,code=0.3. Repeatable.  [default: mean, and pile_cc or the loss that varies most]",
)
@click.option(
    "--strategy", "strategies", metavar="NAME|FILE.py:CLASS", multiple=True, help="Ours to play; a file is executed. Repeatable."
)
@click.option("--surrogate", metavar="NAME", help="Of our strategies.  [default: the configuration's]")
@click.option(
    "--initial-design",
    type=click.Choice(["d-optimal", "maximin", "regmix"]),
    help="Of our strategies on the emulator.  [default: the configuration's]",
)
@click.option("--methods", metavar="NAME,…", help="Rivals: regmix, climb, random, tpe, gp-sampler; or none.  [default: all]")
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True, help="Searches per method and target.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Runs per round after the first 16.")
@click.option("--budget", type=click.IntRange(min=17), default=40, show_default=True, help="Runs of a search on the emulator.")
@click.option("--pool-runs", type=click.IntRange(min=17), default=128, show_default=True, help="Give up in the pool after so many.")
@click.option("--regmix-runs", type=click.IntRange(min=16), default=512, show_default=True, help="Runs of RegMix's one round.")
@click.option("--noise", type=click.FloatRange(min=0), help="Of a training, nats (1 sd).  [default: 2 % of each loss's spread]")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes, one thread each.  [default: usable cores]")
@click.option("--json", "json_file", metavar="FILE", type=FILE, help="Write every figure of every seed.")
@click.option("--plots", metavar="FOLDER", type=FILE, help="Write curves of regret and of recommendations.")
def command(
    tables: tuple[str, ...],
    scale: str | None,
    game: str,
    specs: tuple[str, ...],
    strategies: tuple[str, ...],
    surrogate: str | None,
    initial_design: str | None,
    methods: str | None,
    seeds: int,
    batch: int,
    budget: int,
    pool_runs: int,
    regmix_runs: int,
    noise: float | None,
    jobs: int | None,
    json_file: Path | None,
    plots: Path | None,
) -> None:
    """How many runs does a strategy need? Recorded runs are replayed as if they were trained.

    TABLE is a folder of RegMix's or Olmix's files, a run folder of ours, or MIXTURES.csv:LOSSES.csv; tables with the same columns
    are joined, others follow one another.

    In the pool, searches train recorded runs until the best of them is found. On the emulator, neural networks fitted to all runs
    answer for every mixture, and the true target of what is recommended counts, beside that of RegMix's one round.

    \b
      regmix-active benchmark search runs/embedded
      regmix-active benchmark search regmix-data/ --json replay.json --plots plots/
      regmix-active benchmark search regmix-data/ --game pool --batch 1 --strategy thompson --methods random
    """
    check_outputs(json_file, plots)
    rivals = _parse_methods(methods)

    from regmix_active.compare.benchmark import benchmark, playable
    from regmix_active.compare.emulator import default_cache
    from regmix_active.compare.standings import Settings
    from regmix_active.config.schema import SearchConfig
    from regmix_active.execution.local import usable_cores
    from regmix_active.report.benchmark import BenchmarkView

    read = [playable(table) for table in _read(tables, scale)]
    targets = [_parse_targets(specs, table) for table in read]
    defaults = SearchConfig()
    settings = Settings(
        games=GAMES[game],
        strategies=tuple(dict.fromkeys(strategies)) or (defaults.strategy,),
        surrogate=surrogate or defaults.surrogate,
        initial_design=initial_design or defaults.initial_design,
        rivals=rivals,
        seeds=seeds,
        batch=batch,
        budget=budget,
        pool_limit=pool_runs,
        swarm=regmix_runs,
        noise=noise,
    )
    screen = console()
    found: list[Benchmark] = []
    try:
        for table, wanted in zip(read, targets, strict=True):
            with BenchmarkView(screen) as view:
                view.introduce(table, settings)
                found.append(benchmark(table, wanted, settings, jobs or usable_cores(), default_cache(), view))
    except KeyboardInterrupt:
        screen.print("[yellow]stopped.[/] Nothing was written; fewer --seeds, --methods or targets take less time.")
        raise
    # First what took the time, then what may fail for want of a wide terminal.
    if json_file is not None:
        write_json(json_file, {"benchmarks": [one.as_dict() for one in found]})
    for one in found:
        _print(screen, one)
    if plots is not None:
        _write_plots(screen, plots, found)
    if json_file is not None:
        screen.print(f"every figure: {json_file}", markup=False, highlight=False, soft_wrap=True)


def _parse_methods(text: str | None) -> tuple[str, ...]:
    from regmix_active.compare.standings import RIVALS

    if text is None:
        return RIVALS
    names = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in RIVALS:
            close = difflib.get_close_matches(name, RIVALS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose from: {', '.join(RIVALS)}"
            raise ConfigError(f"--methods: unknown rival {name!r}; {hint} (strategies of ours: --strategy)")
    return tuple(rival for rival in RIVALS if rival in names)


def _read(sources: Sequence[str], scale: str | None) -> list[RunTable]:
    """The tables, those with the same columns joined to one."""
    from regmix_active.study.table import RunTable, read_table

    groups: dict[tuple[frozenset[str], frozenset[str]], list[RunTable]] = {}
    for source in sources:
        table = read_table(source, scale)
        groups.setdefault((frozenset(table.domain_columns), frozenset(table.loss_columns)), []).append(table)
    return [tables[0] if len(tables) == 1 else RunTable.join(tables) for tables in groups.values()]


def _parse_targets(specs: Sequence[str], table: RunTable) -> Mapping[str, Target]:
    from regmix_active.compare.benchmark import default_targets

    if not specs:
        return default_targets(table)
    return table_targets(specs, table)


def _print(screen: Console, found: Benchmark) -> None:
    from regmix_active.report.benchmark import EMULATOR_LEGEND, POOL_LEGEND, emulator_table, pool_table, remarks

    for target in found.targets if found.pool else ():
        screen.print(pool_table(found, target))
    if found.pool:
        screen.print(POOL_LEGEND, style="dim", markup=False, highlight=False)
    for target in found.targets if found.emulated else ():
        screen.print(emulator_table(found, target))
    if found.emulated:
        screen.print(EMULATOR_LEGEND, style="dim", markup=False, highlight=False)
    for remark in remarks(found):
        screen.print(remark, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _write_plots(screen: Console, folder: Path, found: Sequence[Benchmark]) -> None:
    from regmix_active.report.benchmark_plots import recommendation_curves, regret_curves
    from regmix_active.report.plots import save

    try:
        for one in found:
            if one.pool:
                save(regret_curves(one), folder, f"regret-{one.table.name}")
            if one.emulated:
                save(recommendation_curves(one), folder, f"recommendation-{one.table.name}")
    except OSError as error:
        raise ConfigError(f"--plots {folder}: cannot be written ({error.strerror}); name another folder") from None
    screen.print(f"plots: {folder}", markup=False, highlight=False, soft_wrap=True)
