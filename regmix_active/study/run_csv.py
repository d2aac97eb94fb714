"""CSV files of finished runs, cell by cell: what is an id, what is a number, and what is wrong where."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmix_active.errors import ConfigError

ID_COLUMNS = ("run", "run_id", "index", "name")
"""Columns that name a run, the most trusted first; everything else in a file is a weight or a loss."""

SUM_TOLERANCE = 0.02
"""How far the weights of a run may be from summing to 1: published ones are rounded to three digits."""


def read_csv(path: Path) -> pd.DataFrame:
    """A file as text, cell by cell; ids stay what they are written as.

    Raises:
        ConfigError: If it cannot be read, names a column twice, or holds no row.
    """
    try:
        # Without a header, so that two columns of one name are seen.
        frame = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ConfigError(f"{path}: cannot be read as CSV ({str(error).strip()})") from None
    names = [str(name).strip() for name in frame.iloc[0]]
    for j, name in enumerate(names):
        if name.lower() in ID_COLUMNS:
            names[j] = name.lower()
    if names[0] in ("", "Unnamed: 0"):  # what pandas writes for its row labels
        names[0] = "index" if "index" not in names else "run labels"
    frame = frame.iloc[1:].reset_index(drop=True)
    frame.columns = names
    if "run labels" in names:
        frame = frame.drop(columns="run labels")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{path}: two columns are named '{twice[0]}'; rename or remove one")
    if not len(frame):
        raise ConfigError(f"{path}: holds no runs, only column names")
    return frame


def id_columns(left: pd.DataFrame, right: pd.DataFrame, mixtures: Path, losses: Path) -> tuple[str, str]:
    """The column of each file by which they are joined: the first of :data:`ID_COLUMNS` in both, or ``run`` with ``run_id``.

    Raises:
        ConfigError: If there is none.
    """
    pairs = [(name, name) for name in ID_COLUMNS] + [("run", "run_id"), ("run_id", "run")]
    for a, b in pairs:
        if a in left.columns and b in right.columns:
            return a, b
    raise ConfigError(
        f"{losses}: shares no id column with {mixtures}; both need the same one of {', '.join(ID_COLUMNS)} "
        f"(columns here: {some(list(right.columns))})"
    )


def by_id(frame: pd.DataFrame, key: str, path: Path) -> pd.DataFrame:
    """Rows by id; `3.0` is 3, which pandas writes where it once met an empty cell.

    Raises:
        ConfigError: If an id is empty or there twice.
    """
    ids = [re.sub(r"^(-?\d+)\.0$", r"\1", str(value).strip()) for value in frame[key]]
    if "" in ids:
        raise ConfigError(f"{path}: row {ids.index('') + 1} has no '{key}'; every run needs one")
    if twice := [run for run, count in Counter(ids).items() if count > 1]:
        rows = [i + 1 for i, run in enumerate(ids) if run == twice[0]]
        raise ConfigError(f"{path}: '{key}' {twice[0]} is there twice (rows {rows[0]} and {rows[1]}); keep one of them")
    return frame.drop(columns=key).set_index(pd.Index(ids, dtype=object))


def check_weights(weights: pd.DataFrame, path: Path) -> NDArray[np.float64]:
    """Weights as numbers, shape ``(n, d)``, divided by their sums.

    Raises:
        ConfigError: If a weight is no number, negative, or the weights of a run do not nearly sum to 1.
    """
    X: NDArray[np.float64] = weights.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    for run, written, row in zip(weights.index, weights.to_numpy(), X, strict=True):
        wrong = np.flatnonzero(~(np.isfinite(row) & (row >= -1e-6)))
        if len(wrong):
            cell = str(written[wrong[0]]).strip()
            raise ConfigError(
                f"{path}: run {run}: the weight '{weights.columns[wrong[0]]}' is {cell or 'empty'}; weights are numbers >= 0 "
                "(0 where a domain was not used)"
            )
        if abs(row.sum() - 1) > SUM_TOLERANCE + 1e-9:
            percent = abs(row.sum() / 100 - 1) < SUM_TOLERANCE
            hint = "these look like percentages: divide by 100" if percent else "every domain of a run must be a column"
            raise ConfigError(f"{path}: run {run}: the weights sum to {row.sum():.4g}, not to 1; {hint}")
    X = np.clip(X, 0.0, None)
    return X / X.sum(axis=1, keepdims=True)


def some(names: Sequence[str], most: int = 4) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more
