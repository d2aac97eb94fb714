"""Full disks, read-only folders, locked files: real ones, each one clear error, and nothing lost when they are mended."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError

from regmix_active.errors import StudyError
from regmix_active.study.durable import Cause, Durable, StorageError, fault_of
from regmix_active.study.lock import study_lock
from regmix_active.study.record import StudyRecord
from regmix_active.study.storage import open_storage, open_study
from tests.study.on_disk import fill, opened

SCHEMES = pytest.mark.parametrize("scheme", ["sqlite", "journal"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("making a small file system takes root and mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Nothing more fits."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(512)):
            pass
    try:
        yield
    finally:
        filler.unlink()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "filler" and not path.name.endswith(".lock")}


@SCHEMES
def test_a_disk_that_is_full_at_the_start(disk: Path, scheme: str) -> None:
    url = f"{scheme}:///{disk}/study"
    with full(disk), study_lock(url, "s"):
        before = content(disk)
        with pytest.raises(StorageError, match="the disk is full; free some space, then run the same command again"):
            opened(url)
        left = content(disk)
        assert {name: data for name, data in left.items() if data} == {name: data for name, data in before.items() if data}
    fill(opened(url), 0, 1)


@SCHEMES
def test_a_disk_that_fills_up_in_the_middle(disk: Path, scheme: str) -> None:
    url = f"{scheme}:///{disk}/study"
    with study_lock(url, "s") as held:
        record = opened(url)
        fill(record, 0, 2)
        began = time.monotonic()
        with full(disk), pytest.raises(StorageError, match="the disk is full"):
            fill(record, 2, 200)
        assert time.monotonic() - began < 10, "waiting frees no space"
        planned = record.count()
        assert record.count(TrialState.COMPLETE) >= 2
        fill(record, 2, planned + 2)
        held.ensure()
    with study_lock(url, "s"):
        again = opened(url)
        assert [t.value for t in again.trials()] == [float(slot) for slot in range(planned + 2)]
        assert len(again.study.get_trials()) == planned + 2
    assert not list(disk.glob("*.torn-*"))


@SCHEMES
def test_a_read_only_folder_may_be_looked_at(disk: Path, scheme: str) -> None:
    url = f"{scheme}:///{disk}/study"
    with study_lock(url, "s"):
        fill(opened(url), 0, 2)
    before = content(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    looking = StudyRecord(open_study(open_storage(url, writing=False), url, "s", create=False))
    assert [t.value for t in looking.trials()] == [0.0, 1.0]
    with pytest.raises(StorageError, match="it is read-only here; make the file and its folder"), study_lock(url, "s"):
        pass
    with pytest.raises(StorageError, match="read-only"):
        fill(opened(url), 2, 3)
    with pytest.raises(StorageError, match="read-only"):
        open_storage(f"{scheme}:///{disk}/new")
    with pytest.raises(StudyError, match="there is no file"):
        open_storage(f"{scheme}:///{disk}/new", writing=False)
    assert content(disk) == before


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    record = opened(f"sqlite:///{tmp_path}/study")
    other = sqlite3.connect(tmp_path / "study", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.5, other.rollback).start()
    began = time.monotonic()
    fill(record, 0, 1)
    assert time.monotonic() - began > 0.4
    assert record.count(TrialState.COMPLETE) == 1
    other.close()


def away() -> OperationalError:
    return OperationalError("SELECT 1", {}, RuntimeError("server closed the connection"))


def test_writes_are_tried_again_under_their_guard(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    made = False

    def action() -> str:
        calls.append("write")
        if len(calls) < 4:
            raise away()
        return "written"

    def done() -> bool:
        calls.append("done?")
        return made

    durable = Durable("the study", lambda: calls.append("guard"))
    assert durable.write(action, done) == "written"
    assert calls == ["guard", "write", "guard", "done?", "write"]
    calls.clear()
    made = True
    assert durable.write(action, done) is None
    assert calls == ["guard", "write", "guard", "done?"]
    assert "the study: it cannot be reached (server closed the connection) (trying again in 0.1 s)" in caplog.text


def test_what_cannot_pass_is_not_waited_for() -> None:
    def refuse() -> None:
        tries.append(1)
        raise OSError(28, "No space left on device")

    tries: list[int] = []
    with pytest.raises(StorageError, match=r"^the study: the disk is full"):
        Durable("the study").read(refuse)
    assert tries == [1]

    def wait() -> None:
        raise away()

    began = time.monotonic()
    with pytest.raises(StorageError, match="cannot be reached"):
        Durable("the study", seconds=0.6).read(wait)
    assert 0.2 < time.monotonic() - began < 0.8

    def duplicate() -> None:
        raise DuplicatedStudyError

    with pytest.raises(DuplicatedStudyError):
        Durable("the study").read(duplicate)


class Native(Exception):  # noqa: N818
    """What a database's driver raises."""

    def __init__(self, sqlite_errorname: str | None = None, sqlstate: str | None = None, text: str = "words") -> None:
        super().__init__(text)
        self.sqlite_errorname, self.sqlstate = sqlite_errorname, sqlstate


@pytest.mark.parametrize(
    ("native", "cause"),
    [
        (Native("SQLITE_FULL"), Cause.FULL),
        (Native("SQLITE_READONLY_DBMOVED"), Cause.READ_ONLY),
        (Native("SQLITE_BUSY_SNAPSHOT"), Cause.BUSY),
        (Native("SQLITE_CORRUPT"), Cause.NO_DATABASE),
        (Native("SQLITE_IOERR_WRITE"), Cause.OTHER),
        (Native(sqlstate="53100"), Cause.FULL),
        (Native(sqlstate="53300"), Cause.AWAY),
        (Native(sqlstate="57P01"), Cause.AWAY),
        (Native(sqlstate="40P01"), Cause.BUSY),
        (Native(sqlstate="28P01"), Cause.REFUSED),
        (Native(sqlstate="22001"), Cause.OTHER),
        (Native(text="FATAL: the database system is starting up"), Cause.AWAY),
        (Native(text='FATAL: password authentication failed for user "me"'), Cause.REFUSED),
        (Native(text='FATAL: role "me" does not exist'), Cause.REFUSED),
    ],
    ids=lambda value: str(getattr(value, "__dict__", value)),
)
def test_what_errors_mean(native: Native, cause: Cause) -> None:
    error = OperationalError("INSERT", {}, native)
    wrapped = StorageInternalError("An exception is raised during the commit.")
    wrapped.__cause__ = error
    for seen in (error, wrapped):
        fault = fault_of(seen, "here")
        assert fault is not None
        assert fault.cause is cause
        assert fault.passing == (cause in (Cause.AWAY, Cause.BUSY))
        assert "INSERT" not in str(fault), "statements are long and say nothing"


def test_other_errors_are_not_a_storages() -> None:
    assert fault_of(ValueError("x"), "here") is None
    fault = fault_of(IntegrityError("INSERT", {}, Native()), "here")
    assert fault is not None
    assert not fault.passing


def test_passwords_typed_or_in_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import click
    from click.testing import CliRunner

    from regmix_active.cli.common import storage_option
    from regmix_active.errors import ConfigError

    seen: list[tuple[str | None, str | None]] = []

    @click.command()
    @storage_option
    def verb(storage: str | None) -> None:
        seen.append((storage, os.environ.get("REGMIX_ACTIVE_STORAGE")))

    secret, name = "postgresql://me:s3cret@host/db", "REGMIX_ACTIVE_STORAGE"
    for url in (secret, "postgresql://host/db?password=s3cret", "postgresql//me:s3cret@host"):
        refused = CliRunner().invoke(verb, ["--storage", url])
        assert isinstance(refused.exception, ConfigError)
        assert "~/.pgpass or PGPASSWORD, or the whole URL in REGMIX_ACTIVE_STORAGE" in str(refused.exception)
        assert "s3cret" not in str(refused.exception) + refused.output
    assert not seen
    for arguments, environment in (
        ([], secret),
        (["--storage", "sqlite:///a.db"], secret),
        (["--storage", "postgresql://me@h/d"], ""),
    ):
        monkeypatch.setenv(name, environment)
        assert CliRunner().invoke(verb, arguments).exit_code == 0
        monkeypatch.delenv(name, raising=False)
    assert CliRunner().invoke(verb, []).exit_code == 0
    here = f"sqlite:///{Path.cwd()}/a.db"
    assert seen == [(secret, None), (here, None), ("postgresql://me@h/d", None), (None, None)]
    assert "s3cret" not in caplog.text
    logging.getLogger(__name__).debug("done")
