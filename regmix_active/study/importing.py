"""Finished runs of others, made to fit a study: read from wherever they are, matched by name, checked one by one.

A run enters if its mixture is one of the study's domains and at least one of its losses is one of the study's. What others
call them is matched by short or full name (:mod:`regmix_active.study.table`), or as the user says. Nobody can prove that a loss
of theirs means what ours does; :mod:`regmix_active.compare.agreement` measures it.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL

from regmix_active.errors import ConfigError, StudyError
from regmix_active.study.imported import NEGLIGIBLE, ImportedRun, Intake, Refusal
from regmix_active.study.meaning import Meaning
from regmix_active.study.place import Place, absolute_url, public_url
from regmix_active.study.record import StudyRecord
from regmix_active.study.run_csv import SUM_TOLERANCE, some
from regmix_active.study.storage import default_storage, open_storage, open_study
from regmix_active.study.table import RunTable, read_table
from regmix_active.study.trials import PREFIX

MOST_NATS = 100.0
"""A loss above this, or below zero, is not one in nats per token."""

VALUE = "value"
"""What the loss of someone's study is called that keeps nothing but Optuna's value."""

STORAGE_HEADS = {"sqlite": b"SQLite format 3\x00", "journal": b'{"op_code":'}


@dataclass(frozen=True, eq=False)
class Source:
    """Finished runs as they are where they come from.

    Attributes:
        table: The runs.
        label: Where they are from, and a hash of what they are or the storage's public address.
        meaning: What they have in common, if the study is one of ours.
        refused: Trials that are no runs of a mixture.
    """

    table: RunTable
    label: str
    meaning: Meaning | None = None
    refused: tuple[Refusal, ...] = ()


def read_source(source: str, scale: str | None = None, study: str | None = None) -> Source:
    """Runs from a table (see :func:`read_table`), a run folder of ours, or an Optuna study in a storage.

    Args:
        source: A path, a pair of paths, or the URL of a storage.
        scale: Which of RegMix's scales; default: the one with the most runs.
        study: Name of the study in a storage; may be left out where there is only one.

    Raises:
        ConfigError: If there is nothing of that kind.
        StudyError: If the study does not minimise, or holds no mixtures.
    """
    path, url = Path(source), source if "://" in source else None
    if url is None and path.is_dir() and (path / "study.db").is_file():
        url = default_storage(path)
    elif url is None and path.is_file() and (kind := _storage_kind(path)) is not None:
        url = URL.create(kind, database=str(path.resolve())).render_as_string()
    if url is None:
        if study is not None:
            raise ConfigError(f"--study {study}: {source} is a table, not a storage with studies; leave --study out")
        table = read_table(source, scale)
        return Source(table, f"{table.name} ({_digest(table)})")
    if scale is not None:
        raise ConfigError(f"--scale {scale}: {public_url(url)} is a storage and has no scales; leave --scale out")
    return _read_study(url, study)


def fit_to(table: RunTable, meaning: Meaning, renames: Mapping[str, str] | None = None, *, absent_is_zero: bool = False) -> Intake:
    """The runs of a table as runs of a study.

    Args:
        table: Finished runs.
        meaning: Of the study.
        renames: Names of the study by those of the table, short or full; of domains, losses or both.
        absent_is_zero: Domains of the study that the table does not have were not trained on.

    Raises:
        ConfigError: If a name is unknown, a domain of the study is missing, or no loss is shared.
    """
    names = dict(renames or {})
    _check_renames(names, table, meaning)
    domains = _matched(table.domains, table.domain_columns, meaning.domains, names, "domain", table.name)
    losses = _matched(table.loss_names, table.loss_columns, meaning.loss_names, names, "loss", table.name)
    absent = [name for name in meaning.domains if name not in domains]
    strange = [j for j in range(len(table.domains)) if j not in domains.values()]
    if len(absent) == len(meaning.domains) or (absent and not absent_is_zero):
        free = [table.domains[j] for j in strange]
        hint = f"--map {free[0]}={absent[0]}" if free else f"--map THEIRS={absent[0]}"
        zero = "" if len(absent) == len(meaning.domains) else "; if these runs never trained on it, add --absent-is-zero"
        raise ConfigError(
            f"{table.name}: lacks the study's domain {some([repr(name) for name in absent])} (it has: {some(table.domains, 8)}); "
            f"if it is called otherwise there, rename it, such as {hint}{zero}"
        )
    if not losses:
        raise ConfigError(
            f"{table.name}: has no loss of the study ({some(meaning.loss_names, 8)}), only {some(table.loss_names, 8)}; "
            f"if one of them is the same, rename it: --map {table.loss_names[0]}={meaning.loss_names[0]}"
        )
    notes = list(table.notes)
    if absent:
        notes.append(f"domains that {table.name} lacks count as weight 0: {some(absent, 8)}")
    if unknown := [name for name in meaning.loss_names if name not in losses]:
        notes.append(f"losses that {table.name} lacks stay unknown: {some(unknown, 8)}")
    if unused := [name for j, name in enumerate(table.loss_names) if j not in losses.values()]:
        notes.append(f"losses that the study does not have are left out: {some(unused, 8)}")
    runs: list[ImportedRun] = []
    refused: list[Refusal] = []
    for i, name in enumerate(table.runs):
        mixture = table.mixtures[i]
        heaviest = max(strange, key=lambda j: mixture[j], default=None)
        if heaviest is not None and mixture[heaviest] > NEGLIGIBLE:
            reason = f"spent {{share}} on '{table.domains[heaviest]}', which the study does not have"
            refused.append(Refusal(name, reason, float(mixture[heaviest])))
            continue
        known = {ours: float(table.losses[i, j]) for ours, j in losses.items() if not math.isnan(table.losses[i, j])}
        wrong = next((ours for ours, loss in known.items() if not 0 <= loss <= MOST_NATS), None)
        if wrong is not None:
            reason = f"a loss of {{value}} for '{wrong}' is none in nats per token (0 to {MOST_NATS:.0f})"
            refused.append(Refusal(name, reason, known[wrong]))
        elif not known:
            refused.append(Refusal(name, "has none of the study's losses"))
        else:
            weights = np.array([mixture[domains[ours]] if ours in domains else 0.0 for ours in meaning.domains])
            runs.append(ImportedRun(name, weights / weights.sum(), known))
    return Intake(tuple(runs), tuple(refused), tuple(notes))


def parse_renames(texts: Sequence[str]) -> dict[str, str]:
    """``THEIRS=OURS`` pairs; theirs may hold an equals sign, ours may not.

    Raises:
        ConfigError: If one is not a pair, or names theirs twice.
    """
    renames: dict[str, str] = {}
    for text in texts:
        theirs, equals, ours = (part.strip() for part in text.rpartition("="))
        if not (theirs and equals and ours):
            raise ConfigError(f"--map {text}: write THEIRS=OURS, such as --map pile_cc=web")
        if theirs in renames:
            raise ConfigError(f"--map {text}: '{theirs}' is renamed to '{renames[theirs]}' already; rename it once")
        renames[theirs] = ours
    return renames


def trial_runs(record: StudyRecord, *, imported: bool = True) -> list[ImportedRun]:
    """What a study of ours has learnt: its completed proxies, after what it imported itself (unless that is not wanted).

    Proxies of a second seed are left out: they differ from the others by more than their mixtures.
    """
    runs = []
    completed = record.trials(TrialState.COMPLETE)
    first = [trial for trial, number in zip(completed, record.seed_numbers(completed), strict=True) if number == 0]
    for trial in [*(record.imported() if imported else ()), *first]:
        attributes = trial.user_attrs
        name = attributes.get("run") or f"slot {attributes['slot']}"
        runs.append(ImportedRun(str(name), record.weights(trial), dict(attributes["losses"]), tuple(attributes.get("notes", ()))))
    return runs


def _check_renames(renames: Mapping[str, str], table: RunTable, meaning: Meaning) -> None:
    theirs_all = (*table.domains, *table.domain_columns, *table.loss_names, *table.loss_columns)
    ours_all = (*meaning.domains, *meaning.loss_names)
    for theirs, ours in renames.items():
        for name, known, whose in ((theirs, theirs_all, table.name), (ours, ours_all, "the study")):
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"it has: {some(tuple(dict.fromkeys(known)), 12)}"
                raise ConfigError(f"--map {theirs}={ours}: {whose} has no '{name}'; {hint}")


def _matched(
    short: Sequence[str], full: Sequence[str], ours: Sequence[str], renames: Mapping[str, str], kind: str, table: str
) -> dict[str, int]:
    """Column of the table by our name."""
    found: dict[str, int] = {}
    for j, names in enumerate(zip(short, full, strict=True)):
        renamed = next((renames[name] for name in names if name in renames), None)
        candidates = names if renamed is None else (renamed,)
        name = next((name for name in candidates if name in ours), None)
        if name is None:
            continue
        if name in found:
            raise ConfigError(
                f"{table}: the {kind} '{name}' of the study would be both '{full[found[name]]}' and '{full[j]}'; "
                "rename one of them with --map"
            )
        found[name] = j
    return found


def _storage_kind(path: Path) -> str | None:
    """Which storage a file is, by how it begins."""
    with path.open("rb") as file:
        head = file.read(16)
    return next((kind for kind, beginning in STORAGE_HEADS.items() if head.startswith(beginning)), None)


def _digest(table: RunTable) -> str:
    """Short hash of what the runs are, whichever way they were read."""
    digest = hashlib.sha256(repr((table.domain_columns, table.loss_columns)).encode())
    digest.update(np.ascontiguousarray(table.mixtures).tobytes() + np.ascontiguousarray(table.losses).tobytes())
    return f"sha256 {digest.hexdigest()[:8]}"


def _read_study(url: str, name: str | None) -> Source:
    file = Place.parse(url).file
    if file is not None and not file.is_file():
        raise ConfigError(f"{public_url(url)}: there is no file {file}")
    storage = open_storage(url, writing=False)
    names = sorted(optuna.get_all_study_names(storage))
    if name is None and len(names) != 1:
        hint = f"it holds: {some(names, 12)}; name one with --study" if names else "it is empty"
        raise ConfigError(f"{public_url(url)}: which study? {hint}")
    if name is not None and name not in names:
        raise ConfigError(f"--study {name}: no such study in {public_url(url)}; it holds: {some(names, 12) or 'none'}")
    study = open_study(storage, url, name or names[0], create=False)
    label = f"{public_url(absolute_url(url))} {study.study_name}"
    if study.user_attrs.get("regmix_active") is not None:
        record = StudyRecord(study)
        meaning, runs = record.meaning, trial_runs(record)
        if not runs:
            raise StudyError(f"study {study.study_name!r} in {public_url(url)} holds no completed proxy")
        losses = [[run.losses.get(loss, math.nan) for loss in meaning.loss_names] for run in runs]
        table = _table_of(study.study_name, meaning.domains, meaning.loss_names, [r.weights for r in runs], losses, _names(runs))
        return Source(table, label, meaning)
    table, refused = _foreign_table(study, public_url(url))
    return Source(table, label, None, tuple(refused))


def _names(runs: Sequence[ImportedRun]) -> list[str]:
    return [f"{run.name} ({i + 1})" if [r.name for r in runs].count(run.name) > 1 else run.name for i, run in enumerate(runs)]


def _foreign_table(study: optuna.Study, url: str) -> tuple[RunTable, list[Refusal]]:
    """Completed trials of anybody's study that has parameters ``w/<domain>``."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    columns = list(dict.fromkeys(key for trial in trials for key in trial.params if key.startswith(PREFIX)))
    if len(columns) < 2:
        found = some(sorted({key for trial in trials for key in trial.params}), 8)
        raise StudyError(
            f"study {study.study_name!r} in {url} holds no mixtures: weights are parameters {PREFIX}<domain> of completed trials"
            f" (of {len(trials)} completed ones here; their parameters: {found or 'none'})"
        )
    losses = [_losses(trial) for trial in trials]
    loss_names = tuple(dict.fromkeys(name for known in losses for name in known))
    rows: list[tuple[str, np.ndarray, list[float]]] = []
    refused = []
    for trial, known in zip(trials, losses, strict=True):
        name = f"trial {trial.number}"
        weights = np.array([trial.params.get(column, math.nan) for column in columns], dtype=np.float64)
        if np.isnan(weights).any():
            refused.append(Refusal(name, "has no weight for every domain"))
        elif (weights < -NEGLIGIBLE).any():
            refused.append(Refusal(name, "has the negative weight {value}", float(weights.min())))
        elif abs(weights.sum() - 1) > SUM_TOLERANCE:
            refused.append(Refusal(name, "weights sum to {value}, not to 1", float(weights.sum())))
        elif not known:
            refused.append(Refusal(name, "has no finite loss"))
        else:
            weights = np.clip(weights, 0.0, None)
            rows.append((name, weights / weights.sum(), [known.get(loss, math.nan) for loss in loss_names]))
    if not rows:
        raise StudyError(f"study {study.study_name!r} in {url}: none of its {len(trials)} trials is a run of a mixture with losses")
    domains = tuple(column.removeprefix(PREFIX) for column in columns)
    names, mixtures, values = zip(*rows, strict=True)
    return _table_of(study.study_name, domains, loss_names, mixtures, values, names), refused


def _losses(trial: FrozenTrial) -> dict[str, float]:
    """What a trial lost: its attribute ``losses``, or its value."""
    given = trial.user_attrs.get("losses")
    given = given if isinstance(given, Mapping) else {VALUE: trial.value}
    numbers = {str(name): loss for name, loss in given.items() if isinstance(loss, int | float) and not isinstance(loss, bool)}
    return {name: float(loss) for name, loss in numbers.items() if math.isfinite(loss)}


def _table_of(
    name: str,
    domains: tuple[str, ...],
    losses: tuple[str, ...],
    mixtures: Sequence[np.ndarray],
    values: Sequence[Sequence[float]],
    runs: Sequence[str],
) -> RunTable:
    return RunTable(name, domains, losses, np.array(mixtures), np.array(values, dtype=np.float64), tuple(runs), domains, losses)
