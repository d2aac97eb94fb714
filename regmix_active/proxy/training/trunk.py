"""A warm start: one trunk trained on the uniform mixture, from which every proxy of a study goes on.

A proxy then spends its tokens on what its mixture changes. What this does to ranks is measured by ``regmix-active benchmark proxy
--set proxy.trunk_tokens=…``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ProxyError
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.blocks import TokenSource
from regmix_active.proxy.planning.plan import DEFAULT_PLAN, TrainingPlan
from regmix_active.proxy.training.checkpoint import Checkpoint, Checkpoints

DATA_SEED = 7
"""Seed of a trunk's blocks, beside its initial weights' own."""


def trunks(
    store: TokenSource,
    fingerprint: str,
    config: ProxyConfig,
    weights: NDArray[np.float64],
    init_seeds: Sequence[int],
    folder: Path,
    device: str = "cpu",
    plan: TrainingPlan = DEFAULT_PLAN,
) -> list[Tensor]:
    """The trunk of every initialisation, trained unless it lies in the folder.

    Args:
        store: The tokens.
        fingerprint: Theirs.
        config: Shape and training; ``trunk_tokens`` is how long.
        weights: Mixture of the trunk, shape ``(d,)``.
        init_seeds: One per proxy. Proxies with common random numbers share one trunk.
        folder: Where trunks are kept.
        device: A torch device.
        plan: How steps run.

    Returns:
        Matrices and gains, a row per seed: ``(K, P)`` each, on the CPU.

    Raises:
        ProxyError: If a trunk diverges.
    """
    rows = {seed: _trunk(store, fingerprint, config, weights, seed, folder, device, plan) for seed in sorted(set(init_seeds))}
    return [torch.cat([rows[seed][part] for seed in init_seeds]) for part in (0, 1)]


def _trunk(
    store: TokenSource,
    fingerprint: str,
    config: ProxyConfig,
    weights: NDArray[np.float64],
    seed: int,
    folder: Path,
    device: str,
    plan: TrainingPlan,
) -> tuple[Tensor, Tensor]:
    meaning = [fingerprint, config.model_dump(), weights.tolist(), seed, plan.mixed_precision]
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
    # Kept like a checkpoint, whose hashes notice damage: every proxy starts from it.
    kept = Checkpoints(folder / f"trunk-{digest[:16]}", digest, 0)
    # Workers that need the same trunk wait for the first of them.
    with FileLock(folder / f"trunk-{digest[:16]}.lock"):
        if (found := kept.load()) is None:
            found = Checkpoint(_train(store, config, weights, seed, device, plan), {})
            kept.save(lambda: found)
    return found.tensors["matrices"], found.tensors["gains"]


def _train(
    store: TokenSource, config: ProxyConfig, weights: NDArray[np.float64], seed: int, device: str, plan: TrainingPlan
) -> dict[str, Tensor]:
    from regmix_active.proxy.training.stack import StackTraining, failure_of

    own = config.model_copy(update={"tokens": config.trunk_tokens, "trunk_tokens": 0, "curve": 0})
    request = ProxyRequest(0, weights, seed, DATA_SEED)
    training = StackTraining(store, own, [request], device, plan)
    try:
        training.advance(training.n_steps)
        if failure := failure_of(training.health(request), training.score()[0], store.vocab_size):
            raise ProxyError(f"the shared trunk {failure}; lower proxy.learning_rate, or set proxy.trunk_tokens to 0")
    finally:
        training.close()
    return {"matrices": training.model.matrices_KP.detach().cpu(), "gains": training.model.gains_KP.detach().cpu()}
