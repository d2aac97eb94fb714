"""The shape of a feasible set: mixtures made feasible, random ones, and one well inside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import ConfigError
from regmix_active.mixture.constraints import Array, Constraints, Region, Units
from regmix_active.mixture.explain import clash
from regmix_active.mixture.programs import centre, minimise
from regmix_active.mixture.repair import Node, repaired, tree
from regmix_active.mixture.walk import Walk

SUPPORTS = 8
"""Sets of used domains that are known to be feasible, where only some may be used."""

TRIES = 8
"""Times that a random mixture is drawn anew whose used domains hold no feasible one."""

INACTIVE = 1e-9
"""Weights below this are none."""


class InfeasibleError(ConfigError, ValueError):
    """No mixture satisfies all constraints."""


@dataclass(frozen=True)
class Supports:
    """Feasible choices of the units that a mixture uses, each with a mixture well inside.

    Attributes:
        active: Shape ``(s, k)``.
        centres: Shape ``(s, k)``.
    """

    active: NDArray[np.bool_]
    centres: Array


class Geometry:
    """Projection and sampling, in weights of domains outside and of units inside."""

    def __init__(self, constraints: Constraints, natural: Array) -> None:
        """Describe the set; nothing is solved yet.

        Args:
            constraints: What narrows the simplex.
            natural: The natural mixture, shape ``(d,)``; tied domains keep its proportions.
        """
        self.units = Units.of(natural, constraints.tied)
        self.region = Region.of(constraints, self.units)
        self._natural = self.units.collapse(natural[None])[0]
        self._constraints, self._shares = constraints, natural

    @cached_property
    def supports(self) -> Supports:
        """Known supports: one where all units may be used, else up to :data:`SUPPORTS` of random mixed-integer programs.

        Raises:
            InfeasibleError: If there is no mixture at all.
        """
        region = self.region
        if not region.counted:
            inside = centre(region)
            if inside is None:
                raise InfeasibleError(self._why_empty())
            return Supports(np.ones((1, region.dim), dtype=bool), inside[None])
        rng = np.random.default_rng(0)  # part of the set's shape, not of any draw
        found: dict[bytes, tuple[NDArray[np.bool_], Array]] = {}
        for i in range(SUPPORTS):
            per_use = -self._natural if i == 0 else rng.standard_normal(region.dim) / region.dim
            best = minimise(region, np.zeros(region.dim), per_use)
            if best is None:
                raise InfeasibleError(self._why_empty())
            inside = centre(region.with_support(best.active))
            if inside is not None:
                found[best.active.tobytes()] = best.active, inside
        return Supports(np.array([a for a, _ in found.values()]), np.array([c for _, c in found.values()]))

    @cached_property
    def empty(self) -> bool:
        """Whether no mixture satisfies all constraints; says so without the reason, which takes longer."""
        return minimise(self.region, np.zeros(self.region.dim), np.zeros(self.region.dim)) is None

    def _why_empty(self) -> str:
        """The smallest set of constraints that clash; or that they only just miss each other, below what programs resolve."""
        found = clash(self._constraints, self._shares)
        if found is not None:
            return str(found)
        return (
            "no mixture satisfies all constraints exactly: they miss each other by less than 1e-6, as three fixed shares of "
            "0.333333 do, whose sum is not 1; give more digits, or leave one of them open"
        )

    @cached_property
    def centre(self) -> Array:
        """A mixture well inside, shape ``(d,)``."""
        return self.units.expand(self.supports.centres[:1])[0]

    @cached_property
    def _tree(self) -> tuple[Node, NDArray[np.intp]]:
        root, kept = tree(self.region)
        return root, np.flatnonzero(~kept)

    def project(self, mixtures: Array) -> Array:
        """Feasible mixtures near given ones, shape ``(n, d)``."""
        rows = np.clip(self.units.collapse(mixtures), 0.0, None)
        return self.units.expand(self._repair(rows, self._support(rows)))

    def sample(self, n: int, concentration: Array | None, rng: np.random.Generator, sweeps: int) -> Array:
        """Random mixtures, shape ``(n, d)``.

        Args:
            n: How many.
            concentration: Parameters of the Dirichlet density per domain, shape ``(n, d)``; None for the uniform density.
            rng: Source of randomness.
            sweeps: Of the walk that makes feasible starts into draws.
        """
        if n == 0:
            return np.empty((0, self.units.shares.shape[1]))
        alpha = None if concentration is None else self.units.collapse(concentration)
        shape = np.ones((n, self.region.dim)) if alpha is None else alpha
        draws = gamma_shares(shape, rng)
        active = self._support(draws, rng)
        if not self.region.counted:
            start = self._repair(draws, active)
        else:
            start = self._attempt(draws, active)
            for _ in range(TRIES):
                if not len(lost := np.flatnonzero(np.isnan(start).any(axis=1))):
                    break
                draws[lost] = gamma_shares(shape[lost], rng)
                active[lost] = self._support(draws[lost], rng)
                start[lost] = self._attempt(draws[lost], active[lost])
            lost = np.flatnonzero(np.isnan(start).any(axis=1))
            start[lost] = self._repair(draws[lost], active[lost])
            active = start > 0
        walk = Walk(self.region, start, alpha, active, rng, crossing=len(self._tree[1]) > 0)
        return self.units.expand(self._repair(walk.sweep(sweeps), active))

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Fewest and most domains that a feasible mixture may use."""
        ends = []
        for sign in (1.0, -1.0):
            best = minimise(self.region, np.zeros(self.region.dim), sign * self.region.size.astype(np.float64), exact=True)
            ends.append(0 if best is None else int(self.region.size[best.active].sum()))
        return max(ends[0], 1), max(ends[1], 1)

    def _support(self, rows: Array, rng: np.random.Generator | None = None) -> NDArray[np.bool_]:
        """Which units each row may use, shape ``(n, k)``: first those that every mixture uses, then the largest of each group that
        must have some weight, then the largest of all, until as many domains are used as are wanted.

        Args:
            rows: Shape ``(n, k)``.
            rng: Draws how many domains are used, uniformly of the numbers that are possible; default: those with weight.
        """
        region = self.region
        if not region.counted:
            return np.ones(rows.shape, dtype=bool)
        possible = region.upper >= np.maximum(region.lower, region.smallest)
        forced = region.lower > 0
        # Half of the smallest weight is nearer to nothing than to it.
        wanted = forced | (rows > INACTIVE) & ((rows >= region.smallest / 2) if rng is None else True)
        rank = rows + np.where(wanted, 1.0, 0.0)
        for row, low in zip(region.rows, region.low, strict=True):
            members = (row > 0) & possible
            if low > 0 and members.any():
                first = np.argmax(np.where(members, rank, -1.0), axis=1)
                rank[np.arange(len(rows)), first] += 2.0
        rank += np.where(forced, 2.0 * (len(region.rows) + 1), 0.0)
        order = np.argsort(-np.where(possible, rank, -1.0), axis=1, kind="stable")
        sizes = np.where(possible, region.size, 0)[order]
        fewest, most = self._counts
        if rng is None:
            goal = (sizes * np.take_along_axis(wanted, order, axis=1)).sum(axis=1).clip(fewest, most)
        else:
            goal = rng.integers(fewest, most, size=len(rows), endpoint=True)
        total = np.cumsum(sizes, axis=1)
        # A unit of several domains may overshoot what is wanted, but not what is allowed.
        fits = (sizes > 0) & ((total <= goal[:, None]) | (total - sizes < fewest) & (total <= most))
        active = np.zeros(rows.shape, dtype=bool)
        np.put_along_axis(active, order, fits, axis=1)
        return active

    def _attempt(self, rows: Array, active: NDArray[np.bool_]) -> Array:
        """Rows made feasible with the units of a mask, both ``(n, k)``; NaN where these units were found to hold no mixture."""
        root, others = self._tree
        inside = np.full(rows.shape, np.nan) if self.region.counted else self.supports.centres[0]
        with np.errstate(invalid="ignore"):
            return repaired(self.region, root, others, rows, active, inside)

    def _repair(self, rows: Array, active: NDArray[np.bool_]) -> Array:
        """Rows made feasible; those whose units hold no mixture take the units of the known support that keeps most of them."""
        root, others = self._tree
        found = self._attempt(rows, active)
        if len(lost := np.flatnonzero(np.isnan(found).any(axis=1))):
            known = self.supports
            best = np.argmax(rows[lost] @ known.active.T + 1e-6 * (rows[lost] > 0) @ known.active.T.astype(float), axis=1)
            inside = known.centres[best]
            found[lost] = repaired(self.region, root, others, rows[lost], known.active[best], inside)
            still = lost[np.isnan(found[lost]).any(axis=1)]
            found[still] = inside[np.isin(lost, still)]
        return found


def gamma_shares(alpha: Array, rng: np.random.Generator) -> Array:
    """Dirichlet draws, shape ``(n, k)``; a parameter of zero gives a weight of zero."""
    # Dividing gamma draws: at small parameters all of them can underflow, so scale in logarithms
    # through G(a) = G(a + 1) * U^(1/a).
    with np.errstate(divide="ignore", over="ignore"):
        log_draws = np.log(rng.standard_gamma(alpha + 1)) + np.log(rng.random(alpha.shape)) / alpha
    log_draws -= log_draws.max(axis=1, keepdims=True)
    draws = np.exp(log_draws)
    shares: Array = draws / draws.sum(axis=1, keepdims=True)
    return shares
