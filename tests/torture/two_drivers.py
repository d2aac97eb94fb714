"""Two drivers on one study: one goes on, the other is told who is there; a dead one's lock is free at once."""

from __future__ import annotations

import functools
import platform
import re
import time

from regmix_active.errors import StudyBusyError
from regmix_active.study.lock import exclusive, study_lock
from tests.torture.harness import Bench, case
from tests.torture.searches import STORAGES, Driver, Search, storages

FREE_SECONDS = 1.0


def _two_on(kind: str, bench: Bench) -> str:
    rounds = bench.times(20, 3)
    with storages(kind) as fresh:
        # Two run folders with one study: the study's own lock must tell them apart. One run folder: the folder's does.
        url = fresh.url(bench.folder / "shared")
        search = Search(bench.folder / "shared", storage=url, plan={"seconds": [600, 600]})
        free = []
        for number in range(rounds):
            other = None if number % 2 else search.folder / "other"
            first, second = search.start(), search.start(out=other)
            winner, loser = _until_one_ends(bench, first, second)
            _judge(bench, winner, loser)
            winner.kill()
            free.append(_seconds_until_free(bench, search, url))
            bench.say(
                f"{kind}: {number + 1}/{rounds} refused{'' if other else ' (same folder)'}; free {free[-1]:.3f} s after SIGKILL"
            )
    return f"{rounds} of {rounds} refused with host, process and start; lock free at most {max(free):.3f} s after SIGKILL"


def _until_one_ends(bench: Bench, first: Driver, second: Driver) -> tuple[Driver, Driver]:
    end = time.monotonic() + 120
    while first.code is None and second.code is None:
        if time.monotonic() > end:
            for driver in (first, second):
                driver.kill()
            bench.fail("two drivers work on one study")
        time.sleep(0.02)
    winner, loser = (first, second) if second.code is not None else (second, first)
    winner.wait_quietly(1.0)
    if winner.code is not None:
        bench.fail(f"both drivers ended: {first.said[-300:]} / {second.said[-300:]}")
    return winner, loser


def _judge(bench: Bench, winner: Driver, loser: Driver) -> None:
    said = " ".join(loser.said.split())
    holder = re.search(r"is being written by process (\d+) on (\S+) \(since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\)", said)
    if holder is None or holder[1] != str(winner.pid) or holder[2] != platform.node() or loser.code != 1:
        winner.kill()
        bench.fail(f"the second driver ended with {loser.code} and does not say that process {winner.pid} is there: {said[-400:]}")


def _seconds_until_free(bench: Bench, search: Search, url: str) -> float:
    start = time.monotonic()
    while time.monotonic() - start < 30:
        try:
            with exclusive(search.out / ".lock", "folder"), study_lock(url, "torture"):
                seconds = time.monotonic() - start
                bench.check(seconds <= FREE_SECONDS, f"the lock of a killed driver was free only after {seconds:.1f} s")
                return seconds
        except StudyBusyError:
            time.sleep(0.005)
    bench.fail("the lock of a killed driver is not free after 30 s")


for _kind in STORAGES:
    case(f"two-drivers-{_kind}", "20 times: the second refused with host, process and start; lock free within 1 s of SIGKILL")(
        functools.partial(_two_on, _kind)
    )
