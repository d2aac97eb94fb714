"""Opening the Optuna study: which storage, which study in it, and what to say when that fails."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from regmix_active.errors import ConfigError, StudyError

TIMEOUT_SECONDS = 60
"""How long a write waits for another reader or writer of an SQLite file."""


def default_storage(folder: Path) -> str:
    """URL of the study inside a run folder."""
    return URL.create("sqlite", database=str(folder.resolve() / "study.db")).render_as_string()


def lock_file(url: str, study: str) -> Path | None:
    """Where a driver of the study holds its lock: beside an SQLite file; None for a database elsewhere."""
    parsed = _parsed(url)
    if not parsed.drivername.startswith("sqlite") or not parsed.database:
        return None
    database = Path(parsed.database).resolve()
    return database.with_name(f".{database.name}.{study}.lock")


def public_url(url: str) -> str:
    """The URL with its password masked: the only form that may be printed or stored."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return re.sub(r":[^:@/]*@", ":***@", url)


def open_storage(url: str) -> BaseStorage:
    """Connect to a storage.

    Raises:
        ConfigError: If the URL is not one.
        StudyError: If the database cannot be opened, or is not Optuna's.
    """
    parsed = _parsed(url)
    sqlite = parsed.drivername.startswith("sqlite")
    if sqlite and parsed.database in (None, "", ":memory:"):
        raise ConfigError(f"storage {url}: a database in memory is lost with the run; write sqlite:///path/to/study.db")
    if sqlite and parsed.database:
        folder = Path(parsed.database).resolve().parent
        if not folder.is_dir():
            raise ConfigError(f"storage {public_url(url)}: the folder {folder} does not exist; create it or choose another path")
    engine_kwargs = {"connect_args": {"timeout": TIMEOUT_SECONDS}} if sqlite else {"pool_pre_ping": True}
    # One process at a time creates the tables of a fresh file: Optuna does not guard against a race there.
    creating = FileLock(f"{parsed.database}.creating") if sqlite and parsed.database else contextlib.nullcontext()
    try:
        with creating:
            return RDBStorage(url, engine_kwargs=engine_kwargs)
    except NoSuchModuleError:
        raise ConfigError(
            f"storage {public_url(url)}: no database is called {parsed.drivername!r}; write sqlite:///path/to/study.db, or "
            "postgresql://user@host/database"
        ) from None
    except ImportError as error:
        raise ConfigError(f"storage {public_url(url)}: the database driver is missing ({error}); install it with pip") from None
    except (SQLAlchemyError, OptunaError, RuntimeError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StudyError(f"storage {public_url(url)} cannot be opened: {reason}") from None


def open_study(storage: BaseStorage, url: str, name: str, *, create: bool) -> optuna.Study:
    """The study of that name, created if asked for and missing.

    Raises:
        StudyError: If it is missing, or minimises something else than one target.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]
        if name not in names and not create:
            hint = f"it holds: {', '.join(sorted(names))}" if names else "it is empty"
            raise StudyError(f"no study {name!r} in {public_url(url)} ({hint}); start one with `regmix-active run`")
        if name in names:
            study = optuna.load_study(study_name=name, storage=storage)
        else:
            study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
    finally:
        optuna.logging.set_verbosity(verbosity)
    if study.directions != [StudyDirection.MINIMIZE]:
        directions = ", ".join(direction.name.lower() for direction in study.directions)
        raise StudyError(
            f"study {name!r} in {public_url(url)} has the direction {directions}; a mixture search minimises one target"
        )
    return study


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise ConfigError(f"storage {public_url(url)!r}: not a database URL; write sqlite:///path/to/study.db") from None
