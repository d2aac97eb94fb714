"""How much of the difference between two mixtures is the seed's doing?

A proxy's target is ``y[m, s] = mu[m] + a[s] + e[m, s]``: what the mixture m is worth, what the seed s adds to every mixture alike,
and the rest. With a seed of its own for every proxy, two mixtures differ by chance with variance ``2 (var(a) + var(e))``. With
common random numbers the offset a[s] is the same for both and cancels: ``2 var(e)`` is left. So the noise of a target is

* own seeds: ``sum (y - row mean)^2 / (M (S - 1))``, the variance within mixtures;
* common seeds: ``sum (y - row mean - column mean + mean)^2 / ((M - 1) (S - 1))``, the residual variance of the two-way table [1].

Their ratio is the share of trainings that are needed for the same precision.

References:
    [1] Scheffé, The Analysis of Variance, 1959, chapter 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from regmix_active.compare.proxy_ranks import INTERVAL, Array
from regmix_active.proxy.blocks import Draws

RESAMPLES = 2_000


@dataclass(frozen=True)
class Way:
    """A way to draw random numbers.

    Attributes:
        common: Whether all mixtures share a seed's initial weights and block order.
        draws: How blocks draw their domains.
    """

    common: bool
    draws: Draws

    def __str__(self) -> str:
        return f"{'common' if self.common else 'own'} seeds, {self.draws} draws"


OURS, PLAIN = Way(True, "low-discrepancy"), Way(False, "independent")
"""The defaults, and what a training loop does that nobody thought about."""

WAYS = (OURS, Way(True, "independent"), Way(False, "low-discrepancy"), PLAIN)


@dataclass(frozen=True)
class Noise:
    """Noise of the target in one way of drawing.

    Attributes:
        variance: Of a mixture's target between trainings, after a common offset is removed, nats² per token².
        ratio: That, over the same of :data:`PLAIN`.
        low: Lower end of the ratio's 90 % bootstrap interval.
        high: Upper end.
    """

    variance: float
    ratio: float
    low: float
    high: float

    @property
    def std(self) -> float:
        """Standard deviation, nats per token."""
        return math.sqrt(self.variance)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"variance": self.variance, "std": self.std, "ratio": self.ratio, "low": self.low, "high": self.high}


def squared_residuals(values: Array, common: bool) -> Array:
    """Squares whose mean is the unbiased noise variance; see the module's formulas.

    Args:
        values: Targets, shape ``(mixtures, seeds)``, at least two of each.
        common: Whether a column's proxies share a seed.

    Returns:
        Shape ``(mixtures, seeds)``.
    """
    m, s = values.shape
    residuals = values - values.mean(axis=1, keepdims=True)
    scale = s / (s - 1)
    if common:
        residuals = residuals - residuals.mean(axis=0, keepdims=True)
        scale *= m / (m - 1)
    return np.asarray(residuals**2 * scale)


def seed_noise(values: Mapping[Way, Array]) -> dict[Way, Noise]:
    """Noise of every way, and its ratio to the plain one.

    The bootstrap draws mixtures and seeds again from the squared residuals, not from the targets: a mixture drawn twice would
    otherwise look like two that differ by nothing. A common seed's column is drawn for all mixtures at once.

    Args:
        values: Targets, shape ``(mixtures, seeds)`` for each way; :data:`PLAIN` is among them.
    """
    rng = np.random.default_rng(0)
    squares = {way: squared_residuals(table, way.common) for way, table in values.items()}
    m, s = squares[PLAIN].shape
    rows = rng.integers(m, size=(RESAMPLES, m, 1))
    drawn = {}
    for way, table in squares.items():
        columns = rng.integers(s, size=(RESAMPLES, 1 if way.common else m, s))
        drawn[way] = table[rows, columns].mean(axis=(1, 2))
    base = squares[PLAIN].mean()
    found = {}
    for way, table in squares.items():
        low, high = (1.0, 1.0) if way == PLAIN else np.quantile(drawn[way] / drawn[PLAIN], [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
        found[way] = Noise(float(table.mean()), float(table.mean() / base), float(low), float(high))
    return found
