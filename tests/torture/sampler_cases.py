"""Eight processes through `MixtureSampler` with its real strategy: no mixture twice, each queued one once."""

from __future__ import annotations

from contextlib import ExitStack

from tests.optuna_side.crowd import Outcome, crowd
from tests.servers import postgresql
from tests.torture.harness import Bench, Skipped, case

PROCESSES, QUEUED = 8, 12
EACH_ONCE = "8 processes, with the real strategy and all wanting the same mixture: none trained twice, each queued one once"


@case("sampler-journal", f"journal: {EACH_ONCE}")
def sampler_journal(bench: Bench) -> str:
    """Opened with Optuna's own class."""
    return _share(bench, {kind: f"journal:///{bench.folder / kind}/study.journal" for kind in ("real", "same")}, "plain")


@case("sampler-postgresql", f"PostgreSQL: {EACH_ONCE}")
def sampler_postgresql(bench: Bench) -> str:
    """Opened by its URL."""
    if (reason := postgresql.why_not()) is not None:
        raise Skipped(reason)
    with ExitStack() as stack:
        server = stack.enter_context(postgresql.running())
        server.sql("CREATE DATABASE real", "CREATE DATABASE same")
        urls = {kind: server.url(kind).replace("postgresql:", "postgresql+psycopg:") for kind in ("real", "same")}
        return _share(bench, urls, "plain")


@case("sampler-sqlite", f"SQLite through open_storage: {EACH_ONCE}")
def sampler_sqlite(bench: Bench) -> str:
    """They take turns."""
    return _share(bench, {kind: f"sqlite:///{bench.folder / kind}/study.db" for kind in ("real", "same")}, "ours")


@case("sampler-sqlite-plain", "SQLite by its URL: one of 8 processes works, 7 are told why they may not; no mixture trained twice")
def sampler_sqlite_plain(bench: Bench) -> str:
    """Refused before anything trains."""
    url, trials = f"sqlite:///{bench.folder}/study.db", bench.times(8, 4)
    outcome = crowd(url, bench.folder, processes=PROCESSES, trials=trials, queued=QUEUED)
    told = sum(error.startswith("busy: ") for error in outcome.errors)
    bench.check(told == len(outcome.errors), f"another error than busy: {outcome.errors}")
    # All of them, unless the first had ended before the last began.
    bench.check(told > 0 and len(outcome.trained) == (PROCESSES - told) * trials, f"{told} refused, {len(outcome.trained)} trained")
    bench.check(outcome.twice == 0, f"{outcome.twice} mixtures trained twice")
    return f"{told} refused, {len(outcome.trained)} trained, none twice"


def _share(bench: Bench, urls: dict[str, str], how: str) -> str:
    trials, lines = bench.times(8, 3), []
    for kind, url in urls.items():
        folder = bench.folder / kind
        folder.mkdir(exist_ok=True)
        bench.say(f"{PROCESSES} processes, {trials} trials each" + ", all wanting the same mixture" * (kind == "same"))
        outcome = crowd(
            url, folder, how=how, processes=PROCESSES, trials=trials, queued=QUEUED, initial=16, contended=kind == "same"
        )
        lines.append(f"{kind}: {_figures(outcome)}")
        whole = not outcome.errors and len(outcome.trained) == PROCESSES * trials and not outcome.unfinished
        bench.check(whole, f"{lines[-1]}, {outcome.unfinished} unfinished, errors: {outcome.errors}")
        bench.check((outcome.twice, outcome.queued_once) == (0, QUEUED), lines[-1])
    return "; ".join(lines)


def _figures(outcome: Outcome) -> str:
    return f"{len(outcome.trained)} trained, {outcome.twice} twice, queued once {outcome.queued_once} of {QUEUED}"
