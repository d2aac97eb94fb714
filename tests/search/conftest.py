"""A problem whose losses are known: four domains, power laws, a little noise that depends on the mixture alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from regmix_active.config.load import load_config
from regmix_active.config.schema import RunConfig
from regmix_active.proxy.runner import FunctionRunner

DOMAINS = ("books", "code", "talk", "web")


def power_law(weights: NDArray[np.float64]) -> dict[str, float]:
    """Losses that fall with a domain's own weight and, less, with its neighbour's."""
    own = 2 + np.array([1.0, 2.0, 0.5, 1.5]) * (0.02 + weights + 0.3 * np.roll(weights, 1)) ** -0.4
    return dict(zip(DOMAINS, own.tolist(), strict=True))


def make_config(**overrides: object) -> RunConfig:
    """The default configuration with few simulations, and overrides (``search__budget=8``)."""
    quick: Mapping[str, object] = {
        "recommend.simulations": 2000,
        "recommend.draws": 0,
        "search.strategy_options": {"candidates": 128},
    }
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config("embedded", {"target": "mean", "score_only": [], **quick, **dotted}.items()).config


@pytest.fixture(scope="session")
def runner() -> FunctionRunner:
    return FunctionRunner(DOMAINS, power_law)


@pytest.fixture(scope="session")
def config() -> Callable[..., RunConfig]:
    return make_config


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"
