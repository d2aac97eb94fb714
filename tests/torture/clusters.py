"""A real SLURM of one node: its faults, one by one, and a whole search on it whose driver is killed."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.servers import slurm
from tests.torture import slurm_cases as faults
from tests.torture.harness import Bench, Failed, Skipped, case
from tests.torture.searches import Mark, Search, doubled, ended, trained_again

TASKS = Path(__file__).parents[1] / "execution"

LONG_AWAY_SECONDS = 30.0

FAULTS: dict[str, tuple[str, Callable[[Any, Path], str]]] = {
    "preempted": ("preempted and requeued: resumes where it was", faults.preempted),
    "time-limit": ("at its time limit: queued again and resumed, or told why not", lambda _, folder: faults.time_limit(folder)),
    "killed-untold": ("killed without accounting: reported, tried again, never waited for", faults.killed_without_a_trace),
    "requeued-when-done": ("`scontrol requeue` of a finished job changes nothing", faults.finished_and_requeued),
    "controller-away": (
        "the controller killed and back: nothing lost",
        lambda server, folder: faults.controller_away(server, folder, seconds=LONG_AWAY_SECONDS),
    ),
    "controller-gone": ("the controller never back: one clear error", faults.controller_gone),
    "taken-over": ("a driver dies: the next one takes its jobs over", faults.taken_over),
}


@contextlib.contextmanager
def cluster(bench: Bench) -> Iterator[tuple[Any, dict[str, str]]]:
    """A cluster for one case, and the environment that reaches it, in which this process is meanwhile.

    Raises:
        Skipped: If none can be started here.
    """
    before, path = dict(os.environ), list(sys.path)
    try:
        with slurm.slurm_server() as server:
            environment = dict(server.environment)
            os.environ.update(environment)
            sys.path.insert(0, str(TASKS))
            yield server, environment
    except slurm.SlurmUnavailableError as error:
        raise Skipped(f"no SLURM here: {error}") from None
    finally:
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(before)


def _fault(fault: Callable[[Any, Path], str], bench: Bench) -> str:
    with cluster(bench) as (server, _):
        os.environ["PYTHONPATH"] = str(TASKS)
        try:
            return fault(server, bench.folder)
        except AssertionError as error:
            raise Failed(f"{error or 'an assertion'}, line {_line(error)} of slurm_cases.py") from error


def _line(error: BaseException) -> int:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == faults.__file__:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


for _name, (_bar, _function) in FAULTS.items():
    case(f"slurm-{_name}", f"SLURM: {_bar}")(functools.partial(_fault, _function))


@case(
    "slurm-driver-killed",
    "a search on SLURM, its driver SIGKILLed at random moments: same bits; no result trained again, none twice",
)
def driver_killed(bench: Bench) -> str:
    """Jobs outlive their driver there, and the next one takes them over."""
    shape: dict[str, Any] = {"search": {"budget": 12, "initial": 8, "batch_size": 4}}
    unbroken = Search(bench.folder / "unbroken", settings=shape).finish()
    with cluster(bench) as (_, environment):
        execution = {"executor": "slurm", "workers": 2, "slurm": {"partition": "low", "minutes": 20}}
        search, marks, struck = Search(bench.folder / "broken", settings={**shape, "execution": execution}), [], 0
        wanted = bench.times(4, 1)
        for number in range(wanted):
            driver = search.start(environment=environment)
            driver.until_searching()
            driver.wait_quietly(float(bench.rng.uniform(1, 12)))
            struck += driver.searching
            driver.kill()
            marks.append(Mark.of(search))
            bench.say(f"kill {number + 1}, {len(marks[-1].slots)} of 12 trained")
        search.start(environment=environment).finish()
    difference = search.outcome().difference(unbroken)
    bench.check(not difference, f"the search differs from the unbroken one, which trained here: {difference}")
    again = trained_again(search, marks) | doubled(search)
    bench.check(not again, f"slots {sorted(again)} were trained again")
    more = sum(n > 1 for n in ended(search).values())
    return f"{wanted} kills, {struck} in mid-run; no result trained again, {more} trained twice; same bits as on the local executor"
