"""Validation losses: the same evenly spaced blocks for every proxy, weighted by tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import CorpusError
from regmix_active.proxy.blocks import TokenSource
from regmix_active.proxy.model.stacked import StackedDecoder
from regmix_active.proxy.training.evaluate import bits_per_byte, validation_blocks, validation_losses


class Counting:
    """A source whose validation tokens are their own positions."""

    domains = ("only",)
    vocab_size = 100_000

    def __init__(self, n_tokens: int) -> None:
        self.tokens = np.arange(n_tokens, dtype=np.uint32)

    def train(self, domain: int) -> np.ndarray:
        return self.tokens

    validation = train

    def validation_bytes_per_token(self, domain: int) -> float:
        return 1.0


@given(st.integers(17, 5_000), st.integers(1, 4_000))
def test_blocks_are_whole_evenly_spaced_and_apart(n_tokens: int, wanted: int) -> None:
    config = ProxyConfig(context=16, validation_tokens=wanted)
    blocks = validation_blocks(Counting(n_tokens), 0, config)
    assert (np.diff(blocks, axis=1) == 1).all()
    assert blocks.min() >= 0
    assert blocks.max() < n_tokens
    gaps = np.diff(blocks[:, 0])
    assert (gaps >= 17).all()
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    assert len(blocks) == max(1, min(wanted // 16, n_tokens // 17))


def test_losses_are_means_over_all_tokens(source: TokenSource, tiny_proxy: ProxyConfig) -> None:
    config = tiny_proxy.model_copy(update={"validation_tokens": 9 * 16, "batch_size": 4})  # the last batch is smaller
    model = StackedDecoder(config, source.vocab_size, [1, 2])
    with torch.no_grad():
        model.matrices_KP.mul_(3)
    losses = validation_losses(model, source, config)
    assert losses.shape == (2, 4)
    for index in range(4):
        blocks = torch.from_numpy(validation_blocks(source, index, config))
        assert len(blocks) == 9
        logits = model.logits(blocks[:, :-1].expand(2, -1, -1))
        for k in range(2):
            expected = cross_entropy(logits[k].flatten(0, 1), blocks[:, 1:].flatten()).item()
            assert losses[k, index] == pytest.approx(expected, rel=1e-5)


def test_validation_leaves_the_model_as_it_was(source: TokenSource, tiny_proxy: ProxyConfig) -> None:
    model = StackedDecoder(tiny_proxy, source.vocab_size, [1])
    before = model.matrices_KP.clone()
    first, second = (validation_losses(model, source, tiny_proxy) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(model.matrices_KP, before)
    assert model.matrices_KP.grad is not None
    assert model.matrices_KP.grad.count_nonzero() == 0


def test_a_domain_without_a_validation_block_is_named(make_source: Callable[..., TokenSource], tiny_proxy: ProxyConfig) -> None:
    with pytest.raises(CorpusError, match=r"'domain0' has 16 validation tokens.*block of 17.*validation_share"):
        validation_blocks(make_source([100], validation_tokens=16), 0, tiny_proxy)


def test_bits_per_byte() -> None:
    assert bits_per_byte(math.log(2), 1.0) == pytest.approx(1)
    assert bits_per_byte(math.log(256), 1.0) == pytest.approx(8)  # uniform over bytes
    assert bits_per_byte(3 * math.log(2), 2.0) == pytest.approx(1.5)
