"""A task at the top level of a module, as SLURM's jobs need it: it does what the job file says, and saves how far it got."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil


def act(path: str, device: str) -> None:
    """Do as told by the job's first word; every start is noted, with the step that it began at."""
    job = Path(path)
    if job.with_suffix(".done").exists():
        _note(job, "already done")
        return
    word, *arguments = job.read_text().split()
    saved = job.with_suffix(".step")
    step = int(saved.read_text()) if saved.exists() else 0
    _note(job, f"from {step}")
    if word == "raise":
        raise ValueError("as asked")
    if word == "die":
        _kill(os.getpid())
    if word == "die-with-stepd":
        # Nobody is left to tell the controller: first those who would, then ourselves.
        ancestors = psutil.Process().parents()
        for process in ancestors:
            if process.name() in ("slurmstepd", "srun"):
                _kill(process.pid)
        for process in psutil.process_iter(["name"]):
            if process.info["name"] == "slurmstepd" and process.ppid() != os.getppid():
                _kill(process.pid)
        _kill(os.getpid())
    if word == "environment":
        import torch

        told = {"variables": dict(os.environ), "threads": torch.get_num_threads(), "device": device}
        job.with_suffix(".environment").write_text(json.dumps(told))
        time.sleep(1)
    if word == "wait-for-another-start" and step == 0:
        saved.write_text("1")
        time.sleep(600)
    if word == "count":
        steps, seconds = int(arguments[0]), float(arguments[1])
        while step < steps:
            time.sleep(seconds)
            step += 1
            temporary = job.with_suffix(".step.new")
            temporary.write_text(str(step))
            temporary.replace(saved)
    if word == "sleep":
        time.sleep(float(arguments[0]))
    job.with_suffix(".done").write_text(device)


def starts(job: Path) -> list[str]:
    """How a job began, each time."""
    file = _starts(job)
    return file.read_text().splitlines() if file.exists() else []


def _starts(job: Path) -> Path:
    # Not under the job's name: what lies there counts as saved.
    return job.with_name(f"starts-{job.stem}")


def _note(job: Path, text: str) -> None:
    with _starts(job).open("a") as file:
        file.write(f"{text}\n")


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
