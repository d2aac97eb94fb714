"""``regmix-active verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from regmix_active.cli.common import console, load_run, run_argument, storage_option
from regmix_active.cli.launch import driving

if TYPE_CHECKING:
    from rich.console import Console

    from regmix_active.recommend.simulate import Recommendation
    from regmix_active.search.active import ActiveSearch


@click.command()
@run_argument
@click.option("--seeds", type=click.IntRange(min=2), help="Fresh seeds per mixture.  [default: verify.seeds]")
@click.option("--workers", type=click.IntRange(min=0), help="Worker processes; 0: one per GPU or CPU core.")
@storage_option
def command(run: Path, storage: str | None, seeds: int | None, workers: int | None) -> None:
    """Prove it: train the found, the natural, the uniform and the best trained mixture of RUN with fresh seeds.

    The found mixture is the one in RUN/mixture.yaml, scored by the target that it was found for.
    Prints their true targets with standard errors and a verdict; all seeds are new, so that luck in the search does not count.
    """
    from regmix_active.report.folder import RunFolder
    from regmix_active.search.active import ActiveSearch

    loaded = load_run(run, {"study.storage": storage, "verify.seeds": seeds, "execution.workers": workers})
    with driving(loaded.config.execution, RunFolder(run).jobs / "verify") as member:
        search = ActiveSearch(loaded, out=run, member=member)
        screen = console()
        with screen.status("reading the study"):
            found = search.answer()
        show_verification(search, found, screen)


def show_verification(search: ActiveSearch, found: Recommendation, screen: Console) -> None:
    """Verify with a live view, then print the table and the verdict."""
    from regmix_active.report.console import LiveView, verification_table

    with LiveView(screen) as view:
        search.observer = view
        view.verifying(4 * search.config.verify.seeds)
        try:
            verification = search.verify(found)
        except KeyboardInterrupt:
            screen.print(
                f"stopped. Continue with: regmix-active verify {search.folder.path}", markup=False, highlight=False, soft_wrap=True
            )
            raise
    screen.print(verification_table(verification))
    if found.rule == "pareto":
        note = f"note: judged by one target, {verification.target.describe()}, not by the trade-offs between several"
        screen.print(note, markup=False, highlight=False, soft_wrap=True)
    screen.print(verification.verdict, style="green" if verification.passed else "yellow", highlight=False, soft_wrap=True)
