"""Jobs in flight: submitted, watched against their deadline, tried again within a cap, and landed as results.

It is shared by all runners that train on an executor. What it decides, it decides from job and result files: a result that is
there is collected and never trained again, whoever wrote it, however late.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Protocol, Self

from regmix_active.config.execution import ExecutionConfig
from regmix_active.errors import DiskError
from regmix_active.execution.base import Executor
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.job import read_results

log = logging.getLogger(__name__)

DEADLINE_FACTOR = 10.0
"""A job that takes so many times the longest one that has finished has hung ..."""

LEAST_DEADLINE_SECONDS = 600.0
"""... but not before this; and until one has finished, only after what was expected of it, or a day."""

UNKNOWN_SECONDS = 86_400.0 / DEADLINE_FACTOR

LOOK_SECONDS = 5.0
"""Between two looks at deadlines."""

DISK_FULL = ("[Errno 28]", "[Errno 122]", "[Errno 30]")
"""No space, quota used up, read-only: how an executor's reason says that no other attempt would help."""


class Job(Protocol):
    """What flies: some proxies, as a file that describes them and a file for their results."""

    @property
    def requests(self) -> tuple[ProxyRequest, ...]:
        """What is asked of its proxies."""
        ...

    def write(self, folder: Path) -> Path:
        """Write the job file and return its path, the same at every attempt."""
        ...

    def result_path(self, folder: Path) -> Path:
        """Where its results will be, as :func:`regmix_active.proxy.job.write_results` writes them."""
        ...

    def again(self, attempt: int) -> Self:
        """The job as it is tried for the second, third ... time."""
        ...


class Deadline:
    """How long a job may train before it counts as hung. Measured with a clock that nobody sets."""

    def __init__(self, minutes: float | str = "auto", expected: float = 0.0) -> None:
        """Start without experience.

        Args:
            minutes: As ``execution.deadline_minutes``.
            expected: Seconds that a job was planned to take; 0: nobody knows.
        """
        self._fixed = None if minutes == "auto" else float(minutes) * 60
        self._longest = 0.0
        self._expected = expected or UNKNOWN_SECONDS
        self._since: dict[Path, float] = {}

    @property
    def seconds(self) -> float:
        """The deadline now; 0 if there is none."""
        if self._fixed is not None:
            return self._fixed
        return max(LEAST_DEADLINE_SECONDS, DEADLINE_FACTOR * (self._longest or self._expected))

    def look(self, executor: Executor) -> list[Path]:
        """Note which jobs train, and return those that have done so for too long."""
        now, running = time.monotonic(), set(executor.running)
        self._since = {path: since for path, since in self._since.items() if path in running}
        for path in running:
            self._since.setdefault(path, now)
        return [path for path, since in self._since.items() if self.seconds and now - since > self.seconds]

    def ended(self, path: Path, *, well: bool) -> None:
        """Forget a job; what it took is experience if it ended well."""
        since = self._since.pop(path, None)
        if well and since is not None:
            self._longest = max(self._longest, time.monotonic() - since)


class Flight:
    """Jobs on an executor, from their submission to their results."""

    def __init__(self, executor: Executor, folder: Path, execution: ExecutionConfig, expected: float = 0.0) -> None:
        """Start empty.

        Args:
            executor: Where jobs run.
            folder: Where job and result files are; made if it is missing.
            execution: Attempts and deadline.
            expected: Seconds that a job is planned to take; 0: nobody knows.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._executor, self._folder, self._attempts = executor, folder, execution.attempts
        self._deadline = Deadline(execution.deadline_minutes, expected)
        self._jobs: dict[Path, Job] = {}
        self._tries: dict[Path, int] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, job: Job) -> list[ProxyResult]:
        """Submit a job, or return its results if they are there.

        Raises:
            ProxyError: If the executor cannot run anything at all.
        """
        if (results := self._results(job)) is not None:
            return results
        path = job.write(self._folder)
        self._jobs[path], self._tries[path] = job, 1
        self._executor.submit(path)
        return []

    def land(self) -> Generator[ProxyResult, None, None]:
        """Wait until a job in flight ends or hangs, and yield what it, and any other, has shown.

        Raises:
            DiskError: If a job found no space to write to: its proxies are not to blame, and nothing else would get further.
            ProxyError: If the executor cannot run anything at all.
        """
        for path, error in self._executor.poll(LOOK_SECONDS):
            if path in self._jobs:
                yield from self._ended(path, error)
        for path in self._deadline.look(self._executor):
            self._executor.cancel(path)
            yield from self._ended(path, f"it hung: no result after {self._deadline.seconds / 60:.3g} minutes")

    def _ended(self, path: Path, error: str | None) -> list[ProxyResult]:
        job = self._jobs[path]
        results = self._results(job)
        self._deadline.ended(path, well=results is not None)
        if results is None:
            error = error or "it ended without a result"
            if any(sign in error for sign in DISK_FULL):
                del self._jobs[path]
                raise DiskError(
                    f"{self._folder}: a worker could not write there ({error}); free some space, then run the same command again: "
                    "what finished is kept, and no proxy counts as failed for it"
                )
            if self._tries[path] < self._attempts:
                log.warning("job %s failed (%s); trying again", path.name, error)
                self._tries[path] += 1
                job.again(self._tries[path]).write(self._folder)
                self._executor.submit(path)
                return []
            log.error("job %s failed %d times: %s", path.name, self._tries[path], error)
            results = [ProxyResult(request.slot, {}, failure=f"crashed: {error}") for request in job.requests]
        del self._jobs[path]
        return results

    def _results(self, job: Job) -> list[ProxyResult] | None:
        """What its result file says of the proxies that were asked for, if it does."""
        return read_results(job.result_path(self._folder), [request.slot for request in job.requests])

    def abandon(self) -> None:
        """Cancel what is in flight."""
        for path in self._jobs:
            self._executor.cancel(path)
        self._jobs.clear()


def fly(flight: Flight, jobs: Sequence[Job]) -> Generator[ProxyResult, None, None]:
    """All these jobs, results as they land; what is in flight when the generator is closed is cancelled."""
    try:
        there = [result for job in jobs for result in flight.start(job)]  # all train before anybody reads
        yield from there
        while len(flight):
            yield from flight.land()
    finally:
        flight.abandon()


def fly_on(flight: Flight, propose: Callable[[], Sequence[Job]], places: int) -> Generator[ProxyResult, None, None]:
    """Keep so many jobs in flight for as long as `propose` has more; it is asked for one place at a time."""
    try:
        while True:
            while len(flight) < places and (jobs := propose()):
                for job in jobs:
                    yield from flight.start(job)
            if not len(flight):
                return
            yield from flight.land()
    finally:
        flight.abandon()
