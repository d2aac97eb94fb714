"""A board: the folder on which a driver posts job files and ranks of a launch take them.

It needs a file system that all ranks see, and nothing else: no message between processes, so a slow rank delays nobody and a dead
one holds nobody up. Per posted job there are up to three files::

    000007.job      the path of the job file                      written by the driver
    000007.claim    rank, host, process and time of who took it   created exclusively: the first one has it
    000007.end      null, or the reason why it ended badly        written by who took it

besides ``driver.json`` (who the driver is), ``driver.pulse`` and ``rank-N.pulse`` (numbers that change while they live), ``turn``
(the ticket that all ranks are called to, see :meth:`Board.call`), ``attempt`` (launches so far) and ``closed``. Every driver has a
board of its own: a claim that a dead launch left is on a board that nobody reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from regmix_active.atomic import write_atomically
from regmix_active.errors import ProxyError

POINTER = "board.json"
PULSE_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
"""Who is on another host counts as gone when its pulse has not moved for so long; network file systems may show it this late."""


@dataclass(frozen=True)
class Ticket:
    """A posted job.

    Attributes:
        name: Its number on the board, as text.
        job: The job file.
        together: All ranks of the launch train it together.
    """

    name: str
    job: Path
    together: bool


@dataclass(frozen=True)
class Ended:
    """How a posted job ended: its ticket's name, and the reason if it ended badly."""

    name: str
    reason: str | None


class Board:
    """The board in a folder, as the driver and every rank see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._posted = 0
        self._pulses: dict[str, tuple[str, float]] = {}

    @classmethod
    def create(cls, parent: Path) -> Board:
        """A new board below a folder, which forgets the boards of drivers before; the caller is the driver.

        Args:
            parent: A folder that all ranks see, and that no other living driver uses.
        """
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob("board-*"):
            shutil.rmtree(old, ignore_errors=True)
        folder = parent.resolve() / f"board-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        driver = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
        write_atomically(folder / "driver.json", json.dumps(driver))
        write_atomically(parent / POINTER, json.dumps({"folder": folder.name}))
        return cls(folder)

    @classmethod
    def find(cls, parent: Path) -> Board | None:
        """The newest board below a folder, or None."""
        pointer = _read_json(parent / POINTER)
        if not isinstance(pointer, dict) or not (parent / str(pointer.get("folder")) / "driver.json").is_file():
            return None
        return cls(parent.resolve() / pointer["folder"])

    # The driver's side.

    @contextlib.contextmanager
    def open(self) -> Iterator[Board]:
        """Keep the driver's pulse; leaving closes the board, and ranks leave it."""
        with self.pulse("driver"):
            try:
                yield self
            finally:
                self.close()

    def close(self) -> None:
        """Send all ranks home."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "closed").touch()

    def post(self, job: Path, *, together: bool = False) -> str:
        """Post a job file and return its ticket's name; jobs are taken in the order in which they were posted.

        Args:
            job: The job file.
            together: All ranks of the launch train it together; rank 0 takes it.
        """
        self._posted += 1
        name = f"{self._posted:06d}"
        write_atomically(self.folder / f"{name}.job", json.dumps({"job": str(job.resolve()), "together": together}))
        return name

    def withdraw(self, name: str) -> None:
        """Take a ticket off the board. A rank that trains it already goes on, and what it reports is dropped."""
        for end in ("job", "claim", "end"):
            (self.folder / f"{name}.{end}").unlink(missing_ok=True)

    def collect(self) -> list[Ended]:
        """Take what ended off the board and return it."""
        ended = []
        for path in sorted(self.folder.glob("*.end")):
            content = _read_json(path)
            if isinstance(content, dict):
                ended.append(Ended(path.stem, content.get("reason")))
                self.withdraw(path.stem)
        return ended

    def held(self) -> list[str]:
        """Names of the tickets that were taken and have not ended."""
        return [
            path.stem
            for path in sorted(self.folder.glob("*.claim"))
            if path.with_suffix(".job").exists() and not path.with_suffix(".end").exists()
        ]

    def release_of_dead_ranks(self) -> list[str]:
        """Give back the tickets whose rank's pulse has stopped, and return their names.

        Launchers notice a dead rank of their own; this is for machines that vanish. A job that is trained twice does no harm.
        """
        released = []
        for name in self.held():
            claim = _read_json(self.folder / f"{name}.claim")
            if isinstance(claim, dict) and not self._beats(f"rank-{claim['rank']}"):
                self.release(name)
                released.append(name)
        return released

    def start_attempt(self) -> int:
        """Count a launch and return its number, from 1; other machines follow by :attr:`attempt`."""
        attempt = self.attempt + 1
        (self.folder / "turn").unlink(missing_ok=True)  # the new ranks were not called to it
        write_atomically(self.folder / "attempt", str(attempt))
        return attempt

    @property
    def attempt(self) -> int:
        """Launches that the driver started so far."""
        return int(_read(self.folder / "attempt") or 0)

    # The ranks' side.

    def claim(self, rank: int) -> Ticket | None:
        """Take the first waiting job, or None if none waits. Rank 0 alone takes those for all ranks."""
        for path in sorted(self.folder.glob("*.job")):
            claim = path.with_suffix(".claim")
            content = None if claim.exists() else _read_json(path)
            if not isinstance(content, dict) or (content["together"] and rank != 0):
                continue
            try:
                descriptor = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except (FileExistsError, FileNotFoundError):  # another was faster, or the board is gone
                continue
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"rank": rank, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}, file)
            if path.exists():
                return Ticket(path.stem, Path(content["job"]), content["together"])
            claim.unlink(missing_ok=True)  # withdrawn in between
        return None

    def release(self, name: str) -> None:
        """Give a ticket back, for another rank to take."""
        (self.folder / f"{name}.claim").unlink(missing_ok=True)

    def end(self, name: str, reason: str | None) -> None:
        """Report that a taken job ended, and why if it ended badly; the board may be gone by then."""
        with contextlib.suppress(FileNotFoundError):
            write_atomically(self.folder / f"{name}.end", json.dumps({"reason": reason}))

    def call(self, name: str) -> None:
        """Rank 0 calls all ranks to train a ticket together.

        They wait for the call on the board and not in a collective operation, which would give up after some minutes while the
        driver thinks.
        """
        write_atomically(self.folder / "turn", name)

    def called(self) -> str:
        """The name of the last ticket that all ranks were called to, or an empty text."""
        return _read(self.folder / "turn")

    @property
    def closed(self) -> bool:
        """Whether the driver closed the board, or removed it."""
        return (self.folder / "closed").exists() or not (self.folder / "driver.json").exists()

    def driver_lives(self) -> bool:
        """Whether the driver is there: by its process on the same host, elsewhere by its pulse."""
        driver = _read_json(self.folder / "driver.json")
        if isinstance(driver, dict) and driver["host"] == socket.gethostname():
            try:
                process = psutil.Process(driver["pid"])
                return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - driver["started"]) < 2)
            except psutil.NoSuchProcess:
                return False
        return self._beats("driver")

    def end_process_without_driver(self) -> None:
        """End this process, in the middle of its work if need be, when its driver is gone. Returns at once."""

        def watch() -> None:
            while self.driver_lives():
                time.sleep(0.5)
            # A driver that closed its board and left is no accident, and a launcher would call it one.
            os._exit(0 if self.closed else 1)

        threading.Thread(target=watch, daemon=True, name="board-watch").start()

    @contextlib.contextmanager
    def pulse(self, who: str) -> Iterator[None]:
        """Let others see that we live: ``driver``, or ``rank-N``."""
        stop, life = threading.Event(), uuid.uuid4().hex[:8]

        def beat() -> None:
            count, temporary = 0, self.folder / f".{who}.{life}"
            while True:
                # A full disk for a moment must not end the pulse, and the board may be gone.
                with contextlib.suppress(OSError):
                    temporary.write_text(f"{life} {count}", encoding="ascii")
                    os.replace(temporary, self.folder / f"{who}.pulse")
                count += 1
                if stop.wait(PULSE_SECONDS):
                    return

        beating = threading.Thread(target=beat, daemon=True, name=f"pulse of {who}")
        beating.start()
        try:
            yield
        finally:
            stop.set()
            beating.join()

    def _beats(self, who: str) -> bool:
        # Not by the file's time: hosts' clocks differ. What counts is a change within so long by our own clock.
        beat, now = _read(self.folder / f"{who}.pulse"), time.monotonic()
        seen, since = self._pulses.get(who, ("never", now))
        if beat != seen:
            since = now
        self._pulses[who] = beat, since
        return now - since < PATIENCE_SECONDS


def wait_for_board(parent: Path, seconds: float) -> Board:
    """The board of a living driver below a folder, as soon as there is one.

    Raises:
        ProxyError: If there is none after so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        board = Board.find(parent)
        if board is not None and not board.closed and board.driver_lives():
            return board
        if time.monotonic() > end:
            raise ProxyError(
                f"{parent}: no driver opened a board there within {seconds:g} seconds. Start the same command on the machine of "
                "rank 0, with a run folder that all machines see"
            )
        time.sleep(0.5)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError:
        return None
