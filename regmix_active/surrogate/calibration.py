"""Honest doubt: which proxies to leave out of a fit, and what the residuals on them say about the width of intervals.

A surrogate that saw the losses which it is asked about looks surer than it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array

ENOUGH = 128
"""Held-out proxies after which further folds are not worth their time."""

RATIO_SPREAD = 2.0
"""Standard deviation of the logarithm of a ratio of noise to signal variance, a priori."""

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


def likeliest_noise(errors: Array, variances: Array, known: Array, ratios: Array, usual: float) -> tuple[int, float]:
    """Which ratio of noise to signal variance makes held-out errors likeliest, and the signal variance then.

    Few errors say little about it: the ratio's prior has the median `usual` and a standard deviation of :data:`RATIO_SPREAD` in its
    logarithm.

    Args:
        errors: Of the predictions that go with each candidate ratio, shape ``(ratios, h)``.
        variances: Of the observations for signal variance one, with noise by the ratio, shape ``(ratios, h)``.
        known: Variance of noise besides, which does not scale with the signal, shape ``(h,)``.
        ratios: The candidates.
        usual: See above.
    """
    signals = np.maximum((errors**2 / variances).mean(axis=1), 1e-12)
    if known.any():
        # Known noise explains a part of the errors: the signal is what lets all variances fit the errors' size.
        least, most = np.full_like(signals, 1e-12), signals
        for _ in range(50):
            signals = np.sqrt(least * most)
            wide = (errors**2 / (signals[:, None] * variances + known)).mean(axis=1) < 1
            least, most = np.where(wide, least, signals), np.where(wide, signals, most)
    whole = signals[:, None] * variances + known
    likelihood = -0.5 * (errors**2 / whole + np.log(whole)).sum(axis=1)
    prior = -0.5 * (np.log(ratios / usual) / RATIO_SPREAD) ** 2
    best = int(np.argmax(likelihood + prior))
    return best, float(signals[best])


def interval_scale(standardised: Array) -> float:
    """Factor on standard deviations after which a nominal 68 % interval holds 68 % of the held-out losses.

    Few residuals say little about their tails, so that the measured factor is shrunk towards the usual one.

    Args:
        standardised: Residuals over their predicted standard deviations, with a mean square of one, shape ``(h,)``.
    """
    h = len(standardised)
    measured = float(np.clip(np.quantile(np.abs(standardised), ONE_DEVIATION), 0.5, 1.2))
    return float(np.exp((h * np.log(measured) + STRENGTH * np.log(USUAL)) / (h + STRENGTH)))


def err_together(deviations: Array, std: Array, correlation: Array) -> Array:
    """Functions drawn for each loss by itself, made to err together as held-out errors did.

    Each loss's deviation, in standard deviations, becomes a mix of all of them, most of it its own.

    Args:
        deviations: From the mean, in standard deviations, shape ``(s, q, m)``.
        std: Standard deviations, shape ``(q, m)``.
        correlation: Shape ``(m, m)``.
    """
    values, vectors = np.linalg.eigh(correlation)
    mix = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    together: Array = (deviations @ mix) * std
    return together
