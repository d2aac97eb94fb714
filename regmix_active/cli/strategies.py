"""``regmix-active strategies``."""

from __future__ import annotations

import dataclasses
import inspect

import click

from regmix_active.cli.common import console


@click.command()
@click.option("--check", metavar="NAME|FILE.py:CLASS", help="Examine one of your own instead. A file named here is executed.")
def command(check: str | None) -> None:
    """The strategies that can choose the next mixtures, with their options.

    \b
      regmix-active run --strategy confidence-bound --set search.strategy_options.beta=3
      regmix-active run --strategy path/to/file.py:Name
      regmix-active strategies --check path/to/file.py:Name
    """
    from rich.table import Table

    from regmix_active.strategies import available, load_strategy

    if check is not None:
        from regmix_active.testing import check_strategy

        strategy = load_strategy(check)
        with console().status(f"asking {strategy.name} for mixtures"):
            report = check_strategy(strategy)
        click.echo(str(report))
        return
    table = Table(title="Strategies (search.strategy, --strategy)", title_justify="left")
    for column in ("name", "options", "what it trains next"):
        table.add_column(column)
    for name, cls in available().items():
        fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
        options = "\n".join(f"{f.name} = {f.default}" for f in fields if f.name != "surrogate") or "–"
        table.add_row(name, options, (inspect.getdoc(cls) or "").splitlines()[0])
    console().print(table)
