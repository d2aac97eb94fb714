"""How many tokens the target run has of each domain: who says so, in which order, and in whose tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regmix_active.config.load import load_config
from regmix_active.config.schema import RunConfig
from regmix_active.corpus.build import build_store
from regmix_active.corpus.store import TokenStore
from regmix_active.corpus.tokenizer import CorpusTokenizer
from regmix_active.errors import ConfigError
from regmix_active.search.finite import target_tokens_of
from regmix_active.search.meanings import command_meaning, runner_meaning, swarm_meaning
from regmix_active.search.spaces import feasible_space

OWN = runner_meaning(("books", "code"), None, ("books", "code"), 0, {})


def of_command(tokens: dict[str, float], **domains: float) -> RunConfig:
    runner = {"command": "t {mixture} {out}", "domains": domains}
    return RunConfig.model_validate({"runner": runner, "mixture": {"tokens": tokens}})


@pytest.fixture(scope="module")
def corpus_config(tiny: Path) -> RunConfig:
    return load_config(tiny).config


@pytest.fixture(scope="module")
def store(corpus_config: RunConfig, cache: Path) -> TokenStore:
    return build_store(corpus_config.corpus, cache_dir=cache)


def changed(config: RunConfig, **mixture: Any) -> RunConfig:
    return config.model_copy(update={"mixture": type(config.mixture).model_validate(mixture)})


def test_the_corpus_counts_its_training_tokens(corpus_config: RunConfig, store: TokenStore) -> None:
    own = [record.train.tokens for record in store.manifest.domains]
    for source in (store, swarm_meaning(corpus_config, store)):
        assert target_tokens_of(corpus_config, source).tolist() == own
        given = changed(corpus_config, tokens={"code": 7e9})
        assert target_tokens_of(given, source).tolist() == [own[0], 7e9, own[2]]


def test_domains_that_are_only_scored_have_none(corpus_config: RunConfig, store: TokenStore) -> None:
    config = changed(corpus_config, tokens={"code": 7e9, "talk": 8e9}).model_copy(update={"score_only": ("code",)})
    for source in (store, swarm_meaning(config, store)):
        assert target_tokens_of(config, source).tolist() == [store.manifest.domains[0].train.tokens, 8e9]


def test_a_command_has_the_tokens_of_its_domains() -> None:
    config = of_command({"code": 5e9}, books=1e9, code=2e9)
    assert target_tokens_of(config, command_meaning(config)).tolist() == [1e9, 5e9]


def test_shares_are_no_counts() -> None:
    config = of_command({"code": 5e9}, books=0.25, code=0.75)
    with pytest.raises(
        ConfigError, match=r"mixture\.tokens: .*not known of books \(the numbers in runner\.domains are shares\); add"
    ):
        target_tokens_of(config, command_meaning(config))
    config = of_command({"code": 5e9, "books": 1}, books=1, code=1)
    assert target_tokens_of(config, command_meaning(config)).tolist() == [1, 5e9]


def test_a_runner_of_the_users_has_no_counts() -> None:
    with pytest.raises(ConfigError, match=r"not known of books, code; add them: tokens: \{books: 1e9, code: 1e9\}"):
        target_tokens_of(RunConfig(), OWN)
    with pytest.raises(ConfigError, match="not known of code;"):
        target_tokens_of(RunConfig.model_validate({"mixture": {"tokens": {"books": 1}}}), OWN)
    both = RunConfig.model_validate({"mixture": {"tokens": {"code": 2e9, "books": 1e9}}})
    assert target_tokens_of(both, OWN).tolist() == [1e9, 2e9]


def test_unknown_names_are_told(corpus_config: RunConfig, store: TokenStore) -> None:
    with pytest.raises(ConfigError, match=r"mixture\.tokens: unknown domain 'bokks'; did you mean 'books'\?"):
        target_tokens_of(changed(corpus_config, tokens={"bokks": 1}), store)
    with pytest.raises(ConfigError, match=r"unknown domain 'wikipedia'; the domains are: books, code"):
        target_tokens_of(RunConfig.model_validate({"mixture": {"tokens": {"wikipedia": 1}}}), OWN)
    with pytest.raises(ConfigError, match=r"mixture\.tokens: unknown domain 'bokks'; did you mean 'books'\?"):
        feasible_space(RunConfig.model_validate({"mixture": {"tokens": {"bokks": 1}}}), OWN)  # without target_tokens too


def test_with_a_tokenizer_for_proxies_the_targets_tokens_count(
    corpus_config: RunConfig, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "def return import class self for in range if else None True lambda yield assert with as " * 50
    (tmp_path / "tokenizer.json").write_text(CorpusTokenizer.train([words], 400).to_json(), encoding="utf-8")
    tokenizer = {"file": str(tmp_path / "tokenizer.json"), "proxy_vocab_size": 300}
    corpus = type(corpus_config.corpus).model_validate({**corpus_config.corpus.model_dump(), "tokenizer": tokenizer})
    config = corpus_config.model_copy(update={"corpus": corpus})
    store = build_store(corpus, cache_dir=cache / "finite")
    counted = [record.target_tokens for record in store.manifest.domains]
    assert counted != [record.train.tokens for record in store.manifest.domains]
    assert target_tokens_of(config, store).tolist() == counted
    meaning = swarm_meaning(config, store)
    monkeypatch.setattr("regmix_active.corpus.lookup.default_cache_dir", lambda: cache / "finite")
    np.testing.assert_array_equal(target_tokens_of(config, meaning), counted, "the study's corpus is looked up")
    monkeypatch.setattr("regmix_active.corpus.lookup.default_cache_dir", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"not known of books, code, talk .*not in the cache any more"):
        target_tokens_of(config, meaning)
    every = changed(config, tokens={"books": 1, "code": 2, "talk": 3})
    assert target_tokens_of(every, meaning).tolist() == [1, 2, 3]
