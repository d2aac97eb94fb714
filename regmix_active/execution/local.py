"""The devices of this machine: one process per GPU, or one single-threaded process per CPU core.

At proxy size a thread pool inside torch gains nothing, and one process per core doubles the throughput of the machine.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import math
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Self

from pebble import ProcessExpired, ProcessPool

from regmix_active.errors import ProxyError
from regmix_active.execution.worker import call, prepare
from regmix_active.interrupts import held_back

log = logging.getLogger(__name__)

PARTING_SECONDS = 5.0

BREAKS = 3
"""Pools that may give up one after the other before any job ends."""

Task = Callable[[str, str], None]
"""What a worker does with a job file: ``task(path, device)``."""


def usable_cores() -> int:
    """CPU cores that this process may use (its affinity, not the machine's count)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def local_devices(workers: int = 0) -> list[str]:
    """Torch device of each worker: all GPUs, or as many times ``cpu`` as there are cores.

    Args:
        workers: Another number of workers; GPUs are then shared in turn. 0 chooses.
    """
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if gpus:
        return [gpus[i % len(gpus)] for i in range(workers or len(gpus))]
    return ["cpu"] * (workers or usable_cores())


class LocalExecutor:
    """A pool of worker processes. A worker that dies takes only its own job with it and is replaced."""

    def __init__(self, task: Task, devices: Sequence[str]) -> None:
        """Prepare the pool; processes start with the first job.

        Args:
            task: A function at the top level of a module.
            devices: One torch device per worker; a job gets the device that has been free for longest.

        :meth:`submit` and :meth:`poll` raise :class:`ProxyError` once workers cannot start at all.
        """
        self._devices, self._task = list(devices), task
        self._pool = self._new_pool()
        self._breaks = 0
        self._free = deque(devices)
        self._queue: deque[Path] = deque()
        self._running: dict[Future[None], tuple[Path, str]] = {}

    def _new_pool(self) -> ProcessPool:
        # Spawned, not forked: the parent has threads (torch, the live view) that a fork would copy in an unknown state.
        return ProcessPool(
            max_workers=len(self._devices),
            context=multiprocessing.get_context("spawn"),
            initializer=prepare,
            initargs=(os.getpid(),),
        )

    def submit(self, job: Path) -> None:
        """See :meth:`Executor.submit`."""
        self._queue.append(job)
        self._dispatch()

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        """See :meth:`Executor.poll`."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        reports: list[tuple[Path, str | None]] = []
        while self._running and not reports and (left := end - time.monotonic()) > 0:
            # A bounded wait, so that a signal is answered at once even where a lock would not be interrupted.
            ended, _ = concurrent.futures.wait(self._running, timeout=min(1.0, left), return_when=FIRST_COMPLETED)
            for future in ended:
                if not _broken(future):
                    job, device = self._running.pop(future)
                    self._free.append(device)
                    reports.append((job, _reason(future)))
                    self._breaks = 0
            self._dispatch()
        return reports

    @property
    def running(self) -> Collection[Path]:
        """See :attr:`Executor.running`."""
        return [path for path, _ in self._running.values()]

    def cancel(self, job: Path) -> None:
        """See :meth:`Executor.cancel`."""
        if job in self._queue:
            self._queue.remove(job)
        for future in [future for future, (path, _) in self._running.items() if path == job]:
            _, device = self._running.pop(future)
            future.cancel()
            self._free.append(device)

    def _dispatch(self) -> None:
        if any(_broken(future) for future in self._running):
            self._renew("a worker died between two jobs")
        while self._free and self._queue:
            job, device = self._queue[0], self._free[0]
            try:
                with held_back():  # it may start processes, and an interrupt between start and greeting gives them tracebacks
                    future = self._pool.schedule(call, args=(self._task, str(job), device))
            except RuntimeError as error:  # the pool has given up
                self._renew(str(error))
                continue
            self._queue.popleft()
            self._free.popleft()
            self._running[future] = (job, device)

    def _renew(self, reason: str) -> None:
        """Another pool for one that gave up, as it does when a worker dies that has no job; what ran starts again, blameless.

        Raises:
            ProxyError: If pools give up again and again, and nothing ends between.
        """
        self._breaks += 1
        if self._breaks > BREAKS:
            raise ProxyError(
                f"worker processes end before they take a job ({reason}). A script of yours must start its search below "
                "`if __name__ == '__main__':`, because workers import it. What finished is kept; running again continues"
            )
        log.warning("the pool of workers broke (%s); starting another", reason)
        self._pool.stop()
        self._pool.join()
        for future, (job, device) in self._running.items():
            if not future.done() or _broken(future):
                self._queue.appendleft(job)
                self._free.append(device)
        self._running = {future: value for future, value in self._running.items() if future.done() and not _broken(future)}
        self._pool = self._new_pool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.stop()
        # Workers end with their driver; one that is just starting must not hold it up.
        with contextlib.suppress(concurrent.futures.TimeoutError, TimeoutError):
            self._pool.join(PARTING_SECONDS)


def _broken(future: Future[None]) -> bool:
    """Whether the pool gave up, which says nothing about the job."""
    return future.done() and not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)


def _reason(future: Future[None]) -> str | None:
    try:
        error = future.exception()
    except CancelledError:
        return "cancelled"
    if error is None:
        return None
    if isinstance(error, ProcessExpired):
        return f"its process died (exit code {error.exitcode}; -9 is often a lack of memory)"
    return f"{type(error).__name__}: {error}"
