"""``regmix-active export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from regmix_active.cli.common import console, load_run, run_argument
from regmix_active.errors import ConfigError

if TYPE_CHECKING:
    from regmix_active.export import Handover
    from regmix_active.export.sources import Facts

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
@click.option("--format", "name", metavar="NAME", help="The trainer's format; `list` shows them all.")
@click.option(
    "-o",
    "--output",
    metavar="FILE|FOLDER/|-",
    help="Where to write; - is standard output, where one file goes without it.",
)
@click.option(
    "--mixture",
    metavar="FILE",
    type=FILE,
    help="Weights of a YAML or JSON file (name: weight), or a CSV file, instead of a run's.",
)
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
@click.option(
    "--drop-below",
    metavar="SHARE",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Leave out domains of smaller shares, and renormalise the others.",
)
@click.option("--force", is_flag=True, help="Overwrite files.")
@click.pass_context
def command(
    context: click.Context,
    run: Path,
    name: str | None,
    output: str | None,
    mixture: Path | None,
    paths: Path | None,
    tokens: Path | None,
    lengths: Path | None,
    target_tokens: int | None,
    sequence_length: int | None,
    options: Sequence[str],
    drop_below: float | None,
    force: bool,
) -> None:
    """Write the mixture of RUN as a trainer reads it.

    \b
      regmix-active export --format list
      regmix-active export runs/mine --format megatron --paths paths.yaml -o blend/
      regmix-active export --mixture mixture.json --format hf-interleave --paths paths.yaml --lengths lengths.yaml

    Weights are shares of training tokens; each format says what its trainer means by a weight, and it is converted. How often the
    target run repeats each domain is shown beside it. A mixture that breaks a constraint of its run is refused.
    """
    from rich.console import Console
    from rich.markup import escape

    from regmix_active.export import load_exporter
    from regmix_active.export.base import dusty, repeated
    from regmix_active.export.sources import Facts, from_file
    from regmix_active.export.terminal import mixture_table
    from regmix_active.export.writing import write_files

    typed = [key for key in context.params if context.get_parameter_source(key) is ParameterSource.COMMANDLINE]
    if not name or name == "list":
        _list(context, name, typed)
        return
    if mixture is not None and "run" in typed:
        raise ConfigError(f"{run} and --mixture {mixture}: each has weights; give one of them")
    exporter = load_exporter(name, dict(map(_option, options)))
    facts = Facts(paths, tokens, lengths, target_tokens, sequence_length)
    said: list[str] = []
    if mixture is not None:
        handover = from_file(mixture, facts)
        handover = handover if drop_below is None else handover.without_below(drop_below)
    else:
        handover, said = _of_run(run, facts, drop_below, text=exporter.data == "text")
    files = exporter.render(handover)
    aside = output in (None, "-")
    if aside and len(files) > 1:
        raise ConfigError(f"--format {name} writes {len(files)} files ({', '.join(files)}); name a folder for them with -o")
    # Where standard output is the file, what is for people goes beside it.
    screen = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 100) if aside else console()
    written = [] if output is None or aside else write_files(files, output, force)
    if aside:
        click.echo(next(iter(files.values())), nl=False)
    screen.print(mixture_table(exporter, handover))
    ready = exporter.ready(handover)
    for line in [*handover.notes, *said, *repeated(handover), *dusty(handover), *exporter.notes(ready)]:
        screen.print(f"[yellow]note:[/] {escape(line)}", highlight=False, soft_wrap=True)
    for path in written:
        screen.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _list(context: click.Context, name: str | None, typed: Sequence[str]) -> None:
    """Show the formats: asked for, or because none was named.

    Raises:
        click.UsageError: If none was named.
        ConfigError: If other options were given, which a list makes nothing of.
    """
    from rich.console import Console

    from regmix_active.export import available
    from regmix_active.export.terminal import formats_table

    if name == "list":
        if others := [key for key in typed if key not in ("name", "run")]:
            option = next(p.opts[-1] for p in context.command.params if p.name == others[0])
            raise ConfigError(f"--format list: shows the formats, and makes nothing of {option}; leave it out, or name a format")
        console().print(formats_table(available()))
        return
    Console(stderr=True, width=None if Console(stderr=True).is_terminal else 100).print(formats_table(available()))
    raise click.UsageError("name a format with --format", context)


def _of_run(run: Path, facts: Facts, drop_below: float | None, text: bool) -> tuple[Handover, list[str]]:
    """The mixture of a run, which its constraints allow, and what to know about its numbers."""
    from regmix_active.export.feasibility import RunConstraints
    from regmix_active.export.sources import Facts, cautions, from_run, with_facts

    config = load_run(run).config
    recorded = from_run(run, config, Facts(), text_paths=text)
    constraints = RunConstraints(run, config, recorded)
    constraints.check(recorded)
    handover = with_facts(recorded, facts)
    if drop_below is not None:
        handover = handover.without_below(drop_below)
        constraints.check(handover, f"leave out less than --drop-below {drop_below:g} does")
    return handover, [*constraints.notes, *cautions(config, facts, handover)]


def _option(text: str) -> tuple[str, Any]:
    from regmix_active.config.plain_yaml import parse_yaml

    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--option {text}: write KEY=VALUE, for example --option seed=7")
    return key.strip().replace("-", "_"), parse_yaml(value, f"--option {text}")[0]
