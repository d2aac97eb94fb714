"""What a proxy costs here: a short training, extrapolated."""

from __future__ import annotations

import time

from regmix_active.config.schema import ProxyConfig
from regmix_active.corpus.store import TokenStore
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.train import train_stack
from regmix_active.threads import one_thread

SHORT, LONG = 20, 60
"""Optimiser steps of the two trainings whose difference is the cost of a step; what both have in common is start and validation."""


def proxy_seconds(store: TokenStore, proxy: ProxyConfig, stack: int, device: str) -> float:
    """Seconds that one proxy of a stack takes on one single-threaded worker.

    Args:
        store: The tokens.
        proxy: Shape and training.
        stack: Proxies trained at once.
        device: A torch device.
    """
    with one_thread():
        _seconds(store, proxy, stack, device, SHORT)  # warms caches
        short, long = (_seconds(store, proxy, stack, device, steps) for steps in (SHORT, LONG))
    per_step = max(long - short, 0.0) / (LONG - SHORT)
    steps = proxy.tokens / (proxy.batch_size * proxy.context)
    return (per_step * steps + max(short - SHORT * per_step, 0.0)) / stack


def _seconds(store: TokenStore, proxy: ProxyConfig, stack: int, device: str, steps: int) -> float:
    config = proxy.model_copy(update={"tokens": steps * proxy.batch_size * proxy.context})
    began = time.perf_counter()
    train_stack(store, config, [ProxyRequest(i, store.natural_shares, 0, 1) for i in range(stack)], device)
    return time.perf_counter() - began
