"""Which mixing law for which loss: its number of terms, how much the prior counts, and its doubt, all by held-out proxies.

Shapes: m losses, n proxies, d domains, p parameters of a law; see :mod:`~regmix_active.surrogate.mixing_law`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array
from regmix_active.surrogate.calibration import held_out_folds, interval_scale, likeliest_noise
from regmix_active.surrogate.mixing_law import covariance_root, fit_laws, jacobian, law, parameters_of, starts

NOISES = np.array([0.01, 0.04, 0.16, 0.6, 2.5, 10.0])
"""Candidate standard deviations of the errors, in those of the losses: the larger, the more the prior counts."""

STARTS = 3
"""Of each fit to all proxies; the fits without a fold start where that found its best."""

RUNS_PER_PARAMETER = 2
"""A second term is tried from so many proxies per parameter on."""

RATIOS = np.geomspace(0.1, 10.0, 7)
"""Candidate ratios of noise to the law's usual variance. What the law cannot follow is a bit of both."""

UNRESOLVED = 0.1
"""Share of a loss's variance that the law typically leaves: known noise far below it does not make proxies count differently."""

OUTLYING = 6.0
"""Standard deviations beyond which the size of a held-out error is ignored: one outlier is no reason to doubt everything."""


@dataclass(frozen=True)
class Part:
    """A law that is believed in part.

    Attributes:
        share: How far.
        parameters: Shape ``(p,)``.
        root: Root of their covariance, shape ``(p, p)``.
    """

    share: float
    parameters: Array
    root: Array


@dataclass(frozen=True)
class Choice:
    """What is believed about one loss, in units of its law.

    Attributes:
        parts: Laws, one per number of terms, whose weighed mean it is.
        noise: Variance of the noise and of what the laws cannot follow.
        errors: Held-out errors over their predicted standard deviations, shape ``(n,)``; NaN where a proxy was not left out.
    """

    parts: tuple[Part, ...]
    noise: float
    errors: Array


@dataclass(frozen=True)
class Candidate:
    """A law fitted to all proxies with one loss, and without each fold of them.

    Attributes:
        loss: Index of the loss.
        noise: Standard deviation of the errors that it was fitted with.
        parameters: Shape ``(1 + folds, p)``; those fitted to all proxies come first.
        weights: That the fits ended with, shape ``(1 + folds, n)``.
        out: Proxies that were left out, shape ``(folds, n)``.
        errors: Of the held-out proxies, shape ``(n,)``; NaN for the others.
    """

    loss: int
    noise: float
    parameters: Array
    weights: Array
    out: NDArray[np.bool_]
    errors: Array

    @property
    def size(self) -> float:
        """Of the held-out errors; an outlier counts by its size, not by its square."""
        return float(np.nanmean(np.abs(self.errors)))


def choose_laws(mixtures: Array, losses: Array, known: Array, most_terms: int) -> list[Choice]:
    """A mean of laws for every loss: the best one of one term, and the best one of two where there are proxies enough.

    They count by the inverse square of their held-out errors. More terms follow losses closer, fewer hold farther away and at
    other scales; their mean does nearly as well as either at both.

    Args:
        mixtures: Shape ``(n, d)``.
        losses: In units of the law, shape ``(m, n)``; NaN where missing.
        known: Known variances of the noise in these units, shape ``(m, n)``.
        most_terms: Exponentials per loss, at most.
    """
    parts: list[list[Candidate]] = [[] for _ in losses]
    runs, levels = np.isfinite(losses).sum(axis=1), np.tile(np.arange(len(NOISES)), (len(losses), 1))
    for k in range(1, most_terms + 1):
        enough = np.flatnonzero(runs >= (RUNS_PER_PARAMETER * parameters_of(k, mixtures.shape[1]) if k > 1 else 0))
        candidates = list(_candidates(mixtures, losses, known, enough, NOISES[levels], k))
        for loss in enough.tolist():
            parts[loss].append(min((each for each in candidates if each.loss == loss), key=lambda each: each.size))
        # The noise of the first law is about that of the second, too, which takes longer to fit.
        nearest = [int(np.flatnonzero(laws[-1].noise == NOISES)[0]) for laws in parts]
        levels = np.clip(nearest, 1, len(NOISES) - 2)[:, None] + np.arange(-1, 2)
    return [_calibrate(each, mixtures, given) for each, given in zip(parts, known, strict=True)]


def _candidates(
    mixtures: Array, losses: Array, known: Array, chosen: NDArray[np.intp], noises: Array, k: int
) -> Iterator[Candidate]:
    """Laws of `k` terms for the `chosen` losses, with each of the `noises` ``(m, levels)`` of the loss: fitted all at once."""
    if not len(chosen):
        return
    seen, noises, levels = np.isfinite(losses[chosen]), noises[chosen], noises.shape[1]
    values, weights = np.where(seen, losses[chosen], 0.0), seen / (1 + known[chosen] / UNRESOLVED)
    start = np.stack([starts(mixtures[rows], row[rows], k, STARTS) for row, rows in zip(values, seen, strict=True)])
    every = np.repeat(np.arange(len(chosen)), levels * STARTS)
    at = np.repeat(start[:, None], levels, axis=1).reshape(len(every), -1)
    theta, robust, cost = fit_laws(at, mixtures, values[every], weights[every], np.repeat(noises, STARTS))
    which = cost.reshape(-1, levels, STARTS).argmin(axis=2)
    winner = (np.arange(len(chosen) * levels) * STARTS).reshape(-1, levels) + which

    # A fold of one loss is not one of another that fewer proxies have.
    out = [np.stack([_scatter(fold, rows) for fold in held_out_folds(mixtures[rows])]) for rows in seen]
    of = np.repeat(np.arange(len(chosen)), [len(folds) for folds in out])
    inside = seen[of] & ~np.concatenate(out)
    again = np.stack([starts(mixtures[rows], values[j, rows], k, STARTS) for j, rows in zip(of, inside, strict=True)])
    at = again[np.arange(len(of))[:, None], which[of]].reshape(len(of) * levels, -1)
    each = np.repeat(np.arange(len(of)), levels)
    left = np.where(inside, weights[of], 0.0)[each]
    fold_theta, fold_robust, _ = fit_laws(at, mixtures, values[of][each], left, noises[of].reshape(-1))
    errors = (values[of][each] - law(fold_theta, mixtures)).reshape(len(of), levels, -1)
    fold_theta, fold_robust = fold_theta.reshape(len(of), levels, -1), fold_robust.reshape(len(of), levels, -1)
    for j, loss in enumerate(chosen.tolist()):
        mine = of == j
        for level in range(levels):
            yield Candidate(
                loss,
                float(noises[j, level]),
                np.vstack([theta[winner[j, level]], fold_theta[mine, level]]),
                np.vstack([robust[winner[j, level]], fold_robust[mine, level]]),
                out[j],
                np.where(out[j].any(axis=0), (errors[mine, level] * out[j]).sum(axis=0), np.nan),
            )


def _scatter(mask: NDArray[np.bool_], rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask over some rows as one over all, shape ``(n,)``."""
    whole = np.zeros(len(rows), dtype=np.bool_)
    whole[rows] = mask
    return whole


def _calibrate(parts: list[Candidate], mixtures: Array, known: Array) -> Choice:
    """The doubt under which the held-out errors are likeliest."""
    shares = np.array([max(part.size, 1e-9) ** -2 for part in parts])
    shares /= shares.sum()
    errors: Array = shares @ np.stack([part.errors for part in parts])
    held, variance, roots = np.isfinite(errors), np.zeros(len(mixtures)), []
    for part, share in zip(parts, shares.tolist(), strict=True):
        root, *others = covariance_root(part.parameters, mixtures, part.weights, np.full(len(part.parameters), part.noise))
        for parameters, other, out in zip(part.parameters[1:], others, part.out, strict=True):
            variance[out] += share**2 * ((jacobian(parameters[None], mixtures[out])[0] @ other) ** 2).sum(axis=1)
        roots.append(root)
    errors, variance, given = errors[held], variance[held], known[held]
    bound = OUTLYING * 1.4826 * max(float(np.median(np.abs(errors))), 1e-9)
    errors, noises = np.clip(errors, -bound, bound), RATIOS * max(float(np.median(variance)), 1e-12)
    candidates = variance + noises[:, None]
    best, signal = likeliest_noise(np.broadcast_to(errors, candidates.shape), candidates, given, RATIOS, 1.0)
    standardised = np.full(len(mixtures), np.nan)
    standardised[held] = errors / np.sqrt(signal * candidates[best] + given)
    width = interval_scale(standardised[held]) ** 2
    scale = np.sqrt(signal * width)
    return Choice(
        tuple(
            Part(share, part.parameters[0], root * scale) for share, part, root in zip(shares.tolist(), parts, roots, strict=True)
        ),
        width * (signal * float(noises[best]) + float(known.mean())),
        standardised,
    )
