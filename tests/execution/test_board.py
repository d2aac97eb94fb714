"""The board: every job is taken once, what ended is reported once, and who is gone is noticed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from regmix_active.errors import ProxyError
from regmix_active.execution import board as board_module
from regmix_active.execution.board import Board, Ended, wait_for_board


def take_all(folder: Path, rank: int, barrier: threading.Barrier) -> None:
    """Claim whatever is there, as fast as possible."""
    board = Board(folder)
    barrier.wait()
    while (ticket := board.claim(rank)) is not None:
        board.end(ticket.name, f"by {rank}")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board.create(tmp_path)


def job(board: Board, name: str) -> Path:
    return board.folder.parent / f"{name}.job.json"


def test_jobs_are_taken_in_order_and_reported_once(board: Board) -> None:
    names = [board.post(job(board, str(i))) for i in range(3)]
    other = Board(board.folder)
    first, second = other.claim(1), Board(board.folder).claim(2)
    assert first is not None
    assert second is not None
    assert [first.name, second.name] == names[:2]
    assert (first.job, first.together) == (job(board, "0"), False)
    assert board.held() == names[:2]
    other.end(first.name, None)
    other.end(second.name, "ValueError: as asked")
    assert board.held() == []
    assert board.collect() == [Ended(names[0], None), Ended(names[1], "ValueError: as asked")]
    assert board.collect() == []
    third = other.claim(1)
    assert third is not None
    assert third.name == names[2]
    assert other.claim(1) is None


def test_a_job_is_taken_once_however_many_want_it(board: Board) -> None:
    names = {board.post(job(board, str(i))) for i in range(120)}
    barrier = threading.Barrier(8)
    ranks = [threading.Thread(target=take_all, args=(board.folder, rank, barrier)) for rank in range(8)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    ended = board.collect()
    assert Counter(each.name for each in ended) == Counter(names)
    assert len({each.reason for each in ended}) > 1, "the ranks shared the work"


def test_what_all_train_together_is_taken_by_rank_0(board: Board) -> None:
    name = board.post(job(board, "wide"), together=True)
    assert board.claim(1) is None
    ticket = board.claim(0)
    assert ticket is not None
    assert ticket.together
    assert Board(board.folder).called() == ""
    board.call(name)
    assert Board(board.folder).called() == name
    assert board.start_attempt() == Board(board.folder).attempt == 1
    assert board.called() == "", "the ranks of a fresh launch were not called"


def test_withdrawn_and_released_jobs(board: Board) -> None:
    gone, back = board.post(job(board, "gone")), board.post(job(board, "back"))
    board.withdraw(gone)
    ticket = board.claim(3)
    assert ticket is not None
    assert ticket.name == back, "what is withdrawn is not taken"
    board.release(back)
    again = board.claim(1)
    assert again == ticket
    board.withdraw(back)
    board.end(back, None)
    assert [each.name for each in board.collect()] == [back], "a late report is the driver's to drop"
    assert list(board.folder.glob("0*")) == []


def test_a_new_launch_forgets_the_claims_of_the_last(tmp_path: Path) -> None:
    old = Board.create(tmp_path)
    old.post(tmp_path / "job")
    assert old.claim(0) is not None
    new = Board.create(tmp_path)
    found = Board.find(tmp_path)
    assert found is not None
    assert found.folder == new.folder != old.folder
    assert old.closed, "a rank that is left over goes home"
    old.end("000001", None)
    assert new.collect() == []
    new.post(tmp_path / "job")
    assert new.claim(0) is not None


def test_a_damaged_file_is_no_job(board: Board) -> None:
    (board.folder / "000000.job").write_text("{")
    (board.folder / "000000.end").write_text("")
    name = board.post(job(board, "whole"))
    ticket = board.claim(0)
    assert ticket is not None
    assert ticket.name == name
    assert board.collect() == []


def test_closing_sends_everybody_home(tmp_path: Path) -> None:
    with Board.create(tmp_path).open() as board:
        there = wait_for_board(tmp_path, 1)
        assert not there.closed
        assert there.driver_lives()
        pulses = set()
        for _ in range(100):
            if (board.folder / "driver.pulse").exists():
                pulses.add((board.folder / "driver.pulse").read_text())
            time.sleep(0.02)
        assert len(pulses) > 1
    assert there.closed
    with pytest.raises(ProxyError, match="no driver opened a board there within 0 seconds"):
        wait_for_board(tmp_path, 0)


def test_a_killed_driver_on_this_host_is_noticed_at_once(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from regmix_active.execution.board import Board\n"
    script += "print(Board.create(Path(sys.argv[1])).folder, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        board = Board(Path(driver.stdout.readline().strip()))
        assert board.driver_lives()
        driver.kill()
        for _ in range(100):
            if not board.driver_lives():
                break
            time.sleep(0.05)
        assert not board.driver_lives(), "also while nobody has waited for it"


def test_who_is_elsewhere_counts_as_gone_when_the_pulse_stops(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
    now = [100.0]
    monkeypatch.setattr("regmix_active.execution.board.time.monotonic", lambda: now[0])
    (board.folder / "driver.pulse").write_text("a 0")
    assert board.driver_lives()
    name = board.post(job(board, "0"))
    rank = Board(board.folder)
    assert rank.claim(5) is not None
    (board.folder / "rank-5.pulse").write_text("b 0")
    assert board.release_of_dead_ranks() == []
    now[0] += board_module.PATIENCE_SECONDS - 1
    assert board.driver_lives()
    (board.folder / "driver.pulse").write_text("a 1")
    assert board.driver_lives()
    now[0] += 2
    assert board.driver_lives()
    assert board.release_of_dead_ranks() == [name]
    assert rank.claim(1) is not None
    now[0] += board_module.PATIENCE_SECONDS
    assert not board.driver_lives()


def test_claims_say_whose_they_are(board: Board) -> None:
    name = board.post(job(board, "0"))
    board.claim(7)
    claim = json.loads((board.folder / f"{name}.claim").read_text())
    assert (claim["rank"], claim["pid"], claim["host"]) == (7, os.getpid(), socket.gethostname())
