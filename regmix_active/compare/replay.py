"""Two games on recorded runs.

*In the pool*, the runs are all there is: a method trains random rows, then rows of its choice, and its figure is the number of runs
until the best of the pool is among them. *On the emulator*, every mixture can be trained; the figure is the true target of the
mixture that a method recommends, which it need not have trained.

Whatever is random follows from the seed: the methods of one seed begin with the same mixtures, unless a method has an initial
design of its own, and the run in one slot has the same noise in all of them. So differences between methods are paired by seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.compare.emulator import Emulator
from regmix_active.compare.methods import Method
from regmix_active.compare.rivals import regmix_answers
from regmix_active.mixture.designs import regmix_design
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Array

INITIAL = 16
"""Mixtures that every search trains before any loss is known."""

REGMIX, RANDOM = "regmix", "random"
"""What the two ways to answer after one random swarm are called."""

FIRST, SWARM, TRAIN, CHOOSE, ANSWER, SIMULATE = range(6)
"""What a stream of random numbers is for."""


@dataclass(frozen=True, eq=False)
class PoolGame:
    """Recorded runs as the only mixtures.

    Attributes:
        space: The feasible set.
        mixtures: Shape ``(n, d)``.
        losses: Shape ``(n, m)``, columns as the targets' names.
        batch: Runs per round.
        limit: A search ends unsuccessful after so many runs.
    """

    space: MixtureSpace
    mixtures: Mixtures
    losses: Array
    batch: int
    limit: int

    def rows(self, target: Target) -> NDArray[np.intp]:
        """The rows that take part: those with every loss that the target weighs."""
        return np.flatnonzero(~np.isnan(self.losses[:, target.weights > 0]).any(axis=1))


@dataclass(frozen=True)
class Chase:
    """How a method fared in the pool.

    Attributes:
        trained: Rows of the table in the order in which they were trained.
        found: Position of the best row among them, counted from 1: runs needed if results came one by one. None: not found.
        needed: Runs trained when the round with the best row ends; None: not found.
        regret: Best trained target less the pool's best after each run, nats per token.
    """

    trained: list[int]
    found: int | None
    needed: int | None
    regret: list[float]


def chase(game: PoolGame, method: Method, target: Target, seed: int) -> Chase:
    """Train rows of the pool until the one with the smallest target is among them."""
    rows = game.rows(target)
    view = _View(game.space, target)
    mixtures, losses = game.mixtures[rows], view.losses(game.losses[rows])
    values = view.target(losses)
    best, limit = int(np.argmin(values)), min(game.limit, len(rows))
    first = np.random.default_rng([seed, FIRST]).permutation(len(rows))[: min(INITIAL, limit)]
    trained: list[int] = first.tolist()
    while best not in trained and len(trained) < limit:
        history = view.history(mixtures[trained], losses[trained])
        left = np.setdiff1d(np.arange(len(rows)), trained)
        n = min(game.batch, limit - len(trained))
        trained += left[method.select(history, mixtures[left], n, np.random.default_rng([seed, CHOOSE, len(trained)]))].tolist()
    found = trained.index(best) + 1 if best in trained else None
    regret = np.minimum.accumulate(values[trained]) - values[best]
    return Chase(rows[trained].tolist(), found, None if found is None else len(trained), regret.tolist())


@dataclass(frozen=True, eq=False)
class EmulatorGame:
    """Any mixture can be trained, by asking the emulator.

    Attributes:
        space: The feasible set.
        emulator: Its losses are the truth; columns as the targets' names.
        noise: Standard deviation of one training's losses around the truth, shape ``(m,)``.
        batch: Runs per round.
        checkpoints: Numbers of runs after which a method recommends, ascending.
        swarm: Runs of RegMix's one round.
    """

    space: MixtureSpace
    emulator: Emulator
    noise: Array
    batch: int
    checkpoints: tuple[int, ...]
    swarm: int

    def random_mixtures(self, seed: int, n: int) -> Mixtures:
        """The first `n` mixtures of a seed's random swarm, shape ``(n, d)``; all rivals begin with its first ones."""
        first = regmix_design(self.space, INITIAL, np.random.default_rng([seed, FIRST]))
        if n <= INITIAL:
            return first[:n]
        size = max(n, self.swarm) - INITIAL
        rest = regmix_design(self.space, size, np.random.default_rng([seed, SWARM]))
        return np.concatenate([first, rest])[:n]

    def train(self, mixtures: Mixtures, seed: int, first: int) -> Array:
        """What training `mixtures` ``(n, d)`` in the slots from `first` on shows, shape ``(n, m)``."""
        slots = range(first, first + len(mixtures))
        draws = [np.random.default_rng([seed, TRAIN, slot]).standard_normal(len(self.noise)) for slot in slots]
        return self.emulator.losses(mixtures) + self.noise * np.stack(draws)

    def truth(self, weights: Array, target: Target) -> float:
        """The target that a mixture ``(d,)`` truly has, nats per token."""
        return float(target(self.emulator.losses(weights[None]))[0])


@dataclass(frozen=True)
class Answer:
    """What a method recommends after some runs.

    Attributes:
        runs: How many.
        value: The true target of the recommended mixture, nats per token.
        weights: The mixture.
    """

    runs: int
    value: float
    weights: list[float]


def search(game: EmulatorGame, method: Method, target: Target, seed: int) -> list[Answer]:
    """Play a search to the last checkpoint; the answers at all of them.

    A method that plans its budget plays a search per checkpoint, and one with the budget of its authors.
    """
    if not method.plans_budget:
        return list(_answers(game, method, target, seed, game.checkpoints))
    budgets = [*game.checkpoints, *method.published_budgets]
    return [answer for budget in budgets for answer in _answers(game, method, target, seed, (budget,))]


def _answers(game: EmulatorGame, method: Method, target: Target, seed: int, checkpoints: Sequence[int]) -> Iterator[Answer]:
    view = _View(game.space, target)
    mixtures, losses = np.empty((0, game.space.dim)), np.empty((0, len(target.weights)))
    previous = 0
    for checkpoint in checkpoints:
        for size in _rounds(game, method, previous, checkpoint):
            n = len(mixtures)
            if n == 0:
                begun = method.begin(game.space, size, np.random.default_rng([seed, FIRST]))
                chosen = game.random_mixtures(seed, size) if begun is None else begun
            else:
                history = view.history(mixtures, view.losses(losses))
                chosen = game.space.check(method.propose(history, size, np.random.default_rng([seed, CHOOSE, n])))
            losses = np.concatenate([losses, game.train(chosen, seed, n)])
            mixtures = np.concatenate([mixtures, chosen])
        previous = checkpoint
        history = view.history(mixtures, view.losses(losses))
        weights = method.recommend(history, np.random.default_rng([seed, ANSWER, checkpoint]))
        yield Answer(checkpoint, game.truth(weights, target), weights.tolist())


def _rounds(game: EmulatorGame, method: Method, done: int, until: int) -> list[int]:
    if done == 0:
        return method.rounds(INITIAL, game.batch, until)
    return [min(game.batch, until - start) for start in range(done, until, game.batch)]


def swarm(game: EmulatorGame, targets: Mapping[str, Target], seed: int, *, regmix: bool) -> dict[str, dict[str, list[Answer]]]:
    """RegMix's one round of random mixtures: its own answer, and the best trained one after every checkpoint and at the end.

    One regression per loss serves all targets.

    Returns:
        Answers by target and by method, :data:`REGMIX` and :data:`RANDOM`.
    """
    mixtures = game.random_mixtures(seed, game.swarm)
    losses = game.train(mixtures, seed, 0)
    answers: dict[str, dict[str, list[Answer]]] = {}
    for name, target in targets.items():
        values = target(losses)
        ends = sorted({*(runs for runs in game.checkpoints if runs <= game.swarm), game.swarm})
        best = [mixtures[np.argmin(values[:end])] for end in ends]
        found = [Answer(end, game.truth(row, target), row.tolist()) for end, row in zip(ends, best, strict=True)]
        answers[name] = {RANDOM: found}
    if regmix:
        weights = np.stack([target.weights for target in targets.values()])
        needed = (weights > 0).any(axis=0)
        rng = np.random.default_rng([seed, SIMULATE])
        rows = regmix_answers(game.space, mixtures, losses[:, needed], weights[:, needed], rng)
        for (name, target), row in zip(targets.items(), rows, strict=True):
            answers[name][REGMIX] = [Answer(game.swarm, game.truth(row, target), row.tolist())]
    return answers


@dataclass(frozen=True)
class _View:
    """What methods see: the losses that the target weighs, and no others, which would cost time only."""

    space: MixtureSpace
    full: Target

    @property
    def target(self) -> Target:
        needed = self.full.weights > 0
        names = tuple(name for name, n in zip(self.full.loss_names, needed, strict=True) if n)
        return dataclasses.replace(self.full, loss_names=names, weights=self.full.weights[needed])

    def losses(self, losses: Array) -> Array:
        """Of all columns those that count."""
        return losses[:, self.full.weights > 0]

    def history(self, mixtures: Mixtures, losses: Array) -> History:
        """As a study of these runs would have it."""
        return History(self.space, self.target, mixtures, losses, np.arange(len(mixtures)))
