"""How good a decision is: searches within constraints on the emulator, their intervals, and answers for another target.

The emulator's own best allowed mixture is what an answer is compared with, and its value at the answer is what an interval should
have covered. A study of random mixtures is then asked for each target in turn, as ``recommend --target`` does, and its answer
compared with that of the search that was made for the target.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from regmix_active.compare.emulator import Emulator
from regmix_active.compare.methods import Searching
from regmix_active.compare.replay import EmulatorGame, search
from regmix_active.config.recommend import RecommendConfig
from regmix_active.errors import ConfigError
from regmix_active.execution.parallel import compute
from regmix_active.mixture.designs import around, regmix_design, spread
from regmix_active.mixture.space import MixtureSpace
from regmix_active.recommend.recommendation import Recommendation
from regmix_active.recommend.simulate import recommend
from regmix_active.study.history import History
from regmix_active.study.target import Target

Array = NDArray[np.float64]

STUDY, BEST, ANSWER = 31, 32, 33
"""What a generator is for, beside the seed."""

DRAWS = 64
"""Functions drawn for an answer's doubt."""


@dataclass(frozen=True, eq=False)
class DecisionTask:
    """One search, or one study that is asked for another target.

    Attributes:
        game: The emulator within the feasible set.
        name: Of the target.
        target: What is minimised.
        seed: Of everything random.
        runs: Proxies of the search, or random ones of the study.
        search: Whether it is a search.
        level: Probability of the intervals.
    """

    game: EmulatorGame
    name: str
    target: Target
    seed: int
    runs: int
    search: bool
    level: float


@dataclass(frozen=True)
class Decided:
    """An answer and the truth about it.

    Attributes:
        value: True target of the answer, nats per token.
        predicted: What the surrogate expected.
        low: Lower end of the interval.
        high: Upper end.
        beats_natural: Predicted probability that the answer beats the natural mixture.
        better: Whether it truly does.
        seconds: That the answer took, fit included, with one thread.
    """

    value: float
    predicted: float
    low: float
    high: float
    beats_natural: float
    better: bool
    seconds: float

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.low <= self.value <= self.high


@dataclass
class DecisionReport:
    """All answers.

    Attributes:
        best: True target of the best allowed mixture by target, nats per token.
        noise: Standard deviation of a training's target by target.
        searches: Answers of searches by target, in the order of the seeds.
        studies: Answers of random studies by target, in the order of the seeds.
        runs: Proxies of a search.
        study_runs: Proxies of a random study.
        level: Probability of the intervals.
        constrained: The natural and the largest allowed share of each domain.
    """

    best: dict[str, float]
    noise: dict[str, float]
    runs: int
    study_runs: int
    level: float
    searches: dict[str, list[Decided]] = field(default_factory=dict)
    studies: dict[str, list[Decided]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For a JSON file."""
        kinds = (("searches", self.searches), ("studies", self.studies))
        answers = {kind: {name: [vars(one) for one in found] for name, found in all_.items()} for kind, all_ in kinds}
        known = {"best": self.best, "noise": self.noise, "runs": self.runs, "study_runs": self.study_runs, "level": self.level}
        return {**known, **answers}


def decisions(
    space: MixtureSpace,
    emulator: Emulator,
    noise: Array,
    targets: Mapping[str, Target],
    *,
    runs: int,
    study_runs: int,
    seeds: int,
    batch: int,
    level: float,
    jobs: int,
    watch: Callable[[str, int], None],
) -> DecisionReport:
    """Play all searches and studies.

    Args:
        space: The feasible set.
        emulator: The truth.
        noise: Standard deviation of one training's losses, shape ``(m,)``, nats per token.
        targets: By name.
        runs: Proxies of a search.
        study_runs: Random proxies of a study that is asked for every target; 0 for none.
        seeds: Searches per target.
        batch: Proxies per round after the initial design.
        level: Probability of the intervals.
        jobs: Processes.
        watch: Told what is done, and how many steps there are.

    Raises:
        ConfigError: If a target is not a weighed sum of losses.
    """
    for name, target in targets.items():
        if target.worst or target.limits:
            raise ConfigError(f"--target {name}: only weighed sums of losses are played")
    watch("looking for the best allowed mixtures", len(targets))
    best = {name: best_allowed(space, emulator, target) for name, target in targets.items()}
    spread_of = {name: float(np.sqrt((noise**2) @ target.weights**2)) for name, target in targets.items()}
    game = EmulatorGame(space, emulator, noise, batch, (runs,), study_runs)
    tasks = [DecisionTask(game, name, target, seed, runs, True, level) for seed in range(seeds) for name, target in targets.items()]
    if study_runs:
        again = range(min(seeds, 3))  # each fits every loss of hundreds of runs
        tasks += [
            DecisionTask(game, name, target, seed, study_runs, False, level) for seed in again for name, target in targets.items()
        ]
    report = DecisionReport(best, spread_of, runs, study_runs, level)
    watch("searching", len(tasks))
    found: dict[int, Decided] = {}
    with contextlib.closing(compute(decide, tasks, jobs)) as results:
        for i, result in results:
            if isinstance(result, Exception):
                raise result
            found[i] = result
            watch("", 1)
    for i, task in enumerate(tasks):
        (report.searches if task.search else report.studies).setdefault(task.name, []).append(found[i])
    return report


def decide(task: DecisionTask) -> Decided:
    """Play one task, in a process of its own or in this one."""
    method = _Deciding(task.level)
    if task.search:
        search(task.game, method, task.target, task.seed)
    else:
        space, game = task.game.space, task.game
        mixtures = regmix_design(space, task.runs, np.random.default_rng([task.seed, STUDY]))
        history = History(space, task.target, mixtures, game.train(mixtures, task.seed, 0), np.arange(task.runs))
        method.recommend(history, np.random.default_rng([task.seed, ANSWER]))
    found = method.answer
    assert found is not None
    assert found.doubt is not None
    value = task.game.truth(found.found.weights, task.target)
    natural = task.game.truth(task.game.space.natural, task.target)
    low, high = found.doubt.interval
    return Decided(value, found.found.mean, low, high, found.doubt.beats_natural, value < natural, method.seconds)


class _Deciding(Searching):
    """The default search, which keeps its last answer whole."""

    def __init__(self, level: float) -> None:
        super().__init__("variance-reduction", "gp", "d-optimal")
        self.level = level
        self.answer: Recommendation | None = None
        self.seconds = 0.0

    def recommend(self, history: History, rng: np.random.Generator) -> Array:
        """As ``regmix-active run`` does, with its doubt."""
        settings, began = RecommendConfig(), time.perf_counter()
        self.answer = recommend(
            history, self.surrogate, settings.simulations, settings.top_k, rng, settings.caution, level=self.level, draws=DRAWS
        )
        self.seconds = time.perf_counter() - began
        return self.answer.found.weights


def best_allowed(space: MixtureSpace, emulator: Emulator, target: Target, size: int = 20_000, rounds: int = 12) -> float:
    """The smallest true target that was found in the feasible set: broad draws, then ever closer around the best of them."""
    rng = np.random.default_rng([0, BEST])
    needed = target.weights > 0
    draws = [space.sample(size, rng), spread(space, size, rng), space.dirichlet(size, 5 * space.natural + 0.05, rng)]
    pool = np.concatenate(draws)
    values = emulator.losses(pool)[:, needed] @ target.weights[needed]
    for _ in range(rounds):
        order = np.argsort(values, kind="stable")[:64]
        pool, values = pool[order], values[order]
        near = around(space, pool, size // 4, rng)
        pool = np.concatenate([pool, near])
        values = np.concatenate([values, emulator.losses(near)[:, needed] @ target.weights[needed]])
    return float(values.min())


def tally(found: Sequence[Decided], best: float) -> tuple[Array, int]:
    """How far answers are above the best allowed mixture, shape ``(s,)``, nats per token, and how many intervals hold the truth."""
    return np.array([one.value - best for one in found]), sum(one.covered for one in found)
