"""Several processes on one SQLite study: serialised, or one at a time.

Optuna takes a queued trial from SQLite by reading, then writing, and two processes (or threads) can both get it. Where every
process opened the storage with :func:`regmix_active.study.storage.open_storage`, its transactions begin with the write lock, and
they cannot. With any other connection one process works at a time: it holds a lock beside the database for its life. Both kinds
take that lock, the former together, so that they are never mixed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from regmix_active.errors import StudyBusyError
from regmix_active.study.database import TAKES_TURNS
from regmix_active.study.lock import exclusive

try:
    import fcntl
except ImportError:  # Windows: there, connections of both kinds can be mixed unseen
    fcntl = None  # type: ignore[assignment]

OWNER = "regmix_active:process"
"""System attribute of a queued trial: the process that trains it."""

GRACE_SECONDS = 2.0
"""How long the process that took a queued trial may need to say so."""

REMEDY = "To work with several processes, open the study in each with storage=regmix_active.study.storage.open_storage(url)"

_held: dict[tuple[int, Path], contextlib.ExitStack] = {}
"""Locks of this process, until it ends; a forked child has its own."""

_taken: set[tuple[int, Path, int]] = set()
"""Queued trials that a thread of this process trains."""

_threads = threading.Lock()


def claim(study: Study, trial: FrozenTrial) -> None:
    """Make sure that no other process or thread trains this trial too.

    A trial that is refused is not left RUNNING: one from the queue goes back there unless its other owner shows up, another fails.

    Raises:
        StudyBusyError: If the storage lets one process work at a time, and another one does; or if a thread has the trial.
    """
    storage = getattr(study._storage, "_backend", study._storage)
    file = _database(storage)
    if file is None:
        return
    lock = file.with_name(f".{file.name}.{study._study_id}.sampler.lock")
    together = bool(getattr(storage, TAKES_TURNS, False))
    queued = bool(trial.params or "fixed_params" in trial.system_attrs)
    with _threads:
        try:
            _hold(lock, f"study {study.study_name!r} in {file}", together=together)
        except StudyBusyError as error:
            _return(study, trial, queued)
            raise StudyBusyError(f"{error}. {REMEDY}") from None
        if together or not queued:
            return
        if (os.getpid(), file, trial._trial_id) in _taken:
            raise StudyBusyError(f"SQLite gave trial {trial.number} of the queue to two threads; the first trains it. {REMEDY}")
        _taken.add((os.getpid(), file, trial._trial_id))
    study._storage.set_trial_system_attr(trial._trial_id, OWNER, os.getpid())


def _database(storage: object) -> Path | None:
    """The SQLite file of a storage, None for anything else."""
    engine = getattr(storage, "engine", None)
    if engine is None or engine.dialect.name != "sqlite":
        return None
    name = (engine.url.database or "").removeprefix("file:")
    if not name or name.startswith(":memory:") or engine.url.query.get("mode") == "memory":
        return None
    return Path(name).resolve()


def _hold(lock: Path, what: str, *, together: bool) -> None:
    """Take the lock for the life of this process: together with others of the kind, or alone."""
    key = (os.getpid(), lock)
    if key in _held:
        return
    stack = contextlib.ExitStack()
    if not together:
        stack.enter_context(exclusive(lock, what))
    elif fcntl is not None:
        file = stack.enter_context(lock.open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            stack.close()
            raise StudyBusyError(
                f"{what} is being written by a process that did not open it with open_storage; stop it first"
            ) from None
    _held[key] = stack


def _return(study: Study, trial: FrozenTrial, queued: bool) -> None:
    """Let go of a trial that this process may not train."""
    storage, number = study._storage, trial._trial_id
    if not queued:
        storage.set_trial_state_values(number, TrialState.FAIL)
        return
    end = time.monotonic() + GRACE_SECONDS
    while OWNER not in storage.get_trial(number).system_attrs:
        if time.monotonic() > end:
            storage.set_trial_state_values(number, TrialState.WAITING)
            return
        time.sleep(0.05)
