"""Whether mixtures may be averaged: the average of two good mixtures can be worse than both.

The best simulated mixtures are a sample of a set: of all mixtures that are expected to be no worse than the worst of them. Its
connected parts are modes. Two members belong to one mode if a chain of members leads from one to the other along segments that
stay inside the set (and inside the constraints: of mixtures that use different domains, the average may use too many). An average
that leaves the set is none of it, whatever the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from regmix_active.mixture.space import Mixtures, MixtureSpace

Array = NDArray[np.float64]

MEMBERS = 256
"""Members whose segments are looked at; the others belong to the mode of the nearest of these."""

NEIGHBOURS = 6
"""Nearest members that each one's segments lead to at first."""

STEPS = np.array([0.25, 0.5, 0.75])
"""Where on a segment it is looked at."""

BARRIER = 1e-4
"""Nats by which a barrier must be higher than the worst member: less is within rounding."""


@dataclass(frozen=True)
class Average:
    """What became of the best simulated mixtures.

    Attributes:
        weights: The average, shape ``(d,)``, feasible.
        averaged: How many mixtures it is of.
        modes: In how many modes the best mixtures lay.
        note: What the user should know; empty if all of them were averaged.
    """

    weights: Array
    averaged: int
    modes: int = 1
    note: str = ""


def average(
    space: MixtureSpace,
    best: Mixtures,
    expected: Callable[[Mixtures], Array],
    judged: Callable[[Mixtures], Array],
    allowed: Callable[[Mixtures], NDArray[np.bool_]],
) -> Average:
    """The average of the best mixtures, or of those of the best mode.

    Args:
        space: The feasible set.
        best: The mixtures, best first, shape ``(k, d)``; feasible.
        expected: Expected target of mixtures ``(q, d)``, shape ``(q,)``, in its unit; called with some thousand.
        judged: By what an average is better than another, shape ``(q,)``; called with few.
        allowed: Which averages may be an answer, shape ``(q,)``; called with few.
    """
    worst = float(expected(best).max()) + BARRIER

    def inside(mixtures: Mixtures) -> NDArray[np.bool_]:
        return space.feasible(mixtures, tolerance=1e-6) & (expected(mixtures) <= worst)

    def sound(weights: Array) -> bool:
        row = weights[None]
        return bool(inside(row)[0] and allowed(row)[0])

    mode = modes(best, inside)
    count = int(mode.max()) + 1
    whole = best.mean(axis=0)
    if count == 1 and sound(whole):
        return Average(space.project(whole)[0], len(best))
    found = [_mean_within(best[mode == k], sound) for k in range(count)]
    rows = space.project(np.stack([weights for weights, _ in found]))
    value = np.where(allowed(rows), judged(rows), np.inf)
    chosen = int(np.argmin(value)) if np.isfinite(value).any() else 0
    size = found[chosen][1]
    if count > 1:
        note = (
            f"the best {len(best)} mixtures lie in {count} groups with worse or forbidden mixtures between them: only {size} of "
            "the best group were averaged"
        )
    else:
        note = f"the average of the best {len(best)} mixtures is worse than each of them: only the best {size} were averaged"
    return Average(rows[chosen], size, count, note)


def modes(best: Mixtures, inside: Callable[[Mixtures], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Which mode each mixture belongs to, numbered from 0, that of the best mixture first; shape ``(k,)``.

    Args:
        best: Mixtures of a set, best first, shape ``(k, d)``.
        inside: Which mixtures ``(q, d)`` are in the set.
    """
    looked = np.unique(np.linspace(0, len(best) - 1, min(len(best), MEMBERS)).round().astype(np.intp))
    points = best[looked]
    distance = cdist(points, points, "cityblock")
    near = np.argsort(distance, axis=1, kind="stable")[:, 1 : NEIGHBOURS + 1]
    pairs = np.stack([np.repeat(np.arange(len(points)), near.shape[1]), near.ravel()], axis=1)
    joined = _joined(points, pairs, inside)
    label = _components(len(points), joined)
    if label.max() > 0:  # segments between modes that neighbours do not reach, nearest first and as many as there are members
        a, b = np.nonzero(np.triu(label[:, None] != label[None, :]))
        order = np.argsort(distance[a, b], kind="stable")[: 16 * len(points)]
        across = np.stack([a[order], b[order]], axis=1)
        label = _components(len(points), np.concatenate([joined, _joined(points, across, inside)]))
    if len(looked) < len(best):
        label = label[np.argmin(cdist(best, points, "cityblock"), axis=1)]
    _, first, number = np.unique(label, return_index=True, return_inverse=True)
    place: NDArray[np.int64] = np.argsort(np.argsort(first))[number.reshape(-1)]
    return place


def _joined(points: Mixtures, pairs: NDArray[np.intp], inside: Callable[[Mixtures], NDArray[np.bool_]]) -> NDArray[np.intp]:
    """The pairs whose segments stay inside."""
    a, b = points[pairs[:, 0], None], points[pairs[:, 1], None]
    on = a + STEPS[:, None] * (b - a)
    kept = inside(on.reshape(-1, points.shape[1])).reshape(len(pairs), len(STEPS))
    return pairs[kept.all(axis=1)]


def _components(n: int, pairs: NDArray[np.intp]) -> NDArray[np.int64]:
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    label: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return label


def _mean_within(members: Mixtures, sound: Callable[[Array], bool]) -> tuple[Array, int]:
    """The average of as many members nearest to the best one as leave it sound, and how many they are."""
    order = np.argsort(np.abs(members - members[0]).sum(axis=1), kind="stable")
    size = len(members)
    while size > 1 and not sound(members[order[:size]].mean(axis=0)):
        size //= 2
    return members[order[:size]].mean(axis=0), size
