"""Workers and trainers that die, hang, stop and run out of memory."""

from __future__ import annotations

import csv
import hashlib
import signal
from collections.abc import Callable

import psutil

from tests.torture.harness import Bench, case
from tests.torture.searches import Driver, Search, doubled, ended

DEADLINE_SECONDS = 12.0
"""For hung jobs: a healthy one takes a fraction of a second, and its worker a few to start."""

DEADLINE = {"execution": {"workers": 2, "deadline_minutes": DEADLINE_SECONDS / 60}}


@case(
    "trainer-dies",
    "a trainer that fails, is killed (137), out of memory, or leaves nonsense: tried again, others untouched, same bits",
)
def trainer_dies(bench: Bench) -> str:
    """Every kind of death, at first and second attempts."""
    unbroken = Search(bench.folder / "unbroken").finish()
    fates = ["fail", "killed", "memory", "nonsense"]
    slots = {str(slot): fates[i % 4 : i % 4 + 1 + i % 2] for i, slot in enumerate(range(1, 24, 2))}
    search = Search(bench.folder / "broken", plan={"slots": slots})
    _same(bench, search.finish().difference(unbroken))
    attempts = _attempts(search)
    wrong = {slot: n for slot, n in attempts.items() if n != 1 + len(slots.get(str(slot), []))}
    bench.check(not wrong, f"attempts by slot that are not as planned: {wrong}")
    return f"{sum(map(len, slots.values()))} deaths in {len(slots)} slots: each tried again, others once; same bits"


@case(
    "trainer-hangs", "a trainer that hangs or is stopped (SIGSTOP): ended at its deadline, tried again, others untouched, same bits"
)
def trainer_hangs(bench: Bench) -> str:
    """Slots that never end by themselves."""
    unbroken = Search(bench.folder / "unbroken").finish()
    slots = {"2": ["hang"], "9": ["stop"], "14": ["hang", "stop"]} if not bench.quick else {"2": ["stop"]}
    search = Search(bench.folder / "broken", settings=DEADLINE, plan={"slots": slots})
    _same(bench, search.finish().difference(unbroken))
    attempts = _attempts(search)
    wrong = {slot: n for slot, n in attempts.items() if n != 1 + len(slots.get(str(slot), []))}
    bench.check(not wrong, f"attempts by slot that are not as planned: {wrong}")
    bench.check(not doubled(search), f"slots {sorted(doubled(search))} were trained by two at once")
    longest = _longest_wait(search)
    hangs = sum(map(len, slots.values()))
    return (
        f"{hangs} hangs: ended at most {longest:.1f} s after they began (deadline {DEADLINE_SECONDS:.0f} s), tried again; same bits"
    )


@case(
    "worker-killed",
    "workers SIGKILLed at random while proxies train: requeued within execution.attempts, others untouched, same bits",
)
def worker_killed(bench: Bench) -> str:
    """The pool's processes, one after the other."""
    unbroken = Search(bench.folder / "unbroken").finish()
    wanted, struck, searches, twice = bench.times(12, 3), 0, 0, 0
    while struck < wanted:
        searches += 1
        search = Search(bench.folder / f"broken-{searches}", settings={"execution": {"workers": 2, "attempts": 10}})
        driver = search.start()
        blows = _strike(bench, search, driver, lambda worker: worker.kill(), wanted - struck, 1.5)
        struck += blows
        driver.finish()
        twice += _judge(bench, search, unbroken.difference(search.outcome()), blows)
        bench.say(f"{struck} workers killed")
    return f"{struck} workers killed in {searches} searches, {_twice(twice)}; same bits"


@case("worker-killed-idle", "workers SIGKILLed while none trains: as they start, and between rounds: replaced, same bits")
def worker_killed_idle(bench: Bench) -> str:
    """Short of memory, the system kills whom it likes, for instance while the driver fits its surrogate."""
    unbroken = Search(bench.folder / "unbroken").finish()
    lost = []
    for number in range(bench.times(4, 2)):
        search = Search(bench.folder / f"broken-{number}")
        driver, starting = search.start(), number % 2 == 0
        driver.until_searching()
        while driver.code is None and not (driver.workers if starting else len(search.trained()) == 8):
            driver.wait_quietly(0.02)
        for worker in driver.workers[: 1 if starting else 2]:
            worker.kill()
        code, when = driver.wait(), "as it started" if starting else "between rounds"
        bench.say(f"killed {when}: exit {code}")
        if code:
            lost.append(f"{when}: exit {code}: {' '.join(driver.said.split())[-300:]}")
        else:
            _judge(bench, search, unbroken.difference(search.outcome()))
    bench.check(not lost, "; ".join(lost))
    return "replaced; every slot trained once to its end; same bits"


@case(
    "worker-stopped",
    "workers stopped (SIGSTOP): given up at the deadline, their jobs done elsewhere, same bits, nothing left behind",
)
def worker_stopped(bench: Bench) -> str:
    """A machine that freezes, as seen from its driver."""
    unbroken = Search(bench.folder / "unbroken").finish()
    settings = {"execution": {**DEADLINE["execution"], "attempts": 5}}
    search = Search(bench.folder / "broken", settings=settings, plan={"seconds": [0.5, 1.0]})
    driver, wanted = search.start(), bench.times(3, 1)
    struck = _strike(bench, search, driver, lambda worker: worker.send_signal(signal.SIGSTOP), wanted, DEADLINE_SECONDS)
    driver.finish()
    bench.check(struck == wanted, f"only {struck} workers could be stopped in time")
    _judge(bench, search, unbroken.difference(search.outcome()))
    return f"{struck} workers stopped for ever; every slot trained once to its end; same bits"


@case(
    "many-failures",
    "100 proxies over 8 local workers, 10 % of attempts fail at random: all done, each once, attempts within the cap",
)
def many_failures(bench: Bench) -> str:
    """As planned: which attempts fail follows from the seed."""
    budget, attempts, rate = bench.times(100, 24), 3, 0.1
    settings = {
        "search": {"budget": budget, "initial": budget // 4, "batch_size": budget // 4},
        "execution": {"workers": 8, "attempts": attempts},
    }
    search = Search(bench.folder / "search", settings=settings, plan={"failing": [rate, bench.seed]})
    search.finish()
    with (search.out / "trials.csv").open(newline="") as file:
        states = {int(row["slot"]): row["state"] for row in csv.DictReader(file)}
    # Slots that fail at every attempt are replaced by further ones.
    hopeless = {slot for slot in states if all(_fails(bench.seed, slot, attempt, rate) for attempt in range(attempts))}
    bench.check({slot for slot, state in states.items() if state == "fail"} == hopeless, f"failed slots are not {hopeless}")
    bench.check(len(states) - len(hopeless) == budget, f"{len(states) - len(hopeless)} completed of {budget}")
    counts, tried = ended(search), _attempts(search)
    bench.check(all(counts.get(slot, 0) == (slot not in hopeless) for slot in states), f"not each trained once: {counts}")
    for slot in states:
        planned = next((i + 1 for i in range(attempts) if not _fails(bench.seed, slot, i, rate)), attempts)
        bench.check(tried[slot] == planned, f"slot {slot}: {tried[slot]} attempts, not {planned}")
    bench.check(not doubled(search), f"slots {sorted(doubled(search))} were trained by two at once")
    failures = sum(tried.values()) - sum(counts.values())
    return f"{budget} done, each once; {failures} failed attempts, at most {max(tried.values())} of {attempts} for one slot"


def _strike(bench: Bench, search: Search, driver: Driver, blow: Callable[[psutil.Process], None], times: int, pause: float) -> int:
    """Strike workers at random moments at which a proxy trains, until the search ends; how often."""
    struck, known = 0, set[int]()
    driver.until_searching()
    while driver.code is None and struck < times:
        driver.wait_quietly(float(bench.rng.uniform(0.3, 1.0)) * pause)
        while driver.code is None and not _training(search):
            driver.wait_quietly(0.02)
        workers = [worker for worker in driver.workers if worker.pid not in known]
        if driver.code is None and workers:
            worker = workers[int(bench.rng.integers(len(workers)))]
            try:
                blow(worker)
            except psutil.NoSuchProcess:
                continue
            known.add(worker.pid)
            struck += 1
    return struck


def _training(search: Search) -> bool:
    """Whether a trainer is at work."""
    last = {line["slot"]: line for line in search.ledger()}
    return any(line["what"] == "start" and psutil.pid_exists(line["pid"]) for line in last.values())


def _judge(bench: Bench, search: Search, difference: str, struck: int = 0) -> int:
    """Check a search; how many slots were trained to their end twice, which so many blows may explain."""
    _same(bench, difference)
    more = {slot: n for slot, n in ended(search).items() if n != 1}
    bench.check(sum(n - 1 for n in more.values()) <= struck, f"slots by how often they were trained to their end: {more}")
    bench.check(set(ended(search)) == set(range(24)), "a slot was never trained")
    bench.check(not doubled(search), f"slots {sorted(doubled(search))} were trained by two at once")
    return len(more)


def _twice(slots: int) -> str:
    return f"{slots} slots trained twice because struck between their end and their mark" if slots else "every slot trained once"


def _same(bench: Bench, difference: str) -> None:
    bench.check(not difference, f"the search differs from the unbroken one: {difference}")


def _attempts(search: Search) -> dict[int, int]:
    counts: dict[int, int] = {}
    for line in search.ledger():
        if line["what"] == "start":
            counts[line["slot"]] = counts.get(line["slot"], 0) + 1
    return counts


def _longest_wait(search: Search) -> float:
    """Seconds between two attempts at one slot, at most."""
    last: dict[int, float] = {}
    longest = 0.0
    for line in search.ledger():
        if line["what"] == "start":
            longest = max(longest, line["time"] - last.get(line["slot"], line["time"]))
            last[line["slot"]] = line["time"]
    return longest


def _fails(seed: int, slot: int, attempt: int, rate: float) -> bool:
    """As the trainer decides."""
    digest = hashlib.sha256(repr((seed, slot, attempt)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 < rate
