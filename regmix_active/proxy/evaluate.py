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
from regmix_active.proxy.model import StackedDecoder


def validation_losses(model: StackedDecoder, source: TokenSource, config: ProxyConfig) -> NDArray[np.float64]:
    """Score the whole stack on the same validation blocks of every domain.

    Args:
        model: The trained stack of K proxies.
        source: The tokens.
        config: Gives the context and the number of validation tokens per domain.

    Returns:
        Losses, shape ``(K, d)``, nats per token; NaN for a proxy whose weights are not finite.

    Raises:
        CorpusError: A domain has fewer validation tokens than one block.
    """
    n_proxies = model.matrices_KP.shape[0]
    losses = np.empty((n_proxies, len(source.domains)))
    for index in range(len(source.domains)):
        blocks = validation_blocks(source, index, config)
        total_K = torch.zeros(n_proxies, dtype=torch.float64)
        # Batches of the training size: larger ones leave the cache and are slower on a CPU.
        for batch in torch.from_numpy(blocks).split(config.batch_size):
            tokens_KBT = batch.to(model.matrices_KP.device).expand(n_proxies, -1, -1)
            with torch.inference_mode():
                losses_K = model.losses(tokens_KBT[..., :-1], tokens_KBT[..., 1:])
            total_K += losses_K.double().cpu() * len(batch)
        losses[:, index] = total_K.numpy() / len(blocks)
    return losses


def validation_blocks(source: TokenSource, index: int, config: ProxyConfig) -> NDArray[np.int64]:
    """Return the blocks that a domain is scored on: evenly spaced and non-overlapping, the same for every proxy.

    Returns:
        Token ids, shape ``(n, context + 1)``, with ``n x context`` at most ``config.validation_tokens`` (but one block at least).

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
    n_blocks = max(1, min(config.validation_tokens // config.context, len(tokens) // length))
    start = np.arange(n_blocks) * (len(tokens) - length) // max(1, n_blocks - 1)
    return windows(tokens, start, length)


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Convert nats per token into bits per byte of text, comparable across tokenizers."""
    return loss / (math.log(2) * bytes_per_token)
