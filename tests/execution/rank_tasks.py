"""Tasks at the top level of a module, as ranks of a launch need them."""

from __future__ import annotations

import importlib
import json
import os
import signal
from dataclasses import asdict
from pathlib import Path


def work(path: str, device: str) -> None:
    """A job of one proxy or many: alone by the job's own function, or all ranks together. Other files are told by their text."""
    if not path.endswith(".job.json"):
        importlib.import_module("execution_tasks").act(path, device)
        return
    from regmix_active.proxy.job import ProxyJob, run_job

    if not ProxyJob.read(Path(path)).plan.data_parallel:
        run_job(path, device)
        return
    train_all(path, device)


def train_all(path: str, device: str) -> None:
    """Train a job over all ranks; each leaves what it got. A file ``PATH.kill`` names a step at which rank 1 is killed, once."""
    from accelerate import PartialState

    from regmix_active.corpus.store import TokenStore
    from regmix_active.proxy.job import ProxyJob
    from regmix_active.proxy.training.checkpoint import Checkpoints
    from regmix_active.proxy.training.together import train_together

    job, state, kill = ProxyJob.read(Path(path)), PartialState(), Path(f"{path}.kill")
    checkpoints = Checkpoints(Path(f"{path}.checkpoint"), job.key, 1e-9) if job.checkpoint_minutes else None
    began = checkpoints.load() if checkpoints is not None else None
    if kill.exists() and state.process_index == 1:
        die_at(int(kill.read_text()), kill)
    results = train_together(TokenStore.open(job.store), job.proxy, job.requests, job.plan, device, checkpoints=checkpoints)
    told = {
        "size": state.num_processes,
        "backend": state.backend,
        "began": began and {"slot": began.state["slot"], "step": began.state["step"]},
        "results": [asdict(result) for result in results],
    }
    Path(path).with_suffix(f".rank{state.process_index}").write_text(json.dumps(told))


def die_at(step: int, kill: Path) -> None:
    """Have this process killed when the second proxy of the job reaches a step."""
    from regmix_active.proxy.training.module import ModuleTraining

    advance = ModuleTraining.advance

    def dying(self: ModuleTraining) -> None:
        if self.step == step and self.request.slot == 1:
            kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        advance(self)

    ModuleTraining.advance = dying  # type: ignore[method-assign]
