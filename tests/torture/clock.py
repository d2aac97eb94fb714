"""A wall clock that is an hour wrong, for the driver and all that it starts."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

from tests.torture.driver_kills import LONGEST_DELAY
from tests.torture.harness import Bench, Skipped, case
from tests.torture.searches import Mark, Search, doubled, trained_again

# Debian's libfaketime 0.9.10 would do, but Python's sleep fails under it.
SOURCE = Path(__file__).with_name("wrong_clock.c")


def _library(folder: Path) -> Path:
    """The library that sets the clock wrong.

    Raises:
        Skipped: If there is no compiler for it.
    """
    if (compiler := shutil.which("cc")) is None:
        raise Skipped("no C compiler here (cc) for the library that sets the clock wrong")
    library = folder / "wrong_clock.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    if compiled.returncode:
        raise Skipped(f"{SOURCE.name} cannot be compiled: {compiled.stderr.strip()[:200]}")
    return library


@case("clock", "the driver killed three times, and then each time the clock one hour back or on: same bits, nothing trained again")
def clock(bench: Bench) -> str:
    """Wall clocks jump when machines are set right; the one that counts up does not, and files get the file system's times."""
    library, done = str(_library(bench.folder)), []
    for kind in ("sqlite", "journal"):
        first = Search(bench.folder / f"{kind}-unbroken", storage=f"{kind}:///{bench.folder}/{kind}-unbroken/study")
        seconds, unbroken = first.start().finish_timed(), first.outcome()
        search, marks = Search(bench.folder / kind, storage=f"{kind}:///{bench.folder}/{kind}/study"), []
        for offset in (0, -3600, 3600):
            driver = search.start(environment={"LD_PRELOAD": library, "REGMIX_CLOCK_OFFSET": str(offset)})
            driver.until_searching()
            driver.wait_quietly(LONGEST_DELAY * seconds * float(bench.rng.uniform(0.6, 1.0)))
            driver.kill()
            marks.append(Mark.of(search))
            bench.say(f"{kind}, clock {offset:+} s: {len(marks[-1].slots)} of 24 trained")
        search.start(environment={"LD_PRELOAD": library, "REGMIX_CLOCK_OFFSET": "-3600"}).finish()
        difference = search.outcome().difference(unbroken)
        bench.check(not difference, f"{kind}: the search differs from the unbroken one: {difference}")
        again = trained_again(search, marks) | doubled(search)
        bench.check(not again, f"{kind}: slots {sorted(again)} were trained again")
        moments = [line[:19] for line in (search.out / "run.log").read_text().splitlines() if line.startswith("20")]
        back = sum(a > b for a, b in itertools.pairwise(moments))
        bench.check(back >= 2, f"{kind}: the clock went back {back} times: the library does not work")
        done.append(f"{kind}: {', '.join(str(len(mark.slots)) for mark in marks)} and 24 trained as the clock jumped")
    return "; ".join(done) + "; same bits, nothing trained again"
