"""Repetition-matched proxies: sizes of pools, what becomes a fact, and what the user is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regmix_active.config.load import load_config
from regmix_active.config.schema import RunConfig
from regmix_active.corpus.build import build_store
from regmix_active.corpus.store import TokenStore
from regmix_active.corpus.tokenizer import CorpusTokenizer
from regmix_active.errors import ConfigError
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.blocks import plan_blocks
from regmix_active.proxy.command import CommandRunner
from regmix_active.proxy.pools import PooledSource
from regmix_active.search.matching import Matching, PoolShares, match_pools, match_shares
from regmix_active.search.meanings import command_meaning, swarm_meaning
from regmix_active.search.runners import ready_to_train

QUICK = settings(max_examples=40, derandomize=True, deadline=None)
CONTEXT, TOKENS = 16, 6_400
"""Of the tiny configuration's proxies."""


@pytest.fixture(scope="module")
def plain(tiny: Path) -> RunConfig:
    return load_config(tiny).config


@pytest.fixture(scope="module")
def store(plain: RunConfig, cache: Path) -> TokenStore:
    return build_store(plain.corpus, cache_dir=cache)


def matching(config: RunConfig, target_tokens: float, **update: Any) -> RunConfig:
    """The configuration with matched repetition; `update` may hold other sections and keys of the mixture's section."""
    own = {key: update.pop(key) for key in ("tokens", "floors") if key in update}
    mixture = type(config.mixture).model_validate({"target_tokens": target_tokens, "match_repetition": True, **own})
    return config.model_copy(update={"mixture": mixture, **update})


def matched(config: RunConfig, store: TokenStore) -> Matching:
    found = match_pools(config, store)
    assert found is not None
    return found


def counts(store: TokenStore) -> NDArray[np.float64]:
    return np.array([record.train.tokens for record in store.manifest.domains], dtype=float)


@QUICK
@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.floats(1.5, 40), st.integers(0, 99))
def test_proxies_repeat_a_domain_as_the_target_run_does(
    plain: RunConfig, store: TokenStore, weights: list[float], epochs: float, seed: int
) -> None:
    w, target = np.array(weights) / sum(weights), epochs * counts(store).sum()
    pools = matched(matching(plain, target), store).pools
    plan = plan_blocks(PooledSource(store, pools, CONTEXT + 1), w, seed, TOKENS // CONTEXT, CONTEXT + 1)
    n_blocks = TOKENS // CONTEXT
    draws = 1.5 + 0.6 * np.log(n_blocks)  # by which the low-discrepancy sequence may miss; see test_blocks.py
    for i, blocks in enumerate(pools.blocks):
        assert blocks is not None
        ideal = n_blocks * counts(store)[i] / target
        assert blocks == 1 or abs(blocks - ideal) <= 0.5
        passes = w[i] * target / counts(store)[i]  # of the target run
        assert abs((plan.domain == i).sum() - passes * blocks) <= passes * abs(blocks - ideal) + draws


def test_off_means_off(plain: RunConfig, store: TokenStore) -> None:
    mixture = type(plain.mixture).model_validate({"target_tokens": 1e6, "caps": {"code": 0.5}, "tokens": {"code": 1e9}})
    constrained = plain.model_copy(update={"mixture": mixture})
    assert match_pools(constrained, store) is None
    assert swarm_meaning(constrained, store) == swarm_meaning(plain, store), "constraints never change what losses mean"


def test_facts_say_what_losses_mean(plain: RunConfig, store: TokenStore) -> None:
    target = 5 * counts(store).sum()
    before = swarm_meaning(plain, store)
    after = swarm_meaning(matching(plain, target), store)
    new = {key: value for key, value in after.facts.items() if key not in before.facts}
    blocks = np.round(TOKENS / CONTEXT * counts(store) / target).astype(int)
    assert new == {
        "mixture.target_tokens": target,
        **{f"mixture.pool_tokens.{name}": n * (CONTEXT + 1) for name, n in zip(store.domains, blocks.tolist(), strict=True)},
    }
    other = swarm_meaning(matching(plain, 2 * target), store)
    assert len(after.differences(other)) == 4
    assert after == swarm_meaning(matching(plain, target, floors={"code": 0.2}), store)
    assert matched(matching(plain, target), store) == matched(matching(plain, target), store)


def test_tokens_of_the_target_run_count_not_the_corpus(plain: RunConfig, store: TokenStore) -> None:
    config = matching(plain, 6_400e3, tokens={"books": 1_600e3, "code": 3_200e3, "talk": 640e3})
    assert matched(config, store).pools.blocks == (100, 200, 40)
    assert matched(config.model_copy(update={"seed": 9}), store).pools.seed == 9


def test_domains_that_are_only_scored_have_no_pool(plain: RunConfig, store: TokenStore) -> None:
    found = matched(matching(plain, 1e6, score_only=("code",), tokens={"books": 1e5, "talk": 1e5}), store)
    assert found.pools.blocks == (40, None, 40)
    assert set(found.tokens) == {"books", "talk"}


def test_too_small_and_too_large_pools_are_told_with_their_numbers(plain: RunConfig, store: TokenStore) -> None:
    tokens, longer = {"books": 400, "code": 2e3, "talk": 9e5}, plain.proxy.model_copy(update={"tokens": 16_000})
    found = matched(matching(plain, 1e6, tokens=tokens, proxy=longer), store)
    assert found.pools.blocks[:2] == (1, 2)
    there = store.manifest.domains[2].train.tokens // (CONTEXT + 1)
    assert there < 900, "fewer blocks than matching takes, and than a proxy reads"
    assert found.pools.blocks[2] is None
    tiny, few, lacking = found.warnings
    assert "smaller than a block of 16 tokens: books (0.4 blocks); they are one block" in tiny
    assert "a few blocks of 16 tokens: code (2 blocks); losses" in few
    assert f"too little text: talk (900 blocks wanted, {there} there: {900 / there:.3g} times)" in lacking
    begin = "mixture.match_repetition: for 1e+06 target tokens and proxies of 16,000, "
    assert all(text.startswith(begin) for text in found.warnings)


def test_text_that_neither_repeats_needs_no_matching(plain: RunConfig, store: TokenStore) -> None:
    """A target run with text to spare, and a corpus larger than a proxy: none of them sees a token twice."""
    config = matching(plain, 1e6, tokens=dict.fromkeys(store.domains, 1e9))
    short = config.model_copy(update={"proxy": plain.proxy.model_copy(update={"tokens": 640})})
    found = matched(short, store)
    assert found.pools.blocks == (None, None, None)
    assert found.warnings == ()


def test_what_cannot_be_matched_is_refused(plain: RunConfig, store: TokenStore) -> None:
    with pytest.raises(ConfigError, match=r"mixture\.target_tokens: 1,000 is less than a proxy trains on \(proxy\.tokens: 6,400\)"):
        swarm_meaning(matching(plain, 1e3), store)
    trunk = plain.proxy.model_copy(update={"trunk_tokens": 640})
    with pytest.raises(ConfigError, match=r"proxy\.trunk_tokens: .*set it to 0"):
        swarm_meaning(matching(plain, 1e6, proxy=trunk), store)
    with pytest.raises(ConfigError, match=r"mixture\.tokens: unknown domain 'poems'"):
        swarm_meaning(matching(plain, 1e6, tokens={"poems": 1}), store)


def test_with_a_tokenizer_for_proxies_the_target_runs_tokens_are_matched(plain: RunConfig, cache: Path, tmp_path: Path) -> None:
    words = "def return import class self for in range if else None True lambda yield assert with as " * 50
    (tmp_path / "tokenizer.json").write_text(CorpusTokenizer.train([words], 400).to_json(), encoding="utf-8")
    tokenizer = {"file": str(tmp_path / "tokenizer.json"), "proxy_vocab_size": 300}
    corpus = type(plain.corpus).model_validate({**plain.corpus.model_dump(), "tokenizer": tokenizer})
    store = build_store(corpus, cache_dir=cache / "matching")
    theirs = np.array([float(record.target_tokens or 0) for record in store.manifest.domains])
    target = 2 * theirs.sum()
    pools = matched(matching(plain.model_copy(update={"corpus": corpus}), target), store).pools
    blocks = np.array([n or 0 for n in pools.blocks])
    natural, n_blocks = store.natural_shares, TOKENS / CONTEXT
    passes = store.proxy_weights(natural) * n_blocks / blocks
    np.testing.assert_allclose(passes, natural * target / theirs, rtol=0.5 / blocks.min() + 1e-9)
    for w in (np.array([0.8, 0.1, 0.1]), np.array([0.1, 0.8, 0.1])):  # elsewhere, all domains by the same factor
        factor = store.proxy_weights(w) * n_blocks / blocks / (w * target / theirs)
        np.testing.assert_allclose(factor / factor[0], 1, rtol=1.2 / blocks.min())


def told(tokens: dict[str, float] | None = None, proxy: dict[str, float] | None = None, **domains: float) -> PoolShares:
    config = command_config(tokens, proxy, **domains)
    found = match_shares(config, command_meaning(config))
    assert found is not None
    return found


def command_config(tokens: dict[str, float] | None, proxy: dict[str, float] | None, **domains: float) -> RunConfig:
    return RunConfig.model_validate(
        {
            "runner": {"command": "t {mixture} {out}", "domains": domains},
            "proxy": {"tokens": 2e8} if proxy is None else proxy,
            "mixture": {"target_tokens": 1e11, "match_repetition": True, "tokens": tokens or {}},
        }
    )


def test_a_command_draws_from_shares() -> None:
    assert told(books=1e9, code=3e9).shares == pytest.approx({"books": 0.002, "code": 0.002})
    assert told({"code": 3e10}, books=1e9, code=3e9).shares == pytest.approx({"books": 0.002, "code": 0.02})
    assert told({"code": 3e10, "books": 1e9}, books=0.5, code=0.5).shares == pytest.approx({"books": 0.002, "code": 0.002})
    scarce = told({"code": 3e9}, books=1e9, code=1e6)
    assert scarce.shares == pytest.approx({"books": 0.002, "code": 1.0})
    assert scarce.warnings == (
        "mixture.match_repetition: matching 1e+11 target tokens takes 6,000,000 tokens of domain code, and runner.domains has "
        "1,000,000; proxies repeat it 6 times as often as the target run",
    )
    facts = command_meaning(command_config(None, None, books=1e9, code=3e9)).facts
    assert facts == {
        "seed": 0,
        "mixture.target_tokens": 1e11,
        "mixture.pool_shares.books": pytest.approx(0.002),
        "mixture.pool_shares.code": pytest.approx(0.002),
    }


def test_a_command_must_say_how_many_tokens_it_trains_on() -> None:
    with pytest.raises(ConfigError, match=r"proxy\.tokens: missing"):
        told(proxy={}, books=1e9, code=3e9)
    with pytest.raises(ConfigError, match=r"less than a proxy trains on"):
        told(proxy={"tokens": 2e11}, books=1e9, code=3e9)


class Listener(Observer):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


def test_whoever_trains_knows_the_pools(
    plain: RunConfig, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv("REGMIX_ACTIVE_CACHE", str(cache))
    monkeypatch.setattr("regmix_active.corpus.build.build_store", lambda *_, **__: store)
    listener = Listener()
    request = ProxyRequest(0, np.array([0.5, 0.3, 0.2]), 1, 2)
    config = matching(plain, 1e6, tokens={"books": 1e3, "code": 1e5, "talk": 1e5})
    with ready_to_train(config, tmp_path / "jobs", tmp_path / "plan.json", listener) as training:
        runner: Any = training.runner
        assert [job.pools.blocks for job in runner.jobs([request])] == [(1, 40, 40)]
        assert training.meaning == swarm_meaning(config, store)
    assert any("books (0.4 blocks)" in text for text in listener.warnings)

    config, listener = command_config({"code": 3e9}, None, books=1e9, code=1e6), Listener()
    with ready_to_train(config, tmp_path / "jobs", tmp_path / "plan.json", listener) as training:
        assert isinstance(training.runner, CommandRunner)
        (job,) = training.runner.jobs([ProxyRequest(0, np.array([0.5, 0.5]), 1, 2)])
        assert job.mixture()["pool_shares"] == pytest.approx({"books": 0.002, "code": 1.0})
    assert len(listener.warnings) == 1
