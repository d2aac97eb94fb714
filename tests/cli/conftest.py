"""The command line as a user has it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "REGMIX_ACTIVE_CACHE": str(cache), "COLUMNS": "120", "PYTHONWARNINGS": "default"}


@pytest.fixture
def command(environment: dict[str, str], tmp_path: Path) -> Command:
    """Run ``regmix-active`` with arguments, in an empty folder."""

    def run(*arguments: str | Path, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "regmix_active", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300, check=False)

    return run
