"""What the verbs share that begin a study with runs of others: its configuration, and what became of the runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from regmix_active.cli.common import absolute_storage, given, parse_settings

if TYPE_CHECKING:
    from rich.console import Console

    from regmix_active.config.load import LoadedConfig
    from regmix_active.search.active import ActiveSearch
    from regmix_active.study.imported import Intake


def study_config(
    config: str | None, out: Path | None, storage: str | None, settings: tuple[str, ...] = ()
) -> tuple[LoadedConfig, Path]:
    """The configuration of the study that gets the runs, and its run folder.

    Args:
        config: Preset, file or run folder; default: that of the run folder `out` if it has one, else the preset ``embedded``.
        out: Run folder; default: the one named as `config`, or ``runs/NAME``.
        storage: Overrides ``study.storage``.
        settings: ``KEY=VALUE`` texts.

    Raises:
        ConfigError: If the configuration is wrong.
    """
    from regmix_active.config.load import load_config

    folder = out
    if config is None:
        inside = None if out is None else out / "config.yaml"
        source: str | Path = inside if inside is not None and inside.is_file() else "embedded"
    elif (Path(config) / "config.yaml").is_file():
        source, folder = Path(config) / "config.yaml", out or Path(config)
    else:
        source = config
    overrides = parse_settings(settings)
    overrides |= given({"study.storage": None if storage is None else absolute_storage(storage)})
    loaded = load_config(source, overrides.items())
    return loaded, folder or Path("runs") / loaded.config.name


def show_intake(screen: Console, intake: Intake, title: str, *, dry_run: bool) -> None:
    """What fits, what was changed, and what does not fit."""
    from regmix_active.study.imported import describe_refusals

    verb = "would be imported" if dry_run else "fit"
    lines = [f"{title} {len(intake.runs)} of {len(intake.runs) + len(intake.refused)} runs {verb}"]
    lines += [f"  {note}" for note in intake.notes]
    lines += [f"  left out, {line}" for line in describe_refusals(intake.refused)]
    screen.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def show_added(screen: Console, search: ActiveSearch, added: int, fitting: int) -> None:
    """What was written, and what to do next."""
    there = f"; {fitting - added} were there already" if added < fitting else ""
    again = f"regmix-active run --config {search.folder.config} --out {search.folder.path}"
    screen.print(f"{added} runs added{there}\nnext: {again}", markup=False, highlight=False, soft_wrap=True)
