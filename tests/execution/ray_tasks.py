"""Tasks at the top level of a module, for Ray's processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def act(path: str, device: str) -> None:
    """Do what the job file says, and leave a note of what this process is given."""
    job = Path(path)
    word, *arguments = job.read_text().split()
    job.with_suffix(".started").write_text(str(os.getpid()))
    if word == "raise":
        raise ValueError("as asked")
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if word == "sleep":
        time.sleep(float(arguments[0]))
    if word == "note":
        import torch

        secrets = [name for name in ("PGPASSWORD", "REGMIX_ACTIVE_STORAGE") if name in os.environ]
        job.with_suffix(".done").write_text(
            " ".join([device, str(torch.get_num_threads()), os.environ["OMP_NUM_THREADS"], *secrets])
        )
