"""A journal that a process, a disk or a power cut left torn is whole again; damage before its end is refused."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from regmix_active.errors import StudyBusyError, StudyError
from regmix_active.study.durable import StorageError
from regmix_active.study.journal import MarkedLock, examine, repair
from regmix_active.study.lock import study_lock
from regmix_active.study.record import StudyRecord
from regmix_active.study.storage import open_storage, open_study
from tests.study.on_disk import MEANING, fill
from tests.study.on_disk import opened as opened_at


def opened(file: Path) -> StudyRecord:
    return opened_at(f"journal:///{file}")


def values(record: StudyRecord) -> list[float | None]:
    return [trial.value for trial in record.trials(TrialState.COMPLETE)]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal of three finished proxies."""
    file = tmp_path_factory.mktemp("journal") / "study.journal"
    fill(opened(file), 0, 3)
    return file.read_bytes()


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "study.journal"
    file.write_bytes(content)
    return file


def last_record(content: bytes) -> int:
    """Where the last line begins."""
    return content[:-1].rindex(b"\n") + 1


def test_a_journal_is_a_storage_like_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "journal:///study.journal"
    with study_lock(url, "s"):
        storage = open_storage(url)
        monkeypatch.chdir("/")  # the path was made absolute
        record = StudyRecord(open_study(storage, url, "s", create=True))
        record.claim(MEANING, {}, "mean")
        fill(record, 0, 2)
    assert values(opened(tmp_path / "study.journal")) == [0.0, 1.0]
    theirs = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    assert optuna.load_study(study_name="s", storage=theirs).best_value == 0.0


def test_torn_at_every_byte_of_its_last_record(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # takes most of the time, and the power stays on
    start = last_record(content)
    assert len(content) - start > 80
    for cut in range(start + 1, len(content)):
        file = tmp_path / f"{cut}.journal"
        file.write_bytes(content[:cut])
        caplog.clear()
        repair(file)
        assert file.read_bytes() == content[:start]
        assert file.with_name(f"{file.name}.torn-1").read_bytes() == content[start:cut]
        assert f"the last {cut - start} of {cut} bytes were no whole record" in caplog.text
        # The last record was the end of slot 2: it is finished again, and more can follow.
        record = opened(file)
        assert values(record) == [0.0, 1.0]
        fill(record, 2, 3)
        assert values(opened(file)) == [0.0, 1.0, 2.0]
        for left in tmp_path.iterdir():
            left.unlink()


def test_torn_at_every_byte_of_its_only_record(tmp_path: Path, content: bytes) -> None:
    first = content[: content.index(b"\n") + 1]
    file = tmp_path / "study.journal"
    for cut in range(len(first)):
        file.write_bytes(first[:cut])
        repair(file)
        assert file.read_bytes() == b""
    fill(opened(file), 0, 1)
    assert values(opened(file)) == [0.0]


@pytest.mark.parametrize(
    "tail",
    [
        b"\0" * 7,
        b"\0" * 5000,
        b"\0\0\n",
        b"{}\n",
        b"garbage\n",
        b"garbage\nmore garbage\n\n",
        b'{"op_code":8,"worker_id":"a',
        b"\xff\xfe",
    ],
    ids=lambda tail: repr(tail[:12]),
)
def test_tails_that_are_no_records(file: Path, content: bytes, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(content + tail)
    file.with_name("study.journal.torn-1").write_bytes(b"of another day")
    with study_lock(f"journal:///{file}", "s"):
        assert file.read_bytes() == content
        assert file.with_name("study.journal.torn-2").read_bytes() == tail
        assert file.with_name("study.journal.torn-1").read_bytes() == b"of another day"
        assert "cut off and kept in study.journal.torn-2, " in caplog.text
        fill(opened(file), 3, 4)
    assert values(opened(file)) == [0.0, 1.0, 2.0, 3.0]


def test_nul_bytes_in_place_of_the_last_record(file: Path, content: bytes) -> None:
    """What a power cut leaves on file systems that write the length first."""
    start = last_record(content)
    for nuls in (1, 10, len(content) - start):
        file.write_bytes(content[: len(content) - nuls] + b"\0" * nuls)
        repair(file)
        assert file.read_bytes() == content[:start]


def test_looking_changes_nothing_and_works(file: Path, content: bytes) -> None:
    torn = content[:-10]
    file.write_bytes(torn)
    url = f"journal:///{file}"
    record = StudyRecord(open_study(open_storage(url, writing=False), url, "s", create=False))
    assert values(record) == [0.0, 1.0]
    assert file.read_bytes() == torn
    assert [path.name for path in file.parent.iterdir()] == ["study.journal"]
    with pytest.raises(StudyError, match=r"there is no file .*missing; start a study"):
        open_storage(f"journal:///{file}.missing", writing=False)


def test_a_process_that_dies_beside_us_is_mended_by_the_next_record(file: Path, content: bytes) -> None:
    record = opened(file)
    with file.open("ab") as journal:
        journal.write(b'{"op_code":8,"wor')
    fill(record, 3, 4)
    assert values(opened(file)) == [0.0, 1.0, 2.0, 3.0]
    assert file.with_name("study.journal.torn-1").read_bytes() == b'{"op_code":8,"wor'


@pytest.mark.parametrize(
    "damage", [b"garbage\n", b'{"op_code":8,"wor\n', b"\0" * 9 + b"\n", b"\n"], ids=lambda tail: repr(tail[:12])
)
def test_damage_before_the_end_is_named_and_left_alone(file: Path, content: bytes, damage: bytes) -> None:
    lines = content.splitlines(keepends=True)
    broken = b"".join([*lines[:3], damage, *lines[3:]])
    file.write_bytes(broken)
    url = f"journal:///{file}"
    with (
        pytest.raises(StudyError, match=r"study.journal, line 4: is no record, and whole records follow.*head -n 3"),
        study_lock(url, "s"),
    ):
        pass
    for writing in (True, False):
        with pytest.raises(StudyError, match="line 4"):
            open_storage(url, writing=writing)
    assert file.read_bytes() == broken
    assert not list(file.parent.glob("*.torn-*"))


def test_a_half_record_with_the_next_one_on_its_line(file: Path, content: bytes) -> None:
    """What Optuna alone makes of a torn journal."""
    start = last_record(content)
    file.write_bytes(content[: start + 20] + content[start:])
    repair(file)
    assert file.read_bytes() == content[:start], "the last line holds no whole record"
    file.write_bytes(content[: start + 20] + content[start:] * 2)
    with pytest.raises(StudyError, match="is no record, and whole records follow"):
        repair(file)


@pytest.mark.parametrize(
    "foreign", [b"dear diary\n", b"SQLite format 3\0" + bytes(80), b"a;b\n1;2\n", b"[1]\n"], ids=lambda tail: repr(tail[:12])
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, foreign: bytes) -> None:
    file = tmp_path / "diary"
    file.write_bytes(foreign)
    for attempt in (lambda: repair(file), lambda: open_storage(f"journal:///{file}")):
        with pytest.raises(StudyError, match="diary is no journal of Optuna; nothing was changed"):
            attempt()
    assert file.read_bytes() == foreign


def test_a_newer_optunas_journal_is_left_alone(file: Path, content: bytes) -> None:
    file.write_bytes(content + b'{"op_code":99,"worker_id":"x"}\n')
    with pytest.raises(StudyError, match=r"line \d+: was written by a newer Optuna than the one here \(operation 99\); upgrade it"):
        open_storage(f"journal:///{file}")
    assert file.read_bytes().endswith(b'"x"}\n')


def test_a_newer_programs_study_in_a_journal(file: Path) -> None:
    url = f"journal:///{file}"
    study = open_study(open_storage(url), url, "newer", create=True)
    study.set_user_attr("regmix_active", {"format": 99})
    before = file.read_bytes()
    with pytest.raises(StudyError, match="newer regmix-active; upgrade"):
        StudyRecord(open_study(open_storage(url), url, "newer", create=True))
    assert file.read_bytes() == before


def test_the_lock_of_a_dead_process_is_removed(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock = Path(f"{file}.lock")
    lock.touch()
    os.utime(lock, (time.time() + 3600, time.time() + 3600))  # by a clock that is an hour ahead
    repair(file, patience=0.2)
    assert not lock.exists()
    assert "study.journal.lock of a process that died while it wrote" in caplog.text
    lock.symlink_to(file)  # Optuna's other kind of lock
    repair(file, patience=0.2)
    assert not lock.is_symlink()


WRITER = """
import sys, time
from pathlib import Path
from regmix_active.study.journal import MarkedLock

MarkedLock(Path(sys.argv[1])).acquire()
print("holds it", flush=True)
time.sleep(60)
"""


def test_a_lock_of_ours_is_known_to_be_a_dead_ones_at_once(file: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "holds it\n"
        lock = MarkedLock(file)
        assert not lock.remove_if_dead(), "it lives"
        assert lock.file.exists()
        writer.kill()
        writer.wait()
    began = time.monotonic()
    with study_lock(f"journal:///{file}", "s"):
        assert time.monotonic() - began < 1
    assert not lock.file.exists()
    lock.acquire()
    lock.release()
    assert not lock.file.exists()


def test_the_lock_of_a_living_process_is_respected(file: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It writes on and on: each of its locks is another one, and what it has half written is not torn."""
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            lock = JournalFileOpenLock(str(file))
            lock.acquire()
            with file.open("ab", buffering=0) as journal:
                journal.write(b'{"op_code":3,"worker_id":"x","study_id":0,')
                time.sleep(0.02)
                journal.write(b'"system_attr":{"a":1}}\n')
            lock.release()
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(8):
            repair(file, patience=0.5)
    finally:
        done.set()
        writer.join()
    assert not list(file.parent.glob("*.torn-*"))
    assert "removed the lock" not in caplog.text
    found = examine(file)
    assert found.whole == found.size > len(content)


def test_a_write_that_the_disk_cuts_short_is_taken_back(file: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    record = opened(file)
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("regmix_active.study.journal.os.fsync", full)
        with pytest.raises(StorageError, match="the disk is full; free some space, then run the same command again"):
            fill(record, 3, 4)
    assert file.read_bytes() == before
    assert not Path(f"{file}.lock").exists()
    fill(record, 3, 4)
    assert values(opened(file)) == [0.0, 1.0, 2.0, 3.0]


def test_no_space_to_keep_a_torn_end(file: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(content[:-5])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("regmix_active.study.journal.os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        repair(file)
    assert file.read_bytes() == content[:-5]
    assert not list(file.parent.glob("*.torn-*"))


def test_a_journal_that_vanishes_is_not_begun_anew(file: Path) -> None:
    record = opened(file)
    file.unlink()
    with pytest.raises(StorageError, match="No such file"):
        fill(record, 3, 4)
    assert not file.exists()


def test_two_drivers_of_one_journal(file: Path) -> None:
    url = f"journal:///{file}"
    with study_lock(url, "s") as held:
        held.ensure()
        with pytest.raises(StudyBusyError, match=f"process {os.getpid()}"), study_lock(url, "s"):
            pass
        with study_lock(url, "another study"):
            pass


def test_a_repair_is_in_the_run_log(file: Path, content: bytes, tmp_path: Path) -> None:
    file.write_bytes(content + b"\0")
    log = logging.getLogger("regmix_active")
    seen: list[str] = []
    handler: Any = logging.Handler()
    handler.emit = lambda entry: seen.append(entry.getMessage())
    log.addHandler(handler)
    try:
        repair(file)
    finally:
        log.removeHandler(handler)
    assert len(seen) == 1
    assert json.dumps(seen[0]).count("study.journal") == 2
