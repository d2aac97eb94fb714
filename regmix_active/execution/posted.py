"""What executors on a board share: jobs are posted for ranks, and what these ended is collected."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from regmix_active.execution.board import Board

IDLE_SECONDS = 0.05
"""Between two looks at a board on which nothing happens."""


class PostedExecutor:
    """Posts, cancels and collects; how ranks come to the board, and what is done meanwhile, is a subclass's business.

    Args:
        board: Where jobs are posted.
        together: All ranks train each job together, one after the other.
    """

    def __init__(self, board: Board, *, together: bool) -> None:
        self._board, self._together = board, together
        self._jobs: dict[str, Path] = {}

    def submit(self, job: Path) -> None:
        """See :meth:`Executor.submit`."""
        self._jobs[self._board.post(job, together=self._together)] = job

    def cancel(self, job: Path) -> None:
        """See :meth:`Executor.cancel`. What is trained already is trained to its end; its report is dropped."""
        for name in [name for name, path in self._jobs.items() if path == job]:
            del self._jobs[name]
            self._board.withdraw(name)

    @property
    def running(self) -> Collection[Path]:
        """See :attr:`Executor.running`."""
        return [self._jobs[name] for name in self._board.held() if name in self._jobs]

    def _collect(self) -> list[tuple[Path, str | None]]:
        """What ended since the last look, each with the reason if it ended badly."""
        return [(self._jobs.pop(ended.name), ended.reason) for ended in self._board.collect() if ended.name in self._jobs]

    def _withdraw_all(self) -> None:
        for name in list(self._jobs):
            self._board.withdraw(name)
        self._jobs.clear()
