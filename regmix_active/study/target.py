"""The target: which losses matter, and how much. All losses are recorded; the target is applied afterwards."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import ConfigError


@dataclass(frozen=True)
class Target:
    """Weights over losses, scaled to sum to one; smaller is better.

    Attributes:
        loss_names: Names of the losses, in the order of every loss vector.
        weights: Shape ``(m,)``, ≥ 0, sum 1, so that the target is in nats per token too.
    """

    loss_names: tuple[str, ...]
    weights: NDArray[np.float64]

    @classmethod
    def parse(cls, spec: Literal["mean"] | Mapping[str, float] | str, loss_names: Sequence[str]) -> Target:
        """A target from its configuration: ``mean``, a loss's name, or weights by name.

        Raises:
            ConfigError: If a name is not one of `loss_names`, or no weight is above zero.
        """
        names = tuple(loss_names)
        if spec == "mean":
            return cls(names, np.full(len(names), 1 / len(names)))
        given = {spec: 1.0} if isinstance(spec, str) else dict(spec)
        for name, weight in given.items():
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"the losses are: {', '.join(names)}"
                raise ConfigError(f"target: unknown loss '{name}'; {hint}")
            if not (np.isfinite(weight) and weight >= 0):
                raise ConfigError(f"target: the weight of '{name}' is {weight}; weights are finite and >= 0")
        weights = np.array([float(given.get(name, 0.0)) for name in names])
        if weights.sum() <= 0:
            raise ConfigError("target: needs at least one weight above zero, such as {books: 1}")
        return cls(names, weights / weights.sum())

    def __call__(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Target of each row of losses ``(n, m)``, shape ``(n,)``, nats per token; NaN where a loss that it weighs is missing."""
        needed = self.weights > 0
        value: NDArray[np.float64] = losses[:, needed] @ self.weights[needed]
        return value

    def describe(self) -> str:
        """In words, for tables: ``mean of 12 losses`` or ``0.7 books + 0.3 code``."""
        if len(self.weights) > 1 and np.allclose(self.weights, self.weights[0]):
            return f"mean of {len(self.weights)} losses"
        parts = [(w, name) for w, name in zip(self.weights, self.loss_names, strict=True) if w > 0]
        return " + ".join(name if np.isclose(w, 1) else f"{w:.3g} {name}" for w, name in parts)
