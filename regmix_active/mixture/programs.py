"""Linear and mixed-integer programs over a feasible set: is it empty, how far does a weight reach, what is in the middle.

HiGHS solves them, through scipy; all are small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from regmix_active.mixture.constraints import Array, Region

WIDE = 1e-9
"""Ranges narrower than this are points."""


@dataclass(frozen=True)
class Optimum:
    """A vertex of the feasible set.

    Attributes:
        weights: Of units, shape ``(k,)``.
        active: Which units it uses, shape ``(k,)``.
        value: The objective there.
    """

    weights: Array
    active: NDArray[np.bool_]
    value: float


def minimise(region: Region, cost: Array, per_use: Array | None = None, *, exact: bool = False) -> Optimum | None:
    """A mixture with the smallest ``cost @ weights``, or None where no mixture is feasible.

    Args:
        region: The feasible set.
        cost: Shape ``(k,)``.
        per_use: Cost of using a unit at all, shape ``(k,)``, where it matters which units are used; the answer is then a good one,
            not the best, unless it shall be.
        exact: Whether it shall.
    """
    if not region.counted:
        weights = _linear(region, cost)
        if weights is None:
            return None
        return Optimum(weights, np.ones(region.dim, dtype=bool), float(cost @ weights))
    k = region.dim
    forced = region.lower > 0
    upper = region.upper
    lower = np.where(forced, np.maximum(region.lower, region.smallest), region.smallest)
    eye = np.eye(k)
    constraints = [
        LinearConstraint(np.concatenate([np.ones(k), np.zeros(k)])[None], 1, 1),
        LinearConstraint(np.concatenate([eye, -np.diag(np.minimum(upper, 1.0))], axis=1), -np.inf, 0),
        LinearConstraint(np.concatenate([eye, -np.diag(lower)], axis=1), 0, np.inf),
        LinearConstraint(np.concatenate([np.zeros(k), region.size])[None], region.at_least, region.at_most),
    ]
    if len(region.rows):
        wide = np.concatenate([region.rows, np.zeros_like(region.rows)], axis=1)
        constraints.append(LinearConstraint(wide, region.low, region.high))
    bounds = Bounds(np.concatenate([np.zeros(k), forced.astype(float)]), np.concatenate([upper, (upper > 0).astype(float)]))
    objective = np.concatenate([cost, np.zeros(k) if per_use is None else per_use])
    if (bounds.lb > bounds.ub).any():
        return None
    # Any support does when one is asked for; a proof that it is the cheapest would take seconds.
    options = {} if per_use is None or exact else {"mip_rel_gap": 1.0}
    solved = milp(objective, constraints=constraints, bounds=bounds, integrality=np.repeat([0, 1], k), options=options)
    if solved.x is None:
        return None
    active = solved.x[k:] > 0.5
    # The relaxed integers leave weights of 1e-9 behind: solve again for the support that was found.
    weights = _linear(region.with_support(active), cost)
    if weights is None:
        return None
    return Optimum(weights, active, float(cost @ weights))


def centre(region: Region) -> Array | None:
    """A mixture as far from all bounds as their widths allow (for the plain simplex: the uniform one), or None; shape ``(k,)``.

    Bounds that leave no room are met; among the others the smallest slack, as a share of the bound's width, is largest.
    """
    if region.counted:
        raise ValueError("the centre is that of one support; choose it with Region.with_support")
    k = region.dim
    lower, upper = _tight(region.lower, region.upper)
    if (lower > upper + WIDE).any() or lower.sum() > 1 + WIDE or upper.sum() < 1 - WIDE:
        return None
    width = upper - lower
    eye = np.eye(k)
    matrix = [np.column_stack([-eye, width]), np.column_stack([eye, width])]
    limits = [-lower, upper]
    for row, low, high in zip(region.rows, region.low, region.high, strict=True):
        room = min(high, row.clip(0) @ upper) - max(low, row.clip(None, 0) @ upper)
        room = max(room, 0.0) if np.isfinite(low) and np.isfinite(high) else 1.0
        if high - low < WIDE:
            room = 0.0
        if np.isfinite(high):
            matrix.append(np.append(row, room)[None])
            limits.append(np.array([high]))
        if np.isfinite(low):
            matrix.append(np.append(-row, room)[None])
            limits.append(np.array([-low]))
    solved = linprog(
        np.append(np.zeros(k), -1.0),
        A_ub=np.concatenate(matrix),
        b_ub=np.concatenate(limits),
        A_eq=np.append(np.ones(k), 0.0)[None],
        b_eq=[1.0],
        bounds=[*zip(region.lower, region.upper, strict=True), (0, 0.5)],
        method="highs",
    )
    if solved.x is None:
        return None
    found: Array = solved.x[:k]
    if solved.x[k] > WIDE:
        return found
    # Some bounds leave no room together: the mean of vertices lies in the middle of what is left.
    corners = [minimise(region, sign * unit) for unit in eye for sign in (1, -1)]
    return np.mean([corner.weights for corner in corners if corner is not None], axis=0)


def ranges(region: Region) -> Array:
    """Smallest and largest feasible weight of every unit, shape ``(k, 2)``; NaN where no mixture is feasible."""
    found = []
    for unit in np.eye(region.dim):
        ends = [minimise(region, unit), minimise(region, -unit)]
        # A unit that need not be used reaches zero where the smallest weight of used ones does not.
        found.append([np.nan if end is None else float(end.weights @ unit) for end in ends])
    return np.array(found)


def _tight(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Bounds that the sum of all weights implies for each."""
    slack = 1 - lower.sum()
    excess = upper.sum() - 1
    return np.maximum(lower, upper - max(excess, 0.0)), np.minimum(upper, lower + max(slack, 0.0))


def _linear(region: Region, cost: Array) -> Array | None:
    if (region.lower > region.upper).any():
        return None
    sides = [(region.rows, region.high, 1.0), (region.rows, region.low, -1.0)]
    kept = [(sign * rows[np.isfinite(limit)], sign * limit[np.isfinite(limit)]) for rows, limit, sign in sides]
    matrix, limits = np.concatenate([m for m, _ in kept]), np.concatenate([b for _, b in kept])
    solved = linprog(
        cost,
        A_ub=matrix if len(matrix) else None,
        b_ub=limits if len(limits) else None,
        A_eq=np.ones((1, region.dim)),
        b_eq=[1.0],
        bounds=np.column_stack([region.lower, region.upper]),
        method="highs",
    )
    if solved.x is None or not solved.success:
        return None
    weights: Array = solved.x
    return weights
