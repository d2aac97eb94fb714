"""Honest doubt: which proxies to leave out of a fit, and what the residuals on them say about the width of intervals.

A surrogate that saw the losses which it is asked about looks surer than it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array

ENOUGH = 128
"""Held-out proxies after which further folds are not worth their time."""

ONE_DEVIATION = 0.6827
"""Share of a normal distribution within one standard deviation of its mean."""

USUAL, STRENGTH = 0.9, 32
"""Where residuals of unit mean square usually have that share (their tails are heavier than a normal distribution's), and as how
many residuals this counts."""


def held_out_folds(mixtures: Array) -> list[NDArray[np.bool_]]:
    """Which proxies to leave out, one mask of shape ``(n,)`` per fold: an eighth of few proxies at a time, a fifth of many.

    Proxies of one mixture are left out together, or another seed of it would give its loss away. Neighbours in the study's order,
    often of one batch, go to different folds. With very many proxies some folds stand for all.
    """
    n = len(mixtures)
    _, first, of = np.unique(mixtures, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))[of.reshape(-1)]
    count = min(8 if n < 32 else 5, len(first))
    if count < 2:
        order, count = np.arange(n), 2
    used = max(2, int(np.ceil(count * min(1.0, ENOUGH / n))))
    return [order % count == fold for fold in range(used)]


def interval_scale(standardised: Array) -> float:
    """Factor on standard deviations after which a nominal 68 % interval holds 68 % of the held-out losses.

    Few residuals say little about their tails, so that the measured factor is shrunk towards the usual one.

    Args:
        standardised: Residuals over their predicted standard deviations, with a mean square of one, shape ``(h,)``.
    """
    h = len(standardised)
    measured = float(np.clip(np.quantile(np.abs(standardised), ONE_DEVIATION), 0.5, 1.2))
    return float((measured**h * USUAL**STRENGTH) ** (1 / (h + STRENGTH)))
