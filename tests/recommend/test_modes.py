"""Averages that are worse than what they are of, and those that are not."""

from __future__ import annotations

import numpy as np

from regmix_active.mixture.constraints import Constraints
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.recommend.modes import average, modes

D = 3
SPACE = MixtureSpace(("a", "b", "c"), np.full(D, 1 / D))
LEFT, RIGHT = np.array([0.8, 0.1, 0.1]), np.array([0.1, 0.8, 0.1])


def bowl(mixtures: Mixtures) -> np.ndarray:
    """One valley around the left mixture."""
    value: np.ndarray = ((mixtures - LEFT) ** 2).sum(axis=1)
    return value


def valleys(mixtures: Mixtures) -> np.ndarray:
    """Two valleys, the left one deeper by a little."""
    right: np.ndarray = ((mixtures - RIGHT) ** 2).sum(axis=1) + 0.001
    return np.minimum(bowl(mixtures), right)


def ring(mixtures: Mixtures) -> np.ndarray:
    """A round valley: its members are one mode, and their average lies on the hill inside."""
    value: np.ndarray = (np.linalg.norm(mixtures - 1 / D, axis=1) - 0.2) ** 2
    return value


def best_of(truth: object, k: int = 64, n: int = 20_000) -> Mixtures:
    draws = SPACE.dirichlet(n, np.ones(D), np.random.default_rng(0))
    return draws[np.argsort(truth(draws), kind="stable")[:k]]  # type: ignore[operator]


def everything(mixtures: Mixtures) -> np.ndarray:
    return np.ones(len(mixtures), dtype=bool)


def test_one_valley_is_averaged_whole() -> None:
    best = best_of(bowl)
    found = average(SPACE, best, bowl, bowl, everything)
    np.testing.assert_array_equal(found.weights, SPACE.project(best.mean(axis=0))[0])
    assert (found.averaged, found.modes, found.note) == (64, 1, "")


def test_two_valleys_are_not_averaged_across() -> None:
    best = best_of(valleys, k=400)
    assert valleys(best.mean(axis=0)[None])[0] > valleys(best).max(), "the problem: worse than each of them"
    found = average(SPACE, best, valleys, valleys, everything)
    assert found.modes == 2
    np.testing.assert_allclose(found.weights, LEFT, atol=0.02)
    assert found.averaged == (np.abs(best - LEFT).sum(axis=1) < 0.5).sum()
    assert "2 groups" in found.note
    assert str(found.averaged) in found.note


def test_a_few_members_beyond_a_barrier_do_not_count() -> None:
    """The average alone would not tell: so few hardly move it."""
    left = LEFT + 0.01 * np.random.default_rng(1).normal(size=(60, D))
    best = SPACE.project(np.concatenate([left, RIGHT[None], RIGHT[None] + [0.01, -0.01, 0]]))
    assert valleys(best.mean(axis=0)[None])[0] <= valleys(best).max() + 1e-3
    found = average(SPACE, best, valleys, valleys, everything)
    assert (found.modes, found.averaged) == (2, 60)


def test_members_around_a_hill_are_one_mode_with_a_bad_average() -> None:
    best = best_of(ring, k=200)
    assert modes(best, lambda mixtures: ring(mixtures) <= ring(best).max() + 1e-3).max() == 0
    found = average(SPACE, best, ring, ring, everything)
    assert found.modes == 1
    assert found.averaged < 200
    assert ring(found.weights[None])[0] <= ring(best).max() + 1e-4
    assert "worse than each of them" in found.note


def test_different_domains_are_different_modes_where_few_may_be_used() -> None:
    space = MixtureSpace(SPACE.domains, SPACE.natural, Constraints(at_most=2))
    rng = np.random.default_rng(0)
    share = 0.5 + 0.02 * rng.random((40, 1))
    best = np.concatenate([share, 1 - share, 0 * share], axis=1)
    best[::2] = best[::2][:, [0, 2, 1]]

    def flat(mixtures: Mixtures) -> np.ndarray:
        value: np.ndarray = 1 + 1e-6 * mixtures[:, 2]
        return value

    assert not space.feasible(best.mean(axis=0)[None])[0]
    found = average(space, best, flat, flat, everything)
    assert space.feasible(found.weights[None])[0]
    assert (found.modes, found.averaged) == (2, 20)
    assert found.weights[2] == 0, "the better half"


def test_an_average_that_is_not_allowed_is_made_of_fewer() -> None:
    best = best_of(bowl)
    found = average(SPACE, best, bowl, bowl, lambda mixtures: np.abs(mixtures - best[0]).sum(axis=1) < 1e-3)
    assert found.averaged < 64
    assert np.abs(found.weights - best[0]).sum() < 1e-3


def test_many_members_are_looked_at_by_some() -> None:
    best = best_of(valleys, k=2000)
    inside = valleys(best).max() + 1e-4
    calls: list[int] = []

    def within(mixtures: Mixtures) -> np.ndarray:
        calls.append(len(mixtures))
        return np.asarray(valleys(mixtures) <= inside)

    mode = modes(best, within)
    side = best[:, 0] > best[:, 1]
    assert len(mode) == 2000
    assert (mode[side] == 0).all()
    assert (mode[~side] == 1).all()
    assert max(calls) < 20_000
