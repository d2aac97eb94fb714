"""How a stack learns: the learning rate of a step, clipping per proxy, and one fused AdamW over the flat buffers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.base import ProxyRequest


def total_steps(config: ProxyConfig) -> int:
    """Return the optimiser steps of one proxy: as many whole batches as its tokens allow."""
    return config.tokens // (config.batch_size * config.context)


def learning_rate(config: ProxyConfig, step: int, n_steps: int, peak: float | None = None) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up to the peak, then half a cosine to the final share.

    Args:
        config: Gives warm-up, final share, and the peak unless told.
        step: From 0.
        n_steps: Steps in all.
        peak: A proxy's own peak.
    """
    peak = config.learning_rate if peak is None else peak
    warmup_steps = round(config.warmup * n_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, n_steps - 1 - warmup_steps)
    floor = config.final_learning_rate
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def clip_per_proxy(parameters_KP: Sequence[Tensor], limit: float | Tensor) -> Tensor:
    """Scale each proxy's gradient, in place, to a norm of at most ``limit``.

    Args:
        parameters_KP: Leaves whose row k belongs to proxy k.
        limit: Largest norm; one for all, or one per proxy, ``(K,)``.

    Returns:
        The norms before clipping, ``(K,)``.
    """
    gradients_KP = [parameter.grad for parameter in parameters_KP if parameter.grad is not None]
    norms_K = torch.stack([torch.linalg.vector_norm(gradient, dim=1) for gradient in gradients_KP]).norm(dim=0)
    scale_K1 = (limit / norms_K.clamp_min(limit)).unsqueeze(1)
    for gradient in gradients_KP:
        gradient.mul_(scale_K1)
    return norms_K


class StackOptimizer:
    """AdamW over a stack's two flat buffers: one fused call each while all proxies learn alike, one per proxy where they do not.

    Args:
        matrices_KP: Matrices; they decay.
        gains_KP: Norm gains; they do not.
        config: Defaults of what a request leaves open.
        requests: One per row.
        capturable: Keep learning rates on the device, as a CUDA graph needs.
    """

    def __init__(
        self,
        matrices_KP: Tensor,
        gains_KP: Tensor,
        config: ProxyConfig,
        requests: Sequence[ProxyRequest],
        *,
        capturable: bool = False,
    ) -> None:
        self._config, self._flat = config, (matrices_KP, gains_KP)
        own = [(r.learning_rate, config.weight_decay if r.weight_decay is None else r.weight_decay) for r in requests]
        alike = len(set(own)) == 1
        rows = [slice(0, len(requests))] if alike else [slice(k, k + 1) for k in range(len(requests))]
        self._peaks: list[float | None] = []
        groups = []
        for part in rows:
            peak, decay = own[part.start]
            for flat_KP, weight_decay in ((matrices_KP, decay), (gains_KP, 0.0)):
                leaf = flat_KP if alike else flat_KP[part]
                assert flat_KP.grad is not None
                leaf.grad = flat_KP.grad if alike else flat_KP.grad[part]
                rate = torch.zeros((), device=flat_KP.device) if capturable else 0.0
                groups.append({"params": [leaf], "weight_decay": weight_decay, "lr": rate})
                self._peaks.append(peak)
        self._adamw = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), fused=True, capturable=capturable)
        clips = [config.clip if r.clip is None else r.clip for r in requests]
        self._limit: float | Tensor = clips[0] if len(set(clips)) == 1 else torch.tensor(clips, device=matrices_KP.device)

    def set_rate(self, step: int, n_steps: int) -> None:
        """Set the learning rates of a step, counted from 0."""
        for group, peak in zip(self._adamw.param_groups, self._peaks, strict=True):
            rate = learning_rate(self._config, step, n_steps, peak)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def step(self) -> Tensor:
        """Clip and update; the gradients are in the buffers' ``grad``. Returns the norms before clipping, ``(K,)``."""
        norms_K = clip_per_proxy(self._flat, self._limit)
        self._adamw.step()
        return norms_K

    @property
    def steps(self) -> int:
        """Updates made so far. Waits for the device."""
        state = self._adamw.state.get(self._adamw.param_groups[0]["params"][0], {})
        return int(state["step"].item()) if state else 0

    def moments(self) -> list[Tensor]:
        """The state as tensors with a leading axis over proxies: both moments of both buffers, each ``(K, P)``.

        Zeros before the first step. They are copies where proxies do not learn alike.
        """
        parts: list[list[Tensor]] = [[], [], [], []]
        for index, group in enumerate(self._adamw.param_groups):
            (leaf,) = group["params"]
            state = self._adamw.state.get(leaf, {})
            for moment, name in enumerate(("exp_avg", "exp_avg_sq")):
                parts[2 * (index % 2) + moment].append(state[name] if state else torch.zeros_like(leaf))
        return [part[0] if len(part) == 1 else torch.cat(part) for part in parts]

    def restore(self, moments: Sequence[Tensor], step: int) -> None:
        """Take over a state.

        Args:
            moments: As :meth:`moments` gives them.
            step: Updates made so far.
        """
        first = 0
        for index, group in enumerate(self._adamw.param_groups):
            (leaf,) = group["params"]
            part = slice(first, first + len(leaf))
            exp_avg, exp_avg_sq = (moments[2 * (index % 2) + i][part] for i in (0, 1))
            state = self._adamw.state[leaf]
            if state:  # in place: a captured graph goes on using these tensors
                state["exp_avg"].copy_(exp_avg)
                state["exp_avg_sq"].copy_(exp_avg_sq)
                state["step"].fill_(float(step))
            else:
                state["exp_avg"], state["exp_avg_sq"] = exp_avg.clone(), exp_avg_sq.clone()
                state["step"] = torch.tensor(float(step), device=leaf.device)
            first += len(leaf) if index % 2 else 0
