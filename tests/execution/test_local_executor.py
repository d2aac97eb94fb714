"""The local executor: crashes stay in their job, cancelled jobs free their device, no worker outlives its driver."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from regmix_active.errors import ProxyError
from regmix_active.execution.local import LocalExecutor, local_devices, usable_cores

HERE = Path(__file__).parent
DRIVER = """
import sys
from pathlib import Path
from regmix_active.execution.local import LocalExecutor
from execution_tasks import act

if __name__ == "__main__":
    with LocalExecutor(act, ["cpu", "cpu"]) as executor:
        for job in sys.argv[1:]:
            executor.submit(Path(job))
        while True:
            executor.poll()
"""
UNGUARDED = """
from pathlib import Path
from regmix_active.execution.local import LocalExecutor
from execution_tasks import act

with LocalExecutor(act, ["cpu"]) as executor:
    executor.submit(Path("job"))
    executor.poll()
    executor.submit(Path("job"))
"""


@pytest.fixture(autouse=True)
def _tasks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def collect(executor: LocalExecutor, n: int) -> dict[str, str | None]:
    reports: dict[str, str | None] = {}
    while len(reports) < n:
        reports |= {path.stem: reason for path, reason in executor.poll()}
    return reports


def worker_of(path: Path) -> int:
    return int(path.with_suffix(".started").read_text().split()[0])


def test_jobs_end_alone_and_nothing_outlives_the_context(job: Callable[[str, str], Path]) -> None:
    """One pool for all of it: starting workers is what takes time."""
    act = importlib.import_module("execution_tasks").act
    good, bad, dead = [job(f"good{i}", "threads") for i in range(3)], job("bad", "raise"), job("dead", "die")
    endless, after = job("endless", "sleep 600"), [job(f"after{i}", "quick") for i in range(3)]
    with LocalExecutor(act, ["cpu", "cpu:0"]) as executor:
        assert executor.poll() == [], "nothing was asked"
        for path in (good[0], dead, bad, good[1], good[2]):
            executor.submit(path)
        reports = collect(executor, 5)
        assert {name: reports[name] for name in ("good0", "good1", "good2", "bad")} == {
            "good0": None,
            "good1": None,
            "good2": None,
            "bad": "ValueError: as asked",
        }
        assert "its process died (exit code -9" in str(reports["dead"])
        assert all(path.with_suffix(".threads").read_text() == "1 1" for path in good)

        # A job that died may be submitted again.
        dead.write_text("quick")
        executor.submit(dead)
        assert collect(executor, 1) == {"dead": None}

        # Cancelled while it runs: its device is free for the others, which were waiting.
        executor.submit(endless)
        wait_for(endless.with_suffix(".started").exists)
        waiting = job("waiting", "quick")
        blocker = job("blocker", "sleep 600")
        executor.submit(blocker)
        executor.submit(waiting)
        executor.cancel(waiting)
        executor.cancel(endless)
        for path in after:
            executor.submit(path)
        assert collect(executor, 3) == {"after0": None, "after1": None, "after2": None}
        assert not waiting.with_suffix(".started").exists(), "cancelled before it began"
        wait_for(blocker.with_suffix(".started").exists)
        running = worker_of(blocker)
        assert psutil.pid_exists(running)
    wait_for(lambda: not psutil.pid_exists(running), 20)
    assert not blocker.with_suffix(".done").exists()


def test_no_worker_outlives_a_killed_driver(tmp_path: Path, job: Callable[[str, str], Path]) -> None:
    jobs = [job(f"j{i}", "sleep 600") for i in range(2)]
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen([sys.executable, str(script), *map(str, jobs)]) as driver:
        try:
            wait_for(lambda: all(path.with_suffix(".started").exists() for path in jobs))
            wait_for(lambda: all(path.with_suffix(".started").read_text() for path in jobs))
            workers = [worker_of(path) for path in jobs]
            assert all(psutil.pid_exists(pid) for pid in workers)
        finally:
            os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    # Orphans may stay as zombies where nothing reaps them.
    wait_for(
        lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in workers), 20
    )


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert f"{ProxyError.__module__}.{ProxyError.__name__}: worker processes end before they take a job" in last
    assert "if __name__ == '__main__':" in last


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert local_devices() == ["cpu"] * usable_cores()
    assert local_devices(3) == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_devices() == ["cuda:0", "cuda:1"]
    assert local_devices(3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_an_idle_worker_that_dies_costs_nothing(job: Callable[[str, str], Path]) -> None:
    """As the kernel may do to one for want of memory, while the driver fits its surrogate."""
    act = importlib.import_module("execution_tasks").act
    with LocalExecutor(act, ["cpu", "cpu"]) as executor:
        for turn in range(5):  # more often than pools may break without any job in between
            for name in ("a", "b", "c"):
                executor.submit(job(f"{name}{turn}", "note"))
            reports = collect(executor, 3)
            assert reports == dict.fromkeys([f"{name}{turn}" for name in ("a", "b", "c")])
            os.kill(worker_of(job(f"c{turn}", "note")), signal.SIGKILL)
            time.sleep(0.3)
