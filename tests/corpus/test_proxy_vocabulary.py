"""A small vocabulary for the proxies, weights in the target model's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from regmix_active.config.load import load_config
from regmix_active.config.schema import CorpusConfig, RunConfig
from regmix_active.corpus.build import build_store
from regmix_active.corpus.fit import check_fit
from regmix_active.corpus.store import TokenStore, convert_shares
from regmix_active.corpus.tokenizer import CorpusTokenizer
from regmix_active.errors import ConfigError

QUICK = settings(max_examples=50, derandomize=True, deadline=None)
NAMES = ("books", "code", "talk")


@pytest.fixture(scope="module")
def target_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that knows the words of one domain, and spells out the others."""
    file = tmp_path_factory.mktemp("target") / "tokenizer.json"
    words = "def return import class self for in range if else None True lambda yield assert with as " * 50
    file.write_text(CorpusTokenizer.train([words], 400).to_json(), encoding="utf-8")
    return file


def build(texts: Path, cache: Path, **tokenizer: Any) -> TokenStore:
    domains = {name: {"path": str(texts / name)} for name in NAMES}
    return build_store(CorpusConfig.model_validate({"domains": domains, "tokenizer": tokenizer}), cache_dir=cache)


@pytest.fixture(scope="module")
def small(texts: Path, cache: Path, target_tokenizer: Path) -> TokenStore:
    return build(texts, cache, file=str(target_tokenizer), proxy_vocab_size=300)


@pytest.fixture(scope="module")
def full(texts: Path, cache: Path, target_tokenizer: Path) -> TokenStore:
    return build(texts, cache, file=str(target_tokenizer))


def test_the_store_counts_the_targets_tokens_of_the_same_text(small: TokenStore, full: TokenStore) -> None:
    assert small.vocab_size <= 300 < full.vocab_size
    for ours, theirs in zip(small.manifest.domains, full.manifest.domains, strict=True):
        assert ours.target_tokens == theirs.train.tokens
        assert theirs.target_tokens is None
        assert ours.train.bytes == theirs.train.bytes
    np.testing.assert_array_equal(small.natural_shares, full.natural_shares, "natural shares are of the target's tokens")
    np.testing.assert_array_equal(small.bytes_per_weighed_token, full.bytes_per_token)


def test_weights_mean_the_same_text(small: TokenStore, full: TokenStore) -> None:
    weights = np.array([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    proxy = small.proxy_weights(weights)
    text = weights * full.bytes_per_token
    again = proxy * small.bytes_per_token
    np.testing.assert_allclose(text / text.sum(axis=1, keepdims=True), again / again.sum(axis=1, keepdims=True))
    assert (proxy[0] != weights[0]).all()
    assert proxy[1].tolist() == [0, 1, 0]
    np.testing.assert_allclose(small.proxy_weights(weights[0]), proxy[0])
    # The natural mixture of the target's tokens is the whole text, and so it is in the small ones.
    own = np.array([record.train.tokens for record in small.manifest.domains])
    np.testing.assert_allclose(small.proxy_weights(small.natural_shares), own / own.sum())


def test_without_a_second_tokenizer_weights_stay_as_they_are(full: TokenStore, texts: Path, cache: Path) -> None:
    weights = np.array([1 / 3, 1 / 3, 1 / 3])
    assert full.proxy_weights(weights) is weights
    assert build(texts, cache, vocab_size=300).proxy_weights(weights) is weights


def test_a_weights_meaning_is_part_of_the_fingerprint(small: TokenStore, texts: Path, cache: Path) -> None:
    plain = build(texts, cache, vocab_size=300)
    assert plain.manifest.tokenizer == small.manifest.tokenizer, "the same small tokenizer"
    assert plain.fingerprint != small.fingerprint


@QUICK
@given(
    arrays(np.float64, 5, elements=st.just(0.0) | st.floats(1e-6, 1)).filter(lambda w: w.sum() > 1e-3),
    arrays(np.float64, 5, elements=st.floats(0.5, 8)),
    arrays(np.float64, 5, elements=st.floats(0.5, 8)),
)
def test_conversion_is_a_mixture_and_can_be_undone(weights: Any, here: Any, there: Any) -> None:
    weights = weights / weights.sum()
    converted = convert_shares(weights, here, there)
    assert converted.sum() == pytest.approx(1)
    assert (converted >= 0).all()
    np.testing.assert_array_equal(converted == 0, weights == 0)
    np.testing.assert_allclose(convert_shares(converted, there, here), weights, atol=1e-12)


def test_a_proxy_vocabulary_needs_the_targets_tokenizer(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("corpus:\n  tokenizer:\n    proxy_vocab_size: 512\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.yaml:\d: key 'corpus\.tokenizer': .*add `file`, or set `vocab_size`"):
        load_config(file)


def test_too_little_text_for_a_proxy_is_said(full: TokenStore) -> None:
    there = sum(record.train.tokens for record in full.manifest.domains)

    def config(tokens: int, **corpus: Any) -> RunConfig:
        return RunConfig.model_validate({"name": "regmix-1m", "proxy": {"tokens": tokens}, "corpus": corpus})

    assert check_fit(config(40 * there), full) is None
    with pytest.raises(ConfigError, match=r"proxy\.tokens: .* passes .*embedded corpus .*init texts/ --preset regmix-1m -o mine"):
        check_fit(config(50 * there), full)
    warning = check_fit(config(50 * there, domains={"a": {"path": "a"}, "b": {"path": "b"}}), full)
    assert warning is not None
    assert "50 passes over the text of all domains" in warning


def test_a_vocabulary_that_the_text_cannot_fill_is_reported(texts: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    domains = {name: {"path": str(texts / name)} for name in NAMES}
    config = CorpusConfig.model_validate({"domains": domains, "tokenizer": {"vocab_size": 5_000}})
    store = build_store(config, cache_dir=tmp_path, progress=lines.append)
    assert any(f"the text gives only {store.vocab_size:,} of the 5,000 tokens" in line for line in lines)
