"""The job's side of the SLURM executor: one call of the task, in a job that may be preempted, and a note of how it ended.

The note is a file of ours beside submitit's, because its own results are pickles: what a job wrote is read, never executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmix_active.atomic import write_atomically
from regmix_active.errors import ProxyError
from regmix_active.execution import worker

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

WARNING_SECONDS = 90
"""So long before its time limit a job is told (or at a quarter of a short limit), and asks to be queued again."""

EARLY_SECONDS = 60
"""SLURM may tell it earlier by so much."""


class Call:
    """One call of a task. submitit runs it, and asks :meth:`checkpoint` what to run when the job must give up its place."""

    def __init__(
        self, task: Callable[[str, str], None], job: Path, end: Path, *, cpus: int, gpus: int, minutes: int, beat: float
    ) -> None:
        """Remember what to do.

        Args:
            task: A function at the top level of a module; idempotent, because SLURM may start a job again at any time.
            job: The job file, absolute. What the task saves on its way lies beside it, under names that begin like the job's.
            end: The note, absolute.
            cpus: Cores that the job asked for.
            gpus: GPUs that it asked for.
            minutes: Its time limit.
            beat: Seconds between two signs of life: without accounting, SLURM lists a job as running whose processes are long dead.
        """
        self._task, self._job, self._end = task, job, end
        self._cpus, self._gpus, self._minutes = cpus, gpus, minutes
        self._beat = beat
        self._began, self._saved = 0.0, self._files()

    def __call__(self) -> None:
        """Run the task and leave the note.

        Raises:
            Exception: Whatever the task raised, so that SLURM's records and the log show it, too.
        """
        self._began, self._saved = time.monotonic(), self._files()
        threading.Thread(target=_beat, args=(pulse_of(self._end), self._beat), daemon=True).start()
        try:
            self._task(str(self._job), self._prepare())
        # The note is for whatever went wrong. A request to be queued again is a SystemExit, and no end.
        except Exception as error:
            write_end(self._end, f"{type(error).__name__}: {error}")
            raise
        write_end(self._end, None)

    def checkpoint(self) -> DelayedSubmission:
        """The same call: the task finds what it saved.

        Raises:
            ProxyError: If the time limit has come and nothing was saved since the job began: it would never end.
        """
        from submitit.core.utils import DelayedSubmission

        limit = self._minutes * 60
        late = time.monotonic() - self._began > limit - warning_seconds(self._minutes) - EARLY_SECONDS
        if late and self._files() == self._saved:
            raise ProxyError(
                f"the job saved nothing within its time limit of {self._minutes} minutes, so that it would never end; raise "
                "execution.slurm.minutes, or lower execution.checkpoint_minutes to a fraction of it (0 never saves)"
            )
        return DelayedSubmission(self)

    def _prepare(self) -> str:
        """Make the most of what the job was given, and choose its device.

        Raises:
            ProxyError: If it asked for GPUs and has none.
        """
        import torch

        worker.keep_freed_memory()
        torch.set_num_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", self._cpus)))
        if torch.cuda.device_count() == 0:
            if self._gpus:
                raise ProxyError(
                    f"the job asked for {self._gpus} GPUs (execution.slurm.gpus), but torch sees none on {socket.gethostname()}; "
                    "load what they need in execution.slurm.setup, and install a torch for them"
                )
            return "cpu"
        torch.cuda.set_device("cuda:0")  # streams and graphs belong to the current device
        return "cuda:0" if self._gpus <= 1 else "cuda"

    def _files(self) -> dict[str, tuple[int, int]]:
        """What lies beside the job under its name, but for the job itself: times and sizes, to tell whether anything was saved."""
        stem = self._job.name.partition(".")[0]
        found = [path for path in self._job.parent.glob(f"{stem}[!0-9A-Za-z]*") if path != self._job]
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in found if path.exists()}


def warning_seconds(minutes: int) -> int:
    """How long before a time limit of so many minutes a job is told, seconds."""
    return min(WARNING_SECONDS, minutes * 15)


def pulse_of(end: Path) -> Path:
    """The file whose time moves while a job lives, by its note."""
    return end.with_name(end.name.replace(".end.json", ".pulse"))


def _beat(pulse: Path, seconds: float) -> None:
    while True:
        with contextlib.suppress(OSError):  # a full disk is the task's to report
            pulse.touch()
        time.sleep(seconds)


def write_end(path: Path, reason: str | None) -> None:
    """Note how a job ended: well (None), or why not."""
    note: dict[str, Any] = {"reason": reason, "host": socket.gethostname(), "time": time.time()}
    write_atomically(path, json.dumps(note))


def read_end(path: Path) -> str | None:
    """The reason in a note; None if the job ended well.

    Raises:
        OSError: If there is none, or it cannot be read.
        ValueError: If it is not a note.
    """
    note = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(note, dict) or "reason" not in note:
        raise ValueError(f"{path}: not a note of a job")
    return None if note["reason"] is None else str(note["reason"])


def read_sent(note: Path) -> dict[str, str]:
    """What was submitted; of a note that is not one, nothing that anybody wants."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        return {key: str(content[key]) for key in ("job", "id", "meaning")}
    except (OSError, ValueError, KeyError, TypeError):
        return dict.fromkeys(("job", "id", "meaning"), "")


def last_words(file: Path) -> str:
    """The last words in a log, but for submitit's."""
    with contextlib.suppress(OSError), file.open("rb") as log_file:
        log_file.seek(max(file.stat().st_size - 4000, 0))
        lines = log_file.read().decode(errors="replace").splitlines()
        return " / ".join([line.strip() for line in lines if line.strip() and not line.startswith("submitit ")][-3:])[-400:]
    return ""
