"""What the losses of a search mean, from its configuration and corpus alone: no device is asked, nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from regmix_active.config.schema import RunConfig
from regmix_active.corpus.store import TokenStore
from regmix_active.mixture.space import MixtureSpace
from regmix_active.search.matching import match_pools, match_shares
from regmix_active.study.meaning import Meaning


def runner_meaning(
    domains: Sequence[str], natural: ArrayLike | None, loss_names: Sequence[str], seed: int, facts: Mapping[str, Any]
) -> Meaning:
    """Of a runner of the user's, who says what else its losses depend on.

    Args:
        domains: Names.
        natural: Natural shares; default: uniform.
        loss_names: Names.
        seed: Of the study.
        facts: Everything else.
    """
    shares = np.full(len(domains), 1 / len(domains)) if natural is None else np.asarray(natural, dtype=np.float64)
    space = MixtureSpace(tuple(domains), shares)
    return Meaning(space.domains, tuple(space.natural.tolist()), tuple(loss_names), {"seed": seed, **facts})


def command_meaning(config: RunConfig) -> Meaning:
    """Of a ``runner.command``; its text is no fact, because a path in it may change.

    Raises:
        ConfigError: If repetition is to be matched, and cannot be.
    """
    runner = config.runner
    tokens = np.array(list(runner.domains.values()))
    facts = {f"runner.facts.{key}": value for key, value in runner.facts.items()}
    losses = runner.losses or tuple(runner.domains)
    meaning = runner_meaning(tuple(runner.domains), tokens / tokens.sum(), losses, config.seed, facts)
    if (matched := match_shares(config, meaning)) is None:
        return meaning
    return replace(meaning, facts={**meaning.facts, **matched.facts})


def swarm_meaning(config: RunConfig, store: TokenStore) -> Meaning:
    """Of the built-in proxies on a corpus.

    Raises:
        ConfigError: If ``score_only`` names an unknown domain, or leaves fewer than two to be mixed; or if repetition is to be
            matched, and cannot be.
    """
    from regmix_active.proxy.runner import mixed_domains

    mixed = mixed_domains(store.domains, config.score_only)
    domains = tuple(name for name, trained in zip(store.domains, mixed, strict=True) if trained)
    shares = store.natural_shares[mixed]
    facts = {
        "corpus.fingerprint": store.fingerprint[:16],
        "corpus.vocab_size": store.vocab_size,
        **{f"corpus.tokens.{record.name}": record.train.tokens for record in store.manifest.domains},
        **{f"proxy.{key}": value for key, value in config.proxy.model_dump().items()},
    }
    if config.proxy.hf is not None:  # looked up here, before workers do so again and again
        from regmix_active.proxy.model.hf import shape_digest

        facts["proxy.hf.shape"] = shape_digest(config.proxy, store.vocab_size)
    if (matched := match_pools(config, store)) is not None:
        facts |= matched.facts
    return runner_meaning(domains, shares / shares.sum(), store.domains, config.seed, facts)
