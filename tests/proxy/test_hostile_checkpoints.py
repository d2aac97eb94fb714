"""Files of a training that were changed, swapped or planted: never executed, never believed; training starts again and says so."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ProxyError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.blocks import TokenSource
from regmix_active.proxy.job import ProxyJob, read_results, write_results
from regmix_active.proxy.training import checkpoint
from regmix_active.proxy.training.checkpoint import Checkpoint, Checkpoints
from regmix_active.proxy.training.stack import train_stack

REQUESTS = [ProxyRequest(slot, np.array([0.4, 0.3, 0.2, 0.1]), 5, 6 + slot) for slot in (3, 4)]


class Mark:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


class Killed(Checkpoints):
    """Saves once, and dies of it."""

    def due(self) -> bool:
        return True

    def save(self, make: Callable[[], Checkpoint]) -> None:
        super().save(make)
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def proxy(tiny_proxy: ProxyConfig) -> ProxyConfig:
    return tiny_proxy.model_copy(update={"layers": 1, "tokens": 640, "context": 16, "batch_size": 4, "curve": 0})


@pytest.fixture(scope="module")
def unbroken(source: TokenSource, proxy: ProxyConfig) -> list[ProxyResult]:
    return train_stack(source, proxy, REQUESTS)


@pytest.fixture
def path(source: TokenSource, proxy: ProxyConfig, tmp_path: Path) -> Path:
    """A checkpoint after the first step."""
    with pytest.raises(KeyboardInterrupt):
        train_stack(source, proxy, REQUESTS, checkpoints=Killed(tmp_path / "c", "job", 1))
    assert load(tmp_path / "c") is not None
    return tmp_path / "c"


def load(path: Path, meaning: str = "job") -> Checkpoint | None:
    return Checkpoints(path, meaning, 1).load()


def record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def tensors(path: Path) -> Path:
    (found,) = path.parent.glob(f"{path.name}.*.safetensors")
    return found


def forge(path: Path, **changed: Any) -> None:
    """A record by somebody who knows how its hash is made."""
    content = json.loads(record(path).read_text()) | changed
    del content["record_sha256"]
    record(path).write_text(json.dumps({**content, "record_sha256": checkpoint._digest(content)}))


def bits(results: Sequence[ProxyResult]) -> list[ProxyResult]:
    return [dataclasses.replace(result, seconds=0.0) for result in results]


def test_a_pickle_is_not_loaded(
    source: TokenSource, proxy: ProxyConfig, unbroken: list[ProxyResult], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = path.parent / "executed"
    planted = pickle.dumps(Mark(mark))
    torch.save(Mark(mark), path.with_name("torch.pt"))
    for content in (planted, path.with_name("torch.pt").read_bytes()):
        for forged in (False, True):
            tensors(path).write_bytes(content)
            if forged:
                forge(path, sha256=hashlib.sha256(content).hexdigest())
            caplog.clear()
            found = train_stack(source, proxy, REQUESTS, checkpoints=Checkpoints(path, "job", 1))
            assert bits(found) == bits(unbroken), "it trained from the beginning"
            assert f"{record(path)}: the checkpoint is not readable" in caplog.text
            assert "training starts again" in caplog.text
    record(path).write_bytes(planted)
    assert load(path) is None
    assert not mark.exists(), "nothing was executed"
    pickle.loads(planted)
    assert mark.exists(), "it would have been"


def test_no_flipped_bit_of_the_record_is_believed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A step, a stopped slot or a loss of the curve that changed would make another proxy."""
    content, rng = record(path).read_bytes(), random.Random(1)
    assert b'"step"' in content
    sound = load(path)
    assert sound is not None
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.randrange(8)
        record(path).write_bytes(flipped)
        found = load(path)
        # 1e-05 and 1E-05 are the same number.
        assert found is None or found.state == sound.state, flipped
    assert caplog.text.count("training starts again") >= len(content) - 5, "and never in silence"


def test_no_flipped_bit_of_the_tensors_is_believed(path: Path) -> None:
    content, rng = tensors(path).read_bytes(), random.Random(2)
    header = 8 + int.from_bytes(content[:8], "little")
    for position in [*range(16), *rng.sample(range(16, header), 60), *rng.sample(range(header, len(content)), 100)]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.randrange(8)
        tensors(path).write_bytes(flipped)
        assert load(path) is None


def test_cut_files_are_not_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in (record(path), tensors(path)):
        content = file.read_bytes()
        for length in [*range(0, len(content), max(1, len(content) // 60)), len(content) - 1]:
            file.write_bytes(content[:length])
            caplog.clear()
            assert load(path) is None
            assert "training starts again" in caplog.text
        file.write_bytes(content + b"\0")
        assert load(path) is None
        file.write_bytes(content)
        assert load(path) is not None
    tensors(path).unlink()
    caplog.clear()
    assert load(path) is None
    assert "not readable" in caplog.text, "a record without its tensors is told"


def test_another_proxys_checkpoint_is_not_used(
    source: TokenSource, proxy: ProxyConfig, unbroken: list[ProxyResult], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Copied under the name of this one, whole and sound."""
    other = path.with_name("other")
    with pytest.raises(KeyboardInterrupt):
        train_stack(source, proxy, [dataclasses.replace(r, init_seed=9) for r in REQUESTS], checkpoints=Killed(other, "theirs", 1))
    record(path).write_bytes(record(other).read_bytes())
    found = train_stack(source, proxy, REQUESTS, checkpoints=Checkpoints(path, "job", 1))
    assert bits(found) == bits(unbroken)
    assert "of another training" in caplog.text


def test_tensors_of_another_checkpoint_are_not_used(path: Path) -> None:
    tensors(path).write_bytes(safetensors.torch.save({"matrices": torch.zeros(2, 3)}))
    assert load(path) is None


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "", "a/b", "a\0b", 3, None, ["x"]])
def test_a_record_points_to_no_other_place(path: Path, name: object) -> None:
    secret = path.parent.parent / "secret"
    content = tensors(path).read_bytes()
    secret.write_bytes(content)
    forge(path, tensors=name, sha256=hashlib.sha256(content).hexdigest())
    assert load(path) is None
    secret.unlink()


@pytest.mark.parametrize(
    "content", ["", "null", "[]", "3", '"text"', "{}", '{"record_sha256": 1}', "[" * 100_000, "\x00" * 50, "\ufeff{}"]
)
def test_other_json_is_no_checkpoint(path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    record(path).write_text(content, encoding="utf-8")
    assert load(path) is None
    assert "not readable" in caplog.text


RESULTS = [ProxyResult(slot, {"a": 1.5, "b": 2.5}, {"a": 0.1}, 10, 1.0, curve={"5": {"a": 2.0}}) for slot in (3, 4)]


def planted(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
    """A result file with a right checksum and wrong content."""
    body = [dataclasses.asdict(result) for result in RESULTS]
    body = change(body) or body
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"format": 2, "sha256": digest, "results": body}))
    return path


CHANGES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "losses as text": lambda body: body[1]["losses"].update(a="1.5"),
    "losses as flags": lambda body: body[0]["losses"].update(a=True),
    "losses missing": lambda body: body[0].update(losses=None),
    "losses in a list": lambda body: body[0].update(losses=[1.5, 2.5]),
    "a curve of text": lambda body: body[0]["curve"]["5"].update(a="x"),
    "a slot that is text": lambda body: body[0].update(slot="3"),
    "no slot": lambda body: body[0].pop("slot") and None,
    "a slot twice": lambda body: [*body, body[0]],
    "an unknown field": lambda body: body[0].update(loss=3),
    "stopped by a word": lambda body: body[0].update(stopped="no"),
    "failed by a number": lambda body: body[0].update(failure=3),
    "tokens as text": lambda body: body[0].update(tokens="10"),
    "results of nothing": lambda body: [None],
    "a mapping": lambda body: {"slot": 3},
    "a number": lambda body: 3,
}


@pytest.mark.parametrize("name", CHANGES)
def test_wrong_types_make_no_results(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r.json"
    assert read_results(planted(path, lambda body: None)) == RESULTS, "unchanged, it is read"
    assert caplog.text == ""
    assert read_results(planted(path, CHANGES[name])) is None
    assert f"{path}: not used (" in caplog.text


def test_a_wrong_checksum_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r.json"
    assert read_results(path) is None
    assert caplog.text == "", "a file that is not there yet is no news"
    write_results(path, RESULTS)
    path.write_text(path.read_text().replace("1.5", "1.4"))
    assert read_results(path) is None
    assert "damaged, or of another version" in caplog.text
    path.write_text("[" * 100_000)
    assert read_results(path) is None


@pytest.mark.parametrize("slots", [(3,), (3, 4, 5), (4, 5), ()])
def test_results_of_slots_that_were_not_asked_are_not_used(
    tmp_path: Path, slots: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """The file of another job, under this one's name."""
    write_results(tmp_path / "r.json", RESULTS)
    assert read_results(tmp_path / "r.json", (4, 3)) == RESULTS
    assert read_results(tmp_path / "r.json", slots) is None
    assert "slots [3, 4]" in caplog.text


JOB = ProxyJob(tuple(REQUESTS), ProxyConfig(), Path("/data/store"), "f00d")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"format": None},
        {"requests": "all"},
        {"requests": [{"slot": 1}]},
        {"requests": [{"slot": 1, "weights": ["much"], "init_seed": 1, "data_seed": 2}]},
        {"proxy": {"layers": 0}},
        {"proxy": {"layer": 1}},
        {"plan": {"run": "this"}},
        {"plan": None},
        {"store": None},
        {"trunk": 3},
        {"more": 1},
    ],
)
def test_a_job_file_that_was_changed_is_refused_by_name(tmp_path: Path, change: dict[str, object]) -> None:
    path = JOB.write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ProxyError, match=rf"{path.name}: not a job file that can be read .*run the search again"):
        ProxyJob.read(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"[]", b"null", b"[" * 100_000])
def test_other_files_are_no_jobs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.job.json").write_bytes(content)
    with pytest.raises(ProxyError, match=r"x\.job\.json: not a job file"):
        ProxyJob.read(tmp_path / "x.job.json")
