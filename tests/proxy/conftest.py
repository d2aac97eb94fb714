"""A small in-memory corpus, and a proxy that trains on it in well under a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.blocks import TokenSource


class ToySource:
    """Domains that differ in their transitions: token t of domain i is followed by (step_i x t + noise) modulo the vocabulary."""

    def __init__(self, train_tokens: Sequence[int], validation_tokens: int = 600, vocab_size: int = 48) -> None:
        self.domains = tuple(f"domain{i}" for i in range(len(train_tokens)))
        self.vocab_size = vocab_size
        self._train = [self._write(i, n, 0) for i, n in enumerate(train_tokens)]
        self._validation = [self._write(i, validation_tokens, 1) for i in range(len(train_tokens))]

    def _write(self, index: int, n_tokens: int, part: int) -> NDArray[np.uint16]:
        noise = np.random.default_rng([index, part]).integers(3, size=n_tokens)
        tokens = np.empty(n_tokens, dtype=np.uint16)
        token = index
        for position in range(n_tokens):
            token = (token * (2 * index + 3) + int(noise[position])) % self.vocab_size
            tokens[position] = token
        return tokens

    def train(self, index: int) -> NDArray[Any]:
        return self._train[index]

    def validation(self, index: int) -> NDArray[Any]:
        return self._validation[index]

    def validation_bytes_per_token(self, index: int) -> float:
        return 2.0 + index


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_source() -> Callable[..., TokenSource]:
    """``make_source(training tokens per domain, validation_tokens=600, vocab_size=48)``."""
    return ToySource


@pytest.fixture(scope="session")
def source() -> TokenSource:
    return ToySource([4_000, 3_000, 2_000, 700])


@pytest.fixture(scope="session")
def tiny_proxy() -> ProxyConfig:
    """One hundred steps, at a learning rate that does not amplify rounding: 1e-2 turns 1e-7 into 1e-3 in so small a model."""
    return ProxyConfig(
        layers=2, width=16, heads=2, ffn=24, context=16, batch_size=4, tokens=6_400, learning_rate=3e-3, validation_tokens=256
    )
