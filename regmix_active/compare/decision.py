"""How good a decision is: searches within constraints on the emulator, their intervals, and answers for another target.

The emulator's own best allowed mixture is what an answer is compared with, and its value at the answer is what an interval should
have covered. A larger study, made for the first target, is then asked for the others, as ``recommend --target`` does, and its
answers are compared with those of the searches that were made for these targets.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from regmix_active.compare.emulator import Emulator
from regmix_active.compare.methods import Searching
from regmix_active.compare.replay import EmulatorGame, search
from regmix_active.config.recommend import RecommendConfig
from regmix_active.errors import ConfigError
from regmix_active.execution.parallel import compute
from regmix_active.mixture.designs import around, spread
from regmix_active.mixture.space import MixtureSpace
from regmix_active.recommend.recommendation import Recommendation
from regmix_active.recommend.simulate import recommend
from regmix_active.study.history import History
from regmix_active.study.target import Target

Array = NDArray[np.float64]

BEST, ANSWER = 32, 33
"""What a generator is for, beside the seed."""

STUDIES = 3
"""Seeds whose study is asked for other targets: each takes as long as many searches."""

STUDY_BATCH = 64
"""Proxies per round of a study."""

DRAWS = 64
"""Functions drawn for an answer's doubt."""


@dataclass(frozen=True, eq=False)
class DecisionTask:
    """A search, and what its study is asked for at the end.

    Attributes:
        game: The emulator within the feasible set.
        made_for: What the search minimises.
        asked: Targets by name.
        seed: Of everything random.
        level: Probability of the intervals.
    """

    game: EmulatorGame
    made_for: Target
    asked: Mapping[str, Target]
    seed: int
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
        runs: Proxies of a search.
        study_runs: Proxies of a study that was made for the first target.
        level: Probability of the intervals.
        searches: Answers of searches by target, in the order of the seeds.
        studies: Answers of such studies by target, in the order of the seeds.
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
        study_runs: Proxies of a study for the first target, which must weigh every loss; it is asked for the others. 0 for none.
        seeds: Searches per target.
        batch: Proxies per round after the initial design.
        level: Probability of the intervals.
        jobs: Processes.
        watch: Told what is done, and how many steps there are.

    Raises:
        ConfigError: If a target is not a weighed sum of losses, or the first one of a study leaves losses out.
    """
    for name, target in targets.items():
        if target.worst or target.limits:
            raise ConfigError(f"--target {name}: only weighed sums of losses are played")
    watch("looking for the best allowed mixtures", len(targets))
    best = {name: best_allowed(space, emulator, target) for name, target in targets.items()}
    spread_of = {name: float(np.sqrt((noise**2) @ target.weights**2)) for name, target in targets.items()}
    game = EmulatorGame(space, emulator, noise, batch, (runs,), 0)
    tasks = [DecisionTask(game, target, {name: target}, seed, level) for seed in range(seeds) for name, target in targets.items()]
    first, *others = targets
    searches = len(tasks)
    if study_runs and others:
        if not (targets[first].weights > 0).all():
            raise ConfigError(f"--target {first}: a study that is asked for other targets must know every loss; name mean first")
        large = EmulatorGame(space, emulator, noise, STUDY_BATCH, (study_runs,), 0)
        asked = {name: targets[name] for name in others}
        tasks += [DecisionTask(large, targets[first], asked, seed, level) for seed in range(min(seeds, STUDIES))]
    report = DecisionReport(best, spread_of, runs, study_runs, level)
    watch("searching", len(tasks))
    found: dict[int, dict[str, Decided]] = {}
    with contextlib.closing(compute(decide, tasks, jobs)) as results:
        for i, result in results:
            if isinstance(result, Exception):
                raise result
            found[i] = result
            watch("", 1)
    for i in range(len(tasks)):
        for name, answer in found[i].items():
            (report.searches if i < searches else report.studies).setdefault(name, []).append(answer)
    return report


def decide(task: DecisionTask) -> dict[str, Decided]:
    """Play one task, in a process of its own or in this one; answers by target."""
    method, game = _Deciding(task.level), task.game
    search(game, method, task.made_for, task.seed)
    answers = {}
    for i, (name, target) in enumerate(task.asked.items()):
        if target is not task.made_for:
            history = replace(method.history, target=target, targets=())
            method.recommend(history, np.random.default_rng([task.seed, ANSWER, i]))
        found = method.answer
        assert found.doubt is not None
        value, natural = (game.truth(weights, target) for weights in (found.found.weights, game.space.natural))
        low, high = found.doubt.interval
        answers[name] = Decided(value, found.found.mean, low, high, found.doubt.beats_natural, value < natural, method.seconds)
    return answers


class _Deciding(Searching):
    """The default search, which keeps its last answer whole."""

    def __init__(self, level: float) -> None:
        super().__init__("variance-reduction", "gp", "d-optimal")
        self.level = level
        self.answer: Recommendation
        self.history: History
        self.seconds = 0.0

    def recommend(self, history: History, rng: np.random.Generator) -> Array:
        """As ``regmix-active run`` does, with its doubt."""
        settings, began, self.history = RecommendConfig(), time.perf_counter(), history
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
