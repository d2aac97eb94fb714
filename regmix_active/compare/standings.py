"""How the methods of a benchmark fared: figures of every seed, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from regmix_active.compare.emulator import FAMILY, Emulator
from regmix_active.compare.replay import RANDOM, REGMIX, Answer, Chase
from regmix_active.study.table import RunTable
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Array

RIVALS = (REGMIX, "climb", RANDOM, "tpe", "gp-sampler")
"""What our strategies are compared with: RegMix's one round, CLIMB, the best of a random swarm, two samplers of Optuna's."""

Game = Literal["pool", "emulator"]

RESAMPLES = 2000
INTERVAL = 0.9


@dataclass(frozen=True)
class Settings:
    """How the games are played.

    Attributes:
        games: Which.
        strategies: Ours, by name or ``path/to/file.py:Name``.
        surrogate: Of our strategies.
        initial_design: Of our strategies on the emulator; in the pool everybody begins with random rows.
        rivals: Of :data:`RIVALS`.
        seeds: Searches per method and target.
        batch: Runs per round, after the random ones.
        budget: Runs of a search on the emulator.
        pool_limit: Runs after which a search in the pool is given up.
        swarm: Runs of RegMix's one round.
        noise: Standard deviation of a training around the emulator's truth, nats per token; default: a share of each loss's spread.
    """

    games: tuple[Game, ...] = ("pool", "emulator")
    strategies: tuple[str, ...] = ("variance-reduction",)
    surrogate: str = "gp"
    initial_design: str = "d-optimal"
    rivals: tuple[str, ...] = RIVALS
    seeds: int = 10
    batch: int = 8
    budget: int = 40
    pool_limit: int = 128
    swarm: int = 512
    noise: float | None = None


@dataclass(frozen=True)
class Failure:
    """A search that could not be played, and why."""

    game: Game
    method: str
    target: str
    seed: int
    why: str


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        median: Over the seeds; infinite if half of them or more never got there.
        low: Lower end of the median's bootstrap interval.
        high: Its upper end.
        worst: The largest; smaller is better in all figures.
        seeds: How many.
    """

    median: float
    low: float
    high: float
    worst: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one figure per seed; the interval by resampling seeds, with numbers of its own."""
        known = np.asarray(values, dtype=np.float64)
        drawn = np.random.default_rng(0).integers(len(known), size=(RESAMPLES, len(known)))
        # Quantiles of what may be infinite are picked, not interpolated.
        medians = np.sort(_median(known[drawn]))
        low, high = (medians[round(q * (RESAMPLES - 1))] for q in ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2))
        return cls(float(_median(known[None])[0]), float(low), float(high), float(known.max()), len(known))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, where None stands for what was never reached."""
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}


def _median(rows: Array) -> Array:
    """Medians of rows that may hold infinity; between a number and infinity, infinity."""
    ordered = np.sort(rows, axis=1)
    lower, upper = ordered[:, (rows.shape[1] - 1) // 2], ordered[:, rows.shape[1] // 2]
    return np.where(np.isinf(upper), np.inf, (lower + upper) / 2)


@dataclass
class PoolStanding:
    """One method on one target in the pool: its searches by seed."""

    method: str
    target: str
    chases: dict[int, Chase] = field(default_factory=dict)

    @property
    def needed(self) -> Spread:
        """Runs trained when the round with the pool's best ends."""
        return Spread.of([math.inf if c.needed is None else c.needed for c in self.chases.values()])

    @property
    def found(self) -> Spread:
        """Position of the pool's best among the trained runs."""
        return Spread.of([math.inf if c.found is None else c.found for c in self.chases.values()])

    @property
    def found_in(self) -> int:
        """Seeds in which the best was found."""
        return sum(c.found is not None for c in self.chases.values())

    def regret(self, runs: int) -> Spread:
        """Simple regret after `runs` runs, nats per token."""
        return Spread.of([c.regret[min(runs, len(c.regret)) - 1] for c in self.chases.values()])


@dataclass
class EmulatorStanding:
    """One method on one target on the emulator: its answers by seed, and those of RegMix for the same seeds."""

    method: str
    target: str
    answers: dict[int, list[Answer]] = field(default_factory=dict)
    reference: dict[int, float] = field(default_factory=dict)

    @property
    def checkpoints(self) -> list[int]:
        """Numbers of runs after which it answered."""
        return sorted({answer.runs for answers in self.answers.values() for answer in answers})

    def values(self, runs: int) -> dict[int, float]:
        """True target of the recommended mixture by seed, nats per token."""
        return {seed: a.value for seed, answers in self.answers.items() for a in answers if a.runs == runs}

    def value(self, runs: int) -> Spread:
        """Over the seeds."""
        return Spread.of(list(self.values(runs).values()))

    def differences(self, runs: int) -> dict[int, float]:
        """Value less that of RegMix's one round, by seed; negative is better. Empty without RegMix."""
        return {seed: value - self.reference[seed] for seed, value in self.values(runs).items() if seed in self.reference}

    def difference(self, runs: int) -> Spread | None:
        """Over the seeds; None without RegMix, and for RegMix itself."""
        differences = self.differences(runs)
        return Spread.of(list(differences.values())) if differences and self.method != REGMIX else None

    def wins(self, runs: int) -> int:
        """Seeds in which it is better than RegMix."""
        return sum(difference < 0 for difference in self.differences(runs).values())


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All figures of one table.

    Attributes:
        table: The runs.
        targets: By name.
        settings: How the games were played.
        best: Row of the pool's best run, by target; empty if that game was not played.
        pool: Standings in the pool.
        emulated: Standings on the emulator.
        emulator: None if that game was not played.
        noise: Standard deviation of a training on the emulator, shape ``(m,)``.
        failures: What could not be played.
        seconds: Computing time of all searches together.
    """

    table: RunTable
    targets: Mapping[str, Target]
    settings: Settings
    best: Mapping[str, int]
    pool: tuple[PoolStanding, ...]
    emulated: tuple[EmulatorStanding, ...]
    emulator: Emulator | None
    noise: Array
    failures: tuple[Failure, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Every figure of every seed, ready for JSON: None where there is no number."""
        table = self.table
        return {
            "table": {"name": table.name, "runs": len(table), "domains": list(table.domains), "losses": list(table.loss_names)},
            "notes": list(table.notes),
            "settings": asdict(self.settings),
            "targets": {
                name: {loss: float(w) for loss, w in zip(target.loss_names, target.weights, strict=True) if w}
                for name, target in self.targets.items()
            },
            "pool": [self._pool(standing) for standing in self.pool],
            "emulator": None if self.emulator is None else self._emulator(self.emulator),
            "emulated": [_emulated(standing) for standing in self.emulated],
            "failures": [asdict(failure) for failure in self.failures],
            "seconds": round(self.seconds, 1),
        }

    def _pool(self, standing: PoolStanding) -> dict[str, Any]:
        best, runs = self.best[standing.target], self.table.runs
        value = float(self.targets[standing.target](np.nan_to_num(self.table.losses[best : best + 1]))[0])
        return {
            "method": standing.method,
            "target": standing.target,
            "best_run": runs[best],
            "best_value": value,
            "runs_needed": standing.needed.as_dict(),
            "position": standing.found.as_dict(),
            "found_in": standing.found_in,
            "searches": [
                {
                    "seed": seed,
                    "runs_needed": c.needed,
                    "position": c.found,
                    "regret": [round(r, 6) for r in c.regret],
                    "trained": [runs[row] for row in c.trained],
                }
                for seed, c in sorted(standing.chases.items())
            ],
        }

    def _emulator(self, emulator: Emulator) -> dict[str, Any]:
        names = self.table.loss_names
        return {
            "family": FAMILY,
            "held_out_r2": {n: _number(r2) for n, r2 in zip(names, emulator.held_out_r2, strict=True)},
            "noise": dict(zip(names, self.noise.tolist(), strict=True)),
        }


def _emulated(standing: EmulatorStanding) -> dict[str, Any]:
    def checkpoint(runs: int) -> dict[str, Any]:
        difference = standing.difference(runs)
        return {
            "runs": runs,
            "value": standing.value(runs).as_dict(),
            "difference": None if difference is None else difference.as_dict(),
            "wins": None if difference is None else standing.wins(runs),
        }

    return {
        "method": standing.method,
        "target": standing.target,
        "checkpoints": [checkpoint(runs) for runs in standing.checkpoints],
        "answers": [
            {"seed": seed, **asdict(answer), "difference": standing.differences(answer.runs).get(seed)}
            for seed, answers in sorted(standing.answers.items())
            for answer in answers
        ],
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
