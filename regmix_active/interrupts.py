"""Ctrl-C that waits for a moment.

A :class:`KeyboardInterrupt` strikes between any two instructions. In the middle of a transaction it may leave a connection behind
that still holds the database's lock, and the next transaction of the same process then waits for itself.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def held_back() -> Iterator[None]:
    """Answer SIGINT and SIGTERM at the end of the block, by whatever handlers there are; a second signal is answered at once.

    For blocks that end soon. Only the main thread gets signals: elsewhere, and for signals without a Python handler, nothing
    changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[tuple[Handler, int, FrameType | None]] = []
    handlers: dict[signal.Signals, Handler] = {}

    def hold(signum: int, frame: FrameType | None) -> None:
        handler = handlers[signal.Signals(signum)]
        waiting.append((handler, signum, frame))
        if len(waiting) > 1:
            handler(signum, frame)

    for each in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := signal.getsignal(each)):
            handlers[each] = handler
            signal.signal(each, hold)
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if waiting:
            handler, signum, frame = waiting[0]
            handler(signum, frame)
