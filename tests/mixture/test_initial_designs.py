"""Initial designs: feasible, seeded, one sequence each, and what each of them is for."""

from __future__ import annotations

import re
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix_active.config.schema import SearchConfig
from regmix_active.errors import StrategyError
from regmix_active.mixture.designs import GRAIN, MAX_USAGE, regmix_design
from regmix_active.mixture.initial import BLOCK, INITIAL_DESIGNS, d_optimal_design, maximin_design
from regmix_active.mixture.space import Mixtures, MixtureSpace

QUICK = settings(max_examples=25, derandomize=True, deadline=None)
CHOSEN = ["maximin", "d-optimal"]


def space(natural: np.ndarray) -> MixtureSpace:
    return MixtureSpace(tuple(f"d{i}" for i in range(len(natural))), natural / natural.sum())


SEVENTEEN = space(np.arange(8.0, 25.0))


def gaps(mixtures: Mixtures) -> np.ndarray:
    """Distances between cube roots, shape ``(n (n - 1) / 2,)``."""
    points = np.cbrt(mixtures)
    rows, columns = np.triu_indices(len(points), 1)
    return np.linalg.norm(points[rows] - points[columns], axis=1)


def information(mixtures: Mixtures) -> float:
    """Log-determinant of a ridged quadratic's information."""
    points = np.cbrt(mixtures)
    terms = np.concatenate([np.ones((len(points), 1)), points, points**2], axis=1)
    return float(np.linalg.slogdet(terms.T @ terms + 1e-2 * np.eye(terms.shape[1]))[1])


def test_the_configuration_knows_them_all() -> None:
    assert list(get_args(SearchConfig.model_fields["initial_design"].annotation)) == list(INITIAL_DESIGNS)
    assert INITIAL_DESIGNS[SearchConfig().initial_design] is d_optimal_design


@pytest.mark.parametrize("name", INITIAL_DESIGNS)
@pytest.mark.parametrize("d", [2, 3, 17, 100])
@pytest.mark.parametrize("n", [2, 16, 128])
def test_designs_are_feasible_below_the_cap_and_without_repetitions(name: str, d: int, n: int) -> None:
    s = space(np.arange(float(d), 2.0 * d))
    design = INITIAL_DESIGNS[name](s, n, np.random.default_rng(0))
    assert design.shape == (n, d)
    np.testing.assert_allclose(s.check(design), design, atol=1e-12)
    assert (design <= np.minimum(MAX_USAGE * s.natural, 1) + d * GRAIN).all(), "the cap holds but for rounding"
    assert len(np.unique(np.rint(design / GRAIN), axis=0)) == n


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("d", [2, 17, 100])
def test_a_longer_design_begins_with_the_shorter_one(name: str, d: int) -> None:
    s = space(np.arange(float(d), 2.0 * d))
    longest = INITIAL_DESIGNS[name](s, 128, np.random.default_rng(3))
    for n in (1, 2, 16, 32, 40):
        np.testing.assert_array_equal(INITIAL_DESIGNS[name](s, n, np.random.default_rng(3)), longest[:n])
    np.testing.assert_allclose(longest[0], s.natural)


@pytest.mark.parametrize("name", INITIAL_DESIGNS)
def test_designs_are_reproducible_and_differ_by_seed(name: str) -> None:
    one, two, other = (INITIAL_DESIGNS[name](SEVENTEEN, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)


@pytest.mark.parametrize("n", [8, 32])
def test_each_design_is_the_best_at_its_own_aim(n: int) -> None:
    """Over five seeds the worst of one is better than the best of the random ones."""
    seeds = [np.random.default_rng(seed) for seed in range(5)]
    apart, random = ([gaps(design(SEVENTEEN, n, rng)).min() for rng in seeds] for design in (maximin_design, regmix_design))
    assert min(apart) > max(random)
    known, blind = ([information(design(SEVENTEEN, n, rng)) for rng in seeds] for design in (d_optimal_design, regmix_design))
    assert min(known) > max(blind)
    assert min(known) > max(information(maximin_design(SEVENTEEN, n, rng)) for rng in seeds)


def test_greedy_steps_are_the_best_ones() -> None:
    """Against the definition: no mixture of the pool would have raised the determinant more at any step."""
    s = space(np.ones(3))
    design = d_optimal_design(s, 12, np.random.default_rng(0))
    rivals = d_optimal_design(s, BLOCK, np.random.default_rng(0))[12:]
    for step in range(1, 12):
        reached = information(design[: step + 1])
        assert all(information(np.concatenate([design[:step], rival[None]])) <= reached + 1e-9 for rival in rivals)


def test_corners_come_first_where_the_cap_allows_them() -> None:
    design = maximin_design(space(np.ones(3)), 4, np.random.default_rng(0))
    assert sorted(design[1:].argmax(axis=1)) == [0, 1, 2]
    assert (design[1:].max(axis=1) > 0.98).all()


@QUICK
@given(st.integers(2, 60), st.integers(0, 100), st.sampled_from(CHOSEN), st.floats(0.2, 3.0))
def test_any_natural_shares(d: int, seed: int, name: str, skew: float) -> None:
    rng = np.random.default_rng(seed)
    s = space(rng.uniform(0.05, 1, size=d) ** skew)
    design = INITIAL_DESIGNS[name](s, 16, rng)
    np.testing.assert_allclose(s.check(design), design, atol=1e-12)
    assert len(np.unique(design, axis=0)) == 16


@pytest.mark.parametrize("name", CHOSEN)
def test_no_room_is_said(name: str) -> None:
    s = space(np.array([1.0, 0.0]))
    with pytest.raises(StrategyError, match=re.escape("of 2 mixtures was asked for, and only 1 different ones were found")):
        INITIAL_DESIGNS[name](s, 2, np.random.default_rng(0))
