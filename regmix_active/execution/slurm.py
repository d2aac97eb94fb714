"""A SLURM cluster: one job per job file, submitted through submitit as arrays.

SLURM does the scheduling, and starts preempted jobs again; what is here follows the queue. A job has ended when it has left a note
(:mod:`regmix_active.execution.slurm_call`), or when the queue no longer knows it: accounting is not needed. A job that vanished
without a trace is reported after a while, so nobody waits for ever.

Jobs of a driver that was killed go on. The next driver in the same folder takes over those that it would submit with the same
settings, and cancels the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from regmix_active import __version__
from regmix_active.atomic import write_atomically
from regmix_active.config.execution import SlurmConfig
from regmix_active.errors import ConfigError
from regmix_active.execution import slurm_commands
from regmix_active.execution.slurm_call import Call, last_words, pulse_of, read_end, read_sent
from regmix_active.execution.slurm_commands import Patience, RefusedError, Seen, SlurmError, Trouble

log = logging.getLogger(__name__)

ARRAY = 500
"""Jobs of one array at most; clusters allow 1,001 unless told otherwise."""

TIME_OUTS = 10_000
"""How often submitit queues a job again at its time limit. The call ends one that saves nothing on the way."""

PAUSE_SECONDS = 0.5
"""Between two looks at the notes."""

BEATS = 60
"""Signs of life that a job may miss: network file systems show a minute's at once."""

CANCEL_SECONDS = 4.0
"""How long scancel is waited for: a preempted driver has ten seconds for everything."""


@dataclass
class _Element:
    """One job in the queue, as a rule an element of an array."""

    job: Path
    id: str
    uid: str
    group: str
    seen: Seen | None = None
    gone: float | None = None
    stuck: float | None = None
    pulse: int | None = None
    beat: float | None = None


class SlurmExecutor:
    """Runs job files as SLURM jobs. What is submitted goes out at the next poll, as one array."""

    def __init__(
        self,
        task: Callable[[str, str], None],
        settings: SlurmConfig,
        folder: Path,
        workers: int = 0,
        patience: Patience | None = None,
    ) -> None:
        """Look whether there is a SLURM; nothing is submitted yet.

        Args:
            task: A function at the top level of a module, idempotent.
            settings: What one job asks for.
            folder: Where submitit's files, logs and notes are kept, below ``slurm``; on a file system that all nodes see.
            workers: Jobs at a time; 0: as many as are submitted.
            patience: How long it waits for what.

        Raises:
            ConfigError: If submitit or SLURM's commands are missing, or an option is not the user's to set.
        """
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(f"execution.executor: slurm needs submitit ({error}); pip install 'regmix-active[slurm]'") from None
        missing = [name for name in ("sbatch", "srun", "squeue", "scancel", "scontrol") if shutil.which(name) is None]
        if missing:
            raise ConfigError(
                f"execution.executor: no SLURM here ({', '.join(missing)} not found); start the search on a node from which you "
                "submit jobs, or set execution.executor: local"
            )
        logging.getLogger("submitit").handlers.clear()  # it prints to the terminal, which is the live view's
        self._task, self._settings, self._workers, self._patience = task, settings, workers, patience or Patience()
        self._folder = folder.resolve() / "slurm"
        self._folder.mkdir(parents=True, exist_ok=True)
        # The folder's inode tells a copied run folder from the original: their jobs must not have one name.
        self._name = "regmix-" + _digest(f"{self._folder}:{self._folder.stat().st_ino}")
        self._meaning = _digest(f"{__version__}:{task.__module__}.{task.__qualname__}:{settings.model_dump_json()}")
        self._submitit: Any = submitit
        self._parameters = slurm_commands.parameters(settings, self._name)
        self._queue: list[Path] = []
        self._elements: list[_Element] = []
        self._done: dict[str, bool] = {}
        self._groups: dict[str, int] = {}
        self._opened = self._accepted = False
        self._array = ARRAY
        self._sbatch, self._squeue, self._scancel = (Trouble(name, self._patience) for name in ("sbatch", "squeue", "scancel"))
        self._next_look, self._pause = 0.0, self._patience.look

    def submit(self, job: Path) -> None:
        """See :meth:`Executor.submit`."""
        self._queue.append(job)

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        """See :meth:`Executor.poll`.

        Raises:
            ConfigError: If SLURM refuses what a job asks for, or would never give it.
            ProxyError: If the controller does not answer for minutes.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self._queue or self._elements:
            self._flush()
            self._look()
            if reports := self._reports():
                return reports
            left = PAUSE_SECONDS if end is None else end - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(PAUSE_SECONDS, left))
        return []

    @property
    def running(self) -> set[Path]:
        """See :attr:`Executor.running`."""
        return {each.job for each in self._elements if each.seen is not None and each.seen.state == "RUNNING"}

    def cancel(self, job: Path) -> None:
        """See :meth:`Executor.cancel`."""
        self._queue = [path for path in self._queue if path != job]
        self._cancel([each for each in self._elements if each.job == job])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        # One that never submitted leaves the jobs alone: they may be another driver's, which holds the study.
        if not self._opened:
            return
        try:
            slurm_commands.cancel_all(self._name, CANCEL_SECONDS)
        except SlurmError as error:
            log.warning("could not cancel the jobs (%s); once SLURM answers: scancel --name=%s", error, self._name)
        else:
            for each in self._elements:
                self._unlink(each.uid)
        # Logs of what ended well tell nobody anything; nor do submitit's links to its batch files.
        for pattern in (".submission_file_*.sh", *(f"{one}_*" for one, well in self._done.items() if well)):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    # Submitting

    def _flush(self) -> None:
        """Submit what waits, as far as there is room."""
        if not self._queue or not self._sbatch.over_pause():
            return
        try:
            if not self._opened:
                self._take_over()
            while self._queue and (room := self._room()):
                jobs = self._queue[: self._array]
                try:
                    self._submit(jobs, room)
                except RefusedError as error:
                    if len(jobs) == 1 or not error.too_many:
                        raise
                    self._array = len(jobs) // 2
                else:
                    del self._queue[: len(jobs)]
        except RefusedError as error:
            # What it has accepted once it refuses for another reason than the settings, such as the number of jobs that wait.
            if not self._accepted:
                raise ConfigError(
                    f"{slurm_commands.keys_of(str(error))}: sbatch refuses the jobs: {error}. "
                    "`sinfo` shows the partitions, `sacctmgr show assoc` your accounts"
                ) from None
            self._sbatch.again(error, for_ever=bool(self._elements))
        except SlurmError as error:
            self._sbatch.again(error)
        else:
            self._sbatch.over()

    def _room(self) -> int:
        """How many more jobs may run. SLURM sees to it within an array, but arrays run beside each other."""
        if not self._workers:
            return ARRAY
        unfinished = [each.group for each in self._elements]
        return max(self._workers - sum(min(self._groups[group], unfinished.count(group)) for group in set(unfinished)), 0)

    def _submit(self, jobs: Sequence[Path], parallel: int) -> None:
        settings, uids = self._settings, [uuid.uuid4().hex[:12] for _ in jobs]
        calls = [
            Call(
                self._task,
                job.resolve(),
                self._file(uid, "end"),
                cpus=settings.cpus,
                gpus=settings.gpus,
                minutes=settings.minutes,
                beat=self._patience.silence / BEATS,
            )
            for job, uid in zip(jobs, uids, strict=True)
        ]
        sender = self._submitit.SlurmExecutor(self._folder, max_num_timeout=TIME_OUTS)
        sender.update_parameters(**self._parameters, array_parallelism=parallel)
        printed = io.StringIO()  # submitit prints sbatch's complaint and raises it
        try:
            with slurm_commands.only_this_environment(), contextlib.redirect_stderr(printed):
                sent = sender.submit_array(calls)
        # Both are RuntimeErrors of submitit's: sbatch failed, or said what submitit does not understand.
        except RuntimeError as error:
            complaint = slurm_commands.words(str(error)) or "sbatch failed without a word"
            raise (SlurmError if slurm_commands.unreachable(complaint) else RefusedError)(complaint) from error
        self._accepted = True
        group = uuid.uuid4().hex
        self._groups[group] = parallel
        for job, uid, one in zip(jobs, uids, sent, strict=True):
            self._elements.append(_Element(job, one.job_id, uid, group))
            note = {"job": str(job.resolve()), "id": one.job_id, "meaning": self._meaning}
            write_atomically(self._file(uid, "sent"), json.dumps(note))
        log.info("submitted %d jobs to SLURM: %s", len(jobs), sent[0].job_id.partition("_")[0])
        self._pause = self._patience.look
        self._next_look = time.monotonic() + self._pause

    def _take_over(self) -> None:
        """Go on with what an earlier driver submitted in this folder, where it is what we would submit; cancel the rest.

        Raises:
            SlurmError: If the controller does not answer.
        """
        alive = {one for one, seen in slurm_commands.look(self._name).items() if not seen.ended}
        wanted = {str(job.resolve()): job for job in self._queue}
        group = uuid.uuid4().hex
        for note in self._folder.glob("*.sent.json"):
            uid, sent = note.name.partition(".")[0], read_sent(note)
            if sent["meaning"] == self._meaning and sent["job"] in wanted and sent["id"] in alive:
                job = wanted.pop(sent["job"])
                self._queue.remove(job)
                self._elements.append(_Element(job, sent["id"], uid, group))
                alive.remove(sent["id"])
            else:
                self._unlink(uid)
        if self._elements:
            self._groups[group] = len(self._elements)
            log.info("%d jobs of an earlier search are still in SLURM's queue, and taken over", len(self._elements))
        slurm_commands.cancel(alive)
        self._opened = True

    # Following

    def _look(self) -> None:
        """Ask the queue, if it is time to."""
        now = time.monotonic()
        if not self._elements or now < self._next_look:
            return
        try:
            queue = slurm_commands.look(self._name)
            alive = {one for one, seen in queue.items() if not seen.ended and seen.state != "COMPLETING"}
            # Those that a scancel has missed, and those whose sbatch was given up before it answered.
            strangers = alive - self._done.keys() - {each.id for each in self._elements}
            slurm_commands.cancel(strangers)
        except SlurmError as error:
            self._next_look = now + self._squeue.again(error)
            for each in self._elements:  # nobody knows who waits and who is silent
                each.stuck = each.pulse = each.beat = None
            return
        self._squeue.over()
        changed = False
        for each in self._elements:
            before, each.seen = each.seen, queue.get(each.id)
            changed |= before != each.seen
            self._judge(each, now)
        self._pause = self._patience.look if changed else min(self._pause * 1.3, self._patience.rarely)
        self._next_look = time.monotonic() + self._pause

    def _judge(self, each: _Element, now: float) -> None:
        """Since when it is gone, stuck, or silent."""
        gone = each.seen is None or each.seen.ended
        each.gone = None if not gone else now if each.gone is None else each.gone
        stuck = each.seen is not None and (each.seen.hopeless or each.seen.given_up)
        each.stuck = None if not stuck else now if each.stuck is None else each.stuck
        if each.seen is None or each.seen.state != "RUNNING":  # a job that waits again has no pulse, and the old one means nothing
            each.pulse = each.beat = None
            return
        with contextlib.suppress(OSError):  # none yet: Python is still starting
            pulse = pulse_of(self._file(each.uid, "end")).stat().st_mtime_ns
            each.pulse, each.beat = pulse, each.beat if pulse == each.pulse else now

    def _reports(self) -> list[tuple[Path, str | None]]:
        """What has ended, and how."""
        now, notes = time.monotonic(), set(os.listdir(self._folder)) if self._elements else set()
        reports: list[tuple[Path, str | None]] = []
        for each in list(self._elements):
            if self._file(each.uid, "end").name in notes:
                reports.append((each.job, self._ended(each)))
            elif each.seen is not None and each.seen.state == "PREEMPTED":
                # Where preemption cancels instead of requeueing; the job is not to blame.
                log.info("job %s was preempted; submitting it again", each.id)
                self._forget(each)
                self._queue.append(each.job)
            elif each.gone is not None and now - each.gone >= self._patience.grace:
                reports.append((each.job, self._vanished(each)))
                self._forget(each)
            elif each.beat is not None and now - each.beat >= self._patience.silence:
                reports.append((each.job, self._silent(each)))
            elif each.stuck is not None and each.seen is not None and now - each.stuck >= self._patience.stuck:
                reports.append((each.job, self._stuck(each, each.seen)))
        for folder in {job.parent for job, _ in reports}:
            os.listdir(folder)  # has a network file system look again, before somebody reads the result
        return reports

    def _ended(self, each: _Element) -> str | None:
        try:
            reason = read_end(self._file(each.uid, "end"))
        except (OSError, ValueError) as error:
            reason = f"its note cannot be read ({error})"
        self._done[each.id] = reason is None
        if reason is not None and (file := self._log_of(each)) is not None:
            reason = f"{reason} (log: {file})"
        self._forget(each)
        return reason

    def _vanished(self, each: _Element) -> str:
        state = each.seen.state if each.seen is not None else "nothing more"
        reason = f", {each.seen.reason}" if each.seen is not None and each.seen.reason != "None" else ""
        remedy = {"TIMEOUT": "; raise execution.slurm.minutes", "OUT_OF_MEMORY": "; raise execution.slurm.memory_gb"}.get(state, "")
        text = f"job {each.id} ended without a result (SLURM says: {state}{reason}{remedy})"
        file = self._log_of(each)
        return text if file is None else f"{text}; its log {file} ends: {last_words(file)}"

    def _silent(self, each: _Element) -> str:
        self._cancel([each])
        return (
            f"job {each.id} ended without a result: SLURM lists it as running, but it has given no sign of life for "
            f"{self._patience.silence / 60:.3g} minutes"
        )

    def _stuck(self, each: _Element, seen: Seen) -> str:
        if seen.hopeless:
            raise ConfigError(
                f"{slurm_commands.keys_of(seen.reason)}: SLURM would never start job {each.id} with these settings; it says: "
                f"{seen.reason}. `scontrol show job {each.id}` says what it asks for, `scontrol show partition` what there is"
            )
        self._cancel([each])
        return f"job {each.id}: SLURM gave up starting it ({seen.state}, {seen.reason})"

    def _cancel(self, elements: Sequence[_Element]) -> None:
        for each in elements:
            self._forget(each)
        if not self._scancel.over_pause():  # a look, or leaving, finds them still there
            return
        try:
            slurm_commands.cancel({each.id for each in elements}, CANCEL_SECONDS)
        except SlurmError as error:
            self._scancel.again(error, for_ever=True)
        else:
            self._scancel.over()

    def _forget(self, each: _Element) -> None:
        self._elements.remove(each)
        self._unlink(each.uid)

    # Files

    def _unlink(self, uid: str) -> None:
        end = self._file(uid, "end")
        for path in (self._file(uid, "sent"), end, pulse_of(end)):
            path.unlink(missing_ok=True)

    def _file(self, uid: str, kind: str) -> Path:
        return self._folder / f"{uid}.{kind}.json"

    def _log_of(self, each: _Element) -> Path | None:
        return next(iter(self._folder.glob(f"{each.id}_*_log.err")), None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
