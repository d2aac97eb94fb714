"""What several verbs share: the run folder argument, options that override the configuration, and how they reach it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from regmix_active.errors import ConfigError, StudyError

if TYPE_CHECKING:
    from rich.console import Console

    from regmix_active.config.load import LoadedConfig
    from regmix_active.study.table import RunTable
    from regmix_active.study.target import Target

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_RUN = "runs/embedded"


def run_argument(function: F) -> F:
    """The run folder of verbs that look at a run."""
    return click.argument("run", default=DEFAULT_RUN, type=click.Path(path_type=Path))(function)


def storage_option(function: F) -> F:
    """For studies whose storage needs a password: the run folder does not keep it."""
    return click.option("--storage", metavar="URL", help="Storage of the study, if the run folder's URL lacks its password.")(
        function
    )


def console() -> Console:
    """Standard output, wide enough for a log file to hold the tables."""
    from rich.console import Console

    plain = Console()
    return plain if plain.is_terminal else Console(width=100)


def load_run(run: Path, overrides: dict[str, Any] | None = None) -> LoadedConfig:
    """The resolved configuration of a run folder, with overrides.

    Raises:
        StudyError: If the folder is not a run's.
    """
    from regmix_active.config.load import load_config

    config = run / "config.yaml"
    if not config.is_file():
        others = sorted(path.parent.name for path in Path("runs").glob("*/config.yaml"))
        hint = f"runs here: {', '.join(others)}" if others else "start one with `regmix-active run`"
        raise StudyError(f"{run} is not a run folder (config.yaml is missing); {hint}")
    return load_config(config, given(overrides or {}).items())


def absolute_storage(url: str) -> str:
    """An SQLite URL with an absolute path, so that later commands find the file from another folder."""
    prefix = "sqlite:///"
    path = url.removeprefix(prefix)
    return prefix + str(Path.cwd() / path) if url.startswith(prefix) and path not in ("", ":memory:") else url


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Options that were given on the command line."""
    return {key: value for key, value in options.items() if value is not None}


def parse_target(text: str | None) -> Any:
    """``mean``, ``books`` or ``books=0.7,code=0.3`` as a target of the configuration.

    Raises:
        click.BadParameter: If a weight is not a number.
    """
    if text is None or text == "mean":
        return text
    weights = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            weights[name.strip()] = float(weight or 1)
        except ValueError:
            raise click.BadParameter(
                f"{part!r}: write NAME or NAME=WEIGHT, for example books=0.7,code=0.3", param_hint="--target"
            ) from None
    return weights


def table_targets(specs: Sequence[str], table: RunTable) -> dict[str, Target]:
    """Targets over the losses of recorded runs, by what was typed.

    Raises:
        ConfigError: If a loss is unknown.
        click.BadParameter: If a weight is not a number.
    """
    # A column of someone else's may hold a comma or an equals sign: a whole name goes first.
    names = {*table.loss_names, *table.loss_columns}
    return {spec: table.target({spec: 1.0} if spec in names and spec != "mean" else parse_target(spec)) for spec in specs}


def check_outputs(json_file: Path | None, plots: Path | None) -> None:
    """Refuse now what could not be written after an hour.

    Raises:
        ConfigError: If the file's folder is missing, or the folder cannot be made.
    """
    if json_file is not None:
        if not json_file.parent.is_dir():
            raise ConfigError(f"--json {json_file}: there is no folder {json_file.parent}; make it, or name another file")
        if json_file.is_dir():
            raise ConfigError(f"--json {json_file}: is a folder; name a file")
    if plots is not None:
        try:
            plots.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--plots {plots}: cannot be made ({error.strerror}); name another folder") from None


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write figures with the versions that they depend on.

    Raises:
        ConfigError: If the file cannot be written.
    """
    import json

    from regmix_active.atomic import write_atomically
    from regmix_active.report.folder import versions

    try:
        write_atomically(file, json.dumps({**content, "versions": versions()}, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ConfigError(f"--json {file}: cannot be written ({error.strerror}); name another file") from None
