"""Does one proxy setting rank mixtures as another one does? Rank correlations with intervals, from losses that are there already.

A search needs its proxies for one thing: to say which of two mixtures is better for the model that will be trained. The measure is
Spearman's rank correlation [1] between the losses of a setting and those of a larger reference on the same mixtures, with a
percentile bootstrap over the mixtures [2].

References:
    [1] Spearman, The Proof and Measurement of Association between Two Things, American Journal of Psychology 15, 1904.
    [2] Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]

RESAMPLES = 1_000
INTERVAL = 0.9
"""Mass of the bootstrap intervals."""

FEWEST = 4
"""Fewer mixtures than this have no rank correlation worth a number."""


@dataclass(frozen=True)
class Rank:
    """One rank correlation.

    Attributes:
        spearman: Mean over the tested seeds; NaN where there is nothing to rank.
        low: Lower end of its 90 % interval.
        high: Upper end.
        mixtures: How many were ranked.
    """

    spearman: float
    low: float
    high: float
    mixtures: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Measure:
    """What is ranked by: a weighted mean of the losses.

    Attributes:
        name: What to call it.
        weights: Over the losses, shape ``(d,)``.
        bits: Whether the losses are in bits per byte; nats per token otherwise.
    """

    name: str
    weights: Array
    bits: bool = False


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of one setting on all mixtures.

    Attributes:
        nats: Nats per token, shape ``(seeds, mixtures, d)``; NaN for a proxy that failed.
        bits: The same in bits per byte.
    """

    nats: Array
    bits: Array

    def values(self, measure: Measure) -> Array:
        """A measure of every proxy, shape ``(seeds, mixtures)``."""
        return np.asarray((self.bits if measure.bits else self.nats) @ measure.weights)


def rank(tested: Array, reference: Array) -> Rank:
    """Correlate the ranks of the same mixtures by two settings.

    Args:
        tested: Values of every tested seed, shape ``(s, n)``.
        reference: Values of the reference, shape ``(n,)``.

    Returns:
        The mean correlation over the seeds, and an interval from resampled mixtures (and seeds, if there are several).
    """
    s, n = tested.shape
    if n < FEWEST:
        return Rank(math.nan, math.nan, math.nan, n)
    rng = np.random.default_rng(0)
    rows = rng.integers(n, size=(RESAMPLES, n))
    seeds = rng.integers(s, size=(RESAMPLES, s))
    reference_ranks = rankdata(reference[rows], axis=1)
    by_seed = np.stack([_pearson(rankdata(values[rows], axis=1), reference_ranks) for values in tested])  # (s, RESAMPLES)
    drawn = np.take_along_axis(by_seed, seeds.T, axis=0).mean(axis=0)
    whole = _pearson(rankdata(tested, axis=1), rankdata(reference)[None])
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(drawn, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]) if np.isfinite(drawn).any() else (math.nan,) * 2
    return Rank(float(whole.mean()), float(low), float(high), n)


def measures(loss_names: Sequence[str], score_only: Sequence[str]) -> list[Measure]:
    """The mean of all losses in both units, every domain that is only scored, and every single loss.

    A single loss ranks alike in both units: one is the other times a constant of the store.
    """
    d = len(loss_names)
    mean = np.full(d, 1 / d)
    found = [Measure("mean of all losses", mean), Measure("mean of all, bits per byte", mean, bits=True)]
    found += [Measure(f"held-out {name}", np.eye(d)[loss_names.index(name)]) for name in score_only]
    return found + [Measure(name, np.eye(d)[i]) for i, name in enumerate(loss_names)]


def rank_all(
    tested: Losses, reference: Losses, wanted: Sequence[Measure], parts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, Rank]]:
    """Every measure on every part of the mixtures.

    Args:
        tested: Of the setting under test.
        reference: Of the reference; its seeds are averaged.
        wanted: The measures.
        parts: Which mixtures belong to a part, shape ``(n,)`` each.

    Returns:
        ``{measure: {part: rank}}``. Mixtures on which a proxy failed are left out.
    """
    found: dict[str, dict[str, Rank]] = {}
    for measure in wanted:
        ours, theirs = tested.values(measure), reference.values(measure).mean(axis=0)
        known = np.isfinite(ours).all(axis=0) & np.isfinite(theirs)
        found[measure.name] = {part: rank(ours[:, inside & known], theirs[inside & known]) for part, inside in parts.items()}
    return found


def _pearson(a: Array, b: Array) -> Array:
    """Correlation of rows; NaN where one is constant."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))
