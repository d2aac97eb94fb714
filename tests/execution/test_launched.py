"""Launches of our own: a killed rank costs its own job, a fresh launch goes on, nobody outlives the driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from regmix_active.config.load import load_config
from regmix_active.corpus.build import build_store
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ProxyError
from regmix_active.execution import launched
from regmix_active.execution.accelerate_config import LaunchCommand, launch_command, launch_of
from regmix_active.execution.board import Board, Ended
from regmix_active.execution.launched import LaunchedExecutor, attend
from regmix_active.execution.rank import main
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.job import ProxyJob, read_results, run_job
from regmix_active.proxy.training.together import train_together

HERE = Path(__file__).parent
DRIVER = """
import sys
from pathlib import Path
from regmix_active.execution.accelerate_config import launch_command, launch_of
from regmix_active.execution.launched import LaunchedExecutor

def launch(board):
    return launch_command(launch_of(["cpu", "cpu"]), board, "--task", "execution_tasks:act")

with LaunchedExecutor(launch, Path(sys.argv[1])) as executor:
    for job in sys.argv[2:]:
        executor.submit(Path(job))
    while True:
        executor.poll()
"""


@pytest.fixture(autouse=True)
def _tasks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture
def store(tiny: Path, cache: Path) -> TokenStore:
    return build_store(load_config(tiny).config.corpus, cache_dir=cache)


def command(ranks: int, board: Path, task: str = "execution_tasks:act") -> LaunchCommand:
    return launch_command(launch_of(["cpu"] * ranks), board, "--task", task)


def collect(executor: LaunchedExecutor) -> dict[str, str | None]:
    reports: dict[str, str | None] = {}
    while ended := executor.poll():
        reports |= {path.stem: reason for path, reason in ended}
    return reports


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_a_killed_rank_costs_its_own_job(tmp_path: Path, job: Callable[[str, str], Path]) -> None:
    good, bad = job("good", "quick"), job("bad", "raise")
    innocent, dead = job("innocent", "sleep 1.5"), job("dead", "die")
    boards = tmp_path / "boards"
    others = {each.pid for each in psutil.Process().children(recursive=True)}
    with LaunchedExecutor(partial(command, 2), boards) as executor:
        assert executor.poll() == [], "nothing was asked"
        for path in (good, bad, innocent, dead):
            executor.submit(path)
        reports = collect(executor)
        assert {name: reports[name] for name in ("good", "bad", "innocent")} == {
            "good": None,
            "bad": "ValueError: as asked",
            "innocent": None,
        }
        assert str(reports["dead"]).startswith("its launch died (exit code 1; see ")
        board = Board.find(boards)
        assert board is not None
        assert board.attempt == 2, "the innocent job was trained by a fresh launch"
        dead.write_text("quick")
        endless = job("endless", "sleep 600")
        executor.submit(dead)
        assert collect(executor) == {"dead": None}
        executor.submit(endless)
        while not endless.with_suffix(".started").exists():
            time.sleep(0.05)
        wait_for(lambda: bool(endless.with_suffix(".started").read_text()))
        pid = int(endless.with_suffix(".started").read_text().split()[0])
        everybody = [each.pid for each in psutil.Process().children(recursive=True) if each.pid not in others]
        assert pid in everybody
    assert living(everybody) == []
    assert not endless.with_suffix(".done").exists()


def test_nobody_outlives_a_killed_driver(tmp_path: Path, job: Callable[[str, str], Path]) -> None:
    jobs = [job(f"j{i}", "sleep 600") for i in range(2)]
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path / "boards"), *map(str, jobs)]) as driver:
        try:
            wait_for(lambda: all(path.with_suffix(".started").exists() for path in jobs))
            everybody = [each.pid for each in psutil.Process(driver.pid).children(recursive=True)]
            assert len(everybody) >= 3, "a launcher and two ranks"
        finally:
            os.kill(driver.pid, signal.SIGKILL)
    wait_for(lambda: not living(everybody), 20)


def test_launches_that_die_at_once_are_given_up(tmp_path: Path, job: Callable[[str, str], Path]) -> None:
    broken = LaunchCommand([sys.executable, "-S", "-c", "import sys; sys.exit('no such rank')"])
    with LaunchedExecutor(lambda board: broken, tmp_path / "boards") as executor:
        executor.submit(job("job", "quick"))
        with pytest.raises(ProxyError, match=r"4 launches of ranks died in a row \(the last with exit code 1\)[\s\S]*no such rank"):
            executor.poll()


def test_other_machines_follow_the_driver(tmp_path: Path) -> None:
    """Their ranks start again with every launch of the driver, and end with its board."""
    starts = tmp_path / "starts"
    starts.write_text("")
    follow = f"import time; open({str(starts)!r}, 'a').write('x'); time.sleep(600)"

    def launch(folder: Path) -> LaunchCommand:
        return LaunchCommand([sys.executable, "-S", "-c", follow])

    script = "import sys, time; from pathlib import Path; from regmix_active.execution.board import Board\n"
    script += f"starts = Path({str(starts)!r})\nwith Board.create(Path(sys.argv[1])).open() as board:\n"
    script += "    for attempt in (1, 2):\n        board.start_attempt()\n"
    script += "        while len(starts.read_text()) < attempt:\n            time.sleep(0.05)\n"
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "boards")]):
        launched_parting = launched.PARTING_SECONDS
        try:
            launched.PARTING_SECONDS = 0.1
            attend(launch, tmp_path / "boards", patience=30)
        finally:
            launched.PARTING_SECONDS = launched_parting
    assert starts.read_text() == "xx"
    with pytest.raises(ProxyError, match="no driver opened a board there"):
        attend(launch, tmp_path / "nothing", patience=0)


def test_a_launch_of_another_size_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Board, "end_process_without_driver", lambda self: None)
    board = Board.create(tmp_path)
    assert main([str(board.folder), "--size", "2"]) == 2
    assert "the launcher started 1 ranks instead of 2" in capsys.readouterr().err


def test_four_ranks_train_alone_and_together(tmp_path: Path, tiny: Path, store: TokenStore) -> None:
    """Alone to the bit, together up to rounding, also where six blocks are shared by four ranks."""
    proxy = load_config(tiny).config.proxy.model_copy(update={"tokens": 1_920, "batch_size": 6, "learning_rate": 3e-3})
    mixtures = np.random.default_rng(0).dirichlet(np.ones(3), size=6)
    requests = [ProxyRequest(slot, weights, 1, 2) for slot, weights in enumerate(mixtures)]
    alone = [ProxyJob((request,), proxy, store.path, store.fingerprint) for request in requests]
    wide = [
        replace(job, plan=replace(job.plan, data_parallel=True, micro_batch=micro))
        for job, micro in zip(alone, (None, 1), strict=False)
    ]
    board = Board.create(tmp_path / "boards")
    with board.open():
        for job in alone:
            board.post(job.write(tmp_path))
        for job in wide:
            board.post(job.write(tmp_path), together=True)
        process = launched.start(command(4, board.folder, "rank_tasks:work"), tmp_path / "log")
        try:
            ended: list[Ended] = []
            while len(ended) < 8:
                assert process.poll() is None, (tmp_path / "log").read_text()
                ended += board.collect()
                time.sleep(0.05)
            board.close()
            assert process.wait(20) == 0, (tmp_path / "log").read_text()
        finally:
            launched.end_tree(process)
    assert [each.reason for each in ended] == [None] * 8
    for job in alone:
        (tmp_path / "one").mkdir(exist_ok=True)
        run_job(str(job.write(tmp_path / "one")), "cpu")
        mine, theirs = (read_results(job.result_path(folder)) for folder in (tmp_path / "one", tmp_path))
        assert mine is not None
        assert theirs is not None
        assert [replace(result, seconds=0) for result in mine] == [replace(result, seconds=0) for result in theirs]
    for job in wide:
        (one,) = train_together(store, proxy, job.requests, alone[0].plan, "cpu")
        for rank in range(4):
            told = json.loads((tmp_path / f"{job.key}.job.rank{rank}").read_text())
            assert (told["size"], told["backend"]) == (4, "gloo")
            (result,) = told["results"]
            np.testing.assert_allclose(list(result["losses"].values()), list(one.losses.values()), rtol=1e-5)
            assert result["shares"] == one.shares
            assert result["curve"].keys() == one.curve.keys()
