"""What a seed does to losses, from mixtures that were trained with several seeds.

With common random numbers all proxies of a search share initial weights and block order, and so the luck of that seed: another one
moves all their losses by about as much. Losses are laid out in two ways, by mixture and by seed [1]: what a seed adds to all of
them is its offset, what is left is the noise of the single mixture. Offsets are taken from replicates before anything is learnt
from them, so that a mixture's second training tells of its noise and of nothing else.

Surrogates go on estimating noise from what they fit, replicates included. Handing them the estimate of a few replicates as known
noise predicted no better: on the emulator of RegMix's runs, with 4 replicates among 64 runs, held-out errors were 0.345 and 0.345
(mean of 13 losses), 0.558 and 0.547 (Pile-CC), 0.415 and 0.427 (mean of 5) standard deviations, without it and with it.

References:
    [1] Searle, Casella and McCulloch, Variance Components, Wiley 1992, chapter 5: two-way layouts with unequal numbers.
    [2] Smyth, Linear Models and Empirical Bayes Methods for Assessing Differential Expression, Statistical Applications in Genetics
        and Molecular Biology 3, 2004: variances of few degrees of freedom, shrunk towards those of their like.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import polygamma, psi

from regmix_active.study.history import History

Array = NDArray[np.float64]

PRIOR_DOF = 3.0
"""Degrees of freedom that the offsets of all losses lend to the offset of the target, of which there are as few as seeds."""

NOTHING = 1e-12
"""Variance, nats² per token², that is rounding."""


@dataclass(frozen=True)
class SeedNoise:
    """Noise of proxies: of losses in nats per token, of the target in its own unit.

    Attributes:
        offsets: What each seed adds to every loss, less what the study's own seed adds, shape ``(J, m)``; zeros where not known.
        std: Standard deviation of one mixture's loss beside its seed's offset, shape ``(m,)``, losses shrunk towards each other.
        target_std: The same of the target.
        target_offset: Standard deviation of what a seed adds to the target of all mixtures.
        dof: Degrees of freedom of `std`, those lent by other losses included; infinite where all losses are alike.
        offset_dof: Degrees of freedom of `target_offset`.
        mixtures: Number of mixtures that were trained with several seeds.
        seeds: Number of seeds that mixtures share; 1 where every proxy has a seed of its own.
    """

    offsets: Array
    std: Array
    target_std: float
    target_offset: float
    dof: float
    offset_dof: float
    mixtures: int
    seeds: int

    def corrected(self, history: History) -> History:
        """The history as the study's own seed would have shown it: without the offsets of other seeds."""
        return replace(history, losses=history.losses - self.offsets[history.replicates])


def seed_noise(history: History) -> SeedNoise | None:
    """Separate seeds from mixtures; None while fewer than two mixtures were trained with a second seed.

    Args:
        history: With :attr:`History.replicates`; the rows of seed 0 are the study's own.
    """
    rows, mixture = _replicated(history)
    if len(rows) == 0 or int(mixture.max()) < 1:
        return None
    seed = history.replicates[rows]
    count = int(history.replicates.max()) + 1
    values = np.concatenate([history.losses[rows], history.values[rows, None]], axis=1)
    seeds = len(np.unique(seed))
    columns = [_two_way(column, mixture, seed, count) for column in values.T]
    variance = np.array([one.variance for one in columns])
    dof = np.array([one.dof for one in columns])
    if (dof < 1).any() or (seeds == 1 and variance.max() < NOTHING):  # one training, listed twice
        return None
    spread = np.maximum(np.nanvar(history.losses, axis=0), 1e-18)
    shrunk, lent = shrink(variance[:-1] / spread, float(dof.min()))
    common = np.array([one.offset_variance for one in columns])
    weights = _weights(history, rows)
    pooled = float((weights.sum(axis=1) * (weights @ common[:-1])).mean())  # the most that offsets of losses amount to together
    of_losses = float((weights**2 @ (shrunk * spread)).mean())
    own = seeds - 1.0
    return SeedNoise(
        offsets=np.stack([one.offsets for one in columns[:-1]], axis=1),
        std=np.sqrt(shrunk * spread),
        target_std=float(np.sqrt(_lent(variance[-1], dof[-1], of_losses, lent))),
        target_offset=float(np.sqrt((own * common[-1] + PRIOR_DOF * pooled) / (own + PRIOR_DOF))),
        dof=float(dof.min()) + lent,
        offset_dof=own + PRIOR_DOF,
        mixtures=int(mixture.max()) + 1,
        seeds=seeds,
    )


def without_offsets(history: History) -> History:
    """The history for whoever learns from it: :meth:`SeedNoise.corrected`, or itself where there is nothing to correct."""
    noise = seed_noise(history)
    return history if noise is None else noise.corrected(history)


def shrink(variances: Array, dof: float) -> tuple[Array, float]:
    """Variances of few degrees of freedom, shrunk towards each other as far as they are alike [2].

    Args:
        variances: Estimates of like things, shape ``(m,)``.
        dof: Of each of them.

    Returns:
        The shrunk ones, shape ``(m,)``, and the degrees of freedom that each borrows from the others; infinite where their
        differences are no larger than chance makes them.
    """
    if len(variances) < 2:
        return variances, 0.0
    logs = np.log(np.maximum(variances, 1e-18))
    centred = logs - psi(dof / 2) + np.log(dof / 2)
    excess = float(centred.var(ddof=1) - polygamma(1, dof / 2))
    if excess <= polygamma(1, 1e4):
        return np.full_like(variances, np.exp(centred.mean())), np.inf
    half = float(brentq(lambda x: float(polygamma(1, x)) - excess, 1e-8, 1e5))
    centre = float(np.exp(centred.mean() + psi(half) - np.log(half)))
    return (2 * half * centre + dof * variances) / (2 * half + dof), 2 * half


def _weights(history: History, rows: NDArray[np.intp]) -> Array:
    """How the target follows each loss near some mixtures, shape ``(r, m)``: one row where that is the same everywhere."""
    terms = history.target.terms(history.references)
    if terms.linear:
        return terms.scale[None]
    values = np.where(terms.counts, history.losses[rows] * terms.scale - terms.offset, -np.inf)
    largest = np.nan_to_num(values, nan=-np.inf).argmax(axis=1)
    return np.eye(len(terms.scale))[largest] * terms.scale


def _lent(own: float, dof: float, others: float, lent: float) -> float:
    """A variance beside what others of its kind make of it, by their degrees of freedom; those of others count at most as many."""
    lent = min(lent, dof)
    return (dof * own + lent * others) / (dof + lent)


@dataclass(frozen=True)
class _Layout:
    offsets: Array
    variance: float
    offset_variance: float
    dof: int


def _two_way(values: Array, mixture: NDArray[np.int64], seed: NDArray[np.int64], count: int) -> _Layout:
    """Least squares of ``value = mixture + seed``, by offsets from seed 0.

    Args:
        values: Shape ``(n,)``; NaN where missing.
        mixture: Shape ``(n,)``, numbered from 0.
        seed: Shape ``(n,)``.
        count: Number of all seeds.
    """
    seen = ~np.isnan(values)
    y, row, column = values[seen], mixture[seen], seed[seen]
    # Within mixtures, so that only the seeds are left to be fitted.
    member = (row[:, None] == np.arange(int(mixture.max()) + 1)).astype(np.float64)
    member = member[:, member.any(axis=0)]
    share = member / member.sum(axis=0)
    dummy = (column[:, None] == np.arange(1, count)).astype(np.float64)
    inner, target = dummy - member @ (share.T @ dummy), y - member @ (share.T @ y)
    solution, _, rank, _ = np.linalg.lstsq(inner, target, rcond=1e-9)
    dof = len(y) - member.shape[1] - int(rank)
    variance = float(((target - inner @ solution) ** 2).sum() / dof) if dof > 0 else np.nan
    known = (inner**2).sum(axis=0) > 1e-12
    offsets = np.concatenate([[0.0], np.where(known, solution, 0.0)])
    present = np.concatenate([[True], known])
    # Offsets are estimates: their scatter holds the noise of the mixtures that they were read off.
    error = np.diag(np.linalg.pinv(inner.T @ inner))[known].mean() / 2 * variance if known.any() and dof > 0 else 0.0
    between = float(offsets[present].var(ddof=1)) if present.sum() > 1 else 0.0
    return _Layout(offsets, variance, max(between - error, 0.0), dof)


def _replicated(history: History) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Rows of mixtures that were trained with several seeds, one per mixture and seed, and the number of each one's mixture."""
    empty = np.empty(0, dtype=np.intp), np.empty(0, dtype=np.int64)
    own = np.flatnonzero(history.slots >= 0)  # of imported runs the seeds are not known
    if len(own) == 0:
        return empty
    # Without common random numbers every proxy has a seed of its own, and nothing in common with others but its mixture.
    seed = history.replicates[own] if history.replicates.any() else np.arange(len(own))
    _, of = np.unique(history.mixtures[own].round(9), axis=0, return_inverse=True)
    pairs = np.stack([of.reshape(-1), seed], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    rows, of = own[np.sort(first)], of.reshape(-1)[np.sort(first)]
    several = np.bincount(of) > 1
    rows, of = rows[several[of]], of[several[of]]
    return (rows, np.unique(of, return_inverse=True)[1].astype(np.int64)) if len(rows) else empty
