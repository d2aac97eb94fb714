"""The SLURM executor on a real SLURM of one node, and what it makes of SLURM's words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.slurm import SlurmServer, SlurmUnavailableError, slurm_server
from tests.torture import slurm_cases as cases

pytest.importorskip("submitit", reason="submitit is not installed (pip install 'regmix-active[slurm]')")

HERE = Path(__file__).parent

TORCH = """
import types
threads = 0
def set_num_threads(n):
    global threads
    threads = n
def get_num_threads():
    return threads
cuda = types.SimpleNamespace(device_count=lambda: 0)
"""
"""All that jobs need of torch; importing the real one would take longer than all else here."""


@pytest.fixture(autouse=True)
def _what_jobs_import(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    stub = tmp_path_factory.mktemp("torch")
    (stub / "torch.py").write_text(TORCH)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", f"{stub}:{HERE}")
    monkeypatch.setenv("REGMIX_ACTIVE_STORAGE", "postgresql://me:a secret@host/db")
    monkeypatch.setenv("PGPASSWORD", "a secret")


@pytest.fixture(scope="module")
def running_server() -> Iterator[SlurmServer]:
    """One cluster for all tests of this file."""
    try:
        with slurm_server() as running:
            yield running
    except SlurmUnavailableError as error:
        pytest.skip(f"no SLURM here: {error}")


@pytest.fixture
def server(running_server: SlurmServer, monkeypatch: pytest.MonkeyPatch) -> SlurmServer:
    for name, value in running_server.environment.items():
        monkeypatch.setenv(name, value)
    return running_server


def test_a_round_is_an_array(server: SlurmServer, tmp_path: Path) -> None:
    cases.a_round(server, tmp_path)


def test_a_preempted_job_resumes(server: SlurmServer, tmp_path: Path) -> None:
    cases.preempted(server, tmp_path)


def test_a_job_that_was_killed_with_its_slurmstepd_is_reported(server: SlurmServer, tmp_path: Path) -> None:
    cases.killed_without_a_trace(server, tmp_path)


def test_the_next_driver_takes_over(server: SlurmServer, tmp_path: Path) -> None:
    cases.taken_over(server, tmp_path)


def test_what_slurm_refuses(server: SlurmServer, tmp_path: Path) -> None:
    cases.refused(tmp_path)


def test_one_element_is_cancelled(server: SlurmServer, tmp_path: Path) -> None:
    cases.cancelled(server, tmp_path)
