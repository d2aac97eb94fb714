"""How far an answer can be trusted.

A posterior that was fitted to the runs by which the answer was chosen is surer of it than it should be: hyperparameters are taken
for granted, and of many mixtures the luckiest was chosen. So the surrogate is fitted again, each time without a group of the runs.
By how much the prediction for the answer changes says how much it hangs on them: the jackknife's variance [1], which knows nothing
of the model. The variance of the answer is the larger one of this and the posterior's, and where the posterior was too sure, all
functions drawn from it are spread by the same factor. Nothing here is fitted to a benchmark. On the emulator of RegMix's runs the
posterior's own nominal 90 % intervals held the truth in 66 of 80 searches, and these in 71 (32, 48 and 64 proxies, three targets).

References:
    [1] Tukey, Bias and Confidence in Not-Quite Large Samples, Annals of Mathematical Statistics 29, 1958; Efron and Stein, The
        Jackknife Estimate of Variance, Annals of Statistics 9, 1981; here with groups of runs left out.
"""

from __future__ import annotations

import copy
import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import t as student

from regmix_active.errors import StudyError
from regmix_active.mixture.space import Mixtures
from regmix_active.recommend.draws import drawn_targets, optima
from regmix_active.recommend.recommendation import Doubt
from regmix_active.strategies.variance_reduction import VarianceReduction
from regmix_active.study.history import History
from regmix_active.study.noise import SeedNoise
from regmix_active.surrogate.belief import TargetModel

Array = NDArray[np.float64]

GROUPS, FEW, MANY = 5, 2, 128
"""Groups of runs that are left out in turn: so many, or few of them with more than so many runs, whose refits take seconds each."""

ENOUGH = 256
"""Runs beyond which nothing is left out: for 13 targets and 512 runs the jackknife was below the posterior each time, and the
posterior's own intervals held the emulator's truth each time."""

WIDEST = 4.0
"""Bound on the factor by which a posterior may be too sure of itself: beyond it a refit without a group failed."""

NEXT_RUNS = 3
"""Runs that are proposed for less doubt."""

CANDIDATES = 1024
"""Mixtures of the pool among which these are chosen."""

APART = 1e-4
"""Total variation below which a candidate is a mixture that was trained already."""


def doubt_of(
    model: TargetModel,
    history: History,
    found: Array,
    pool: Mixtures,
    rng: np.random.Generator,
    *,
    level: float,
    draws: int,
    noise: SeedNoise | None = None,
) -> Doubt:
    """How far the found mixture can be trusted.

    Args:
        model: Fitted to `history`.
        history: What the answer was learnt from, without the offsets of other seeds.
        found: The answer, shape ``(d,)``.
        pool: Mixtures among which better ones may be, feasible, shape ``(q, d)``.
        rng: Source of randomness.
        level: Probability of the intervals.
        draws: Functions drawn from the posterior.
        noise: What a seed does to losses, if it is known.
    """
    space = history.space
    (mean,), (std,) = model.moments(found[None])
    widening = widened(model, history, found, float(std))
    std = widening * float(std)
    half = float(ndtri(0.5 + level / 2)) * std
    drawn = drawn_targets(model, draws, rng, widening)
    best = optima(space, drawn, pool, rng)
    rivals = np.stack([found, space.natural, history.mixtures[history.best]])
    # What the pull adds is no loss: whoever asks which of two mixtures is better means their targets.
    targets = drawn(rivals) - space.penalty(rivals)
    regret = float((drawn(found[None])[:, 0] - best.values).clip(min=0).mean())
    shares = np.quantile(best.mixtures, [0.5 - level / 2, 0.5 + level / 2], axis=0).T
    nearest, slot = nearest_run(history, found)
    runs, left = next_runs(model, history, found, pool)
    return Doubt(
        level=level,
        interval=(float(mean) - half, float(mean) + half),
        fresh=None if noise is None else _fresh(float(mean), std, noise, level),
        weights=shares,
        beats_natural=_beats(targets[:, 0], targets[:, 1]),
        beats_best=_beats(targets[:, 0], targets[:, 2]),
        regret=regret,
        limits=float(model.probability(found[None])[0]),
        nearest=nearest,
        nearest_slot=slot,
        next_runs=runs,
        next_std=left,
        noise=noise,
    )


def widened(model: TargetModel, history: History, found: Array, std: float) -> float:
    """By what factor the posterior is too sure of the answer, at least 1.

    Args:
        model: Fitted to `history`; stays as it is.
        history: Finished proxies.
        found: The answer, shape ``(d,)``.
        std: What the posterior says of it, in the target's unit.
    """
    if len(history) > ENOUGH:
        return 1.0
    groups = _groups(history)
    other = TargetModel(copy.deepcopy(model.surrogate), history.target, history.space)
    whole = float(model.predict(found[None])[0])
    changes = []
    for group in range(int(groups.max()) + 1):
        kept = groups != group
        try:
            changes.append(float(other.fit(history.mixtures[kept], history.losses[kept]).predict(found[None])[0]) - whole)
        except StudyError:  # too few runs without the group
            return 1.0
    if len(changes) < 2:
        return 1.0
    jackknife = math.sqrt((len(changes) - 1) * float(np.var(changes)))
    return min(max(jackknife / max(std, 1e-12), 1.0), WIDEST)


def _groups(history: History) -> NDArray[np.int64]:
    """Group of each run, shape ``(n,)``.

    Runs of one mixture go together, for another seed would give its loss away; neighbours in the study's order, often of one batch,
    go to different groups.
    """
    _, first, of = np.unique(history.mixtures.round(9), axis=0, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[of.reshape(-1)]
    groups: NDArray[np.int64] = place % min(GROUPS if len(first) <= MANY else FEW, len(first))
    return groups


def expected_regret(model: TargetModel, history: History, found: Array, pool: Mixtures, rng: np.random.Generator, n: int) -> float:
    """How much smaller than the found mixture's the target of the best mixture is expected to be, nats per token.

    Args:
        model: Fitted to `history`.
        history: Finished proxies.
        found: The answer, shape ``(d,)``.
        pool: Mixtures among which better ones may be, feasible, shape ``(q, d)``.
        rng: Source of randomness.
        n: Functions drawn from the posterior.
    """
    drawn = drawn_targets(model, n, rng)
    best = optima(history.space, drawn, pool, rng)
    return float((drawn(found[None])[:, 0] - best.values).clip(min=0).mean())


def nearest_run(history: History, found: Array) -> tuple[float, int]:
    """Total variation to the nearest trained mixture, and its slot."""
    distance = np.abs(history.mixtures - found).sum(axis=1) / 2
    row = int(np.argmin(distance))
    return float(distance[row]), int(history.slots[row])


def next_runs(model: TargetModel, history: History, found: Array, pool: Mixtures) -> tuple[Mixtures, float]:
    """The mixtures whose proxies would reduce the doubt about the best region most, shape ``(k, d)``, and what they would leave of
    the found mixture's standard deviation, as a share.

    Args:
        model: Fitted to `history`.
        history: Finished proxies.
        found: The answer, shape ``(d,)``.
        pool: Candidates, feasible, shape ``(q, d)``.
    """
    pool = pool[np.unique(np.linspace(0, len(pool) - 1, min(len(pool), CANDIDATES)).round().astype(np.intp))]
    known = np.concatenate([history.mixtures, history.diverged.reshape(-1, history.space.dim)])
    apart = np.full(len(pool), np.inf)
    for mixture in known:
        np.minimum(apart, np.abs(pool - mixture).sum(axis=1) / 2, out=apart)
    candidates = pool[apart > APART]
    if len(candidates) < NEXT_RUNS:
        return np.empty((0, history.space.dim)), 1.0
    strategy = VarianceReduction(surrogate=model.surrogate)
    pending = history.diverged.reshape(-1, history.space.dim)
    chosen = strategy.choose(model, history, pending, candidates, NEXT_RUNS, np.random.default_rng(0))
    posterior = model.posterior(np.concatenate([found[None], candidates[chosen]]), history.mixtures, pending)
    before = float(posterior.belief.std[0])
    for i in range(len(chosen)):
        posterior.choose(1 + i)
    return candidates[chosen], float(posterior.belief.std[0]) / max(before, 1e-12)


def _beats(found: Array, rival: Array) -> float:
    """Share of draws in which the found mixture has the smaller target; one more draw counts for half, as it may go either way."""
    if np.array_equal(found, rival):
        return 0.5
    return float(((found < rival).sum() + 0.5) / (len(found) + 1))


def _fresh(mean: float, std: float, noise: SeedNoise, level: float) -> tuple[float, float]:
    """Where one more training ends with a seed that is drawn anew, as the study's own was: both seeds have their luck."""
    parts = np.array([std**2, noise.target_std**2, 2 * noise.target_offset**2])
    # Degrees of freedom of a sum of variances (Welch and Satterthwaite).
    dof = parts.sum() ** 2 / (parts[1:] ** 2 / np.array([noise.dof, noise.offset_dof])).sum().clip(min=1e-300)
    half = float(student.ppf(0.5 + level / 2, max(dof, 1.0))) * math.sqrt(float(parts.sum()))
    return mean - half, mean + half
