"""Replay recorded runs with many methods, targets and seeds, in parallel.

What a replay needs besides the runs is settled here for all tables alike: the natural mixture is the mean of the recorded ones,
the centre that they were sampled around, and a training's noise is a small share of each loss's spread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from regmix_active.compare.emulator import MINIMUM_RUNS, Emulator
from regmix_active.compare.methods import Method, RandomSwarm, Searching
from regmix_active.compare.replay import INITIAL, RANDOM, REGMIX, Answer, Chase, EmulatorGame, PoolGame, chase, search, swarm
from regmix_active.compare.rivals import Climb, OptunaSampler
from regmix_active.compare.standings import RIVALS, Benchmark, EmulatorStanding, Failure, Game, PoolStanding, Settings
from regmix_active.errors import ConfigError, RegmixActiveError, StudyError
from regmix_active.execution.parallel import compute
from regmix_active.mixture.space import MixtureSpace
from regmix_active.study.table import MEAN, RunTable
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Array

NOISE_SHARE = 0.02
"""Default noise of one training, as a share of each loss's standard deviation over the recorded runs."""

CHECKPOINT = 8
"""Runs between two recommendations."""


class Watcher:
    """Told how a benchmark goes; every method does nothing until overridden."""

    def on_stage(self, text: str) -> None:
        """A step that may take a while begins."""

    def on_emulator(self, emulator: Emulator, noise: Array) -> None:
        """The emulator is there; `noise` is the standard deviation of a training, shape ``(m,)``."""

    def on_start(self, searches: int) -> None:
        """The searches begin."""

    def on_search(self) -> None:
        """One of them has ended."""

    def on_estimate(self, seconds: float) -> None:
        """The first seed is through: what the others will take, by its measure."""


@dataclass(frozen=True)
class Task:
    """One search in one of the games, or a random swarm on the emulator for all targets."""

    game: PoolGame | EmulatorGame
    method: str
    surrogate: str
    initial_design: str
    targets: Mapping[str, Target]
    seed: int

    def describe(self) -> str:
        """For messages."""
        return f"{self.method}, {' and '.join(self.targets)}, seed {self.seed}"


@dataclass(frozen=True)
class Played:
    """What a task gives: a search in the pool, or answers on the emulator by target and method."""

    seconds: float
    chase: Chase | None = None
    answers: Mapping[str, Mapping[str, list[Answer]]] = field(default_factory=dict)


def playable(table: RunTable) -> RunTable:
    """The runs with the losses that can be replayed: those with enough observations for an emulator.

    Raises:
        ConfigError: If too little is left.
    """
    seen = (~np.isnan(table.losses)).sum(axis=0)
    kept = np.flatnonzero(seen >= MINIMUM_RUNS)
    if not len(kept) or len(table.domains) < 2:
        raise ConfigError(
            f"{table.name}: {len(table)} runs of {len(table.domains)} domains; a benchmark needs {MINIMUM_RUNS} runs or more "
            "of two domains or more; name further tables of the same columns, they are joined"
        )
    if len(kept) == len(seen):
        return table
    left_out = [name for name, n in zip(table.loss_names, seen, strict=True) if n < MINIMUM_RUNS]
    shown = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
    return dataclasses.replace(
        table,
        loss_names=tuple(table.loss_names[j] for j in kept),
        loss_columns=tuple(table.loss_columns[j] for j in kept),
        losses=table.losses[:, kept],
        notes=(*table.notes, f"left out losses of fewer than {MINIMUM_RUNS} runs: {shown}"),
    ).subset(~np.isnan(table.losses[:, kept]).all(axis=1))


def default_targets(table: RunTable) -> dict[str, Target]:
    """The mean of all losses, and one of them: Pile-CC, which RegMix minimises, or else the one that mixtures move most."""
    widest = table.loss_names[int(np.nanargmax(np.nanstd(table.losses, axis=0)))]
    single = "pile_cc" if "pile_cc" in table.loss_names else widest
    specs = ([MEAN] if len(table.loss_names) > 1 else []) + [single]
    return {spec: table.target(spec if spec == MEAN else {spec: 1.0}) for spec in specs}


def benchmark(
    table: RunTable,
    targets: Mapping[str, Target],
    settings: Settings,
    jobs: int = 1,
    cache: Path | None = None,
    watcher: Watcher | None = None,
) -> Benchmark:
    """Play all games.

    Args:
        table: Finished runs; see :func:`playable`.
        targets: By name, over the table's losses.
        settings: How.
        jobs: Processes.
        cache: Folder for the fitted emulator.
        watcher: Told how it goes.

    Raises:
        ConfigError: If the pool is too small for what is asked, or a surrogate is unknown.
        StrategyError: If a strategy cannot be loaded.
        StudyError: If nothing could be played at all.
    """
    watcher = watcher or Watcher()
    for strategy in settings.strategies:
        Searching(strategy, settings.surrogate, settings.initial_design)
    natural = table.mixtures.mean(axis=0)
    space = MixtureSpace(table.domains, natural / natural.sum())
    noise = np.nanstd(table.losses, axis=0) * NOISE_SHARE
    if settings.noise is not None:
        noise = np.full(len(table.loss_names), settings.noise)
    pool = emulated = emulator = None
    best: dict[str, int] = {}
    if "pool" in settings.games:
        pool = PoolGame(space, table.mixtures, table.losses, settings.batch, settings.pool_limit)
        playing = {name: target for name, target in targets.items() if len(pool.rows(target)) >= INITIAL + settings.batch}
        if not playing and settings.games == ("pool",):
            _best(table, pool, *next(iter(targets.items())))
        best = {name: _best(table, pool, name, target) for name, target in playing.items()}
    if "emulator" in settings.games:
        watcher.on_stage("fitting the emulator")
        runs = (table.mixtures, table.losses)
        emulator = Emulator.fit(*runs) if cache is None else Emulator.cached(*runs, folder=cache)
        watcher.on_emulator(emulator, noise)
        checkpoints = tuple(sorted({*range(INITIAL, settings.budget + 1, CHECKPOINT), settings.budget}))
        emulated = EmulatorGame(space, emulator, noise, settings.batch, checkpoints, settings.swarm)
    tasks = list(_plan(pool, emulated, targets, settings))
    watcher.on_start(len(tasks))
    played = _play(tasks, settings.seeds, jobs, watcher)
    in_pool, on_emulator, failures = _collect(tasks, played, settings)
    if pool is not None:
        few = f"fewer than {INITIAL + settings.batch} runs have every loss of it"
        failures += [Failure("pool", "every method", name, 0, few) for name in targets if name not in best]
    if not in_pool and not on_emulator:
        raise StudyError(f"{table.name}: no search could be played: {failures[0].why if failures else 'no method was asked for'}")
    return Benchmark(
        table=table,
        targets=targets,
        settings=settings,
        best=best,
        pool=tuple(in_pool),
        emulated=tuple(on_emulator),
        emulator=emulator,
        noise=noise,
        failures=tuple(failures),
        seconds=sum(p.seconds for p in played if isinstance(p, Played)),
    )


def play(task: Task) -> Played:
    """Play one task, in a process of its own or in this one."""
    started = time.perf_counter()
    if isinstance(task.game, EmulatorGame) and task.method in {REGMIX, RANDOM}:
        answers = swarm(task.game, task.targets, task.seed, regmix=task.method == REGMIX)
        return Played(time.perf_counter() - started, answers=answers)
    ((name, target),) = task.targets.items()
    method = make_method(task.method, task.surrogate, task.initial_design, task.seed)
    if isinstance(task.game, PoolGame):
        found = chase(task.game, method, target, task.seed)
        return Played(time.perf_counter() - started, chase=found)
    found_answers = search(task.game, method, target, task.seed)
    return Played(time.perf_counter() - started, answers={name: {task.method: found_answers}})


def make_method(name: str, surrogate: str, initial_design: str, seed: int) -> Method:
    """A rival, or the strategy of that name or file."""
    match name:
        case "random":
            return RandomSwarm()
        case "climb":
            return Climb()
        case "tpe" | "gp-sampler":
            return OptunaSampler(name, seed)
        case _:
            return Searching(name, surrogate, initial_design)


def _best(table: RunTable, pool: PoolGame, name: str, target: Target) -> int:
    rows = pool.rows(target)
    if len(rows) < INITIAL + pool.batch:
        raise ConfigError(
            f"{table.name}: only {len(rows)} runs have every loss of the target {name}; a search in the pool begins with {INITIAL} "
            f"random runs and a batch of {pool.batch}: choose another --target, or --game emulator"
        )
    return int(rows[np.argmin(target(np.nan_to_num(table.losses[rows])))])


def _plan(
    pool: PoolGame | None, emulated: EmulatorGame | None, targets: Mapping[str, Target], settings: Settings
) -> Iterator[Task]:
    """All tasks, seed by seed, so that the first seed tells how long the others will take; the longest of a seed first."""
    searching = [*settings.strategies, *(rival for rival in settings.rivals if rival not in {REGMIX, RANDOM})]
    ours = settings.surrogate, settings.initial_design
    for seed in range(settings.seeds):
        if emulated is not None and (kind := next((r for r in (REGMIX, RANDOM) if r in settings.rivals), None)):
            yield Task(emulated, kind, *ours, targets, seed)
        for game in (pool, emulated):
            if game is None:
                continue
            methods = [*searching, *([RANDOM] if RANDOM in settings.rivals and game is pool else [])]
            for method in methods:
                for name, target in targets.items():
                    if game is pool and len(pool.rows(target)) < INITIAL + settings.batch:
                        continue
                    yield Task(game, method, *ours, {name: target}, seed)


def _play(tasks: list[Task], seeds: int, jobs: int, watcher: Watcher) -> list[Played | Exception]:
    played: dict[int, Played | Exception] = {}
    first, started = len(tasks) // seeds, time.perf_counter()
    with contextlib.closing(compute(play, tasks, jobs)) as computed:
        for i, outcome in computed:
            played[i] = outcome
            watcher.on_search()
            if i < first and all(j in played for j in range(first)):
                spent = sum(p.seconds for j in range(first) if isinstance(p := played[j], Played))
                watcher.on_estimate(max(0.0, spent * seeds / jobs - (time.perf_counter() - started)))
    return [played[i] for i in range(len(tasks))]


def _collect(
    tasks: list[Task], played: list[Played | Exception], settings: Settings
) -> tuple[list[PoolStanding], list[EmulatorStanding], list[Failure]]:
    """Sort what was played by game, target and method, in the order asked for."""
    order = [*settings.strategies, *(rival for rival in RIVALS if rival in settings.rivals)]
    pool: dict[tuple[str, str], PoolStanding] = {}
    emulated: dict[tuple[str, str], EmulatorStanding] = {}
    failures = []
    for task, outcome in zip(tasks, played, strict=True):
        if isinstance(outcome, Exception):
            why = str(outcome) if isinstance(outcome, RegmixActiveError) else f"{type(outcome).__name__}: {outcome}"
            game: Game = "pool" if isinstance(task.game, PoolGame) else "emulator"
            failures += [Failure(game, task.method, target, task.seed, why) for target in task.targets]
            continue
        if outcome.chase is not None:
            (target,) = task.targets
            pool.setdefault((target, task.method), PoolStanding(task.method, target)).chases[task.seed] = outcome.chase
        for target, by_method in outcome.answers.items():
            for method, answers in by_method.items():
                if method in order:
                    emulated.setdefault((target, method), EmulatorStanding(method, target)).answers[task.seed] = answers
    for (target, _), standing in emulated.items():
        if (regmix := emulated.get((target, REGMIX))) is not None:
            standing.reference = {seed: answers[-1].value for seed, answers in regmix.answers.items()}
    keys = [(target, method) for target in dict.fromkeys(t for task in tasks for t in task.targets) for method in order]
    return [pool[key] for key in keys if key in pool], [emulated[key] for key in keys if key in emulated], failures
