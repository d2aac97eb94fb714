"""Jobs in flight: hung ones are ended and tried again, a full disk blames nobody, free places are filled at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from regmix_active.config.execution import ExecutionConfig
from regmix_active.errors import DiskError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.flight import Deadline, Flight, Job, fly, fly_on
from regmix_active.proxy.job import write_results


@dataclass(frozen=True)
class NamedJob:
    """A job that is nothing but a slot."""

    slot: int
    attempt: int = 1

    @property
    def requests(self) -> tuple[ProxyRequest, ...]:
        return (ProxyRequest(self.slot, np.array([0.5, 0.5]), 1, 2),)

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.slot}.job.json"
        path.write_text(str(self.attempt))
        return path

    def result_path(self, folder: Path) -> Path:
        return folder / f"{self.slot}.result.json"

    def again(self, attempt: int) -> NamedJob:
        return NamedJob(self.slot, attempt)


@dataclass
class Places:
    """An executor that calls `train` for one running job per poll; what `train` answers "hang" for stays running."""

    train: Callable[[int, int], str | None] = lambda slot, attempt: None
    running: list[Path] = field(default_factory=list)
    submitted: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    most: int = 0

    def submit(self, job: Path) -> None:
        self.running.append(job)
        self.submitted.append(int(job.name.partition(".")[0]))
        self.most = max(self.most, len(self.running))

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        for job in list(self.running):
            slot, attempt = int(job.name.partition(".")[0]), int(job.read_text())
            reason = self.train(slot, attempt)
            if reason == "hang":
                continue
            self.running.remove(job)
            if reason is None:
                write_results(job.parent / f"{slot}.result.json", [ProxyResult(slot, {"a": float(attempt)})])
            return [(job, reason)]
        time.sleep(0.01)
        return []

    def cancel(self, job: Path) -> None:
        self.cancelled.append(int(job.name.partition(".")[0]))
        self.running.remove(job)

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def flight(executor: Places, folder: Path, **settings: float) -> Flight:
    return Flight(executor, folder, ExecutionConfig.model_validate(settings))


def test_a_hung_job_is_ended_and_tried_again(tmp_path: Path) -> None:
    executor = Places(lambda slot, attempt: "hang" if slot == 1 and attempt < 3 else None)
    results = list(fly(flight(executor, tmp_path, deadline_minutes=0.001), [NamedJob(0), NamedJob(1), NamedJob(2)]))
    assert {result.slot: result.losses["a"] for result in results} == {0: 1.0, 1: 3.0, 2: 1.0}
    assert executor.cancelled == [1, 1]


def test_a_job_that_always_hangs_fails_at_its_cap(tmp_path: Path) -> None:
    executor = Places(lambda slot, attempt: "hang")
    (result,) = fly(flight(executor, tmp_path, deadline_minutes=0.0005, attempts=2), [NamedJob(0)])
    assert result.failure == "crashed: it hung: no result after 0.0005 minutes"
    assert executor.submitted == [0, 0]
    assert not result.diverged


def test_a_result_that_came_as_the_deadline_struck_counts(tmp_path: Path) -> None:
    def train(slot: int, attempt: int) -> str:
        write_results(tmp_path / f"{slot}.result.json", [ProxyResult(slot, {"a": 7.0})])
        return "hang"

    executor = Places(train)
    (result,) = fly(flight(executor, tmp_path, deadline_minutes=0.0005), [NamedJob(0)])
    assert result.losses == {"a": 7.0}
    assert executor.submitted == [0]


def test_a_waiting_job_never_hangs() -> None:
    executor = Places()
    deadline = Deadline(1e-9)
    assert deadline.look(executor) == []
    executor.running.append(Path("0.job.json"))
    assert deadline.look(executor) == []
    time.sleep(0.01)
    assert deadline.look(executor) == [Path("0.job.json")]


def test_the_deadline_learns_from_what_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    deadline, executor, path = Deadline(), Places(), Path("0.job.json")
    assert deadline.seconds == 86_400, "nothing is known"
    assert Deadline("auto", expected=100.0).seconds == 1_000
    assert Deadline(0).seconds == 0
    executor.running.append(path)
    deadline.look(executor)
    clock[0] = 300.0
    deadline.ended(path, well=True)
    assert deadline.seconds == 3_000
    deadline.look(executor)
    clock[0] = 301.0
    deadline.ended(path, well=True)
    assert deadline.seconds == 3_000, "the longest counts"


@pytest.mark.parametrize("reason", ["OSError: [Errno 28] No space left on device", "OSError: [Errno 30] Read-only file system"])
def test_a_full_disk_ends_the_search_and_fails_no_proxy(tmp_path: Path, reason: str) -> None:
    executor = Places(lambda slot, attempt: reason)
    with pytest.raises(DiskError, match="free some space, then run the same command again"):
        list(fly(flight(executor, tmp_path), [NamedJob(0), NamedJob(1)]))
    assert executor.submitted == [0, 1], "no second attempt"
    assert executor.running == [], "the others are cancelled"
    executor.train = lambda slot, attempt: None
    assert [result.slot for result in fly(flight(executor, tmp_path), [NamedJob(0), NamedJob(1)])] == [0, 1]


def test_a_torn_result_is_trained_again(tmp_path: Path) -> None:
    write_results(tmp_path / "0.result.json", [ProxyResult(0, {"a": 5.0})])
    whole = (tmp_path / "0.result.json").read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "0.result.json").write_bytes(whole[:cut])
        (result,) = fly(flight(Places(), tmp_path), [NamedJob(0)])
        assert result.losses == {"a": 1.0}
    (tmp_path / "0.result.json").write_bytes(whole.replace(b"5.0", b"4.0"))
    (result,) = fly(flight(Places(), tmp_path), [NamedJob(0)])
    assert result.losses == {"a": 1.0}, "one bit is enough"


def test_free_places_are_filled_at_once(tmp_path: Path) -> None:
    executor, waiting = Places(), [NamedJob(slot) for slot in range(7)]

    def propose() -> Sequence[Job]:
        return [waiting.pop(0)] if waiting else []

    results = list(fly_on(flight(executor, tmp_path), propose, 3))
    assert sorted(result.slot for result in results) == list(range(7))
    assert executor.most == 3


def test_what_failed_last_may_be_followed_by_another(tmp_path: Path) -> None:
    executor, seen = Places(lambda slot, attempt: "killed" if slot == 0 else None), [0]

    def propose() -> Sequence[Job]:
        return [NamedJob(seen[-1])] if len(seen) < 3 else []

    with closing(fly_on(flight(executor, tmp_path, attempts=1), propose, 1)) as results:
        for result in results:
            seen.append(result.slot + 1)
    assert seen == [0, 1, 2]
