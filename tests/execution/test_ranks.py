"""Ranks: rank 0 drives and trains, the others serve; the same bits as in one process."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regmix_active.config.load import load_config
from regmix_active.corpus.build import build_store
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution.board import Board
from regmix_active.execution.ranks import Member, Place, RankExecutor, Worker, find_place, serve, under_launcher
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.job import ProxyJob, read_results, run_job

HERE = Path(__file__).parent
PROGRAM = """
import json, sys
from pathlib import Path
from regmix_active.execution.ranks import RankExecutor, join, under_launcher
from rank_tasks import work

folder = Path(sys.argv[1])
assert under_launcher()
with join(folder / "boards") as member:
    assert member.place.size == 2
    assert member.place.device == "cpu"
    if member.place.rank != 0:
        member.serve(work)
    else:
        reports = []
        for together in (False, True):
            jobs = [Path(path) for path in sys.argv[3:]] if not together else [Path(sys.argv[2])]
            with RankExecutor(member, work, together=together) as executor:
                for job in jobs:
                    executor.submit(job)
                while ended := executor.poll():
                    reports += [[path.name, reason] for path, reason in ended]
        (folder / "reports.json").write_text(json.dumps(reports))
"""


@pytest.fixture(autouse=True)
def _tasks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture
def act() -> Callable[[str, str], None]:
    task: Callable[[str, str], None] = importlib.import_module("execution_tasks").act
    return task


@pytest.fixture
def store(tiny: Path, cache: Path) -> TokenStore:
    return build_store(load_config(tiny).config.corpus, cache_dir=cache)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.job"
    path.write_text(text)
    return path


def collect(executor: RankExecutor) -> dict[str, str | None]:
    reports: dict[str, str | None] = {}
    while ended := executor.poll():
        reports |= {path.stem: reason for path, reason in ended}
    return reports


def test_rank_0_trains_what_nobody_else_takes(tmp_path: Path, act: Callable[[str, str], None]) -> None:
    with Board.create(tmp_path / "boards").open() as board:
        jobs = [written(tmp_path, f"job{i}", text) for i, text in enumerate(["quick", "raise", "quick"])]
        with RankExecutor(Member(Place(0, 1, "cpu"), board), act) as executor:
            assert executor.poll() == []
            for job in jobs:
                executor.submit(job)
            executor.cancel(jobs[2])
            assert collect(executor) == {"job0": None, "job1": "ValueError: as asked"}
            assert not jobs[2].with_suffix(".started").exists()
            jobs[1].write_text("quick")
            executor.submit(jobs[1])
            assert collect(executor) == {"job1": None}, "a job that ended badly may be submitted again"
            executor.submit(jobs[2])
        assert board.claim(0) is None, "leaving takes everything off the board"


def test_others_serve_until_the_board_is_closed(tmp_path: Path, act: Callable[[str, str], None]) -> None:
    with Board.create(tmp_path / "boards").open() as board:
        jobs = [written(tmp_path, f"job{i}", "sleep 0.05") for i in range(6)]
        helper = threading.Thread(target=serve, args=(Board(board.folder), act, Place(1, 2, "cpu:0")))
        helper.start()
        with RankExecutor(Member(Place(0, 2, "cpu"), board), act) as executor:
            for job in jobs:
                executor.submit(job)
            assert collect(executor) == {f"job{i}": None for i in range(6)}
    helper.join(10)
    assert not helper.is_alive()
    assert {job.with_suffix(".done").read_text() for job in jobs} == {"cpu", "cpu:0"}, "both trained"


def test_a_rank_goes_home_without_its_driver(
    tmp_path: Path, act: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board.create(tmp_path)
    monkeypatch.setattr(Board, "driver_lives", lambda self: False)
    serve(board, act, Place(1, 2, "cpu"))


def test_a_failure_in_a_common_job_ends_the_launch(
    tmp_path: Path, act: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board.create(tmp_path)
    name = board.post(written(tmp_path, "job", "raise"), together=True)
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda shared, from_process: shared)
    with pytest.raises(ProxyError, match="rank 0 failed in a job that all ranks train: as asked"):
        Worker(board, act, Place(0, 2, "cpu")).step()
    assert board.called() == name
    assert [ended.reason for ended in board.collect()] == ["ValueError: as asked"]


def test_a_launch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not under_launcher()
    assert find_place().size == 1
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not under_launcher()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert under_launcher()
    with pytest.raises(ConfigError, match="the launcher started several processes, but Accelerate finds only this one"):
        find_place()


def test_two_ranks_of_torchrun_give_the_bits_of_one(tmp_path: Path, tiny: Path, store: TokenStore) -> None:
    proxy = load_config(tiny).config.proxy
    mixtures = np.random.default_rng(0).dirichlet(np.ones(3), size=8)
    requests = [ProxyRequest(slot, weights, 1, 2) for slot, weights in enumerate(mixtures)]
    jobs = [ProxyJob(tuple(requests[i : i + 2]), proxy, store.path, store.fingerprint) for i in range(0, 8, 2)]
    wide = replace(jobs[0], plan=replace(jobs[0].plan, data_parallel=True))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    slow = written(tmp_path, "slow", "sleep 1")
    files = [wide.write(tmp_path), slow, *(job.write(tmp_path) for job in jobs)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(tmp_path), *map(str, files)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "reports.json").exists(), ended.stderr

    alone = tmp_path / "alone"
    alone.mkdir()
    for job in jobs:
        run_job(str(job.write(alone)), "cpu")
        mine, theirs = (read_results(job.result_path(folder)) for folder in (alone, tmp_path))
        assert mine is not None
        assert theirs is not None
        assert [replace(result, seconds=0) for result in mine] == [replace(result, seconds=0) for result in theirs]
    assert slow.with_suffix(".done").exists()
    together = [files[0].with_suffix(f".rank{rank}").read_text() for rank in range(2)]
    assert all('"size": 2, "backend": "gloo"' in text for text in together)
