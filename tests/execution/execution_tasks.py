"""Tasks at the top level of a module, as spawned workers need them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def act(path: str, device: str) -> None:
    """Do what the job file says, and leave a note of who did it."""
    job = Path(path)
    word, *arguments = job.read_text().split()
    job.with_suffix(".started").write_text(f"{os.getpid()} {device}")
    if word == "raise":
        raise ValueError("as asked")
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "sleep":
        time.sleep(float(arguments[0]))
    if word == "threads":
        import torch

        job.with_suffix(".threads").write_text(f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}")
    job.with_suffix(".done").write_text(device)
