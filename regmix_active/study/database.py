"""Optuna's tables in an SQLite file or in PostgreSQL: opened so that faults have names and nothing foreign is touched."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from filelock import FileLock
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL, Connection, CreateEnginePlugin, Engine
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from regmix_active.errors import ConfigError, StudyError
from regmix_active.study.durable import StorageError, fault_of
from regmix_active.study.place import Place

TAKES_TURNS = "regmix_active_immediate"
"""Attribute of a storage whose transactions begin with the write lock, so that several processes may share it."""

TIMEOUT_SECONDS = 60
"""How long a write waits for another reader or writer of an SQLite file."""

POSTGRES_OPTIONS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Of the client library: a server that vanished without a word is noticed within a minute."""

OPTUNA = {*BaseModel.metadata.tables, "alembic_version"}
COMPLETE = {"studies", "trials", "version_info", "alembic_version"}
"""With these, the tables were made to the end."""


@dataclass
class Rules:
    """How an engine behaves."""

    place: Place
    writing: bool
    begin: str = "BEGIN"
    """How transactions in SQLite begin. Optuna opens two at once while it checks its tables: neither may be a writer then."""
    engines: list[Engine] = field(default_factory=list)
    """Those that were made: Optuna closes none of its own when it cannot use it."""


class EngineRules(CreateEnginePlugin):
    """Sets up the engine that Optuna makes: how transactions begin, and what its errors become.

    Optuna tries a failed insertion again by itself, also when it was committed and only the answer got lost, which would plan a
    mixture twice. It does not know our :class:`StorageError`, and passes it on.
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        """Take what is meant for the rules out of the arguments of `create_engine`."""
        super().__init__(url, kwargs)
        self._rules: Rules = kwargs.pop("rules")

    def update_url(self, url: URL) -> URL:
        """The rules are no part of the URL."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Attach the rules."""
        self._rules.engines.append(engine)
        event.listen(engine, "handle_error", self._raise_fault)
        if self._rules.place.kind == "sqlite":
            event.listen(engine, "begin", self._begin)
            if not self._rules.writing:
                event.listen(engine, "connect", self._only_look)

    def _begin(self, connection: Connection) -> None:
        connection.exec_driver_sql(self._rules.begin)

    @staticmethod
    def _only_look(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA query_only = ON")

    def _raise_fault(self, context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        # Optuna deals with the first, and the second is asked for: the pool connects again.
        if error is None or isinstance(error, IntegrityError) or context.is_pre_ping:
            return
        place = self._rules.place
        if (fault := fault_of(error, f"storage {place}")) is not None:
            raise StorageError(f"storage {place}", fault.cause, place.masked(_reason(error)))


plugins.register("regmix_active", __name__, "EngineRules")


def engine_options(rules: Rules) -> tuple[URL, dict[str, Any]]:
    """URL and keyword arguments for `sqlalchemy.create_engine`.

    Raises:
        ConfigError: If no driver for PostgreSQL is installed.
    """
    place, url = rules.place, rules.place.url
    options: dict[str, Any] = {"plugins": ["regmix_active"], "rules": rules}
    if place.kind == "sqlite":
        # Without an isolation level Python's module begins no transactions of its own.
        return url, {**options, "connect_args": {"timeout": TIMEOUT_SECONDS, "isolation_level": None}}
    if url.drivername == "postgresql":
        driver = next((name for name in ("psycopg", "psycopg2") if find_spec(name) is not None), None)
        if driver is None:
            raise ConfigError(
                f"storage {place}: the driver for PostgreSQL is missing; install it: pip install 'regmix-active[postgresql]'"
            )
        url = url.set(drivername=f"postgresql+{driver}")
    connect = {key: value for key, value in POSTGRES_OPTIONS.items() if key not in url.query}
    return url, {**options, "pool_pre_ping": True, "connect_args": connect}


def open_database(place: Place, *, writing: bool) -> RDBStorage:
    """Optuna's storage in the database.

    Args:
        place: Where it is.
        writing: Make Optuna's tables in an empty database, and let transactions begin as writers. Else nothing is changed.

    Raises:
        ConfigError: If its driver is missing.
        StudyError: If it cannot be opened, is not Optuna's, or a newer one's.
    """
    if not writing and place.file is not None and not place.file.exists():
        raise StudyError(f"storage {place}: there is no file {place.file}; start a study with `regmix-active run`")
    rules = Rules(place, writing)
    storage: RDBStorage | None = None
    try:
        url, options = engine_options(rules)
        engine = create_engine(url, **options)
        if not _missing(place) and _is_optunas(place, engine):
            storage = _connect(place, url, options, skip_table_creation=True)
        elif writing:
            engine.dispose()
            storage = _create(place, url, options, engine)
        else:
            raise StudyError(f"storage {place} is empty; start a study with `regmix-active run`")
    except StudyError as error:
        raise error from None
    except ImportError as error:
        raise ConfigError(f"storage {place}: the database driver is missing ({error}); install it with pip") from None
    except (SQLAlchemyError, OptunaError, RuntimeError, OSError) as error:
        fault = fault_of(error, f"storage {place}")
        raise fault or StudyError(f"storage {place} cannot be opened: {place.masked(_reason(error))}") from None
    finally:
        for made in rules.engines:
            if storage is None or made is not storage.engine:
                made.dispose()
    weakref.finalize(storage, storage.engine.dispose)
    if writing:
        # A transaction that reads before it writes must hold the file from its start, or two of them claim the same trial.
        rules.begin = "BEGIN IMMEDIATE"
        vars(storage)[TAKES_TURNS] = True
    return storage


def _create(place: Place, url: URL, options: dict[str, Any], engine: Engine) -> RDBStorage:
    """Make the tables, unless another process has done so meanwhile; a file that cannot be made whole is removed again."""
    with _creating(place, engine):
        new = _missing(place)
        try:
            return _connect(place, url, options, skip_table_creation=not new and _is_optunas(place, engine))
        except BaseException:
            if new and place.file is not None:
                for file in (place.file, place.file.with_name(f"{place.file.name}-journal")):
                    with contextlib.suppress(OSError):
                        file.unlink(missing_ok=True)
            raise


def _missing(place: Place) -> bool:
    return place.file is not None and not place.file.exists()


def _connect(place: Place, url: URL, options: dict[str, Any], *, skip_table_creation: bool) -> RDBStorage:
    # Optuna formats the URL: braces of a path are no fields of it.
    plain = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    try:
        return RDBStorage(plain, engine_kwargs=dict(options), skip_table_creation=skip_table_creation)
    except RuntimeError as error:
        if isinstance(error, StudyError) or "optuna version" not in str(error):
            raise
        if "storage upgrade" in str(error):
            raise StudyError(
                f"storage {place}: its tables are of an older Optuna; copy it, then run: optuna storage upgrade --storage URL"
            ) from None
        raise StudyError(
            f"storage {place}: its tables are of a newer Optuna than the one here; upgrade it: pip install -U optuna"
        ) from None


def _is_optunas(place: Place, engine: Engine) -> bool:
    """Whether Optuna's tables are all there; False for an empty database, and one where making them was interrupted.

    Raises:
        StudyError: If the database is another program's.
    """
    tables = set(inspect(engine).get_table_names())
    if tables >= COMPLETE:
        return True
    if strangers := sorted(tables - OPTUNA):
        raise StudyError(
            f"storage {place} belongs to another program (it has the tables {', '.join(strangers[:4])}"
            f"{' ...' * (len(strangers) > 4)}, and not Optuna's); nothing was changed: give the study a database of its own"
        )
    return False


@contextlib.contextmanager
def _creating(place: Place, engine: Engine) -> Iterator[None]:
    """One process at a time makes the tables of a fresh database: Optuna does not guard against a race there."""
    if place.file is not None:
        file = place.file.with_name(f".{place.file.name}.creating")
        with FileLock(file):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(hashtext('regmix-active creates tables'))"))
        yield


def _reason(error: BaseException) -> str:
    return (str(getattr(error, "orig", None) or error).strip() or type(error).__name__).splitlines()[0]
