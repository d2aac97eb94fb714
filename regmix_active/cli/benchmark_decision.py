"""``regmix-active benchmark decision``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from regmix_active.cli.common import check_outputs, console, table_targets, write_json
from regmix_active.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from regmix_active.mixture.space import MixtureSpace
    from regmix_active.study.table import RunTable

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("table")
@click.option("--scale", help="Scale to read from a folder of RegMix's.  [default: the one with the most runs]")
@click.option("--target", "specs", metavar="SPEC", multiple=True, default=["mean"], show_default=True, help="Repeatable.")
@click.option("--runs", type=click.IntRange(min=17), default=48, show_default=True, help="Proxies of a search.")
@click.option(
    "--study-runs", type=click.IntRange(min=0), default=512, show_default=True, help="Of a study for the first target; 0: none."
)
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True, help="Searches per target.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Proxies per round after the first 16.")
@click.option("--max-ratio", type=click.FloatRange(min=1), default=15, show_default=True, help="Cap, times the natural share.")
@click.option("--natural", metavar="FILE", type=FILE, help="YAML of natural shares.  [default: the mean of the table's mixtures]")
@click.option("--level", type=click.FloatRange(0.01, 0.999), default=0.9, show_default=True, help="Of the intervals.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes, one thread each.  [default: usable cores]")
@click.option("--json", "json_file", metavar="FILE", type=FILE, help="Write every answer.")
def command(
    table: str,
    scale: str | None,
    specs: tuple[str, ...],
    runs: int,
    study_runs: int,
    seeds: int,
    batch: int,
    max_ratio: float,
    natural: Path | None,
    level: float,
    jobs: int | None,
    json_file: Path | None,
) -> None:
    """How good is the answer within constraints, and do its intervals hold?

    An emulator of recorded runs answers for every mixture. Searches within a cap on every domain recommend a mixture; it is
    compared with the best allowed one, and the interval of its predicted target with the truth. With several targets, larger
    studies for the first one are then asked for the others, as `recommend --target` does; none with --study-runs 0.

    \b
      regmix-active benchmark decision regmix-data/
      regmix-active benchmark decision regmix-data/ --target mean --target pile_cc --natural human.yaml --seeds 30
    """
    check_outputs(json_file, None)

    import numpy as np

    from regmix_active.compare.benchmark import NOISE_SHARE, playable
    from regmix_active.compare.decision import decisions
    from regmix_active.compare.emulator import Emulator, default_cache
    from regmix_active.execution.local import usable_cores
    from regmix_active.report.decision import LEGEND, decision_tables
    from regmix_active.report.evaluation import progress
    from regmix_active.study.table import read_table

    read = playable(read_table(table, scale))
    targets = table_targets(specs, read)
    space = _capped(read, natural, max_ratio)
    screen = console()
    with progress(screen) as bar:
        task = bar.add_task("fitting the emulator", total=None)
        emulator = Emulator.cached(read.mixtures, read.losses, folder=default_cache())
        noise = NOISE_SHARE * np.nanstd(read.losses, axis=0)

        def watch(text: str, steps: int) -> None:
            if text:
                bar.update(task, description=text, total=steps, completed=0)
            else:
                bar.advance(task, steps)

        report = decisions(
            space,
            emulator,
            noise,
            targets,
            runs=runs,
            study_runs=study_runs,
            seeds=seeds,
            batch=batch,
            level=level,
            jobs=jobs or usable_cores(),
            watch=watch,
        )
    if json_file is not None:
        write_json(json_file, report.as_dict())
    for shown in decision_tables(report):
        screen.print(shown, highlight=False, soft_wrap=isinstance(shown, str))
    screen.print(LEGEND, style="dim", markup=False, highlight=False)


def _capped(table: RunTable, natural: Path | None, max_ratio: float) -> MixtureSpace:
    """All mixtures without a domain above so many times its natural share."""
    from regmix_active.config.mixture import MixtureConfig
    from regmix_active.config.schema import RunConfig
    from regmix_active.search.spaces import feasible_space
    from regmix_active.study.meaning import Meaning

    shares = table.mixtures.mean(axis=0) if natural is None else _read_shares(natural, table)
    config = RunConfig(mixture=MixtureConfig(max_ratio=max_ratio))
    return feasible_space(config, Meaning(table.domains, tuple((shares / shares.sum()).tolist()), table.loss_names, {}))


def _read_shares(file: Path, table: RunTable) -> NDArray[np.float64]:
    """Natural shares by the names of the table's domains, or of its columns; also below a key ``train``, as RegMix has them."""
    import numpy as np

    from regmix_active.config.plain_yaml import parse_yaml

    try:
        content, _ = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise ConfigError(f"--natural {file}: {error.strerror}") from None
    given = content.get("train", content) if isinstance(content, dict) else {}
    shares = np.full(len(table.domains), np.nan)
    for name, share in given.items():
        if not isinstance(share, int | float):
            raise ConfigError(f"--natural {file}: {name} is {share!r}, not a number")
        shares[table.domain(str(name))] = share
    if np.isnan(shares).any():
        missing = ", ".join(name for name, share in zip(table.domains, shares, strict=True) if np.isnan(share))
        raise ConfigError(f"--natural {file}: no share of {missing}")
    return shares
