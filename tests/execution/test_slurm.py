"""The SLURM executor on a real SLURM of one node, and what it makes of SLURM's words."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from regmix_active.config.schema import SlurmConfig
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution import slurm_commands
from regmix_active.execution.slurm_call import Call, read_end
from regmix_active.execution.slurm_commands import Seen

HERE = Path(__file__).parent
submitit = pytest.importorskip("submitit", reason="submitit is not installed (pip install 'regmix-active[slurm]')")


def _module(file: Path) -> ModuleType:
    """A module of the tests beside this folder, under a name of its own."""
    name = f"slurm_test_{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


cases = _module(HERE.parent / "torture" / "slurm_cases.py")
servers = _module(HERE.parent / "servers" / "slurm.py")


@pytest.fixture(autouse=True)
def _tasks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("REGMIX_ACTIVE_STORAGE", "postgresql://me:a secret@host/db")
    monkeypatch.setenv("PGPASSWORD", "a secret")


@pytest.fixture(scope="module")
def running_server() -> Iterator[Any]:
    """One cluster for all tests of this file."""
    try:
        with servers.slurm_server() as running:
            yield running
    except servers.SlurmUnavailableError as error:
        pytest.skip(f"no SLURM here: {error}")


@pytest.fixture
def server(running_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in running_server.environment.items():
        monkeypatch.setenv(name, value)
    return running_server


def test_a_round_is_an_array(server: Any, tmp_path: Path) -> None:
    cases.a_round(server, tmp_path)


def test_a_preempted_job_resumes(server: Any, tmp_path: Path) -> None:
    cases.preempted(server, tmp_path)


def test_a_job_that_was_killed_with_its_slurmstepd_is_reported(server: Any, tmp_path: Path) -> None:
    cases.killed_without_a_trace(server, tmp_path)


def test_a_finished_job_that_is_requeued_changes_nothing(server: Any, tmp_path: Path) -> None:
    cases.finished_and_requeued(server, tmp_path)


def test_the_controller_may_restart(server: Any, tmp_path: Path) -> None:
    cases.controller_away(server, tmp_path, seconds=2)


def test_one_element_is_cancelled(server: Any, tmp_path: Path) -> None:
    cases.cancelled(server, tmp_path)


def test_what_slurm_refuses(server: Any, tmp_path: Path) -> None:
    cases.refused(tmp_path)


def test_the_next_driver_takes_over(server: Any, tmp_path: Path) -> None:
    cases.taken_over(server, tmp_path)
