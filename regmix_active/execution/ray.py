"""Jobs as tasks of a Ray cluster: for clusters without SLURM, and machines that join and leave.

Ray decides where and when a task runs. Retries and deadlines stay with the driver, so a task is never tried again by Ray itself.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from regmix_active.config.execution import RayConfig
from regmix_active.errors import ConfigError
from regmix_active.execution.local import Task, usable_cores
from regmix_active.execution.worker import SECRETS, call, prepare

log = logging.getLogger(__name__)

QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Settings of Ray that spare us a warning and reports to its makers, where the user has not set them."""

OBJECT_STORE_BYTES = 100 << 20
"""Shared memory of a Ray that we start: our tasks exchange files, and Ray would take a third of the machine's memory."""

STUBBORN_SECONDS = 3.0
"""A cancelled task that lives for longer does not answer (its process is stopped, say), and is killed by its process id."""

REACH_SECONDS = 5.0

OURS: set[int] = set()
"""This process's id, while the connection to Ray is one that we made."""


@dataclass(frozen=True)
class Place:
    """Where a task runs: Ray's id of the node, and the process as the system knows it."""

    node: str
    pid: int
    since: float


@dataclass(eq=False)
class Running:
    """A task that Ray was given.

    Attributes:
        job: Its job file.
        stream: What it tells: its place when it starts, and then only how it ended.
        place: Its place, once it has started.
        cancelled: When it was cancelled, on the clock of :func:`time.monotonic`.
    """

    job: Path
    stream: Any
    place: Place | None = None
    cancelled: float = math.inf


class RayExecutor:
    """One Ray task per job."""

    def __init__(self, task: Task, settings: RayConfig, workers: int = 0) -> None:
        """Prepare it; entering it connects.

        Args:
            task: A function at the top level of a module that all nodes have.
            settings: The cluster, and what one task asks for.
            workers: Tasks at a time, at most; 0: what the cluster has room for.
        """
        self._task, self._settings, self._workers = task, settings, workers
        gpus = settings.gpus
        # With several GPUs, it is the task's business which it uses.
        self._device = "cpu" if not gpus else "cuda:0" if gpus <= 1 else "cuda"
        self._queue: deque[Path] = deque()
        self._tasks: list[Running] = []
        self._dying: list[Running] = []

    def submit(self, job: Path) -> None:
        """See :meth:`Executor.submit`."""
        self._queue.append(job)
        self._dispatch()

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        """See :meth:`Executor.poll`."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        reports: list[tuple[Path, str | None]] = []
        while self._tasks and not reports:
            left = end - time.monotonic()
            # A bounded wait, so that a signal is answered at once.
            reports = self._look(min(1.0, max(0.0, left)))
            self._end_stubborn()
            if left <= 0:
                break
        self._dispatch()
        return reports

    @property
    def running(self) -> Collection[Path]:
        """See :attr:`Executor.running`."""
        return [task.job for task in self._tasks if task.place is not None]

    def cancel(self, job: Path) -> None:
        """See :meth:`Executor.cancel`."""
        import ray

        if job in self._queue:
            self._queue.remove(job)
        for task in [task for task in self._tasks if task.job == job]:
            self._tasks.remove(task)
            ray.cancel(task.stream, force=True)
            task.cancelled = time.monotonic()
            self._dying.append(task)

    def _dispatch(self) -> None:
        import ray

        while self._queue and (not self._workers or len(self._tasks) < self._workers):
            job = self._queue.popleft()
            needs = {
                "num_cpus": self._settings.cpus,
                "num_gpus": self._settings.gpus,
                "max_retries": 0,
                "name": f"proxy {job.name}",
            }
            remote = ray.remote(_work).options(num_returns="streaming", **needs)
            self._tasks.append(Running(job, remote.remote(self._task, str(job.absolute()), self._device)))

    def _look(self, seconds: float) -> list[tuple[Path, str | None]]:
        """What ended, of what Ray tells within this time."""
        import ray

        streams = {task.stream: task for task in self._tasks}
        if ray.wait(list(streams), num_returns=1, timeout=seconds)[0]:
            ready, _ = ray.wait(list(streams), num_returns=len(streams), timeout=0)
            ended = [(task, reason) for task in (streams[stream] for stream in ready) for reason in _heard(task)]
        else:
            ended = []
        for task, _ in ended:
            self._tasks.remove(task)
        return [(task.job, reason) for task, reason in ended]

    def _end_stubborn(self) -> None:
        """Kill what was cancelled and does not end: Ray asks the process itself, which may be unable to answer."""
        import ray

        for task in list(self._dying):
            while ray.wait([task.stream], timeout=0)[0] and task in self._dying:
                if list(_heard(task)):
                    self._dying.remove(task)
            if task in self._dying and time.monotonic() - task.cancelled > STUBBORN_SECONDS:
                self._dying.remove(task)
                if task.place is not None:
                    log.warning("job %s does not end when it is cancelled; killing process %d", task.job.name, task.place.pid)
                    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(task.place.node, soft=False)
                    ray.remote(_kill).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(task.place)

    def __enter__(self) -> Self:
        _connect(self._settings)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._queue.clear()
        for task in list(self._tasks):
            self.cancel(task.job)
        _disconnect()


def places(settings: RayConfig) -> int:
    """How many tasks the cluster has room for, or this machine, for a Ray that is started here; at least one.

    The connection is kept for the executor that will want it.

    Raises:
        ConfigError: If no cluster answers, or none of this machine's tasks would have room.
    """
    if settings.address == "local":
        import torch

        rooms = [{"CPU": float(usable_cores()), "GPU": float(torch.cuda.device_count())}]
    else:
        _connect(settings)
        rooms = [node["Resources"] for node in _nodes()]
    return max(1, sum(_fitting(room, settings) for room in rooms))


def _heard(task: Running) -> Iterator[str | None]:
    """Take the next thing that a task has told: nothing if it has started, else how it ended."""
    import ray

    try:
        node, pid, since = ray.get(next(task.stream))
    except StopIteration:
        yield None
    except Exception as error:  # noqa: BLE001 - whatever a task raises is its own failure
        yield _reason(error)
    else:
        task.place = Place(node, pid, since)


def _reason(error: Exception) -> str:
    from ray import exceptions

    if isinstance(error, exceptions.TaskCancelledError):
        return "cancelled"
    if isinstance(error, exceptions.OutOfMemoryError):
        return "its process was ended by Ray: its node ran out of memory"
    if isinstance(error, exceptions.NodeDiedError):
        return "its node died"
    if isinstance(error, exceptions.WorkerCrashedError):
        return "its process died (often a lack of memory)"
    cause = getattr(error, "cause", None)
    if isinstance(error, exceptions.RayTaskError) and isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"
    return f"{type(error).__name__}: {error}"


def _work(task: Task, job: str, device: str) -> Generator[tuple[str, int, float], None, None]:
    """A task, on its node: tells where it runs, then does its job."""
    import psutil
    import ray

    for name in SECRETS:
        os.environ.pop(name, None)
    _prepare_once()
    yield ray.get_runtime_context().get_node_id(), os.getpid(), psutil.Process().create_time()
    if device == "cuda":
        task(job, device)
    else:
        call(task, job, device)


@cache
def _prepare_once() -> None:
    prepare(os.getppid())


def _kill(place: Place) -> None:
    """A task, on the node of a process that does not end."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(place.pid)
        if abs(process.create_time() - place.since) < 1:
            process.kill()


def _import_ray() -> Any:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)  # it reads them when it is imported
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"execution.executor: Ray is not installed ({error}): pip install 'regmix-active[ray]'") from error
    return ray


def _connect(settings: RayConfig) -> None:
    """Connect to the cluster, or start one here; not where the program itself is connected.

    Raises:
        ConfigError: If Ray is not installed, no cluster answers, or no node can have what a task asks for.
    """
    ray = _import_ray()
    if ray.is_initialized():
        return
    address = settings.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    _require_answer(address)
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    if address == "local":
        how |= {"num_cpus": usable_cores(), "object_store_memory": OBJECT_STORE_BYTES}
    else:
        del how["include_dashboard"]
    with _own_signals(), _without_secrets():
        try:
            ray.init(address=address, **how)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise ConfigError(f"{_no_cluster(settings.address)} ({str(error).split(chr(10))[0]})") from error
    OURS.add(os.getpid())
    _hush(ray)
    if not any(_fitting(node["Resources"], settings) for node in _nodes()):
        text = f"no node has what a task asks for (cpus: {settings.cpus:g}, gpus: {settings.gpus:g})"
        if address == "local":
            _disconnect()
            raise ConfigError(f"execution.ray: {text}; lower execution.ray.cpus or execution.ray.gpus")
        log.warning("execution.ray: %s; tasks wait until such a node joins", text)


def _disconnect() -> None:
    """Take our connection down, and with it the Ray that we started."""
    import ray

    if os.getpid() in OURS:
        OURS.discard(os.getpid())
        ray.shutdown()


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _fitting(room: Mapping[str, float], settings: RayConfig) -> int:
    """Tasks that fit into a node."""
    needs = {"CPU": settings.cpus, "GPU": settings.gpus}
    return min(int(room.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need)


def _require_answer(address: str) -> None:
    """Ray itself tries for half a minute, and then ends the process."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if address in ("auto", "local") or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{_no_cluster(address)} ({error})") from error


def _no_cluster(address: str) -> str:
    return (
        f"execution.ray.address: no Ray cluster answers at '{address}'; start one (ray start --head), give its HOST:PORT, "
        "or use 'local' to start one here"
    )


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this program's handlers: Ray sets one of its own for SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _without_secrets() -> Iterator[None]:
    """A Ray that we start gives our environment to its processes."""
    kept = {name: os.environ.pop(name) for name in SECRETS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _hush(ray: Any) -> None:
    """Ray prints a paragraph whenever a process dies, whatever it is told about logs; its reason reaches us with the task."""
    worker: Any = getattr(ray._private, "worker", None)
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, *_, **__: log.debug("Ray: %s", " ".join(map(str, data.get("lines", []))))
