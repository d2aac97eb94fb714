"""A disk that is full in the middle of a write: a small file system of its own, filled by a trainer as it ends."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.torture.harness import Bench, Skipped, case
from tests.torture.searches import Mark, Outcome, Search, doubled, trained_again

LONG = {name: (name + "-") * 260 for name in ("books", "code", "talk", "web")}
"""Names of losses for which a result file takes two pages: so there are offsets inside of it at which the disk is full."""

WORDS = ("free some space", "make room")


@case(
    "disk-full-jobs",
    "disk full in the middle of a result write: exit 1 with what to do; after space is freed all is there, same bits",
)
def disk_full_jobs(bench: Bench) -> str:
    """The file system of the job files, full but for a few pages when a trainer ends."""
    return _fill(bench, "run/jobs", bench.times(6, 2))


@case("disk-full-run-folder", "the same where the study (SQLite) and the log are on the full disk too")
def disk_full_folder(bench: Bench) -> str:
    """The file system of the whole run folder."""
    return _fill(bench, "run", bench.times(6, 2))


@case("disk-full-journal", "the same with the study in a journal on the full disk")
def disk_full_journal(bench: Bench) -> str:
    """The file system of the whole run folder, with a journal."""
    return _fill(bench, "run", bench.times(6, 2), "journal")


def _fill(bench: Bench, where: str, times: int, kind: str | None = None) -> str:
    unbroken = Search(bench.folder / "unbroken", losses=LONG).finish()
    stopped = 0
    for number in range(times):
        place = bench.folder / f"full-{number}"
        storage = None if kind is None else f"{kind}:///{place}/run/study.{kind}"
        disk = place / where
        disk.mkdir(parents=True)
        with _small(disk):
            slot, leave = int(bench.rng.integers(1, 20)), number
            plan = {"slots": {str(slot): [{"fill": str(disk), "leave": leave}]}}
            search = Search(place, storage=storage, losses=LONG, plan=plan)
            stopped += _suffer(bench, search, disk, unbroken, f"{leave} pages left by slot {slot}")
    return (
        f"{times} times, 0 to {times - 1} pages left: {stopped} searches stopped and said why, all completed afterwards; same bits"
    )


def _suffer(bench: Bench, search: Search, disk: Path, unbroken: Outcome, what: str) -> bool:
    """Run into the full disk, make room, run again; whether the first run was stopped."""
    driver = search.start()
    code = driver.wait()
    said = " ".join(driver.said.split())
    bench.say(f"{what}: exit {code}, {len(search.trained())} of 24 trained: {said[said.find('error:') :][:160] if code else ''}")
    bench.check(code in (0, 1), f"{what}: exit code {code}: {said[-600:]}")
    # The trainer's own traceback may well be quoted.
    bench.check(not ("Traceback" in said and "/regmix_active/" in said), f"{what}: a traceback: {said[-800:]}")
    bench.check(code == 0 or any(word in said for word in WORDS), f"{what}: no word about the full disk: {said[-600:]}")
    mark = Mark.of(search)
    fillers = list(disk.glob("filler-*"))
    bench.check(bool(fillers), f"{what}: the disk was never filled")
    for filler in fillers:
        filler.unlink()
    difference = search.finish().difference(unbroken)
    bench.check(not difference, f"{what}: after space was freed the search differs from the unbroken one: {difference}")
    again = trained_again(search, [mark]) | doubled(search)
    bench.check(not again, f"{what}: slots {sorted(again)} had a result and were trained again")
    return code == 1


@contextlib.contextmanager
def _small(disk: Path) -> Iterator[None]:
    """A file system of two megabytes.

    Raises:
        Skipped: If we may not mount one.
    """
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounting.returncode:
        raise Skipped(f"no file system can be mounted here: {mounting.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)
