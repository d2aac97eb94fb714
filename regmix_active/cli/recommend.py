"""``regmix-active recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from regmix_active.cli.common import console, load_run, run_argument, storage_option
from regmix_active.cli.targets import target_options, target_overrides

if TYPE_CHECKING:
    from rich.console import Console

    from regmix_active.recommend.simulate import Recommendation


@click.command()
@run_argument
@target_options
@click.option("--top-k", type=click.IntRange(min=1), help="Simulated mixtures that are averaged.")
@click.option("--simulations", type=click.IntRange(min=1000), help="Mixtures simulated.")
@click.option("--rule", type=click.Choice(["bound", "mean", "thompson"]), help="By what they are ranked (recommend.rule).")
@click.option("--interval", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Probability of the intervals.")
@click.option("--surrogate", metavar="NAME", help="gp, lightgbm, log-linear, ensemble or auto.")
@storage_option
def command(
    run: Path,
    storage: str | None,
    target: Any,
    targets: dict[str, Any] | None,
    top_k: int | None,
    simulations: int | None,
    rule: str | None,
    interval: float | None,
    surrogate: str | None,
) -> None:
    """Answer again from the study of RUN, without training.

    All losses of all proxies are in the study, so that another target needs no new run. mixture.yaml is written anew.
    Says how far the answer can be trusted, how far it lies from any trained mixture, and which three runs would tell most.
    """
    from regmix_active.report.console import StatusView
    from regmix_active.search.active import ActiveSearch

    overrides = {
        "study.storage": storage,
        **target_overrides(target, targets),
        "recommend.top_k": top_k,
        "recommend.simulations": simulations,
        "recommend.rule": rule,
        "recommend.interval": interval,
        "search.surrogate": surrogate,
    }
    search = ActiveSearch(load_run(run, overrides), out=run)
    screen = console()
    with screen.status("reading the study") as status:
        search.observer = StatusView(screen, status)
        found = search.recommend()
    show_answer(found, screen)
    screen.print(f"mixture: {search.folder.mixture}", markup=False, highlight=False, soft_wrap=True)


def show_answer(found: Recommendation, screen: Console) -> None:
    """Print the tables and how far the answer can be trusted."""
    from regmix_active.report.console import answer_tables, doubt_lines

    screen.print(*answer_tables(found), sep="\n")
    for line in doubt_lines(found):
        screen.print(line, markup=False, highlight=False, soft_wrap=True)
