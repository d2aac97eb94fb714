"""Opening storages, hiding passwords, and one writer at a time."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from regmix_active.errors import ConfigError, StudyBusyError, StudyError
from regmix_active.study.lock import exclusive, study_lock
from regmix_active.study.place import Place
from regmix_active.study.storage import absolute_url, default_storage, has_password, open_storage, open_study, public_url

HOLDER = """
import sys, time
from pathlib import Path
from regmix_active.study.lock import exclusive

with exclusive(Path(sys.argv[1]) / ".lock", "the run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg://me:s%40cret@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("postgresql://me:s@cre/t:x@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?password=***&user=me"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:////runs/study.db", "sqlite:////runs/study.db"),
        ("journal:////runs/study.journal", "journal:////runs/study.journal"),
        ("not a url", "not a url"),
        ("postgresql//me:secret@host/db", "postgresql//me:***@host/db"),
        ("postgresql//me:se/cr:et@host/db", "postgresql//me:***@host/db"),
        ("me:secret@host", "me:***@host"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert has_password(url) == ("***" in shown)


def test_stars_are_no_password() -> None:
    """A run folder keeps them in the URL's place; what the environment says must count."""
    place = Place.parse("postgresql://me:***@host/db?password=***&sslmode=prefer")
    assert place.url.render_as_string(hide_password=False) == "postgresql://me@host/db?sslmode=prefer"
    assert "secret" not in repr(Place.parse("postgresql://me:secret@host/db"))


def test_the_default_is_a_file_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_storage(Path("run")) == f"sqlite:///{tmp_path / 'run' / 'study.db'}"


def test_wrong_storages(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a database URL; write sqlite:///path/to/study\.db"):
        open_storage("study.db")
    with pytest.raises(ConfigError, match=r"the folder .*missing does not exist; create it"):
        open_storage(f"sqlite:///{tmp_path}/missing/study.db")
    (tmp_path / "text.db").write_text("this is no database, but it is long enough to be read as the header of one\n" * 20)
    with pytest.raises(StudyError, match=r"text.db: it is no database, or a damaged one \(file is not a database\); restore it"):
        open_storage(f"sqlite:///{tmp_path}/text.db")
    for other in ("nosuchdatabase", "mysql", "sqlite+aiosqlite"):
        with pytest.raises(ConfigError, match=rf"no storage is called '{re.escape(other)}'; write sqlite:///.* or postgresql://"):
            open_storage(f"{other}://host/db")
    with pytest.raises(ConfigError, match="a database in memory is lost"):
        open_storage("sqlite://")
    with pytest.raises(ConfigError, match="three slashes, or four for an absolute path"):
        open_storage("journal://study.journal")


@pytest.mark.parametrize("url", ["nosuchdatabase://me:secret@host/db", "postgresql//me:secret@host/db"])
def test_a_password_is_not_in_an_error(url: str) -> None:
    with pytest.raises((ConfigError, StudyError)) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


def test_studies_by_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = open_storage(url)
    with pytest.raises(StudyError, match=r"no study 'a' in .*\(it is empty\); start one"):
        open_study(storage, url, "a", create=False)
    made = open_study(storage, url, "a", create=True)
    assert open_study(storage, url, "a", create=True)._study_id == made._study_id
    with pytest.raises(StudyError, match=r"no study 'b' in .*\(it holds: a\)"):
        open_study(storage, url, "b", create=False)
    optuna.create_study(storage=storage, study_name="up", direction="maximize")
    optuna.create_study(storage=storage, study_name="two", directions=["minimize", "minimize"])
    with pytest.raises(StudyError, match=r"'up' .* has the direction maximize; a mixture search minimises one target"):
        open_study(storage, url, "up", create=True)
    with pytest.raises(StudyError, match="direction minimize, minimize"):
        open_study(storage, url, "two", create=False)
    storage.engine.dispose()  # type: ignore[attr-defined]


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_url("sqlite:///a/study.db") == f"sqlite:///{tmp_path}/a/study.db"
    assert absolute_url("journal:///study.journal") == f"journal:///{tmp_path}/study.journal"
    for same in ("journal:////a", "sqlite://", "sqlite:///:memory:", "postgresql://host/db", "nonsense"):
        assert absolute_url(same) == same


def test_transactions_that_write_begin_as_writers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / '{odd} name.db'}"
    writing = open_storage(url)
    study = open_study(writing, url, "a", create=True)
    reading = open_storage(url, writing=False)
    assert isinstance(writing, RDBStorage)
    assert isinstance(reading, RDBStorage)
    with writing.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")  # nothing is written, and yet nobody else may write
        with sqlite3.connect(tmp_path / "{odd} name.db", timeout=0) as other:
            with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                other.execute("BEGIN IMMEDIATE")
            assert open_study(reading, url, "a", create=False).trials == []
        other.close()
    study.enqueue_trial({"x": 1.0})
    with pytest.raises(StudyError, match="read-only here"):
        open_study(reading, url, "b", create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["{odd} name.db"]


def test_foreign_and_newer_files_are_left_alone(tmp_path: Path) -> None:
    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with contextlib.closing(sqlite3.connect(tmp_path / "foreign.db")) as foreign:
        foreign.execute("CREATE TABLE users (a)")
        foreign.execute("CREATE TABLE studies (a)")
        foreign.commit()
    open_study(open_storage(f"sqlite:///{tmp_path}/newer.db"), "", "a", create=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "newer.db")) as newer:
        newer.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        newer.commit()
    (tmp_path / "empty.db").touch()
    before = files()
    for writing in (True, False):
        with pytest.raises(StudyError, match=r"belongs to another program \(it has the tables users, and not Optuna's\)"):
            open_storage(f"sqlite:///{tmp_path}/foreign.db", writing=writing)
        with pytest.raises(StudyError, match=r"newer.db: its tables are of a newer Optuna .*: pip install -U optuna"):
            open_storage(f"sqlite:///{tmp_path}/newer.db", writing=writing)
    with pytest.raises(StudyError, match="is empty; start a study"):
        open_storage(f"sqlite:///{tmp_path}/empty.db", writing=False)
    with pytest.raises(StudyError, match=r"there is no file .*none.db; start a study"):
        open_storage(f"sqlite:///{tmp_path}/none.db", writing=False)
    assert files() == before


def test_an_interrupted_creation_is_completed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/half.db"
    open_storage(url)
    with contextlib.closing(sqlite3.connect(tmp_path / "half.db")) as half:
        half.execute("DROP TABLE alembic_version")
        half.execute("DROP TABLE trial_heartbeats")
        half.commit()
    assert open_study(open_storage(url), url, "a", create=True).trials == []


def test_a_second_writer_is_told_who_holds_the_run_until_it_dies(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(StudyBusyError, match=rf"being written by process {holder.pid} on .* \(since .*\); wait for it"),
            exclusive(tmp_path / ".lock", "the run"),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with exclusive(tmp_path / ".lock", "the run"):
        pass


def test_the_lock_is_free_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), exclusive(tmp_path / ".lock", "the run"):
        raise RuntimeError("inside")
    with exclusive(tmp_path / ".lock", "the run"):
        with pytest.raises(StudyBusyError, match=f"process {os.getpid()}"), exclusive(tmp_path / ".lock", "the run"):
            pass
        (tmp_path / ".lock.json").write_text("{")
        with pytest.raises(StudyBusyError, match="another process"), exclusive(tmp_path / ".lock", "the run"):
            pass
    assert not (tmp_path / ".lock.json").exists()


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_the_lock_of_a_study_in_a_file(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}:///{tmp_path}/study"
    (tmp_path / "link").symlink_to(tmp_path / "study")
    with study_lock(url, "a") as held:
        held.ensure()
        for same in (url, f"{scheme}:///{tmp_path}/../{tmp_path.name}/study", f"{scheme}:///{tmp_path}/link"):
            with (
                pytest.raises(StudyBusyError, match=rf"study 'a' in .* by process {os.getpid()} on .* \(since"),
                study_lock(same, "a"),
            ):
                pass
        with study_lock(url, "b"):
            pass
        # Somebody tidies up, and another driver comes.
        (tmp_path / ".study.a.lock").unlink()
        held.ensure()
        (tmp_path / ".study.a.lock").unlink()
        with study_lock(url, "a"):
            with pytest.raises(StudyBusyError, match="is being written by process"):
                held.ensure()
            with pytest.raises(StudyBusyError, match="since"), study_lock(url, "a"):
                pass
        held.ensure()
    with pytest.raises(ConfigError, match="does not exist; create it"), study_lock(f"{scheme}:///{tmp_path}/none/study", "a"):
        pass


def test_locks_do_not_look_at_clocks(tmp_path: Path) -> None:
    with exclusive(tmp_path / ".lock", "the run") as held:
        for hours in (-1, 1):
            then = time.time() + 3600 * hours
            os.utime(tmp_path / ".lock", (then, then))
            held.ensure()
            with pytest.raises(StudyBusyError), exclusive(tmp_path / ".lock", "the run"):
                pass
