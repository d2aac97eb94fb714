"""What an executor is: three verbs about job files."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


class Executor(Protocol):
    """Runs job files somewhere. A context manager: leaving it ends everything that still runs."""

    def submit(self, job: Path) -> None:
        """Queue a job file; a job that has ended may be submitted again."""
        ...

    def poll(self) -> list[tuple[Path, str | None]]:
        """Wait until a submitted job ends; return all that did, each with the reason if it ended badly."""
        ...

    def cancel(self, job: Path) -> None:
        """Forget a job: stop it if it runs, do not start it otherwise."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...
