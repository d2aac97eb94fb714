"""Ctrl-C and SIGTERM: what an impatient user and a scheduler may count on.

The first signal ends the search in order: nothing new starts, what trains is cancelled, locks are freed, and the command says
how to go on. A second one ends it at once. After SIGTERM, which schedulers send before they pre-empt, it is over within ten
seconds, whatever the search is doing. Either way the study is whole: every write is one transaction, and results lie in files
of their own.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143

PATIENCE_SECONDS = 8.0
"""From SIGTERM to the end of a search that is still in a long computation, or tidying up."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


def exit_code(interrupt: BaseException | None) -> int:
    """The exit code after an interrupt, as shells have it."""
    return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


def answer_signals() -> None:
    """Install all this; for the main thread of a process that ends with its command."""
    seen: list[int] = []

    def answer(signum: int, frame: FrameType | None) -> None:
        seen.append(signum)
        if len(seen) > 1:
            os._exit(TERMINATED if signum == signal.SIGTERM else INTERRUPTED)
        raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt

    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as in a shell's background job
            signal.signal(signum, answer)
    # The handler above waits until Python runs again, which a long product of matrices delays. A pipe is written at once.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="sigterm", daemon=True).start()


def _watch(pipe: int) -> None:
    told = 0
    while signum := os.read(pipe, 1):
        if signum[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
        code, told = TERMINATED if signum[0] == signal.SIGTERM else INTERRUPTED, told + 1
        if told > 1:  # the handler would run once Python does, and but once for two signals of a kind
            os._exit(code)
        if code == TERMINATED:
            timer = threading.Timer(PATIENCE_SECONDS, os._exit, [code])
            timer.daemon = True
            timer.start()
