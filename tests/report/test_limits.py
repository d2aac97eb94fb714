"""What holds a weight at the ends of its range: the constraints that are named do, alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regmix_active.mixture.constraints import Bound, Constraints, Region, Units
from regmix_active.mixture.programs import minimise
from regmix_active.mixture.space import MixtureSpace
from regmix_active.report.limits import ACTIVE, TIED, limits
from tests.feasibility.sets import feasible_set

EYE = np.eye(4)
DOMAINS = ("a", "b", "c", "d")


def space(*bounds: Bound, **more: object) -> MixtureSpace:
    return MixtureSpace(DOMAINS, np.array([0.4, 0.3, 0.2, 0.1]), Constraints(bounds, **more))  # type: ignore[arg-type]


def ends(found: MixtureSpace) -> dict[str, tuple[tuple[float, tuple[str, ...]], tuple[float, tuple[str, ...]]]]:
    rows = limits(found)
    return {
        name: ((round(low.weight, 9), low.keys), (round(high.weight, 9), high.keys))
        for name, (low, high) in zip(DOMAINS, rows, strict=True)
    }


def test_nothing_holds_a_free_weight() -> None:
    found = ends(space(Bound("floor", "", EYE[0], low=0.1)))
    assert found["a"] == ((0.1, ("floor",)), (1.0, ()))
    assert found["b"] == ((0.0, ()), (0.9, ("floor",)))


def test_groups_and_shares_in_groups() -> None:
    group = Bound("group", "", EYE[0] + EYE[1], high=0.4)
    share = Bound("share", "", EYE[0] - 0.25 * (EYE[0] + EYE[1]), high=0.0)
    found = ends(space(group, share))
    assert found["a"][1] == (0.1, ("group", "share"))
    assert found["b"][1] == (0.4, ("group",))
    assert found["c"] == ((0.0, ()), (1.0, ()))
    found = ends(space(group, replace(group, key="rest", coefficients=EYE[2], high=0.5)))
    assert found["d"] == ((0.1, ("group", "rest")), (1.0, ()))


def test_tied_domains_follow_their_group() -> None:
    found = ends(space(Bound("cap", "", EYE[0], high=0.2), tied=((0, 1),)))
    assert found["b"] == ((0.0, ()), (0.15, ("cap", TIED)))
    assert ends(space(tied=((0, 1),)))["b"][1] == (round(3 / 7, 9), (TIED,))
    natural = np.array([0.6, 0.0, 0.3, 0.1])
    none = limits(MixtureSpace(DOMAINS, natural, Constraints(tied=((0, 1),))))[1]
    assert [end.weight for end in none] == [0, 0]
    assert none[1].keys == (TIED,)


def test_counts_hold_too() -> None:
    caps = [Bound(f"cap.{name}", "", row, high=0.4) for name, row in zip(DOMAINS[1:], EYE[1:], strict=True)]
    found = ends(space(*caps, at_most=2))
    assert found["a"][0][0] == 0.6
    assert found["a"][0][1][-1] == ACTIVE
    assert found["a"][1] == (1.0, ())
    least = ends(space(at_least=3, smallest=0.1))
    assert least["d"] == ((0.0, ()), (0.8, (ACTIVE,)))


def reach(found: MixtureSpace, constraints: Constraints, domain: int, sign: float) -> float:
    """Smallest weight of a domain under other constraints, or the largest."""
    units = Units.of(found.natural, constraints.tied)
    best = minimise(Region.of(constraints, units), sign * units.shares[:, domain])
    assert best is not None
    return sign * best.value


@pytest.mark.parametrize("seed", range(100, 124))
def test_the_named_constraints_alone_imply_the_end(seed: int) -> None:
    found, _ = feasible_set(seed, largest=12)
    for i, pair in enumerate(limits(found)):
        for sign, end in zip((1.0, -1.0), pair, strict=True):
            assert end.weight == pytest.approx(reach(found, found.constraints, i, sign), abs=2e-6)
            bounds = tuple(bound for bound in found.constraints.bounds if bound.key in end.keys)
            alone = replace(found.constraints, bounds=bounds)
            if ACTIVE not in end.keys:
                alone = replace(alone, at_least=1, at_most=None, smallest=0.0)
                assert reach(found, alone, i, sign) == pytest.approx(end.weight, abs=2e-6)
