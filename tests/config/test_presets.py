"""Presets describe what they say, and train."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regmix_active.config.load import load_config, load_preset, preset_text, presets
from regmix_active.config.schema import CorpusConfig, DomainConfig
from regmix_active.corpus.build import build_store
from regmix_active.errors import ConfigError
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.planning.roofline import token_cost
from regmix_active.proxy.training.stack import train_stack
from regmix_active.threads import one_thread

PUBLISHED = {"regmix-1m": 1_310_720, "regmix-60m": 58_982_400, "regmix-1b": 1_130_364_928}
"""Parameters in matrices, embedding and output head left out: 2, 10 and 22 layers of ``4 width² + 3 width ffn``."""

SHRUNK = 8
"""Divides widths, so that a step of every preset takes a blink."""


@pytest.mark.parametrize("name", presets())
def test_every_preset_trains_two_steps(name: str, texts: Path, cache: Path) -> None:
    proxy = load_preset(name).proxy
    context, batch = min(proxy.context, 64), min(proxy.batch_size, 2)
    small = proxy.model_copy(
        update={
            "width": proxy.width // SHRUNK if proxy.width >= 256 else proxy.width,
            "ffn": proxy.ffn // SHRUNK,
            "layers": min(proxy.layers, 2),
            "context": context,
            "batch_size": batch,
            "tokens": 2 * context * batch,
            "validation_tokens": context,
        }
    )
    domains = {folder.name: DomainConfig(path=str(folder)) for folder in sorted(texts.iterdir())}
    corpus = CorpusConfig.model_validate({"domains": domains, "tokenizer": {"vocab_size": 300}})
    store = build_store(corpus, cache_dir=cache)
    with one_thread():
        (result,) = train_stack(store, small, [ProxyRequest(0, store.natural_shares, 1, 2)])
    assert result.failure is None
    assert result.tokens == 2 * context * batch
    assert set(result.losses) == set(store.domains)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_parameters_are_the_published_ones(name: str) -> None:
    config = load_preset(name)
    proxy, vocab_size = config.proxy, config.corpus.tokenizer.vocab_size
    table = vocab_size * proxy.width
    body = token_cost(proxy, vocab_size).parameters - 2 * table
    assert body - (2 * proxy.layers + 1) * proxy.width == PUBLISHED[name]
    title = preset_text(name).split("# Name of the study")[0]
    stated = [int(number.replace(",", "")) for number in re.findall(r"\d{1,3}(?:,\d{3})+", title)]
    assert {body, PUBLISHED[name], table} <= set(stated), "the title states the counts"


def test_the_small_vocabulary_preset_states_its_parameters() -> None:
    config = load_preset("tiny-4k")
    total = token_cost(config.proxy, config.corpus.tokenizer.vocab_size).parameters
    table = config.corpus.tokenizer.vocab_size * config.proxy.width
    title = preset_text("tiny-4k")
    assert f"{total - table:,} in the body" in title
    assert f"{table:,} in the embedding" in title
    assert config.proxy.batch_size * config.proxy.context == 2_048


def test_published_budgets() -> None:
    tokens = {name: load_preset(name).proxy.tokens for name in PUBLISHED}
    assert tokens == {"regmix-1m": 1_048_576_000, "regmix-60m": 1_048_576_000, "regmix-1b": 26_214_400_000}
    for name in PUBLISHED:
        proxy = load_preset(name).proxy
        steps = proxy.tokens // (proxy.batch_size * proxy.context)
        assert (steps, round(proxy.warmup * steps)) == ((25_000, 1_000) if name == "regmix-1b" else (1_000, 100))
        assert proxy.learning_rate * proxy.final_learning_rate == pytest.approx(1e-5 if name == "regmix-1b" else 4e-4)


def test_a_preset_is_found_by_name_only() -> None:
    assert load_preset("regmix-1m") == load_config("regmix-1m").config
    with pytest.raises(ConfigError, match=r"--preset regmix1m: no such preset; did you mean 'regmix-1m'\?"):
        load_preset("regmix1m")
    with pytest.raises(ConfigError, match=r"--preset zzz: no such preset; presets are: embedded, .*tiny-4k"):
        load_preset("zzz")
