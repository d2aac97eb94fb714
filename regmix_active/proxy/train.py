"""Train a stack of proxies: read it from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.blocks import BlockPlan, TokenSource, plan_blocks
from regmix_active.proxy.evaluate import bits_per_byte, validation_losses
from regmix_active.proxy.model import StackedDecoder

READ_AHEAD_STEPS = 64
DIVERGED_LOSS = 2.0
"""A mean validation loss above so many times ln(vocabulary), the loss of knowing nothing, counts as divergence."""


def train_stack(
    store: TokenSource, config: ProxyConfig, requests: Sequence[ProxyRequest], device: str = "cpu"
) -> list[ProxyResult]:
    """Train the requested proxies as one stacked model and score each on every domain.

    A proxy's result depends on its own request, the configuration and the tokens only, up to rounding; the same requests give
    the same bits. The number of threads is the caller's business: at proxy size, one per process is fastest.

    Args:
        store: The tokens.
        config: Shape and training of every proxy.
        requests: At least one; they may differ in weights and seeds.
        device: A torch device.

    Returns:
        One result per request, in their order. A diverged proxy has a failure and no losses; its neighbours are untouched.

    Raises:
        CorpusError: A domain with a weight has fewer training tokens, or any domain fewer validation tokens, than one block.
        ValueError: A request's weights do not fit the store's domains.
    """
    began = time.perf_counter()
    n_steps = total_steps(config)
    n_blocks = n_steps * config.batch_size
    plans = [plan_blocks(store, r.weights, r.data_seed, n_blocks, config.context + 1) for r in requests]
    model = StackedDecoder(config, store.vocab_size, [r.init_seed for r in requests], device)
    optimizer = torch.optim.AdamW(
        [
            {"params": [model.matrices_KP], "weight_decay": config.weight_decay},
            {"params": [model.gains_KP], "weight_decay": 0.0},
        ],
        betas=(config.beta1, config.beta2),
        fused=True,
    )

    # What went wrong, if anything, is read from here at the end: looking at every step would stall a GPU.
    health_SK = torch.empty(n_steps, len(requests), device=device)
    for step in range(n_steps):
        ahead = step % READ_AHEAD_STEPS
        if ahead == 0:
            tokens_SKBT = _read_steps(store, config, plans, step, min(step + READ_AHEAD_STEPS, n_steps)).to(device)
        tokens_KBT = tokens_SKBT[ahead]
        losses_K = model.losses(tokens_KBT[..., :-1], tokens_KBT[..., 1:])
        model.backward(losses_K)
        norms_K = clip_per_proxy([model.matrices_KP, model.gains_KP], config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, n_steps)
        optimizer.step()
        health_SK[step] = losses_K.detach() + norms_K.log()

    losses = validation_losses(model, store, config)
    seconds = (time.perf_counter() - began) / len(requests)
    health = health_SK.cpu().numpy()
    results = []
    for k, (request, plan) in enumerate(zip(requests, plans, strict=True)):
        failure = _failure(health[:, k], losses[k], store.vocab_size)
        scored = {} if failure else dict(zip(store.domains, losses[k].tolist(), strict=True))
        results.append(
            ProxyResult(
                slot=request.slot,
                losses=scored,
                bits_per_byte={
                    name: bits_per_byte(loss, store.validation_bytes_per_token(index))
                    for index, (name, loss) in enumerate(scored.items())
                },
                tokens=n_blocks * config.context,
                seconds=seconds,
                failure=failure,
                shares=dict(zip(store.domains, plan.shares(len(store.domains)).tolist(), strict=True)),
            )
        )
    return results


def total_steps(config: ProxyConfig) -> int:
    """Return the optimiser steps of one proxy: as many whole batches as its tokens allow."""
    return config.tokens // (config.batch_size * config.context)


def learning_rate(config: ProxyConfig, step: int, n_steps: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up to the peak, then half a cosine to the final share."""
    warmup_steps = round(config.warmup * n_steps)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, n_steps - 1 - warmup_steps)
    floor = config.final_learning_rate
    return config.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def clip_per_proxy(parameters_KP: Sequence[Tensor], limit: float) -> Tensor:
    """Scale each proxy's gradient, in place, to a norm of at most ``limit``.

    Args:
        parameters_KP: Leaves whose row k belongs to proxy k.
        limit: Largest norm.

    Returns:
        The norms before clipping, ``(K,)``.
    """
    gradients_KP = [parameter.grad for parameter in parameters_KP if parameter.grad is not None]
    norms_K = torch.stack([torch.linalg.vector_norm(gradient, dim=1) for gradient in gradients_KP]).norm(dim=0)
    scale_K1 = (limit / norms_K.clamp_min(limit)).unsqueeze(1)
    for gradient in gradients_KP:
        gradient.mul_(scale_K1)
    return norms_K


def _read_steps(store: TokenSource, config: ProxyConfig, plans: Sequence[BlockPlan], first: int, last: int) -> Tensor:
    """Read the blocks of several steps at once, ``(steps, K, batch_size, context + 1)``."""
    shape = (last - first, config.batch_size, config.context + 1)
    read = [plan.gather(store, first * config.batch_size, last * config.batch_size).reshape(shape) for plan in plans]
    return torch.from_numpy(np.stack(read, axis=1))


def _failure(health: NDArray[np.float32], losses: NDArray[np.float64], vocab_size: int) -> str | None:
    """Say how a proxy diverged, or None: ``health`` is its loss plus the logarithm of its gradient norm at every step.

    The logarithm catches the gradient that is exactly zero as well: weights so large that the norms' squares overflow leave
    logits of zero, which would pass for an honest ln(vocabulary).
    """
    broken = np.flatnonzero(~np.isfinite(health))
    if broken.size:
        return f"diverged: loss or gradient not finite, or gradient zero, at step {broken[0] + 1} of {health.size}"
    mean = float(losses.mean())
    if not mean <= DIVERGED_LOSS * math.log(vocab_size):
        return f"diverged: mean validation loss {mean:.4g} nats per token, above {DIVERGED_LOSS:g} x ln({vocab_size})"
    return None
