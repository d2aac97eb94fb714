"""Repetition-matched proxies: how much of each domain they may draw from, so that they repeat it as the target run would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.proxy.pools import Pools
from regmix_active.search.finite import are_shares, target_tokens_of

if TYPE_CHECKING:
    from regmix_active.corpus.store import TokenStore
    from regmix_active.study.meaning import Meaning

KEY = "mixture.match_repetition"

FEW_BLOCKS = 16
"""A smaller pool is hardly a sample of its domain."""


@dataclass(frozen=True)
class Matching:
    """Pools of the built-in proxies.

    Attributes:
        pools: How large they are, for job files.
        tokens: Tokens of the store in the pool of every mixed domain, by name.
        target_tokens: Training tokens of the target run.
        warnings: Where proxies repeat a domain more or less often than the target run, and by how much.
    """

    pools: Pools
    tokens: Mapping[str, int]
    target_tokens: float
    warnings: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What losses depend on."""
        return {"mixture.target_tokens": self.target_tokens} | {f"mixture.pool_tokens.{k}": n for k, n in self.tokens.items()}


@dataclass(frozen=True)
class PoolShares:
    """What a command is told.

    Attributes:
        shares: Share of each domain's text that it should draw from, by name.
        target_tokens: Training tokens of the target run.
        warnings: Where it will repeat a domain more often than the target run.
    """

    shares: Mapping[str, float]
    target_tokens: float
    warnings: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What losses depend on."""
        return {"mixture.target_tokens": self.target_tokens} | {f"mixture.pool_shares.{k}": s for k, s in self.shares.items()}


def match_pools(config: RunConfig, store: TokenStore) -> Matching | None:
    """The pools of proxies on a token store.

    A pool has N_i t / T tokens, in whole blocks, one at least: N_i tokens of the domain for a target run of T, and proxies of t.

    Where proxies have a tokenizer of their own (``corpus.tokenizer.proxy_vocab_size``), N_i and T count the target's tokens, and
    how many of these a proxy reads depends on its mixture; t is counted at the natural one. Elsewhere a proxy repeats all domains
    more or less often by one common factor.

    Args:
        config: Says whether, and T.
        store: The tokens.

    Returns:
        None unless ``mixture.match_repetition`` asks for it.

    Raises:
        ConfigError: If the target run is shorter than a proxy, if it is not known how much text it has, or if proxies start from a
            shared trunk, which has read more.
    """
    if (target := _target(config)) is None:
        return None
    proxy = config.proxy
    if proxy.trunk_tokens:
        raise ConfigError(f"proxy.trunk_tokens: with {KEY}, proxies start from scratch: the trunk repeats text, too; set it to 0")
    from regmix_active.proxy.runner import mixed_domains
    from regmix_active.proxy.training.optimizer import total_steps

    there = target_tokens_of(config, store)
    mixed = np.flatnonzero(mixed_domains(store.domains, config.score_only))
    natural = store.natural_shares[mixed] / store.natural_shares[mixed].sum()
    # Tokens of the store per token that a weight is a share of.
    fineness = (store.bytes_per_weighed_token / store.bytes_per_token)[mixed]
    visited = total_steps(proxy) * proxy.batch_size
    read = visited * proxy.context / float(natural @ fineness)
    if read > target:
        raise _short(target, proxy.tokens)

    length = proxy.context + 1
    ideal = dict(zip(mixed.tolist(), (there * fineness * (read / target) / proxy.context).tolist(), strict=True))  # blocks
    available = {i: store.manifest.domains[i].train.tokens // length for i in ideal}
    wanted = {i: max(1, round(blocks)) for i, blocks in ideal.items()}
    pools = tuple(wanted[i] if i in ideal and wanted[i] < available[i] else None for i in range(len(store.domains)))
    tokens = {store.domains[i]: store.manifest.domains[i].train.tokens if (n := pools[i]) is None else n * length for i in ideal}

    tiny = [f"{store.domains[i]} ({blocks:.2g} blocks)" for i, blocks in ideal.items() if blocks < 1]
    few = [f"{store.domains[i]} ({wanted[i]} blocks)" for i, blocks in ideal.items() if blocks >= 1 and wanted[i] < FEW_BLOCKS]
    # A pool that no proxy could read whole is repeated by none.
    lacking = [
        f"{store.domains[i]} ({blocks:,.0f} blocks wanted, {available[i]:,} there: {blocks / max(available[i], 1):.3g} times)"
        for i, blocks in ideal.items()
        if available[i] < min(wanted[i], visited)
    ]
    matched = f"{KEY}: for {target:.4g} target tokens and proxies of {proxy.tokens:,}, "
    warnings = []
    if tiny:
        warnings.append(
            f"{matched}pools would be smaller than a block of {proxy.context} tokens: {', '.join(tiny)}; they are one block, which "
            "proxies repeat less often than the target run repeats the domain, by that factor; raise proxy.tokens"
        )
    if few:
        warnings.append(
            f"{matched}pools are a few blocks of {proxy.context} tokens: {', '.join(few)}; losses then depend on which ones; raise "
            "proxy.tokens"
        )
    if lacking:
        warnings.append(
            f"{matched}the corpus has too little text: {', '.join(lacking)}; proxies repeat these domains so many times as often "
            "as the target run; add text, or lower proxy.tokens"
        )
    return Matching(Pools(config.seed, pools), tokens, target, tuple(warnings))


def match_shares(config: RunConfig, meaning: Meaning) -> PoolShares | None:
    """What a command of the user's should draw from.

    Args:
        config: Says whether; ``proxy.tokens`` is how many tokens the command trains on.
        meaning: Of the command.

    Returns:
        None unless ``mixture.match_repetition`` asks for it.

    Raises:
        ConfigError: If ``proxy.tokens`` is not given, if the target run is shorter, or if it is not known how much text it has.
    """
    if (target := _target(config)) is None:
        return None
    if "tokens" not in config.proxy.model_fields_set:
        raise ConfigError(f"proxy.tokens: missing; with {KEY}, say how many training tokens a run of runner.command has")
    if config.proxy.tokens > target:
        raise _short(target, config.proxy.tokens)
    needed = target_tokens_of(config, meaning) * (config.proxy.tokens / target)
    # Without counts, the command's text is taken to be the target run's.
    own = target_tokens_of(config, meaning) if are_shares(config.runner.domains) else np.array([*config.runner.domains.values()])
    warnings = tuple(
        f"{KEY}: matching {target:.4g} target tokens takes {wanted:,.0f} tokens of domain {name}, and runner.domains has "
        f"{has:,.0f}; proxies repeat it {wanted / has:.3g} times as often as the target run"
        for name, wanted, has in zip(meaning.domains, needed.tolist(), own.tolist(), strict=True)
        if has < min(wanted, config.proxy.tokens)
    )
    shares = np.minimum(needed / own, 1.0).tolist()
    return PoolShares(dict(zip(meaning.domains, shares, strict=True)), target, warnings)


def _target(config: RunConfig) -> float | None:
    return config.mixture.target_tokens if config.mixture.match_repetition else None


def _short(target: float, proxy_tokens: int) -> ConfigError:
    return ConfigError(
        f"mixture.target_tokens: {target:,.0f} is less than a proxy trains on (proxy.tokens: {proxy_tokens:,}); with {KEY}, it is "
        "the length of the large run that the mixture is for, such as 100e9"
    )
