"""What a torture case is, and what it is given: a folder, random numbers, a way to say how far it is."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

State = Literal["pass", "fail", "skip"]
STYLES: dict[State, str] = {"pass": "green", "fail": "bold red", "skip": "yellow"}


class Failed(Exception):  # noqa: N818 (a verdict)
    """The bar was not met."""


class Skipped(Exception):  # noqa: N818 (a verdict)
    """The case cannot run here."""


class Bench:
    """What a case works with."""

    def __init__(self, folder: Path, name: str, seed: int, quick: bool, console: Console) -> None:
        """Give a case its place.

        Args:
            folder: Its own, empty.
            name: Its name, from which, with the seed, its random numbers follow.
            seed: Of the whole run.
            quick: Fewer repetitions.
            console: For progress.
        """
        self.folder, self.name, self.seed, self.quick, self._console = folder, name, seed, quick, console
        self.rng = np.random.default_rng([seed, zlib.crc32(name.encode())])

    def times(self, full: int, quick: int) -> int:
        """How often to repeat."""
        return quick if self.quick else full

    def say(self, text: str) -> None:
        """One line of progress."""
        self._console.print(f"  {time.strftime('%H:%M:%S')} {text}", style="dim", markup=False, highlight=False)

    def check(self, right: bool, wrong: str) -> None:
        """End the case as failed unless `right`."""
        if not right:
            self.fail(wrong)

    def fail(self, wrong: str) -> NoReturn:
        """End the case as failed."""
        raise Failed(wrong)


@dataclass(frozen=True)
class Case:
    """One case: what must hold, and the function that finds out and returns its figures."""

    name: str
    bar: str
    run: Callable[[Bench], str]


@dataclass(frozen=True)
class Verdict:
    """How a case ended."""

    case: Case
    state: State
    figures: str
    seconds: float


CASES: dict[str, Case] = {}


def case(name: str, bar: str) -> Callable[[Callable[[Bench], str]], Callable[[Bench], str]]:
    """Register a case.

    Args:
        name: For ``--case``.
        bar: What must hold, in words.
    """

    def register(run: Callable[[Bench], str]) -> Callable[[Bench], str]:
        assert name not in CASES, name
        CASES[name] = Case(name, bar, run)
        return run

    return register


def run_case(one: Case, seed: int, quick: bool, console: Console) -> Verdict:
    """Run a case in a temporary folder, which stays only if it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"regmix-torture-{one.name}-"))
    start = time.monotonic()
    state: State = "pass"
    try:
        figures = one.run(Bench(folder, one.name, seed, quick, console))
        if left := survivors(folder):
            raise Failed(f"{figures}; but processes outlived it: {'; '.join(left)}")
    except Skipped as skipped:
        state, figures = "skip", str(skipped)
    except Failed as failed:
        state, figures = "fail", f"{failed} (kept: {folder})"
    except Exception as error:  # noqa: BLE001 (the next case runs)
        console.print_exception()
        state, figures = "fail", f"{type(error).__name__}: {error} (kept: {folder})"
    finally:
        end_all(folder)
    if state != "fail":
        shutil.rmtree(folder, ignore_errors=True)
    return Verdict(one, state, figures, time.monotonic() - start)


def processes(folder: Path) -> Iterator[psutil.Process]:
    """Processes whose command line names something in a folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and any(str(folder) in part for part in process.cmdline()):
                yield process


def survivors(folder: Path, patience: float = 20.0) -> list[str]:
    """Command lines of what still runs in a folder after a while; supervisors need a moment to end their commands."""
    end = time.monotonic() + patience
    while left := list(processes(folder)):
        if time.monotonic() > end:
            names = []
            for process in left:
                with contextlib.suppress(psutil.Error):
                    names.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
            return names
        time.sleep(0.2)
    return []


def end_all(folder: Path) -> None:
    """Kill what a case left behind: only processes that name its folder."""
    for process in processes(folder):
        with contextlib.suppress(psutil.Error):
            process.kill()


def summary(verdicts: list[Verdict], seed: int) -> Table:
    """The table at the end."""
    table = Table(title=f"torture, seed {seed}", show_lines=True)
    for column in ("case", "bar", "verdict", "figures", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    for verdict in verdicts:
        state = f"[{STYLES[verdict.state]}]{verdict.state}[/]"
        table.add_row(verdict.case.name, verdict.case.bar, state, verdict.figures, f"{verdict.seconds:.0f}")
    return table
