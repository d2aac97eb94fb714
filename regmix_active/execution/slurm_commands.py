"""SLURM's commands: what they are asked, and what their words mean (the queue, refusals, reasons for which a job never starts)."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from regmix_active.config.execution import SlurmConfig
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution.slurm_call import warning_seconds
from regmix_active.execution.worker import SECRETS

log = logging.getLogger(__name__)

ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
)
"""States that a job does not leave, unless somebody has it queued again."""

COMMAND_SECONDS = 30.0
"""A command that has no answer by then has failed; while the controller restarts they hang."""

# Ours to keep although they begin like the variables of a job: where SLURM is, and who asks.
_KEPT = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")

_HOPELESS = re.compile(
    r"PartitionConfig|PartitionNodeLimit|PartitionTimeLimit|BadConstraints|DependencyNeverSatisfied|ReservationDeleted"
    r"|InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed|QOSTimeLimit|AssociationTimeLimit"
    # Limits for one job, and used-up budgets. Limits for all jobs of a group pass: others end.
    r"|(Assoc|QOS)Max\w*(PerJob|PerNode)\w*|QOSMin\w+|(Assoc|QOS)Grp(?!\w*RunMinutes)\w*(Minutes|Billing)\w*"
)
_GIVEN_UP = re.compile(r"requeued? (in )?held|MaxRequeueExceeded", re.IGNORECASE)

_UNREACHABLE = re.compile(
    r"unable to contact|timed out|connect failure|connection (refused|shutdown)|zero bytes|communications? (connection|failure)"
    r"|temporarily unable|no answer|transport endpoint|in (standby|recovery) mode|munge",
    re.IGNORECASE,
)

# What a word of SLURM's is about, as a key below execution.slurm.
_KEYS = (
    ("account", r"account|assoc"),
    ("partition", r"partition"),
    ("qos", r"qos"),
    ("minutes", r"time|wall|minutes"),
    ("cpus", r"cpu|node configuration|node count|PartitionConfig"),
    ("gpus", r"gpu|gres|generic resource|node configuration|PartitionConfig"),
    ("memory_gb", r"memory|node configuration|PartitionConfig"),
    ("options", r"option|feature|constraint|licen|dependency|reservation|argument"),
)


_OWN_OPTIONS = {
    **dict.fromkeys(("job-name", "array", "output", "error", "open-mode", "signal", "requeue", "no-requeue", "ntasks"), ""),
    **{"partition": "partition", "account": "account", "qos": "qos", "time": "minutes", "cpus-per-task": "cpus"},
    **{"mem": "memory_gb", "gpus-per-node": "gpus", "wrap": "setup"},
}
"""Options of sbatch that are ours to set, with the key that sets them, if there is one."""


@dataclass(frozen=True)
class Patience:
    """How long the driver waits for what, seconds.

    Attributes:
        look: Between two looks at the queue, at least; the pause grows while nothing changes.
        rarely: ... and at most.
        grace: For a note, after the queue has forgotten its job: network file systems show files late.
        silence: For a sign of life of a job that SLURM lists as running.
        stuck: Before a job that waits for what will not come is given up.
        controller: For a controller that does not answer.
    """

    look: float = 2.0
    rarely: float = 20.0
    grace: float = 20.0
    silence: float = 300.0
    stuck: float = 60.0
    controller: float = 600.0


class SlurmError(Exception):
    """A command of SLURM's failed; its own words."""


class RefusedError(SlurmError):
    """SLURM answers, and will not have the jobs as they are."""

    @property
    def too_many(self) -> bool:
        """Fewer might be accepted: arrays, and what a user may submit, have limits."""
        return (
            re.search(r"job array|submit ?(job)?s?limit|job submit limit|accounting/QOS policy", str(self), re.IGNORECASE)
            is not None
        )


@dataclass(frozen=True)
class Seen:
    """A job as the queue shows it.

    Attributes:
        state: SLURM's state, such as ``PENDING``.
        reason: Why it waits, or why it ended; ``None`` in letters where SLURM has nothing to say.
    """

    state: str
    reason: str

    @property
    def ended(self) -> bool:
        """It will not run again."""
        return self.state in ENDED

    @property
    def hopeless(self) -> bool:
        """It waits for what will not come, and so does every job with the same settings."""
        return self.state == "PENDING" and _HOPELESS.fullmatch(self.reason) is not None

    @property
    def given_up(self) -> bool:
        """SLURM tried to start it, and will not try again unless somebody asks it to."""
        return not self.ended and (self.state == "REQUEUE_HOLD" or _GIVEN_UP.search(self.reason) is not None)


def look(name: str) -> dict[str, Seen]:
    """All jobs of ours with a name that SLURM remembers, also those that ended lately, by their ids (``12``, ``12_3``).

    Raises:
        SlurmError: If the queue does not answer.
    """
    # Not --jobs: it fails once SLURM has forgotten one of them.
    filters = (f"--user={os.getuid()}", f"--name={name}", "--states=all", "--array")
    answer = ask("squeue", "--noheader", *filters, "--format=%i|%T|%r")
    rows = [line.strip().split("|", 2) for line in answer.splitlines() if line.strip()]
    return {row[0]: Seen(row[1], row[2]) for row in rows if len(row) == 3}


def cancel(ids: Collection[str], seconds: float = COMMAND_SECONDS) -> None:
    """End jobs, or take them out of the queue.

    Raises:
        SlurmError: If the controller does not answer within so many seconds.
    """
    if ids:
        ask("scancel", "--quiet", *sorted(ids), seconds=seconds)


def cancel_all(name: str, seconds: float) -> None:
    """End all jobs of ours with a name.

    Raises:
        SlurmError: If the controller does not answer within so many seconds.
    """
    ask("scancel", "--quiet", f"--user={os.getuid()}", f"--name={name}", seconds=seconds)


def ask(*command: str, seconds: float = COMMAND_SECONDS) -> str:
    """What a command prints.

    Raises:
        SlurmError: If it fails, or takes longer than so many seconds.
    """
    try:
        ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]}: no answer within {seconds:.0f} seconds") from None
    except OSError as error:
        raise SlurmError(str(error)) from error
    if ended.returncode:
        raise SlurmError(f"{command[0]}: {words(ended.stderr) or f'exit code {ended.returncode}'}")
    return ended.stdout


def words(output: str) -> str:
    """What a command complained about, on one line."""
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line.strip()) for line in output.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line and "--help" not in line))


def unreachable(complaint: str) -> bool:
    """The controller is away: asking again may help."""
    return _UNREACHABLE.search(complaint) is not None


def keys_of(complaint: str) -> str:
    """Which keys of the configuration a complaint of SLURM's is about."""
    found = [key for key, pattern in _KEYS if re.search(pattern, complaint, re.IGNORECASE)]
    return ", ".join(f"execution.slurm.{key}" for key in found) or "execution.slurm"


def environment(of: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that commands and jobs get.

    Left out are the way to the study, defaults that change what commands print, and what SLURM says about a job that this process
    may itself be in: sbatch would hand it on, and jobs would believe it.
    """
    strange = ("SLURM_", "SQUEUE_", "SCANCEL_")
    return {
        name: value
        for name, value in (os.environ if of is None else of).items()
        if name not in SECRETS and (name in _KEPT or not name.startswith(strange))
    }


@contextlib.contextmanager
def only_this_environment() -> Iterator[None]:
    """Have :func:`environment` for a moment, where a library starts the command."""
    kept = environment()
    hidden = {name: value for name, value in os.environ.items() if name not in kept}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


class Trouble:
    """Failures of a command in a row: borne for a while, with growing pauses."""

    def __init__(self, command: str, patience: Patience) -> None:
        """Start without any.

        Args:
            command: Its name.
            patience: For how long.
        """
        self._command, self._patience = command, patience
        self._since: float | None = None
        self._next, self._pause = 0.0, patience.look

    def over_pause(self) -> bool:
        """It may be tried now."""
        return time.monotonic() >= self._next

    def over(self) -> None:
        """It went well."""
        if self._since is not None:
            log.info("%s answers again", self._command)
        self._since, self._next, self._pause = None, 0.0, self._patience.look

    def again(self, error: SlurmError, *, for_ever: bool = False) -> float:
        """It failed.

        Args:
            error: Its words.
            for_ever: There is something else to wait for meanwhile.

        Returns:
            Seconds until it should be tried again.

        Raises:
            ConfigError: If no SLURM is configured on this machine.
            ProxyError: If it has failed for too long.
        """
        if "configuration source" in str(error):
            raise ConfigError(
                f"execution.executor: SLURM's commands are here, but no SLURM is configured ({error}); start the search on a node "
                "from which you submit jobs, or set execution.executor: local"
            )
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if not for_ever and now - self._since >= self._patience.controller:
            raise ProxyError(
                f"{self._command} has failed for {(now - self._since) / 60:.3g} minutes; SLURM says: {error}. What finished is "
                "kept; when SLURM works again, the same command continues"
            ) from error
        log.warning("%s; trying again in %.0f seconds", error, self._pause)
        pause, self._pause = self._pause, min(self._pause * 1.5, self._patience.rarely)
        self._next = now + pause
        return pause


def parameters(settings: SlurmConfig, name: str) -> dict[str, Any]:
    """What submitit writes into the batch file.

    Raises:
        ConfigError: If an option is set by a key of its own, or not the user's to set.
    """
    options = {key.replace("_", "-").lstrip("-"): value for key, value in settings.options.items() if value is not False}
    for key in options:
        if key in _OWN_OPTIONS:
            own = _OWN_OPTIONS[key]
            remedy = f"write execution.slurm.{own} instead" if own else "leave it out: the search sets it"
            raise ConfigError(f"execution.slurm.options.{key}: {remedy}")
    threads = f"export OMP_NUM_THREADS={settings.cpus} MKL_NUM_THREADS={settings.cpus}"
    return {
        "job_name": name,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "time": settings.minutes,
        "cpus_per_task": settings.cpus,
        "gpus_per_node": settings.gpus or None,
        "mem": None if settings.memory_gb is None else f"{round(settings.memory_gb * 1024)}M",
        "setup": [threads, *settings.setup],
        "signal_delay_s": warning_seconds(settings.minutes),
        # Since SLURM 22.05 srun does not take this from the job.
        "srun_args": [f"--cpus-per-task={settings.cpus}"],
        # Clusters may requeue only jobs that ask for it.
        "additional_parameters": {"requeue": True, **options},
    }
