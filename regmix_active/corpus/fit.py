"""Is there text enough for the proxies?"""

from __future__ import annotations

from regmix_active.config.load import presets
from regmix_active.config.schema import RunConfig
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ConfigError

MOST_EPOCHS = 40.0
"""Passes over all text together, beyond which more of them teach next to nothing: Muennighoff et al., Scaling Data-Constrained
Language Models, arXiv 2305.16264."""


def check_fit(config: RunConfig, store: TokenStore) -> str | None:
    """Notice a proxy that would see all text over and over, such as a published preset on the embedded corpus.

    Args:
        config: Gives the proxy, and whether the text is the user's.
        store: Gives the number of training tokens.

    Returns:
        A warning if a proxy trains on more than :data:`MOST_EPOCHS` times the tokens of all domains that it mixes, or None.

    Raises:
        ConfigError: Likewise, where the text is the embedded corpus: nobody means that.
    """
    there = sum(domain.train.tokens for domain in store.manifest.domains if domain.name not in config.score_only)
    if config.proxy.tokens <= MOST_EPOCHS * there:
        return None
    problem = f"proxy.tokens: {config.proxy.tokens:,} tokens per proxy are {config.proxy.tokens / there:,.0f} passes over the text"
    if config.corpus.domains is None:
        preset = f"--preset {config.name} " if config.name in presets() else ""
        raise ConfigError(
            f"{problem} of the embedded corpus ({there:,} tokens), which is there for small proxies. Large ones want text of your "
            f"own: regmix-active init texts/ {preset}-o mine.yaml; or lower proxy.tokens"
        )
    return f"{problem} of all domains ({there:,} tokens): losses tell of repetition more than of mixtures; add text, or lower it"
