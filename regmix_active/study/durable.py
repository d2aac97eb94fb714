"""Writes that outlive a restarted server: what an error means, and trying again while that can help.

Optuna hides why a write failed, and tries some again by itself even though they may have succeeded. So our engines and our journal
raise :class:`StorageError` instead of their own errors (Optuna passes those on), and :class:`Durable` decides.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from regmix_active.errors import StudyError
from regmix_active.interrupts import held_back

log = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS = 60.0
"""How long a write is tried, in all."""

OPENING_SECONDS = 10.0
"""The same for opening: a server that restarts is waited for, one that is not there is soon reported."""

LONGEST_PAUSE = 5.0
"""Seconds between two tries, at most; the first pause is a tenth of a second, each further one twice as long."""

AGAIN = "then run the same command again: nothing that finished is lost"


class Cause(Enum):
    """Why a storage refused, and what to do about it."""

    FULL = f"the disk is full; free some space, {AGAIN}"
    READ_ONLY = f"it is read-only here; make the file and its folder (or the database) writable, {AGAIN}"
    AWAY = f"it cannot be reached ({{reason}}); start it, or mend the connection, {AGAIN}"
    BUSY = f"another program keeps it locked ({{reason}}); end that program, {AGAIN}"
    REFUSED = (
        "it does not let us in ({reason}); check host, user, database and password: passwords come from ~/.pgpass, PGPASSWORD or "
        "REGMIX_ACTIVE_STORAGE"
    )
    NO_DATABASE = "it is no database, or a damaged one ({reason}); restore it from a copy, or give the study another file"
    OTHER = "{reason}"


class StorageError(StudyError):
    """A storage that did not do what it was asked."""

    def __init__(self, where: str, cause: Cause, reason: str) -> None:
        """Say what happened.

        Args:
            where: The storage, without its password.
            cause: What kind of fault it is.
            reason: The storage's own words.
        """
        super().__init__(f"{where}: {cause.value.format(reason=reason)}")
        self.cause = cause

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed a little later."""
        return self.cause in (Cause.AWAY, Cause.BUSY)


_SQLITE = {
    "SQLITE_FULL": Cause.FULL,
    "SQLITE_READONLY": Cause.READ_ONLY,
    "SQLITE_PERM": Cause.READ_ONLY,
    "SQLITE_CANTOPEN": Cause.READ_ONLY,
    "SQLITE_BUSY": Cause.BUSY,
    "SQLITE_LOCKED": Cause.BUSY,
    "SQLITE_NOTADB": Cause.NO_DATABASE,
    "SQLITE_CORRUPT": Cause.NO_DATABASE,
}
"""By the start of SQLite's name of the error."""

_SQLSTATE = {
    "53100": Cause.FULL,
    "25006": Cause.READ_ONLY,
    "42501": Cause.REFUSED,
    "28": Cause.REFUSED,
    "3D": Cause.REFUSED,
    "08": Cause.AWAY,
    "57P": Cause.AWAY,
    "533": Cause.AWAY,
    "40": Cause.BUSY,
    "55P03": Cause.BUSY,
    "57014": Cause.BUSY,
}
"""By the start of PostgreSQL's five-letter code."""

_ERRNO = {
    errno.ENOSPC: Cause.FULL,
    errno.EDQUOT: Cause.FULL,
    errno.EROFS: Cause.READ_ONLY,
    errno.EACCES: Cause.READ_ONLY,
    errno.EPERM: Cause.READ_ONLY,
    # What network file systems say while their server restarts.
    errno.ESTALE: Cause.AWAY,
    errno.ETIMEDOUT: Cause.AWAY,
    errno.EHOSTDOWN: Cause.AWAY,
    errno.EAGAIN: Cause.BUSY,
    errno.ENOLCK: Cause.BUSY,
}

_LET_IN = re.compile(
    r"authentication failed|no password supplied|no pg_hba.conf entry|(role|database) \S+ does not exist|permission denied|"
    r"could not translate host name|failed to resolve host|Name or service not known",
    re.IGNORECASE,
)
"""A refused connection has no code, and no restart mends it."""


def fault_of(error: BaseException, where: str) -> StorageError | None:
    """What an error of a storage means; None if it is none of a storage's.

    Args:
        error: Of the operating system, SQLAlchemy or Optuna.
        where: The storage, without its password, for the message.
    """
    if isinstance(error, StorageError):
        return error
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        return fault_of(error.__cause__, where)
    cause, reason = Cause.OTHER, (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, OSError):
        cause, reason = _ERRNO.get(error.errno or 0, Cause.OTHER), error.strerror or reason
    elif isinstance(error, PoolTimeout):
        cause, reason = Cause.AWAY, "no connection is free"
    elif isinstance(error, DBAPIError):
        reason = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
        cause = _cause(error, reason)
    elif not isinstance(error, SQLAlchemyError):
        return None
    return StorageError(where, cause, reason)


def _cause(error: DBAPIError, reason: str) -> Cause:
    if (name := getattr(error.orig, "sqlite_errorname", None)) is not None:
        return next((cause for start, cause in _SQLITE.items() if name.startswith(start)), Cause.OTHER)
    if (code := getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)) is not None:
        return next((cause for start, cause in _SQLSTATE.items() if code.startswith(start)), Cause.OTHER)
    if _LET_IN.search(reason):
        return Cause.REFUSED
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return Cause.AWAY
    return Cause.OTHER


class Durable:
    """Calls a storage until it answers, or until it is clear that it will not."""

    def __init__(self, where: str, guard: Callable[[], None] | None = None, seconds: float = SECONDS) -> None:
        """Prepare for one storage.

        Args:
            where: The storage, without its password.
            guard: Called before each try of a write; raises if this process may not write.
            seconds: How long one call is tried, in all.
        """
        self._where, self._guard, self._seconds = where, guard, seconds

    def write(self, action: Callable[[], T], done: Callable[[], bool] | None = None) -> T | None:
        """Write.

        Args:
            action: Writes; doing so twice must change nothing, unless `done` tells.
            done: Asked before every try but the first: whether the write was made, and only its acknowledgement lost.

        Returns:
            What `action` returned; None if it was done.

        Raises:
            StorageError: If the storage refuses for good.
        """

        def once(first: bool) -> T | None:
            if self._guard is not None:
                self._guard()
            return None if not first and done is not None and done() else action()

        return self._call(once)

    def read(self, action: Callable[[], T]) -> T:
        """Read.

        Raises:
            StorageError: If the storage refuses for good.
        """
        return self._call(lambda _: action())

    def _call(self, once: Callable[[bool], T]) -> T:
        end, pause, first = time.monotonic() + self._seconds, 0.1, True
        while True:
            try:
                with held_back():  # an interrupted transaction may keep the database locked against this very process
                    return once(first)
            except (StorageError, StorageInternalError, SQLAlchemyError, OSError) as error:
                fault = fault_of(error, self._where)
                if fault is None:
                    raise
                if not fault.passing or time.monotonic() + pause > end:
                    raise fault from None
                log.warning("%s (trying again in %.1f s)", str(fault).partition(";")[0], pause)
            first = False
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
