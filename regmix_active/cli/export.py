"""``regmix-active export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from regmix_active.cli.common import console, load_run, run_argument
from regmix_active.errors import ConfigError

FILE = click.Path(path_type=Path)


def _tokens(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A whole number of tokens, also as 2e12 or 500_000_000."""
    if value is None:
        return None
    try:
        number = int(value) if value.replace("_", "").isdecimal() else float(value)
        if number < 1 or number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r}: write a number of tokens, such as 2e12 or 500_000_000") from None
    return int(number)


@click.command()
@run_argument
@click.option("--format", "name", metavar="NAME", default="list", help="The trainer's format; without it they are listed.")
@click.option(
    "-o", "--output", metavar="FILE|FOLDER", type=FILE, help="Where to write; one file goes to standard output without it."
)
@click.option("--mixture", metavar="FILE", type=FILE, help="Weights of a YAML or JSON file (name: weight) instead of a run's.")
@click.option(
    "--paths", metavar="FILE", type=FILE, help="Where the data is: name: path or list; or train:, valid:, test: of these."
)
@click.option("--tokens", metavar="FILE", type=FILE, help="Training tokens that there are: name: tokens.")
@click.option("--lengths", metavar="FILE", type=FILE, help="Mean tokens of a document: name: tokens.")
@click.option("--target-tokens", metavar="N", callback=_tokens, help="Tokens that the target model is trained on.")
@click.option("--sequence-length", metavar="N", callback=_tokens, help="Tokens in one of its training rows.")
@click.option(
    "--option", "options", metavar="KEY=VALUE", multiple=True, help="An option of the format, as listed; may be repeated."
)
@click.option("--force", is_flag=True, help="Overwrite files.")
def command(
    run: Path,
    name: str,
    output: Path | None,
    mixture: Path | None,
    paths: Path | None,
    tokens: Path | None,
    lengths: Path | None,
    target_tokens: int | None,
    sequence_length: int | None,
    options: Sequence[str],
    force: bool,
) -> None:
    """Write the mixture of RUN as a trainer reads it.

    \b
      regmix-active export --format list
      regmix-active export runs/mine --format megatron --paths paths.yaml -o blend/
      regmix-active export --mixture mixture.json --format hf-interleave --paths paths.yaml --lengths lengths.yaml

    Weights are shares of training tokens; each format says what its trainer means by a weight, and it is converted. How often the
    target run repeats each domain is shown beside it.
    """
    from rich.console import Console
    from rich.markup import escape

    from regmix_active.export import available, load_exporter
    from regmix_active.export.base import repeated
    from regmix_active.export.sources import Facts, cautions, from_file, from_run
    from regmix_active.export.table import formats_table, mixture_table
    from regmix_active.export.writing import write_files

    if name == "list":
        console().print(formats_table(available()))
        return
    exporter = load_exporter(name, dict(map(_option, options)))
    facts = Facts(paths, tokens, lengths, target_tokens, sequence_length)
    said: list[str] = []
    if mixture is not None:
        handover = from_file(mixture, facts)
    else:
        config = load_run(run).config
        handover = from_run(run, config, facts, text_paths=exporter.data == "text")
        said = cautions(config, facts, handover)
    files = exporter.render(handover)
    if output is None and len(files) > 1:
        raise ConfigError(f"--format {name} writes {len(files)} files ({', '.join(files)}); name a folder for them with -o")
    # Standard output is the file, where none is named; what is for people goes beside it.
    screen = console() if output is not None else Console(stderr=True, width=None if Console(stderr=True).is_terminal else 100)
    written = [] if output is None else write_files(files, output, force)
    if output is None:
        click.echo(next(iter(files.values())), nl=False)
    screen.print(mixture_table(exporter, handover))
    for line in [*said, *repeated(handover), *exporter.notes(exporter.ready(handover))]:
        screen.print(f"[yellow]note:[/] {escape(line)}", highlight=False, soft_wrap=True)
    for path in written:
        screen.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _option(text: str) -> tuple[str, Any]:
    from regmix_active.config.plain_yaml import parse_yaml

    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--option {text}: write KEY=VALUE, for example --option seed=7")
    return key.strip().replace("-", "_"), parse_yaml(value, f"--option {text}")[0]
