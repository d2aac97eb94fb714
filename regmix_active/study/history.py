"""The history of a study as arrays: what strategies, surrogates and recommendations learn from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.study.target import Target


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
    """

    space: MixtureSpace
    target: Target
    mixtures: Mixtures
    losses: NDArray[np.float64]
    slots: NDArray[np.int64]
    diverged: Mixtures = field(default_factory=lambda: np.empty((0, 0)))
    diverged_slots: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.mixtures)

    @property
    def known(self) -> int:
        """Runs that tell of every loss: of the loss that fewest were measured on, how many; imported runs may lack some."""
        return int((~np.isnan(self.losses)).sum(axis=0).min()) if len(self) else 0

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The target of each finished proxy, shape ``(n,)``, nats per token; NaN where a loss that it weighs is missing."""
        return self.target(self.losses)

    @property
    def best(self) -> int:
        """Row of the finished proxy with the smallest target.

        Raises:
            ValueError: If no proxy has all losses that the target weighs.
        """
        return int(np.nanargmin(self.values))

    def before(self, slot: int) -> History:
        """What was known before `slot` was proposed (rounds are synchronous, so every earlier slot had ended)."""
        rows, failed = self.slots < slot, self.diverged_slots < slot
        return replace(
            self,
            mixtures=self.mixtures[rows],
            losses=self.losses[rows],
            slots=self.slots[rows],
            diverged=self.diverged[failed],
            diverged_slots=self.diverged_slots[failed],
        )
