"""Train a job on a device that may be too small for it: whole, or in halves."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from regmix_active.errors import ProxyError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.blocks import TokenSource
from regmix_active.proxy.job import ProxyJob
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training.checkpoint import Checkpoints
from regmix_active.proxy.training.stack import train_stack
from regmix_active.proxy.training.steps import out_of_memory
from regmix_active.proxy.training.stopping import EarlyStopping
from regmix_active.proxy.training.trunk import trunks

log = logging.getLogger(__name__)


def train_job(job: ProxyJob, store: TokenSource, device: str, folder: Path) -> list[ProxyResult]:
    """Train all proxies of a job.

    Args:
        job: What to train.
        store: Its tokens.
        device: A torch device.
        folder: Where checkpoints and trunks are kept.

    Returns:
        One result per request, in their order.

    Raises:
        ProxyError: If one proxy alone, block by block, does not fit into memory.
    """
    return _Attempt(job, store, device, folder).train(job.requests, job.plan, job.halvings)


@dataclass(frozen=True)
class _Attempt:
    job: ProxyJob
    store: TokenSource
    device: str
    folder: Path

    def train(self, requests: Sequence[ProxyRequest], plan: TrainingPlan, halvings: int = 0) -> list[ProxyResult]:
        """Train these requests, in halves if told so or if memory runs out."""
        if halvings and len(requests) > 1:
            half = len(requests) // 2
            return self.train(requests[:half], plan, halvings - 1) + self.train(requests[half:], plan, halvings - 1)
        if plan.data_parallel:  # one rank that tried again alone would wait for the others for ever
            return self._train(requests, plan)
        try:
            return self._train(requests, plan)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = str(error).split("\n")[0]
        # Outside of the handler, whose traceback keeps the tensors of the failed attempt alive.
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if len(requests) > 1:
            log.warning("%d proxies do not fit into memory (%s); halving the stack", len(requests), reason)
            return self.train(requests, plan, 1)
        if (smaller := half_micro_batch(plan.micro_batch or self.job.proxy.batch_size)) is not None:
            log.warning("one proxy does not fit into memory (%s); micro-batches of %d blocks", reason, smaller)
            return self.train(requests, replace(plan, micro_batch=smaller))
        raise ProxyError(
            f"one proxy does not fit into the memory of {self.device}, even block by block ({reason}): "
            "lower proxy.context or proxy.width, or train it over several devices with execution.parallel: data"
        )

    def _train(self, requests: Sequence[ProxyRequest], plan: TrainingPlan) -> list[ProxyResult]:
        job, checkpoints = self.job, self._checkpoints(requests, plan)
        stopping = EarlyStopping.from_json(job.stopping) if job.stopping is not None else None
        if job.proxy.hf is not None or plan.data_parallel:
            from regmix_active.proxy.training.together import train_together

            return train_together(self.store, job.proxy, requests, plan, self.device, checkpoints=checkpoints, stopping=stopping)
        start = None
        if job.trunk is not None and job.proxy.trunk_tokens:
            seeds = [request.init_seed for request in requests]
            mixture = np.array(job.trunk)
            start = trunks(self.store, job.fingerprint, job.proxy, mixture, seeds, self.folder, self.device, plan)
        return train_stack(
            self.store, job.proxy, requests, self.device, plan, start=start, checkpoints=checkpoints, stopping=stopping
        )

    def _checkpoints(self, requests: Sequence[ProxyRequest], plan: TrainingPlan) -> Checkpoints | None:
        if not self.job.checkpoint_minutes:
            return None
        slots = ",".join(str(request.slot) for request in requests)
        meaning = hashlib.sha256(f"{self.job.key} {slots} {plan}".encode()).hexdigest()
        return Checkpoints(self.folder / f"{self.job.key}-{meaning[:8]}.checkpoint", meaning, self.job.checkpoint_minutes)


def is_main_process() -> bool:
    """Whether this rank writes what all ranks trained."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def half_micro_batch(blocks: int) -> int | None:
    """The next smaller micro-batch, or None below one block."""
    return blocks // 2 or None
