"""Noise of seeds: known offsets and variances are found again, and old studies have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix_active.mixture.space import MixtureSpace
from regmix_active.study.history import History
from regmix_active.study.noise import seed_noise, shrink, without_offsets
from regmix_active.study.target import Target

D, M = 4, 6
SPACE = MixtureSpace(tuple(f"d{i}" for i in range(D)), np.full(D, 1 / D))
NAMES = tuple(f"l{j}" for j in range(M))


def history(
    pairs: int, seeds: int = 2, noise: float = 0.01, offset: float = 0.1, others: int = 8, draw: int = 0
) -> tuple[History, np.ndarray]:
    """`pairs` mixtures of `seeds` seeds each, others of the first seed; and the offsets of the seeds, less those of the first."""
    rng = np.random.default_rng(draw)
    once = SPACE.dirichlet(pairs + others, np.ones(D), rng)
    mixtures = np.concatenate([once, *[once[:pairs]] * (seeds - 1)])
    seed = np.concatenate([np.zeros(pairs + others, dtype=np.int64), *(np.full(pairs, j) for j in range(1, seeds))])
    truth = mixtures @ rng.normal(size=(D, M))
    truth = 3 + truth / truth.std(axis=0)  # losses of one kind
    offsets = offset * rng.normal(size=(seeds, M))
    losses = truth + offsets[seed] + noise * rng.normal(size=truth.shape)
    made = History(SPACE, Target.parse("mean", NAMES), mixtures, losses, np.arange(len(mixtures)), replicates=seed)
    return made, offsets - offsets[0]


def test_an_offset_is_taken_from_all_mixtures_of_its_seed() -> None:
    learnt, offsets = history(40, noise=0.01)
    noise = seed_noise(learnt)
    assert noise is not None
    np.testing.assert_allclose(noise.offsets, offsets, atol=0.01)
    corrected = noise.corrected(learnt)
    np.testing.assert_array_equal(corrected.losses[learnt.replicates == 0], learnt.losses[learnt.replicates == 0])
    first, second = corrected.losses[:40], corrected.losses[learnt.replicates == 1]
    assert np.abs(second - first).max() < 0.06  # a tenth of a nat apart before
    np.testing.assert_allclose((second - first).mean(axis=0), 0, atol=1e-12)


def test_the_offset_is_no_noise_of_mixtures() -> None:
    """Twice the offset, the same noise."""
    for offset in (0.0, 0.1, 1.0):
        noise = seed_noise(history(60, noise=0.02, offset=offset)[0])
        assert noise is not None
        np.testing.assert_allclose(noise.std, 0.02, rtol=0.25)
        assert noise.target_std == pytest.approx(0.02 / np.sqrt(M), rel=0.3)


def test_few_pairs_borrow_from_each_other() -> None:
    """Four pairs leave three degrees of freedom for each loss: alone they would be off by more than a third, in logarithms."""
    off = []
    for draw in range(20):
        noise = seed_noise(history(4, noise=0.02, draw=draw)[0])
        assert noise is not None
        assert noise.mixtures == 4
        assert noise.seeds == 2
        off.append(np.abs(np.log(noise.std / 0.02)).mean())
    assert np.mean(off) < 0.25


def test_offsets_of_many_seeds_have_the_spread_that_they_were_drawn_with() -> None:
    noise = seed_noise(history(6, seeds=40, noise=0.01, offset=0.1)[0])
    assert noise is not None
    assert noise.target_offset == pytest.approx(0.1 / np.sqrt(M), rel=0.4)
    assert noise.offset_dof > 30


def test_missing_losses_are_left_out() -> None:
    learnt, offsets = history(30)
    learnt.losses[::7, 2] = np.nan
    noise = seed_noise(learnt)
    assert noise is not None
    assert np.isfinite(noise.std).all()
    np.testing.assert_allclose(noise.offsets[:, 2], offsets[:, 2], atol=0.01)


def test_no_replicates_no_noise() -> None:
    learnt, _ = history(0)
    assert seed_noise(learnt) is None
    assert without_offsets(learnt) is learnt
    assert seed_noise(history(1)[0]) is None, "one pair says nothing of its noise"


def test_without_common_random_numbers_there_is_only_the_noise_of_proxies() -> None:
    learnt, _ = history(40, noise=0.03, offset=0.0)
    alone = History(SPACE, learnt.target, learnt.mixtures, learnt.losses, learnt.slots)
    noise = seed_noise(alone)
    assert noise is not None
    np.testing.assert_allclose(noise.std, 0.03, rtol=0.3)
    assert noise.target_offset == 0
    assert without_offsets(alone).losses == pytest.approx(alone.losses)


def test_a_training_that_is_listed_twice_has_no_noise() -> None:
    learnt, _ = history(5, noise=0.0, offset=0.0)
    assert seed_noise(History(SPACE, learnt.target, learnt.mixtures, learnt.losses, learnt.slots)) is None


def test_imported_runs_have_unknown_seeds() -> None:
    learnt, _ = history(10)
    imported = History(SPACE, learnt.target, learnt.mixtures, learnt.losses, -1 - learnt.slots, replicates=learnt.replicates)
    assert seed_noise(imported) is None


def test_before_keeps_the_seeds() -> None:
    learnt, _ = history(3, others=2)
    early = learnt.before(6)
    np.testing.assert_array_equal(early.replicates, [0] * 5 + [1])
    with pytest.raises(ValueError, match="8 mixtures, but 2 seeds"):
        History(SPACE, learnt.target, learnt.mixtures, learnt.losses, learnt.slots, replicates=np.array([0, 1]))


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=20), st.integers(1, 30))
def test_shrunk_variances_keep_their_order_and_range(variances: list[float], dof: int) -> None:
    given_ = np.array(variances)
    shrunk, lent = shrink(given_, float(dof))
    assert lent >= 0
    assert (np.diff(shrunk[np.argsort(given_, kind="stable")]) >= -1e-9 * given_.max()).all()
    assert np.ptp(np.log(shrunk)) <= np.ptp(np.log(given_)) + 1e-9


def test_the_noise_of_a_relative_target_is_a_share() -> None:
    """A mean of shares of losses: what a seed does in nats, over the references."""
    learnt, _ = history(40, seeds=6, noise=0.03, offset=0.1)
    spec = {"excess_over": dict.fromkeys(NAMES, 10.0), "relative": True}
    shares = seed_noise(replace(learnt, target=Target.parse(spec, NAMES)))
    nats = seed_noise(learnt)
    assert nats is not None
    assert shares is not None
    assert shares.target_std == pytest.approx(nats.target_std / 10)
    assert shares.target_offset == pytest.approx(nats.target_offset / 10)
    np.testing.assert_array_equal(shares.std, nats.std)


def test_the_noise_of_a_worst_case_is_that_of_the_worst_loss() -> None:
    """One loss is a nat above all others: a mean of six would be steadier by the root of six."""
    noises = []
    for pairs in (3, 40):
        learnt, _ = history(pairs, seeds=2, noise=0.03, offset=0.1)
        learnt.losses[:, 2] += 10
        worst = seed_noise(replace(learnt, target=Target.parse({"worst": True}, NAMES)))
        alone = seed_noise(replace(learnt, target=Target.parse(NAMES[2], NAMES)))
        assert worst is not None
        assert alone is not None
        assert worst.target_std == pytest.approx(alone.target_std)
        assert worst.target_offset == pytest.approx(alone.target_offset)
        noises.append(worst.target_std)
    assert noises[1] == pytest.approx(0.03, rel=0.25)
