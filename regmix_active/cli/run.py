"""``regmix-active run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from regmix_active.cli.common import console, given, parse_settings, storage_option
from regmix_active.cli.launch import driving, telling_troubles, tracked
from regmix_active.cli.targets import target_options, target_overrides

if TYPE_CHECKING:
    from regmix_active.config.load import LoadedConfig
    from regmix_active.execution.ranks import Member


@click.command()
@click.option("--config", default="embedded", metavar="NAME|FILE", help="Preset or YAML file.  [default: embedded]")
@click.option("--budget", type=click.IntRange(min=1), help="Completed proxies in the whole study.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/NAME]")
@click.option("--name", help="Name of the study.")
@storage_option
@target_options
@click.option("--surrogate", metavar="NAME", help="gp, lightgbm, log-linear, ensemble or auto.")
@click.option("--strategy", metavar="NAME|FILE.py:CLASS", help="Chooses the mixtures. A file named here is executed.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random.")
@click.option("--executor", type=click.Choice(["local", "slurm", "ray"]), help="Where proxies train.  [default: local]")
@click.option("--async", "asynchronous", is_flag=True, default=None, help="Propose as soon as a worker is free, not in rounds.")
@click.option("--workers", type=click.IntRange(min=0), help="Worker processes; 0: one per GPU or CPU core.")
@click.option(
    "--accelerate-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What `accelerate config` wrote: devices, precision, FSDP, several nodes.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other key, such as proxy.tokens=400000. Repeatable."
)
@click.option("--verify", "prove", is_flag=True, help="Then train the found mixture and its rivals with fresh seeds.")
def command(
    config: str,
    budget: int | None,
    out: Path | None,
    name: str | None,
    storage: str | None,
    target: Any,
    targets: dict[str, Any] | None,
    surrogate: str | None,
    strategy: str | None,
    seed: int | None,
    executor: str | None,
    asynchronous: bool | None,
    workers: int | None,
    accelerate_config: Path | None,
    settings: tuple[str, ...],
    prove: bool,
) -> None:
    """Find a mixture: train proxies, round by round, until BUDGET of them are in the study.

    Without options it mixes the embedded corpus. A study that is in the run folder is continued: the same command after Ctrl-C,
    a crash or with a larger budget goes on where it stopped, and changes that would mix unlike runs are refused.

    \b
      regmix-active run --budget 64 --verify
      regmix-active run --config mine.yaml --budget 128 --target books
      regmix-active run --strategy my_strategy.py:Curious
      regmix-active run --accelerate-config cluster.yaml      (on every node; or: accelerate launch -m regmix_active run)
    """
    from regmix_active.config.load import load_config

    if strategy is not None and ".py:" in strategy:  # from here, not from the configuration's folder
        strategy = str(Path.cwd() / strategy)
    overrides = parse_settings(settings)
    overrides |= given(
        {
            "search.budget": budget,
            "name": name,
            "study.storage": storage,
            **target_overrides(target, targets),
            "search.surrogate": surrogate,
            "search.strategy": strategy,
            "seed": seed,
            "execution.workers": workers,
            "execution.executor": executor,
            "search.asynchronous": asynchronous,
            "execution.accelerate_config": None if accelerate_config is None else str(accelerate_config.absolute()),
        }
    )
    loaded = load_config(config, overrides.items())

    from regmix_active.report.folder import RunFolder

    folder = out or Path("runs") / loaded.config.name
    jobs = RunFolder(folder).jobs
    with driving(loaded.config.execution, jobs, *[jobs / "verify"] * prove) as member:
        _search(loaded, folder, member, prove)


def _search(loaded: LoadedConfig, folder: Path, member: Member | None, prove: bool) -> None:
    """Search, print what was found, prove it if asked."""
    # Late: these load torch, and the ranks of a launch that only train need none of them.
    from regmix_active.cli.recommend import show_answer
    from regmix_active.report.console import LiveView
    from regmix_active.search.active import ActiveSearch
    from regmix_active.study.storage import public_url

    screen = console()
    with LiveView(screen) as view, telling_troubles(view), tracked(loaded.config, folder, view) as observer:
        search = ActiveSearch(loaded, out=folder, observer=observer, member=member)
        screen.print(f"study {loaded.config.name} in {public_url(search.storage)}", markup=False, highlight=False, soft_wrap=True)
        try:
            found = search.run()
        except KeyboardInterrupt:
            screen.print(
                "[yellow]stopped.[/] Every finished proxy is in the study; only those in training are lost. "
                "Continue with the same command.",
                highlight=False,
                soft_wrap=True,
            )
            raise
        observer.on_recommendation(found)
    show_answer(found, screen)
    left = f"mixture: {search.folder.mixture}\nproxies: {search.folder.trials}\npicture: {search.folder.summary}"
    screen.print(left, markup=False, highlight=False, soft_wrap=True)
    if prove:
        from regmix_active.cli.verify import show_verification

        show_verification(search, found, screen)
