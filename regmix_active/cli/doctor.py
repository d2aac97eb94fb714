"""``regmix-active doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from regmix_active.cli.common import console

if TYPE_CHECKING:
    from rich.console import Console

    from regmix_active.config.schema import RunConfig
    from regmix_active.corpus.store import TokenStore
    from regmix_active.mixture.space import MixtureSpace


@click.command()
@click.option("--config", default="embedded", metavar="NAME|FILE", help="Preset or YAML file.  [default: embedded]")
@click.option("--budget", type=click.IntRange(min=1), help="Proxies to cost.  [default: search.budget]")
def command(config: str, budget: int | None) -> None:
    """What this machine has, and what a run would cost on it.

    Builds the corpus if it is not in the cache, trains one stack of proxies for a moment, and extrapolates.
    """
    import platform

    import psutil
    import torch
    from rich.markup import escape
    from rich.table import Table

    from regmix_active.config.load import load_config
    from regmix_active.corpus.build import build_store, default_cache_dir
    from regmix_active.corpus.fit import check_fit
    from regmix_active.execution.local import local_devices, usable_cores
    from regmix_active.proxy.planning.planner import measured, plan_swarm
    from regmix_active.proxy.runner import mixed_domains
    from regmix_active.report.folder import versions
    from regmix_active.search.meanings import swarm_meaning
    from regmix_active.search.spaces import feasible_space
    from regmix_active.strategies import load_strategy
    from regmix_active.study.target import Target

    loaded = load_config(config).config
    wanted = budget or loaded.search.budget
    screen = console()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    table.add_row("packages", ", ".join(f"{name} {number}" for name, number in versions().items() if name != "python"))
    table.add_row("CPU cores", f"{usable_cores()} usable of {psutil.cpu_count()}")
    table.add_row("memory", f"{psutil.virtual_memory().available / 2**30:.1f} GiB free")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("GPUs", ", ".join(gpus) or "none: proxies train on the CPU cores")
    table.add_row("cache", str(default_cache_dir()))
    screen.print(table, highlight=False, soft_wrap=True)
    with screen.status("reading the corpus"):
        store = build_store(loaded.corpus)
    _show_corpus(screen, store, loaded)
    # What a run would refuse is refused here too.
    if (warning := check_fit(loaded, store)) is not None:
        screen.print(f"[yellow]note:[/] {escape(warning)}", highlight=False, soft_wrap=True)
    mixed_domains(store.domains, loaded.score_only)
    Target.parse(loaded.target, store.domains)
    _show_allowed(screen, feasible_space(loaded, swarm_meaning(loaded, store)))
    load_strategy(loaded.search.strategy, loaded.search.strategy_options)
    devices = local_devices(loaded.execution.workers)
    with screen.status("training stacks for a moment"):
        plan = measured(plan_swarm(store, loaded.proxy, loaded.execution, devices, wanted), store, loaded.proxy, devices[0])
    seconds = plan.seconds(loaded.proxy)
    minutes = wanted * seconds / len(devices) / 60
    duration = f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.0f} seconds"
    kind = "core" if devices[0] == "cpu" else "GPU"
    workers = f"{len(devices)} worker{'s' if len(devices) > 1 else ''}"
    screen.print(
        f"one proxy: {seconds:.1f} s on one {kind} ({loaded.proxy.tokens:,} tokens, stacks of {plan.stack}, {plan.training.mode})\n"
        f"{wanted} proxies on {workers}: about [bold]{duration}[/] of training, and up to a fifth more for the rest\n"
        f"plan: {'; '.join(plan.reasons)}",
        highlight=False,
        soft_wrap=True,
    )


def _show_allowed(screen: Console, space: MixtureSpace) -> None:
    """Which mixtures a run would choose from, where not all are allowed."""
    from rich.markup import escape

    from regmix_active.report.allowed import allowed_table
    from regmix_active.search.spaces import needless, quickly_explained

    if not space.constrained:
        return
    shown = quickly_explained(space)
    caption = None if shown is space else "without mixture.active, which so many domains make slow to look at; runs keep it"
    with screen.status("looking how far each weight may go"):
        table = allowed_table(shown, caption)
    screen.print(table)
    with screen.status("looking for constraints that change nothing"):
        notes = needless(shown, thorough=True)
    for text in notes:
        screen.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)


def _show_corpus(screen: Console, store: TokenStore, config: RunConfig) -> None:
    """Domain by domain: how much there is of it."""
    from rich.markup import escape
    from rich.table import Table

    corpus = Table(title=f"corpus: vocabulary {store.vocab_size:,}", title_justify="left")
    for column in ("domain", "train tokens", "validation tokens", "share of all tokens", "epochs if alone"):
        corpus.add_column(column, justify="left" if column == "domain" else "right")
    for i, (name, share) in enumerate(zip(store.domains, store.natural_shares, strict=True)):
        train, validation = len(store.train(i)), len(store.validation(i))
        alone = "only scored" if name in config.score_only else f"{config.proxy.tokens / train:.2f}"
        corpus.add_row(escape(name), f"{train:,}", f"{validation:,}", f"{share:.1%}", alone)
    screen.print(corpus)
