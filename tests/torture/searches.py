"""A real search as a subprocess, with the scripted trainer; what it left, and what it must not have done."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.servers import postgresql
from tests.torture.harness import Failed, Skipped

COMMAND = Path(sys.executable).with_name("regmix-active")
TRAINER = Path(__file__).with_name("trainer.py")
DOMAINS = {"books": 4.1, "code": 2.5, "talk": 1.0, "web": 9.0}
STORAGES = ("sqlite", "journal", "postgresql")
PATIENCE_SECONDS = 300.0

SETTINGS: dict[str, Any] = {
    "search": {"budget": 24, "initial": 8, "batch_size": 4, "strategy_options": {"candidates": 128}},
    "recommend": {"simulations": 2000},
    "execution": {"workers": 2},
}


@dataclass(frozen=True)
class Outcome:
    """What a finished search found, without moments and durations: the table of proxies, and the answer."""

    table: str
    answer: str

    def difference(self, other: Outcome) -> str:
        """The first line that differs; empty if none does."""
        mine, theirs = (f"{one.table}\n{one.answer}".splitlines() for one in (self, other))
        for number, (a, b) in enumerate(zip(mine, theirs, strict=False)):
            if a != b:
                return f"line {number}: {a!r} instead of {b!r}"
        return "" if len(mine) == len(theirs) else f"{len(mine)} lines instead of {len(theirs)}"


class Driver:
    """A running ``regmix-active run``."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str], out: Path) -> None:
        """Start it; it leads a process group of its own, as in a shell."""
        self.out, self.log, self.started = out, log, time.monotonic()
        with log.open("ab") as file:
            self._begin = file.tell()
            self._process = subprocess.Popen(
                arguments, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=dict(environment), process_group=0
            )
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    @property
    def said(self) -> str:
        """What it has printed."""
        with self.log.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    @property
    def searching(self) -> bool:
        """Whether it has its run folder's lock: it reads or writes its study, trains or thinks."""
        try:
            return bool(json.loads((self.out / ".lock.json").read_text())["pid"] == self.pid) and self.code is None
        except (OSError, ValueError, KeyError):
            return False

    def until_searching(self, seconds: float = 60.0) -> bool:
        """Wait for that; False if it ended before."""
        end = time.monotonic() + seconds
        while not self.searching:
            if self.code is not None:
                return False
            if time.monotonic() > end:
                raise Failed(f"the driver does not get into its search in {seconds:.0f} s; see {self.log}")
            time.sleep(0.02)
        return True

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for its end.

        Raises:
            Failed: If it does not end.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"the driver did not end in {seconds:.0f} s; see {self.log}") from None

    def wait_quietly(self, seconds: float) -> None:
        """Wait so long, or until its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def finish(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for its good end.

        Raises:
            Failed: If it ended in another way.
        """
        if (code := self.wait(seconds)) != 0:
            raise Failed(f"the driver ended with exit code {code}: {self.said[-600:]}")

    def finish_timed(self) -> float:
        """Wait for its good end; seconds that its search took, without the start of the program."""
        self.until_searching()
        start = time.monotonic()
        self.finish()
        return time.monotonic() - start

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the driver alone."""
        self._process.send_signal(number)

    def kill(self, *, with_workers: bool = False) -> None:
        """SIGKILL, and wait until it is gone."""
        workers = self.workers if with_workers else []
        self._process.kill()
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                worker.kill()
        self._process.wait()

    @property
    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if any("spawn_main" in part for part in child.cmdline()):
                        found.append(child)
        return found


class Search:
    """One search: its configuration, its plan of sufferings, its ledger and its run folder."""

    def __init__(
        self,
        folder: Path,
        *,
        storage: str | None = None,
        settings: Mapping[str, Any] | None = None,
        plan: Mapping[str, Any] | None = None,
        losses: Mapping[str, str] | None = None,
    ) -> None:
        """Write its files.

        Args:
            folder: Where; made.
            storage: URL of its study, which the driver gets by its environment; default: in the run folder.
            settings: Sections of the configuration, key by key over :data:`SETTINGS`.
            plan: The trainer's plan, over a healthy one.
            losses: Names of the losses in the metrics, by domain; default: the domains.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.storage = folder, storage
        self.out, self.ledger_file, self.plan_file = folder / "run", folder / "ledger", folder / "plan.json"
        names = dict(losses or {name: name for name in DOMAINS})
        self.plan_file.write_text(json.dumps({"seconds": [0.1, 0.3], "losses": names, **(plan or {})}))
        command = f"{sys.executable} -S -E {TRAINER} {{mixture}} {{out}} {self.ledger_file} {self.plan_file}"
        config: dict[str, Any] = {"name": "torture", "runner": {"command": command, "domains": DOMAINS}}
        if losses is not None:
            config["runner"]["losses"] = list(names.values())
        given = settings or {}
        for section in {*SETTINGS, *given}:
            config[section] = {**SETTINGS.get(section, {}), **given.get(section, {})}
        self.config = folder / "config.yaml"
        self.config.write_text(json.dumps(config, indent=1))

    def start(self, *options: str, out: Path | None = None, environment: Mapping[str, str] | None = None) -> Driver:
        """Start a driver, or the next one, with the same command."""
        place = out or self.out
        arguments = [str(COMMAND), "run", "--config", str(self.config), "--out", str(place), *options]
        return Driver(arguments, self.folder / "driver.log", surroundings(self.storage, environment), place)

    def finish(self, *options: str, seconds: float = PATIENCE_SECONDS) -> Outcome:
        """Run to the end; what was found."""
        self.start(*options).finish(seconds)
        return self.outcome()

    def outcome(self) -> Outcome:
        """What the finished search left."""
        return outcome(self.out)

    def ledger(self) -> list[dict[str, Any]]:
        """What trainers did, in order."""
        if not self.ledger_file.exists():
            return []
        return [json.loads(line) for line in self.ledger_file.read_text().splitlines()]

    def trained(self) -> set[int]:
        """Slots whose result file is there."""
        return {slot for slot, path in results(self.out / "jobs").items() if path.exists()}


@dataclass(frozen=True)
class Mark:
    """A moment: what was trained by then."""

    slots: frozenset[int]
    line: int

    @classmethod
    def of(cls, search: Search) -> Mark:
        """Now; slots first, so that whatever the ledger says afterwards came later."""
        slots = frozenset(search.trained())
        return cls(slots, len(search.ledger()))


def trained_again(search: Search, marks: Sequence[Mark]) -> set[int]:
    """Slots that had a result file at one of these moments, and were trained after it."""
    ledger = search.ledger()
    return {
        line["slot"] for mark in marks for line in ledger[mark.line :] if line["what"] == "start" and line["slot"] in mark.slots
    }


def doubled(search: Search) -> set[int]:
    """Slots that two trainers trained at the same time."""
    return {line["slot"] for line in search.ledger() if line.get("doubled")}


def ended(search: Search) -> dict[int, int]:
    """How often each slot was trained to its end."""
    counts: dict[int, int] = {}
    for line in search.ledger():
        if line["what"] == "end":
            counts[line["slot"]] = counts.get(line["slot"], 0) + 1
    return counts


def results(jobs: Path) -> dict[int, Path]:
    """Result file, there or not, of every slot that has a job file."""
    found: dict[int, Path] = {}
    for path in jobs.glob("*.job.json"):
        with contextlib.suppress(OSError, ValueError):
            result = path.with_name(path.name.replace(".job.json", ".result.json"))
            found |= {request["slot"]: result for request in json.loads(path.read_text())["requests"]}
    return found


def outcome(out: Path) -> Outcome:
    """What is in a run folder, without what differs from run to run by right: seconds, and when the answer was written."""
    with (out / "trials.csv").open(newline="") as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    table = "\n".join(",".join(row.values()) for row in rows)
    answer = (out / "mixture.yaml").read_text().splitlines()
    return Outcome(table, "\n".join(line for line in answer if not line.startswith("created:")))


def surroundings(storage: str | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The driver's environment: a URL with a password comes by it alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGMIX_ACTIVE")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return environment | ({} if storage is None else {"REGMIX_ACTIVE_STORAGE": storage}) | dict(more or {})


class Storages:
    """Fresh storages of one kind."""

    def __init__(self, kind: str, server: postgresql.Server | None) -> None:
        """Take the server if there is one."""
        self.kind, self.server = kind, server
        self._made = 0

    def url(self, folder: Path) -> str:
        """URL of a storage that nobody has used; its file, if it has one, lies in the folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.server is None:
            return f"{self.kind}:///{folder}/study.{'db' if self.kind == 'sqlite' else 'journal'}"
        self._made += 1
        self.server.sql(f"CREATE DATABASE torture_{self._made}")
        return self.server.url(f"torture_{self._made}")


@contextlib.contextmanager
def storages(kind: str) -> Iterator[Storages]:
    """Storages of a kind, with a server of their own where they need one.

    Raises:
        Skipped: If it cannot run here.
    """
    if kind != "postgresql":
        yield Storages(kind, None)
        return
    if (reason := postgresql.why_not()) is not None:
        raise Skipped(reason)
    with postgresql.running() as server:
        yield Storages(kind, server)
