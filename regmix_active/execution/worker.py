"""The worker's side of the local executor. Imports nothing heavy: it runs before the worker is ready for signals."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
import time
from collections.abc import Callable

SECRETS = ("REGMIX_ACTIVE_STORAGE", "PGPASSWORD")
"""Variables that may hold a password of the study's storage: no job sees them."""


def prepare(driver: int) -> None:
    """Make this process a worker: Ctrl-C is the driver's business, one thread, and no life after the driver's.

    Args:
        driver: Process id of the driver.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in SECRETS:
        os.environ.pop(name, None)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    keep_freed_memory()


def call(task: Callable[[str, str], None], job: str, device: str) -> None:
    """Run one job with one thread."""
    import torch

    torch.set_num_threads(1)
    if device.startswith("cuda"):  # streams and graphs belong to the current device
        torch.cuda.set_device(device)
    task(job, device)


def _end_with(driver: int) -> None:
    """End this process when its driver is gone: a driver killed with SIGKILL cannot tell its workers."""
    while os.getppid() == driver:
        time.sleep(0.5)
    os._exit(1)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory: training frees and takes the same megabytes in every step (15-25 % faster on CPU)."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_threshold, gigabyte = -1, -3, 1 << 30
        libc.mallopt(m_mmap_threshold, gigabyte)
        libc.mallopt(m_trim_threshold, gigabyte)
