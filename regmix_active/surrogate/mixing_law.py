"""The data mixing law, many of them fitted at once.

A loss falls towards a floor as an exponential of the weights [1]; texts that hold several kinds of text are a sum of them:

    loss(w) = -exp(a) + sum over terms k of exp(b_k + t_k · w)

in units in which the smallest observed loss is 0 and the losses have standard deviation 1, so that the floor lies below all that
was observed. Everything is batched: a row of parameters per fit, whether of another loss, another start or another fold.

Shapes: f fits, n proxies, d domains, K terms, p = 1 + K (1 + d) parameters in the order a, b_1, t_1, b_2, t_2 …

References:
    [1] Ye et al., Data Mixing Laws: Optimizing Data Mixtures by Predicting Language Modeling Performance, arXiv 2403.16952.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array

FLOOR_GAP = 0.5
"""Median of the prior of exp(a): the floor is half a standard deviation below the smallest loss, times or divided by e."""

SLOPE = 3.0
"""Standard deviation of the priors of all b and t: one domain alone changes the distance to the floor by a factor of up to e³ or so."""

LARGEST = 20.0
"""Bound on exponents: more is overflow, not a loss."""


def terms(parameters: Array, mixtures: Array) -> Array:
    """The exponentials, shape ``(f, K, q)``, for parameters ``(f, p)`` at mixtures ``(q, d)``."""
    slopes = parameters[:, 1:].reshape(len(parameters), -1, mixtures.shape[1] + 1)
    return np.exp(np.minimum(slopes[..., :1] + slopes[..., 1:] @ mixtures.T, LARGEST))


def law(parameters: Array, mixtures: Array) -> Array:
    """Losses, shape ``(f, q)``."""
    losses: Array = terms(parameters, mixtures).sum(axis=1) - np.exp(parameters[:, :1])
    return losses


def jacobian(parameters: Array, mixtures: Array) -> Array:
    """Derivatives of the losses by the parameters, shape ``(f, q, p)``."""
    rates = terms(parameters, mixtures)
    with_one = np.column_stack([np.ones(len(mixtures)), mixtures])
    by_slopes = np.moveaxis(rates, 1, 2)[..., None] * with_one[:, None, :]
    by_floor = np.broadcast_to(-np.exp(parameters[:, 0])[:, None, None], (*by_slopes.shape[:2], 1))
    return np.concatenate([by_floor, by_slopes.reshape(*by_slopes.shape[:2], -1)], axis=2)


def prior_precision(p: int) -> Array:
    """Inverse prior variances of the parameters, shape ``(p,)``."""
    precision = np.full(p, 1 / SLOPE**2)
    precision[0] = 1.0
    return precision


def prior_mean(p: int) -> Array:
    """Prior means of the parameters, shape ``(p,)``."""
    mean = np.zeros(p)
    mean[0] = np.log(FLOOR_GAP)
    return mean


def starts(mixtures: Array, losses: Array, weights: Array, count: int, k: int) -> Array:
    """Where to start `count` fits of one loss, shape ``(count, p)``: floors at several depths, and what is log-linear above them.

    Args:
        mixtures: Shape ``(n, d)``.
        losses: Shape ``(n,)``, in units of the law.
        weights: Zero for proxies that are left out or have no such loss, shape ``(n,)``.
        count: How many.
        k: Terms; their slopes are told apart by fixed random numbers.
    """
    n, d = mixtures.shape
    with_one = np.column_stack([np.ones(n), mixtures])
    used = weights > 0
    apart = np.random.default_rng(0).standard_normal((count, k, d)) if k > 1 else np.zeros((count, k, d))
    result = []
    for gap, shift in zip(np.geomspace(0.1, 2.0, count), apart, strict=True):
        above = np.maximum(losses[used] + gap, 1e-3)
        # Errors of a logarithm count by the distance to the floor.
        design = np.vstack([with_one[used] * above[:, None], np.sqrt(0.1) * np.eye(d + 1)])
        line = np.linalg.lstsq(design, np.concatenate([np.log(above) * above, np.zeros(d + 1)]), rcond=None)[0]
        slopes = line[1:] + shift
        level = np.full((k, 1), line[0] - np.log(k))
        result.append(np.concatenate([[np.log(gap)], np.column_stack([level, slopes]).ravel()]))
    return np.stack(result)


def fit_laws(
    start: Array, mixtures: Array, losses: Array, weights: Array, noise: Array, iterations: int = 60
) -> tuple[Array, Array]:
    """Most probable parameters by Levenberg and Marquardt's damped Gauss-Newton steps, every fit by itself.

    Args:
        start: Shape ``(f, p)``.
        mixtures: Shape ``(n, d)``.
        losses: Shape ``(f, n)``; whatever stands where weights are zero does not count.
        weights: Of the squared errors, shape ``(f, n)``.
        noise: Standard deviation of the errors, against which the prior counts, shape ``(f,)``.
        iterations: At most so many steps.

    Returns:
        Parameters ``(f, p)`` and their cost ``(f,)``: weighed squared errors plus what the prior holds against them.
    """
    p, mean = start.shape[1], prior_mean(start.shape[1])
    prior = noise[:, None] ** 2 * prior_precision(p)
    theta, damping, going = start.copy(), np.full(len(start), 1e-2), np.arange(len(start))

    def cost_of(rows: NDArray[np.intp], parameters: Array) -> Array:
        errors = (law(parameters, mixtures) - losses[rows]) ** 2 * weights[rows]
        return errors.sum(axis=1) + (prior[rows] * (parameters - mean) ** 2).sum(axis=1)

    cost = cost_of(going, theta)
    for _ in range(iterations):
        J = jacobian(theta[going], mixtures)
        weighed = J * weights[going][..., None]
        H = np.swapaxes(J, 1, 2) @ weighed
        diagonal = np.arange(p)
        H[:, diagonal, diagonal] += prior[going]
        residual = law(theta[going], mixtures) - losses[going]
        slope = np.einsum("fnp,fn->fp", weighed, residual) + prior[going] * (theta[going] - mean)
        H[:, diagonal, diagonal] *= 1 + damping[going, None]
        step = -np.linalg.solve(H, slope[..., None])[..., 0]
        moved = theta[going] + step
        new = cost_of(going, moved)
        better = new < cost[going]
        gain = np.where(better, cost[going] - new, np.inf)
        theta[going[better]], damping[going] = moved[better], np.where(better, damping[going] / 4, damping[going] * 4)
        done = (gain < 1e-6 * cost[going]) | (damping[going] > 1e8)
        cost[going[better]] = new[better]
        going = going[~done]
        if not len(going):
            break
    return theta, cost
