"""Several targets at once: their joint belief, and which mixtures no other beats in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.base import Array
from regmix_active.surrogate.belief import TargetModel, combined, moments_of, target_std
from regmix_active.surrogate.limits import Kept
from regmix_active.surrogate.residuals import square_root


@dataclass(frozen=True)
class JointTargets:
    """Joint Gaussian belief about t targets at q mixtures.

    Attributes:
        mean: Shape ``(q, t)``.
        covariance: Shape ``(q, t, q, t)``.
    """

    mean: Array
    covariance: Array


def joint_targets(models: Sequence[TargetModel], mixtures: Array) -> JointTargets:
    """Belief about several targets of one fitted surrogate; see :meth:`TargetModel.several`.

    Losses are drawn as in pathwise sampling: each by the root of its own covariance between mixtures, the draws correlated between
    losses as their errors are. A worst-case target counts as the weighed sum that it is near each mixture, with its own deviation.

    Args:
        models: One per target.
        mixtures: Shape ``(q, d)``: some hundred.
    """
    posterior = models[0].surrogate.posterior(mixtures)
    values, vectors = np.linalg.eigh(posterior.joint())
    # Symmetric roots: a draw then belongs to a mixture, the same one for every loss.
    roots = (vectors * np.sqrt(np.clip(values, 0.0, None))[:, None]) @ vectors.transpose(0, 2, 1)
    mixing = square_root(posterior.correlation)
    q, m = posterior.mean.shape
    means, parts = [], []
    for model in models:
        if model.terms.linear:
            mean, weights = combined(posterior.mean, model.terms), np.broadcast_to(model.terms.scale, (q, m))
            std = target_std(posterior, weights)
        else:
            moments = moments_of(posterior, model.terms)
            mean, weights, std = moments.mean, moments.weights, moments.std
        means.append(mean if model.space is None else mean + model.space.penalty(mixtures))
        # How the target at mixture i follows the independent draw z of factor l, shape (q, m, q).
        part = np.einsum("ij,jl,jiz->ilz", weights, mixing, roots, optimize=True).reshape(q, -1)
        own = np.sqrt((part**2).sum(axis=1))
        parts.append(part * (std / np.maximum(own, 1e-300))[:, None])
    stacked = np.stack(parts, axis=1).reshape(q * len(models), -1)
    covariance = (stacked @ stacked.T).reshape(q, len(models), q, len(models))
    return JointTargets(np.stack(means, axis=1), covariance)


def all_kept(models: Sequence[TargetModel], mixtures: Array) -> Kept:
    """What is believed about the limits of several targets; those that targets share count once."""
    distinct = {model.target.limits: model for model in models if model.target.limits}
    found = [model.kept(mixtures) for model in distinct.values()]
    none = np.zeros(len(mixtures))
    log_probability = np.sum([one.log_probability for one in found], axis=0) if found else none
    return Kept(log_probability, np.max([one.short for one in found], axis=0) if found else none)


def non_dominated(values: Array) -> NDArray[np.bool_]:
    """Rows that no other row is at most as large as in every column and smaller in one, shape ``(n,)``; equal ones all stay.

    Args:
        values: Shape ``(n, t)``; smaller is better.
    """
    # By their sums: nothing is dominated by what comes after it, and the first ones rule out most.
    rest = np.argsort(values.sum(axis=1), kind="stable")
    keep = np.zeros(len(values), dtype=bool)
    while len(rest):
        first, others = values[rest[0]], values[rest]
        equal = (others == first).all(axis=1)
        keep[rest[equal]] = True
        rest = rest[(others < first).any(axis=1) & ~equal]
    return keep


def layers(values: Array, size: int) -> NDArray[np.intp]:
    """Rows of the front, then of the front without it, and so on, until there are `size`, shape ``(k,)``; the last layer is thinned
    evenly along its first column.

    Args:
        values: Shape ``(n, t)``; smaller is better.
        size: How many, or all.
    """
    rest, chosen = np.arange(len(values)), np.empty(0, dtype=np.intp)
    while len(rest) and len(chosen) < size:
        front = non_dominated(values[rest])
        layer = rest[front]
        if len(chosen) + len(layer) > size:
            layer = layer[np.argsort(values[layer, 0], kind="stable")]
            layer = layer[np.linspace(0, len(layer) - 1, size - len(chosen)).round().astype(np.intp)]
        chosen, rest = np.concatenate([chosen, layer]), rest[~front]
    return chosen
