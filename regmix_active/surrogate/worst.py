"""The largest of correlated Gaussians: its moments, and how they follow those of its parts.

Worst-case targets are the largest of several losses. Fixed quasi-random draws stand for the belief: they take any correlation and
any number of losses, always give the same answer [2], and their mean has exact derivatives [1].

References:
    [1] Balandat et al., BoTorch, NeurIPS 2020: sample averages with common base samples are deterministic and differentiable.
    [2] Owen, Scrambled Net Variance for Integrals of Smooth Functions, Annals of Statistics 25, 1997.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from regmix_active.study.terms import Terms
from regmix_active.surrogate.base import Array
from regmix_active.surrogate.residuals import square_root

PAIRS = 128
"""Pairs of a draw and its mirror image."""

HELD = 2**22
"""Numbers held at once."""


@dataclass(frozen=True)
class Worst:
    """Moments of the largest term at q mixtures, with their derivatives by the means and standard deviations of m losses.

    Attributes:
        mean: Shape ``(q,)``.
        std: Shape ``(q,)``.
        weights: Derivative of the mean by the losses' means, shape ``(q, m)``: how likely each is the largest term, times its
            scale. Near a mixture the target is this weighed sum of losses.
        mean_by_std: Derivative of the mean by the losses' standard deviations, shape ``(q, m)``.
        variance_by_mean: Of the variance by their means, shape ``(q, m)``.
        variance_by_std: Of the variance by their standard deviations, shape ``(q, m)``.
    """

    mean: Array
    std: Array
    weights: Array
    mean_by_std: Array
    variance_by_mean: Array
    variance_by_std: Array


def worst(mean: Array, std: Array, correlation: Array, terms: Terms) -> Worst:
    """The largest term of Gaussian losses.

    Args:
        mean: Of the losses, shape ``(q, m)``.
        std: Their standard deviations, shape ``(q, m)``.
        correlation: Between losses, shape ``(m, m)``.
        terms: Scales and offsets.
    """
    counts = np.flatnonzero(terms.scale > 0)
    scale, offset = terms.scale[counts], terms.offset[counts]
    draws = _draws(len(counts)) @ square_root(correlation[np.ix_(counts, counts)]).T
    # A loss that is always the largest has its own moments exactly: mirror images have mean zero, and these variance one.
    draws /= np.maximum(draws.std(axis=0), 1e-300)
    q, m = mean.shape
    moments, slopes = np.empty((2, q)), np.zeros((4, q, m))
    step = max(1, HELD // draws.size)
    for start in range(0, q, step):
        rows = slice(start, start + step)
        values = (mean[rows, counts] * scale - offset)[:, None] + (std[rows, counts] * scale)[:, None] * draws
        largest, which = values.max(axis=2), values.argmax(axis=2)
        moments[:, rows] = largest.mean(axis=1), largest.std(axis=1)
        centred = 2 * (largest - moments[0, rows, None])
        for k, j in enumerate(counts):
            here = which == k
            moved = here * draws[:, k]
            parts = here, moved, here * centred, moved * centred
            slopes[:, rows, j] = [part.mean(axis=1) * scale[k] for part in parts]
    return Worst(moments[0], moments[1], *slopes)


@functools.lru_cache(maxsize=16)
def _draws(m: int) -> Array:
    """Independent standard normal draws in mirrored pairs, shape ``(s, m)``."""
    uniform = qmc.Sobol(m, scramble=True, rng=0).random(PAIRS)
    half = ndtri(np.clip(uniform, 1e-9, 1 - 1e-9))
    both: Array = np.concatenate([half, -half])
    both.setflags(write=False)
    return both
