"""Ranks of a launcher: the program was started by ``accelerate launch`` or ``torchrun``, several times.

Rank 0 is the driver and trains as well; the other ranks only train. They share a :class:`~regmix_active.execution.board.Board`.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

from regmix_active.errors import ConfigError, ProxyError, RegmixActiveError
from regmix_active.execution.board import Board, Ticket
from regmix_active.execution.local import Task
from regmix_active.execution.posted import IDLE_SECONDS, PostedExecutor
from regmix_active.execution.worker import call, prepare

LOOK_AFTER_SECONDS = 5.0
"""How often the driver looks for ranks that vanished."""


def under_launcher() -> bool:
    """Whether this process is one of several of a launcher: cheap, to know whether :func:`join` is to be called at all."""
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    return any(os.environ.get(name, "1") not in ("", "1") for name in sizes)


@dataclass(frozen=True)
class Place:
    """This process's place in its launch.

    Attributes:
        rank: Its number; 0 is the driver.
        size: Number of ranks; 1 without a launcher.
        device: Its torch device.
    """

    rank: int
    size: int
    device: str


def find_place() -> Place:
    """The place in the launch, by Accelerate; sets up the process group of a launch of several.

    Raises:
        ConfigError: If the launcher started several processes that do not find each other.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Without being told, Accelerate takes each rank of a machine without accelerators for a launch of its own.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu)
    if state.num_processes == 1 and under_launcher():
        raise ConfigError(
            "the launcher started several processes, but Accelerate finds only this one; on CPU start them with: "
            "ACCELERATE_USE_CPU=true torchrun --nproc-per-node N -m regmix_active ..."
        )
    return Place(state.process_index, state.num_processes, "cpu" if state.device.type == "cpu" else str(state.device))


@dataclass(frozen=True)
class Member:
    """A process that joined its launch: its place, and the board that all of them share."""

    place: Place
    board: Board

    def serve(self, task: Task) -> None:
        """Train until the driver closes the board; for all ranks but 0. See :func:`serve_process`."""
        serve_process(self.board, task, self.place)
        leave()


@contextlib.contextmanager
def join(parent: Path) -> Iterator[Member]:
    """Join the launch, as early as the program knows its folder: the ranks wait for each other here, and nowhere later.

    Leaving closes the board (rank 0), which sends the others home.

    Args:
        parent: A folder that all ranks see; rank 0's is taken.
    """
    from accelerate.utils import broadcast_object_list

    place = find_place()
    with contextlib.ExitStack() as held:
        board = held.enter_context(Board.create(parent).open()) if place.rank == 0 else None
        shared = [str(board.folder) if board is not None else None]
        if place.size > 1:
            broadcast_object_list(shared, from_process=0)
        yield Member(place, board or Board(Path(str(shared[0]))))
    leave()


def leave() -> None:
    """Take the process group down, if there is one."""
    from accelerate import PartialState

    if PartialState._shared_state:
        PartialState().destroy_process_group()


class Worker:
    """What every rank does with a board: take a waiting job and train it, or train with all others what rank 0 calls them to."""

    def __init__(self, board: Board, task: Task, place: Place) -> None:
        """Bind it to its board.

        Args:
            board: Where jobs are.
            task: What is done with a job file.
            place: Ours.
        """
        self._board, self._task, self._place = board, task, place
        self._answered = ""
        self.holds: str | None = None
        """Name of the ticket that is ours alone at the moment."""

    def step(self) -> bool:
        """Train one job, if there is one.

        Returns:
            Whether there was.

        Raises:
            ProxyError: If a job that all ranks train together failed: they are no longer in step, so the launch must end.
        """
        if self._place.rank != 0 and (called := self._board.called()) != self._answered:
            self._answered = called
            self._together(called, None)
            return True
        ticket = self._board.claim(self._place.rank)
        if ticket is None:
            return False
        if ticket.together and self._place.size > 1:
            self._board.call(ticket.name)
            self._together(ticket.name, ticket)
        else:
            self._alone(ticket)
        return True

    def _alone(self, ticket: Ticket) -> None:
        self.holds = ticket.name
        try:
            call(self._task, str(ticket.job), self._place.device)
        except Exception as error:  # noqa: BLE001 - whatever a job raises is its own failure, not the rank's
            self._board.end(ticket.name, f"{type(error).__name__}: {error}")
        else:
            self._board.end(ticket.name, None)
        finally:
            self.holds = None

    def _together(self, name: str, ticket: Ticket | None) -> None:
        from accelerate.utils import broadcast_object_list

        shared = [str(ticket.job) if ticket is not None else None]
        try:
            broadcast_object_list(shared, from_process=0)
            call(self._task, str(shared[0]), self._place.device)
        except Exception as error:
            # The others may wait for us inside an operation that never comes: only the launcher can end them.
            self._board.end(name, f"{type(error).__name__}: {error}")
            if isinstance(error, RegmixActiveError):
                raise
            raise ProxyError(f"rank {self._place.rank} failed in a job that all ranks train: {error}") from error
        if ticket is not None:
            self._board.end(name, None)


def serve(board: Board, task: Task, place: Place) -> None:
    """Train what is on the board until the driver closes it, or is gone.

    Args:
        board: Where jobs are.
        task: What is done with a job file.
        place: Ours.

    Raises:
        ProxyError: If a job that all ranks train together failed.
    """
    _serve(board, Worker(board, task, place), place)


def serve_process(board: Board, task: Task, place: Place) -> None:
    """As :func:`serve`, in a process that does nothing else: it ends at once when its driver or its launcher is gone.

    A rank that its launcher ends, because another one died, gives its job back before it goes.
    """
    prepare(os.getppid())
    board.end_process_without_driver()
    worker = Worker(board, task, place)

    def give_back(number: int, frame: FrameType | None) -> NoReturn:
        if worker.holds is not None:
            board.release(worker.holds)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, give_back)
    _serve(board, worker, place)


def _serve(board: Board, worker: Worker, place: Place) -> None:
    with board.pulse(f"rank-{place.rank}"):
        while not board.closed:
            if not worker.step():
                if not board.driver_lives():
                    return
                time.sleep(IDLE_SECONDS)


class RankExecutor(PostedExecutor):
    """The executor of rank 0: posts jobs for all ranks, and trains while it waits for them."""

    def __init__(self, member: Member, task: Task, *, together: bool = False) -> None:
        """Use the board that the ranks joined.

        Args:
            member: Rank 0's place and board.
            task: What is done with a job file; the other ranks must serve with the same.
            together: All ranks train each job together, one after the other.
        """
        super().__init__(member.board, together=together)
        self._worker = Worker(member.board, task, member.place)
        self._looked = time.monotonic()
        self._alive = contextlib.ExitStack()

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        """See :meth:`Executor.poll`. Trains a waiting job in this process when nothing has ended.

        Raises:
            ProxyError: If a job that all ranks train together failed; the launch must be started again.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while self._jobs and time.monotonic() < end:
            if reports := self._collect():
                return reports
            if not self._worker.step():
                self._look_after_ranks()
                time.sleep(IDLE_SECONDS)
        return []

    def _look_after_ranks(self) -> None:
        if time.monotonic() - self._looked > LOOK_AFTER_SECONDS:
            self._looked = time.monotonic()
            self._board.release_of_dead_ranks()

    def __enter__(self) -> Self:
        self._alive.enter_context(self._board.pulse("rank-0"))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._withdraw_all()
        self._alive.close()
