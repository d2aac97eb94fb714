"""A checkpoint is the newest whole one of its own job, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regmix_active.atomic import write_atomically
from regmix_active.proxy.training.checkpoint import Checkpoint, Checkpoints

SAVED = Checkpoint({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1)}, {"step": 3, "curves": [[1, 2, {"x": 0.5}]]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.checkpoint"


def test_what_is_saved_is_loaded(path: Path) -> None:
    Checkpoints(path, "m", 1).save(lambda: SAVED)
    found = Checkpoints(path, "m", 1).load()
    assert found is not None
    assert found.state == SAVED.state
    assert torch.equal(found.tensors["a"], SAVED.tensors["a"])


def test_another_job_finds_none(path: Path) -> None:
    assert Checkpoints(path, "m", 1).load() is None
    Checkpoints(path, "m", 1).save(lambda: SAVED)
    assert Checkpoints(path, "other", 1).load() is None


def test_damage_is_noticed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Checkpoints(path, "m", 1).save(lambda: SAVED)
    (tensors,) = path.parent.glob("*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    assert Checkpoints(path, "m", 1).load() is None
    assert "damaged" in caplog.text
    path.with_name("job.checkpoint.json").write_text("{")
    assert Checkpoints(path, "m", 1).load() is None
    assert "not readable" in caplog.text


def test_only_the_newest_is_kept(path: Path) -> None:
    checkpoints = Checkpoints(path, "m", 1)
    checkpoints.save(lambda: SAVED)
    checkpoints.save(lambda: Checkpoint({"a": torch.zeros(2)}, {"step": 4}))
    assert len(list(path.parent.iterdir())) == 2
    found = checkpoints.load()
    assert found is not None
    assert found.state == {"step": 4}


def test_a_crash_between_the_two_files_keeps_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(path, "m", 1)
    checkpoints.save(lambda: SAVED)

    def crash(file: Path, content: str | bytes) -> None:
        if file.suffix == ".json":
            raise KeyboardInterrupt
        write_atomically(file, content)

    monkeypatch.setattr("regmix_active.proxy.training.checkpoint.write_atomically", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(lambda: Checkpoint({"a": torch.zeros(2)}, {"step": 4}))
    found = Checkpoints(path, "m", 1).load()
    assert found is not None
    assert found.state == SAVED.state


def test_due_by_the_clock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("regmix_active.proxy.training.checkpoint.time.monotonic", lambda: now[0])
    often, never = Checkpoints(path, "m", 0.5), Checkpoints(path, "m", 0)
    assert not often.due()
    now[0] = 31.0
    assert often.due()
    assert not never.due()
    often.save(lambda: SAVED)
    assert not often.due()
