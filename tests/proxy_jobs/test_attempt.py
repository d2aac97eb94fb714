"""Memory that runs out halves stacks, then micro-batches; checkpoints lie beside the job until its result is safe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ProxyError
from regmix_active.proxy import attempt
from regmix_active.proxy.attempt import half_micro_batch, train_job
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.job import ProxyJob
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training.steps import out_of_memory

STORE: Any = object()
JOB = ProxyJob(tuple(ProxyRequest(slot, np.array([0.5, 0.5]), 1, 2) for slot in range(5)), ProxyConfig(), Path("/s"), "f")


class SmallDevice:
    """Has room for so many blocks at once; remembers what it was asked for."""

    def __init__(self, blocks: int, error: Exception) -> None:
        self.blocks, self.error = blocks, error
        self.asked: list[tuple[tuple[int, ...], int]] = []

    def train(
        self, store: Any, proxy: ProxyConfig, requests: Sequence[ProxyRequest], device: str, plan: TrainingPlan, **how: Any
    ) -> list[ProxyResult]:
        micro = plan.micro_batch or proxy.batch_size
        self.asked.append((tuple(request.slot for request in requests), micro))
        if len(requests) * micro > self.blocks:
            raise self.error
        return [ProxyResult(request.slot, {"a": 1.0}) for request in requests]


def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: SmallDevice, job: ProxyJob = JOB) -> list[int]:
    monkeypatch.setattr(attempt, "train_stack", device.train)
    results = train_job(job, STORE, "cpu", tmp_path)
    return [result.slot for result in results]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")]
)
def test_a_stack_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
    device = SmallDevice(16, error)
    assert trained(monkeypatch, tmp_path, device) == [0, 1, 2, 3, 4]
    assert [slots for slots, _ in device.asked] == [(0, 1, 2, 3, 4), (0, 1), (2, 3, 4), (2,), (3, 4)]


def test_one_proxy_that_does_not_fit_trains_in_smaller_micro_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = SmallDevice(2, MemoryError())
    assert trained(monkeypatch, tmp_path, device, dataclasses.replace(JOB, requests=JOB.requests[:1])) == [0]
    assert [micro for _, micro in device.asked] == [8, 4, 2]


def test_what_never_fits_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ProxyError, match=r"even block by block .*proxy\.context"):
        trained(monkeypatch, tmp_path, SmallDevice(0, MemoryError("no room")))


def test_other_errors_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        trained(monkeypatch, tmp_path, SmallDevice(0, RuntimeError("broken")))


def test_a_job_can_ask_to_begin_in_halves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = SmallDevice(99, MemoryError())
    assert trained(monkeypatch, tmp_path, device, dataclasses.replace(JOB, halvings=1)) == [0, 1, 2, 3, 4]
    assert [slots for slots, _ in device.asked] == [(0, 1), (2, 3, 4)]


def test_memory_runs_out_in_many_words() -> None:
    for words in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling", "can't allocate memory"):
        assert out_of_memory(RuntimeError(words))
    masked = RuntimeError("operation failed due to a previous error during capture")
    assert not out_of_memory(masked)
    masked.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert out_of_memory(masked)


def test_micro_batches_end_at_one_block() -> None:
    assert [half_micro_batch(n) for n in (8, 3, 1)] == [4, 1, None]
