"""How far every weight may go, and which constraints hold it there.

A weight's smallest and largest value are linear programs; the constraints that hold it are those with a price (a dual value other
than zero) at the optimum: by duality they alone imply the value, whatever else is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from regmix_active.mixture.constraints import Array, Region, Units
from regmix_active.mixture.programs import minimise
from regmix_active.mixture.space import MixtureSpace

CLOSE = 1e-6
"""Weights that agree to this are the same."""

PRICED = 1e-9
"""Dual values below this are none."""

ACTIVE = "mixture.active"
"""What holds a weight where the number of used domains does, or the smallest weight of a used one."""

TIED = "natural proportions"
"""What holds a weight that follows those of its group."""


@dataclass(frozen=True)
class End:
    """One end of a weight's range.

    Attributes:
        weight: Of the domain, a share of training tokens; NaN where no mixture is feasible.
        keys: Of the constraints that hold it there; empty where nothing does but that weights are shares.
    """

    weight: float
    keys: tuple[str, ...] = ()


def limits(space: MixtureSpace) -> list[tuple[End, End]]:
    """Smallest and largest feasible weight of every domain, in their order.

    Where the used domains are counted, each of these is a mixed-integer program.
    """
    programs = _Programs(space)
    units = programs.units
    # A domain without natural weight has none in a group that keeps natural proportions, so that no unit has it.
    found = [(End(0.0), End(0.0, (TIED,)))] * space.dim
    for i, unit in enumerate(units.shares):
        ends = [programs.end(i, sign) for sign in (1.0, -1.0)]
        members = np.flatnonzero(unit)
        tie = (TIED,) if len(members) > 1 else ()
        for j in members:
            low, high = (End(float(unit[j]) * end.weight, end.keys) for end in ends)
            # A weight of zero follows nothing; the largest one does even where the group may have all.
            found[j] = (End(low.weight, (*low.keys, *tie)) if low.keys else low, End(high.weight, (*high.keys, *tie)))
    return found


class _Programs:
    """Linear programs over unit weights, with every constraint a row of its own, so that it has a price of its own."""

    def __init__(self, space: MixtureSpace) -> None:
        constraints = space.constraints
        self.units = Units.of(space.natural, constraints.tied)
        self._region = Region.of(constraints, self.units)
        k = self._region.dim
        sides = [
            (bound.key, sign * (self.units.shares @ bound.coefficients), sign * limit)
            for bound in constraints.bounds
            for sign, limit in ((1.0, bound.high), (-1.0, bound.low))
            if np.isfinite(limit)
        ]
        self._keys = [key for key, _, _ in sides]
        self._matrix = np.array([row for _, row, _ in sides]).reshape(len(sides), k)
        self._limits = np.array([limit for _, _, limit in sides])
        self._seen: list[Array] = []

    def end(self, unit: int, sign: float) -> End:
        """The smallest weight of a unit, or with a negative sign the largest."""
        if (known := self._own(unit, sign)) is not None:
            return known
        cost = np.zeros(self._region.dim)
        cost[unit] = sign
        loose = self._solve(cost, unit)
        if not self._region.counted:
            return loose
        best = minimise(self._region, cost)
        if best is None:
            return End(np.nan)
        self._seen.append(best.weights)
        weight = float(best.weights[unit])
        if abs(weight - loose.weight) < CLOSE:
            return End(weight, loose.keys)
        chosen = self._solve(cost, unit, best.active)
        return End(weight, (*chosen.keys, ACTIVE))

    def _own(self, unit: int, sign: float) -> End | None:
        """The end where the unit's own bounds are reached by a mixture that is known, so that no program is needed."""
        limit = float(self._region.lower[unit] if sign > 0 else self._region.upper[unit])
        if not any(abs(weights[unit] - limit) < PRICED for weights in self._seen):
            return None
        return End(limit, tuple(self._holding(unit, sign, limit)))

    def _holding(self, unit: int, sign: float, limit: float) -> Iterator[str]:
        """Keys of bounds on one unit alone that put its weight at a limit."""
        if limit == (0.0 if sign > 0 else 1.0):
            return
        for key, row, most in zip(self._keys, self._matrix, self._limits, strict=True):
            alone = sign * row[unit] < 0 and np.count_nonzero(row) == 1
            if alone and abs(most / row[unit] - limit) < PRICED:
                yield key

    def _solve(self, cost: Array, unit: int, active: NDArray[np.bool_] | None = None) -> End:
        """The end without counting used domains; or, given a mask ``(k,)``, for these used units."""
        bounds = np.tile([0.0, np.inf], (self._region.dim, 1))
        if active is not None:
            bounds = np.column_stack([np.where(active, self._region.smallest, 0.0), np.where(active, np.inf, 0.0)])
        rows = len(self._keys) > 0
        solved = linprog(
            cost,
            A_ub=self._matrix if rows else None,
            b_ub=self._limits if rows else None,
            A_eq=np.ones((1, self._region.dim)),
            b_eq=[1.0],
            bounds=bounds,
            method="highs",
        )
        if solved.x is None or not solved.success:
            return End(np.nan)
        if not self._region.counted:
            self._seen.append(solved.x)
        priced = np.abs(solved.ineqlin.marginals) > PRICED if rows else np.zeros(0, dtype=bool)
        # Its own constraints first: they are what one looks for.
        order = sorted(
            np.flatnonzero(priced).tolist(), key=lambda i: np.count_nonzero(self._matrix[i]) != 1 or not self._matrix[i, unit]
        )
        return End(float(solved.x[unit]), tuple(dict.fromkeys(self._keys[i] for i in order)))
