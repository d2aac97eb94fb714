"""Random mixtures of a polytope have the density that they should, and have forgotten where they started.

Every test compares with something that is known without the walk: exact densities of small sets, conditional densities that no
constraint touches, and mixtures that were drawn on the simplex and happen to be inside. False alarms: each p-value is compared with
1e-3 / (number of comparisons), and seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.space import MixtureSpace

Array = NDArray[np.float64]

ALARM = 1e-3


def space(d: int, bounds: list[Bound], **more: object) -> MixtureSpace:
    return MixtureSpace(tuple(f"d{i}" for i in range(d)), np.full(d, 1 / d), Constraints(tuple(bounds), **more))  # type: ignore[arg-type]


def cap(d: int, i: int, high: float) -> Bound:
    return Bound(f"caps.{i}", "", np.eye(d)[i], high=high)


def group(d: int, members: range, low: float = -np.inf, high: float = np.inf) -> Bound:
    return Bound("group", "", np.isin(np.arange(d), members).astype(float), low, high)


def same(drawn: Mapping[str, Array], known: Mapping[str, Array]) -> None:
    """Two-sample Kolmogorov-Smirnov tests of several statistics; weights closer than 1e-4 are the same."""
    values = {name: stats.ks_2samp(drawn[name].round(4), known[name].round(4)).pvalue for name in drawn}
    low = {name: float(value) for name, value in values.items() if value < ALARM / len(values)}
    assert not low, f"differ: {low}"


def statistics(mixtures: Array, blocks: int = 5) -> dict[str, Array]:
    """Some weights, sums of blocks, and how uneven a mixture is."""
    d = mixtures.shape[1]
    found = {f"weight {i}": mixtures[:, i] for i in (0, d // 3, d - 1)}
    found |= {f"block {i}": mixtures[:, b].sum(axis=1) for i, b in enumerate(np.array_split(np.arange(d), blocks))}
    return found | {"largest": mixtures.max(axis=1), "squares": (mixtures**2).sum(axis=1)}


@pytest.mark.parametrize("strength", [None, 1.5, 6.0])
def test_three_domains_with_caps_against_the_exact_density(strength: float | None) -> None:
    d, n = 3, 20_000
    inside = space(d, [cap(d, 0, 0.5), cap(d, 1, 0.3)])
    rng = np.random.default_rng(0)
    alpha = np.full(d, 1.0) if strength is None else strength * np.array([0.2, 0.3, 0.5])
    drawn = inside.sample(n, rng) if strength is None else inside.dirichlet(n, alpha, rng)
    everywhere = np.random.default_rng(1).dirichlet(alpha, 20 * n)
    known = everywhere[inside.feasible(everywhere)]
    assert len(known) > n / 2
    same(statistics(drawn, 2), statistics(known, 2))


def test_groups_that_overlap_against_draws_of_the_simplex_that_are_inside() -> None:
    d, n = 6, 20_000
    inside = space(d, [group(d, range(3), high=0.5), group(d, range(2, 5), low=0.3, high=0.7), cap(d, 5, 0.35)])
    everywhere = np.random.default_rng(2).dirichlet(np.ones(d), 10 * n)
    same(statistics(inside.sample(n, np.random.default_rng(3))), statistics(everywhere[inside.feasible(everywhere)]))


def test_fixed_groups_that_overlap_leave_a_square() -> None:
    # w0 + w1 = w1 + w2 = 1/2: one number is free, and no two weights alone can change it.
    d = 4
    inside = space(d, [group(d, range(2), 0.5, 0.5), group(d, range(1, 3), 0.5, 0.5)])
    drawn = inside.sample(5_000, np.random.default_rng(4))
    assert stats.kstest(drawn[:, 1] / 0.5, "uniform").pvalue > ALARM


def test_a_fixed_share_leaves_a_smaller_dirichlet() -> None:
    d = 17
    inside = space(d, [Bound("fixed", "", np.eye(d)[0], 0.1, 0.1)])
    alpha = np.linspace(0.1, 2, d)
    drawn = inside.dirichlet(10_000, alpha, np.random.default_rng(5))
    known = 0.9 * np.random.default_rng(6).dirichlet(alpha[1:], 10_000)
    same(statistics(drawn[:, 1:]), statistics(known))


def hundred(*, crossing: bool) -> MixtureSpace:
    """A hundred domains with caps and groups, as in a real mixture of sources."""
    d = 100
    bounds = [cap(d, i, 0.02 + 0.02 * (i % 3)) for i in range(d)]
    bounds += [group(d, range(20), high=0.12), group(d, range(20, 40), high=0.25), group(d, range(40, 60), 0.1, 0.2)]
    return space(d, [*bounds, group(d, range(10, 30), high=0.15)] if crossing else bounds)


@pytest.mark.parametrize(("crossing", "strength"), [(False, None), (True, None), (False, 20.0), (True, 150.0)])
def test_ten_thousand_of_a_hundred_domains_have_forgotten_their_start(crossing: bool, strength: float | None) -> None:
    """The start is a corner or the centre: whatever is left of it shows against a walk that is four times as long."""
    inside, n = hundred(crossing=crossing), 1_500
    geometry = inside._geometry
    region, root_rows = geometry.region, geometry._tree[1]
    alpha = None if strength is None else np.full((n, 100), strength / 100)
    from regmix_active.mixture.walk import SWEEPS, Walk

    used = np.ones((n, 100), dtype=bool)
    ends = []
    corner = inside.project(np.eye(100)[7])
    for start, sweeps, seed in ((corner, SWEEPS, 7), (inside.centre[None], 4 * SWEEPS, 8)):
        rng = np.random.default_rng(seed)
        walk = Walk(region, np.repeat(start, n, axis=0), alpha, used, rng, crossing=len(root_rows) > 0)
        ends.append(walk.sweep(sweeps))
        assert inside.feasible(ends[-1]).all()
    same(statistics(ends[0]), statistics(ends[1]))


def test_few_active_domains_are_uniform_on_each_face() -> None:
    d, n = 8, 20_000
    inside = space(d, [], at_least=3, at_most=3, smallest=0.1)
    drawn = inside.sample(n, np.random.default_rng(9))
    used = (drawn > 0).sum(axis=0) / n
    np.testing.assert_allclose(used, 3 / 8, atol=0.015)  # no domain is preferred
    free = (np.sort(drawn, axis=1)[:, -3:] - 0.1) / 0.7
    known = np.sort(np.random.default_rng(10).dirichlet(np.ones(3), n), axis=1)
    same({str(i): free[:, i] for i in range(3)}, {str(i): known[:, i] for i in range(3)})


def test_a_walk_that_is_too_short_is_noticed() -> None:
    """The test above can fail: after two sweeps most of the corner is still there."""
    from regmix_active.mixture.walk import Walk

    inside, n = hundred(crossing=False), 500
    region, used = inside._geometry.region, np.ones((n, 100), dtype=bool)
    corner = np.repeat(inside.project(np.eye(100)[7]), n, axis=0)
    short = Walk(region, corner, None, used, np.random.default_rng(11), crossing=False).sweep(2)
    with pytest.raises(AssertionError, match="differ"):
        same(statistics(short), statistics(inside.sample(n, np.random.default_rng(12))))


def test_fixed_groups_that_overlap_and_a_choice_of_domains() -> None:
    """The square again, with chains that use different domains: those that use all four are uniform on it."""
    d = 4
    inside = space(d, [group(d, range(2), 0.5, 0.5), group(d, range(1, 3), 0.5, 0.5)], at_most=4, smallest=0.001)
    drawn = inside.sample(3_000, np.random.default_rng(13))
    whole = drawn[(drawn > 0).all(axis=1), 1]
    assert len(whole) > 1_000
    assert stats.kstest((whole - 0.001) / 0.498, "uniform").pvalue > ALARM
