"""How far an answer can be trusted.

A posterior that was fitted to the runs by which the answer was chosen is surer of it than it should be: hyperparameters are taken
for granted, and of many mixtures the luckiest was chosen. So the surrogate is fitted again, each time without a group of the runs.
By how much the prediction for the answer changes says how much it hangs on them: the jackknife's variance [1], which knows nothing
of the model. The variance of the answer is the larger one of this and the posterior's; where the posterior was too sure, so are its
odds that the answer beats another mixture. What might be the best mixture instead is told by functions drawn from the posterior as
it is: a factor that was found at the answer would let them roam where nothing was trained. Nothing here is fitted to a benchmark:
``regmix-active benchmark decision`` counts how many intervals hold the truth.

References:
    [1] Tukey, Bias and Confidence in Not-Quite Large Samples, Annals of Mathematical Statistics 29, 1958; Efron and Stein, The
        Jackknife Estimate of Variance, Annals of Statistics 9, 1981; here with groups of runs left out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import t as student

from regmix_active.mixture.space import Mixtures
from regmix_active.recommend.draws import Draws, Optima
from regmix_active.recommend.left_out import LeftOut
from regmix_active.recommend.recommendation import Doubt
from regmix_active.strategies.variance_reduction import VarianceReduction
from regmix_active.study.history import History
from regmix_active.study.noise import SeedNoise
from regmix_active.surrogate.belief import TargetModel

Array = NDArray[np.float64]

WIDEST = 4.0
"""Bound on the factor by which a posterior may be too sure of itself: beyond it a refit without a group failed."""

NEXT_RUNS = 3
"""Runs that are proposed for less doubt."""

CANDIDATES = 1024
"""Mixtures of the pool among which these are chosen."""

TIE = 1e-9
"""Differences of targets that are rounding: a mixture that is compared with itself is better with probability one half."""

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
    refits: LeftOut,
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
        refits: The surrogate fitted without groups of the runs.
        noise: What a seed does to losses, if it is known.
    """
    space = history.space
    (mean,), (std,) = model.moments(found[None])
    widening = widened(refits, found, float(std))
    std = widening * float(std)
    half = float(ndtri(0.5 + level / 2)) * std
    drawn = Draws(model, draws, rng)
    best = drawn.optima(space, pool, rng)
    rivals = np.stack([found, space.natural, history.mixtures[history.best]])
    expected = model.predict(rivals)
    # What the pull adds is no loss: whoever asks which of two mixtures is better means their targets.
    targets = expected + widening * (drawn.targets(rivals) - expected) - space.penalty(rivals)
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
        regret=_regret(drawn, found, best),
        limits=float(model.probability(found[None])[0]),
        nearest=nearest,
        nearest_slot=slot,
        next_runs=runs,
        next_std=left,
        noise=noise,
    )


def widened(refits: LeftOut, found: Array, std: float) -> float:
    """By what factor the posterior is too sure of the answer, at least 1.

    Args:
        refits: Of the surrogate.
        found: The answer, shape ``(d,)``.
        std: What the posterior says of it, in the target's unit.
    """
    return min(max(float(refits.std(found[None])[0]) / max(std, 1e-12), 1.0), WIDEST)


def expected_regret(model: TargetModel, history: History, found: Array, pool: Mixtures, rng: np.random.Generator, n: int) -> float:
    """How much smaller than the found mixture's the target of the best mixture is expected to be, in the target's unit.

    Args:
        model: Fitted to `history`.
        history: Finished proxies.
        found: The answer, shape ``(d,)``.
        pool: Mixtures among which better ones may be, feasible, shape ``(q, d)``.
        rng: Source of randomness.
        n: Functions drawn from the posterior.
    """
    drawn = Draws(model, n, rng)
    return _regret(drawn, found, drawn.optima(history.space, pool, rng))


def _regret(drawn: Draws, found: Array, best: Optima) -> float:
    """Mean over draws; where a draw lets the found mixture break a limit, its target counts, not the breach."""
    return float((drawn.targets(found[None])[:, 0] - best.targets).clip(min=0).mean())


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
    """Share of draws in which the found mixture has the smaller target; ties count half, as does one more draw."""
    wins, ties = found < rival - TIE, np.abs(found - rival) <= TIE
    return float((wins.sum() + ties.sum() / 2 + 0.5) / (len(found) + 1))


def _fresh(mean: float, std: float, noise: SeedNoise, level: float) -> tuple[float, float]:
    """Where one more training ends with a seed that is drawn anew, as the study's own was: both seeds have their luck."""
    parts = np.array([std**2, noise.target_std**2, 2 * noise.target_offset**2])
    # Degrees of freedom of a sum of variances (Welch and Satterthwaite).
    dof = parts.sum() ** 2 / (parts[1:] ** 2 / np.array([noise.dof, noise.offset_dof])).sum().clip(min=1e-300)
    half = float(student.ppf(0.5 + level / 2, max(dof, 1.0))) * math.sqrt(float(parts.sum()))
    return mean - half, mean + half
