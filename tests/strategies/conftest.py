"""Histories of a synthetic search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from regmix_active.mixture.space import MixtureSpace
from regmix_active.study.history import History
from regmix_active.study.target import Target

MakeHistory = Callable[..., History]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_history() -> MakeHistory:
    """``make_history(n=16, d=4, losses=2)``: the first domains each have a power-law loss; the others are of no use."""

    def make(n: int = 16, d: int = 4, losses: int = 2) -> History:
        space = MixtureSpace(tuple(f"d{i}" for i in range(d)), np.full(d, 1 / d))
        mixtures = space.dirichlet(n, np.ones(d), np.random.default_rng(0))
        Y = 2 + (mixtures[:, :losses] + 0.02) ** -0.4
        target = Target.parse("mean", [f"d{i}" for i in range(losses)])
        return History(space, target, mixtures, Y, np.arange(n))

    return make
