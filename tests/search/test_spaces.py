"""From the ``mixture`` section to a feasible set: names, groups, hierarchies, epochs, and the ways to get them wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.mixture.explain import domain_ranges
from regmix_active.mixture.space import MixtureSpace
from regmix_active.search.spaces import feasible_space, needless, quickly_explained
from regmix_active.study.meaning import Meaning

DOMAINS = ("web-news", "web-blogs", "github", "stackexchange", "books")
NATURAL = (0.4, 0.2, 0.1, 0.1, 0.2)


def space(mixture: dict[str, Any], **more: Any) -> MixtureSpace:
    config = RunConfig.model_validate({"mixture": mixture, **more})
    return feasible_space(config, Meaning(DOMAINS, NATURAL, DOMAINS, {}))


def ranges(mixture: dict[str, Any]) -> dict[str, list[float]]:
    found = space(mixture)
    rows = domain_ranges(found.constraints, found.natural)
    return {name: [round(float(end), 9) for end in row] for name, row in zip(DOMAINS, rows, strict=True)}


def test_nothing_asked_is_the_simplex() -> None:
    assert not space({}).constrained
    assert not space({"caps": {"books": 1.0}, "floors": {"books": 0.0}}).constrained


def test_floors_caps_and_fixed_shares() -> None:
    found = ranges({"floors": {"books": 0.05}, "caps": {"github": 0.3}, "fixed": {"web-news": 0.1}})
    assert found["books"] == [0.05, 0.9]
    assert found["github"] == [0.0, 0.3]
    assert found["web-news"] == [0.1, 0.1]


def test_groups_name_domains_patterns_and_groups() -> None:
    groups = {
        "web": {"members": ["web-*"], "max": 0.5},
        "code": {"members": ["github", "stackexchange"], "min": 0.2},
        "all-but-books": {"members": ["web", "code"], "max": 0.8},
    }
    found = space({"groups": groups})
    assert found.feasible([0.2, 0.2, 0.2, 0.2, 0.2]).all()
    assert not found.feasible([0.3, 0.3, 0.2, 0, 0.2]).any()  # web above 0.5
    assert not found.feasible([0.25, 0.25, 0.1, 0, 0.4]).any()  # code below 0.2
    assert not found.feasible([0.3, 0.2, 0.2, 0.2, 0.1]).any()  # both above 0.8


def test_a_hierarchy_bounds_shares_within_its_groups() -> None:
    groups = {
        "web": {"members": ["web-*"]},
        "news": {"members": ["web-news"], "within": "web", "max": 0.25, "min": 0.1},
    }
    found = space({"groups": groups})
    assert found.feasible([0.1, 0.3, 0.2, 0.2, 0.2]).all()
    assert not found.feasible([0.2, 0.2, 0.2, 0.2, 0.2]).any()
    drawn = found.sample(200, np.random.default_rng(0))
    share = drawn[:, 0] / drawn[:, :2].sum(axis=1)
    assert share.min() >= 0.1 - 1e-9
    assert share.max() <= 0.25 + 1e-9
    assert np.ptp(share) > 0.1


def test_a_group_that_keeps_natural_proportions_is_one_weight() -> None:
    found = space({"groups": {"web": {"members": ["web-*"], "proportions": "natural", "max": 0.3}}})
    drawn = found.sample(50, np.random.default_rng(0))
    np.testing.assert_allclose(drawn[:, 0], 2 * drawn[:, 1])
    assert drawn[:, :2].sum(axis=1).max() <= 0.3 + 1e-9


def test_finite_data_caps_epochs() -> None:
    tokens = {"web-news": 5e9, "web-blogs": 1e9, "github": 2e8, "stackexchange": 1e12, "books": 1e12}
    found = ranges({"target_tokens": 1e10, "tokens": tokens})
    assert [found[name][1] for name in DOMAINS] == [1.0, 0.4, 0.08, 1.0, 1.0]
    assert ranges({"target_tokens": 1e10, "tokens": tokens, "max_epochs": 1})["github"][1] == 0.02
    with pytest.raises(ConfigError, match=r"mixture\.tokens: how many tokens"):
        space({"target_tokens": 1e10, "tokens": {"books": 1e9}})


def test_no_more_than_a_multiple_of_the_natural_share() -> None:
    assert ranges({"max_ratio": 2})["github"] == [0.0, 0.2]


def test_prior_and_temperature() -> None:
    flat = np.sqrt(NATURAL) / np.sqrt(NATURAL).sum()
    np.testing.assert_array_equal(space({}).prior, flat)
    np.testing.assert_allclose(space({"temperature": 1}).prior, NATURAL)
    given = dict(zip(DOMAINS, (1, 1, 1, 1, 4), strict=True))
    np.testing.assert_allclose(space({"prior": given}).prior, np.array([1, 1, 1, 1, 2]) / 6)


@pytest.mark.parametrize("temperature", [0.1, 1e9])
@pytest.mark.parametrize("scale", [1e-300, 1, 1e308])
def test_no_temperature_loses_the_prior(temperature: float, scale: float) -> None:
    given = dict(zip(DOMAINS, (scale, scale, 1e-4 * scale, scale, scale), strict=True))
    expected = [1, 1, 1e-40, 1, 1] if temperature < 1 else [1] * 5
    prior = space({"prior": given, "temperature": temperature}).prior
    np.testing.assert_allclose(prior, np.array(expected) / np.sum(expected), rtol=1e-7)


def test_a_temperature_that_would_leave_one_domain_is_refused() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        space({"temperature": 1e-4})


def test_pull() -> None:
    found = space({"pull": {"strength": 0.1, "towards": "uniform", "kind": "l1"}})
    assert found.penalty(np.eye(5)[:1])[0] == pytest.approx(0.1 * 1.6)
    assert not space({}).penalty(np.eye(5)).any()


def test_what_changes_nothing_is_said() -> None:
    found = space({"caps": {"books": 0.5}, "floors": {"github": 0.6}})
    assert needless(found) == ["mixture.caps.books: books at most 0.5; the other constraints imply it"]


def test_a_run_looks_at_few_constraints_before_it_starts() -> None:
    found = space({"caps": {"books": 0.5}, "floors": {"github": 0.6}, "active": {"at_most": 3}})
    assert needless(found) == []
    assert needless(found, thorough=True) == ["mixture.caps.books: books at most 0.5; the other constraints imply it"]
    names = tuple(f"d{i}" for i in range(70))
    config = RunConfig.model_validate({"mixture": {"caps": dict.fromkeys(names[1:], 0.5), "floors": {"d0": 0.6}}})
    many = feasible_space(config, Meaning(names, (1 / 70,) * 70, names, {}))
    assert needless(many) == []
    assert len(needless(many, thorough=True)) == 69


def test_used_domains_are_not_counted_where_they_are_many() -> None:
    few = space({"active": {"at_most": 3}})
    assert quickly_explained(few) is few
    names = tuple(f"d{i}" for i in range(41))
    meaning = Meaning(names, (1 / 41,) * 41, names, {})
    many = feasible_space(RunConfig.model_validate({"mixture": {"active": {"at_most": 3}, "caps": {"d0": 0.5}}}), meaning)
    loose = quickly_explained(many)
    assert not loose.constraints.counted
    assert loose.constraints.bounds == many.constraints.bounds


ONE = [
    ({"fixed": dict(zip(DOMAINS, NATURAL, strict=True))}, r"\{web-news: 0\.4, .*\}.* loosen mixture\.fixed$"),
    ({"floors": {"books": 0.25, "github": 0.75}}, r"\{github: 0\.75, books: 0\.25\}.* loosen mixture\.floors$"),
    ({"caps": dict.fromkeys(DOMAINS, 0.2)}, r"\{web-news: 0\.2, .*\}.* mixture\.caps$"),
    ({"groups": {"all": {"members": ["*"], "proportions": "natural"}}}, r"\{web-news: 0\.4, .*\}.* mixture\.groups$"),
    ({"groups": {"a": {"members": ["web-*", "g*", "s*"], "max": 0}}}, r"\{books: 1\}.* mixture\.groups$"),
    ({"active": {"at_most": 1}, "floors": {"books": 0.1}}, r"\{books: 1\}.* mixture\.active, mixture\.floors$"),
    ({"active": {"at_least": 5, "smallest": 0.2}}, r"\{web-news: 0\.2, .*\}.* mixture\.active$"),
]


@pytest.mark.parametrize(("mixture", "message"), ONE)
def test_one_mixture_is_no_search(mixture: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        space(mixture)
    assert "search.initial" not in str(error.value)
    config = RunConfig.model_validate({"mixture": mixture})
    only = feasible_space(config, Meaning(DOMAINS, NATURAL, DOMAINS, {}), searched=False)
    assert np.ptp(only.sample(8, np.random.default_rng(0)), axis=0).max() < 1e-6


@pytest.mark.parametrize(
    "mixture",
    [
        {"fixed": {"books": 0.3}, "floors": {"github": 0.699}},
        {"active": {"at_most": 1}},  # five points
        {"caps": dict.fromkeys(DOMAINS, 0.2001)},
    ],
)
def test_a_small_set_is_searched(mixture: dict[str, Any]) -> None:
    assert space(mixture).constrained


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"caps": {"book": 0.5}}, r"mixture\.caps: unknown domain 'book'; did you mean 'books'\?"),
        ({"caps": {"bokks": 1.0}}, r"mixture\.caps: unknown domain 'bokks'; did you mean 'books'\?"),
        ({"floors": {"wiki": 0.5}}, r"mixture\.floors: unknown domain 'wiki'; the domains are: web-news"),
        ({"floors": {"bokks": 0}}, r"mixture\.floors: unknown domain 'bokks'; did you mean 'books'\?"),
        ({"fixed": {"bokks": 0}}, r"mixture\.fixed: unknown domain 'bokks'; did you mean 'books'\?"),
        ({"tokens": {"book": 1e9}}, r"mixture\.tokens: unknown domain 'book'; did you mean 'books'\?"),
        ({"groups": {"code": {"members": ["git"]}}}, r"mixture\.groups\.code\.members: unknown name 'git'"),
        ({"groups": {"code": {"members": ["githbu"]}}}, r"members: unknown name 'githbu'; did you mean 'github'\?"),
        ({"groups": {"code": {"members": ["github"], "within": "cod"}}}, r"within: unknown group 'cod'; did you mean 'code'\?"),
        ({"groups": {"books": {"members": ["github"]}}}, r"mixture\.groups\.books: there is a domain of this name"),
        ({"groups": {"a": {"members": ["b"]}, "b": {"members": ["a"]}}}, r"contains itself \(a → b → a\)"),
        (
            {"groups": {"a": {"members": ["books"], "within": "b", "max": 0.1}}},
            r"mixture\.groups\.a\.within: unknown group 'b'; the groups are: a",
        ),
        (
            {"groups": {"a": {"members": ["books"], "within": "a", "max": 0.1}}},
            r"groups\.a\.within: the group is within itself; name",
        ),
        (
            {"groups": {"a": {"members": ["books"], "within": "b"}, "b": {"members": ["books"], "within": "a"}}},
            r"groups\.a\.within: the group is within itself \(a → b → a\); name a larger group",
        ),
        (
            {
                "groups": {
                    "a": {"members": ["books", "github"], "within": "b", "max": 0.5},
                    "b": {"members": ["github", "web-news"]},
                }
            },
            r"groups\.a\.within: 'b' does not contain books; add it to mixture\.groups\.b\.members",
        ),
        (
            {"groups": {"a": {"members": ["web-*"], "within": "b", "max": 0.5}, "b": {"members": ["web-news", "web-blogs"]}}},
            r"groups\.a\.within: 'b' has the same domains, so the share is always 1",
        ),
        ({"active": {"at_least": 6}}, r"mixture\.active\.at_least: 6, and there are 5 domains"),
        ({"prior": {"books": 1}}, r"mixture\.prior: needs a share of every domain; web-news"),
        ({"prior": {"bokks": 1}}, r"mixture\.prior: unknown domain 'bokks'; did you mean 'books'\?"),
        ({"caps": {"held": 0.1}}, r"'held' is only scored \(score_only\), it has no weight; leave it out"),
        ({"floors": {"books": 0.7, "github": 0.6}}, r"no mixture satisfies these 2 constraints"),
    ],
)
def test_wrong_sections(mixture: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space(mixture, score_only=["held"])
