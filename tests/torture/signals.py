"""Ctrl-C and SIGTERM, as a user and a scheduler send them."""

from __future__ import annotations

import signal
import time

from tests.torture.harness import Bench, Failed, case
from tests.torture.searches import PATIENCE_SECONDS, Driver, Mark, Search, doubled, trained_again

HINT = "Continue with the same command"
TERM_SECONDS = 10.0
ONCE_SECONDS = 10.0
TWICE_SECONDS = 2.0
INITIAL = 20
"""Proxies after which a committee of surrogates thinks for the first time."""


@case(
    "signals",
    "SIGINT: exit 130 with the hint; twice: at once; SIGTERM: exit 143 within 10 s, also between rounds; then the unbroken result",
)
def signals(bench: Bench) -> str:
    """Interrupt one search after the other, and continue each."""
    # A committee of surrogates thinks for seconds: long enough to be met while it does.
    thinking = {"search": {"surrogate": "ensemble", "initial": INITIAL, "budget": INITIAL + 4}}
    unbroken = {
        "gp": Search(bench.folder / "unbroken").finish(),
        "ensemble": Search(bench.folder / "unbroken-ensemble", settings=thinking).finish(),
    }
    longest: dict[str, float] = {}
    plan = [("SIGINT", "gp"), ("SIGINT twice", "gp"), ("SIGTERM", "gp"), ("SIGTERM while fitting", "ensemble")]
    for number in range(bench.times(2, 1)):
        for what, surrogate in plan:
            place = bench.folder / f"{what.replace(' ', '-')}-{number}"
            search = Search(place, settings=thinking if surrogate == "ensemble" else {})
            driver = search.start()
            bench.check(driver.until_searching(), f"the driver ended by itself: {driver.said[-300:]}")
            if "fitting" in what:
                _until_thinking(search, driver, bench)
                driver.wait_quietly(float(bench.rng.uniform(0.1, 0.5)))
            else:
                _until_trained(search, driver, int(bench.rng.integers(1, 16)))
            seconds = _send(driver, what)
            longest[what] = max(longest.get(what, 0.0), seconds)
            bench.say(f"{what}: exit {driver.code} after {seconds:.2f} s, {len(search.trained())} trained")
            _judge(bench, driver, what, seconds)
            mark = Mark.of(search)
            difference = search.finish().difference(unbroken[surrogate])
            bench.check(not difference, f"after {what} the search differs from the unbroken one: {difference}")
            again = trained_again(search, [mark]) | doubled(search)
            bench.check(not again, f"after {what} slots {sorted(again)} were trained again")
    return "; ".join(f"{what}: at most {seconds:.1f} s" for what, seconds in longest.items()) + "; then the same bits"


def _send(driver: Driver, what: str) -> float:
    number = signal.SIGTERM if "TERM" in what else signal.SIGINT
    start = time.monotonic()
    driver.send(number)
    if "twice" in what:
        driver.wait_quietly(0.2)
        start = time.monotonic()
        driver.send(number)
    driver.wait(60)
    return time.monotonic() - start


def _judge(bench: Bench, driver: Driver, what: str, seconds: float) -> None:
    code, within = (143, TERM_SECONDS) if "TERM" in what else (130, TWICE_SECONDS if "twice" in what else ONCE_SECONDS)
    # A second Ctrl-C while the interpreter tidies up is the system's, which ends the process by it: 130 for a shell, too.
    codes = (code, -signal.SIGINT) if "twice" in what else (code,)
    bench.check(driver.code in codes, f"{what}: exit code {driver.code} instead of {code}: {driver.said[-400:]}")
    bench.check(seconds <= within, f"{what}: it took {seconds:.1f} s to end, more than {within:g}")
    bench.check("Traceback" not in driver.said, f"{what}: a traceback: {driver.said[-600:]}")
    if what == "SIGINT":
        bench.check(HINT in " ".join(driver.said.split()), f"{what}: no hint how to continue: {driver.said[-400:]}")


def _until_trained(search: Search, driver: Driver, slots: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while driver.code is None and len(search.trained()) < slots:
        time.sleep(0.05)
        if time.monotonic() > end:
            raise Failed(f"only {len(search.trained())} proxies trained in {PATIENCE_SECONDS:.0f} s; see {driver.log}")


def _until_thinking(search: Search, driver: Driver, bench: Bench) -> None:
    """Until the initial design is trained, and the log knows of no further round."""
    _until_trained(search, driver, INITIAL)
    while (search.out / "run.log").read_text().count(": slot ") < INITIAL:
        time.sleep(0.01)
        bench.check(driver.code is None, "the driver ended by itself")
    bench.check("round 1:" not in (search.out / "run.log").read_text(), "the surrogate was too fast to be met while it fits")
