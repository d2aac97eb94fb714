"""Validation: what every proxy of a stack loses on every domain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import CorpusError
from regmix_active.proxy.blocks import TokenSource, windows
from regmix_active.proxy.model.stacked import StackedDecoder

SCORED_TOKENS_CPU, SCORED_TOKENS_GPU = 2**12, 2**17
"""Tokens of all proxies that are scored at once: what stays in a core's cache, and what keeps a GPU busy."""


def validation_losses(model: StackedDecoder, source: TokenSource, config: ProxyConfig, share: float = 1.0) -> NDArray[np.float64]:
    """Score the whole stack on the same validation blocks of every domain.

    Args:
        model: The trained stack of K proxies.
        source: The tokens.
        config: Gives the context and the number of validation tokens per domain.
        share: Of those tokens that are used, at least one block per domain.

    Returns:
        Losses, shape ``(K, d)``, nats per token; NaN for a proxy whose weights are not finite.

    Raises:
        CorpusError: A domain has fewer validation tokens than one block.
    """
    device = model.matrices_KP.device
    n_proxies, n_domains = model.matrices_KP.shape[0], len(source.domains)
    blocks = [validation_blocks(source, index, config, share) for index in range(n_domains)]
    # A batch may hold blocks of several domains.
    tokens = SCORED_TOKENS_CPU // n_proxies if device.type == "cpu" else SCORED_TOKENS_GPU // n_proxies
    batch = max(1, tokens // config.context)
    scored = []
    with torch.no_grad():
        for tokens_BT in torch.from_numpy(np.concatenate(blocks)).split(batch):
            tokens_KBT = tokens_BT.to(device).expand(n_proxies, -1, -1)
            scored.append(model.block_losses(tokens_KBT[..., :-1], tokens_KBT[..., 1:]))
    losses = torch.cat(scored, dim=1).double().cpu().numpy()
    ends = np.cumsum([len(own) for own in blocks])[:-1]
    return np.column_stack([own.mean(axis=1) for own in np.split(losses, ends, axis=1)])


def validation_blocks(source: TokenSource, index: int, config: ProxyConfig, share: float = 1.0) -> NDArray[np.int64]:
    """Return the blocks that a domain is scored on: evenly spaced and non-overlapping, the same for every proxy.

    Returns:
        Token ids, shape ``(n, context + 1)``, with ``n x context`` at most ``share x config.validation_tokens``, but one block at
        least.

    Raises:
        CorpusError: The domain has fewer validation tokens than one block.
    """
    tokens: NDArray[Any] = source.validation(index)
    length = config.context + 1
    if len(tokens) < length:
        raise CorpusError(
            f"domain {source.domains[index]!r} has {len(tokens)} validation tokens, fewer than one block of {length}: "
            "add documents, raise corpus.validation_share, or lower proxy.context"
        )
    n_blocks = max(1, min(int(share * config.validation_tokens) // config.context, len(tokens) // length))
    start = np.arange(n_blocks) * (len(tokens) - length) // max(1, n_blocks - 1)
    return windows(tokens, start, length)


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Convert nats per token into bits per byte of text, comparable across tokenizers."""
    return loss / (math.log(2) * bytes_per_token)
