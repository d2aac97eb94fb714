"""The driver is killed again and again, and the search must not notice."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from tests.torture.harness import Bench, Skipped, case
from tests.torture.searches import (
    COMMAND,
    STORAGES,
    Driver,
    Mark,
    Outcome,
    Search,
    doubled,
    ended,
    outcome,
    results,
    storages,
    surroundings,
    trained_again,
)

BAR = "trials.csv and mixture.yaml as unbroken, bit for bit; no slot with a result trained again; ≥ 20 SIGKILLs"
LONGEST_DELAY = 0.45
"""From the beginning of a search to its driver's death, at most, as a part of what the unbroken search takes."""

WORDS = {
    "books": "the old house stood silent under a grey sky while she read letter after letter by the fire",
    "code": "def return import class self for in range if else None True lambda yield assert with as",
    "talk": "hey yeah lol ok brb what no way sure thing see you later haha nice one cheers mate",
}


def kill_at_random(driver: Driver, rng: np.random.Generator, longest: float) -> bool | None:
    """SIGKILL a driver at a random moment: mostly in its search, sometimes while it starts, sometimes its workers with it.

    Args:
        driver: Whom.
        rng: Chooses the moment.
        longest: Seconds after which it happens at the latest, from the beginning of the search.

    Returns:
        Whether it was in its search; None if it had finished before.
    """
    starting, with_workers, delay = rng.random() < 0.15, bool(rng.random() < 0.3), float(rng.random())
    if starting:
        delay *= 4.0
    elif driver.until_searching():
        delay *= longest
    try:
        driver.wait_quietly(delay)
    finally:
        searching = driver.searching
        over = driver.code is not None
        driver.kill(with_workers=with_workers)
    return None if over else searching


def _kill_on(kind: str, bench: Bench) -> str:
    with storages(kind) as fresh:
        first = Search(bench.folder / "unbroken", storage=fresh.url(bench.folder / "unbroken"))
        longest = LONGEST_DELAY * first.start().finish_timed()
        unbroken = first.outcome()
        wanted, kills, struck, searches, twice = bench.times(20, 4), 0, 0, 0, 0
        while kills < wanted:
            searches += 1
            place = bench.folder / f"broken-{searches}"
            search, marks = Search(place, storage=fresh.url(place)), []
            while kills < wanted:
                driver = search.start()
                hit = kill_at_random(driver, bench.rng, longest)
                if hit is None:
                    break
                marks.append(Mark.of(search))
                kills, struck = kills + 1, struck + hit
                bench.say(f"{kind}: kill {kills}{'' if hit else ' (while it started)'}, {len(marks[-1].slots)} of 24 trained")
            search.finish()
            twice += _verdict(bench, search, marks, unbroken)
    return (
        f"{kills} kills, {struck} of them in mid-run, over {searches} searches: same bits; 0 slots with a result trained again, "
        f"{twice} trained twice because killed between their end and their mark"
    )


def _verdict(bench: Bench, search: Search, marks: list[Mark], unbroken: Outcome) -> int:
    """Check a search that was killed at these moments; how many slots trained to their end more than once."""
    difference = search.outcome().difference(unbroken)
    bench.check(not difference, f"{search.folder.name} differs from the unbroken search: {difference}")
    again = trained_again(search, marks)
    bench.check(not again, f"{search.folder.name}: slots {sorted(again)} had a result and were trained again")
    at_once = doubled(search)
    bench.check(not at_once, f"{search.folder.name}: slots {sorted(at_once)} were trained by two at once")
    return sum(count > 1 for count in ended(search).values())


for _kind in STORAGES:
    case(f"driver-killed-{_kind}", BAR)(functools.partial(_kill_on, _kind))


@case(
    "driver-killed-swarm",
    "the built-in proxies (tiny corpus): as unbroken, bit for bit; no result file written twice; ≥ 5 SIGKILLs",
)
def kill_swarm(bench: Bench) -> str:
    """The same with proxies that really train."""
    config = bench.folder / "tiny.yaml"
    config.write_text(json.dumps(_tiny(bench.folder / "texts")))
    more = {"REGMIX_ACTIVE_CACHE": str(bench.folder / "cache")}

    def start(out: Path) -> Driver:
        arguments = [str(COMMAND), "run", "--config", str(config), "--out", str(out)]
        return Driver(arguments, bench.folder / "driver.log", surroundings(None, more), out)

    longest = LONGEST_DELAY * start(bench.folder / "unbroken").finish_timed()
    # How proxies are stacked is planned by measuring; the broken search gets the unbroken one's plan.
    broken = bench.folder / "broken"
    broken.mkdir()
    (broken / "plan.json").write_bytes((bench.folder / "unbroken" / "plan.json").read_bytes())
    wanted, kills, struck, written = bench.times(5, 2), 0, 0, dict[Path, tuple[int, int]]()
    while kills < wanted:
        hit = kill_at_random(start(broken), bench.rng, longest)
        if hit is None:
            raise Skipped(f"the search is over after {kills} kills: this machine is too fast")
        kills, struck = kills + 1, struck + hit
        for path in results(broken / "jobs").values():
            if path.exists():
                status = path.stat()
                written.setdefault(path, (status.st_ino, status.st_mtime_ns))
        bench.say(f"swarm: kill {kills}, {len(written)} result files")
    start(broken).finish()
    difference = outcome(broken).difference(outcome(bench.folder / "unbroken"))
    bench.check(not difference, f"the search differs from the unbroken one: {difference}")
    changed = [path.name for path, was in written.items() if (path.stat().st_ino, path.stat().st_mtime_ns) != was]
    bench.check(not changed, f"result files written again: {changed}")
    return f"{kills} kills, {struck} in mid-run; {len(written)} result files were there at a kill, none written again; same bits"


def _tiny(texts: Path) -> dict[str, object]:
    rng = np.random.default_rng(7)
    for name, words in WORDS.items():
        (texts / name).mkdir(parents=True)
        for i in range(30):
            (texts / name / f"{i:02}.txt").write_text(" ".join(rng.choice(words.split(), size=150)))
    shape = {"layers": 1, "width": 16, "heads": 2, "ffn": 32, "context": 16, "batch_size": 4}
    return {
        "name": "torture",
        "proxy": {**shape, "tokens": 25_600, "validation_tokens": 512},
        "search": {"budget": 24, "initial": 8, "batch_size": 4, "strategy_options": {"candidates": 128}},
        "recommend": {"simulations": 2000},
        "execution": {"workers": 2, "stack": 2},
        "corpus": {
            "tokenizer": {"vocab_size": 300},
            "domains": {name: {"path": str(texts / name)} for name in WORDS},
        },
    }
