"""Runners: the same stacks whatever is known, results from disk, crashes retried and then reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ProxyError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.job import ProxyJob, write_results
from regmix_active.proxy.planning.planner import SwarmPlan
from regmix_active.proxy.runner import FunctionRunner, SwarmRunner

QUICK = settings(max_examples=40, derandomize=True, deadline=None)
STORE: Any = SimpleNamespace(domains=("a", "b"), path=Path("/store"), fingerprint="f", proxy_weights=lambda weights: weights)


class FakeExecutor:
    """Trains by calling a function when it is polled: one job at a time, the last submitted first."""

    def __init__(self, train: Callable[[ProxyJob, int], str | None] | None = None) -> None:
        self.train = train or (lambda job, attempt: None)
        self.submitted: list[Path] = []
        self.cancelled: list[Path] = []
        self.queue: list[Path] = []

    def submit(self, job: Path) -> None:
        self.submitted.append(job)
        self.queue.append(job)

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        path = self.queue.pop()
        job = ProxyJob.read(path)
        error = self.train(job, self.submitted.count(path))
        if error is None:
            results = [ProxyResult(r.slot, {"a": float(r.weights[0]), "b": float(len(job.requests))}) for r in job.requests]
            write_results(job.result_path(path.parent), results)
        return [(path, error)]

    @property
    def running(self) -> list[Path]:
        return []

    def cancel(self, job: Path) -> None:
        self.cancelled.append(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        pass


def requests(n: int) -> list[ProxyRequest]:
    return [ProxyRequest(slot, np.array([slot / 100, 1 - slot / 100]), 1, 2) for slot in range(n)]


def swarm(folder: Path, executor: FakeExecutor, stack: int = 4, workers: int = 1) -> SwarmRunner:
    return SwarmRunner(STORE, ProxyConfig(), SwarmPlan(stack, workers), executor, folder)


@QUICK
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 6), st.randoms(use_true_random=False))
def test_stacks_are_few_even_and_in_order(n: int, stack: int, workers: int, random: Any) -> None:
    asked = requests(n)
    random.shuffle(asked)
    jobs = swarm(Path("/x"), FakeExecutor(), stack, workers).jobs(asked)
    assert [r.slot for job in jobs for r in job.requests] == list(range(n))
    sizes = [len(job.requests) for job in jobs]
    fewest = -(-n // stack)
    assert fewest <= len(jobs) <= max(fewest, workers)
    assert max(sizes) <= stack
    assert max(sizes) - min(sizes) <= 1
    if fewest < len(jobs):
        assert min(sizes) >= 2, "a worker more is not worth a stack of one"


def test_a_small_round_keeps_every_worker_busy() -> None:
    def sizes(n: int, stack: int, workers: int) -> list[int]:
        return [len(job.requests) for job in swarm(Path("/x"), FakeExecutor(), stack, workers).jobs(requests(n))]

    assert sizes(16, 16, 4) == [4] * 4
    assert sizes(64, 8, 4) == [8] * 8
    assert sizes(8, 8, 16) == [2] * 4


def test_every_slot_once(tmp_path: Path) -> None:
    executor = FakeExecutor()
    runner = swarm(tmp_path / "jobs", executor)
    assert runner.domains == runner.loss_names == ("a", "b")
    results = list(runner.run(requests(10)))
    assert sorted(result.slot for result in results) == list(range(10))
    assert {result.slot: result.losses["a"] for result in results} == {slot: slot / 100 for slot in range(10)}
    assert len(executor.submitted) == 3
    assert executor.cancelled == []
    assert list(runner.run([])) == []


def test_known_slots_spare_whole_stacks_and_change_no_others(tmp_path: Path) -> None:
    executor = FakeExecutor()
    whole = swarm(tmp_path / "a", executor).jobs(requests(8))
    slots = {result.slot for result in swarm(tmp_path / "b", executor).run(requests(8), known={0, 1, 2, 3, 5})}
    assert {4, 6, 7} <= slots
    assert not slots & {0, 1, 2, 3}
    assert [path.name for path in executor.submitted] == [f"{whole[1].key}.job.json"], "the same company as in the whole round"


def test_everything_known_trains_nothing(tmp_path: Path) -> None:
    executor = FakeExecutor()
    assert list(swarm(tmp_path, executor).run(requests(5), known=range(5))) == []
    assert executor.submitted == []


def test_results_on_disk_are_not_trained_again(tmp_path: Path) -> None:
    first = FakeExecutor()
    with closing(swarm(tmp_path, first).run(requests(8))) as results:
        wanted = {next(results).slot for _ in range(4)}
    second = FakeExecutor()
    results_again = list(swarm(tmp_path, second).run(requests(8)))
    assert {result.slot for result in results_again[:4]} == wanted, "those on disk come first"
    assert sorted(result.slot for result in results_again) == list(range(8))
    assert len(second.submitted) == 1


def test_a_crashed_job_is_tried_again(tmp_path: Path) -> None:
    executor = FakeExecutor(lambda job, attempt: "killed" if attempt == 1 and job.requests[0].slot == 0 else None)
    results = list(swarm(tmp_path, executor).run(requests(8)))
    assert all(result.failure is None for result in results)
    assert len(executor.submitted) == 3


def test_a_job_whose_process_died_is_tried_whole_then_in_halves(tmp_path: Path) -> None:
    halvings: list[int] = []

    def train(job: ProxyJob, attempt: int) -> str | None:
        halvings.append(job.halvings)
        return "killed" if attempt <= 2 else None

    list(swarm(tmp_path, FakeExecutor(train)).run(requests(4)))
    assert halvings == [0, 0, 1]


def test_a_job_that_keeps_crashing_fails_alone(tmp_path: Path) -> None:
    executor = FakeExecutor(lambda job, attempt: "killed" if job.requests[0].slot == 0 else None)
    results = {result.slot: result for result in swarm(tmp_path, executor).run(requests(8))}
    assert [results[slot].failure for slot in range(8)] == ["crashed: killed"] * 4 + [None] * 4
    assert results[0].losses == {}
    assert len(executor.submitted) == 3 + 1, "three attempts and the other job"


def test_a_job_that_ends_well_without_a_result_fails(tmp_path: Path) -> None:
    executor = FakeExecutor()
    executor.poll = lambda timeout=None: [(executor.queue.pop(), None)]  # type: ignore[method-assign]
    assert all(result.failure is not None for result in swarm(tmp_path, executor).run(requests(2)))


def test_closing_cancels_what_is_left(tmp_path: Path) -> None:
    executor = FakeExecutor()
    with closing(swarm(tmp_path, executor, stack=2).run(requests(8))) as results:
        next(results)
    # The job whose results were being handed out is off the list.
    assert sorted(executor.cancelled) == sorted(set(executor.submitted) - {executor.submitted[-1]})


def test_a_function_as_runner() -> None:
    def losses(weights: np.ndarray) -> Mapping[str, float]:
        if weights[0] > 0.9:
            raise ProxyError("too much of a")
        return {"x": float(weights[0]), "y": 1.0}

    runner = FunctionRunner(["a", "b"], losses)
    assert runner.domains == ("a", "b")
    assert runner.loss_names == ("x", "y")
    asked = [ProxyRequest(slot, np.array([w, 1 - w]), 0, 0) for slot, w in enumerate((0.25, 0.5, 1.0))]
    results = list(runner.run(asked, known={1}))
    assert [result.slot for result in results] == [0, 2]
    assert results[0].losses == {"x": 0.25, "y": 1.0}
    assert results[1].failure == "too much of a"


def test_other_errors_of_the_function_are_not_hidden() -> None:
    runner = FunctionRunner(["a", "b"], lambda weights: {"x": 1 / float(weights[0])})
    with pytest.raises(ZeroDivisionError):
        list(runner.run([ProxyRequest(0, np.array([0.0, 1.0]), 0, 0)]))
