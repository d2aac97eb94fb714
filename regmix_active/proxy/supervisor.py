"""Runs a user's command so that nothing of it outlives the worker that asked for it. A program, started by its file's path.

The worker holds our standard input open and writes nothing to it. When the worker is gone, by whatever signal, it closes, and we
end the command with all that it started. We live in a session of our own: what is typed at the worker's terminal does not reach us.

``supervisor.py FOLDER TIMEOUT GRACE COMMAND``: the folder gets ``log.txt``, and a mark once the command has ended well. It is
locked meanwhile, so that two workers with the same job do not train in it at once. A JSON object on standard output says how it
ended. Imports nothing of the package: it is there in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

KILL_SECONDS = 5.0
"""How long we go on killing what cannot die, because it waits for a disk, say."""

LOOK_SECONDS = 0.05
"""Between two looks at the command and the worker."""

FINISHED = ".regmix-finished.json"
"""What the command's folder holds once it has ended well."""


LIBC = ctypes.CDLL(None)


class Ended(Exception):  # noqa: N818 - no error: somebody wants it
    """The worker is gone, or told to end."""


def main(arguments: list[str]) -> int:
    """Run one command; returns an exit status that nobody needs."""
    folder, timeout, grace, command = Path(arguments[0]), float(arguments[1]), float(arguments[2]), arguments[3]
    if (
        os.fork()
    ):  # not the worker's child: Ray's workers, for one, kill their children when they die, and then who ends the command?
        os._exit(0)
    signal.signal(signal.SIGTERM, _told)
    _adopt_orphans()
    verdict: dict[str, Any]
    try:
        with (folder / ".regmix-lock").open("a") as lock:
            _acquire(lock.fileno())
            # The worker that held the lock before us may have finished the job.
            verdict = {"code": 0} if (folder / FINISHED).exists() else _run(folder, timeout, grace, command)
    except Ended:
        verdict = {"ended": True}
    except OSError as error:
        verdict = {"error": str(error)}
    with contextlib.suppress(OSError):  # nobody may be there to read it
        sys.stdout.write(json.dumps(verdict))
        sys.stdout.flush()
    return 0


def _run(folder: Path, timeout: float, grace: float, command: str) -> dict[str, Any]:
    (folder / "metrics.json").unlink(missing_ok=True)  # of an attempt that did not end well
    start = time.monotonic()
    with (folder / "log.txt").open("ab") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} on {socket.gethostname()}: {command}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_us,  # noqa: PLW1509 - we have one thread
        )
        try:
            while (code := process.poll()) is None and (not timeout or time.monotonic() - start < timeout):
                _wait(LOOK_SECONDS)
            if code == 0:
                mark = folder / f"{FINISHED}.new"
                with mark.open("w") as file:
                    json.dump({"seconds": time.monotonic() - start}, file)
                    file.flush()
                    os.fsync(file.fileno())
                mark.replace(folder / FINISHED)
            return {"code": code} if code is not None else {"timed_out": True}
        finally:
            _end_all(process, grace)


def _end_all(process: subprocess.Popen[bytes], grace: float) -> None:
    """End the command and everything that it started, also in other sessions: launchers put their workers there."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it could only interrupt this
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, KILL_SECONDS)):
        end, told = time.monotonic() + patience, set[int]()
        while time.monotonic() < end and (alive := _descendants(process)):
            for one in alive:
                if one.pid not in told or number == signal.SIGKILL:
                    told.add(one.pid)
                    with contextlib.suppress(psutil.Error):
                        one.send_signal(number)
            time.sleep(LOOK_SECONDS)


def _descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    process.poll()
    children = psutil.Process().children(recursive=True)
    for child in children:
        if child.pid != process.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)
    return [child for child in children if _lives(child)]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _acquire(descriptor: int) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait(4 * LOOK_SECONDS)
        else:
            return


def _wait(seconds: float) -> None:
    """Wait for a moment.

    Raises:
        Ended: If the worker is gone.
    """
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], seconds)
    if readable:
        raise Ended


def _told(number: int, frame: object) -> None:
    raise Ended


def _adopt_orphans() -> None:
    """Have what the command leaves behind become our child, so that we find it."""
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _die_with_us() -> None:
    _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: even if we are killed ourselves


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        LIBC.prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
