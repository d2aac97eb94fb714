"""``regmix-active evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from regmix_active.cli.common import check_outputs, console, table_targets, write_json
from regmix_active.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from regmix_active.compare.evaluation import Evaluation
    from regmix_active.study.table import RunTable
    from regmix_active.study.target import Target

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("table", required=False)
@click.option("--mixtures", type=FILE, help="CSV of weights: an id column, then one column per domain.")
@click.option("--losses", type=FILE, help="CSV of losses, with the same ids.")
@click.option("--test-mixtures", type=FILE, multiple=True, help="The same for test runs. Repeatable, in pairs.")
@click.option("--test-losses", type=FILE, multiple=True, help="Losses of the test runs. Repeatable, in pairs.")
@click.option("--test", "test_tables", metavar="TABLE", multiple=True, help="Test runs, in any form of TABLE. Repeatable.")
@click.option("--scale", help="Scale to read from a folder of RegMix's.  [default: the one with the most runs]")
@click.option("--surrogate", "surrogates", metavar="NAME", multiple=True, help="Only this one. Repeatable.  [default: all]")
@click.option(
    "--target",
    "specs",
    metavar="SPEC",
    multiple=True,
    help="mean, a loss, or weights: books=0.7,code=0.3. Repeatable.  [default: the mean, and every loss by itself]",
)
@click.option("--sizes", metavar="N,N,…", help="Numbers of training runs.  [default: 16,32,64,… and all]")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Random training sets per size.")
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Of the cross-validation.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes, one thread each.  [default: usable cores]")
@click.option("--json", "json_file", metavar="FILE", type=FILE, help="Write every figure of every seed.")
@click.option("--plots", metavar="FOLDER", type=FILE, help="Write learning curves, and predictions against observations.")
def command(
    table: str | None,
    mixtures: Path | None,
    losses: Path | None,
    test_mixtures: tuple[Path, ...],
    test_losses: tuple[Path, ...],
    test_tables: tuple[str, ...],
    scale: str | None,
    surrogates: tuple[str, ...],
    specs: tuple[str, ...],
    sizes: str | None,
    seeds: int,
    folds: int,
    jobs: int | None,
    json_file: Path | None,
    plots: Path | None,
) -> None:
    """How well do surrogates predict finished runs, and from how many?

    Runs come from --mixtures and --losses, or from TABLE: a folder of RegMix's or Olmix's files, a run folder of ours, or
    MIXTURES.csv:LOSSES.csv. Each surrogate is fitted to random subsets of them and scored on the test runs; without test runs by
    cross-validation: training runs are then drawn from inside the training folds.

    \b
      regmix-active evaluate --mixtures ratios.csv --losses metrics.csv
      regmix-active evaluate runs/embedded --surrogate gp --sizes 16,32
      regmix-active evaluate --mixtures train_mixture_1m.csv --losses train_pile_loss_1m.csv \\
        --test-mixtures test_mixture_1B.csv --test-losses test_pile_loss_1B.csv --target pile_cc --json scores.json
    """
    check_outputs(json_file, plots)
    counts = _parse_sizes(sizes)
    train = _read_training(table, mixtures, losses, scale)
    tests = _read_tests(test_mixtures, test_losses, test_tables)
    targets = _parse_targets(specs, train)

    # After the input is known to be good: these load scipy and more.
    from regmix_active.compare.evaluate import evaluate
    from regmix_active.execution.local import usable_cores
    from regmix_active.report.evaluation import progress

    screen = console()
    with progress(screen) as bar:
        task = bar.add_task("reading", total=None)

        def on_start(total: int, notes: Sequence[str]) -> None:
            how = (
                f"scored on {', '.join(t.name for t in tests)}"
                if tests
                else f"{folds}-fold cross-validation (training runs are drawn from the training folds)"
            )
            described = f"{train.name}: {len(train)} runs, {len(train.domains)} domains, {len(train.loss_names)} losses; {how}"
            screen.print(f"{described}; {total} fits", markup=False, highlight=False, soft_wrap=True)
            for note in notes:
                screen.print(f"note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
            bar.update(task, description="fitting", total=total)

        try:
            evaluation = evaluate(
                train, tests, targets, surrogates, counts, seeds, folds, jobs or usable_cores(), on_start, lambda: bar.advance(task)
            )
        except KeyboardInterrupt:
            screen.print("[yellow]stopped.[/] Nothing was written; fewer --sizes, --seeds or --surrogate take less time.")
            raise
    # First what took the time, then what may fail for want of a wide terminal.
    if json_file is not None:
        write_json(json_file, evaluation.as_dict())
    _print(screen, evaluation, specs)
    if plots is not None:
        _write_plots(screen, plots, evaluation, specs)
    if json_file is not None:
        screen.print(f"every figure: {json_file}", markup=False, highlight=False, soft_wrap=True)


def _parse_sizes(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise click.BadParameter(f"{text!r}: write numbers with commas, for example 16,32,64", param_hint="--sizes") from None


def _read_training(table: str | None, mixtures: Path | None, losses: Path | None, scale: str | None) -> RunTable:
    from regmix_active.study.table import read_runs, read_table

    if (mixtures is None) != (losses is None):
        raise click.UsageError("--mixtures and --losses belong together")
    if (table is None) == (mixtures is None):
        raise click.UsageError("give the runs once: as TABLE, or as --mixtures M.csv --losses L.csv")
    if table is not None:
        return read_table(table, scale)
    if scale is not None:
        raise click.UsageError("--scale chooses from a TABLE; --mixtures and --losses are of one scale")
    assert mixtures is not None and losses is not None  # noqa: PT018
    return read_runs(mixtures, losses)


def _read_tests(mixtures: tuple[Path, ...], losses: tuple[Path, ...], tables: tuple[str, ...]) -> list[RunTable]:
    from regmix_active.study.table import read_runs, read_table

    if len(mixtures) != len(losses):
        raise click.UsageError(
            f"--test-mixtures and --test-losses come in pairs; {len(mixtures)} and {len(losses)} of them were given"
        )
    return [read_runs(*pair) for pair in zip(mixtures, losses, strict=True)] + [read_table(table) for table in tables]


def _parse_targets(specs: tuple[str, ...], train: RunTable) -> dict[str, Target] | None:
    if not specs:
        return None
    return table_targets(specs, train)


def _detailed(evaluation: Evaluation, specs: tuple[str, ...]) -> list[str]:
    """Targets that get a table of their own: those asked for, or the mean."""
    return list(evaluation.targets)[: None if specs else 1]


def _print(screen: Console, evaluation: Evaluation, specs: tuple[str, ...]) -> None:
    from regmix_active.report.evaluation import LEGEND, OTHER_SIZE, loss_table, remarks, target_table

    detailed = _detailed(evaluation, specs)
    others = [target for target in evaluation.targets if target not in detailed]
    for test in evaluation.tests:
        for target in detailed:
            screen.print(target_table(evaluation, test, target))
        if others:
            screen.print(loss_table(evaluation, test, others))
    legend = LEGEND if evaluation.folds else f"{LEGEND} {OTHER_SIZE}"
    screen.print(legend, style="dim", markup=False, highlight=False)
    for remark in remarks(evaluation):
        screen.print(remark, markup=False, highlight=False, soft_wrap=True)
    if others:
        screen.print("all training sizes of a single loss: --target NAME", style="dim", markup=False, highlight=False)


def _write_plots(screen: Console, folder: Path, evaluation: Evaluation, specs: tuple[str, ...]) -> None:
    from regmix_active.report.plots import learning_curves, predicted_against_observed, save

    try:
        for test in evaluation.tests:
            save(learning_curves(evaluation, test), folder, f"learning-curves-{test}")
            for target in _detailed(evaluation, specs):
                figure = predicted_against_observed(evaluation, test, target)
                if figure is not None:
                    save(figure, folder, f"predicted-{target}-{test}")
    except OSError as error:
        raise ConfigError(f"--plots {folder}: cannot be written ({error.strerror}); name another folder") from None
    screen.print(f"plots: {folder}", markup=False, highlight=False, soft_wrap=True)
