"""What an executor is: three verbs about job files, and a look at those that run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


class Executor(Protocol):
    """Runs job files somewhere. A context manager: leaving it ends everything that still runs."""

    def submit(self, job: Path) -> None:
        """Queue a job file; a job that has ended may be submitted again."""
        ...

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        """Wait until a submitted job ends; return all that did, each with the reason if it ended badly.

        Args:
            timeout: Return, perhaps with nothing, after so many seconds; None waits for as long as something is submitted.
        """
        ...

    @property
    def running(self) -> Collection[Path]:
        """Jobs that train now, as far as is known here; those that wait for a place are not among them."""
        ...

    def cancel(self, job: Path) -> None:
        """Forget a job: stop it if it runs, do not start it otherwise. It may be submitted again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...
