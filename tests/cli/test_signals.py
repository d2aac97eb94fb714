"""Ctrl-C once, twice, and SIGTERM, as a process of its own meets them: asleep, in a long computation, tidying up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from regmix_active.cli.signals import INTERRUPTED, PATIENCE_SECONDS, TERMINATED, Terminated, exit_code

Start = Callable[..., "subprocess.Popen[str]"]

HEAD = """
import hashlib, sys, time
from regmix_active.cli import signals
signals.PATIENCE_SECONDS = 0.6
signals.answer_signals()
def product():  # long, in C, and Python's other threads go on; in slices it would be no test
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
print("ready", flush=True)
"""

ORDERLY = """
interrupts = []
try:
    WORK
except KeyboardInterrupt as interrupt:
    interrupts.append(interrupt)
for _ in range(20):
    time.sleep(0.01)
print(*[type(one).__name__ for one in interrupts], "tidied", flush=True)
sys.exit(signals.exit_code(interrupts[0]))
"""

SLOW = """
try:
    WORK
except KeyboardInterrupt:
    print("tidying", flush=True)
    time.sleep(60)
finally:
    print("tidied", flush=True)
"""

WHOLE = """
import click, regmix_active.cli
@click.command()
def work():
    print("working", flush=True)
    time.sleep(60)
regmix_active.cli.cli = work
sys.argv = ["regmix-active"]
regmix_active.cli.main()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a script below :data:`HEAD`, and return when it is ready."""
    processes: list[subprocess.Popen[str]] = []

    def run(script: str, work: str = "time.sleep(60)", shell: str = "") -> subprocess.Popen[str]:
        line = ["sh", "-c", f'{shell} exec "$@"', "sh", sys.executable, "-c", HEAD + script.replace("WORK", work)]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        said(process, "ready")
        time.sleep(0.1)  # into its work
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate()[1])
    assert line.strip() == word


def ended(process: subprocess.Popen[str], within: float) -> tuple[int, str]:
    """Exit code and what was printed; stderr must be empty."""
    began = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - began < within
    assert err.strip() == ""
    return process.returncode, out.strip()


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGINT, "KeyboardInterrupt", 130), (signal.SIGTERM, "Terminated", 143)]
)
def test_the_first_signal_interrupts_once_and_leaves_time_to_tidy_up(start: Start, number: int, name: str, code: int) -> None:
    process = start(ORDERLY)
    process.send_signal(number)
    assert ended(process, 3) == (code, f"{name} tidied")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_one_ends_it_at_once(start: Start, first: int, second: int) -> None:
    process = start(SLOW)
    process.send_signal(first)
    said(process, "tidying")
    process.send_signal(second)
    code, out = ended(process, 0.55)
    assert code == (INTERRUPTED if second == signal.SIGINT else TERMINATED)
    assert out == "", "nothing was waited for"


def test_sigterm_is_over_in_time_whatever_is_to_be_tidied_up(start: Start) -> None:
    process = start(SLOW)
    process.send_signal(signal.SIGTERM)
    said(process, "tidying")
    assert ended(process, 3) == (TERMINATED, "")


def test_ctrl_c_leaves_as_much_time_as_it_takes(start: Start) -> None:
    process = start(ORDERLY.replace("range(20)", "range(150)"))
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert ended(process, 5) == (INTERRUPTED, "KeyboardInterrupt tidied")
    assert time.monotonic() - began > 1.2, "longer than a SIGTERM would have left it"


def test_sigterm_is_over_in_time_in_the_midst_of_a_product(start: Start) -> None:
    process = start(SLOW, "product()")
    process.send_signal(signal.SIGTERM)
    assert ended(process, 3) == (TERMINATED, "")


def test_ctrl_c_twice_in_the_midst_of_a_product_ends_it_at_once(start: Start) -> None:
    process = start(SLOW, "product()")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    for _ in range(50):
        if process.poll() is not None:
            break
        time.sleep(0.02)
    assert process.poll() == INTERRUPTED


def test_what_a_background_job_ignores_stays_ignored(start: Start) -> None:
    process = start(ORDERLY, shell="trap '' INT;")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process, 3) == (TERMINATED, "Terminated tidied")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_line_says_it_in_its_exit_code(start: Start, number: int, code: int) -> None:
    process = start(WHOLE)
    said(process, "working")
    process.send_signal(number)
    assert ended(process, 3) == (code, "")


def test_exit_codes_are_those_of_shells() -> None:
    assert exit_code(KeyboardInterrupt()) == exit_code(None) == 128 + signal.SIGINT
    assert exit_code(Terminated()) == 128 + signal.SIGTERM
    assert issubclass(Terminated, KeyboardInterrupt)
    assert PATIENCE_SECONDS < 10
