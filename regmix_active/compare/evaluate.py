"""How well surrogates predict finished runs that they were not shown, from how many runs.

Each surrogate is fitted to random subsets of the training runs, the same subsets for all of them, and scored on runs that were
never among them: test runs where there are some, and otherwise the held-out folds of a cross-validation. Nothing is stopped, tuned
or chosen by what is scored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.compare.evaluation import HELD_OUT, Evaluation, FitReport, Prediction, Result, Skip
from regmix_active.compare.scores import observed_target, predicted_target, score
from regmix_active.errors import ConfigError, RegmixActiveError, StudyError
from regmix_active.execution.parallel import compute
from regmix_active.study.table import MEAN, RunTable
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Array
from regmix_active.surrogate.registry import SURROGATES, load_surrogate

SMALLEST = 16
"""Runs of the smallest default training set: RegMix-like searches begin with as many."""


CHUNK = 1024
"""Mixtures predicted at once: a joint posterior of all would hold all their covariances with the training runs."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Problem:
    """What is fitted and predicted: all training runs, the mixtures to predict, and the targets as rows of weights ``(t, m)``."""

    train: RunTable
    mixtures: Array
    targets: tuple[str, ...]
    weights: Array


@dataclass(frozen=True, eq=False)
class Fit:
    """One surrogate on one set of training runs; predicts some of the problem's mixtures."""

    problem: Problem
    surrogate: str
    runs: int
    seed: int
    rows: Rows
    predicts: Rows


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fit said.

    Attributes:
        mean: Expected targets, shape ``(t, q)``, nats per token; NaN where skipped.
        variance: Of observed targets, noise included, shape ``(t, q)``.
        skipped: Why, by target.
        reason: Why the surrogate is what it is, if it says so.
        seconds: Time of the fit.
    """

    mean: Array
    variance: Array
    skipped: dict[str, str]
    reason: str | None
    seconds: float


def evaluate(
    train: RunTable,
    tests: Sequence[RunTable] = (),
    targets: Mapping[str, Target] | None = None,
    surrogates: Sequence[str] = (),
    sizes: Sequence[int] = (),
    seeds: int = 5,
    folds: int = 5,
    jobs: int = 1,
    on_start: Callable[[int, Sequence[str]], None] = lambda total, notes: None,
    on_fit: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Fit every surrogate to training sets of every size and score it.

    Args:
        train: Runs to fit to.
        tests: Runs to score on, each table by itself; none: cross-validation on `train`.
        targets: What is scored, by name; default: the mean of all losses, and each of them.
        surrogates: Names; default: all there are.
        sizes: Numbers of training runs; default: 16, 32, 64, … and all.
        seeds: Random subsets per size, or random partitions into folds.
        folds: Parts of a cross-validation.
        jobs: Processes.
        on_start: Told the number of fits, and what the user should know about the runs.
        on_fit: Called after each of them.

    Raises:
        ConfigError: If the runs do not suffice for what is asked, or test runs do not fit the training runs.
        StudyError: If worker processes cannot start.
    """
    for name in surrogates:
        load_surrogate(name)
    targets = default_targets(train) if targets is None else targets
    aligned = _distinct([table.aligned(train) for table in tests])
    weights = np.stack([target.weights for target in targets.values()])
    mixtures = np.concatenate([table.mixtures for table in aligned]) if aligned else train.mixtures
    problem = Problem(train, mixtures, tuple(targets), weights)
    names = tuple(dict.fromkeys(surrogates)) or tuple(SURROGATES)
    if aligned:
        chosen = _sizes(sizes, len(train), train.name)
        plan = list(_test_plan(problem, names, chosen, seeds))
    else:
        limit = _smallest_training_part(train, folds, seeds)
        chosen = _sizes(sizes, limit, f"{folds}-fold cross-validation on the {len(train)} runs of {train.name}")
        plan = list(_fold_plan(problem, names, chosen, seeds, folds))
    # The slowest fits first, so that no core is left alone with one at the end.
    plan.sort(key=lambda fit: -fit.runs)
    notes = _notes(train, aligned)
    on_start(len(plan), notes)
    cells: dict[tuple[str, int, int], list[tuple[Fit, Fitted | Exception]]] = {
        (name, runs, seed): [] for name in names for runs in chosen for seed in range(seeds)
    }
    with contextlib.closing(compute(fit_and_predict, plan, jobs)) as computed:
        for i, outcome in computed:
            fit = plan[i]
            cells[fit.surrogate, fit.runs, fit.seed].append((fit, outcome))
            on_fit()
    tested = [(table.name, table) for table in aligned] or [(HELD_OUT, train)]
    records = [record for parts in cells.values() if parts for record in _score(problem, tested, parts, last=chosen[-1])]
    return Evaluation(
        train=train,
        tests=tuple(name for name, _ in tested),
        targets=targets,
        surrogates=names,
        sizes=chosen,
        folds=None if aligned else folds,
        notes=notes,
        results=tuple(r for r in records if isinstance(r, Result)),
        skips=tuple(r for r in records if isinstance(r, Skip)),
        fits=tuple(r for r in records if isinstance(r, FitReport)),
        predictions=tuple(r for r in records if isinstance(r, Prediction)),
    )


def default_targets(table: RunTable) -> dict[str, Target]:
    """The mean of all losses, and each of them."""
    specs = ([MEAN] if len(table.loss_names) > 1 else []) + list(table.loss_names)
    return {spec: table.target(spec if spec == MEAN else {spec: 1.0}) for spec in specs}


def fit_and_predict(fit: Fit) -> Fitted:
    """Fit one surrogate to the losses that some target needs and that enough of its runs have, and predict.

    Raises:
        StudyError: If it cannot be fitted to any of them.
    """
    problem, names = fit.problem, fit.problem.train.loss_names
    X, Y = problem.train.mixtures[fit.rows], problem.train.losses[fit.rows]
    surrogate = load_surrogate(fit.surrogate)
    seen = (~np.isnan(Y)).sum(axis=0)
    enough = seen >= surrogate.minimum_runs
    columns = enough & (problem.weights > 0).any(axis=0)
    if not columns.any():
        raise StudyError(f"needs {surrogate.minimum_runs} runs or more of a loss, got {seen.max(initial=0)}")
    started = time.perf_counter()
    surrogate.fit(X, Y[:, columns])
    seconds = time.perf_counter() - started
    mean = np.full((len(problem.targets), len(fit.predicts)), np.nan)
    variance, skipped = mean.copy(), dict[str, str]()
    wanted = []
    for t, (target, weights) in enumerate(zip(problem.targets, problem.weights, strict=True)):
        if lacking := [j for j in np.flatnonzero(weights) if not columns[j]]:
            few = lacking[0]
            skipped[target] = f"needs {surrogate.minimum_runs} runs or more of the loss '{names[few]}', got {seen[few]}"
        else:
            wanted.append((t, weights[columns]))
    for start in range(0, len(fit.predicts), CHUNK):
        part = slice(start, start + CHUNK)
        posterior = surrogate.posterior(problem.mixtures[fit.predicts[part]])
        for t, weights in wanted:
            mean[t, part], variance[t, part] = predicted_target(posterior, weights)
    reason = getattr(surrogate, "reason", None)
    return Fitted(mean, variance, skipped, None if reason is None else str(reason), seconds)


def _test_plan(problem: Problem, names: Sequence[str], sizes: Sequence[int], seeds: int) -> Iterator[Fit]:
    n, predicts = len(problem.train), np.arange(len(problem.mixtures))
    for runs in sizes:
        # All runs are one set: one fit says everything.
        for seed in range(seeds if runs < n else 1):
            rows = np.arange(n) if runs == n else np.random.default_rng(seed).permutation(n)[:runs]
            for surrogate in names:
                yield Fit(problem, surrogate, runs, seed, rows, predicts)


def _fold_plan(problem: Problem, names: Sequence[str], sizes: Sequence[int], seeds: int, folds: int) -> Iterator[Fit]:
    for seed in range(seeds):
        fold_of = _partition(problem.train, folds, seed)
        shuffled = np.random.default_rng([seed, 1]).permutation(len(fold_of))
        for fold in range(folds):
            pool, held_out = shuffled[fold_of[shuffled] != fold], np.flatnonzero(fold_of == fold)
            for runs in sizes:
                for surrogate in names:
                    yield Fit(problem, surrogate, runs, seed, pool[:runs], held_out)


def _partition(train: RunTable, folds: int, seed: int) -> Rows:
    """Fold of each run, shape ``(n,)``; runs of one mixture stay together, or a surrogate would be asked what it was told."""
    _, group = np.unique(train.mixtures.round(9), axis=0, return_inverse=True)
    groups = int(group.max()) + 1
    if groups < folds:
        raise ConfigError(
            f"{train.name}: {groups} different mixtures are too few for {folds} folds; use fewer, or give test runs of their own"
        )
    place: Rows = np.random.default_rng(seed).permutation(groups)
    return place[group] % folds


def _smallest_training_part(train: RunTable, folds: int, seeds: int) -> int:
    sizes = (np.bincount(_partition(train, folds, seed)).max() for seed in range(seeds))
    return len(train) - int(max(sizes))


def _sizes(asked: Sequence[int], limit: int, where: str) -> tuple[int, ...]:
    if not asked:
        powers = [SMALLEST * 2**i for i in range(limit.bit_length())]
        return (*(size for size in powers if size < limit), limit)
    if max(asked) > limit or min(asked) < 2:
        wrong = max(asked) if max(asked) > limit else min(asked)
        raise ConfigError(f"sizes: {wrong} training runs asked for; {where} can train on 2 to {limit}")
    return tuple(sorted(set(asked)))


def _distinct(tables: list[RunTable]) -> list[RunTable]:
    """Tables with different names, so that their scores can be told apart."""
    named: list[RunTable] = []
    for table in tables:
        taken = sum(other.name == table.name or other.name.startswith(f"{table.name} (") for other in named)
        named.append(dataclasses.replace(table, name=f"{table.name} ({taken + 1})") if taken else table)
    return named


def _notes(train: RunTable, tests: Sequence[RunTable]) -> tuple[str, ...]:
    notes = [*train.notes, *(note for table in tests for note in table.notes)]
    known = {row.tobytes() for row in _fingerprints(train)}
    for table in tests:
        if same := sum(row.tobytes() in known for row in _fingerprints(table)):
            notes.append(f"{table.name}: {same} of {len(table)} test runs are training runs too; their scores are no test")
    return tuple(dict.fromkeys(notes))


def _fingerprints(table: RunTable) -> Array:
    return np.ascontiguousarray(np.nan_to_num(np.hstack([table.mixtures, table.losses]), nan=-1.0).round(9))


def _score(
    problem: Problem, tested: Sequence[tuple[str, RunTable]], parts: Sequence[tuple[Fit, Fitted | Exception]], last: int
) -> Iterator[Result | Skip | FitReport | Prediction]:
    """Put the parts of one training set together (one fit, or one per fold) and score them on each table of test runs."""
    surrogate, runs, seed = parts[0][0].surrogate, parts[0][0].runs, parts[0][0].seed
    shape = (len(problem.targets), len(problem.mixtures))
    mean, variance, why = np.full(shape, np.nan), np.full(shape, np.nan), dict[str, str]()
    for fit, outcome in parts:
        if isinstance(outcome, Exception):
            text = str(outcome) if isinstance(outcome, RegmixActiveError) else f"{type(outcome).__name__}: {outcome}"
            why |= dict.fromkeys(problem.targets, text)
            continue
        mean[:, fit.predicts], variance[:, fit.predicts] = outcome.mean, outcome.variance
        why |= outcome.skipped
        yield FitReport(surrogate, runs, seed, outcome.seconds, outcome.reason)
    for target, text in why.items():
        yield Skip(surrogate, runs, seed, target, text)
    start = 0
    for name, table in tested:
        span = slice(start, start + len(table))
        start += len(table)
        for t, (target, weights) in enumerate(zip(problem.targets, problem.weights, strict=True)):
            observed = observed_target(table.losses, weights)
            if target in why:
                continue
            if np.isnan(observed).all():
                yield Skip(surrogate, runs, seed, target, f"no run of {name} has every loss of it")
                continue
            yield Result(surrogate, runs, seed, name, target, score(observed, mean[t, span], variance[t, span]))
            if runs == last and seed == 0:
                yield Prediction(surrogate, runs, name, target, observed, mean[t, span], np.sqrt(variance[t, span]))
