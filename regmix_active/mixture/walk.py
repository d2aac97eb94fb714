"""Random mixtures of a polytope, with the uniform or a Dirichlet density: many Markov chains at once, one per mixture.

A step moves weight between two units and keeps all others. Along that line the feasible part is an interval, and the density of the
moved weight is a Beta density cut to it: drawn exactly where it is uniform, else by an independent Beta draw (kept if it is inside)
or a slice step. On the plain simplex such a walk forgets its start after a number of steps that grows as d log d [1]. Where groups
overlap, two units are not enough: a step along a random direction in which all fixed sums stay (hit and run [2]) is added. The
slice steps use one auxiliary variable per weight [3]. Nothing is ever drawn outside and thrown away.

References:
    [1] A. Smith, A Gibbs sampler on the n-simplex, Annals of Applied Probability 24, 2014.
    [2] R. L. Smith, Efficient Monte Carlo Procedures for Generating Points Uniformly Distributed over Bounded Regions, Operations
        Research 32, 1984.
    [3] Damien, Wakefield and Walker, Gibbs Sampling for Bayesian Non-conjugate and Hierarchical Models by Using Auxiliary
        Variables, JRSS B 61, 1999.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.constraints import Array, Region

SWEEPS = 60
"""Sweeps after which a chain has forgotten its start; tests/statistical/test_polytope_sampling.py holds it to that."""

RUN_EVERY = 3
"""Sweeps between two steps along a random direction."""

FIXED = 1e-12
"""Sums whose bounds are this close do not move."""


class Walk:
    """Chains, one per row; each sweep makes as many steps as half the units."""

    def __init__(
        self,
        region: Region,
        start: Array,
        alpha: Array | None,
        active: NDArray[np.bool_],
        rng: np.random.Generator,
        *,
        crossing: bool,
    ) -> None:
        """Begin somewhere inside.

        Args:
            region: The polytope.
            start: Feasible mixtures, shape ``(n, k)``.
            alpha: Parameters of the Dirichlet density, shape ``(n, k)``; None for the uniform density. A weight whose parameter is
                zero stays as it is.
            active: Which units each chain uses, shape ``(n, k)``; what is not used stays zero.
            rng: Source of randomness.
            crossing: Whether groups overlap, or bounds are relative, so that steps between two units are not enough.
        """
        self._rng, self._region = rng, region
        # Units first: a step reads and writes two of them for all chains.
        self._y = np.ascontiguousarray(start.T)
        self._alpha = None if alpha is None else np.ascontiguousarray(alpha.T)
        self._lower = np.maximum(region.lower, region.smallest) if region.counted else region.lower
        self._upper = region.upper
        self._sums = region.rows @ self._y
        moving = active & (self._upper - self._lower > FIXED)
        self._shared = bool((moving == moving[:1]).all())
        self._units = np.flatnonzero(moving[0]) if self._shared and len(moving) else np.empty(0, dtype=np.intp)
        self._ranks = np.argsort(~moving, axis=1, kind="stable")
        self._count = moving.sum(axis=1)
        self._chains = np.arange(len(start))
        self._moving, self._crossing = moving, crossing

    def sweep(self, times: int = SWEEPS) -> Array:
        """Move all chains; where they are then, shape ``(n, k)``."""
        for i in range(times):
            if self._shared:
                order = self._rng.permutation(self._units)
                for a, b in zip(order[::2], order[1::2], strict=False):
                    self._exchange(a, b)
            else:
                for _ in range(int(self._count.max(initial=0)) // 2):
                    self._exchange(*self._pairs())
            if self._crossing and i % RUN_EVERY == 0:
                self._run()
            # Rounding must not add up over thousands of steps.
            np.clip(self._y, 0.0, None, out=self._y)
            self._sums = self._region.rows @ self._y
        return np.array(self._y.T)

    def _pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Two different moving units of every chain; the same one twice where there is only one."""
        few = np.maximum(self._count, 1)
        first = self._rng.integers(few)
        second = (first + 1 + self._rng.integers(np.maximum(few - 1, 1))) % few
        return self._ranks[self._chains, first], self._ranks[self._chains, second]

    def _exchange(self, a: NDArray[np.intp], b: NDArray[np.intp]) -> None:
        """Move weight from b to a, in all chains."""
        y, region = self._y, self._region
        at = slice(None) if self._shared else self._chains
        x, z = y[a, at], y[b, at]
        least = np.maximum(self._lower[a] - x, z - self._upper[b])
        most = np.minimum(self._upper[a] - x, z - self._lower[b])
        slopes = region.rows[:, a] - region.rows[:, b]
        touched = [i for i, slope in enumerate(slopes) if np.any(slope)]
        for i in touched:
            least, most = _narrowed(least, most, slopes[i], region.low[i] - self._sums[i], region.high[i] - self._sums[i])
        least, most = np.minimum(least, 0.0), np.maximum(most, 0.0)
        if self._alpha is None:
            move = least + self._rng.random(len(least)) * (most - least)
        else:
            move = self._beta_move(x, z, self._alpha[a, at], self._alpha[b, at], least, most)
        if not self._shared:
            move = np.where(a == b, 0.0, move)
        y[a, at] = x + move
        y[b, at] = np.where(a == b, x, z - move) if not self._shared else z - move
        for i in touched:
            self._sums[i] += slopes[i] * move

    def _beta_move(self, x: Array, z: Array, a: Array, b: Array, least: Array, most: Array) -> Array:
        """How much a step moves when the density of ``x`` is ``x^(a-1) z^(b-1)`` with a fixed sum of both, shape ``(n,)``."""
        free = (a > 0) & (b > 0)
        if self._rng.random() < 0.5:
            move = (x + z) * self._rng.beta(np.maximum(a, 1e-9), np.maximum(b, 1e-9)) - x
            return np.where(free & (move >= least) & (move <= most), move, 0.0)
        x_low, x_high = self._slice(x, a)
        z_low, z_high = self._slice(z, b)
        least = np.maximum(least, np.maximum(x_low - x, z - z_high))
        most = np.minimum(most, np.minimum(x_high - x, z - z_low))
        least, most = np.minimum(least, 0.0), np.maximum(most, 0.0)
        return np.where(free, least + self._rng.random(len(x)) * (most - least), 0.0)

    def _slice(self, weights: Array, alpha: Array) -> tuple[Array, Array]:
        """Interval in which ``w^(alpha-1)`` is above a uniform part of what it is now; each end of the weights' shape."""
        power = alpha - 1
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            end = weights * self._rng.random(weights.shape) ** (1 / np.where(power == 0, 1.0, power))
        end = np.where(weights > 0, end, 0.0)
        return np.where(power > 0, end, 0.0), np.where(power < 0, end, np.inf)

    def _run(self) -> None:
        """A step along a random direction of its own in every chain, in which all fixed sums stay."""
        region, y, moving = self._region, self._y, self._moving.T
        step = self._rng.standard_normal(y.shape) * moving
        fixed = np.concatenate([np.ones((1, region.dim)), region.rows[region.high - region.low < FIXED]])
        gram = np.einsum("gk,kn,hk->ngh", fixed, moving.astype(float), fixed, optimize=True)
        # Twice, for the small part of the fixed sums that rounding leaves of the first time.
        inverse = np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
        for _ in range(2):
            step -= moving * (fixed.T @ np.einsum("ngh,hn->gn", inverse, fixed @ step))
        lower, upper = np.broadcast_to(self._lower[:, None], y.shape), np.broadcast_to(self._upper[:, None], y.shape)
        free = np.ones(y.shape[1], dtype=bool)
        if self._alpha is not None:
            low, high = self._slice(y, self._alpha)
            lower, upper = np.maximum(lower, np.minimum(low, y)), np.minimum(upper, np.maximum(high, y))
            free = np.asarray(((self._alpha > 0) | ~moving).all(axis=0))
        along = moving & (np.abs(step) > 1e-12)
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([lower - y, upper - y]) / step
        least = np.where(along, ends.min(axis=0), -np.inf).max(axis=0)
        most = np.where(along, ends.max(axis=0), np.inf).min(axis=0)
        slopes = region.rows @ step
        for slope, low_, high_, sums in zip(slopes, region.low, region.high, self._sums, strict=True):
            if high_ - low_ >= FIXED:
                least, most = _narrowed(least, most, slope, low_ - sums, high_ - sums)
        free = free & along.any(axis=0)
        least, most = np.where(free, np.minimum(least, 0.0), 0.0), np.where(free, np.maximum(most, 0.0), 0.0)
        y += np.where(along, step, 0.0) * (least + self._rng.random(len(least)) * (most - least))
        self._sums = region.rows @ y


def _narrowed(least: Array, most: Array, slope: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """The part of an interval of steps on which ``low <= slope * step <= high``; `slope` is one number, or one per chain."""
    if not slope.any():
        return least, most
    if slope.size == 1:
        ends = (low / slope, high / slope) if slope > 0 else (high / slope, low / slope)
        return np.maximum(least, ends[0]), np.minimum(most, ends[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = low / slope, high / slope
    most_here = np.where(slope > 0, other, np.where(slope < 0, one, np.inf))
    least_here = np.where(slope > 0, one, np.where(slope < 0, other, -np.inf))
    return np.maximum(least, least_here), np.minimum(most, most_here)
