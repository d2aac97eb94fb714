"""One driver at a time writes a run."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from regmix_active.errors import StudyBusyError


@contextmanager
def exclusive(file: Path, what: str) -> Iterator[None]:
    """Hold something alone; the operating system frees the lock when the process dies, however it dies.

    Args:
        file: The lock; the holder is described beside it.
        what: What is held, for messages.

    Raises:
        StudyBusyError: If another process holds it; the message says which, and since when.
    """
    holder = file.with_name(f"{file.name}.json")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StudyBusyError(f"{what} is being written by {_describe(holder)}; wait for it, or stop it first") from None
    try:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        holder.write_text(json.dumps({"host": platform.node(), "pid": os.getpid(), "started": started}), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    try:
        info = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {info['pid']} on {info['host']} (since {info['started']})"
    except (OSError, ValueError, KeyError):
        return "another process"
