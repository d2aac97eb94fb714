"""What runs on a node: one job, its note, and what it does at its time limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regmix_active.errors import ProxyError
from regmix_active.execution.slurm_call import Call, read_end, warning_seconds


def nothing(path: str, device: str) -> None:
    """A task."""
    Path(path).with_suffix(".done").write_text(device)


def test_a_time_limit_without_a_checkpoint_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, end = tmp_path / "key.job.json", tmp_path / "x.end.json"
    job.write_text("")
    (tmp_path / "key2.step").write_text("another job's")
    call = Call(nothing, job, end, cpus=1, gpus=0, minutes=30, beat=1)
    monkeypatch.setattr("regmix_active.execution.slurm_call.time.monotonic", lambda: 1000.0)
    call._began = 1000.0
    assert call.checkpoint().function is call, "preempted early: nothing saved is no wonder"
    monkeypatch.setattr("regmix_active.execution.slurm_call.time.monotonic", lambda: 1000.0 + 1800 - warning_seconds(30))
    with pytest.raises(ProxyError, match=r"saved nothing within its time limit of 30 minutes.*execution\.slurm\.minutes"):
        call.checkpoint()
    (tmp_path / "key-0.checkpoint.json").write_text("{}")
    assert call.checkpoint().function is call


def test_a_call_leaves_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("regmix_active.execution.worker.keep_freed_memory", lambda: None)
    job, end = tmp_path / "key.job.json", tmp_path / "x.end.json"
    Call(nothing, job, end, cpus=1, gpus=0, minutes=30, beat=60)()
    assert read_end(end) is None
    assert json.loads(end.read_text())["host"]
    assert (tmp_path / "key.job.done").read_text() == "cpu"
    with pytest.raises(ProxyError):
        Call(nothing, job, end, cpus=1, gpus=2, minutes=30, beat=60)()
    assert "asked for 2 GPUs (execution.slurm.gpus), but torch sees none" in str(read_end(end))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    Call(nothing, job, end, cpus=1, gpus=1, minutes=30, beat=60)()
    assert (tmp_path / "key.job.done").read_text() == "cuda:0"
