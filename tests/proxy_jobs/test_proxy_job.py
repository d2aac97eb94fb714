"""Job files and result files: named by their content, whole or absent, trained once."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regmix_active.config.schema import ProxyConfig
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ProxyError
from regmix_active.proxy import attempt
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.job import ProxyJob, read_results, run_job, write_results
from regmix_active.proxy.planning.plan import TrainingPlan

REQUESTS = (ProxyRequest(3, np.array([0.1, 0.2, 0.7]), 11, 12), ProxyRequest(4, np.array([1 / 3, 1 / 3, 1 / 3]), 11, 13))
JOB = ProxyJob(REQUESTS, ProxyConfig(layers=1), Path("/data/store"), "f00d")
RESULTS = [
    ProxyResult(3, {"日本": 1 / 3, "b": 2.5}, {"日本": 0.1, "b": 0.2}, 1000, 2.25, shares={"日本": 0.5, "b": 0.5}),
    ProxyResult(4, {}, failure="diverged"),
]


def changed(request: int = 0, **fields: Any) -> ProxyJob:
    requests = list(JOB.requests)
    requests[request] = dataclasses.replace(requests[request], **fields)
    return dataclasses.replace(JOB, requests=tuple(requests))


def test_a_job_is_named_by_what_its_result_depends_on() -> None:
    assert re.fullmatch("[0-9a-f]{16}", JOB.key)
    assert dataclasses.replace(JOB, store=Path("/elsewhere"), checkpoint_minutes=3, halvings=1).key == JOB.key
    others = [
        changed(weights=np.array([0.1, 0.2, np.nextafter(0.7, 1)])),
        changed(slot=5),
        changed(init_seed=0),
        changed(1, data_seed=0),
        dataclasses.replace(JOB, requests=REQUESTS[::-1]),
        dataclasses.replace(JOB, requests=REQUESTS[:1]),
        dataclasses.replace(JOB, fingerprint="beef"),
        dataclasses.replace(JOB, plan=TrainingPlan(micro_batch=4)),
        dataclasses.replace(JOB, trunk=(0.2, 0.3, 0.5)),
        dataclasses.replace(JOB, stopping={"pruner": "median"}),
        changed(learning_rate=1e-3),
        changed(1, weight_decay=0.0),
        changed(1, clip=2.0),
        dataclasses.replace(JOB, proxy=ProxyConfig(layers=1, learning_rate=8.0001e-3)),
    ]
    assert len({JOB.key, *(job.key for job in others)}) == 1 + len(others)


def test_a_job_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = JOB.write(tmp_path)
    assert path.name == f"{JOB.key}.job.json"
    again = ProxyJob.read(path)
    assert (again.proxy, again.store, again.fingerprint, again.key) == (JOB.proxy, JOB.store, JOB.fingerprint, JOB.key)
    for mine, theirs in zip(JOB.requests, again.requests, strict=True):
        np.testing.assert_array_equal(mine.weights, theirs.weights)
        assert (mine.slot, mine.init_seed, mine.data_seed) == (theirs.slot, theirs.init_seed, theirs.data_seed)
    JOB.write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "written twice, and nothing temporary is left"


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert read_results(path) is None
    write_results(path, RESULTS)
    assert read_results(path) == RESULTS
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_results(tmp_path / "r.json", [ProxyResult(0, {"a": object()})])  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_result_counts_as_none(tmp_path: Path, data: st.DataObject) -> None:
    """Cut anywhere, or any bit flipped: never other results than those written."""
    path = tmp_path / "r.json"
    write_results(path, RESULTS)
    content = path.read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        assert read_results(path) is None
    else:
        position, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        path.write_bytes(content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :])
        assert read_results(path) in (None, RESULTS), "a blank that became another blank does no harm"


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", '{"format": 3, "sha256": "", "results": []}', '{"format": 1}', "\x00" * 100]
)
def test_other_files_are_no_results(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    assert read_results(tmp_path / "r.json") is None


class _Trained:
    """Stands in for the token store and the trainer; counts."""

    fingerprint = "f00d"

    def __init__(self) -> None:
        self.calls: list[tuple[ProxyConfig, tuple[int, ...], str]] = []

    def train(
        self, store: Any, proxy: ProxyConfig, requests: Any, device: str, plan: TrainingPlan, **how: Any
    ) -> list[ProxyResult]:
        self.calls.append((proxy, tuple(request.slot for request in requests), device))
        return RESULTS


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> _Trained:
    trained = _Trained()
    monkeypatch.setattr(TokenStore, "open", lambda path: trained)
    monkeypatch.setattr(attempt, "train_stack", trained.train)
    return trained


def test_a_job_is_trained_once(tmp_path: Path, trained: _Trained) -> None:
    path = JOB.write(tmp_path)
    run_job(str(path), "cpu")
    first = JOB.result_path(tmp_path).read_bytes()
    run_job(str(path), "cpu")
    assert trained.calls == [(JOB.proxy, (3, 4), "cpu")]
    assert read_results(JOB.result_path(tmp_path)) == RESULTS
    JOB.result_path(tmp_path).write_bytes(first[:50])
    run_job(str(path), "cuda:1")
    assert len(trained.calls) == 2, "a damaged result is trained again"
    assert JOB.result_path(tmp_path).read_bytes() == first


def test_other_tokens_are_refused(tmp_path: Path, trained: _Trained) -> None:
    job = dataclasses.replace(JOB, fingerprint="beef")
    with pytest.raises(ProxyError, match="the tokens changed after"):
        run_job(str(job.write(tmp_path)), "cpu")
    assert trained.calls == []
    assert not job.result_path(tmp_path).exists()


def test_job_files_are_json_that_people_can_read(tmp_path: Path) -> None:
    content = json.loads(JOB.write(tmp_path).read_text())
    assert content["format"] == 2
    assert content["store"] == "/data/store"
    assert content["requests"][0] | {"slot": 3, "weights": [0.1, 0.2, 0.7], "init_seed": 11} == content["requests"][0]
