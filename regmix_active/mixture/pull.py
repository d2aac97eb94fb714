"""A preference for mixtures near a given one: what the losses of proxies do not say about a mixture may still speak for caution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FLOOR = 1e-4
"""Share below which no domain of the preferred mixture counts: a weight where it has none would be infinitely far."""


@dataclass(frozen=True)
class Pull:
    """A penalty that grows with the distance from a mixture.

    Attributes:
        towards: The preferred mixture, shape ``(d,)``.
        strength: Nats per token for a distance of one.
        kind: ``kl``, the Kullback-Leibler divergence from it in nats, or ``l1``, the sum of absolute differences.
    """

    towards: Array
    strength: float
    kind: Literal["kl", "l1"] = "kl"

    def penalty(self, mixtures: Array) -> Array:
        """What it adds to the target of mixtures ``(n, d)``, shape ``(n,)``, nats per token."""
        if self.kind == "l1":
            return self.strength * np.abs(mixtures - self.towards).sum(axis=1)
        ratio = np.maximum(mixtures, 1e-300) / self._reference
        return self.strength * (np.where(mixtures > 0, mixtures * np.log(ratio), 0.0)).sum(axis=1)

    def slope(self, mixtures: Array) -> Array:
        """Its derivative by the weights, shape ``(n, d)``."""
        if self.kind == "l1":
            return self.strength * np.sign(mixtures - self.towards)
        return self.strength * (np.log(np.maximum(mixtures, 1e-12) / self._reference) + 1)

    @property
    def _reference(self) -> Array:
        floored = np.maximum(self.towards, FLOOR)
        return floored / floored.sum()
