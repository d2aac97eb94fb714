"""Random feasible sets of 3 to 200 domains with floors, caps, fixed shares, groups, epochs and few active domains."""

from __future__ import annotations

import re

import numpy as np
import pytest

from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.explain import clash, domain_ranges, redundant
from regmix_active.mixture.geometry import InfeasibleError
from regmix_active.mixture.pull import Pull
from regmix_active.mixture.space import MixtureSpace
from tests.feasibility.checks import check_designs, check_geometry
from tests.feasibility.sets import feasible_set, impossible, made

NATURAL = np.array([0.4, 0.3, 0.2, 0.1])
EYE = np.eye(4)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_set_gives_is_inside(seed: int) -> None:
    space, inside = feasible_set(seed)
    assert space.feasible(inside, 1e-8).all()
    check_geometry(space, seed)


@pytest.mark.parametrize("seed", range(100, 112))
def test_designs_stay_inside(seed: int) -> None:
    check_designs(feasible_set(seed, largest=40)[0], seed)


@pytest.mark.parametrize("seed", range(50))
def test_a_set_without_any_mixture_is_explained_by_the_fewest_constraints(seed: int) -> None:
    mixture, natural, fewest = impossible(seed)
    with pytest.raises(InfeasibleError, match=f"these {fewest} constraints"):
        made(mixture, natural)


def test_the_smallest_clash_is_found_among_larger_ones() -> None:
    # Caps that sum to 0.9 clash too, but four of them; the floor and the group are two.
    caps = [Bound(f"caps.{i}", "cap", EYE[i], high=0.225) for i in range(4)]
    bounds = [*caps, Bound("floor", "first at least 0.22", EYE[0], low=0.22), Bound("group", "g", EYE[0] + EYE[1], high=0.2)]
    found = clash(Constraints(tuple(bounds)), NATURAL)
    assert found is not None
    assert {bound.key for bound in found.bounds} == {"floor", "group"}
    # All others hold, the caps among them, so no single change helps.
    assert found.relief == (None, None)
    alone = clash(Constraints((bounds[4], bounds[5])), NATURAL)
    assert alone is not None
    assert alone.relief == pytest.approx((0.2, 0.22))


def test_each_clashing_constraint_is_needed() -> None:
    for seed in range(0, 50, 7):
        mixture, natural, _ = impossible(seed)
        try:
            made(mixture, natural)
        except InfeasibleError as error:
            keys = re.findall(r"^  (mixture\.\S+):", str(error), re.MULTILINE)
        section, name = keys[0].split(".")[1], keys[0].split(".")[-1]
        if section in ("floors", "caps"):
            del mixture[section][name]
            made(mixture, natural)  # without it there are mixtures


def test_what_the_others_imply_is_needless() -> None:
    bounds = (
        Bound("caps.a", "a at most 0.6", EYE[0], high=0.6),
        Bound("groups.g", "a and b at most 0.5", EYE[0] + EYE[1], high=0.5),
        Bound("floors.c", "c at least 0.1", EYE[2], low=0.1),
        Bound("floors.d", "d at least 0", EYE[3], low=0.0),
    )
    assert [bound.key for bound in redundant(Constraints(bounds), NATURAL)] == ["caps.a", "floors.d"]
    ranges = domain_ranges(Constraints(bounds), NATURAL)
    np.testing.assert_allclose(ranges, [[0, 0.5], [0, 0.5], [0.1, 1], [0, 0.9]], atol=1e-9)


def test_fixed_shares_and_thirds_survive_rounding() -> None:
    space = MixtureSpace(tuple("abcd"), NATURAL, Constraints((Bound("fixed.a", "a is 1/3", EYE[0], 1 / 3, 1 / 3),)))
    rounded = space.round(space.centre)
    assert abs(rounded[0] - 1 / 3) < 1e-9
    assert space.feasible(rounded).all()
    free = MixtureSpace(tuple("abcd"), NATURAL)
    assert free.round([0.1234567, 0.2, 0.3, 0.3765433]).tolist() == [0.123457, 0.2, 0.3, 0.376543]


def test_a_tight_cap_is_not_overstepped_by_rounding() -> None:
    cap = 0.1234564999
    space = MixtureSpace(tuple("abcd"), NATURAL, Constraints((Bound("caps.a", "cap", EYE[0], high=cap),)))
    rounded = space.round([0.5, 0.2, 0.2, 0.1])
    assert rounded[0] <= cap + 1e-9
    assert rounded[0] == pytest.approx(cap, abs=1e-6)


def test_zeros_stay_zero_where_they_may() -> None:
    space = MixtureSpace(tuple("abcd"), NATURAL, Constraints((Bound("caps.a", "cap", EYE[0], high=0.5),)))
    np.testing.assert_allclose(space.project([0.8, 0.2, 0, 0])[0], [0.5, 0.5, 0, 0])
    # ... and are lifted where they must be: nothing else has room.
    both = Constraints((Bound("a", "", EYE[0], high=0.5), Bound("b", "", EYE[1], high=0.3)))
    lifted = MixtureSpace(tuple("abcd"), NATURAL, both).project([0.8, 0.2, 0, 0])[0]
    np.testing.assert_allclose(lifted, [0.5, 0.3, 0.1, 0.1])


def test_groups_inside_groups_are_met_together() -> None:
    bounds = (
        Bound("outer", "", np.array([1.0, 1, 1, 0]), low=0.5, high=0.6),
        Bound("inner", "", np.array([1.0, 1, 0, 0]), low=0.1, high=0.2),
        Bound("cap", "", EYE[0], high=0.05),
    )
    space = MixtureSpace(tuple("abcd"), NATURAL, Constraints(bounds))
    found = space.project([1.0, 0, 0, 0])[0]
    assert space.feasible(found).all()
    np.testing.assert_allclose(space.project([0.05, 0.1, 0.4, 0.45])[0], [0.05, 0.1, 0.4, 0.45])


def test_check_names_the_constraint_that_is_broken() -> None:
    space = MixtureSpace(tuple("abcd"), NATURAL, Constraints((Bound("mixture.caps.a", "a at most 0.5", EYE[0], high=0.5),)))
    with pytest.raises(ValueError, match=r"mixture 1: a at most 0\.5 \(mixture\.caps\.a\); it is off by 0\.2"):
        space.check([[0.5, 0.5, 0, 0], [0.7, 0.3, 0, 0]])
    few = MixtureSpace(tuple("abcd"), NATURAL, Constraints(at_most=2, smallest=0.1))
    with pytest.raises(ValueError, match=r"mixture 0: it uses 3 domains, .* allowed are 1 to 2"):
        few.check([0.4, 0.3, 0.3, 0])


def test_tied_domains_keep_their_proportions() -> None:
    space = MixtureSpace(tuple("abcd"), NATURAL, Constraints(tied=((0, 1),)))
    mixtures = space.sample(50, np.random.default_rng(0))
    np.testing.assert_allclose(mixtures[:, 0] / mixtures[:, 1], 4 / 3)
    assert space.feasible(mixtures).all()
    assert not space.feasible([0.5, 0.2, 0.2, 0.1]).any()
    assert space.feasible(space.round(mixtures[0])).all()


def test_pull_grows_with_the_distance() -> None:
    for kind in ("kl", "l1"):
        pull = Pull(NATURAL, 0.5, kind)
        far, near = np.array([[1.0, 0, 0, 0]]), np.array([[0.45, 0.25, 0.2, 0.1]])
        assert pull.penalty(NATURAL[None])[0] == pytest.approx(0, abs=1e-9)
        assert 0 < pull.penalty(near)[0] < pull.penalty(far)[0]
        step = np.array([1e-6, -1e-6, 0, 0])
        change = (pull.penalty(near + step) - pull.penalty(near - step))[0]
        assert change == pytest.approx(float(pull.slope(near)[0] @ (2 * step)), rel=1e-4)
    assert Pull(NATURAL, 1.0).penalty(np.array([[1.0, 0, 0, 0]]))[0] == pytest.approx(np.log(1 / 0.4))


def margins() -> MixtureSpace:
    """Two ways of grouping the same four domains, each with exact sums: one number is free."""
    bounds = (
        Bound("rows", "", np.array([1.0, 1, 0, 0]), 0.5, 0.5),
        Bound("columns", "", np.array([0.0, 1, 1, 0]), 0.5, 0.5),
    )
    return MixtureSpace(tuple("abcd"), np.full(4, 0.25), Constraints(bounds))


def test_where_exact_groups_overlap_what_is_feasible_stays_where_it_is() -> None:
    space, row = margins(), np.array([0.1, 0.4, 0.1, 0.4])
    np.testing.assert_allclose(space.project(row)[0], row, atol=1e-12)
    noisy = row + 1e-8 * np.array([1, -1, 1, 1])
    np.testing.assert_allclose(space.project(noisy)[0], row, atol=1e-7)
    np.testing.assert_allclose(space.check(noisy)[0], row, atol=1e-7)
    drawn = space.project(np.random.default_rng(0).dirichlet(np.ones(4), 200))
    assert space.feasible(drawn).all()
    assert np.ptp(drawn[:, 0]) > 0.4, "near the given mixtures, not all in the middle"


def test_draws_use_all_choices_of_domains() -> None:
    """Also where few of them hold a mixture: every group needs some weight, and no domain may have much."""
    groups = tuple(Bound(f"g{i}", "", np.isin(np.arange(40), range(10 * i, 10 * i + 10)).astype(float), low=0.1) for i in range(4))
    caps = tuple(Bound(f"c{i}", "", np.eye(40)[i], high=0.3) for i in range(40))
    space = MixtureSpace(tuple(f"d{i}" for i in range(40)), np.full(40, 1 / 40), Constraints((*groups, *caps), at_most=5))
    drawn = space.sample(300, np.random.default_rng(0))
    assert space.feasible(drawn).all()
    assert len(np.unique(drawn > 0, axis=0)) > 250


def test_constraints_that_leave_next_to_nothing() -> None:
    floors = tuple(Bound(f"mixture.floors.{i}", "", EYE[i], low=0.2499999) for i in range(4))
    assert clash(Constraints(floors), NATURAL) is None
    space = MixtureSpace(tuple("abcd"), NATURAL, Constraints(floors))
    assert space.feasible(space.project(EYE)).all()
    missed = tuple(Bound(f"mixture.fixed.{i}", "", EYE[i], 0.2499999, 0.2499999) for i in range(4))
    with pytest.raises(InfeasibleError, match="they miss each other by less than 1e-6"):
        MixtureSpace(tuple("abcd"), NATURAL, Constraints(missed)).centre  # noqa: B018 - solved when it is asked for


def test_a_tie_is_named_where_it_clashes() -> None:
    fixed = tuple(Bound(f"mixture.fixed.{'ab'[i]}", f"{'ab'[i]} is 0.1", EYE[i], 0.1, 0.1) for i in range(2))
    found = clash(Constraints(fixed, tied=((0, 1),)), NATURAL, tuple("abcd"))
    assert found is not None
    assert str(found).splitlines()[:2] == [
        "no mixture satisfies these 3 constraints (fewer would not clash):",
        "  mixture.groups: a, b keep their natural proportions",
    ]
