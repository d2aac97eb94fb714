"""What the runs of one study have in common, and how two studies differ in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Meaning:
    """What the runs of a study have in common; a configuration that differs here belongs to another study.

    Attributes:
        domains: Names, in the order of the weights.
        natural: Natural share per domain.
        loss_names: Names of the losses.
        facts: Everything else that changes what a loss means (corpus, proxy, seed), by dotted key.
    """

    domains: tuple[str, ...]
    natural: tuple[float, ...]
    loss_names: tuple[str, ...]
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As stored in the study."""
        return {
            "domains": list(self.domains),
            "natural": list(self.natural),
            "loss_names": list(self.loss_names),
            "facts": dict(self.facts),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Meaning:
        """The inverse of :meth:`to_json`."""
        return cls(tuple(data["domains"]), tuple(data["natural"]), tuple(data["loss_names"]), dict(data["facts"]))

    def differences(self, other: Meaning) -> list[str]:
        """Lines ``key: mine → other's`` for all that differs."""
        lines = []
        for field in ("domains", "loss_names"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if field == "loss_names" and (mine, theirs) == (self.domains, other.domains):
                continue  # said already
            if mine != theirs:
                gone, new = [n for n in mine if n not in theirs], [n for n in theirs if n not in mine]
                changes = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(new)}"] * bool(new)
                lines.append(f"{field}: {len(mine)} → {len(theirs)} ({'; '.join(changes) or 'in another order'})")
        if self.domains == other.domains and not np.allclose(self.natural, other.natural, rtol=0, atol=1e-6):
            lines.append(
                "natural shares: "
                + ", ".join(
                    f"{name} {a:.4g} → {b:.4g}"
                    for name, a, b in zip(self.domains, self.natural, other.natural, strict=True)
                    if not math.isclose(a, b, abs_tol=1e-6)
                )
            )
        for key in sorted(set(self.facts) | set(other.facts)):
            before, after = self.facts.get(key, "(not set)"), other.facts.get(key, "(not set)")
            if before != after:
                lines.append(f"{key}: {before} → {after}")
        return lines
