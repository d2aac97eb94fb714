"""Finished runs from files: which mixture was trained, and which losses it reached.

What other projects publish is read as it is: RegMix's pairs of files, Olmix's ``ratios.csv`` and ``metrics.csv``, and the
``trials.csv`` of our own run folders. Columns have long names there (``metric/the_pile_arxiv_val_loss``); tables show them by what
tells them apart (``arxiv``), and every look-up takes either name.

References:
    [1] Liu et al., RegMix, arXiv 2407.01492: ``{split}_mixture_{scale}.csv`` and ``{split}_pile_loss_{scale}.csv``.
    [2] Chen et al., Olmix (2026): ``ratios.csv`` and ``metrics.csv``.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmix_active.errors import ConfigError
from regmix_active.study.run_csv import ID_COLUMNS, by_id, check_weights, id_columns, read_csv, some
from regmix_active.study.spec import number
from regmix_active.study.target import Target

RATIOS, METRICS, TRIALS = "ratios.csv", "metrics.csv", "trials.csv"

REGMIX_MIXTURES = re.compile(r"(?P<split>.+)_mixture_(?P<scale>[^_]+)\.csv", re.IGNORECASE)

MEAN = "mean"
"""What a target calls the mean of all losses; no loss is shortened to it."""


@dataclass(frozen=True, eq=False)
class RunTable:
    """Finished runs: n mixtures of d domains, and m losses of each.

    Attributes:
        name: For titles, from the file or folder.
        domains: Short names, in the order of the weights.
        loss_names: Short names, in the order of the losses.
        mixtures: Shape ``(n, d)``; rows sum to 1.
        losses: Shape ``(n, m)``; NaN where missing, and never a whole row of it.
        runs: What the file calls each run, n different names.
        domain_columns: The file's own names of the weight columns.
        loss_columns: The file's own names of the loss columns.
        notes: What was left out while reading, in words for the user.
    """

    name: str
    domains: tuple[str, ...]
    loss_names: tuple[str, ...]
    mixtures: NDArray[np.float64]
    losses: NDArray[np.float64]
    runs: tuple[str, ...]
    domain_columns: tuple[str, ...]
    loss_columns: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.runs)

    def subset(self, rows: ArrayLike) -> RunTable:
        """The runs of some rows, given as indices or as a mask."""
        kept = np.arange(len(self))[np.asarray(rows)]
        runs = tuple(self.runs[i] for i in kept)
        return dataclasses.replace(self, mixtures=self.mixtures[kept], losses=self.losses[kept], runs=runs)

    def loss(self, name: str) -> int:
        """Column of a loss, by its short or its full name.

        Raises:
            ConfigError: If there is no such loss.
        """
        return _find(name, self.loss_names, self.loss_columns, "loss", self.name)

    def domain(self, name: str) -> int:
        """Column of a domain, by its short or its full name.

        Raises:
            ConfigError: If there is no such domain.
        """
        return _find(name, self.domains, self.domain_columns, "domain", self.name)

    def target(self, spec: str | Mapping[str, float]) -> Target:
        """A target over these losses: ``mean``, a loss, or weights by loss; names short or full.

        Raises:
            ConfigError: If a name is not a loss, or no weight is above zero.
        """
        if spec == MEAN:
            return Target.parse(MEAN, self.loss_names)
        given = {spec: 1.0} if isinstance(spec, str) else spec
        weights: dict[str, float] = {}
        for name, weight in given.items():
            short = self.loss_names[self.loss(name)]
            if short in weights:
                raise ConfigError(f"target: the loss '{short}' is weighed twice; name it once")
            weights[short] = number(weight, short)
        return Target.parse(weights, self.loss_names)

    def aligned(self, other: RunTable) -> RunTable:
        """These runs with the columns of `other`, matched by full name; losses that are only in `other` are missing here.

        Raises:
            ConfigError: If the domains differ, or no loss is shared.
        """
        mine, theirs = set(self.domain_columns), set(other.domain_columns)
        for column in sorted(mine ^ theirs):
            have, lack = (self, other) if column in mine else (other, self)
            raise ConfigError(
                f"{lack.name}: the domain '{column}' of {have.name} is missing{_near(column, lack.domain_columns)}; runs can be "
                "compared over the same domains only (a domain that was never trained on is a column of zeros)"
            )
        shared = [column for column in other.loss_columns if column in self.loss_columns]
        if not shared:
            raise ConfigError(
                f"{self.name}: shares no loss with {other.name}, which has {some(other.loss_columns)} where this has "
                f"{some(self.loss_columns)}; rename the columns"
            )
        losses = np.full((len(self), len(other.loss_columns)), np.nan)
        for column in shared:
            losses[:, other.loss_columns.index(column)] = self.losses[:, self.loss_columns.index(column)]
        notes, observed = self.notes, ~np.isnan(losses).all(axis=1)
        if missing := [column for column in other.loss_columns if column not in shared]:
            notes = (*notes, f"{self.name} lacks {some(missing)}")
        if not observed.all():
            notes = (
                *notes,
                f"{self.name}: left out the runs without any of these losses: {some(np.array(self.runs)[~observed].tolist())}",
            )
        table = dataclasses.replace(
            self,
            domains=other.domains,
            domain_columns=other.domain_columns,
            mixtures=self.mixtures[:, [self.domain_columns.index(column) for column in other.domain_columns]],
            loss_names=other.loss_names,
            loss_columns=other.loss_columns,
            losses=losses,
            notes=notes,
        )
        return table.subset(observed)

    @staticmethod
    def join(tables: Sequence[RunTable], name: str | None = None) -> RunTable:
        """All runs of several tables over the same domains, with the losses of the first; matched by full column name.

        Runs are called after their table wherever two tables use one name.

        Raises:
            ConfigError: If the domains differ, or a table shares no loss with the first.
        """
        first, parts = tables[0], [tables[0], *(table.aligned(tables[0]) for table in tables[1:])]
        repeated = max(Counter(run for part in parts for run in part.runs).values()) > 1
        runs = tuple(f"{part.name} {run}" if repeated else run for part in parts for run in part.runs)
        if len(set(runs)) < len(runs):
            raise ConfigError(f"{name or first.name}: two of the tables are both called '{first.name}'; join different ones")
        return dataclasses.replace(
            first,
            name=name or " + ".join(table.name for table in tables),
            mixtures=np.concatenate([part.mixtures for part in parts]),
            losses=np.concatenate([part.losses for part in parts]),
            runs=runs,
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )


def read_table(source: str | Path, scale: str | None = None) -> RunTable:
    """Finished runs from whatever holds them.

    Args:
        source: A folder with ``ratios.csv`` and ``metrics.csv`` (Olmix); a folder of ``{split}_mixture_{scale}.csv`` and
            ``{split}_…loss_{scale}.csv`` (RegMix), of which all splits of one scale are joined; a run folder of ours or its
            ``trials.csv``; or two files as ``MIXTURES.csv:LOSSES.csv``.
        scale: Which of RegMix's scales; default: the one with the most runs.

    Raises:
        ConfigError: If nothing of that kind is there, or it cannot be read as runs.
    """
    path = Path(source)
    if path.is_dir() and not (path / RATIOS).is_file() and not (path / TRIALS).is_file():
        return _read_regmix(path, scale)
    if scale is not None:
        raise ConfigError(f"{source}: has no scales to choose '{scale}' from; leave the scale out")
    if path.is_dir():
        return read_runs(path / RATIOS, path / METRICS) if (path / RATIOS).is_file() else read_trials(path / TRIALS)
    if path.is_file():
        return read_trials(path)
    text = str(source)
    for colon in re.finditer(":", text):
        mixtures, losses = Path(text[: colon.start()]), Path(text[colon.end() :])
        if mixtures.is_file() and losses.is_file():
            return read_runs(mixtures, losses)
    first, colon_, second = text.rpartition(":")
    absent = next((part for part in (first, second) if not Path(part).is_file()), text) if colon_ else text
    raise ConfigError(
        f"{absent}: no such file or folder; a table is a folder with {RATIOS} and {METRICS}, RegMix's folder, a run folder, "
        "or MIXTURES.csv:LOSSES.csv"
    )


def read_runs(mixtures: Path, losses: Path) -> RunTable:
    """Runs from a file of weights and a file of losses, joined on the first id column of :data:`ID_COLUMNS` that both have.

    Cells of losses that hold no finite number are missing; runs and losses without any number are left out.

    Raises:
        ConfigError: If a file cannot be read, an id repeats, or weights are no mixture; the message names file and run.
    """
    left, right = read_csv(mixtures), read_csv(losses)
    key, other = id_columns(left, right, mixtures, losses)
    left, right = by_id(left, key, mixtures), by_id(right, other, losses)
    weights = left.drop(columns=[column for column in left if column in ID_COLUMNS])
    metrics = right.drop(columns=[column for column in right if column in ID_COLUMNS])
    runs = [run for run in left.index if run in right.index]
    if not runs:
        raise ConfigError(
            f"{losses}: no run of {mixtures} is here; column '{key}' there holds {some(list(left.index))}, "
            f"column '{other}' here {some(list(right.index))}"
        )
    return _table(_pair_name(mixtures), mixtures, losses, weights.loc[runs], metrics.loc[runs])


def read_trials(path: Path) -> RunTable:
    """The completed proxies of a run folder's ``trials.csv``.

    Raises:
        ConfigError: If it is not such a file, or holds no completed proxy.
    """
    frame = read_csv(path)
    columns = list(frame.columns)
    weights = [column for column in columns if column.startswith("w/")]
    losses = [column for column in columns if column.startswith("loss/")]
    if not weights or not losses or "slot" not in columns or "state" not in columns:
        raise ConfigError(
            f"{path}: is not the {TRIALS} of a run folder (columns slot, state, w/… and loss/…); weights and losses in two files "
            "are given as MIXTURES.csv:LOSSES.csv"
        )
    frame = by_id(frame, "slot", path)
    frame = frame[frame["state"] == "complete"]
    if not len(frame):
        raise ConfigError(f"{path}: holds no completed proxy; continue its search with `regmix-active run`")
    table = _table(path.resolve().parent.name, path, path, frame[weights], frame[losses])
    # The study's own names, whatever they have in common.
    short = [tuple(c.partition("/")[2] for c in names) for names in (table.domain_columns, table.loss_columns)]
    return dataclasses.replace(table, domains=short[0], loss_names=short[1])


def short_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Column names without what all of them begin or end with, cut where words meet; the full names where that would not read."""
    names = list(columns)
    if len(names) < 2:
        return tuple(names)
    for cut in (_without_prefix, _without_suffix):
        cut_names = cut(names)
        # Cutting alike keeps different names different, but `domain_1` must not become `1`.
        if all(re.search(r"[^\W\d_]", name) for name in cut_names):
            names = cut_names
    return tuple(full if name == MEAN else name for name, full in zip(names, columns, strict=True))


def _without_prefix(names: list[str]) -> list[str]:
    low, high = min(names), max(names)  # what these two share, all between them do
    differ = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    shared = low[: next(differ, min(len(low), len(high)))]
    ends = [match.end() for match in re.finditer(r"[\W_]+", shared)]
    return [name[ends[-1] :] for name in names] if ends else names


def _without_suffix(names: list[str]) -> list[str]:
    return [name[::-1] for name in _without_prefix([name[::-1] for name in names])]


def _read_regmix(folder: Path, scale: str | None) -> RunTable:
    pairs: dict[str, list[tuple[str, Path, Path]]] = {}
    files = sorted(folder.glob("*.csv"))
    for path in files:
        if not (match := REGMIX_MIXTURES.fullmatch(path.name)):
            continue
        split, size = match["split"], match["scale"]
        pattern = re.compile(rf"{re.escape(split)}_(.*_)?loss_{re.escape(size)}\.csv", re.IGNORECASE)
        found = [other for other in files if pattern.fullmatch(other.name)]
        if len(found) > 1:
            raise ConfigError(f"{folder}: several losses for {path.name}; name the two files as MIXTURES.csv:LOSSES.csv")
        if found:
            pairs.setdefault(size.lower(), []).append((split, path, found[0]))
    if not pairs:
        raise ConfigError(
            f"{folder}: holds no runs; expected {RATIOS} and {METRICS} (Olmix), {{split}}_mixture_{{scale}}.csv and "
            f"{{split}}_…loss_{{scale}}.csv (RegMix), or the {TRIALS} of a run folder"
        )
    if scale is not None and scale.lower() not in pairs:
        raise ConfigError(f"{folder}: no runs of scale '{scale}'; scales here: {', '.join(sorted(pairs))}")
    joined = []
    for size, members in pairs.items():
        if scale is None or size == scale.lower():
            # Training runs first: their columns lead, and a row's number then says where it was.
            members.sort(key=lambda member: (member[0] != "train", member[0]))
            tables = [read_runs(mixtures, losses) for _, mixtures, losses in members]
            title = f"{folder.resolve().name} {REGMIX_MIXTURES.fullmatch(members[0][1].name)['scale']}"  # type: ignore[index]
            joined.append(RunTable.join(tables, name=title))
    return max(joined, key=len)


def _table(name: str, mixtures: Path, losses: Path, weights: pd.DataFrame, metrics: pd.DataFrame) -> RunTable:
    if weights.shape[1] < 2:
        raise ConfigError(f"{mixtures}: needs two or more columns of weights, has {some(list(weights.columns)) or 'none'}")
    notes = []
    Y = metrics.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    Y = np.where(np.isfinite(Y), Y, np.nan)  # a diverged run's infinite loss says as little as a missing one
    seen = ~np.isnan(Y)
    if not seen.any():
        raise ConfigError(f"{losses}: no column of losses holds a number (columns: {some(list(metrics.columns)) or 'none'})")
    columns, rows = seen.any(axis=0), seen.any(axis=1)
    if not columns.all():
        notes.append(f"{losses.name}: left out {some(list(metrics.columns[~columns]))}, without a number in any run")
    if not rows.all():
        notes.append(f"{losses.name}: left out the runs without any loss: {some(list(weights.index[~rows]))}")
    weights, Y = weights.loc[rows], Y[rows][:, columns]
    full = tuple(str(column) for column in metrics.columns[columns])
    domains, runs = tuple(str(column) for column in weights.columns), tuple(str(run) for run in weights.index)
    X = check_weights(weights, mixtures)
    return RunTable(name, short_names(domains), short_names(full), X, Y, runs, domains, full, tuple(notes))


def _pair_name(mixtures: Path) -> str:
    if match := REGMIX_MIXTURES.fullmatch(mixtures.name):
        return f"{match['split']} {match['scale']}"
    return mixtures.resolve().parent.name if mixtures.name == RATIOS else mixtures.stem


def _find(name: str, short: tuple[str, ...], full: tuple[str, ...], kind: str, table: str) -> int:
    for names in (short, full):
        if name in names:
            return names.index(name)
    hint = _near(name, (*short, *full)) or f"; there are: {some(short, 20)}"
    raise ConfigError(f"{table}: unknown {kind} '{name}'{hint}")


def _near(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
