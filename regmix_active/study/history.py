"""The history of a study as arrays: what strategies, surrogates and recommendations learn from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.study.target import Target

SAME = 1e-6
"""Mixtures whose weights differ by no more than this altogether are the same one."""


@dataclass(frozen=True)
class History:
    """Finished proxies in the order of their slots, so that whatever is computed from them does not depend on who ended first.

    Attributes:
        space: The feasible set.
        target: What is minimised.
        mixtures: Shape ``(n, d)``.
        losses: Nats per token, shape ``(n, m)``, columns as ``target.loss_names``; NaN where a metric is missing.
        slots: Slot of each row, shape ``(n,)``; negative for runs that were imported, which were there before any proxy.
        diverged: Mixtures whose proxies diverged, shape ``(f, d)``: they have no losses, and their neighbourhood is avoided.
        diverged_slots: Their slots, shape ``(f,)``.
        targets: Two or more of which a trade-off is sought; default: the target alone.
        replicates: Number of the seed that each row was trained with, shape ``(n,)``; 0, the study's own, by default. See
            :mod:`regmix_active.study.noise`.

    Raises:
        ValueError: If `replicates` are not one per row.
    """

    space: MixtureSpace
    target: Target
    mixtures: Mixtures
    losses: NDArray[np.float64]
    slots: NDArray[np.int64]
    diverged: Mixtures = field(default_factory=lambda: np.empty((0, 0)))
    diverged_slots: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    targets: tuple[Target, ...] = ()
    replicates: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        """One target is its own list, also after :func:`dataclasses.replace` has set another."""
        if len(self.targets) < 2:
            object.__setattr__(self, "targets", (self.target,))
        if len(self.replicates) != len(self.mixtures):
            if self.replicates.any():
                raise ValueError(f"{len(self.mixtures)} mixtures, but {len(self.replicates)} seeds (replicates)")
            object.__setattr__(self, "replicates", np.zeros(len(self.mixtures), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.mixtures)

    @property
    def known(self) -> int:
        """Runs that tell of every loss: of the loss that fewest were measured on, how many; imported runs may lack some."""
        return int((~np.isnan(self.losses)).sum(axis=0).min()) if len(self) else 0

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The target of each finished proxy, shape ``(n,)``, in the target's unit; NaN where a loss that it weighs is missing."""
        return self.target(self.losses, self.references)

    @cached_property
    def references(self) -> NDArray[np.float64]:
        """Observed losses of the natural mixture, shape ``(m,)``, nats per token; NaN for a loss that was never observed.

        The mean where it was trained more than once; the losses of the trained mixture nearest to it where it never was.
        """
        references = np.full(self.losses.shape[1], np.nan)
        distance = np.abs(self.mixtures - self.space.natural).sum(axis=1)
        for j, column in enumerate(self.losses.T):
            if (seen := ~np.isnan(column)).any():
                nearest = distance[seen].min()
                references[j] = column[seen & (distance <= max(nearest, SAME) + 1e-12)].mean()
        return references

    @cached_property
    def feasible(self) -> NDArray[np.bool_]:
        """Which finished proxies are in the feasible set and kept the target's limits, by their observed losses, shape ``(n,)``.

        Constraints may have changed since a mixture was trained.
        """
        return self._allowed & (self.violations == 0)

    @cached_property
    def violations(self) -> NDArray[np.float64]:
        """By how much each proxy broke the target's limits, nats per token, shape ``(n,)``; see :meth:`Target.violations`."""
        return self.target.violations(self.losses, self.references)

    @cached_property
    def _allowed(self) -> NDArray[np.bool_]:
        # Stored weights are rounded: a constraint missed by a millionth was kept.
        return self.space.feasible(self.mixtures, tolerance=1e-6)

    @property
    def best(self) -> int:
        """Row of the finished proxy with the smallest target among the :attr:`feasible` ones; if there is none, among those that
        came nearest to keeping the limits.

        Raises:
            ValueError: If no proxy has all losses that the target weighs.
        """
        known = ~np.isnan(self.values)
        if not known.any():
            raise ValueError("no finished proxy has all losses that the target weighs")
        rows = known & self._allowed if (known & self._allowed).any() else known
        rows &= self.violations == self.violations[rows].min()
        return int(np.argmin(np.where(rows, self.values, np.inf)))

    def before(self, slot: int) -> History:
        """What was known before `slot` was proposed (rounds are synchronous, so every earlier slot had ended)."""
        rows, failed = self.slots < slot, self.diverged_slots < slot
        return replace(
            self,
            mixtures=self.mixtures[rows],
            losses=self.losses[rows],
            slots=self.slots[rows],
            replicates=self.replicates[rows],
            diverged=self.diverged[failed],
            diverged_slots=self.diverged_slots[failed],
        )
