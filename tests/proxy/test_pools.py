"""Pools: a part of each domain that is like the whole, and that proxies repeat as often as a longer run repeats the domain."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import CorpusError
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.blocks import TokenSource, plan_blocks
from regmix_active.proxy.planning.plan import DEFAULT_PLAN, TrainingPlan
from regmix_active.proxy.pools import PooledSource, Pools, spread_blocks
from regmix_active.proxy.training.stack import StackTraining, train_stack
from regmix_active.proxy.training.together import train_together

QUICK = settings(max_examples=60, derandomize=True, deadline=None)
LENGTH = 17
"""Tokens in a block of the tiny proxy."""


@QUICK
@given(st.integers(1, 400), st.integers(2, 40), st.integers(0, 10**6), st.data())
def test_blocks_are_spread_and_do_not_overlap(there: int, length: int, seed: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, there))
    n_tokens = there * length + data.draw(st.integers(0, length - 1))
    starts = spread_blocks(n_tokens, length, wanted, np.random.default_rng(seed))
    assert starts.shape == (wanted,)
    assert starts.min() >= 0
    assert starts.max() + length <= n_tokens
    gaps = np.diff(np.sort(starts))
    assert (gaps >= length).all()
    assert (gaps < 2 * length * -(-there // wanted)).all(), "no stretch is left out"
    again = spread_blocks(n_tokens, length, wanted, np.random.default_rng(seed))
    np.testing.assert_array_equal(starts, again)


def test_every_block_is_equally_likely() -> None:
    rng = np.random.default_rng(0)
    picked = np.zeros(10)
    for _ in range(4_000):
        np.add.at(picked, spread_blocks(10 * 5, 5, 7, rng) // 5, 1)
    # Seven of ten, 4,000 times: the standard deviation of a count is 29; five of them, ten counts: one false alarm in 170,000.
    assert np.abs(picked - 2_800).max() < 5 * 29


def test_more_blocks_than_there_are_cannot_be_chosen() -> None:
    for wanted in (0, 4):
        with pytest.raises(ValueError, match="blocks of 3 were wanted"):
            spread_blocks(3 * 5 + 4, 5, wanted, np.random.default_rng(0))


@QUICK
@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda w: sum(w) > 0.1),
    st.lists(st.floats(0.3, 3.0), min_size=4, max_size=4),
    st.integers(0, 2**40),
)
def test_repetition_is_that_of_the_target_run(source: TokenSource, weights: list[float], sizes: list[float], seed: int) -> None:
    """Of any mixture, within a block: the pools know nothing of it."""
    w, n_blocks, target = np.array(weights) / sum(weights), 600, 1e9
    epochs_of_domain = 1 / np.array(sizes)  # in the target run, at weight one, in hundreds
    tokens = target / (100 * epochs_of_domain)
    ideal = n_blocks * tokens / target  # blocks: n_blocks x context is what a proxy reads
    pools = Pools(3, tuple(max(1, round(n)) for n in ideal.tolist()))
    plan = plan_blocks(PooledSource(source, pools, LENGTH), w, seed, n_blocks, LENGTH)
    for i, size in enumerate(pools.blocks):
        assert size is not None
        repeated = np.bincount(plan.start[plan.domain == i] // LENGTH, minlength=size)
        assert not (plan.start % LENGTH).any(), "windows are the pool's blocks"
        assert repeated.max() - repeated.min() <= 1, "all of a pool's blocks equally often"
        wanted = w[i] * target / tokens[i]
        # Half a block by which the pool was rounded, and what the low-discrepancy sequence may miss (test_blocks.py).
        assert abs(repeated.sum() - wanted * size) <= 0.5 * wanted + 1.5 + 0.6 * np.log(n_blocks)


def test_a_pool_reads_the_chosen_blocks_of_its_own_domain(source: TokenSource) -> None:
    pools = Pools(1, (5, None, 9, 2))
    pooled = PooledSource(source, pools, LENGTH)
    assert (pooled.domains, pooled.vocab_size) == (source.domains, source.vocab_size)
    assert [len(pooled.train(i)) for i in range(4)] == [5 * LENGTH, 3_000, 9 * LENGTH, 2 * LENGTH]
    everything = np.arange(9 * LENGTH)
    blocks = pooled.train(2)[everything].reshape(9, LENGTH)
    starts = pools.starts(2, source.domains[2], 2_000, LENGTH)
    assert starts is not None
    assert len(set(starts.tolist())) == 9
    for block, start in zip(blocks, starts.tolist(), strict=True):
        np.testing.assert_array_equal(block, source.train(2)[np.arange(start, start + LENGTH)])
    np.testing.assert_array_equal(pooled.train(1)[np.arange(50)], source.train(1)[np.arange(50)])
    np.testing.assert_array_equal(pooled.validation(0), source.validation(0))
    assert pooled.validation_bytes_per_token(3) == source.validation_bytes_per_token(3)


def test_a_pool_depends_on_seed_and_name_alone() -> None:
    def chosen(pools: Pools, index: int, name: str) -> list[int]:
        starts = pools.starts(index, name, 4_000, LENGTH)
        assert starts is not None
        return starts.tolist()

    one = chosen(Pools(1, (20, 20)), 0, "books")
    assert one == chosen(Pools(1, (None, 20)), 1, "books"), "other domains may come and go"
    assert one != chosen(Pools(2, (20, 20)), 0, "books")
    assert one != chosen(Pools(1, (20, 20)), 0, "code")


def test_pools_that_do_not_fit_their_text_are_refused(source: TokenSource) -> None:
    with pytest.raises(CorpusError, match=r"domain 'domain3': its pool does not fit \(99 blocks of 41 were wanted\)"):
        PooledSource(source, Pools(0, (1, 1, 1, 99)), LENGTH)
    with pytest.raises(ValueError, match="3 pools for 4 domains"):
        PooledSource(source, Pools(0, (1, 1, 1)), LENGTH)


def test_pools_are_read_as_they_were_written() -> None:
    pools = Pools(2**40, (3, None, 1))
    assert Pools.from_json(json.loads(json.dumps(pools.to_json()))) == pools
    for broken in ({"seed": 1}, {"seed": 1, "blocks": [1.5]}, {"seed": "1", "blocks": [1]}, {"seed": 1, "blocks": [True]}):
        with pytest.raises((KeyError, TypeError)):
            Pools.from_json(broken)


def test_both_trainers_read_the_pool_and_no_more(make_source: Callable[..., TokenSource], tiny_proxy: ProxyConfig) -> None:
    """The stack, and what trains models of `transformers` and with all devices together."""
    source = make_source([4_000, 3_000])
    config = tiny_proxy.model_copy(update={"tokens": 1_280, "curve": 0})
    pooled = PooledSource(source, Pools(5, (3, 2)), LENGTH)
    requests = [ProxyRequest(slot, np.array([w, 1 - w]), 1, 2) for slot, w in enumerate((0.5, 0.9))]
    stacked, single = train_stack(pooled, config, requests), train_together(pooled, config, requests, TrainingPlan(), "cpu")
    for one, other in zip(stacked, single, strict=True):
        assert one.losses == pytest.approx(dict(other.losses), abs=1e-4)

    class Copied:
        """The same pools as plain arrays."""

        domains, vocab_size = source.domains, source.vocab_size
        validation, validation_bytes_per_token = source.validation, source.validation_bytes_per_token

        def train(self, domain: int, /) -> NDArray[Any]:
            tokens = pooled.train(domain)
            return tokens[np.arange(len(tokens))]

    assert [r.losses for r in train_stack(Copied(), config, requests)] == [r.losses for r in stacked]
    assert train_stack(source, config, requests)[0].losses != stacked[0].losses


def test_a_resumed_training_goes_on_in_the_same_pool(make_source: Callable[..., TokenSource], tiny_proxy: ProxyConfig) -> None:
    source = make_source([4_000, 3_000])
    config = tiny_proxy.model_copy(update={"tokens": 1_280, "curve": 0})
    requests = [ProxyRequest(slot, np.array([0.5, 0.5]), 1, slot) for slot in range(2)]

    def training() -> StackTraining:
        return StackTraining(PooledSource(source, Pools(5, (3, 2)), LENGTH), config, requests, "cpu", DEFAULT_PLAN)

    unbroken, broken, resumed = training(), training(), training()
    unbroken.advance(20)
    broken.advance(7)
    resumed.resume(broken.checkpoint())
    resumed.advance(20)
    np.testing.assert_array_equal(resumed.score(), unbroken.score())
