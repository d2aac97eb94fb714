"""Opening storages, hiding passwords, and one writer at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from regmix_active.errors import ConfigError, StudyBusyError, StudyError
from regmix_active.study.lock import exclusive
from regmix_active.study.storage import default_storage, open_storage, open_study, public_url

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
        ("sqlite:////runs/study.db", "sqlite:////runs/study.db"),
        ("not a url", "not a url"),
        ("postgresql//me:secret@host/db", "postgresql//me:***@host/db"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_the_default_is_a_file_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_storage(Path("run")) == f"sqlite:///{tmp_path / 'run' / 'study.db'}"


def test_wrong_storages(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a database URL; write sqlite:///path/to/study\.db"):
        open_storage("study.db")
    with pytest.raises(ConfigError, match=r"the folder .*missing does not exist; create it"):
        open_storage(f"sqlite:///{tmp_path}/missing/study.db")
    (tmp_path / "text.db").write_text("this is no database, but it is long enough to be read as the header of one\n" * 20)
    with pytest.raises(StudyError, match=r"text.db cannot be opened: file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(ConfigError, match="no database is called 'nosuchdatabase'; write sqlite:///"):
        open_storage("nosuchdatabase://host/db")
    with pytest.raises(ConfigError, match="a database in memory is lost"):
        open_storage("sqlite://")


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
