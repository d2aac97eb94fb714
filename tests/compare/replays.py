"""Runs whose losses follow a formula, for replays that take no time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regmix_active.study.table import RunTable

Array = NDArray[np.float64]

DOMAINS = ("books", "code", "law", "talk")
LOSSES = ("books", "code", "talk")


def true_losses(mixtures: Array) -> Array:
    """Power laws of the domain's own weight with a little help from another, shape ``(n, 3)``."""
    own = 5 - 1.5 * np.clip(mixtures[:, [0, 1, 3]] + 0.2 * mixtures[:, [3, 0, 2]], 0, 1) ** 0.4
    return np.asarray(own, dtype=np.float64)


def formula_table(n: int = 90, noise: float = 0.005, seed: int = 0, name: str = "formula") -> RunTable:
    rng = np.random.default_rng(seed)
    mixtures = rng.dirichlet(np.ones(4), n)
    losses = true_losses(mixtures) + rng.normal(0, noise, (n, 3))
    runs = tuple(f"{name}-{i}" for i in range(n))
    return RunTable(name, DOMAINS, LOSSES, mixtures, losses, runs, DOMAINS, LOSSES)
