"""The driver's lock on a study in PostgreSQL: an advisory lock, held by a connection of its own for as long as that lives."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import re
import secrets
import time
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from regmix_active.errors import StudyBusyError
from regmix_active.study.database import Rules, engine_options
from regmix_active.study.durable import OPENING_SECONDS, Durable, StorageError
from regmix_active.study.lock import busy
from regmix_active.study.place import Place

log = logging.getLogger(__name__)

_SETTINGS = {
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # A holder whose machine vanished is noticed by the server within a minute.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""Of the server, for the lock's session: a search is silent for as long as a proxy trains."""

_HOLDER = text(
    "SELECT activity.pid, activity.application_name, activity.client_addr, activity.backend_start "
    "FROM pg_locks JOIN pg_stat_activity AS activity USING (pid) "
    "WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid::bigint = :high AND objid::bigint = :low "
    "AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

_SET = text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name")


class AdvisoryLock:
    """Held from its making until :meth:`close`, or the death of this process."""

    def __init__(self, place: Place, study: str, what: str) -> None:
        """Take the lock.

        Args:
            place: The database.
            study: Name of the study; the lock's number is a hash of it.
            what: What is held, for messages.

        Raises:
            StudyBusyError: If another driver has it.
            StorageError: If the server cannot be reached.
        """
        self._what = what
        digest = hashlib.sha256(f"regmix-active study {study}".encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)
        self._name = f"regmix-active {secrets.token_hex(4)} {os.getpid()} {platform.node()}"[:63]
        url, options = engine_options(Rules(place, writing=True))
        options["connect_args"]["application_name"] = self._name
        del options["pool_pre_ping"]
        self._engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", **options)
        self._connection: Connection | None = None
        Durable(f"storage {place}", seconds=OPENING_SECONDS).read(self._take)

    def ensure(self) -> None:
        """See :meth:`regmix_active.study.lock.Held.ensure`: a session that lives has its locks."""
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
            except StorageError as fault:
                self.close()
                if not fault.passing:
                    raise
                log.warning("%s: the connection that held its lock is gone; connecting again", self._what)
            else:
                return
        self._take()

    def close(self) -> None:
        """Let others have it."""
        if self._connection is not None:
            with contextlib.suppress(StorageError):
                self._connection.close()
        self._connection = None

    def _take(self) -> None:
        connection = self._engine.connect()
        try:
            for name, value in _SETTINGS.items():
                connection.execute(_SET, {"name": name, "value": value})
            for pause in (0.05, 0.1, 0.2, 0.5, 1.0, 0.0):
                if connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}).scalar():
                    self._connection = connection
                    return
                holder = self._holder(connection)
                if holder is not None and holder.application_name != self._name:
                    raise self._busy(holder)
                # Free by now, or held by a session of ours that the server has not missed yet.
                if holder is not None:
                    connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": holder.pid})
                time.sleep(pause)
            raise busy(self._what, "another process")
        finally:
            if self._connection is not connection:
                connection.close()

    def _holder(self, connection: Connection) -> Any:
        number = self._key % 2**64
        return connection.execute(_HOLDER, {"high": number >> 32, "low": number % 2**32}).first()

    def _busy(self, holder: Any) -> StudyBusyError:
        started = "" if holder.backend_start is None else f" (since {holder.backend_start.astimezone():%Y-%m-%d %H:%M:%S})"
        known = re.fullmatch(r"regmix-active [0-9a-f]{8} (\d+) (.*)", holder.application_name or "")
        if known is None:
            return busy(self._what, f"another session, process {holder.pid} of the server{started}")
        return busy(self._what, f"process {known[1]} on {known[2]}{started}")
