"""Job files for executors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def job(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a job file that tells its task what to do."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.job"
        path.write_text(text)
        return path

    return write
