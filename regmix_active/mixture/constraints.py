"""What a mixture must satisfy, beside being one: bounds on weighed sums, how many domains it uses, weights that go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

USED = 2e-4
"""Least weight of a domain that counts as used (RegMix's grain)."""


@dataclass(frozen=True)
class Bound:
    """One constraint: a weighed sum of weights lies between two numbers.

    Attributes:
        key: Where it comes from, such as ``mixture.caps.web``; messages name it.
        text: In words, such as ``web at most 0.5``.
        coefficients: Shape ``(d,)``; a single 1 bounds a domain, ones over some domains bound a group.
        low: Smallest sum; minus infinity for none.
        high: Largest sum; infinity for none.
    """

    key: str
    text: str
    coefficients: Array
    low: float = -np.inf
    high: float = np.inf

    def excess(self, mixtures: Array) -> Array:
        """By how much mixtures ``(n, d)`` break it, shape ``(n,)``; at most 0 where they keep it."""
        sums = mixtures @ self.coefficients
        worst: Array = np.maximum(self.low - sums, sums - self.high)
        return worst


@dataclass(frozen=True)
class Constraints:
    """All that narrows the simplex.

    Attributes:
        bounds: Floors, caps, fixed shares, groups and limits on epochs.
        at_least: Domains that a mixture uses at least.
        at_most: Domains that it uses at most; None for all.
        smallest: A domain that is used has at least this weight; where their number counts, never less than :data:`USED`.
        tied: Sets of domains (indices) that keep the proportions of the natural mixture among themselves; disjoint.
    """

    bounds: tuple[Bound, ...] = ()
    at_least: int = 1
    at_most: int | None = None
    smallest: float = 0.0
    tied: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.at_least > 1 and self.smallest < USED:
            object.__setattr__(self, "smallest", USED)

    @property
    def none(self) -> bool:
        """Whether every mixture is allowed."""
        return not (self.bounds or self.tied or self.counted)

    @property
    def counted(self) -> bool:
        """Whether it matters which domains a mixture uses."""
        return self.at_most is not None or self.at_least > 1 or self.smallest > 0


@dataclass(frozen=True)
class Units:
    """Weights that go together are one unknown: a unit is a domain, or a set of tied ones.

    Attributes:
        shares: Weight of every domain in a mixture of one unit alone, shape ``(k, d)``.
        size: Domains that a unit uses, shape ``(k,)``.
    """

    shares: Array
    size: NDArray[np.int64]

    @classmethod
    def of(cls, natural: Array, tied: Sequence[Sequence[int]]) -> Units:
        """The units of a space.

        Args:
            natural: The natural mixture, shape ``(d,)``.
            tied: Disjoint sets of domains.
        """
        d = len(natural)
        rest = [(i,) for i in range(d) if not any(i in members for members in tied)]
        groups = sorted([*map(tuple, tied), *rest], key=min)
        shares = np.zeros((len(groups), d))
        for unit, members in zip(shares, groups, strict=True):
            chosen = natural[list(members)]
            unit[list(members)] = chosen / chosen.sum() if chosen.sum() > 0 else 1 / len(members)
        return cls(shares, (shares > 0).sum(axis=1))

    @property
    def free(self) -> bool:
        """Whether every domain is its own unit."""
        return len(self.shares) == self.shares.shape[1]

    @cached_property
    def members(self) -> Array:
        """1 where a domain belongs to a unit, shape ``(d, k)``: sums weights to units."""
        return (self.shares > 0).T.astype(np.float64)

    def collapse(self, mixtures: Array) -> Array:
        """Weights of units, shape ``(n, k)``."""
        return mixtures if self.free else mixtures @ self.members

    def expand(self, units: Array) -> Array:
        """Weights of domains, shape ``(n, d)``."""
        return units if self.free else units @ self.shares


@dataclass(frozen=True)
class Region:
    """A polytope of unit weights y: ``lower <= y <= upper``, ``low <= rows y <= high``, and their sum is 1.

    Attributes:
        lower: Shape ``(k,)``.
        upper: Shape ``(k,)``.
        rows: Coefficients of sums of several units, shape ``(g, k)``.
        low: Shape ``(g,)``.
        high: Shape ``(g,)``.
        smallest: Weight of a unit that is used, shape ``(k,)``.
        size: Domains in a unit, shape ``(k,)``.
        at_least: Domains used at least.
        at_most: Domains used at most.
        counted: Whether it matters which units are used.
    """

    lower: Array
    upper: Array
    rows: Array
    low: Array
    high: Array
    smallest: Array
    size: NDArray[np.int64]
    at_least: int
    at_most: int
    counted: bool = field(default=False)

    @classmethod
    def of(cls, constraints: Constraints, units: Units) -> Region:
        """The constraints in units, those on one unit as its bounds."""
        k = len(units.size)
        lower, upper = np.zeros(k), np.ones(k)
        sums: dict[bytes, list[float]] = {}
        rows: list[Array] = []
        for bound in constraints.bounds:
            row = units.shares @ bound.coefficients
            touched = np.flatnonzero(np.abs(row) > 1e-15)
            if len(touched) == 1 and row[touched[0]] > 0:
                unit = touched[0]
                lower[unit] = max(lower[unit], bound.low / row[unit])
                upper[unit] = min(upper[unit], bound.high / row[unit])
            elif (key := row.tobytes()) in sums:
                sums[key] = [max(sums[key][0], bound.low), min(sums[key][1], bound.high)]
            else:
                sums[key] = [bound.low, bound.high]
                rows.append(row)
        low, high = (np.array([sums[row.tobytes()][side] for row in rows]) for side in (0, 1))
        used = units.shares.max(axis=1, where=units.shares > 0, initial=0.0)
        least = np.where(units.shares > 0, units.shares, np.inf).min(axis=1)
        smallest = np.where(used > 0, constraints.smallest / least, 0.0)
        at_most = constraints.at_most if constraints.at_most is not None else int(units.size.sum())
        shape = np.array(rows).reshape(len(rows), k)
        return cls(lower, upper, shape, low, high, smallest, units.size, constraints.at_least, at_most, constraints.counted)

    @property
    def dim(self) -> int:
        """Number of units, k."""
        return len(self.lower)

    def with_support(self, active: NDArray[np.bool_]) -> Region:
        """Those mixtures that use exactly the units of a mask ``(k,)``; nothing is left to count."""
        lower = np.where(active, np.maximum(self.lower, self.smallest), 0.0)
        return replace(self, lower=lower, upper=np.where(active, self.upper, 0.0), counted=False)
