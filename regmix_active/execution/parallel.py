"""Many independent computations on the cores of this machine, each with one thread."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from regmix_active.errors import StudyError
from regmix_active.execution.worker import prepare
from regmix_active.interrupts import held_back

Task = TypeVar("Task")
Result = TypeVar("Result")


def compute(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Generator[tuple[int, Result | Exception]]:
    """Compute ``function(task)`` for all tasks; yields ``(position, result)`` as they finish.

    A task that raises gives its exception, and so does one whose process dies; the others go on. Leaving the iterator, by Ctrl-C
    or ``close``, ends the processes.

    Args:
        function: At the top level of a module.
        tasks: What it is called with; anything that can be pickled.
        jobs: Processes; 1 computes in this one.

    Raises:
        StudyError: If no process can start.
    """
    if jobs == 1:
        for i, task in enumerate(tasks):
            yield i, _attempt(function, task)
        return
    # Spawned, not forked: the parent has threads (torch, a progress bar) that a fork would copy in an unknown state.
    pool = ProcessPool(
        max_workers=min(jobs, len(tasks)) or 1,
        context=multiprocessing.get_context("spawn"),
        initializer=prepare,
        initargs=(os.getpid(),),
    )
    try:
        with held_back():  # the first call starts processes, and an interrupt between start and greeting gives them tracebacks
            waiting: dict[Future[Any], int] = {pool.schedule(function, args=(task,)): i for i, task in enumerate(tasks)}
        while waiting:
            # A bounded wait, so that a signal is answered at once even where a lock would not be interrupted.
            ended, _ = concurrent.futures.wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in ended:
                position = waiting.pop(future)
                yield position, _outcome(future)
    finally:
        pool.stop()
        pool.join()


def _attempt(function: Callable[[Task], Result], task: Task) -> Result | Exception:
    try:
        return function(task)
    except Exception as error:  # noqa: BLE001 - whatever a task raises is its result, as it is from a process
        return error


def _outcome(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise StudyError(
            "worker processes end before they take a task. A script of yours must begin its computation below "
            "`if __name__ == '__main__':`, because workers import it; one process (jobs=1) needs no workers"
        ) from error
    except ProcessExpired as error:
        return RuntimeError(f"its process died (exit code {error.exitcode}; -9 is often a lack of memory)")
    except Exception as error:  # noqa: BLE001 - as above
        return error
