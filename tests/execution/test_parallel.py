"""Independent computations in processes: all results, with exceptions and dead processes as results of their own tasks."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regmix_active.execution.parallel import compute

SCRIPT = """
import os
from regmix_active.execution.parallel import compute

def work(task):
    if task == 1:
        os._exit(3)
    if task == 2:
        raise ValueError("two")
    return task, os.environ["OMP_NUM_THREADS"]

if __name__ == "__main__":
    for position, outcome in sorted(compute(work, range(5), 2), key=lambda pair: pair[0]):
        print(position, repr(outcome))
"""


def square(task: int) -> int:
    if task == 2:
        raise ValueError("two")
    return task**2


def test_in_this_process() -> None:
    outcomes = dict(compute(square, [1, 2, 3], jobs=1))
    assert (outcomes[0], outcomes[2]) == (1, 9)
    assert isinstance(outcomes[1], ValueError)
    assert list(compute(square, [], jobs=4)) == []


def test_in_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    result = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120, check=False)
    lines = result.stdout.splitlines()
    assert len(lines) == 5, result.stderr
    assert lines[0] == "0 (0, '1')"
    assert "its process died (exit code 3" in lines[1]
    assert lines[2] == "2 ValueError('two')"


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    text = "from regmix_active.execution.parallel import compute\nprint(list(compute(abs, [1, 2], 2)))\n"
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    result = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode != 0
    assert "if __name__ == '__main__':" in result.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_leaving_early_ends_the_work(jobs: int) -> None:
    started = time.monotonic()
    with contextlib.closing(compute(time.sleep, [0.01, 30, 30, 30][: 1 if jobs == 1 else 4], jobs)) as outcomes:
        assert next(outcomes) == (0, None)
    assert time.monotonic() - started < 25
