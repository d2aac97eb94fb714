"""One proxy as an ordinary module, in training over all ranks of a launch; on one rank it is the plain trainer of one model.

Every step trains on the blocks that a single device would train on; each rank takes some of them, and the gradient is that of
the mean over all. So the number of ranks changes a result by rounding only.

Dropout is off, whatever a model's configuration says: a proxy sees most of its text once, and equal seeds must give equal losses.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.blocks import TokenSource, plan_blocks
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training.block_losses import BlockLosses
from regmix_active.proxy.training.checkpoint import Checkpoint
from regmix_active.proxy.training.evaluate import validation_blocks
from regmix_active.proxy.training.feed import Feed
from regmix_active.proxy.training.optimizer import learning_rate, total_steps
from regmix_active.proxy.training.stack import Curve

if TYPE_CHECKING:
    from accelerate import Accelerator

    from regmix_active.proxy.training.together import Alone

MOMENTS = ("exp_avg", "exp_avg_sq")


class ModuleTraining:
    """One proxy in training over all ranks: advances step by step, can be saved and resumed.

    Args:
        accelerator: The launch, or nothing but this process.
        store: The tokens.
        config: Shape and training.
        request: What is trained.
        plan: Micro-batch and precision.
        device: This rank's.
    """

    def __init__(
        self,
        accelerator: Accelerator | Alone,
        store: TokenSource,
        config: ProxyConfig,
        request: ProxyRequest,
        plan: TrainingPlan,
        device: torch.device,
    ) -> None:
        self.store, self.config, self.request, self.n_steps = store, config, request, total_steps(config)
        self.blocks = plan_blocks(
            store,
            request.weights,
            request.data_seed,
            self.n_steps * config.batch_size,
            config.context + 1,
            draws=config.domain_draws,
        )
        self.step, self.seconds, self.curve = 0, 0.0, Curve()
        self.sharded = str(accelerator.distributed_type).endswith("FSDP")
        self._accelerator, self._device, self._clip = accelerator, device, _or(request.clip, config.clip)
        # The loss is this rank's part of it, the norm everybody's; what is not finite in either of them is found at the end.
        self._losses_S, self._norms_S = (torch.ones(self.n_steps, device=device) for _ in range(2))
        self._micro = plan.micro_batch or config.batch_size
        self._feed = Feed(store, [self.blocks], config.batch_size, device)
        self._plain = BlockLosses(build_model(config, store.vocab_size, request.init_seed), plan.mixed_precision).to(device).eval()
        self._adamw = torch.optim.AdamW(
            parameter_groups(self._plain, _or(request.weight_decay, config.weight_decay)),
            betas=(config.beta1, config.beta2),
            fused=not self.sharded,
        )
        with warnings.catch_warnings():
            # The name that it has since, Accelerate does not pass on.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self._model, self._optimizer = accelerator.prepare(self._plain, self._adamw)

    def advance(self) -> None:
        """Train one step."""
        began = time.perf_counter()
        parts = share(self.config.batch_size, self._accelerator.process_index, self._accelerator.num_processes, self._micro)
        blocks_BL = self._feed.step(self.step)[0]
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        for i, (first, last, weight) in enumerate(parts):
            more = i + 1 < len(parts)
            with self._accelerator.no_sync(self._model) if more else contextlib.nullcontext():
                loss = self._model(blocks_BL[first:last]).sum() * (weight / self.config.batch_size)
                # Gradients are averaged over ranks, the loss is a sum over them.
                self._accelerator.backward(loss * self._accelerator.num_processes)
            total += loss.detach()
        self._losses_S[self.step], self._norms_S[self.step] = total, self._clip_gradients()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step, self.n_steps, self.request.learning_rate)
        self._optimizer.step()
        self.step += 1
        self.seconds += time.perf_counter() - began

    def score(self, share_of_blocks: float = 1.0) -> NDArray[np.float64]:
        """Losses on every domain, ``(d,)``, nats per token."""
        began, rank, size = time.perf_counter(), self._accelerator.process_index, self._accelerator.num_processes
        own = [validation_blocks(self.store, i, self.config, share_of_blocks) for i in range(len(self.store.domains))]
        blocks_NL = torch.from_numpy(np.concatenate(own))
        losses_N = torch.zeros(len(blocks_NL), dtype=torch.float64, device=self._device)
        # A sharded model is whole only while all ranks compute; a replica scores what is its own.
        model = self._model if self.sharded else self._plain
        with torch.no_grad():
            for first, last, weight in share(len(blocks_NL), rank, size, min(self._micro, self.config.batch_size)):
                losses = model(blocks_NL[first:last].to(self._device))
                if weight:
                    losses_N[first:last] = losses
        losses = self._sum(losses_N).cpu().numpy()
        self.seconds += time.perf_counter() - began
        return np.array([part.mean() for part in np.split(losses, np.cumsum([len(part) for part in own])[:-1])])

    def health(self) -> NDArray[np.float32]:
        """The loss plus the logarithm of the gradient norm, at every step, ``(steps,)``."""
        losses_S = self._losses_S.clone()
        losses_S[self.step :] = 0.0
        health: NDArray[np.float32] = (self._sum(losses_S) + self._norms_S.log()).cpu().numpy()
        return health

    def checkpoint(self, done: Sequence[ProxyResult]) -> Checkpoint:
        """Everything needed to go on at this step, besides what the job has finished; for rank 0."""
        state = {
            "done": [asdict(result) for result in done],
            "slot": self.request.slot,
            "step": self.step,
            "seconds": self.seconds,
            "curve": [[step, losses] for step, losses in self.curve.items()],
        }
        if self.sharded:
            return Checkpoint({}, state)
        tensors = {"losses": self._losses_S, "norms": self._norms_S}
        for name, parameter in self._plain.named_parameters():
            tensors[f"parameter/{name}"] = parameter.detach()
            for moment in MOMENTS:
                tensors[f"{moment}/{name}"] = self._adamw.state[parameter][moment]
        return Checkpoint(tensors, state)

    def resume(self, found: Checkpoint) -> None:
        """Go on where a checkpoint was written; every rank has it."""
        self.step, self.seconds = found.state["step"], found.state["seconds"]
        self.curve.update(dict(found.state["curve"]))
        self._norms_S.copy_(found.tensors["norms"])
        if self._accelerator.is_main_process:
            self._losses_S.copy_(found.tensors["losses"])
        else:
            self._losses_S[: self.step] = 0.0
        for name, parameter in self._plain.named_parameters():
            with torch.no_grad():
                parameter.copy_(found.tensors[f"parameter/{name}"])
            state = {moment: found.tensors[f"{moment}/{name}"].to(parameter) for moment in MOMENTS}
            self._adamw.state[parameter] = {**state, "step": torch.tensor(float(self.step), device=self._device)}

    def close(self) -> None:
        """Free threads and memory."""
        self._feed.close()
        self._accelerator.free_memory()

    def _clip_gradients(self) -> Tensor:
        """Scale the gradient to the largest norm allowed; returns its norm before."""
        if self.sharded:
            ranks: Any = self._accelerator
            norm: Tensor = ranks.clip_grad_norm_(self._model.parameters(), self._clip)
            return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        gradients = [parameter.grad for parameter in self._plain.parameters() if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
        torch._foreach_mul_(gradients, self._clip / norm.clamp_min(self._clip))
        return norm

    def _sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks."""
        total: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return total


def build_model(config: ProxyConfig, vocab_size: int, init_seed: int) -> nn.Module:
    """The module that a configuration describes: from token ids ``(B, T)`` to logits ``(B, T, V)``."""
    if config.hf is not None:
        from regmix_active.proxy.model import hf

        return hf.build(config, vocab_size, init_seed)
    from regmix_active.proxy.model.decoder import Decoder

    return Decoder(config, vocab_size, init_seed)


def share(n_blocks: int, rank: int, ranks: int, micro_batch: int) -> list[tuple[int, int, float]]:
    """The parts of a batch that one rank computes: first block, last one (exclusive), and 1.

    All ranks get equally many parts, as operations that all take part in need it; where one has too few blocks for that, it
    computes some block again, with weight 0.
    """
    bounds = [n_blocks * r // ranks for r in range(ranks + 1)]
    n_parts = -(-max(last - first for first, last in itertools.pairwise(bounds)) // micro_batch)
    low, high = bounds[rank], bounds[rank + 1]
    cuts = [low + (high - low) * i // n_parts for i in range(n_parts + 1)]
    return [(a, b, 1.0) if b > a else (0, 1, 0.0) for a, b in itertools.pairwise(cuts)]


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters of a module for AdamW: matrices decay, gains and biases do not."""
    matrices = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _or(own: float | None, default: float) -> float:
    return default if own is None else own
