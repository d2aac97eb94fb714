"""The data mixing law, many of them fitted at once.

A loss falls towards a floor as an exponential of the weights [1]; a text that mixes several kinds of text, as a sum of them:

    loss(w) = -exp(a) + sum over terms k of exp(b_k + t_k · w)

in units in which the smallest observed loss is 0 and the observed losses have standard deviation 1, so that the floor lies below
all of them. Every row of parameters is a fit of its own: of another loss, from another start, without another fold.

Shapes: f fits, n proxies, d domains, K terms, p = 1 + K (1 + d) parameters in the order a, b_1, t_1, b_2, t_2 …

References:
    [1] Ye et al., Data Mixing Laws: Optimizing Data Mixtures by Predicting Language Modeling Performance, arXiv 2403.16952.
    [2] Huber, Robust estimation of a location parameter, Annals of Mathematical Statistics 1964.
"""

from __future__ import annotations

import numpy as np

from regmix_active.surrogate.base import Array

FLOOR_GAP = 0.5
"""Median of the prior of exp(a), by which the floor lies below the smallest loss; its logarithm has a standard deviation of 1."""

SLOPE = 3.0
"""Standard deviation of the priors of all b and t: a whole domain's weight changes a term by a factor of e³ or so."""

LARGEST = 20.0
"""Bound on exponents: beyond it no loss would be."""

OUTLYING = 2.5
"""Standard deviations from which on an error counts by its size instead of its square [2]."""

CONVERGED = 1e-5
"""Relative gain of a step after which a fit ends."""

ELEMENTS = 4_000_000
"""Numbers that a step may hold at once."""


def parameters_of(k: int, d: int) -> int:
    """How many parameters a law of `k` terms on `d` domains has."""
    return 1 + k * (1 + d)


def terms(parameters: Array, mixtures: Array) -> Array:
    """The exponentials, shape ``(f, K, q)``, for parameters ``(f, p)`` at mixtures ``(q, d)``."""
    lines = parameters[:, 1:].reshape(len(parameters), -1, mixtures.shape[1] + 1)
    rates: Array = np.exp(np.minimum(lines[..., :1] + lines[..., 1:] @ mixtures.T, LARGEST))
    return rates


def law(parameters: Array, mixtures: Array) -> Array:
    """Losses, shape ``(f, q)``."""
    losses: Array = terms(parameters, mixtures).sum(axis=1) - np.exp(parameters[:, :1])
    return losses


def jacobian(parameters: Array, mixtures: Array) -> Array:
    """Derivatives of the losses by the parameters, shape ``(f, q, p)``."""
    f, q = len(parameters), len(mixtures)
    by_line = np.moveaxis(terms(parameters, mixtures), 1, 2)[..., None] * _with_one(mixtures)[:, None, :]
    by_floor = np.broadcast_to(-np.exp(parameters[:, 0])[:, None, None], (f, q, 1))
    return np.concatenate([by_floor, by_line.reshape(f, q, -1)], axis=2)


def starts(mixtures: Array, losses: Array, k: int, count: int) -> Array:
    """Where to start the fits of one loss, shape ``(count, p)``: floors at several depths, and a log-linear fit above each.

    Args:
        mixtures: Shape ``(n, d)``.
        losses: Shape ``(n,)``, in units of the law.
        k: Terms; fixed random numbers tell their slopes apart.
        count: How many.
    """
    d = mixtures.shape[1]
    apart = np.random.default_rng(0).standard_normal((count, k, d)) if k > 1 else np.zeros((count, k, d))
    result = []
    for gap, shift in zip(np.geomspace(0.1, 2.0, count), apart, strict=True):
        above = np.maximum(losses + gap, 1e-3)
        # An error of the loss is one of its logarithm times the distance to the floor; a small ridge for more domains than proxies.
        design = np.vstack([_with_one(mixtures) * above[:, None], 0.3 * np.eye(d + 1)])
        line = np.linalg.lstsq(design, np.concatenate([np.log(above) * above, np.zeros(d + 1)]), rcond=None)[0]
        lines = np.column_stack([np.full(k, line[0] - np.log(k)), line[1:] + shift])
        result.append(np.concatenate([[np.log(gap)], lines.ravel()]))
    return np.stack(result)


def fit_laws(start: Array, mixtures: Array, losses: Array, weights: Array, noise: Array) -> tuple[Array, Array, Array]:
    """Most probable parameters, with outliers [2] weighed down.

    Args:
        start: Shape ``(f, p)``.
        mixtures: Shape ``(n, d)``.
        losses: Shape ``(f, n)``, finite also where weights are zero.
        weights: Of the squared errors, shape ``(f, n)``; zero for a proxy that is left out.
        noise: Standard deviation of the errors, which says how much the prior counts, shape ``(f,)``.

    Returns:
        Parameters ``(f, p)``, the weights that they were fitted with in the end ``(f, n)``, and their cost ``(f,)``.
    """
    theta, cost = _descend(start, mixtures, losses, weights, noise, 60)
    robust = weights
    for _ in range(2):
        sizes = np.abs(law(theta, mixtures) - losses)
        usual = 1.4826 * np.nanmedian(np.where(weights > 0, sizes, np.nan), axis=1)
        bound = OUTLYING * np.maximum(usual, noise)[:, None]
        if not (outlying := (sizes > bound) & (weights > 0)).any():
            break
        robust = weights * np.where(outlying, bound / np.maximum(sizes, 1e-12), 1.0)
        theta, cost = _descend(theta, mixtures, losses, robust, noise, 20)
    return theta, robust, cost


def covariance_root(parameters: Array, mixtures: Array, weights: Array, noise: Array) -> Array:
    """R with R Rᵀ the inverse curvature of the cost, which is the parameters' covariance for errors of variance 1: ``(f, p, p)``.

    Arguments as in :func:`fit_laws`.
    """
    roots = []
    for part in _parts(len(parameters), parameters.shape[1], len(mixtures)):
        curvature, _ = _expand(parameters[part], _Design(mixtures), np.zeros_like(weights[part]), weights[part], noise[part])
        values, vectors = np.linalg.eigh(curvature)
        roots.append(vectors / np.sqrt(np.maximum(values, 1e-12 * values[:, -1:]))[:, None, :])
    return np.concatenate(roots)


class _Design:
    """What the sums over proxies share: mixtures with a constant before them, and products of each two of those numbers."""

    def __init__(self, mixtures: Array) -> None:
        self.mixtures, self.linear = mixtures, _with_one(mixtures)
        width = self.linear.shape[1]
        first, second = np.triu_indices(width)
        self.square = self.linear[:, first] * self.linear[:, second]
        # Which of these products stands at each place of a symmetric matrix.
        self.place = np.empty((width, width), dtype=np.intp)
        self.place[first, second] = self.place[second, first] = np.arange(len(first))


def _descend(start: Array, mixtures: Array, losses: Array, weights: Array, noise: Array, steps: int) -> tuple[Array, Array]:
    """Levenberg's and Marquardt's damped Gauss-Newton steps, every fit for itself: parameters and cost."""
    theta, cost = start.copy(), _cost(start, mixtures, losses, weights, noise)
    damping, going = np.full(len(start), 1e-2), np.arange(len(start))
    diagonal, design = np.arange(start.shape[1]), _Design(mixtures)
    for _ in range(steps):
        for part in _parts(len(going), start.shape[1], len(mixtures)):
            now = going[part]
            curvature, slope = _expand(theta[now], design, losses[now], weights[now], noise[now])
            curvature[:, diagonal, diagonal] *= 1 + damping[now, None]
            moved = theta[now] - np.linalg.solve(curvature, slope[..., None])[..., 0]
            new = _cost(moved, mixtures, losses[now], weights[now], noise[now])
            better = new < cost[now]
            gain = np.where(better, cost[now] - new, np.inf)
            finished = gain < CONVERGED * cost[now]
            theta[now[better]], cost[now[better]] = moved[better], new[better]
            damping[now] = np.where(finished, np.inf, np.where(better, damping[now] / 4, damping[now] * 4))
        going = going[damping[going] < 1e8]
        if not len(going):
            break
    return theta, cost


def _cost(parameters: Array, mixtures: Array, losses: Array, weights: Array, noise: Array) -> Array:
    mean, precision = _prior(parameters.shape[1])
    errors = ((law(parameters, mixtures) - losses) ** 2 * weights).sum(axis=1)
    cost: Array = errors + noise**2 * ((parameters - mean) ** 2 @ precision)
    return cost


def _expand(parameters: Array, design: _Design, losses: Array, weights: Array, noise: Array) -> tuple[Array, Array]:
    """Half the cost's curvature ``(f, p, p)``, without the law's own, and half its slope ``(f, p)``.

    A term's derivatives by its parameters are the term times (1, w), so that the sums over proxies are products with matrices
    that all fits share; the derivatives themselves are never held.
    """
    (f, p), width = parameters.shape, design.linear.shape[1]
    mean, precision = _prior(p)
    rates, floor = terms(parameters, design.mixtures), -np.exp(parameters[:, :1])
    weighed = rates * weights[:, None]
    errors = rates.sum(axis=1) + floor - losses
    curvature, slope = np.empty((f, p, p)), np.empty((f, p))
    curvature[:, 0, 0] = floor[:, 0] ** 2 * weights.sum(axis=1)
    slope[:, 0] = floor[:, 0] * (weights * errors).sum(axis=1)
    blocks = [slice(1 + k * width, 1 + (k + 1) * width) for k in range(rates.shape[1])]
    for k, rows in enumerate(blocks):
        slope[:, rows] = (weighed[:, k] * errors) @ design.linear
        curvature[:, rows, 0] = curvature[:, 0, rows] = floor * (weighed[:, k] @ design.linear)
        for other, columns in enumerate(blocks[: k + 1]):
            block = ((weighed[:, k] * rates[:, other]) @ design.square)[:, design.place]
            curvature[:, rows, columns] = curvature[:, columns, rows] = block  # symmetric by itself
    prior = noise[:, None] ** 2 * precision
    curvature[:, np.arange(p), np.arange(p)] += prior
    return curvature, slope + prior * (parameters - mean)


def _prior(p: int) -> tuple[Array, Array]:
    """Mean and inverse variance of the parameters, each shape ``(p,)``."""
    mean, precision = np.zeros(p), np.full(p, 1 / SLOPE**2)
    mean[0], precision[0] = np.log(FLOOR_GAP), 1.0
    return mean, precision


def _parts(f: int, p: int, n: int) -> list[slice]:
    size = max(1, ELEMENTS // (p * (p + n)))
    return [slice(start, start + size) for start in range(0, f, size)]


def _with_one(mixtures: Array) -> Array:
    return np.column_stack([np.ones(len(mixtures)), mixtures])
