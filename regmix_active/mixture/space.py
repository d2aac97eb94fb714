"""The feasible set of mixtures: weights over named domains, each at least 0, summing to 1.

A weight is a share of training tokens. Every mixture that is designed, proposed, simulated or recommended passes through one
:class:`MixtureSpace`, so that what is feasible is decided in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mixtures = NDArray[np.float64]
"""Weights, shape ``(n, d)``; rows sum to 1."""

TOLERANCE = 1e-6
"""How far a row's sum may be from 1 before it is refused instead of renormalised."""


@dataclass(frozen=True)
class MixtureSpace:
    """The simplex over named domains.

    Attributes:
        domains: Names, in the order of every weight vector; at least two, all different.
        natural: The mixture that the data has by itself, shape ``(d,)``; ≥ 0, sums to 1.

    Raises:
        ValueError: If names repeat, shapes differ, or `natural` is not a mixture.
    """

    domains: tuple[str, ...]
    natural: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.domains) < 2 or len(set(self.domains)) < len(self.domains):
            raise ValueError(f"a mixture space needs two or more different domains, got {self.domains}")
        natural = np.asarray(self.natural, dtype=np.float64)
        if natural.shape != (len(self.domains),) or not np.isfinite(natural).all() or (natural < 0).any():
            raise ValueError(f"natural must hold one share >= 0 per domain, got {natural}")
        if abs(natural.sum() - 1) > TOLERANCE:
            raise ValueError(f"the natural shares sum to {natural.sum():.6g}, not to 1")
        object.__setattr__(self, "natural", natural / natural.sum())

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
        return self.project(rows)

    def project(self, mixtures: ArrayLike) -> Mixtures:
        """Clip at zero and divide by the sum: for rounding errors and averages, shape ``(n, d)``."""
        rows = np.clip(np.atleast_2d(np.asarray(mixtures, dtype=np.float64)), 0.0, None)
        return rows / rows.sum(axis=1, keepdims=True)

    def dirichlet(self, n: int, concentration: ArrayLike, rng: np.random.Generator) -> Mixtures:
        """Draws of a Dirichlet distribution.

        Args:
            n: Number of mixtures.
            concentration: Parameters, shape ``(d,)`` or one row per draw ``(n, d)``; a parameter of zero fixes the weight at zero.
            rng: Source of randomness.
        """
        alpha = np.broadcast_to(np.asarray(concentration, dtype=np.float64), (n, self.dim))
        # Dividing gamma draws: at small parameters all of them can underflow, so scale in logarithms
        # through G(a) = G(a + 1) * U^(1/a).
        with np.errstate(divide="ignore", over="ignore"):
            log_draws = np.log(rng.standard_gamma(alpha + 1)) + np.log(rng.random((n, self.dim))) / alpha
        log_draws -= log_draws.max(axis=1, keepdims=True)
        return self.project(np.exp(log_draws))

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
