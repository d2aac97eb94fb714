"""Every format, parsed again as its trainer parses it, gives the mixture back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix_active.errors import ConfigError
from regmix_active.export import Handover, available, export
from regmix_active.export.handover import NEGLIGIBLE
from tests.export.parsers import BY_NAME, PARSERS

AWKWARD = (
    "books",
    "no",
    "1e-5",
    "12:30",
    "2001-01-01",
    "null",
    "a b, 'c' \"d\"",
    "wiki/en",
    "日本: 1",
    "#tag",
    "{curly} ${x}",
    "back\\slash",
    "[x]",
    "- dash",
    "é \U0001f600",
    "%s {0}",
    "key: value # no comment",
    "*star",
    "&amp",
    "!tag",
    "|",
    ">",
    "@at",
    "`tick`",
    "~",
    "<<",
    "=",
)
"""Names that YAML 1.1, Python, a shell, OmegaConf or a template could take for something else."""


def handover(weights: dict[str, float], form: str) -> Handover:
    """With every fact that any format needs; the paths hold the names, as far as the format allows."""
    names = list(weights)
    rng = np.random.default_rng(len(names))
    lengths = dict(zip(names, rng.uniform(20, 20_000, len(names)).tolist(), strict=True))
    blanks = form in ("megatron", "regmix")
    ends = ".jsonl" if form in ("torchtitan", "hf-interleave", "levanter") else ""
    paths = {}
    for index, name in enumerate(names):
        tail = "".join(name.split()) if blanks else name
        tail = "".join(letter for letter in tail if letter not in "*?[") if form == "regmix" else tail
        paths[name] = f"/data/{index:03}/{tail}/part{ends}"
    tokens = dict(zip(names, rng.uniform(1e8, 1e11, len(names)).tolist(), strict=True))
    return Handover("a study", weights, tokens, lengths, paths, target_tokens=10**11, sequence_length=4096)


def token_shares(form: str, given: Handover) -> dict[str, float]:
    """The trainer's shares, by domain, as shares of tokens again."""
    shares = PARSERS[form](export(form, given))
    names = {name: name for name in given.domains} if form in BY_NAME else {given.files(name)[0]: name for name in given.domains}
    found = {names[key]: share for key, share in shares.items()}
    if form == "hf-interleave":  # examples: times their length
        found = {name: share * given.lengths[name] for name, share in found.items()}
        total = math.fsum(found.values())
        found = {name: share / total for name, share in found.items()}
    return found


def check(form: str, weights: dict[str, float]) -> None:
    given = handover(weights, form)
    found = token_shares(form, given)
    for name, weight in weights.items():
        assert found.get(name, 0.0) == pytest.approx(weight, abs=1e-9), name
    if available()[form].zeros == "left out":
        assert set(found) == {name for name, weight in weights.items() if weight > NEGLIGIBLE}
    else:
        assert found == weights
    assert list(found) == [name for name in weights if name in found], "the order is kept"


def test_every_format_has_a_parser() -> None:
    assert set(PARSERS) == set(available())


@pytest.mark.parametrize("form", list(PARSERS))
def test_awkward_names_and_paths(form: str) -> None:
    weights = np.random.default_rng(1).dirichlet(np.full(len(AWKWARD), 0.7))
    check(form, dict(zip(AWKWARD, (weights / weights.sum()).tolist(), strict=True)))


@pytest.mark.parametrize("form", list(PARSERS))
def test_200_domains_zeros_and_tiny_weights(form: str) -> None:
    weights = np.random.default_rng(2).dirichlet(np.full(200, 0.5))
    weights[::7] = 0
    weights[1:5] = (1e-5, 3e-8, 5e-11, 1e-13)
    weights /= math.fsum(weights)
    check(form, {f"domain {index}": float(weight) for index, weight in enumerate(weights)})


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, float]:
    """Weights over many orders of magnitude, zeros among them."""
    text = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8)
    names = draw(st.lists(text, min_size=1, max_size=8, unique=True))
    sizes = st.one_of(st.just(0.0), st.floats(1e-9, 1), st.floats(-12, 0).map(lambda power: 10.0**power))
    weights = [draw(sizes) for _ in names]
    weights[0] = max(weights[0], 1e-3)
    total = math.fsum(weights)
    return {name: weight / total for name, weight in zip(names, weights, strict=True)}


@settings(max_examples=25, derandomize=True, deadline=None)
@given(mixtures())
def test_any_mixture_comes_back_to_1e_9(weights: dict[str, float]) -> None:
    for form in PARSERS:
        if form == "olmix" and {"weight", "repetition_factor"} & set(weights):
            continue
        if form == "levanter" and any(name.startswith("/") or ".." in name for name in weights):
            continue
        check(form, weights)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 0.5, "b": 0.4}, r"they sum to 0\.9, not to 1; divide each by 0\.9"),
        ({"a": 0.0}, "give at least one domain a weight above 0"),
        ({}, "give at least one domain a weight above 0"),
        ({"a": 1.5, "b": -0.5}, r"the weight of 'b' is -0\.5; a weight is a share"),
        ({"a": float("nan"), "b": 1.0}, "the weight of 'a' is nan"),
        ({"a": float("inf")}, "the weight of 'a' is inf"),
        ({"a\nb: 1": 1.0}, r"the name 'a\\nb: 1'"),
        ({"": 1.0}, "the name ''"),
    ],
)
def test_what_is_no_mixture(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Handover("s", weights)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tokens": {"a": 0}}, "tokens of 'a' is 0, not a number of tokens"),
        ({"lengths": {"a": float("nan")}}, "lengths of 'a' is nan"),
        ({"paths": {"a": "x\ny"}}, r"a path of 'a' is 'x\\ny'"),
        ({"paths": {"a": [""]}}, "a path of 'a' is ''"),
        ({"target_tokens": 0}, "target_tokens is 0"),
    ],
)
def test_facts_that_cannot_be(facts: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Handover("s", {"a": 1.0}, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "needs"),
    [
        ("megatron", "paths of a, b; give --paths"),
        ("hf-interleave", "paths of a, b; give --paths"),
        ("olmix", "tokens of a, b; give --tokens"),
    ],
)
def test_what_is_missing_is_named(form: str, needs: str) -> None:
    with pytest.raises(ConfigError, match=f"--format {form} needs {needs}"):
        export(form, Handover("s", {"a": 0.5, "b": 0.5, "unused": 0.0}))


def test_missing_numbers_are_named() -> None:
    given = Handover(
        "s", {"a": 0.5, "b": 0.5}, tokens={"a": 1e9, "b": 1e9}, lengths={"a": 10}, paths={"a": "x.jsonl", "b": "y.jsonl"}
    )
    with pytest.raises(ConfigError, match="hf-interleave needs lengths of b; give --lengths FILE"):
        export("hf-interleave", given)
    with pytest.raises(ConfigError, match="olmo-core needs target tokens; give --target-tokens N"):
        export("olmo-core", given)
    with pytest.raises(ConfigError, match="llm-foundry needs sequence length; give --sequence-length N"):
        export("llm-foundry", given, weighting="choose")


def test_facts_of_zeros_are_not_needed() -> None:
    given = Handover("s", {"a": 1.0, "unused": 0.0}, lengths={"a": 10}, paths={"a": "x.jsonl"})
    assert "unused" not in export("hf-interleave", given)["mixture.py"]
