"""Opening the Optuna study: which storage, which study in it, and what to say when that fails."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from sqlalchemy.engine import URL

from regmix_active.errors import StudyError
from regmix_active.study.durable import OPENING_SECONDS, Durable
from regmix_active.study.place import Place, absolute_url, has_password, public_url

__all__ = ["absolute_url", "default_storage", "has_password", "open_storage", "open_study", "public_url"]


def default_storage(folder: Path) -> str:
    """URL of the study inside a run folder."""
    return URL.create("sqlite", database=str(folder.resolve() / "study.db")).render_as_string()


def open_storage(url: str, *, writing: bool = True) -> BaseStorage:
    """Connect to a storage: an SQLite file, a journal or PostgreSQL.

    Args:
        url: Its URL.
        writing: Make what is missing. Else nothing is changed, and a read-only file or folder will do.

    Raises:
        ConfigError: If the URL is not one.
        StudyError: If it cannot be opened, or is not Optuna's: nothing was changed then.
    """
    place = Place.parse(url)
    place.check_folder()

    def connect() -> BaseStorage:
        if place.kind == "journal":
            from regmix_active.study.journal import open_journal

            return open_journal(place, writing=writing)
        from regmix_active.study.database import open_database

        return open_database(place, writing=writing)

    return Durable(f"storage {place}", seconds=OPENING_SECONDS).read(connect)


def open_study(storage: BaseStorage, url: str, name: str, *, create: bool) -> optuna.Study:
    """The study of that name, created if asked for and missing.

    Raises:
        StudyError: If it is missing, or minimises something else than one target.
    """
    return Durable(f"storage {public_url(url)}", seconds=OPENING_SECONDS).read(lambda: _study(storage, url, name, create))


def _study(storage: BaseStorage, url: str, name: str, create: bool) -> optuna.Study:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        names = optuna.get_all_study_names(storage)
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
