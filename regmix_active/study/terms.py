"""The parts of a target: its arithmetic once all references are numbers, and the limits that it sets to losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import ConfigError
from regmix_active.study.spec import ALL

SLACK = 1e-4
"""Nats by which a limit may be exceeded without being broken: the natural mixture keeps a limit at its own losses."""


@dataclass(frozen=True)
class Terms:
    """One term per loss, linear in it; the target is their sum, or the largest of those that count.

    Attributes:
        scale: What each loss is multiplied by, shape ``(m,)``; ≥ 0, and 0 for losses that do not count; NaN where a share of a
            reference is counted that is not known.
        offset: What is taken from each term, shape ``(m,)``, in the target's unit.
        worst: Whether the largest term is the target, not their sum.
    """

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    worst: bool = False

    @classmethod
    def of(cls, weights: NDArray[np.float64]) -> Terms:
        """A weighed sum, from weights of shape ``(m,)``."""
        return cls(weights, np.zeros_like(weights))

    @property
    def linear(self) -> bool:
        """Whether the target is linear in the losses: a sum, or the worst of one."""
        return not self.worst or int(self.counts.sum()) == 1

    @property
    def constant(self) -> float:
        """What is taken from the sum of a linear target."""
        return float(self.offset[self.counts].sum())

    @property
    def counts(self) -> NDArray[np.bool_]:
        """Which losses count, shape ``(m,)``."""
        counts: NDArray[np.bool_] = self.scale != 0
        return counts

    def __call__(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Target of losses ``(..., m)``, shape ``(...)``; NaN where a loss that counts, or its reference, is missing."""
        counts = self.counts
        if self.linear:
            value: NDArray[np.float64] = losses[..., counts] @ self.scale[counts]
            return value - constant if (constant := self.constant) else value
        terms = losses[..., counts] * self.scale[counts] - self.offset[counts]
        largest: NDArray[np.float64] = terms.max(axis=-1)
        return largest


@dataclass(frozen=True)
class Limit:
    """How large a loss may be, and how surely.

    Attributes:
        name: The loss, or ``all``: every loss without a limit of its own.
        at_most: Largest loss, nats per token; or
        above_natural: by what share the loss may be above that of the natural mixture (0.01: one percent).
        probability: With which all losses of the limit shall keep it, together.
    """

    name: str
    at_most: float | None = None
    above_natural: float | None = None
    probability: float = 0.9

    @classmethod
    def parse(cls, name: str, given: Mapping[str, Any]) -> Limit:
        """A limit from its configuration.

        Raises:
            ConfigError: If it says nothing, or what cannot be; names the key.
        """
        where = f"target: limits.{name}"
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where}: write {{above_natural: 0.01}} or {{at_most: 3.2}}, got {given!r}")
        if unknown := sorted(set(given) - {"at_most", "above_natural", "probability"}):
            raise ConfigError(f"{where}: unknown key '{unknown[0]}'; the keys are at_most, above_natural, probability")
        at_most, above, probability = (given.get(key) for key in ("at_most", "above_natural", "probability"))
        if (at_most is None) == (above is None):
            raise ConfigError(f"{where}: needs exactly one of at_most (nats per token) and above_natural (a share, such as 0.01)")
        if at_most is not None and not (np.isfinite(at_most) and at_most >= 0):
            raise ConfigError(f"{where}.at_most: must be a finite number of nats per token of at least 0, got {at_most}")
        if above is not None and not (np.isfinite(above) and above > -1):
            raise ConfigError(f"{where}.above_natural: must be a share above -1, such as 0.01 for one percent, got {above}")
        probability = 0.9 if probability is None else float(probability)
        if not 0 < probability < 1:
            raise ConfigError(f"{where}.probability: must be between 0 and 1, such as 0.9, got {probability:g}")
        return cls(name, None if at_most is None else float(at_most), None if above is None else float(above), probability)

    def spec(self) -> dict[str, float]:
        """The plain form that :meth:`parse` takes back."""
        pairs = (("at_most", self.at_most), ("above_natural", self.above_natural), ("probability", self.probability))
        return {key: value for key, value in pairs if value is not None}

    def describe(self) -> str:
        """In words: ``code at most natural + 1 % (90 %)``."""
        name = "every loss" if self.name == ALL else self.name
        if self.at_most is not None:
            ceiling = f"{self.at_most:g}"
        else:
            share = 100 * (self.above_natural or 0.0)
            ceiling = "natural" + (f" {'+' if share > 0 else '-'} {abs(share):g} %" if share else "")
        return f"{name} at most {ceiling} ({100 * self.probability:g} %)"
