"""Optuna's journal: a file to which every change is appended as one line of JSON.

Optuna reads a journal whose last line is torn, and the next line that is appended then breaks it for every reader. A process killed
while it writes, a full disk and a power cut all leave such a line. So the driver repairs what it opens, and a line that cannot be
written whole is taken back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation

from regmix_active.errors import StudyError
from regmix_active.study.durable import Cause, StorageError, fault_of
from regmix_active.study.place import Place

try:
    import fcntl
except ImportError:  # Windows: locks are watched there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

STALE_SECONDS = 5.0
"""A lock of Optuna's own that stays the same for so long, as watched here, has no holder: no machines' clocks are compared."""

MARK = b"regmix-active\n"
"""Content of a lock that is also locked at the operating system; Optuna's own are empty."""

BEGINNING = b'{"op_code":'
"""How every record begins."""


def open_journal(place: Place, *, writing: bool) -> JournalStorage:
    """Optuna's storage in the file.

    Args:
        place: The file.
        writing: Make the file if it is missing; else nothing is changed.

    Raises:
        StudyError: If it cannot be opened, is no journal, or is damaged before its end.
    """
    file = _file(place)
    if not writing and not file.exists():
        raise StudyError(f"storage {place}: there is no file {file}; start a study with `regmix-active run`")
    with _faults(f"storage {place}"):
        if file.exists():
            examine(file)
        return JournalStorage(JournalFile(file, f"storage {place}"))


class MarkedLock(JournalFileOpenLock):
    """Optuna's lock file, marked and locked at the operating system too, so that one of ours is known to be a dead process's."""

    def __init__(self, file: Path) -> None:
        """Name the lock of a journal."""
        super().__init__(str(file))
        self.file = Path(self._lock_file)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock, and take it; see Optuna."""
        self.remove_if_dead()
        taken = super().acquire()
        if fcntl is None:
            return taken
        # For the next one only: without it, a lock left behind is watched for a while.
        with contextlib.suppress(OSError):
            self._descriptor = os.open(self.file, os.O_RDWR | os.O_NOFOLLOW)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._descriptor, MARK)
        return taken

    def release(self) -> None:
        """Let others have it; see Optuna."""
        try:
            super().release()
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def remove_if_dead(self) -> bool:
        """Remove a marked lock that nobody holds any more."""
        if fcntl is None:
            return False
        try:
            descriptor = os.open(self.file, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            if os.read(descriptor, len(MARK)) != MARK:
                return False
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            if _identity(self.file) != (status.st_ino, status.st_mtime_ns):
                return False
            self.file.unlink(missing_ok=True)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        log.warning("removed the lock %s of a process that died while it wrote", self.file)
        return True


class JournalFile(JournalFileBackend):
    """The file, under the lock that other Optuna processes respect; a record is in it whole or not at all."""

    def __init__(self, file: Path, where: str) -> None:
        """Open the journal, and make it if it is missing."""
        self._file, self._where = file, where
        self._open_lock = MarkedLock(file)
        super().__init__(str(file), self._open_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, flushed to the disk.

        Raises:
            StorageError: If that fails; the file is then as it was.
        """
        lines = b"".join(json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in logs)
        with _faults(self._where), _holding(self._open_lock), _existing(self._file) as journal:
            if _ends_torn(journal):
                cut(self._file)
            end = journal.seek(0, os.SEEK_END)
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[journal.write(rest) :]
                os.fsync(journal.fileno())
            except BaseException:
                journal.truncate(end)
                raise

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Records from one on.

        Raises:
            StorageError: If the file is gone, or holds a line that is no record.
        """
        try:
            yield from super().read_logs(log_number_from)
        except ValueError:
            examine(self._file)
            raise StorageError(
                self._where, Cause.OTHER, "lines at its end are no records; continue the search to mend it"
            ) from None
        except OSError as error:
            raise fault_of(error, self._where) or error from None


@dataclass(frozen=True)
class Examined:
    """How far a journal is whole."""

    records: int
    whole: int
    """Bytes up to the end of the last whole record."""
    size: int
    """Bytes of the file."""


def examine(file: Path) -> Examined:
    """Look at every line of a journal; nothing is changed.

    Raises:
        StudyError: If it is no journal, a newer Optuna's, or has whole records after a line that is none.
    """
    records = whole = size = 0
    wrong: int | None = None
    beginning = b""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            size += len(line)
            beginning = beginning or line[: len(BEGINNING)].rstrip(b"\0")
            code = _operation(line)
            if code is None:
                wrong = wrong or number
                continue
            if wrong is not None:
                raise StudyError(
                    f"journal {file}, line {wrong}: is no record, and whole records follow it; nothing was changed. Restore the "
                    f"file from a copy, or go on with what stands before that line (head -n {wrong - 1} {file} > NEW)"
                )
            if code not in JournalOperation._value2member_map_:
                raise StudyError(
                    f"journal {file}, line {number}: was written by a newer Optuna than the one here (operation {code}); "
                    "upgrade it: pip install -U optuna"
                )
            records, whole = records + 1, size
    if not records and not (beginning.startswith(BEGINNING) or BEGINNING.startswith(beginning)):
        raise StudyError(f"{file} is no journal of Optuna; nothing was changed: give the study a file of its own")
    return Examined(records, whole, size)


def repair(file: Path, patience: float = STALE_SECONDS) -> None:
    """Make a journal whole: the caller holds the driver's lock; other Optuna processes may append meanwhile.

    What is no whole record at its end is cut off and kept in ``FILE.torn-1`` (-2, ...); the lock of a process that died while it
    wrote is removed. What was done is logged.

    Args:
        file: The journal; it need not exist.
        patience: Seconds for which a lock must not change to count as left behind.

    Raises:
        StudyError: If it is no journal, or damaged before its end: nothing is changed then.
        StorageError: If what is cut off cannot be kept: nothing is changed then.
    """
    if not file.exists():
        return
    with _faults(f"journal {file}"):
        found, lock = examine(file), MarkedLock(file)
        _remove_stale(lock, patience)
        if found.whole < found.size:
            with _holding(lock):
                cut(file)


def cut(file: Path) -> None:
    """Move what is no whole record at the end of a journal into a file beside it, under Optuna's lock."""
    found = examine(file)
    if found.whole == found.size:
        return
    with file.open("r+b") as journal:
        journal.seek(found.whole)
        aside = _set_aside(file, journal)
        journal.truncate(found.whole)
        os.fsync(journal.fileno())
    log.warning(
        "journal %s: the last %d of %d bytes were no whole record (a process died while it wrote, or the disk was full); "
        "cut off and kept in %s, %d records remain, and what was lost is done again",
        file,
        found.size - found.whole,
        found.size,
        aside.name,
        found.records,
    )


def _set_aside(file: Path, journal: BinaryIO) -> Path:
    number = 1
    while True:
        aside = file.with_name(f"{file.name}.torn-{number}")
        try:
            kept = aside.open("xb")
        except FileExistsError:
            number += 1
            continue
        try:
            with kept:
                while piece := journal.read(1 << 20):
                    kept.write(piece)
                kept.flush()
                os.fsync(kept.fileno())
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        return aside


def _operation(line: bytes) -> int | None:
    """Number of the operation of a whole record, else None."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    code = entry.get("op_code") if isinstance(entry, dict) and "worker_id" in entry else None
    return code if isinstance(code, int) else None


def _existing(file: Path) -> FileIO:
    """The file, opened for appending; never made: in a new file under the old name, the study would begin anew without a word."""
    return open(os.open(file, os.O_RDWR | os.O_APPEND), "r+b", buffering=0)


def _ends_torn(journal: FileIO) -> bool:
    size = journal.seek(0, os.SEEK_END)
    if not size:
        return False
    journal.seek(size - 1)
    return journal.read(1) != b"\n"


def _remove_stale(lock: MarkedLock, patience: float) -> None:
    if lock.remove_if_dead():
        return
    first, end = _identity(lock.file), time.monotonic() + patience
    while (now := _identity(lock.file)) is not None and now == first:
        if time.monotonic() >= end:
            lock.file.unlink(missing_ok=True)
            log.warning("removed the lock %s of a process that died while it wrote", lock.file)
            return
        time.sleep(min(0.05, patience))


def _identity(lock: Path) -> tuple[int, int] | None:
    try:
        status = lock.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


@contextlib.contextmanager
def _holding(lock: MarkedLock) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        # Gone if this process was stopped for so long that another one took the lock for a dead one's.
        with contextlib.suppress(RuntimeError):
            lock.release()


@contextlib.contextmanager
def _faults(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise fault_of(error, where) or error from None


def _file(place: Place) -> Path:
    assert place.file is not None
    return place.file
