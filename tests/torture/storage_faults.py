"""Storages that break while a search writes: a server that restarts, connections that are cut, a journal with a torn end."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

from tests.servers import postgresql
from tests.torture.harness import Bench, Skipped, case
from tests.torture.searches import Search, doubled, ended

EVERY_SECONDS = 4.0


@case(
    "postgresql-restarts",
    "PostgreSQL restarted (immediate) and its connections ended, again and again in a run: no loss, no double, same bits",
)
def postgresql_restarts(bench: Bench) -> str:
    """Twice: by restarts, and by ended connections."""
    if (reason := postgresql.why_not()) is not None:
        raise Skipped(reason)
    with postgresql.running() as server:
        server.sql("CREATE DATABASE unbroken", "CREATE DATABASE restarted", "CREATE DATABASE cut")
        unbroken = Search(bench.folder / "unbroken", storage=server.url("unbroken")).finish()
        pause = float(bench.rng.uniform(0.2, 1.5))
        restarted = Search(bench.folder / "restarted", storage=server.url("restarted"), plan={"seconds": [0.3, 0.8]})
        driver = restarted.start()
        driver.until_searching()
        with server.restarting(EVERY_SECONDS, "immediate", pause) as times:
            driver.finish()
        _judge(bench, restarted, restarted.outcome().difference(unbroken), "after restarts")
        bench.say(f"{len(times)} restarts")
        cut = Search(bench.folder / "cut", storage=server.url("cut"), plan={"seconds": [0.3, 0.8]})
        driver = cut.start()
        driver.until_searching()
        idle, everything = _cutting(bench, server, driver.wait_quietly, lambda: driver.code is None)
        driver.finish()
        _judge(bench, cut, cut.outcome().difference(unbroken), "after connections were ended")
    least = bench.times(3, 1)
    bench.check(
        len(times) >= least and idle + everything >= least, f"too few faults: {len(times)} restarts, {idle + everything} ended"
    )
    return (
        f"{len(times)} restarts, each {pause:.1f} s away; {idle} idle connections and {everything} at any moment ended: "
        "each slot trained once, same bits"
    )


def _cutting(bench: Bench, server: postgresql.Server, wait: object, running: object) -> tuple[int, int]:
    assert callable(wait)
    assert callable(running)
    idle = everything = 0
    while running():
        wait(float(bench.rng.uniform(0.3, 1.5)))
        if bench.rng.random() < 0.5:
            idle += server.end_connections()
        else:
            everything += server.end_connections("datname = 'cut'")
    return idle, everything


def _judge(bench: Bench, search: Search, difference: str, when: str) -> None:
    bench.check(not difference, f"{when} the search differs from the unbroken one: {difference}")
    counts = {slot: n for slot, n in ended(search).items() if n != 1}
    bench.check(not counts, f"{when} slots by how often they were trained: {counts}")
    bench.check(not doubled(search), f"{when} slots {sorted(doubled(search))} were trained by two at once")


@case(
    "journal-torn",
    "a journal cut inside a record (or with NULs after it), 20 random places: mended, logged, nothing trained again, same bits",
)
def journal_torn(bench: Bench) -> str:
    """Each place is a moment at which a driver may have died; the result files of later proxies are there already."""
    whole = Search(bench.folder / "whole", storage=f"journal:///{bench.folder}/whole/study.journal")
    unbroken = whole.finish()
    records = (bench.folder / "whole" / "study.journal").read_bytes().splitlines(keepends=True)
    places, kinds = bench.times(20, 3), {"torn": 0, "NUL": 0}
    for number in range(places):
        kept = int(bench.rng.integers(2, len(records)))
        torn = int(bench.rng.integers(1, len(records[kept])))
        nul = bool(bench.rng.random() < 0.25)
        tail = records[kept][:torn] + bytes(int(bench.rng.integers(1, 4096)) if nul else 0)
        kinds["NUL" if nul else "torn"] += 1
        place = bench.folder / "torn"
        shutil.copytree(whole.folder, place)
        journal = place / "study.journal"
        journal.write_bytes(b"".join(records[:kept]) + tail)
        search = _moved(place, whole)
        before = len(search.ledger())
        difference = search.finish().difference(unbroken)
        what = f"{kept} of {len(records)} records and {torn} of {len(records[kept])} bytes{' and NULs' if nul else ''}"
        bench.say(f"{number + 1}/{places} {what}")
        bench.check(not difference, f"{what}: the search differs from the unbroken one: {difference}")
        bench.check(len(search.ledger()) == before, f"{what}: something was trained again")
        bench.check(journal.with_name("study.journal.torn-1").read_bytes() == tail, f"{what}: what was cut off is not kept")
        bench.check("were no whole record" in (search.out / "run.log").read_text(), f"{what}: nothing was logged")
        for line in journal.read_bytes().splitlines():
            json.loads(line)
        shutil.rmtree(place)
    return f"{kinds['torn']} cut inside a record, {kinds['NUL']} with NULs: all mended and logged, nothing trained again, same bits"


def _moved(place: Path, whole: Search) -> Search:
    """A copy of a search: its own files, but the command (and so the jobs' keys) of the first."""
    ledger, plan = whole.ledger_file, whole.plan_file
    search = Search(place, storage=f"journal:///{place}/study.journal")
    search.config.write_bytes(whole.config.read_bytes())
    search.ledger_file, search.plan_file = ledger, plan
    return search


@case("stale-journal-lock", "a journal whose Optuna lock a dead process left: taken over within 10 s, logged, the search goes on")
def stale_lock(bench: Bench) -> str:
    """The lock file of a process that died while it wrote."""
    search = Search(bench.folder / "search", storage=f"journal:///{bench.folder}/search/study.journal")
    driver = search.start()
    driver.until_searching()
    time.sleep(2.0)
    driver.kill()
    (search.folder / "study.journal.lock").write_text("")
    start = time.monotonic()
    found: list[float] = []

    def watch() -> None:
        while time.monotonic() - start < 60:
            log = search.out / "run.log"
            if log.exists() and "removed the lock" in log.read_text():
                found.append(time.monotonic() - start)
                return
            time.sleep(0.1)

    watching = threading.Thread(target=watch)
    watching.start()
    search.finish()
    watching.join()
    bench.check(bool(found), "the lock was never removed, or not logged")
    return f"removed {found[0]:.1f} s after the start of the program (5 s of them to see that it has no holder)"
