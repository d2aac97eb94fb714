"""Computing with one thread where several are slower."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from threadpoolctl import ThreadpoolController


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread of torch and of the libraries below numpy.

    On the small matrices of surrogates a second thread waits more than it works: fits take as long or longer, twice the processor
    time, and several times as long on a busy machine.
    """
    threads = torch.get_num_threads()
    with _libraries().limit(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@functools.cache
def _libraries() -> ThreadpoolController:
    """The libraries with threads that are loaded; looking for them takes milliseconds, which small computations would feel."""
    return ThreadpoolController()
