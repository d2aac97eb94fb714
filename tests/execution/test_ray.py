"""The Ray executor, on a real Ray of one machine: deaths and hangs stay in their task, what is cancelled ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from regmix_active.config.execution import RayConfig
from regmix_active.errors import ConfigError
from regmix_active.execution import ray as ray_module
from regmix_active.execution.ray import RayExecutor, places

HERE = Path(__file__).parent
LOCAL = RayConfig(address="local")

needs_ray = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('ray')", reason="Ray is not installed")


@pytest.fixture(scope="module")
def act() -> Iterator[Callable[[str, str], None]]:
    """The tasks, in a module that Ray's processes find; and secrets that they must not see."""
    import importlib

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", str(HERE))
        patch.setenv("PGPASSWORD", "secret")
        patch.setenv("REGMIX_ACTIVE_STORAGE", "postgresql://me:secret@host/db")
        yield importlib.import_module("ray_tasks").act


@pytest.fixture(scope="module")
def executor(act: Callable[[str, str], None]) -> Iterator[RayExecutor]:
    handler = signal.getsignal(signal.SIGTERM)
    with RayExecutor(act, LOCAL, workers=2) as executor:
        assert signal.getsignal(signal.SIGTERM) is handler, "the program keeps its own"
        assert os.environ["PGPASSWORD"] == "secret"
        yield executor
    import ray

    assert not ray.is_initialized()


def wait_for(happened: Callable[[], bool], seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.05)
    return happened()


def started(job: Path) -> int:
    """Process id of a job that has begun."""
    note = job.with_suffix(".started")
    assert wait_for(lambda: note.exists() and bool(note.read_text()))
    return int(note.read_text())


def finished(executor: RayExecutor, jobs: list[Path]) -> dict[Path, str | None]:
    reports: dict[Path, str | None] = {}
    end = time.monotonic() + 30
    while len(reports) < len(jobs) and time.monotonic() < end:
        reports.update(executor.poll(1.0))
    return reports


@needs_ray
def test_each_job_ends_in_its_own_way(
    executor: RayExecutor, job: Callable[[str, str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = [job("first", "note"), job("dies", "die"), job("raises", "raise"), job("last", "note")]
    for one in jobs:
        executor.submit(one)
    reports = finished(executor, jobs)
    assert reports[jobs[0]] is None
    assert "process died" in str(reports[jobs[1]])
    assert reports[jobs[2]] == "ValueError: as asked"
    assert reports[jobs[3]] is None
    device, threads, omp, *secrets = jobs[3].with_suffix(".done").read_text().split()
    assert (device, threads, omp) == ("cpu", "1", "1")
    assert secrets == [], "a job sees no password of the study"
    assert executor.poll() == []
    assert executor.running == []
    assert capfd.readouterr() == ("", ""), "Ray keeps quiet"


@needs_ray
def test_a_job_that_hangs_is_cancelled_and_its_place_used_again(executor: RayExecutor, job: Callable[[str, str], Path]) -> None:
    stopped, sleeping, waiting = job("stopped", "stop"), job("sleeping", "sleep 100"), job("waiting", "note")
    for one in (stopped, sleeping, waiting):
        executor.submit(one)
    assert wait_for(lambda: executor.poll(0.2) == [] and set(executor.running) == {stopped, sleeping})
    pids = [started(path) for path in (stopped, sleeping)]
    begin = time.monotonic()
    assert executor.poll(0.3) == []
    assert 0.2 < time.monotonic() - begin < 2
    executor.cancel(sleeping)
    executor.cancel(stopped)
    assert finished(executor, [waiting]) == {waiting: None}
    again = job("stopped", "note")  # the same file, submitted again while its first process may still hang
    executor.submit(again)
    assert finished(executor, [again]) == {again: None}
    assert wait_for(lambda: executor.poll(0.1) == [] and not any(map(psutil.pid_exists, pids))), "also the one that cannot answer"


@needs_ray
def test_leaving_ends_everything(act: Callable[[str, str], None], executor: RayExecutor, job: Callable[[str, str], Path]) -> None:
    """The connection of the module's executor is in use, so this one takes it, and must not close it."""
    ray_module.OURS.clear()
    with RayExecutor(act, LOCAL) as inner:
        hangs = job("hangs", "sleep 100")
        inner.submit(hangs)
        assert wait_for(lambda: inner.poll(0.2) == [] and list(inner.running) == [hangs])
    pid = started(hangs)
    assert wait_for(lambda: not psutil.pid_exists(pid))
    import ray

    assert ray.is_initialized()
    ray_module.OURS.add(os.getpid())


@needs_ray
def test_a_missing_cluster_is_said(act: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"execution\.ray\.address: no Ray cluster answers at '{address}'.*'local'"):
            RayExecutor(act, RayConfig(address=address)).__enter__()
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at '{address}'"):
            places(RayConfig())
    monkeypatch.delenv("RAY_ADDRESS")

    def nothing_there(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nmore")

    monkeypatch.setattr(ray, "init", nothing_there)
    with pytest.raises(ConfigError, match=r"answers at 'auto'.*\(Could not find any running Ray instance\.\)"):
        RayExecutor(act, RayConfig()).__enter__()


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'regmix-active\[ray\]'"):
        RayExecutor(print, LOCAL).__enter__()


def test_what_does_not_fit_is_refused_on_this_machine_and_awaited_on_a_cluster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ray = ModuleType("ray")
    shut: list[bool] = []
    fake = {
        "is_initialized": lambda: False,
        "init": lambda **_: None,
        "shutdown": lambda: shut.append(True),
        "nodes": lambda: [
            {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
            {"Alive": True, "Resources": {"CPU": 5.0}},
            {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}},
        ],
        "_private": None,
    }
    for name, value in fake.items():
        setattr(ray, name, value)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_module, "OURS", set())
    with pytest.raises(ConfigError, match=r"cpus: 1, gpus: 2.*lower execution\.ray\.cpus"):
        RayExecutor(print, RayConfig(address="local", gpus=2)).__enter__()
    assert shut == [True]
    assert places(RayConfig(cpus=2)) == 4 + 2
    assert places(RayConfig(cpus=2, gpus=0.5)) == 2
    with RayExecutor(print, RayConfig(gpus=2)):
        assert "wait until such a node joins" in caplog.text
    assert RayExecutor(print, RayConfig(gpus=2))._device == "cuda"
    assert RayExecutor(print, RayConfig(gpus=0.5))._device == "cuda:0"
