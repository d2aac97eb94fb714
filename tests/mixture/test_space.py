"""The feasible set: what is let in, what is refused, and what its draws look like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from regmix_active.mixture.space import MixtureSpace

QUICK = settings(max_examples=50, derandomize=True, deadline=None)


def space(d: int) -> MixtureSpace:
    counts = np.arange(1, d + 1)
    return MixtureSpace(tuple(f"d{i}" for i in range(d)), counts / counts.sum())


ABC = MixtureSpace(("a", "b", "c"), np.array([0.5, 0.3, 0.2]))


@pytest.mark.parametrize(
    ("domains", "natural", "message"),
    [
        (("a",), [1.0], "two or more different domains"),
        (("a", "a"), [0.5, 0.5], "two or more different domains"),
        (("a", "b"), [0.5, 0.3, 0.2], "one share >= 0 per domain"),
        (("a", "b"), [1.5, -0.5], "one share >= 0 per domain"),
        (("a", "b"), [np.nan, 1.0], "one share >= 0 per domain"),
        (("a", "b"), [0.5, 0.4], "sum to 0.9, not to 1"),
    ],
)
def test_wrong_spaces(domains: tuple[str, ...], natural: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureSpace(domains, np.array(natural))


def test_a_space_knows_its_centre_and_its_names() -> None:
    assert ABC.dim == 3
    assert ABC.uniform.tolist() == [1 / 3] * 3
    assert ABC.as_dict([0.5, 0.25, 0.25]) == {"a": 0.5, "b": 0.25, "c": 0.25}
    assert ABC.from_dict({"c": 0.75, "a": 0.25}).tolist() == [0.25, 0.0, 0.75]
    with pytest.raises(ValueError, match="unknown domain 'x'; the domains are a, b, c"):
        ABC.from_dict({"x": 1.0})
    with pytest.raises(ValueError, match=r"sum to 0\.5"):
        ABC.from_dict({"a": 0.5})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.5], "3 weights each"),
        ([0.5, 0.6, -0.1], "mixture 1: weight of 'c' is -0.1"),
        ([0.5, np.nan, 0.5], "mixture 1: weight of 'b' is nan"),
        ([0.5, 0.5, 0.1], "mixture 1: weights sum to 1.1"),
    ],
)
def test_check_names_the_fault(row: list[float], message: str) -> None:
    rows = [row, row] if len(row) != 3 else [[1.0, 0.0, 0.0], row]
    with pytest.raises(ValueError, match=message):
        ABC.check(rows)


def test_check_mends_rounding_only() -> None:
    checked = ABC.check([[0.5 + 4e-7, 0.5, -1e-7], [1.0, 0.0, 0.0]])
    assert checked.shape == (2, 3)
    assert (checked >= 0).all()
    np.testing.assert_allclose(checked.sum(axis=1), 1, rtol=0, atol=1e-15)
    assert ABC.check([0.2, 0.3, 0.5]).shape == (1, 3), "one mixture is a row"


@QUICK
@given(arrays(float, st.tuples(st.integers(1, 5), st.integers(2, 30)), elements=st.floats(0, 1)))
def test_project_gives_mixtures_and_keeps_them(rows: np.ndarray) -> None:
    s = space(rows.shape[1])
    rows[:, 0] += 0.1
    once = s.project(rows)
    np.testing.assert_allclose(once.sum(axis=1), 1, atol=1e-12)
    assert (once[rows == 0] == 0).all()
    np.testing.assert_allclose(s.project(once), once, atol=1e-15)
    np.testing.assert_array_equal(s.check(once).shape, rows.shape)


@QUICK
@given(st.integers(2, 60), st.floats(-300, 4), st.integers(0, 10))
def test_dirichlet_draws_are_mixtures_at_any_concentration(d: int, exponent: float, seed: int) -> None:
    """Also at parameters whose gamma draws all underflow to zero."""
    s = space(d)
    draws = s.dirichlet(7, s.natural * 10.0**exponent, np.random.default_rng(seed))
    assert np.isfinite(draws).all()
    s.check(draws)


def test_dirichlet_parameters_of_zero_are_weights_of_zero() -> None:
    rng = np.random.default_rng(0)
    draws = ABC.dirichlet(200, [1.0, 0.0, 1e-9], rng)
    assert (draws[:, 1] == 0).all()
    assert (draws[:, 0] > 0.99).all()
    rows = ABC.dirichlet(2, [[0.0, 2.0, 3.0], [4.0, 5.0, 0.0]], rng)
    assert ((rows == 0) == [[True, False, False], [False, False, True]]).all()


@pytest.mark.parametrize("strength", [0.3, 3.0, 100.0])
def test_dirichlet_has_the_moments_of_its_name(strength: float) -> None:
    """20,000 draws: each mean within five standard errors, each variance within 10 %."""
    n, mean = 20_000, ABC.natural
    draws = ABC.dirichlet(n, strength * mean, np.random.default_rng(7))
    variance = mean * (1 - mean) / (strength + 1)
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * np.sqrt(variance / n)).all()
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.1)


def test_dirichlet_is_reproducible() -> None:
    one, two = (ABC.dirichlet(3, ABC.natural, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
