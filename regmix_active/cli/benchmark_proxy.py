"""``regmix-active benchmark proxy``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from regmix_active.cli.common import check_outputs, console, write_json
from regmix_active.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from regmix_active.compare.proxy_benchmark import RankReport

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--config", default="embedded", metavar="NAME|FILE", help="Preset or YAML file.  [default: embedded]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Changes the setting under test. Repeatable.")
@click.option(
    "--reference-set",
    "reference_settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Makes the reference of the configuration. Repeatable.  [default: 3 x width, layers and ffn]",
)
@click.option("--noise", is_flag=True, help="Instead: the target's noise between seeds, with common random numbers and without.")
@click.option("--mixtures", type=click.IntRange(min=4), help="Half wide, half near uniform.  [default: 48; with --noise 8]")
@click.option("--seeds", type=click.IntRange(min=1), help="Of the setting under test.  [default: 1; with --noise 8]")
@click.option("--reference-seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Of the reference; others.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes, one thread each.  [default: usable cores]")
@click.option(
    "--out", type=FILE, default="runs/proxy-benchmark", show_default=True, help="Folder that keeps trainings for next time."
)
@click.option("--json", "json_file", metavar="FILE", type=FILE, help="Write every figure and every loss.")
@click.option("--plot", metavar="FILE", type=FILE, help="Write a scatter plot of the ranks (.svg, .png, .pdf).")
def command(
    config: str,
    settings: tuple[str, ...],
    reference_settings: tuple[str, ...],
    noise: bool,
    mixtures: int | None,
    seeds: int | None,
    reference_seeds: int,
    jobs: int | None,
    out: Path,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """How faithfully does a proxy rank mixtures, compared with a larger one? Both train the same mixtures, with other seeds.

    Half of the mixtures are those of the search's initial design, half lie near the uniform one. Settings whose tokenizers
    differ train on the same text, and compare in bits per byte. Trainings that are in OUT are not repeated.

    \b
      regmix-active benchmark proxy
      regmix-active benchmark proxy --set proxy.tokens=200000 --plot ranks.svg
      regmix-active benchmark proxy --set proxy.trunk_tokens=200000 --set proxy.tokens=100000
      regmix-active benchmark proxy --set corpus.tokenizer.vocab_size=512 --reference-set corpus.tokenizer.vocab_size=4096
      regmix-active benchmark proxy --noise
    """
    check_outputs(json_file, None)
    _check_plot(plot, noise)
    if noise and seeds == 1:
        raise ConfigError("--seeds 1: noise between seeds needs two or more; 8 is a good start")

    from regmix_active.config.load import load_config, parse_override

    overrides = dict(parse_override(text) for text in settings)
    tested = load_config(config, overrides.items()).config
    reference_overrides = dict(parse_override(text) for text in reference_settings)

    from regmix_active.compare.fidelity import Setting
    from regmix_active.compare.proxy_benchmark import benchmark_noise, benchmark_ranks, default_reference
    from regmix_active.corpus.build import build_store
    from regmix_active.execution.local import usable_cores
    from regmix_active.report import fidelity as shown

    reference_overrides = reference_overrides or default_reference(load_config(config).config.proxy)
    reference = load_config(config, reference_overrides.items()).config
    screen = console()
    try:
        with shown.FidelityView(screen) as view:
            ours = Setting(tested.proxy, build_store(tested.corpus, progress=view.on_stage))
            if noise:
                noise_report = benchmark_noise(
                    tested,
                    ours,
                    mixtures=mixtures or 8,
                    seeds=seeds or 8,
                    folder=out,
                    jobs=jobs or usable_cores(),
                    progress=view.on_job,
                )
            else:
                theirs = Setting(reference.proxy, build_store(reference.corpus, progress=view.on_stage))
                report = benchmark_ranks(
                    tested,
                    ours,
                    theirs,
                    mixtures=mixtures or 48,
                    seeds=seeds or 1,
                    reference_seeds=reference_seeds,
                    folder=out,
                    jobs=jobs or usable_cores(),
                    progress=view.on_job,
                )
    except KeyboardInterrupt:
        screen.print(
            f"[yellow]stopped.[/] Finished trainings are in {out}; only those that were running are lost. Continue with the same "
            "command.",
            highlight=False,
            soft_wrap=True,
        )
        raise
    if noise:
        screen.print(shown.cost_table({"under test": noise_report.cost}), shown.noise_table(noise_report), sep="\n")
        screen.print(shown.NOISE_LEGEND, style="dim", markup=False, highlight=False)
    else:
        screen.print(shown.cost_table({"under test": report.cost, "reference": report.reference_cost}))
        screen.print(shown.rank_table(report))
        screen.print(shown.RANK_LEGEND, style="dim", markup=False, highlight=False)
        for remark in shown.remarks(report):
            screen.print(remark, style="yellow", markup=False, highlight=False, soft_wrap=True)
        if plot is not None:
            _write_plot(screen, plot, report)
    if json_file is not None:
        content = noise_report.as_dict() if noise else report.as_dict()
        asked = {"config": config, "set": overrides, "reference_set": {} if noise else reference_overrides}
        write_json(json_file, {"benchmark": "noise" if noise else "ranks", **asked, **content})
        screen.print(f"every figure: {json_file}", markup=False, highlight=False, soft_wrap=True)


def _check_plot(plot: Path | None, noise: bool) -> None:
    """Refuse now what could not be written after an hour."""
    if plot is None:
        return
    if noise:
        raise ConfigError("--plot: is of ranks, and --noise measures none; leave one of them out")
    if plot.suffix not in (".svg", ".png", ".pdf"):
        raise ConfigError(f"--plot {plot}: name a file that ends in .svg, .png or .pdf")
    if not plot.parent.is_dir():
        raise ConfigError(f"--plot {plot}: there is no folder {plot.parent}; make it, or name another file")


def _write_plot(screen: Console, plot: Path, report: RankReport) -> None:
    from regmix_active.report.fidelity import scatter

    try:
        scatter(report).savefig(plot)
    except OSError as error:
        raise ConfigError(f"--plot {plot}: cannot be written ({error.strerror}); name another file") from None
    screen.print(f"plot: {plot}", markup=False, highlight=False, soft_wrap=True)
