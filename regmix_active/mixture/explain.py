"""Why no mixture is feasible, and which constraints never matter.

The smallest set of constraints that clash is found exactly: a smallest set of constraints that meets every known way out (every set
whose removal leaves a mixture) is a candidate; if it still leaves a mixture, what that mixture breaks is another way out.

References:
    [1] Ignatiev, Previti, Liffiton and Marques-Silva, Smallest MUS Extraction with Minimal Hitting Set Dualization, CP 2015.
    [2] Chinneck and Dravnieks, Locating Minimal Infeasible Constraint Sets in Linear Programs, ORSA Journal on Computing 3, 1991.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from regmix_active.mixture.constraints import Array, Bound, Constraints, Region, Units
from regmix_active.mixture.programs import minimise, ranges

LONGEST = 6
"""Constraints that a message lists one by one."""

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Clash:
    """Constraints that no mixture satisfies together, though it could satisfy all but any one of them.

    Attributes:
        bounds: The constraints, or sides of them.
        relief: What each would have to be, all others staying as they are; None where that alone does not help.
    """

    bounds: tuple[Bound, ...]
    relief: tuple[float | None, ...]

    def __str__(self) -> str:
        several = f"these {len(self.bounds)} constraints" if len(self.bounds) > 1 else "this constraint"
        lines = [f"no mixture satisfies {several} (fewer would not clash):"]
        # Groups first: of many like caps, the first few tell all.
        listed = sorted(self.bounds, key=lambda bound: np.count_nonzero(bound.coefficients) == 1)
        lines += [f"  {bound.key}: {bound.text}" for bound in listed[:LONGEST]]
        if rest := listed[LONGEST:]:
            keys = ", ".join(sorted({bound.key.rsplit(".", 1)[0] for bound in rest}))
            caps = [b.high for b in self.bounds if np.count_nonzero(b.coefficients) == 1 and np.isfinite(b.high)]
            total = f"; together they allow {sum(caps):.6g}" if len(caps) == len(self.bounds) else ""
            lines.append(f"  and {len(rest)} more ({keys}){total}")
        ways = [
            (abs(v - (b.high if np.isfinite(b.high) else b.low)), b, v)
            for b, v in zip(self.bounds, self.relief, strict=True)
            if v is not None
        ]
        if ways:
            _, bound, value = min(ways, key=lambda way: way[0])
            lines.append(f"one way out: {bound.key} at {'most' if np.isfinite(bound.high) else 'least'} {abs(value):.6g}")
        return "\n".join(lines)


def clash(constraints: Constraints, natural: Array) -> Clash | None:
    """The smallest set of constraints that clash, or None where there is a feasible mixture.

    Args:
        constraints: All of them.
        natural: The natural mixture, shape ``(d,)``.
    """
    elastic = _Elastic(constraints, natural)
    if elastic.broken(np.zeros(len(elastic.bounds), dtype=bool), none=True) is not None:
        return None
    ways: list[NDArray[np.bool_]] = []
    while True:
        candidate = _hitting(ways, len(elastic.bounds))
        way = elastic.broken(candidate)
        if way is None:
            break
        ways.append(way)
    chosen = np.flatnonzero(candidate).tolist()
    found, relief = [elastic.bounds[i] for i in chosen], [elastic.relief(i) for i in chosen]
    return Clash(tuple(found), tuple(relief))


def redundant(constraints: Constraints, natural: Array) -> list[Bound]:
    """Constraints, or sides of them, that the others imply: removing any one of them alone changes nothing."""
    units = Units.of(natural, constraints.tied)
    found = []
    sides = _sides(constraints)
    for i, bound in enumerate(sides):
        others = replace(constraints, bounds=tuple(other for j, other in enumerate(sides) if j != i))
        region = Region.of(others, units)
        sign, limit = (1.0, bound.low) if np.isfinite(bound.low) else (-1.0, -bound.high)
        end = minimise(region, sign * (units.shares @ bound.coefficients))
        if end is not None and end.value >= limit - TOLERANCE:
            found.append(bound)
    return found


def domain_ranges(constraints: Constraints, natural: Array) -> Array:
    """Smallest and largest feasible weight of every domain, shape ``(d, 2)``; NaN where nothing is feasible."""
    units = Units.of(natural, constraints.tied)
    by_unit = ranges(Region.of(constraints, units))
    return (units.shares.T[:, :, None] * by_unit[None]).sum(axis=1)


def _sides(constraints: Constraints) -> list[Bound]:
    """Every constraint with one finite side; a fixed weight gives two."""
    sides = []
    for bound in constraints.bounds:
        if np.isfinite(bound.low) and bound.low > -np.abs(bound.coefficients).sum():
            sides.append(replace(bound, high=np.inf))
        if np.isfinite(bound.high):
            sides.append(replace(bound, low=-np.inf))
    return sides


class _Elastic:
    """A program in which every constraint may be broken, at the price of one."""

    def __init__(self, constraints: Constraints, natural: Array) -> None:
        units = Units.of(natural, constraints.tied)
        self._units, self._region = units, Region.of(replace(constraints, bounds=()), units)
        d = len(natural)
        self.bounds = _sides(constraints)
        counts = []
        if constraints.counted:
            none = np.zeros(d)
            if constraints.at_most is not None:
                text = f"at most {constraints.at_most} domains are used"
                counts.append(Bound("mixture.active.at_most", text, none, high=float(constraints.at_most)))
            if constraints.at_least > 1:
                text = f"at least {constraints.at_least} domains are used"
                counts.append(Bound("mixture.active.at_least", text, none, low=float(constraints.at_least)))
            if constraints.smallest > 0:
                text = f"a domain that is used has at least {constraints.smallest:g}"
                counts.append(Bound("mixture.active.smallest", text, none, low=constraints.smallest))
        self._linear = len(self.bounds)
        self.bounds = [*self.bounds, *counts]
        self._constraints = constraints

    def broken(self, kept: NDArray[np.bool_], *, none: bool = False) -> NDArray[np.bool_] | None:
        """The fewest constraints that a mixture must break which keeps those of a mask; None where there is none.

        Args:
            kept: Shape ``(e,)``.
            none: Allow no constraint to be broken.
        """
        k, e = len(self._units.size), len(self.bounds)
        # Unknowns: weights of units, whether they are used, whether a constraint is broken.
        rows, low, high = [], [], []

        def add(weights: Array, used: Array, breaks: tuple[int, float] | None, least: float, most: float) -> None:
            row = np.concatenate([weights, used, np.zeros(e)])
            if breaks is not None:
                row[2 * k + breaks[0]] = breaks[1]
            rows.append(row)
            low.append(least)
            high.append(most)

        zero, one = np.zeros(k), np.ones(k)
        add(one, zero, None, 1, 1)
        for i in range(k):
            unit = np.eye(k)[i]
            add(unit, -unit, None, -np.inf, 0)
        for i, bound in enumerate(self.bounds):
            row = self._units.shares @ bound.coefficients
            slack = float(np.abs(row).max(initial=0.0)) + 1.0
            if i < self._linear:
                if np.isfinite(bound.high):
                    add(row, zero, (i, -slack), -np.inf, bound.high)
                else:
                    add(row, zero, (i, slack), bound.low, np.inf)
            elif bound.key.endswith("at_most"):
                add(zero, self._units.size.astype(float), (i, -float(self._units.size.sum())), -np.inf, bound.high)
            elif bound.key.endswith("at_least"):
                add(zero, self._units.size.astype(float), (i, bound.low), bound.low, np.inf)
            else:
                for unit, least in zip(np.eye(k), self._region.smallest, strict=True):
                    add(unit, -min(least, 2.0) * unit, (i, 2.0), 0, np.inf)
        upper = np.concatenate([np.ones(2 * k), np.where(kept | none, 0.0, 1.0)])
        solved = milp(
            np.concatenate([np.zeros(2 * k), np.ones(e)]),
            constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
            bounds=Bounds(np.zeros(2 * k + e), upper),
            integrality=np.repeat([0, 1 if self._constraints.counted else 0, 1], [k, k, e]),
        )
        return None if solved.x is None else np.asarray(solved.x[2 * k :] > 0.5)

    def relief(self, i: int) -> float | None:
        """What constraint `i` would have to be for a mixture that keeps all others, or None."""
        if i >= self._linear:
            return None
        bound = self.bounds[i]
        others = replace(self._constraints, bounds=tuple(b for j, b in enumerate(self.bounds[: self._linear]) if j != i))
        region = Region.of(others, self._units)
        row = self._units.shares @ bound.coefficients
        sign = 1.0 if np.isfinite(bound.high) else -1.0
        end = minimise(region, sign * row)
        return None if end is None else sign * end.value


def _hitting(ways: Sequence[NDArray[np.bool_]], e: int) -> NDArray[np.bool_]:
    """A smallest set that has something in common with every way out, shape ``(e,)``."""
    if not ways:
        return np.zeros(e, dtype=bool)
    solved = milp(
        np.ones(e),
        constraints=LinearConstraint(np.array(ways, dtype=float), 1, np.inf),
        bounds=Bounds(0, 1),
        integrality=np.ones(e),
    )
    return np.asarray(solved.x > 0.5)
