"""One driver at a time writes a study, and a run folder.

The operating system, or PostgreSQL, frees a lock when its holder dies, however it dies. No clocks are compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from regmix_active.errors import StudyBusyError
from regmix_active.study.durable import fault_of
from regmix_active.study.place import Place

RUN_LOCK = ".lock"
"""Name of a run folder's lock, in it."""


class Held(Protocol):
    """A lock that this process holds."""

    def ensure(self) -> None:
        """Check that it is still held, cheaply, and take it again if it got lost.

        Raises:
            StudyBusyError: If somebody else has it now.
            StorageError: If the storage that keeps it cannot be reached.
        """
        ...


class FileHeld:
    """A lock on a file."""

    def __init__(self, file: Path, what: str) -> None:
        """Take the lock.

        Args:
            file: The lock; the holder is described beside it.
            what: What is held, for messages.

        Raises:
            StudyBusyError: If another process holds it.
            StorageError: If the lock cannot be written.
        """
        self._file, self._what = file, what
        self._holder = file.with_name(f"{file.name}.json")
        self._take()

    def ensure(self) -> None:
        """See :meth:`Held.ensure`: somebody may have removed the file."""
        if _inode(self._file) != self._inode:
            self._lock.release()
            self._take()

    def release(self) -> None:
        """Let others have it."""
        if self._lock.is_locked and _inode(self._file) == self._inode:
            with contextlib.suppress(OSError):
                self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _take(self) -> None:
        self._lock = FileLock(self._file)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise busy(self._what, _describe(self._holder)) from None
        except OSError as error:
            raise fault_of(error, self._what) or error from None
        self._inode = _inode(self._file)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        # For messages only: a full disk says so where something is lost by it.
        with contextlib.suppress(OSError):
            self._holder.write_text(json.dumps({"host": platform.node(), "pid": os.getpid(), "started": started}), encoding="utf-8")


@contextmanager
def exclusive(file: Path, what: str) -> Iterator[Held]:
    """Hold something alone.

    Args:
        file: The lock; the holder is described beside it.
        what: What is held, for messages.

    Raises:
        StudyBusyError: If another process holds it; the message says which, and since when.
        StorageError: If the lock cannot be written.
    """
    held = FileHeld(file, what)
    try:
        yield held
    finally:
        held.release()


def refuse_if_busy(folder: Path) -> None:
    """Refuse a run folder that another process writes, without taking it.

    Raises:
        StudyBusyError: If there is one.
    """
    lock = folder / RUN_LOCK
    if lock.exists():
        with exclusive(lock, str(folder)):
            pass


@contextmanager
def study_lock(url: str, study: str) -> Iterator[Held]:
    """Be the one driver of a study; a journal is repaired before anything is read from it.

    Args:
        url: Its storage.
        study: Its name.

    Raises:
        ConfigError: If the URL is not one, or the folder of its file is missing.
        StudyBusyError: If another driver has it; the message says host, process and start.
        StudyError: If the storage cannot be reached or written.
    """
    place = Place.parse(url)
    place.check_folder()
    what = f"study {study!r} in {place}"
    if place.file is None:
        from regmix_active.study.advisory import AdvisoryLock

        with contextlib.closing(AdvisoryLock(place, study, what)) as held:
            yield held
        return
    with exclusive(place.file.with_name(f".{place.file.name}.{study}.lock"), what) as file_held:
        if place.kind == "journal":
            from regmix_active.study.journal import repair

            repair(place.file)
        yield file_held


def busy(what: str, holder: str) -> StudyBusyError:
    """The error of the second driver."""
    return StudyBusyError(f"{what} is being written by {holder}; wait for it, or stop it first")


def _inode(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _describe(holder: Path) -> str:
    try:
        info = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {info['pid']} on {info['host']} (since {info['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
