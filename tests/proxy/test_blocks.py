"""The block plan: a weight is a share of tokens, and every token gets its turn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmix_active.errors import CorpusError
from regmix_active.proxy.blocks import TokenSource, plan_blocks

WEIGHTS = np.array([0.5, 0.3, 0.15, 0.05])

FROZEN = [0, 1, 0, 2, 1, 0, 1, 0, 0, 1, 0, 2, 1, 0, 1, 0, 3, 1, 0, 2, 0, 0, 1, 0]
"""Domains of the first 24 blocks with seed 3. Studies that were begun rely on them."""


@st.composite
def mixtures(draw: st.DrawFn) -> list[float]:
    weights = draw(st.lists(st.just(0.0) | st.floats(1e-6, 1), min_size=4, max_size=4).filter(lambda w: sum(w) > 0))
    return [w / sum(weights) for w in weights]


@given(mixtures(), st.integers(0, 2**40), st.integers(1, 3_000))
def test_a_weight_is_a_share_of_tokens(source: TokenSource, weights: list[float], seed: int, n_blocks: int) -> None:
    plan = plan_blocks(source, np.array(weights), seed, n_blocks, 17)
    shares = plan.shares(4)
    assert shares.sum() == pytest.approx(1)
    # The discrepancy of the golden-ratio sequence grows like log(N) / N; independent draws would miss by 1 / sqrt(N).
    assert np.abs(shares - weights).max() <= (1.5 + 0.6 * np.log(n_blocks)) / n_blocks
    assert not shares[np.array(weights) == 0].any()


def test_shares_are_within_about_one_block_of_the_weights(source: TokenSource) -> None:
    errors = [np.abs(plan_blocks(source, WEIGHTS, seed, 2_000, 17).shares(4) - WEIGHTS).max() for seed in range(50)]
    assert np.mean(errors) < 1.5 / 2_000


def test_every_stretch_of_the_training_is_balanced(source: TokenSource) -> None:
    plan = plan_blocks(source, WEIGHTS, 5, 2_000, 17)
    for stretch in plan.domain.reshape(20, 100):
        assert np.abs(np.bincount(stretch, minlength=4) / 100 - WEIGHTS).max() <= 0.035


def test_an_epoch_visits_every_window_once_and_the_next_in_a_new_order(source: TokenSource) -> None:
    plan = plan_blocks(source, np.array([0, 0, 0, 1.0]), 1, 2 * 41 + 5, 17)  # 700 tokens are 41 windows and a remainder of 3
    first, second, third = plan.start[:41], plan.start[41:82], plan.start[82:]
    for epoch in (first, second):
        np.testing.assert_array_equal(np.diff(np.sort(epoch)), 17)
        assert epoch.min() >= 0
        assert epoch.max() + 17 <= 700
    assert not np.array_equal(np.argsort(first), np.argsort(second))
    assert len(set(third)) == 5


def test_a_domain_of_exactly_one_block_is_repeated(make_source: Callable[..., TokenSource]) -> None:
    plan = plan_blocks(make_source([17, 400]), np.array([0.5, 0.5]), 0, 20, 17)
    assert plan.start[plan.domain == 0].tolist() == [0] * 10


def test_mixtures_with_the_same_seed_share_domains_and_orders(source: TokenSource) -> None:
    other = np.array([0.5, 0.3, 0.1, 0.1])
    one, two = plan_blocks(source, WEIGHTS, 9, 300, 17), plan_blocks(source, other, 9, 300, 17)
    assert (one.domain != two.domain).mean() == pytest.approx(0.05, abs=0.01)
    for index in range(4):
        a, b = one.start[one.domain == index], two.start[two.domain == index]
        n = min(len(a), len(b))
        np.testing.assert_array_equal(a[:n], b[:n])
    different = plan_blocks(source, WEIGHTS, 10, 300, 17)
    assert (one.domain != different.domain).any()
    assert (one.start[one.domain == 0][:50] != different.start[different.domain == 0][:50]).mean() > 0.5


def test_low_discrepancy_draws_are_the_default_and_keep_their_bits(source: TokenSource) -> None:
    plan = plan_blocks(source, WEIGHTS, 3, 24, 17)
    assert plan.domain.tolist() == FROZEN
    spread = plan_blocks(source, WEIGHTS, 3, 24, 17, "low-discrepancy")
    np.testing.assert_array_equal(spread.domain, plan.domain)
    np.testing.assert_array_equal(spread.start, plan.start)


def test_independent_draws_are_categorical(source: TokenSource) -> None:
    n, plans = 500, [plan_blocks(source, WEIGHTS, seed, 500, 17, draws="independent") for seed in range(200)]
    shares = np.array([plan.shares(4) for plan in plans])
    # 200 seeds: the mean share is within four standard errors in all four domains but for one time in 4,000.
    deviation = np.sqrt(WEIGHTS * (1 - WEIGHTS) / n)
    assert (np.abs(shares.mean(axis=0) - WEIGHTS) < 4 * deviation / np.sqrt(200)).all()
    # A standard deviation from 200 draws has a relative error of 5 %.
    np.testing.assert_allclose(shares.std(axis=0), deviation, rtol=0.25)
    repeats = np.mean([(plan.domain[1:] == plan.domain[:-1]).mean() for plan in plans])
    assert repeats == pytest.approx((WEIGHTS**2).sum(), abs=0.01), "neighbours are independent"


def test_independent_draws_share_common_random_numbers_too(source: TokenSource) -> None:
    other = np.array([0.5, 0.3, 0.1, 0.1])
    one, two = (plan_blocks(source, weights, 9, 2_000, 17, draws="independent") for weights in (WEIGHTS, other))
    assert (one.domain != two.domain).mean() == pytest.approx(0.05, abs=0.02)
    assert one.domain.tolist() == plan_blocks(source, WEIGHTS, 9, 2_000, 17, draws="independent").domain.tolist()
    assert one.domain.tolist() != plan_blocks(source, WEIGHTS, 10, 2_000, 17, draws="independent").domain.tolist()
    assert not plan_blocks(source, np.array([0.5, 0.0, 0.5, 0.0]), 1, 500, 17, draws="independent").shares(4)[[1, 3]].any()


def test_gather_reads_the_planned_windows(source: TokenSource) -> None:
    plan = plan_blocks(source, WEIGHTS, 2, 40, 17)
    tokens = plan.gather(source, 10, 30)
    assert tokens.shape == (20, 17)
    assert tokens.dtype == np.int64
    for row, position in zip(tokens, range(10, 30), strict=True):
        start = plan.start[position]
        np.testing.assert_array_equal(row, source.train(int(plan.domain[position]))[np.arange(start, start + 17)])


def test_a_domain_with_less_than_a_block_is_named(make_source: Callable[..., TokenSource]) -> None:
    source = make_source([400, 16])
    with pytest.raises(CorpusError, match=r"'domain1' has 16 training tokens.*block of 17"):
        plan_blocks(source, np.array([0.9, 0.1]), 0, 10, 17)
    assert plan_blocks(source, np.array([1.0, 0.0]), 0, 10, 17).shares(2).tolist() == [1, 0]


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.5, 0.6, -0.1, 0], [0, 0, 0, 0], [np.nan, 1, 0, 0]])
def test_weights_that_are_no_mixture_are_refused(source: TokenSource, weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        plan_blocks(source, np.array(weights), 0, 10, 17)
