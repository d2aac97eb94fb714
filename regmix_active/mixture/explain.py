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
        bounds: The constraints.
        relief: What the sum of each would have to be, all others staying as they are; None where that alone does not help.
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
        # One that can be typed: limits on epochs, ratios and shares within groups are not sums that a key names.
        ways = [(b, v) for b, v in zip(self.bounds, self.relief, strict=True) if v is not None and b.key.startswith(TYPED)]
        ways = [(b, v) for b, v in ways if set(b.coefficients.tolist()) <= {0.0, 1.0}]
        if ways:
            bound, value = min(ways, key=lambda way: abs(way[1] - float(np.clip(way[1], way[0].low, way[0].high))))
            lines.append(f"one way out: {bound.key}: {max(value, 0.0) + 0.0:.6g}")
        return "\n".join(lines)


TYPED = ("mixture.floors.", "mixture.caps.", "mixture.fixed.", "mixture.groups.")


def clash(constraints: Constraints, natural: Array, domains: Sequence[str] = ()) -> Clash | None:
    """The smallest set of constraints that clash, or None where there is a feasible mixture.

    Args:
        constraints: All of them.
        natural: The natural mixture, shape ``(d,)``.
        domains: Names, for what is said of tied domains; default: their numbers.
    """
    elastic = _Elastic(constraints, natural, domains or [str(i) for i in range(len(natural))])
    ways: list[NDArray[np.bool_]] = []
    while True:
        candidate = _hitting(ways, len(elastic.bounds))
        way = elastic.broken(candidate)
        if way is None:
            break
        if not way.any():  # nothing need be broken
            return None
        ways.append(way)
    chosen = np.flatnonzero(candidate).tolist()
    return Clash(tuple(elastic.bounds[i] for i in chosen), tuple(elastic.relief(i) for i in chosen))


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

    def __init__(self, constraints: Constraints, natural: Array, domains: Sequence[str]) -> None:
        self._constraints, self._natural = constraints, natural
        d = len(natural)
        ties = []
        for members in constraints.tied:
            shown = ", ".join(domains[i] for i in members[:3]) + (" ..." if len(members) > 3 else "")
            row = np.isin(np.arange(d), members).astype(np.float64)
            ties.append(Bound("mixture.groups", f"{shown} keep their natural proportions", row))
        counts = []
        none = np.zeros(d)
        if constraints.at_most is not None:
            text = f"at most {constraints.at_most} domains are used"
            counts.append(Bound(AT_MOST, text, none, high=float(constraints.at_most)))
        if constraints.at_least > 1:
            text = f"at least {constraints.at_least} domains are used"
            counts.append(Bound(AT_LEAST, text, none, low=float(constraints.at_least)))
        if constraints.smallest > 0:
            text = f"a domain that is used has at least {constraints.smallest:g}"
            counts.append(Bound(SMALLEST, text, none, low=constraints.smallest))
        self._linear = len(constraints.bounds)
        self.bounds = [*constraints.bounds, *ties, *counts]

    def broken(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """The fewest constraints that a mixture must break which keeps those of a mask; None where there is none.

        Args:
            kept: Shape ``(e,)``.
        """
        d, e = len(self._natural), len(self.bounds)
        # Unknowns: weights, whether domains are used, whether a constraint is broken.
        rows: list[Array] = []
        low: list[float] = []
        high: list[float] = []

        def add(weights: Array, used: Array, breaks: int, slack: float, least: float, most: float) -> None:
            """One row, or one for each side, which a broken constraint loosens by `slack`."""
            for side, limit in ((-slack, most), (slack, least)):
                if np.isfinite(limit):
                    row = np.concatenate([weights, used, np.zeros(e)])
                    if breaks >= 0:
                        row[2 * d + breaks] = side
                    rows.append(row)
                    low.append(-np.inf if side < 0 else limit)
                    high.append(limit if side < 0 else np.inf)

        zero, eye = np.zeros(d), np.eye(d)
        for least, most in ((1.0, np.inf), (-np.inf, 1.0)):
            add(np.ones(d), zero, -1, 1.0, least, most)
        for unit in eye:
            add(unit, -unit, -1, 1.0, -np.inf, 0.0)
        for i, bound in enumerate(self.bounds):
            if bound.key in (AT_MOST, AT_LEAST):
                add(zero, np.ones(d), i, float(d), bound.low, bound.high)
            elif bound.key == SMALLEST:
                for unit in eye:
                    add(unit, -bound.low * unit, i, 1.0, 0.0, np.inf)
            elif i >= self._linear:
                for row in _proportions(np.flatnonzero(bound.coefficients), self._natural):
                    add(row, zero, i, 2.0, 0.0, 0.0)
            else:
                add(bound.coefficients, zero, i, float(np.abs(bound.coefficients).max(initial=0.0)) + 1.0, bound.low, bound.high)
        solved = milp(
            np.concatenate([np.zeros(2 * d), np.ones(e)]),
            constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
            bounds=Bounds(np.zeros(2 * d + e), np.concatenate([np.ones(2 * d), np.where(kept, 0.0, 1.0)])),
            integrality=np.repeat([0, 1 if self._constraints.counted else 0, 1], [d, d, e]),
        )
        return None if solved.x is None else np.asarray(solved.x[2 * d :] > 0.5)

    def relief(self, i: int) -> float | None:
        """What the sum of constraint `i` would have to be for a mixture that keeps all others, or None."""
        if i >= self._linear:
            return None
        bound = self.bounds[i]
        units = Units.of(self._natural, self._constraints.tied)
        others = replace(self._constraints, bounds=tuple(b for j, b in enumerate(self._constraints.bounds) if j != i))
        row = units.shares @ bound.coefficients
        ends = [minimise(Region.of(others, units), sign * row) for sign in (1.0, -1.0)]
        if ends[0] is None or ends[1] is None:
            return None
        # As near to what was asked for as the others let it be.
        return float(np.clip(bound.low if np.isfinite(bound.low) else bound.high, ends[0].value, -ends[1].value))


AT_MOST, AT_LEAST, SMALLEST = "mixture.active.at_most", "mixture.active.at_least", "mixture.active.smallest"


def _proportions(members: NDArray[np.intp], natural: Array) -> Array:
    """Rows that are zero where the members keep their natural proportions, shape ``(k - 1, d)``."""
    shares = natural[members] / natural[members].sum() if natural[members].sum() > 0 else np.full(len(members), 1 / len(members))
    first = int(np.argmax(shares))
    rows = np.zeros((len(members), len(natural)))
    rows[np.arange(len(members)), members] = shares[first]
    rows[:, members[first]] -= shares
    return np.delete(rows, first, axis=0)


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
