"""Finite data: how many tokens there are of each domain for the target run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.search.names import check_known
from regmix_active.study.meaning import Meaning

if TYPE_CHECKING:
    from regmix_active.corpus.store import TokenStore


def target_tokens_of(config: RunConfig, source: Meaning | TokenStore) -> NDArray[np.float64]:
    """Tokens that the target run has of every domain that is mixed.

    ``mixture.tokens`` says so; for domains that it does not name, the training tokens of the corpus do, or else ``runner.domains``.

    Args:
        config: The configuration.
        source: What a study's losses mean, or the token store that its proxies train on.

    Returns:
        Counts, shape ``(d,)``, in the order of the mixed domains: tokens of the tokenizer that weights are shares of, which is the
        target model's with ``corpus.tokenizer.proxy_vocab_size``.

    Raises:
        ConfigError: If ``mixture.tokens`` names an unknown domain, or nothing says how many tokens there are of a domain.
    """
    domains = source.domains if isinstance(source, Meaning) else _mixed(config, source)
    given = config.mixture.tokens
    check_token_names(given, domains, config.score_only)
    missing = [name for name in domains if name not in given]
    counts = {**_counts(config, source), **given} if missing else given
    if unknown := [name for name in domains if name not in counts]:
        example = ", ".join(f"{name}: 1e9" for name in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise ConfigError(
            f"mixture.tokens: how many tokens there are for the target run is not known of {', '.join(unknown)}"
            f"{_why(config, source)}; add them: tokens: {{{example}}}"
        )
    return np.array([counts[name] for name in domains], dtype=np.float64)


def check_token_names(tokens: Mapping[str, float], domains: Sequence[str], score_only: Sequence[str]) -> None:
    """Refuse unknown names in ``mixture.tokens``; domains that are only scored may be there: a list of all domains does no harm.

    Raises:
        ConfigError: With the first of them.
    """
    check_known("mixture.tokens", (name for name in tokens if name not in score_only), domains)


def are_shares(tokens: Mapping[str, float]) -> bool:
    """Whether the numbers of ``runner.domains`` are shares rather than counts: none is above one."""
    return all(value <= 1 for value in tokens.values())


def _mixed(config: RunConfig, store: TokenStore) -> tuple[str, ...]:
    from regmix_active.proxy.runner import mixed_domains

    mixed = mixed_domains(store.domains, config.score_only)
    return tuple(name for name, trained in zip(store.domains, mixed, strict=True) if trained)


def _counts(config: RunConfig, source: Meaning | TokenStore) -> dict[str, float]:
    """What is known without ``mixture.tokens``; perhaps not of all domains."""
    if not isinstance(source, Meaning):
        return {record.name: float(record.target_tokens or record.train.tokens) for record in source.manifest.domains}
    prefix = "corpus.tokens."
    counts = {key.removeprefix(prefix): float(n) for key, n in source.facts.items() if key.startswith(prefix)}
    if not counts:
        return {} if are_shares(config.runner.domains) else dict(config.runner.domains)
    if config.corpus.tokenizer.proxy_vocab_size is None:
        return counts
    # The facts count the proxies' tokens, not those that weights are shares of; these are in the store's manifest.
    from regmix_active.corpus.lookup import find_store

    store = find_store(str(source.facts.get("corpus.fingerprint", "")))
    return {} if store is None else _counts(config, store)


def _why(config: RunConfig, source: Meaning | TokenStore) -> str:
    if isinstance(source, Meaning) and any(key.startswith("corpus.tokens.") for key in source.facts):
        return " (the study counts tokens of the proxies' tokenizer, and its corpus is not in the cache any more)"
    if config.runner.domains and are_shares(config.runner.domains):
        return " (the numbers in runner.domains are shares)"
    return ""
