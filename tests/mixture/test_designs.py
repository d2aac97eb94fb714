"""Designs: RegMix's published facts, and that nothing leaves the feasible set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix_active.errors import StrategyError
from regmix_active.mixture.designs import GRAIN, MAX_USAGE, STRENGTHS, around, between, regmix_design, round_to_grain, spread
from regmix_active.mixture.space import Mixtures, MixtureSpace

QUICK = settings(max_examples=30, derandomize=True, deadline=None)
PILE = np.array(
    [0.107, 0.075, 0.037, 0.144, 0.087, 0.048, 0.086, 0.038, 0.075, 0.029, 0.046, 0.05, 0.026, 0.017, 0.019, 0.013, 0.103]
)


def space(natural: np.ndarray) -> MixtureSpace:
    return MixtureSpace(tuple(f"d{i}" for i in range(len(natural))), natural / natural.sum())


SEVENTEEN = space(PILE)


def test_the_published_constants() -> None:
    assert len(STRENGTHS) == 15
    np.testing.assert_allclose(STRENGTHS[[0, -1]], [0.1, 5.0])
    np.testing.assert_allclose(np.diff(np.log(STRENGTHS)), np.log(50) / 14)
    assert (GRAIN, MAX_USAGE) == (2e-4, 15)


def _on_grain(row: np.ndarray) -> bool:
    """Whether a row is multiples of the grain, renormalised: integers over their sum, which rounding moves from 1 / grain."""
    sums = np.arange(round(1 / GRAIN) - len(row), round(1 / GRAIN) + len(row) + 1)[:, None]
    scaled = row * sums
    return bool((np.abs(scaled - np.rint(scaled)).max(axis=1) < 1e-6).any())


@pytest.mark.parametrize(
    "natural", [PILE, np.ones(2), np.ones(40), np.array([0.9, 0.05, 0.03, 0.02])], ids=["pile", "2", "40", "skewed"]
)
def test_regmix_design(natural: np.ndarray) -> None:
    s = space(natural)
    design = regmix_design(s, 32, np.random.default_rng(0))
    assert design.shape == (32, s.dim)
    s.check(design)
    assert all(_on_grain(row) for row in design)
    assert design[design > 0].min() > 0.9 * GRAIN
    cap = np.minimum(MAX_USAGE * s.natural, 1)
    assert (design <= cap + s.dim * GRAIN).all(), "the cap holds but for rounding"
    gaps = np.abs(design[:, None] - design[None]).sum(axis=2)
    assert gaps[~np.eye(32, dtype=bool)].min() > 1e-5


def test_regmix_design_resembles_the_published_mixtures() -> None:
    """45 % of the published weights are near zero; single domains and broad mixtures both occur."""
    design = regmix_design(SEVENTEEN, 512, np.random.default_rng(0))
    assert 0.35 < (design < 1e-3).mean() < 0.7
    assert design.max(axis=1).min() < 0.3
    assert design.max(axis=1).max() > 0.6


def test_regmix_design_centres_on_the_flattened_natural_mixture() -> None:
    """The cap cuts single domains off, most of all rare ones; what remains leans to sqrt(natural), not to natural."""
    natural = np.array([0.64, 0.16, 0.16, 0.04])
    design = regmix_design(space(natural), 2000, np.random.default_rng(3))
    root = np.sqrt(natural) / np.sqrt(natural).sum()
    assert np.abs(design.mean(axis=0) - root).max() < 0.06
    assert np.abs(design.mean(axis=0) - natural).max() > 0.15


def test_designs_are_reproducible_and_differ_by_seed() -> None:
    one, two, other = (regmix_design(SEVENTEEN, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)


def test_a_natural_share_of_zero_stays_zero() -> None:
    s = space(np.array([0.5, 0.5, 0.0]))
    assert (regmix_design(s, 8, np.random.default_rng(0))[:, 2] == 0).all()


def test_no_room_below_the_cap_is_said() -> None:
    s = space(np.ones(400))
    with pytest.raises(StrategyError, match=r"batch of 4 .* only \d different mixtures were found below 15 x the natural shares"):
        regmix_design(s, 4, np.random.default_rng(0), oversample=2)


def test_rounding() -> None:
    s = space(np.ones(3))
    row = round_to_grain(s, np.array([[0.49995, 0.4999, 0.00015]]))[0]
    assert row[2] == 0
    assert row[0] == pytest.approx(0.5)


@QUICK
@given(st.integers(2, 100), st.integers(1, 6), st.integers(0, 100), st.booleans())
def test_every_design_is_feasible(d: int, k: int, seed: int, faces: bool) -> None:
    rng = np.random.default_rng(seed)
    s = space(rng.uniform(0.1, 1, size=d))
    centres = s.dirichlet(k, np.full(d, 0.05 if faces else 1.0), rng)
    if faces:  # exact zeros, as at the optimum
        centres = s.project(np.where(centres < centres.max(axis=1, keepdims=True), np.where(centres < 1e-3, 0, centres), centres))
    draws: list[Mixtures] = [around(s, centres, 40, rng), between(s, centres, 40, rng), spread(s, 40, rng)]
    for rows in draws:
        assert rows.shape == (40, d)
        np.testing.assert_allclose(s.check(rows), rows, atol=1e-12)


def test_around_keeps_some_faces_and_leaves_others() -> None:
    s = space(np.ones(4))
    near = around(s, np.array([[0.6, 0.4, 0.0, 0.0]]), 600, np.random.default_rng(0))
    on_face = (near[:, 2:] == 0).all(axis=1)
    assert 0.3 < on_face.mean() < 0.75
    np.testing.assert_allclose(near.mean(axis=0), [0.6, 0.4, 0, 0], atol=0.05)


def test_around_drops_small_weights_but_not_all() -> None:
    s = space(np.ones(4))
    near = around(s, np.array([[0.5, 0.4, 0.05, 0.05]]), 600, np.random.default_rng(0))
    assert 0.05 < (near[:, 2] == 0).mean() < 0.5
    assert (near[:, :2] > 0).all()


def test_between_stays_on_the_segments() -> None:
    s = space(np.ones(3))
    a, b = np.array([0.8, 0.2, 0.0]), np.array([0.1, 0.2, 0.7])
    rows = between(s, np.stack([a, b]), 100, np.random.default_rng(0))
    t = (rows[:, 0] - b[0]) / (a[0] - b[0])
    assert ((t > -1e-9) & (t < 1 + 1e-9)).all()
    np.testing.assert_allclose(rows, t[:, None] * a + (1 - t[:, None]) * b, atol=1e-12)


def test_spread_reaches_corners_and_the_centre() -> None:
    rows = spread(SEVENTEEN, 2000, np.random.default_rng(0))
    assert rows.max(axis=1).max() > 0.95
    assert rows.max(axis=1).min() < 0.15


@pytest.mark.parametrize("design", [lambda s, rng: spread(s, 4000, rng), lambda s, rng: regmix_design(s, 1000, rng, oversample=4)])
def test_domains_are_treated_alike(design: Callable[[MixtureSpace, np.random.Generator], Mixtures]) -> None:
    """Equal natural shares, equal means: each within five standard errors (a false alarm in 10^5 runs of six domains)."""
    rows = design(space(np.ones(6)), np.random.default_rng(11))
    assert (np.abs(rows.mean(axis=0) - 1 / 6) < 5 * rows.std(axis=0) / np.sqrt(len(rows))).all()
