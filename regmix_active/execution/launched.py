"""Launches that the driver starts itself: for jobs that several processes train together, and for several machines.

When one rank dies, its launcher ends all of them. So a launch is short-lived here: its finished jobs are on the board, a fresh one
goes on with the rest.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from regmix_active.errors import ProxyError
from regmix_active.execution.accelerate_config import LaunchCommand
from regmix_active.execution.board import Board, wait_for_board
from regmix_active.execution.posted import IDLE_SECONDS, PostedExecutor

RESTARTS = 3
"""Launches that may die in a row without a finished job."""

PARTING_SECONDS = 5.0
"""How long a launch has to end by itself when the board is closed, and again when it is told to."""

Launch = Callable[[Path], LaunchCommand]
"""From a board's folder to the command that starts this machine's ranks."""


class LaunchedExecutor(PostedExecutor):
    """Posts jobs on a board and starts a launcher whose ranks take them."""

    def __init__(self, launch: Launch, parent: Path, *, together: bool = False) -> None:
        """Prepare the board; the launcher starts with the first job.

        Args:
            launch: How ranks are started, such as ``partial(launch_command, config)``.
            parent: Folder for the board; other machines find it there.
            together: All ranks train each job together, one after the other.
        """
        super().__init__(Board.create(parent), together=together)
        self._launch = launch
        self._open = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self._board.folder / "launch.log"
        self._fruitless = 0

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        """See :meth:`Executor.poll`.

        Raises:
            ProxyError: If launches die again and again without finishing a job.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while self._jobs and time.monotonic() < end:
            reports = self._collect() or self._after_death()
            if reports:
                return reports
            if self._process is None:
                self._start()
            time.sleep(IDLE_SECONDS)
        return []

    def _start(self) -> None:
        attempt = self._board.start_attempt()
        self._log = self._board.folder / f"launch-{attempt}.log"
        self._process = start(self._launch(self._board.folder), self._log)

    def _collect(self) -> list[tuple[Path, str | None]]:
        reports = super()._collect()
        if any(reason is None for _, reason in reports):
            self._fruitless = 0
        return reports

    def _after_death(self) -> list[tuple[Path, str | None]]:
        """If the launch died: the jobs that were in training. Ranks that were ended for another's sake gave theirs back."""
        if self._process is None or self._process.poll() is None:
            return []
        status = self._process.returncode
        end_tree(self._process)
        self._process = None
        self._fruitless += 1
        # What ended before the death was reported; a rank may have done so while its launcher was dying.
        reports = self._collect()
        if self._fruitless > RESTARTS:
            raise ProxyError(
                f"{self._fruitless} launches of ranks died in a row (the last with exit code {status}), none of them finished a "
                f"job; the end of {self._log}:\n{_tail(self._log)}\nWhat finished is kept; running again continues"
            )
        for name in self._board.held():
            self._board.withdraw(name)
            if name in self._jobs:
                reports.append((self._jobs.pop(name), f"its launch died (exit code {status}; see {self._log})"))
        return reports

    def __enter__(self) -> Self:
        self._open.enter_context(self._board.open())
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        abandoned = bool(self._jobs)
        self._withdraw_all()
        self._open.close()
        if self._process is not None:
            if not abandoned:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(PARTING_SECONDS)
            end_tree(self._process)
            self._process = None


def attend(launch: Launch, parent: Path, patience: float = 600.0) -> None:
    """Start this machine's ranks whenever the driver, on another machine, starts a launch; until it closes its board.

    Args:
        launch: How ranks are started.
        parent: The driver's folder for boards.
        patience: Seconds to wait for a driver.

    Raises:
        ProxyError: If there is none by then.
    """
    board = wait_for_board(parent, patience)
    process, started = None, 0
    try:
        while not board.closed and board.driver_lives():
            if board.attempt != started:
                if process is not None:
                    end_tree(process)
                started = board.attempt
                process = start(launch(board.folder), board.folder / f"launch-{started}-{os.uname().nodename}.log")
            time.sleep(0.5)
    finally:
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PARTING_SECONDS)
            end_tree(process)


def start(command: LaunchCommand, log: Path) -> subprocess.Popen[bytes]:
    """Start a launcher in a process group of its own (Ctrl-C is the driver's business); its output goes to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command.arguments,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and all that it started: told first, killed after a few seconds. Launchers give ranks groups of their own."""
    tree: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PARTING_SECONDS)
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    if process.poll() is None:
        process.kill()
        process.wait()
    psutil.wait_procs(tree, timeout=PARTING_SECONDS)


def _tail(log: Path, lines: int = 15) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(nothing)"
