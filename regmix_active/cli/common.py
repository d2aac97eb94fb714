"""What several verbs share: the run folder argument, options that override the configuration, and how they reach it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from regmix_active.cli import targets
from regmix_active.errors import ConfigError, StudyError

if TYPE_CHECKING:
    from rich.console import Console

    from regmix_active.config.load import LoadedConfig
    from regmix_active.study.table import RunTable
    from regmix_active.study.target import Target

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_RUN = "runs/embedded"

parse_target = targets.parse_target

STORAGE_VARIABLE = "REGMIX_ACTIVE_STORAGE"


def run_argument(function: F) -> F:
    """The run folder of verbs that look at a run."""
    return click.argument("run", default=DEFAULT_RUN, type=click.Path(path_type=Path))(function)


def storage_option(function: F) -> F:
    """Where the study is. A URL with a password comes from the environment alone: everybody can read command lines."""
    return click.option(
        "--storage",
        metavar="URL",
        envvar=STORAGE_VARIABLE,
        callback=_storage,
        help="Where the study is: sqlite:///FILE, journal:///FILE or postgresql://USER@HOST/DATABASE; with a password by the "
        f"environment variable {STORAGE_VARIABLE} alone.  [default: the run folder]",
    )(function)


def _storage(context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    # Processes that train must not see it.
    os.environ.pop(STORAGE_VARIABLE, None)
    if url is None:
        return None
    if context.get_parameter_source("storage") is click.core.ParameterSource.COMMANDLINE:
        refuse_password(url, "--storage")
    return absolute_storage(url)


def refuse_password(url: str, option: str) -> None:
    """Refuse a storage URL with a password that was typed.

    Raises:
        ConfigError: If there is one.
    """
    from regmix_active.study.place import has_password

    if has_password(url):
        raise ConfigError(
            f"{option}: everybody on this machine can read a password that is typed here; change it if it is a real one, leave it "
            f"out, and give it in ~/.pgpass or PGPASSWORD, or the whole URL in {STORAGE_VARIABLE}"
        )


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """The values of ``--set`` by dotted key.

    Raises:
        ConfigError: If one is not ``KEY=VALUE``, or holds the password of a storage.
    """
    from regmix_active.config.load import parse_override

    overrides = dict(parse_override(text) for text in settings)
    if isinstance(url := overrides.get("study.storage"), str):
        refuse_password(url, "--set study.storage")
        overrides["study.storage"] = absolute_storage(url)
    return overrides


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
    if not os.path.isfile(config):  # which takes names that are too long for none
        others = sorted(path.parent.name for path in Path("runs").glob("*/config.yaml"))
        hint = f"runs here: {', '.join(others)}" if others else "start one with `regmix-active run`"
        raise StudyError(f"{run} is not a run folder (config.yaml is missing); {hint}")
    return load_config(config, given(overrides or {}).items())


def absolute_storage(url: str) -> str:
    """The URL of an SQLite or journal file with an absolute path, so that later commands find the file from another folder."""
    from regmix_active.study.place import absolute_url

    return absolute_url(url)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Options that were given on the command line."""
    return {key: value for key, value in options.items() if value is not None}


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
