"""The shape of a feasible set: mixtures made feasible, random ones, and one well inside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import ConfigError
from regmix_active.mixture.constraints import Array, Constraints, Region, Units
from regmix_active.mixture.programs import centre, minimise
from regmix_active.mixture.repair import Node, repaired, tree
from regmix_active.mixture.walk import Walk

SUPPORTS = 8
"""Sets of used domains that are known to be feasible, where only some may be used."""

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
                raise InfeasibleError("no mixture satisfies all constraints (regmix-active doctor names those that clash)")
            return Supports(np.ones((1, region.dim), dtype=bool), inside[None])
        rng = np.random.default_rng(0)  # part of the set's shape, not of any draw
        found: dict[bytes, tuple[NDArray[np.bool_], Array]] = {}
        for i in range(SUPPORTS):
            per_use = -self._natural if i == 0 else rng.standard_normal(region.dim) / region.dim
            best = minimise(region, np.zeros(region.dim), per_use)
            if best is None:
                raise InfeasibleError("no mixture satisfies all constraints (regmix-active doctor names those that clash)")
            inside = centre(region.with_support(best.active))
            if inside is not None:
                found[best.active.tobytes()] = best.active, inside
        return Supports(np.array([a for a, _ in found.values()]), np.array([c for _, c in found.values()]))

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
        draws = gamma_shares(np.ones((n, self.region.dim)) if alpha is None else alpha, rng)
        active = self._support(draws, rng)
        start = self._repair(draws, active)
        if self.region.counted:
            active = start > 0
        walk = Walk(self.region, start, alpha, active, rng, crossing=len(self._tree[1]) > 0)
        return self.units.expand(self._repair(walk.sweep(sweeps), active))

    def _support(self, rows: Array, rng: np.random.Generator | None = None) -> NDArray[np.bool_]:
        """Which units each row may use: as many of its largest as are allowed; shape ``(n, k)``.

        Args:
            rows: Shape ``(n, k)``.
            rng: Draws how many are used, where that is free; default: those with weight.
        """
        region = self.region
        if not region.counted:
            return np.ones(rows.shape, dtype=bool)
        forced = region.lower > 0
        used = rows > INACTIVE
        # Half of the smallest weight is nearer to nothing than to it.
        worth = rows >= region.smallest / 2 if rng is None else used
        possible = region.upper >= np.maximum(region.lower, region.smallest)
        first = np.where(forced, 2.0, 0.0) + np.where(worth & used, 1.0, 0.0) + rows
        order = np.argsort(-np.where(possible, first, -1.0), axis=1, kind="stable")
        sizes = np.where(possible[order], region.size[order], 0)
        total = np.cumsum(sizes, axis=1)
        wanted = np.take_along_axis((worth & used) | forced, order, axis=1)
        goal = np.maximum((sizes * wanted).sum(axis=1), region.at_least)
        if rng is not None:
            most = min(region.at_most, int(region.size[possible].sum()))
            least = max(region.at_least, int(region.size[forced].sum()))
            goal = rng.integers(min(least, most), most, size=len(rows), endpoint=True)
        goal = np.minimum(goal, region.at_most)[:, None]
        fits = (total <= goal) & (sizes > 0) | ((total - sizes) < region.at_least) & (total <= region.at_most) & (sizes > 0)
        active = np.zeros(rows.shape, dtype=bool)
        np.put_along_axis(active, order, fits, axis=1)
        return active

    def _repair(self, rows: Array, active: NDArray[np.bool_]) -> Array:
        root, others = self._tree
        known = self.supports
        if not self.region.counted:
            return repaired(self.region, root, others, rows, active, known.centres[0])
        inside = np.full(rows.shape, np.nan)
        with np.errstate(invalid="ignore"):
            found = repaired(self.region, root, others, rows, active, inside)
        if len(lost := np.flatnonzero(np.isnan(found).any(axis=1))):
            # The known support that keeps most of the row's weight.
            best = np.argmax(rows[lost] @ known.active.T + 1e-6 * (rows[lost] > 0) @ known.active.T.astype(float), axis=1)
            active[lost] = known.active[best]
            found[lost] = repaired(self.region, root, others, rows[lost], known.active[best], known.centres[best])
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
