"""``regmix-active recommend``."""

from __future__ import annotations

from pathlib import Path

import click

from regmix_active.cli.common import console, load_run, parse_target, run_argument, storage_option


@click.command()
@run_argument
@click.option("--target", metavar="SPEC", help="mean, a domain, or weights: books=0.7,code=0.3.")
@click.option("--top-k", type=click.IntRange(min=1), help="Simulated mixtures that are averaged.")
@click.option("--simulations", type=click.IntRange(min=1000), help="Mixtures simulated.")
@click.option("--surrogate", metavar="NAME", help="gp, lightgbm, log-linear, ensemble or auto.")
@storage_option
def command(
    run: Path, storage: str | None, target: str | None, top_k: int | None, simulations: int | None, surrogate: str | None
) -> None:
    """Answer again from the study of RUN, without training.

    All losses of all proxies are in the study, so that another target needs no new run. mixture.yaml is written anew.
    """
    from regmix_active.report.console import mixture_table, prediction_table
    from regmix_active.search.active import ActiveSearch

    overrides = {
        "study.storage": storage,
        "target": parse_target(target),
        "recommend.top_k": top_k,
        "recommend.simulations": simulations,
        "search.surrogate": surrogate,
    }
    search = ActiveSearch(load_run(run, overrides), out=run)
    screen = console()
    with screen.status("simulating the simplex"):
        found = search.recommend()
    screen.print(mixture_table(found), prediction_table(found), sep="\n")
    screen.print(f"mixture: {search.folder.mixture}", markup=False, highlight=False, soft_wrap=True)
