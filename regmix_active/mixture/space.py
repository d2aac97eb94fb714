"""The feasible set of mixtures: weights over named domains, each at least 0, summing to 1, within whatever constraints there are.

A weight is a share of training tokens. Every mixture that is designed, proposed, simulated, recommended or exported passes through
one :class:`MixtureSpace`, so that what is feasible is decided in one place: :mod:`~regmix_active.mixture.constraints` says what can
be asked, :mod:`~regmix_active.mixture.geometry` finds mixtures that keep it, and :mod:`~regmix_active.mixture.explain` says why
there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.geometry import Geometry, gamma_shares
from regmix_active.mixture.pull import Pull
from regmix_active.mixture.rounding import round_weights
from regmix_active.mixture.walk import SWEEPS

Mixtures = NDArray[np.float64]
"""Weights, shape ``(n, d)``; rows sum to 1."""

TOLERANCE = 1e-6
"""How far a row may be from its sum, or from a constraint, before it is refused instead of mended."""

EXACT = 1e-9
"""How far a feasible mixture may be from a constraint."""


@dataclass(frozen=True)
class MixtureSpace:
    """Mixtures over named domains that satisfy all constraints; without any, the simplex.

    Attributes:
        domains: Names, in the order of every weight vector; at least two, all different.
        natural: The mixture that the data has by itself, shape ``(d,)``; ≥ 0, sums to 1. It may be infeasible.
        constraints: What narrows the simplex.
        prior: What random mixtures are drawn around, shape ``(d,)``; default: the natural mixture flattened by a square root, as
            RegMix does.
        pull: A preference for mixtures near a given one.

    Raises:
        ValueError: If names repeat, shapes differ, or `natural` or `prior` is not a mixture.
    """

    domains: tuple[str, ...]
    natural: NDArray[np.float64]
    constraints: Constraints = field(default_factory=Constraints)
    prior: NDArray[np.float64] = None  # type: ignore[assignment]  # filled in when the space is made
    pull: Pull | None = None

    def __post_init__(self) -> None:
        if len(self.domains) < 2 or len(set(self.domains)) < len(self.domains):
            raise ValueError(f"a mixture space needs two or more different domains, got {self.domains}")
        natural = np.asarray(self.natural, dtype=np.float64)
        if natural.shape != (len(self.domains),) or not np.isfinite(natural).all() or (natural < 0).any():
            raise ValueError(f"natural must hold one share >= 0 per domain, got {natural}")
        if abs(natural.sum() - 1) > TOLERANCE:
            raise ValueError(f"the natural shares sum to {natural.sum():.6g}, not to 1")
        object.__setattr__(self, "natural", natural / natural.sum())
        prior = np.sqrt(self.natural) if self.prior is None else np.asarray(self.prior, dtype=np.float64)
        if prior.shape != natural.shape or not np.isfinite(prior).all() or (prior < 0).any() or prior.sum() <= 0:
            raise ValueError(f"prior must hold one share >= 0 per domain, got {prior}")
        object.__setattr__(self, "prior", prior / prior.sum())

    @property
    def constrained(self) -> bool:
        """Whether anything narrows the simplex."""
        return not self.constraints.none

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """A mixture well inside, shape ``(d,)``; on the simplex the uniform one.

        Raises:
            InfeasibleError: If there is no mixture at all.
        """
        return self.uniform if not self.constrained else self._geometry.centre

    def capped(self, caps: NDArray[np.float64]) -> MixtureSpace:
        """A constrained space with further caps ``(d,)``, or the space itself where they would leave nothing; the simplex stays."""
        if not self.constrained:
            return self
        names = (f"{name} at most {cap:g}" for name, cap in zip(self.domains, caps, strict=True))
        eye = np.eye(self.dim)
        bounds = [Bound("", text, row, high=float(cap)) for text, row, cap in zip(names, eye, caps, strict=True) if cap < 1]
        narrower = replace(self, constraints=replace(self.constraints, bounds=(*self.constraints.bounds, *bounds)))
        return self if narrower._geometry.empty else narrower

    @cached_property
    def _geometry(self) -> Geometry:
        return Geometry(self.constraints, self.natural)

    @property
    def dim(self) -> int:
        """Number of domains, d."""
        return len(self.domains)

    @property
    def uniform(self) -> NDArray[np.float64]:
        """The mixture of equal weights, shape ``(d,)``."""
        return np.full(self.dim, 1 / self.dim)

    def check(self, mixtures: ArrayLike) -> Mixtures:
        """Weights as a float array of shape ``(n, d)`` whose rows sum to exactly 1 within rounding.

        Raises:
            ValueError: If a row is not feasible; the message names the row and what is wrong with it.
        """
        rows = np.atleast_2d(np.asarray(mixtures, dtype=np.float64))
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"mixtures must have {self.dim} weights each ({', '.join(self.domains)}), got shape {rows.shape}")
        for i, row in enumerate(rows):
            if not np.isfinite(row).all() or (row < -TOLERANCE).any():
                worst = self.domains[int(np.argmin(np.nan_to_num(row, nan=-np.inf)))]
                raise ValueError(f"mixture {i}: weight of '{worst}' is {row.min():.6g}; weights are finite and >= 0")
            if abs(row.sum() - 1) > TOLERANCE:
                raise ValueError(f"mixture {i}: weights sum to {row.sum():.9g}, not to 1")
        if self.constrained:
            for i in np.flatnonzero(~self.feasible(rows, TOLERANCE)).tolist():
                raise ValueError(f"mixture {i}: {self._broken(rows[i])}")
        return self.project(rows)

    def _broken(self, row: NDArray[np.float64]) -> str:
        """Which constraint a mixture breaks most."""
        bounds = (*self.constraints.bounds, *self._ties)
        excess = [float(bound.excess(row[None])[0]) for bound in bounds]
        if excess and max(excess) > TOLERANCE:
            worst = bounds[int(np.argmax(excess))]
            return f"{worst.text} ({worst.key}); it is off by {max(excess):.3g}"
        used = int((row > TOLERANCE).sum())
        rules = self.constraints
        return (
            f"it uses {used} domains, the least of them {row[row > TOLERANCE].min():.3g}; allowed are {rules.at_least} to "
            f"{rules.at_most or self.dim}, each at least {rules.smallest:g} (mixture.active)"
        )

    def feasible(self, mixtures: ArrayLike, tolerance: float = EXACT) -> NDArray[np.bool_]:
        """Which mixtures ``(n, d)`` satisfy every constraint up to a tolerance, shape ``(n,)``."""
        rows = np.atleast_2d(np.asarray(mixtures, dtype=np.float64))
        kept = np.isfinite(rows).all(axis=1) & (rows >= -tolerance).all(axis=1) & (np.abs(rows.sum(axis=1) - 1) <= tolerance)
        for bound in (*self.constraints.bounds, *self._ties):
            kept &= bound.excess(rows) <= tolerance
        if self.constraints.counted:
            used = rows > tolerance
            count = used.sum(axis=1)
            kept &= (count >= self.constraints.at_least) & (count <= (self.constraints.at_most or self.dim))
            kept &= (~used | (rows >= self.constraints.smallest - tolerance)).all(axis=1)
        return np.asarray(kept)

    def project(self, mixtures: ArrayLike) -> Mixtures:
        """Feasible mixtures near given ones, shape ``(n, d)``: for rounding errors, averages and draws around a mixture.

        On the simplex: clip at zero and divide by the sum.

        Raises:
            InfeasibleError: If there is no mixture at all.
        """
        rows = np.clip(np.atleast_2d(np.asarray(mixtures, dtype=np.float64)), 0.0, None)
        if not self.constrained:
            return rows / rows.sum(axis=1, keepdims=True)
        return self._geometry.project(rows)

    def dirichlet(self, n: int, concentration: ArrayLike, rng: np.random.Generator, sweeps: int = SWEEPS) -> Mixtures:
        """Draws of a Dirichlet distribution, on the feasible set: no draw is made outside and thrown away.

        Args:
            n: Number of mixtures.
            concentration: Parameters, shape ``(d,)`` or one row per draw ``(n, d)``; a parameter of zero fixes the weight at zero,
                or at the least that the constraints ask for.
            rng: Source of randomness.
            sweeps: Of the random walk where there are constraints; 0 moves draws of the simplex to the feasible set, which is
                enough for draws around a feasible mixture.
        """
        alpha = np.broadcast_to(np.asarray(concentration, dtype=np.float64), (n, self.dim))
        if self.constrained:
            return self._geometry.sample(n, alpha, rng, sweeps)
        return self.project(gamma_shares(alpha, rng))

    def sample(self, n: int, rng: np.random.Generator) -> Mixtures:
        """Mixtures all over the feasible set, uniformly (of a number of used domains where that is free), shape ``(n, d)``."""
        if self.constrained:
            return self._geometry.sample(n, None, rng, SWEEPS)
        return self.project(rng.standard_exponential((n, self.dim)))

    def round(self, weights: ArrayLike, decimals: int = 6) -> NDArray[np.float64]:
        """One mixture with few decimals that sums to 1 and satisfies every constraint to 1e-9, shape ``(d,)``.

        Args:
            weights: Shape ``(d,)``; made feasible first.
            decimals: Wanted; up to 12 are used where fewer cannot satisfy the constraints.
        """
        exact = self.project(weights)[0]
        return round_weights(exact, self.constraints.bounds, self.constraints.smallest, self._ties, decimals)

    def penalty(self, mixtures: Mixtures) -> NDArray[np.float64]:
        """What the pull adds to the target of mixtures ``(n, d)``, shape ``(n,)``, nats per token; zeros without one."""
        return np.zeros(len(mixtures)) if self.pull is None else self.pull.penalty(mixtures)

    @cached_property
    def _ties(self) -> tuple[Bound, ...]:
        """Tied proportions as equalities."""
        found = []
        for members in self.constraints.tied:
            shares = self.natural[list(members)]
            shares = shares / shares.sum() if shares.sum() > 0 else np.full(len(members), 1 / len(members))
            first = int(np.argmax(shares))
            for i, member in enumerate(members):
                if i != first:
                    row = np.zeros(self.dim)
                    row[member], row[members[first]] = 1.0, -shares[i] / shares[first]
                    text = f"{self.domains[member]} keeps its natural proportion to {self.domains[members[first]]}"
                    found.append(Bound("mixture.groups", text, row, 0.0, 0.0))
        return tuple(found)

    def as_dict(self, weights: ArrayLike) -> dict[str, float]:
        """One mixture by domain name."""
        return dict(zip(self.domains, np.asarray(weights, dtype=float).tolist(), strict=True))

    def from_dict(self, weights: Mapping[str, float]) -> NDArray[np.float64]:
        """One mixture from domain names; domains left out have weight zero.

        Raises:
            ValueError: If a name is unknown or the weights are not a mixture.
        """
        if unknown := sorted(set(weights) - set(self.domains)):
            raise ValueError(f"unknown domain {unknown[0]!r}; the domains are {', '.join(self.domains)}")
        row: NDArray[np.float64] = self.check([weights.get(name, 0.0) for name in self.domains])[0]
        return row
