"""A fork carries over what still means something, invents nothing, and says why the rest stays behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix_active.errors import ConfigError, StudyMismatchError
from regmix_active.study.fork import Fork, Pools, parse_groups
from regmix_active.study.imported import ImportedRun, Intake, describe_refusals
from regmix_active.study.meaning import Meaning

TOKENS = {"books": 600, "code": 300, "talk": 100}


def meaning(tokens: Mapping[str, int], scored: tuple[str, ...] = (), facts: Mapping[str, Any] | None = None) -> Meaning:
    """Of a study that mixes `tokens` and scores `scored`, too."""
    total = sum(tokens.values())
    data = {f"corpus.tokens.{name}": n for name, n in tokens.items()}
    everything = {
        "seed": 0,
        "proxy.width": 16,
        "corpus.vocab_size": 300,
        "corpus.fingerprint": str(sorted(tokens)),
        **data,
        **(facts or {}),
    }
    return Meaning(tuple(tokens), tuple(n / total for n in tokens.values()), (*tokens, *scored), everything)


def run(name: str, *weights: float, **losses: float) -> ImportedRun:
    return ImportedRun(name, np.array(weights), losses or {"books": 2.0, "code": 3.0, "talk": 4.0})


OLD = meaning(TOKENS)


def carry(new: Meaning, *runs: ImportedRun, old: Meaning = OLD, **options: Any) -> Intake:
    return Fork(old, new, **options).carry(runs)


def test_a_domain_that_is_gone_takes_its_runs_with_it() -> None:
    new = meaning({"books": 600, "code": 300})
    intake = carry(new, run("0", 0.5, 0.38, 0.12), run("1", 0.25, 0.75 - 1e-7, 1e-7), run("2", 0.0, 0.4, 0.6))
    (kept,) = intake.runs
    np.testing.assert_allclose(kept.weights, [0.25, 0.75], atol=1e-6)
    assert kept.weights.sum() == pytest.approx(1, abs=1e-15)
    assert kept.losses == {"books": 2.0, "code": 3.0}
    assert describe_refusals(intake.refused) == ["2 runs: spent 12–60 % on 'talk', which is gone (0, 2)"]
    assert intake.notes == ("gone: 'talk'",)


def test_a_little_on_a_domain_that_is_gone_is_left_out_and_said() -> None:
    new = meaning({"books": 600, "code": 300})
    intake = carry(new, run("0", 0.248, 0.744, 0.008), run("1", 0.245, 0.744, 0.011))
    (kept,) = intake.runs
    np.testing.assert_allclose(kept.weights, [0.25, 0.75])
    assert kept.notes == ("left out 0.8 % on 'talk', which is gone",)
    assert describe_refusals(intake.refused) == ["1 run: spent 1.1 % on 'talk', which is gone (1)"]


def test_a_domain_that_is_only_scored_now_keeps_its_loss() -> None:
    new = meaning({"books": 600, "code": 300}, ("talk",), {"corpus.tokens.talk": 100})
    intake = carry(new, run("0", 0.4, 0.6, 0.0))
    assert intake.runs[0].losses == {"books": 2.0, "code": 3.0, "talk": 4.0}
    assert intake.notes == ("gone: 'talk'; it is still scored",)


def test_a_new_domain_has_no_weight_and_no_loss() -> None:
    new = meaning({"wiki": 50, **TOKENS})
    intake = carry(new, run("0", 0.5, 0.3, 0.2))
    assert intake.runs[0].weights.tolist() == [0.0, 0.5, 0.3, 0.2]
    assert intake.runs[0].losses == {"books": 2.0, "code": 3.0, "talk": 4.0}
    assert intake.notes == ("new: 'wiki'", "losses that no run of the old study has: wiki")


def test_a_merged_domain_takes_runs_in_its_own_proportion() -> None:
    new = meaning({"books": 600, "prose": 400})
    runs = [run("right", 0.2, 0.6, 0.2), run("near", 0.2, 0.57, 0.23), run("far", 0.2, 0.4, 0.4), run("none", 1.0, 0.0, 0.0)]
    intake = carry(new, *runs, merges={"prose": ("code", "talk")})
    assert [kept.name for kept in intake.runs] == ["right", "near", "none"]
    np.testing.assert_allclose(np.array([kept.weights for kept in intake.runs]), np.array([[0.2, 0.8], [0.2, 0.8], [1, 0]]))
    for kept in intake.runs:
        assert kept.losses == {"books": 2.0, "prose": pytest.approx(0.75 * 3 + 0.25 * 4)}
        assert "loss of 'prose' averaged: 0.75 code + 0.25 talk" in kept.notes
    assert "mixed code + talk 3.8 % otherwise than 'prose' does" in intake.runs[1].notes
    assert describe_refusals(intake.refused) == ["1 run: mixed code + talk 25 % otherwise than their union 'prose' does (far)"]
    assert intake.notes == ("merged: code + talk → prose",)


def test_the_loss_of_a_union_needs_all_its_parts() -> None:
    intake = carry(
        meaning({"books": 600, "prose": 400}), run("0", 1.0, 0.0, 0.0, books=2.0, code=3.0), merges={"prose": ("code", "talk")}
    )
    assert intake.runs[0].losses == {"books": 2.0}


def test_a_new_name_changes_nothing_else() -> None:
    intake = carry(meaning({"books": 600, "code": 300, "chat": 100}), run("0", 0.5, 0.3, 0.2), merges={"chat": ("talk",)})
    assert intake.runs[0].weights.tolist() == [0.5, 0.3, 0.2]
    assert intake.runs[0].losses == {"books": 2.0, "code": 3.0, "chat": 4.0}
    assert intake.runs[0].notes == ()
    assert intake.notes == ("renamed: talk → chat",)


def test_a_domain_may_swallow_another() -> None:
    new = meaning({"books": 900, "talk": 100})
    intake = carry(new, run("0", 0.6, 0.3, 0.1), merges={"books": ("books", "code")})
    np.testing.assert_allclose(intake.runs[0].weights, [0.9, 0.1])
    assert intake.runs[0].losses == {"books": pytest.approx(2 * 2 / 3 + 3 / 3), "talk": 4.0}


def test_a_split_domain_is_shared_by_tokens_and_its_losses_are_unknown() -> None:
    new = meaning({"novels": 450, "poems": 150, "code": 300, "talk": 100})
    intake = carry(new, run("0", 0.4, 0.5, 0.1), splits={"books": ("novels", "poems")})
    np.testing.assert_allclose(intake.runs[0].weights, [0.3, 0.1, 0.5, 0.1])
    assert intake.runs[0].losses == {"code": 3.0, "talk": 4.0}
    assert intake.runs[0].notes == ("weight of 'books' shared among novels, poems by their tokens",)
    assert intake.notes == ("split: books → novels + poems", "losses that no run of the old study has: novels, poems")


def test_a_part_may_keep_the_name_but_not_the_loss() -> None:
    new = meaning({"books": 450, "poems": 150, "code": 300, "talk": 100})
    intake = carry(new, run("0", 0.4, 0.5, 0.1), splits={"books": ("books", "poems")})
    assert intake.runs[0].losses == {"code": 3.0, "talk": 4.0}


def test_changed_text_is_told_and_its_runs_stay_behind() -> None:
    new = meaning({**TOKENS, "talk": 140})
    intake = carry(new, run("0", 0.6, 0.39, 0.01), run("1", 0.6, 0.3, 0.1))
    assert [kept.name for kept in intake.runs] == ["0"]
    assert intake.runs[0].losses == {"books": 2.0, "code": 3.0}, "it is scored on other text now"
    assert describe_refusals(intake.refused) == ["1 run: spent 10 % on 'talk', whose text has changed (1)"]
    assert intake.notes[0] == "the text of 'talk' has changed: 100 → 140 tokens"


def test_hashes_tell_changed_text_of_the_same_length() -> None:
    def pools(talk: str, tokenizer: str = "t") -> Pools:
        return Pools(dict.fromkeys(TOKENS, 1.0), {"books": "b", "code": "c", "talk": talk}, tokenizer=tokenizer, tokenizer_file="F")

    intake = carry(OLD, run("0", 0.6, 0.3, 0.1), run("1", 0.6, 0.4, 0.0), before=pools("x"), after=pools("y"))
    assert [kept.name for kept in intake.runs] == ["1"]
    with pytest.raises(StudyMismatchError, match=r"corpus\.tokenizer: it is trained on .* keep the old one with .*file: F"):
        Fork(OLD, OLD, before=pools("x"), after=pools("x", "other"))


def test_a_merged_domain_with_other_text() -> None:
    new = meaning({"books": 600, "prose": 500})
    intake = carry(new, run("0", 0.2, 0.6, 0.2), run("1", 1.0, 0.0, 0.0), merges={"prose": ("code", "talk")})
    assert [kept.losses for kept in intake.runs] == [{"books": 2.0}]
    assert describe_refusals(intake.refused) == ["1 run: spent 80 % on 'code + talk', whose text has changed (0)"]


def test_shares_alone_do_not_show_changed_text() -> None:
    """A command's domains have shares, which change when another domain comes."""
    old = Meaning(("a", "b"), (0.5, 0.5), ("a", "b"), {"seed": 0})
    new = Meaning(("a", "b", "c"), (0.25, 0.25, 0.5), ("a", "b", "c"), {"seed": 0})
    intake = Fork(old, new).carry([ImportedRun("0", np.array([0.3, 0.7]), {"a": 1.0, "b": 2.0})])
    assert intake.runs[0].losses == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (meaning(TOKENS, facts={"proxy.width": 32}), "proxy.width: 16 → 32"),
        (meaning(TOKENS, facts={"seed": 1}), "seed: 0 → 1"),
        (meaning(TOKENS, facts={"corpus.vocab_size": 512}), "corpus.vocab_size: 300 → 512"),
        (meaning({name: n + 7 for name, n in TOKENS.items()}), "corpus.tokenizer: it is trained on the text of all domains"),
    ],
)
def test_losses_that_mean_something_else_refuse_the_fork(new: Meaning, line: str) -> None:
    with pytest.raises(StudyMismatchError) as caught:
        Fork(OLD, new)
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_a_trunk_belongs_to_its_domains() -> None:
    trunk = {"proxy.trunk_tokens": 1000}
    with pytest.raises(StudyMismatchError, match=r"proxy\.trunk_tokens: the shared trunk trains on all domains"):
        Fork(meaning(TOKENS, facts=trunk), meaning({**TOKENS, "wiki": 5}, facts=trunk))
    renamed = meaning({"books": 600, "code": 300, "chat": 100}, facts=trunk)
    assert Fork(meaning(TOKENS, facts=trunk), renamed, merges={"chat": ("talk",)}).links


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merges": {"prose": ("code", "tlk")}}, "--merge: the old study mixes no domain 'tlk'; did you mean 'talk'"),
        ({"merges": {"pros": ("code", "talk")}}, "--merge: the new study mixes no domain 'pros'; did you mean 'prose'"),
        ({"merges": {"prose": ("code",)}, "splits": {"code": ("prose",)}}, "--split: 'code' is in two groups"),
        ({"merges": {"prose": ("books", "code")}}, "--merge: the new study still has a domain 'books', too"),
        ({"splits": {"talk": ("books", "prose")}}, "--split: the old study has a domain 'books', too"),
    ],
)
def test_wrong_groups(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Fork(OLD, meaning({"books": 600, "prose": 400}), **options)


def test_groups_are_written_as_whole_and_parts() -> None:
    assert parse_groups(["web = news, blogs", "x=y"], "--merge") == {"web": ("news", "blogs"), "x": ("y",)}
    for wrong in (["web"], ["=a,b"], ["web="], ["a=b,b"], ["a=b", "a=c"], ["a=b", "c=b"]):
        with pytest.raises(ConfigError, match="--merge"):
            parse_groups(wrong, "--merge")
    with pytest.raises(ConfigError, match=r"--split x=y: write WHOLE=PART,PART"):
        parse_groups(["x=y"], "--split")


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda row: sum(row) > 0.1), st.integers(0, 3))
def test_every_run_is_a_mixture_or_has_a_reason(row: list[float], case: int) -> None:
    weights = np.array(row) / sum(row)
    cases: list[tuple[Meaning, dict[str, Any]]] = [
        (meaning({"books": 600, "code": 300}), {}),
        (meaning({"books": 600, "prose": 400}), {"merges": {"prose": ("code", "talk")}}),
        (meaning({"novels": 450, "poems": 150, "code": 300, "talk": 100}), {"splits": {"books": ("novels", "poems")}}),
        (meaning({**TOKENS, "wiki": 10}), {}),
    ]
    new, options = cases[case]
    intake = carry(new, run("0", *weights), **options)
    assert len(intake.runs) + len(intake.refused) == 1
    for kept in intake.runs:
        assert kept.weights.shape == (len(new.domains),)
        assert (kept.weights >= 0).all()
        assert kept.weights.sum() == pytest.approx(1, abs=1e-12)
        assert set(kept.losses) <= set(new.loss_names)
