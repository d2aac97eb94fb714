"""Faults of a SLURM cluster, one function each: it brings the fault about, asserts what must hold, and returns what it saw.

`tests/execution/test_slurm.py` runs most of them with short waits; with longer ones they belong to ``make torture``.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regmix_active.config.execution import SlurmConfig
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution.slurm import SlurmExecutor
from regmix_active.execution.slurm_commands import Patience, look
from tests.servers.slurm import CPUS, SlurmServer

QUICK = Patience(look=0.4, rarely=2.0, grace=2.0, silence=3.0, stuck=1.0, controller=60.0)


def write(folder: Path, name: str, text: str) -> Path:
    """A job file."""
    path = folder / f"{name}.job"
    path.write_text(text)
    return path


def executor(folder: Path, workers: int = 0, patience: Patience = QUICK, **settings: Any) -> SlurmExecutor:
    """An executor of the test task."""
    act = importlib.import_module("slurm_tasks").act
    asked = SlurmConfig.model_validate({"partition": "low", "minutes": 20} | settings)
    return SlurmExecutor(act, asked, folder, workers, patience)


def collect(run: SlurmExecutor, n: int, seconds: float = 90) -> dict[str, str | None]:
    """The next n reports."""
    reports: dict[str, str | None] = {}
    end = time.monotonic() + seconds
    while len(reports) < n:
        assert time.monotonic() < end, f"waited in vain; so far: {reports}"
        reports |= {path.stem: reason for path, reason in run.poll(1)}
    return reports


def poll_until(run: SlurmExecutor, condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll, without anything ending, until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert run.poll(0.2) == []


def starts(job: Path) -> list[str]:
    """How a job began, each time."""
    return list(importlib.import_module("slurm_tasks").starts(job))


def states(run: SlurmExecutor) -> dict[str, str]:
    """State by id of all jobs of an executor, and of others in its folder, that SLURM remembers."""
    return {one: seen.state for one, seen in look(run._name).items()}


def a_round(server: SlurmServer, folder: Path) -> str:
    """Several jobs go out as one array, as many at a time as there are workers; each ends alone, and leaves no mess."""
    jobs = [write(folder, f"good{i}", "environment") for i in range(3)]
    bad, dead = write(folder, "bad", "raise"), write(folder, "dead", "die")
    with executor(folder, workers=2) as run:
        assert run.poll(1) == [], "nothing was asked"
        for job in (*jobs, bad, dead):
            run.submit(job)
        reports: dict[str, str | None] = {}
        running: set[Path] = set()
        while len(reports) < 5:
            reports |= {path.stem: reason for path, reason in run.poll(0.5)}
            running |= run.running
            assert len(run.running) <= 2
        ids = sorted(states(run))
    assert {name: reports[name] for name in ("good0", "good1", "good2")} == dict.fromkeys(("good0", "good1", "good2"))
    assert str(reports["bad"]).startswith("ValueError: as asked (log: ")
    assert "ended without a result (SLURM says: FAILED, NonZeroExitCode)" in str(reports["dead"])
    assert "Killed" in str(reports["dead"]), "the last words of the log"
    assert running <= {*jobs, bad, dead}
    assert running
    assert len({name.partition("_")[0] for name in ids}) == 1, f"one array, not {ids}"
    for job in jobs:
        told = json.loads(job.with_suffix(".environment").read_text())
        assert (told["threads"], told["device"]) == (1, "cpu")
        assert not {"REGMIX_ACTIVE_STORAGE", "PGPASSWORD"} & told["variables"].keys()
        assert not [name for name, value in told["variables"].items() if "a secret" in value]
        assert told["variables"]["OMP_NUM_THREADS"] == "1"
    logs = [path.name for path in (folder / "slurm").iterdir()]
    assert {name.partition("_0_")[0] for name in logs if name.endswith(".err")} == {
        f"{ids[0].partition('_')[0]}_{i}" for i in (3, 4)
    }
    return "3 ended well, 1 with its error, 1 killed"


def preempted(server: SlurmServer, folder: Path) -> str:
    """A job makes way for a higher partition, is queued again by SLURM, goes on where it was, and is reported once."""
    began = time.monotonic()
    job = write(folder, "long", "wait-for-another-start")
    with executor(folder, cpus=CPUS) as run:
        run.submit(job)
        poll_until(run, job.with_suffix(".step").exists)
        server.ask("sbatch", "--partition=high", f"--cpus-per-task={CPUS}", "--output=/dev/null", "--wrap=sleep 1")
        poll_until(run, lambda: job not in run.running)
        assert collect(run, 1) == {"long": None}
    assert starts(job) == ["from 0", "from 1"]
    return f"resumed from its checkpoint, {time.monotonic() - began:.0f} s in all"


def time_limit(folder: Path) -> str:
    """A job that reaches its time limit is queued again and goes on; one that saved nothing is told why it will not."""
    began = time.monotonic()
    job, idle = write(folder, "long", "count 40 1"), write(folder, "idle", "sleep 600")
    with executor(folder, minutes=1) as run:
        run.submit(job)
        run.submit(idle)
        reports = collect(run, 2, 300)
    assert reports["long"] is None
    assert "saved nothing within its time limit of 1 minutes" in str(reports["idle"])
    assert "execution.slurm.minutes" in str(reports["idle"])
    assert len(starts(job)) >= 2
    assert len(starts(idle)) == 1
    return f"begun {len(starts(job))} times, {time.monotonic() - began:.0f} s in all"


def killed_without_a_trace(server: SlurmServer, folder: Path) -> str:
    """The job's processes, srun's and slurmstepd's are killed: SLURM lists the job as running for ever. It is reported, retried."""
    lost, other = write(folder, "lost", "die-with-stepd"), write(folder, "other", "count 2 0.5")
    began = time.monotonic()
    with executor(folder) as run:
        run.submit(lost)
        run.submit(other)
        reports = collect(run, 2)
        took = time.monotonic() - began
        assert "ended without a result" in str(reports["lost"])
        lost.write_text("quick")
        run.submit(lost)
        assert collect(run, 1) == {"lost": None}
    assert starts(lost) == ["from 0", "from 0"]
    return f"reported after {took:.0f} s: {reports['lost']}; tried again"


def finished_and_requeued(server: SlurmServer, folder: Path) -> str:
    """`scontrol requeue` of a job that has ended runs it again, which changes nothing and is not reported twice."""
    job, other = write(folder, "done", "count 1 0.1"), write(folder, "other", "count 30 1")
    with executor(folder) as run:
        run.submit(job)
        assert collect(run, 1) == {"done": None}
        [last] = states(run)
        poll_until(run, lambda: states(run) == {last: "COMPLETED"})
        before = job.with_suffix(".done").stat().st_mtime_ns
        run.submit(other)
        server.ask("scontrol", "requeue", last)
        poll_until(run, lambda: len(starts(job)) == 2)
        assert starts(job) == ["from 0", "already done"]
        assert job.with_suffix(".done").stat().st_mtime_ns == before
        run.cancel(other)
    return "ran again, changed nothing"


def controller_away(server: SlurmServer, folder: Path, seconds: float, job_seconds: float = 8.0) -> str:
    """slurmctld is killed while jobs run and while one is submitted, and comes back: nothing is lost.

    Where a job ends meanwhile, SLURM itself takes a minute until it knows, and gives its place away.
    """
    jobs = [write(folder, f"job{i}", f"count 10 {job_seconds / 10}") for i in range(2)]
    late = write(folder, "late", "count 1 0.1")
    with executor(folder) as run:
        for job in jobs:
            run.submit(job)
        poll_until(run, lambda: all(job.with_suffix(".step").exists() for job in jobs))
        server.stop("slurmctld", kill=True)
        gone = time.monotonic()
        run.submit(late)
        reports: dict[str, str | None] = {}
        while time.monotonic() - gone < seconds:
            reports |= {path.stem: reason for path, reason in run.poll(0.5)}
        server.start("slurmctld")
        server.wait_until_ready()
        reports |= collect(run, 3 - len(reports), 240)
    assert reports == dict.fromkeys(("job0", "job1", "late"))
    assert [starts(job) for job in (*jobs, late)] == [["from 0"]] * 3
    return f"away for {seconds:.0f} s: 3 of 3 ended well, each begun once"


def controller_gone(server: SlurmServer, folder: Path) -> str:
    """slurmctld does not come back: a clear error, and leaving does not hang."""
    patience = Patience(look=0.4, rarely=2.0, controller=3.0)
    began = time.monotonic()
    with executor(folder, patience=patience) as run:
        run.submit(write(folder, "job", "sleep 600"))
        poll_until(run, lambda: bool(run.running))
        server.stop("slurmctld", kill=True)
        with pytest.raises(ProxyError, match=r"squeue has failed for .*Unable to contact slurm controller.*continues"):
            run.poll()
    took = time.monotonic() - began
    server.start("slurmctld")
    server.wait_until_ready()
    server.ask("scancel", "--partition=low", "--signal=KILL")
    return f"given up after {took:.0f} s"


def cancelled(server: SlurmServer, folder: Path) -> str:
    """Cancelling one element of an array leaves the others alone, and leaving ends what is left."""
    hung, other, quick = (
        write(folder, "hung", "sleep 600"),
        write(folder, "other", "sleep 600"),
        write(folder, "quick", "quick"),
    )
    with executor(folder) as run:
        for job in (hung, other, quick):
            run.submit(job)
        assert collect(run, 1) == {"quick": None}
        poll_until(run, lambda: run.running == {hung, other})
        run.cancel(hung)
        assert run.running == {other}
        poll_until(run, lambda: "RUNNING" in states(run).values() and "COMPLETING" in states(run).values())
        queued = write(folder, "queued", "quick")
        run.submit(queued)
        run.cancel(queued)
    end = time.monotonic() + 20
    while not set(states(run).values()) <= {"COMPLETED", "CANCELLED", "COMPLETING"}:
        assert time.monotonic() < end, states(run)
        time.sleep(0.2)
    assert starts(queued) == []
    assert not other.with_suffix(".done").exists()
    return "one cancelled, the others untouched, nothing left"


def refused(folder: Path) -> str:
    """What sbatch refuses, and what SLURM would never start, are errors that name the key and give SLURM's words."""
    job = write(folder, "job", "quick")
    told = {}
    for settings, key, words in (
        ({"partition": "nope"}, "execution.slurm.partition", "nvalid partition"),
        ({"options": {"bogus": "x"}}, "execution.slurm.options", "unrecognized option '--bogus"),
        ({"gpus": 1}, "execution.slurm.gpus", "gres"),
        ({"cpus": 64}, "execution.slurm.cpus", "PartitionConfig"),
    ):
        with executor(folder, **settings) as run:
            run.submit(job)
            with pytest.raises(ConfigError) as caught:
                run.poll(30)
        told[key] = str(caught.value)
        assert key in told[key], told[key]
        assert words in told[key], told[key]
    assert starts(job) == []
    return "; ".join(told.values())


def taken_over(server: SlurmServer, folder: Path) -> str:
    """A driver is killed: the next one goes on with its jobs, and cancels what it does not want."""
    wanted, unwanted = write(folder, "wanted", "count 6 0.5"), write(folder, "unwanted", "sleep 600")
    killed = executor(folder)  # never left, as if by SIGKILL
    for job in (wanted, unwanted):
        killed.submit(job)
    poll_until(killed, wanted.with_suffix(".step").exists)
    with executor(folder):
        pass  # another driver, which never gets the study, must not end the jobs
    with executor(folder) as run:
        run.submit(wanted)
        assert collect(run, 1) == {"wanted": None}
        assert starts(wanted) == ["from 0"]
        assert [state for state in states(run).values() if state in ("CANCELLED", "COMPLETING")], states(run)
    return "the running job was kept, the other cancelled"
