"""Weights with few decimals that still sum to one and still satisfy every constraint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from regmix_active.mixture.constraints import Array, Bound

MARGIN = 5e-10
"""How far rounded weights may overstep a constraint: a share of one third has no last decimal."""

FINER = 2
"""Decimals that are added when those asked for cannot satisfy the constraints."""

MOST = 12


def round_weights(weights: Array, bounds: Sequence[Bound], smallest: float, exact: Sequence[Bound], decimals: int) -> Array:
    """Round one mixture, each weight down or up, so that the sum is 1 and the constraints hold; as close as can be.

    Args:
        weights: A feasible mixture, shape ``(d,)``; its zeros stay zero.
        bounds: Constraints.
        smallest: Weight that a used domain has at least.
        exact: Equalities between weights, such as tied proportions.
        decimals: Wanted; more are used, up to 12, where these cannot hold all constraints.

    Returns:
        Shape ``(d,)``; `weights` themselves if not even 12 decimals can.
    """
    for places in range(decimals, MOST + 1, FINER):
        grain = 10.0**-places
        down = np.floor(weights / grain + 1e-6)
        free = weights > 0
        # What is left to the sum goes up: exactly so many weights, chosen for the smallest change.
        missing = round(1 / grain) - int(down.sum())
        rows, low, high = [np.ones(len(weights))], [float(missing)], [float(missing)]
        for bound in (*bounds, *exact):
            base = float(bound.coefficients @ down)
            rows.append(bound.coefficients)
            low.append((bound.low - MARGIN) / grain - base)
            high.append((bound.high + MARGIN) / grain - base)
        least = np.where(free & (down * grain < smallest - MARGIN), 1.0, 0.0)
        most = np.where(free, 1.0, 0.0)
        if (least > most).any() or not 0 <= missing <= free.sum():
            continue
        solved = milp(
            -(weights / grain - down),
            constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
            bounds=Bounds(least, most),
            integrality=np.ones(len(weights)),
        )
        if solved.x is None:
            continue
        rounded = np.array([round(float(units) * grain, places) for units in down + np.rint(solved.x)])
        if abs(rounded.sum() - 1) < 1e-12:
            return rounded
    return weights
