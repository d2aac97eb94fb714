"""A problem with known losses: six domains, one power law per domain with a neighbour's help."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Problem = Callable[..., tuple[Array, Array]]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def power_law(mixtures: Array) -> Array:
    """Losses, shape ``(n, d)``, nats per token."""
    d = mixtures.shape[1]
    useful = mixtures + 0.2 * np.roll(mixtures, 1, axis=1) + 0.02
    return 2 + np.linspace(0.5, 2, d) * useful ** -np.linspace(0.2, 0.5, d)


@pytest.fixture(scope="session")
def problem() -> Problem:
    """``problem(n, d=6, seed=0, noise=0)`` → mixtures ``(n, d)``, losses ``(n, d)``."""

    def make(n: int, d: int = 6, seed: int = 0, noise: float = 0.0) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        strength = rng.choice([0.3, 1.0, 3.0], size=(n, 1))
        mixtures = rng.standard_gamma(np.broadcast_to(strength, (n, d))) + 1e-9
        mixtures /= mixtures.sum(axis=1, keepdims=True)
        return mixtures, power_law(mixtures) + noise * rng.normal(size=(n, d))

    return make
