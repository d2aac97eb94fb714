"""What every strategy owes the search, examined on searches with known losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.strategies import AcquisitionStrategy, Strategy
from regmix_active.strategies.candidates import RESOLUTION
from regmix_active.study.history import History
from regmix_active.study.target import Target

from .problems import bounded_space, broad_mixtures, global_generators, problem_history, sparse_space
from .report import Check, ConformanceReport, examine

DOMAINS = 17
RUNS = 16
BATCH = 8


def check_strategy(strategy: Strategy, *, seed: int = 0) -> ConformanceReport:
    """Examine a strategy: feasible batches of the right size, seeded, without repetitions, for any number of domains.

    It is asked some thirty times for mixtures of searches with 8 to 24 finished proxies, 2 to 100 domains and three losses.

    Args:
        strategy: What to examine, such as ``MyStrategy()``; cheap options make it faster and hide nothing.
        seed: Of the searches and of the generators that the strategy is handed.

    Returns:
        What was checked and how long it took; print it.

    Raises:
        ConformanceError: If anything is violated, with every violation and its remedy.
        TypeError: If it is not an instance of a strategy.
    """
    __tracebackhide__ = True  # pytest shows the line that called, and the message
    if not isinstance(strategy, Strategy):
        hint = f"; make one: {strategy.__name__}()" if isinstance(strategy, type) else ""
        raise TypeError(f"check_strategy needs an instance of a Strategy, got {strategy!r}{hint}")
    ask = Asking(strategy, seed)
    checks: Mapping[str, Callable[[Check], None]] = {
        "has a name": ask.name,
        "batches of 1, 8 and 64 mixtures": partial(ask.batches, DOMAINS, (1, 8, 64)),
        "2 domains": partial(ask.batches, 2, (BATCH,)),
        "100 domains": partial(ask.batches, 100, (BATCH,)),
        "domains in another order": ask.other_order,
        "8 finished proxies, the least that a search asks with": ask.few_runs,
        "one loss as the target": ask.single_loss,
        "losses that are missing": ask.missing_losses,
        "floors, caps, groups, and few domains at once": ask.constraints,
        "the worst loss as the target": ask.worst_case,
        "limits to other losses": ask.limits,
        "two targets at once": ask.trade_off,
        "mixtures in training and trained ones are not proposed again": ask.known_mixtures,
        "equal arguments, equal answer": ask.reproducible,
        "no randomness but the generator that it is handed": ask.global_randomness,
        "arguments are left as they are": ask.arguments,
    }
    if isinstance(strategy, AcquisitionStrategy):
        checks = {**checks, "chooses from given candidates": ask.selection}
    return examine(str(getattr(strategy, "name", type(strategy).__name__)), checks)


class Asking:
    """The checks: each asks the strategy for mixtures and looks at what comes back."""

    def __init__(self, strategy: Strategy, seed: int) -> None:
        self.strategy, self.seed = strategy, seed

    def name(self, check: Check) -> None:
        """The study records who proposed a trial."""
        name = getattr(self.strategy, "name", None)
        if not (isinstance(name, str) and name):
            check.fault(f'the class has no name (found {name!r}); decorate it: @strategy("my-strategy")')

    def batches(self, d: int, sizes: tuple[int, ...], check: Check) -> None:
        """The right number of feasible, different mixtures."""
        history = problem_history(d, 24 if d > 50 else RUNS, self.seed)
        for n in sizes:
            self._proposed(check, history, n)

    def other_order(self, check: Check) -> None:
        """Nothing depends on which domain comes first."""
        history = problem_history(DOMAINS, RUNS, self.seed)
        order = np.random.default_rng([self.seed, 1]).permutation(DOMAINS)
        space = MixtureSpace(tuple(history.space.domains[i] for i in order), history.space.natural[order])
        self._proposed(check, History(space, history.target, history.mixtures[:, order], history.losses, history.slots), BATCH)

    def few_runs(self, check: Check) -> None:
        """The search asks as soon as this many proxies are finished."""
        self._proposed(check, problem_history(DOMAINS, 8, self.seed), BATCH)

    def single_loss(self, check: Check) -> None:
        """All other losses have weight zero."""
        self._proposed(check, problem_history(DOMAINS, RUNS, self.seed, {"loss-1": 1.0}), BATCH)

    def missing_losses(self, check: Check) -> None:
        """Metrics of the target, and others, that some proxies lack."""
        self._proposed(check, problem_history(DOMAINS, 24, self.seed, missing=True), BATCH)
        self._proposed(check, problem_history(DOMAINS, 24, self.seed, {"loss-0": 1.0}, missing=True), BATCH)
        if check.faults:
            check.note("a missing loss is NaN in history.losses, and so is the target in history.values that needs it")

    def constraints(self, check: Check) -> None:
        """Also where trained mixtures break them, which they may when constraints were added later."""
        broken = np.eye(DOMAINS)[:2]
        for space in (bounded_space(DOMAINS), sparse_space(DOMAINS)):
            self._proposed(check, problem_history(DOMAINS, RUNS, self.seed, extra=broken, space=space), BATCH)

    def worst_case(self, check: Check) -> None:
        """Not linear in the losses, and with references."""
        target = {"weights": "mean", "worst": True, "excess_over": "natural"}
        self._proposed(check, problem_history(DOMAINS, RUNS, self.seed, target), BATCH)

    def limits(self, check: Check) -> None:
        """Some that can be kept, and one that no mixture can."""
        for ceiling in ({"above_natural": 0.01, "probability": 0.9}, {"at_most": 0.1}):
            target = {"weights": {"loss-0": 1.0}, "limits": {"loss-1": ceiling}}
            self._proposed(check, problem_history(DOMAINS, RUNS, self.seed, target), BATCH)

    def trade_off(self, check: Check) -> None:
        """Targets of a trade-off are in history.targets; who looks for one answer only may ignore them."""
        for space in (None, bounded_space(DOMAINS)):
            history = problem_history(DOMAINS, RUNS, self.seed, {"loss-0": 1.0}, space=space)
            worst = {"weights": {"loss-1": 1, "loss-2": 1}, "worst": True, "limits": {"loss-0": {"above_natural": 0.05}}}
            targets = (history.target, Target.parse(worst, history.target.loss_names))
            self._proposed(check, replace(history, targets=targets), BATCH)

    def known_mixtures(self, check: Check) -> None:
        """What is trained or in training teaches nothing the second time: the optimum itself, and what it just proposed."""
        best = np.eye(DOMAINS)[:1]
        history = problem_history(DOMAINS, RUNS, self.seed, {"loss-0": 1.0}, extra=best)
        pending = self._proposed(check, history, BATCH, seed=1)
        if pending is not None:
            space = history.space
            pending = np.concatenate([pending, np.stack([space.uniform, space.natural]), np.eye(DOMAINS)[1:4]])
            self._proposed(check, history, BATCH, pending, seed=2)

    def reproducible(self, check: Check) -> None:
        """A search that was stopped and goes on proposes what the unbroken one would have."""
        history = problem_history(DOMAINS, RUNS, self.seed)
        with global_generators(self.seed):
            first = self._answer(history, BATCH)
        with global_generators(self.seed):
            second = self._answer(history, BATCH)
        if (gap := _gap(first, second)) > 0:
            check.fault(
                f"two calls with equal arguments differ by up to {gap:.2g} in a weight; draw from the generator `rng` that "
                "propose is handed, and keep nothing between calls"
            )
            return
        self._answer(problem_history(5, 12, self.seed + 1), 3)
        with global_generators(self.seed):
            third = self._answer(history, BATCH)
        if (gap := _gap(first, third)) > 0:
            check.fault(
                f"after a call for another search the answer differs by up to {gap:.2g} in a weight; keep nothing between calls: "
                "a search that was stopped and goes on has no earlier ones"
            )
        if _gap(first, self._answer(history, BATCH, seed=1)) == 0:
            check.note("another seed gives the same mixtures: fine, if it is meant to draw nothing")

    def global_randomness(self, check: Check) -> None:
        """Seeds derive from the study's; a global generator would make the search depend on what ran before."""
        history = problem_history(DOMAINS, RUNS, self.seed)
        with global_generators(1) as used:
            first = self._answer(history, BATCH)
        for name in used:
            check.fault(f"the global generator of {name} was used or seeded; draw from the generator `rng` that propose is handed")
        with global_generators(2):
            second = self._answer(history, BATCH)
        if (gap := _gap(first, second)) > 0:
            check.fault(f"another global seed changes the answer by up to {gap:.2g} in a weight; draw from `rng` alone")

    def arguments(self, check: Check) -> None:
        """Later rounds, and the report, read the same arrays."""
        history = problem_history(DOMAINS, RUNS, self.seed)
        pending = broad_mixtures(history.space, 3, self.seed + 1)
        given = {
            "history.mixtures": history.mixtures,
            "history.losses": history.losses,
            "history.slots": history.slots,
            "history.target.weights": history.target.weights,
            "history.space.natural": history.space.natural,
            "pending": pending,
        }
        before = {name: array.copy() for name, array in given.items()}
        self._answer(history, BATCH, pending)
        for name, array in given.items():
            if not np.array_equal(array, before[name]):
                check.fault(f"{name} was changed in place; work on a copy ({name}.copy())")

    def selection(self, check: Check) -> None:
        """Rows of a table of recorded runs."""
        history = problem_history(DOMAINS, RUNS, self.seed)
        candidates = broad_mixtures(history.space, 96, self.seed + 1)
        none = np.empty((0, DOMAINS))
        rows, again = (
            np.asarray(self.strategy.select(history, none, candidates, BATCH, np.random.default_rng(self.seed))) for _ in range(2)
        )
        if rows.shape != (BATCH,) or not np.issubdtype(rows.dtype, np.integer):
            check.fault(f"select returned {rows.dtype} of shape {rows.shape} where {BATCH} row numbers were wanted")
        elif rows.min() < 0 or rows.max() >= len(candidates):
            check.fault(f"select returned rows {rows.min()} to {rows.max()} of {len(candidates)} candidates")
        elif len(set(rows.tolist())) < BATCH:
            check.fault(f"select chose a row twice: {sorted(rows.tolist())}")
        elif not np.array_equal(rows, again):
            check.fault(f"select chose {rows.tolist()}, then {again.tolist()} with equal arguments; draw from `rng` alone")

    def _answer(self, history: History, n: int, pending: Mixtures | None = None, seed: int = 0) -> NDArray[np.float64]:
        """Whatever the strategy proposes, as an array."""
        none = np.empty((0, history.space.dim))
        rng = np.random.default_rng([self.seed, seed])
        answer = self.strategy.propose(history, none if pending is None else pending, n, rng)
        return np.asarray(answer, dtype=np.float64)

    def _proposed(self, check: Check, history: History, n: int, pending: Mixtures | None = None, seed: int = 0) -> Mixtures | None:
        """The strategy's answer, if it is one: `n` feasible mixtures, each new."""
        d = history.space.dim
        answer = self._answer(history, n, pending, seed)
        if answer.shape != (n, d):
            check.fault(f"returned shape {answer.shape} where ({n}, {d}) was wanted: {_batch(n, d)}")
            return None
        try:
            mixtures = history.space.check(answer)
        except ValueError as error:
            check.fault(f"{error} (batch of {_batch(n, d)}); rows that are nearly right: history.space.project(rows)")
            return None
        known = {"trained": history.mixtures, "in training (pending)": np.empty((0, d)) if pending is None else pending}
        seen: dict[bytes, str] = {}
        for what, rows in known.items():
            seen |= {cell: f"the mixture of row {i}, which is {what}, again" for i, cell in enumerate(_cells(rows))}
        for i, cell in enumerate(_cells(mixtures)):
            if cell in seen:
                check.fault(f"mixture {i} of {n} ({d} domains) is {seen[cell]}; weights within {RESOLUTION:g} are the same proxy")
            seen[cell] = f"mixture {i} of the same batch again"
        return mixtures


def _batch(n: int, d: int) -> str:
    return f"{n} mixture{'s' if n > 1 else ''} of {d} domains"


def _cells(mixtures: Mixtures) -> list[bytes]:
    """What two mixtures have in common that are the same proxy."""
    return [row.tobytes() for row in np.rint(mixtures / RESOLUTION).astype(np.int64)]


def _gap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Largest difference between two answers; infinite if their shapes differ."""
    return float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else float("inf")
