"""``regmix-active benchmark swarm``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from regmix_active.cli.common import check_outputs, console, write_json
from regmix_active.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from regmix_active.compare.swarm_result import Mode, SwarmBenchmark

FILE = click.Path(path_type=Path)

PLOT_FORMATS = (".png", ".svg", ".pdf")

MOST_PROXIES = 1000


@click.command()
@click.option("--config", default="embedded", metavar="NAME|FILE", help="Preset or YAML file.  [default: embedded]")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Any key, such as proxy.width=64. Repeatable.")
@click.option("--stacks", default="1,2,4,8,16", show_default=True, metavar="K,…", help="Proxies per stack of the swarm.")
@click.option("--tokens", type=click.IntRange(min=1), default=40_960, show_default=True, help="Training tokens of one proxy.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each method.")
@click.option("--processes", type=click.IntRange(min=1), help="Processes where all cores work.  [default: usable cores]")
@click.option(
    "--mode", type=click.Choice(["one-thread", "all-cores", "both"]), default="both", show_default=True, help="On the CPU."
)
@click.option("--json", "json_file", metavar="FILE", type=FILE, help="Write every figure of every repeat.")
@click.option("--plot", metavar="FILE", type=FILE, help="Draw the speeds (.png, .svg or .pdf).")
def command(
    config: str,
    changes: tuple[str, ...],
    stacks: str,
    tokens: int,
    repeats: int,
    processes: int | None,
    mode: Mode,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """How fast do proxies train here, stacked, and without this package?

    The same proxies are trained by the swarm, by a plain PyTorch loop, by that loop compiled, and by LlamaForCausalLM in a loop
    like Hugging Face's Trainer: the same initial weights, tokens and schedule, so that all end at the same loss. Speed is tokens
    per CPU-second on one thread, tokens per second on all cores. With a GPU, tiny-4k and regmix-1m are measured as well.

    \b
      regmix-active benchmark swarm
      regmix-active benchmark swarm --set proxy.width=64 --stacks 4,8 --json swarm.json --plot swarm.svg
      regmix-active benchmark swarm --mode one-thread --tokens 20480 --repeats 1
    """
    wanted = _parse_stacks(stacks)
    check_outputs(json_file, None)
    _check_plot(plot)

    from regmix_active.config.load import load_config, parse_override

    loaded = load_config(config, [parse_override(text) for text in changes])

    from regmix_active.compare.swarm import benchmark_swarm
    from regmix_active.compare.swarm_result import Settings
    from regmix_active.corpus.build import build_store
    from regmix_active.execution.local import usable_cores
    from regmix_active.report.swarm import SwarmView

    settings = Settings(stacks=wanted, tokens=tokens, repeats=repeats, processes=processes or usable_cores(), mode=mode)
    screen = console()
    with screen.status("reading the corpus"):
        store = build_store(loaded.config.corpus)
    with SwarmView(screen) as view:
        try:
            found = benchmark_swarm(loaded.config, store, settings, view)
        except KeyboardInterrupt:
            screen.print(
                f"[yellow]stopped.[/] {view.done} of {view.total} measurements were made and are lost; nothing was written. "
                "Fewer --repeats, --stacks or --tokens take less time.",
                highlight=False,
                soft_wrap=True,
            )
            raise
    # First what took the time, then what may fail for want of a wide terminal.
    if json_file is not None:
        write_json(json_file, {"swarm": found.as_dict()})
    _print(screen, found)
    if plot is not None:
        _write_plot(screen, plot, found)
    if json_file is not None:
        screen.print(f"every figure: {json_file}", markup=False, highlight=False, soft_wrap=True)


def _parse_stacks(text: str) -> tuple[int, ...]:
    try:
        stacks = {int(part) for part in text.split(",")}
    except ValueError:
        stacks = {0}
    if not all(1 <= stack <= MOST_PROXIES for stack in stacks):
        raise ConfigError(f"--stacks {text}: write numbers from 1 to {MOST_PROXIES}, for example --stacks 1,4,16")
    return tuple(sorted(stacks))


def _check_plot(file: Path | None) -> None:
    if file is None:
        return
    if file.suffix.lower() not in PLOT_FORMATS:
        raise ConfigError(f"--plot {file}: end the name in {', '.join(PLOT_FORMATS)}")
    if not file.parent.is_dir():
        raise ConfigError(f"--plot {file}: there is no folder {file.parent}; make it, or name another file")


def _print(screen: Console, found: SwarmBenchmark) -> None:
    from regmix_active.report.swarm import LEGEND, lines, section_table

    for section in found.sections:
        screen.print(section_table(found, section))
    screen.print(LEGEND, style="dim", markup=False, highlight=False)
    for line in lines(found):
        style = "yellow" if any(sign in line for sign in ("not run", "NOT EQUAL", "was busy")) else ""
        screen.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _write_plot(screen: Console, file: Path, found: SwarmBenchmark) -> None:
    from regmix_active.report.swarm import speed_plot

    figure: Figure = speed_plot(found)
    try:
        # Without a date, so that the same figures give the same file.
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise ConfigError(f"--plot {file}: cannot be written ({error.strerror}); name another file") from None
    screen.print(f"plot: {file}", markup=False, highlight=False, soft_wrap=True)
