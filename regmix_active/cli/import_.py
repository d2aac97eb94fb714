"""``regmix-active import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from regmix_active.cli.common import console, refuse_password, storage_option
from regmix_active.cli.new_study import show_added, show_intake, study_config

if TYPE_CHECKING:
    from rich.console import Console

    from regmix_active.search.active import ActiveSearch
    from regmix_active.study.imported import Intake
    from regmix_active.study.importing import Source
    from regmix_active.study.meaning import Meaning
    from regmix_active.study.record import StudyRecord


@click.command()
@click.argument("source")
@click.option(
    "--config",
    metavar="NAME|FILE|RUN",
    help="Preset, YAML file or run folder of the study that gets them.  [default: embedded]",
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/NAME]")
@storage_option
@click.option(
    "--map", "renames", multiple=True, metavar="THEIRS=OURS", help="A domain or loss that has another name there. Repeatable."
)
@click.option("--absent-is-zero", is_flag=True, help="Domains that SOURCE does not have were not trained on there.")
@click.option("--scale", help="Which of RegMix's scales, such as 1m.  [default: the one with the most runs]")
@click.option("--study", "study", metavar="NAME", help="Name of the study, if SOURCE is a storage.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other key of the configuration. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Say what would be imported, write nothing.")
def command(
    source: str,
    config: str | None,
    out: Path | None,
    storage: str | None,
    renames: tuple[str, ...],
    absent_is_zero: bool,
    scale: str | None,
    study: str | None,
    settings: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Add finished runs of others to a study, which learns from them and does not count them towards its budget.

    SOURCE is a folder with RegMix's CSV files, one with Olmix's ratios.csv and metrics.csv, MIXTURES.csv:LOSSES.csv, a run folder
    or its trials.csv, or the storage of an Optuna study with parameters w/<domain>. Runs that do not fit are listed with their
    reasons. Importing the same runs again adds nothing, and compares their losses with those of the study's own proxies.

    \b
      regmix-active import regmix-data/ --config mine.yaml --scale 1m --dry-run
      regmix-active import runs/old --config mine.yaml --map cc=web
      regmix-active import sqlite:///optuna.db --study theirs --config mine.yaml --map value=books
    """
    from regmix_active.errors import StudyError
    from regmix_active.search.active import ActiveSearch
    from regmix_active.study.imported import Intake, Refusal, describe_refusals
    from regmix_active.study.importing import fit_to, parse_renames, read_source, trial_runs

    screen = console()
    refuse_password(source, "SOURCE")
    names = parse_renames(renames)
    loaded, folder = study_config(config, out, storage, settings)
    found = read_source(source, scale, study)
    search = ActiveSearch(loaded, out=folder)
    with screen.status("reading the corpus"):
        meaning = search.meaning()
    record = _existing(search, meaning)
    intake = fit_to(found.table, meaning, names, absent_is_zero=absent_is_zero)
    own = set() if record is None else {run.key for run in trial_runs(record, imported=False)}
    new = tuple(run for run in intake.runs if run.key not in own)
    refused = [Refusal(run.name, "is a proxy of this study") for run in intake.runs if run.key in own]
    intake = Intake(new, (*found.refused, *intake.refused, *refused), intake.notes)
    show_intake(screen, intake, f"{found.label}:", dry_run=dry_run)
    _show_difference(screen, found, meaning)
    if not intake.runs:
        raise StudyError(f"{found.label}: none of its runs can be imported: {'; '.join(describe_refusals(intake.refused))}")
    if record is not None:
        _show_offsets(screen, search, record, intake)
    if dry_run:
        screen.print("nothing was written (--dry-run)", highlight=False)
        return
    with screen.status(f"writing {len(intake.runs)} runs"):
        added = search.add_runs(intake.runs, found.label, meaning)
    show_added(screen, search, added, len(intake.runs))


def _existing(search: ActiveSearch, meaning: Meaning) -> StudyRecord | None:
    """The study, if it has begun; one of another meaning is refused before anything else is said."""
    import optuna

    from regmix_active.errors import StudyError
    from regmix_active.study.place import Place
    from regmix_active.study.storage import open_storage

    file = Place.parse(search.storage).file
    if file is not None and not file.is_file():
        return None
    try:
        names = optuna.get_all_study_names(open_storage(search.storage, writing=False))
    except StudyError:
        if file is not None:
            raise
        return None  # a database without tables; whatever else is wrong with it is said when it is written
    record = search.open_record() if search.config.name in names else None
    if record is None or record.is_new:
        return None
    record.check(meaning)
    return record


def _show_difference(screen: Console, found: Source, meaning: Meaning) -> None:
    """What a study of ours itself says about how its losses came about."""
    if found.meaning is None:
        return
    theirs, ours = found.meaning.facts, meaning.facts
    differing = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
    if differing:
        lines = [f"  {key}: {theirs.get(key, '(not set)')} → {ours.get(key, '(not set)')}" for key in differing[:8]]
        more = f"\n  and {len(differing) - 8} more" if len(differing) > 8 else ""
        text = "its losses need not mean what this study's do; they differ in (theirs → this study's):\n"
        screen.print(f"warning: {text}" + "\n".join(lines) + more, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _show_offsets(screen: Console, search: ActiveSearch, record: StudyRecord, intake: Intake) -> None:
    """Compare with the study's own proxies, if there are enough."""
    from regmix_active.compare.agreement import LEAST_FITTED, LEAST_PREDICTED, compare_losses
    from regmix_active.study.target import Target

    history = record.history(Target.parse(search.config.target, record.meaning.loss_names))
    with screen.status("comparing losses"):
        offsets = compare_losses(intake.runs, history, search.surrogate)
    if not offsets:
        text = f"losses are not compared: that takes {LEAST_PREDICTED} runs of either side and {LEAST_FITTED} of one"
        screen.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    from regmix_active.report.agreement import offset_table, offset_warning

    screen.print(offset_table(offsets))
    if warning := offset_warning(offsets):
        screen.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
