"""Train a stack of proxies: read it from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.blocks import BlockPlan, TokenSource, plan_blocks
from regmix_active.proxy.model.stacked import StackedDecoder
from regmix_active.proxy.planning.plan import DEFAULT_PLAN, TrainingPlan
from regmix_active.proxy.training.checkpoint import Checkpoint, Checkpoints
from regmix_active.proxy.training.evaluate import bits_per_byte, validation_losses
from regmix_active.proxy.training.feed import Feed
from regmix_active.proxy.training.optimizer import StackOptimizer, total_steps
from regmix_active.proxy.training.steps import StepRunner

DIVERGED_LOSS = 2.0
"""A mean validation loss above so many times ln(vocabulary), the loss of knowing nothing, counts as divergence."""

CURVE_SHARE = 1 / 8
"""Share of the validation blocks that points of the learning curve are scored on."""

STATE = ("matrices", "gains", "m_matrices", "v_matrices", "m_gains", "v_gains")
"""Names of the tensors of a checkpoint: parameters, then AdamW's moments."""

Curve = dict[int, dict[str, float]]
"""Losses by domain, nats per token, by optimiser steps done."""


class Stopping(Protocol):
    """Ends hopeless proxies early."""

    def hopeless(self, curves: Mapping[int, Curve], step: int) -> set[int]:
        """Slots to stop, once all of the stack have reached `step`; `curves` holds those still in training, by slot."""
        ...


class StackTraining:
    """K proxies in training: advances step by step, can be saved, resumed, and made smaller.

    Args:
        store: The tokens.
        config: Shape and training of every proxy.
        requests: At least one; they may differ in mixture, seeds, learning rate, weight decay and clipping.
        device: A torch device.
        plan: How steps run.
        start: Initial parameters instead of random ones: matrices and gains, one row per request.
    """

    def __init__(
        self,
        store: TokenSource,
        config: ProxyConfig,
        requests: Sequence[ProxyRequest],
        device: str,
        plan: TrainingPlan,
        start: Sequence[Tensor] | None = None,
    ) -> None:
        self.store, self.config, self.plan, self.n_steps = store, config, plan, total_steps(config)
        n_blocks = self.n_steps * config.batch_size
        # Proxies that differ in their initial weights only read the same blocks.
        plans: dict[tuple[bytes, int], BlockPlan] = {}
        for r in requests:
            if (read := (r.weights.tobytes(), r.data_seed)) not in plans:
                plans[read] = plan_blocks(store, r.weights, r.data_seed, n_blocks, config.context + 1, draws=config.domain_draws)
        self.blocks: list[BlockPlan] = [plans[r.weights.tobytes(), r.data_seed] for r in requests]
        self.step, self.seconds, self.curves = 0, 0.0, {request.slot: Curve() for request in requests}
        self.stopped: dict[int, int] = {}
        # What went wrong, if anything, is read from here at the end: looking at every step would stall a GPU.
        self._health_SK = torch.zeros(self.n_steps, len(requests), device=device)
        self._requests, self._device = list(requests), torch.device(device)
        self._columns: slice | Tensor = slice(None)
        self._assemble(requests, start)

    def _assemble(self, requests: Sequence[ProxyRequest], start: Sequence[Tensor] | None) -> None:
        """Bring the parts together for the proxies that (still) train."""
        self.training = list(requests)
        rows = [self._requests.index(request) for request in requests]
        self._columns = slice(None) if len(rows) == len(self._requests) else torch.tensor(rows, device=self._device)
        self.model = StackedDecoder(self.config, self.store.vocab_size, [r.init_seed for r in requests], str(self._device))
        self.model.mixed_precision = self.plan.mixed_precision
        if start is not None:
            self._copy(start)
        self._optimizer = StackOptimizer(
            self.model.matrices_KP,
            self.model.gains_KP,
            self.config,
            requests,
            capturable=self.plan.mode == "cuda-graph" and self._device.type == "cuda",
        )
        self._feed = Feed(self.store, [self.blocks[row] for row in rows], self.config.batch_size, self._device)
        self._runner = StepRunner(self.model, self._optimizer, self.config, self.plan)

    def advance(self, last: int) -> None:
        """Train up to step `last` (exclusive, counted from 0)."""
        began = time.perf_counter()
        for step in range(self.step, last):
            self._health_SK[step, self._columns] = self._runner.run(self._feed.step(step), step, self.n_steps)
        self.step = last
        self.seconds += time.perf_counter() - began

    def score(self, share: float = 1.0) -> NDArray[np.float64]:
        """Losses on every domain of the proxies in training, ``(K, d)``, nats per token."""
        began = time.perf_counter()
        losses = validation_losses(self.model, self.store, self.config, share)
        self.seconds += time.perf_counter() - began
        return losses

    def stop(self, slots: set[int]) -> None:
        """Take proxies out of the stack; the others do not notice."""
        keep = [k for k, request in enumerate(self.training) if request.slot not in slots]
        self.stopped |= {request.slot: self.step for request in self.training if request.slot in slots}
        state = [tensor.detach()[keep] for tensor in self._tensors()]
        self._feed.close()
        if not keep:
            self.training = []
            return
        # Gone before the smaller stack is built: memory must not peak because a proxy ends.
        del self.model, self._optimizer, self._runner
        self._assemble([self.training[k] for k in keep], state[:2])
        self._optimizer.restore(state[2:], self.step)

    def checkpoint(self) -> Checkpoint:
        """Everything needed to go on at this step."""
        tensors = dict(zip(STATE, (tensor.detach() for tensor in self._tensors()), strict=True))
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "slots": [request.slot for request in self.training],
            "stopped": [[slot, step] for slot, step in self.stopped.items()],
            "curves": [[slot, step, losses] for slot, curve in self.curves.items() for step, losses in curve.items()],
        }
        return Checkpoint({**tensors, "health": self._health_SK}, state)

    def resume(self, found: Checkpoint) -> None:
        """Go on where a checkpoint was written."""
        *tensors, health = (found.tensors[name].to(self._device) for name in (*STATE, "health"))
        self.step, self.seconds = found.state["step"], found.state["seconds"]
        self.stopped = dict(map(tuple, found.state["stopped"]))
        for slot, step, losses in found.state["curves"]:
            self.curves[slot][step] = losses
        if len(found.state["slots"]) < len(self.training):
            self._feed.close()
            self._assemble([request for request in self._requests if request.slot in found.state["slots"]], tensors[:2])
        self._copy(tensors[:2])
        self._optimizer.restore(tensors[2:], self.step)
        self._health_SK.copy_(health)

    def close(self) -> None:
        """Free threads."""
        self._feed.close()

    def health(self, request: ProxyRequest) -> NDArray[np.float32]:
        """A proxy's loss plus the logarithm of its gradient norm, at every step."""
        column: NDArray[np.float32] = self._health_SK[:, self._requests.index(request)].cpu().numpy()
        return column

    def _tensors(self) -> list[Tensor]:
        return [self.model.matrices_KP, self.model.gains_KP, *self._optimizer.moments()]

    def _copy(self, parameters: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for mine, other in zip((self.model.matrices_KP, self.model.gains_KP), parameters, strict=True):
                mine.copy_(other)


def train_stack(
    store: TokenSource,
    config: ProxyConfig,
    requests: Sequence[ProxyRequest],
    device: str = "cpu",
    plan: TrainingPlan = DEFAULT_PLAN,
    *,
    start: Sequence[Tensor] | None = None,
    checkpoints: Checkpoints | None = None,
    stopping: Stopping | None = None,
) -> list[ProxyResult]:
    """Train the requested proxies as one stacked model and score each on every domain.

    A proxy's result depends on its own request, the configuration and the tokens only, up to rounding; on a CPU the same requests
    give the same bits. The number of threads is the caller's business: at proxy size, one per process is fastest.

    Args:
        store: The tokens.
        config: Shape and training of every proxy.
        requests: At least one; they may differ in mixture, seeds, learning rate, weight decay and clipping.
        device: A torch device.
        plan: How steps run.
        start: Initial parameters instead of random ones: matrices and gains, one row per request.
        checkpoints: Where the state is saved on the way, and read from if it is there.
        stopping: Ends hopeless proxies at the points of the learning curve.

    Returns:
        One result per request, in their order. A diverged proxy has a failure and no losses; its neighbours are untouched.

    Raises:
        CorpusError: A domain with a weight has fewer training tokens, or any domain fewer validation tokens, than one block.
        ValueError: A request's weights do not fit the store's domains.
    """
    training = StackTraining(store, config, requests, device, plan, start)
    try:
        if checkpoints is not None and (found := checkpoints.load()) is not None:
            training.resume(found)
        for mark in curve_steps(config):
            _advance(training, mark, checkpoints)
            if training.step == mark < training.n_steps and mark not in training.curves[training.training[0].slot]:
                _note(training, training.score(CURVE_SHARE))
                if stopping is not None:
                    alive = {request.slot: training.curves[request.slot] for request in training.training}
                    if hopeless := stopping.hopeless(alive, mark):
                        training.stop(hopeless)
                        if not training.training:
                            break
        losses = training.score() if training.training else np.empty((0, len(store.domains)))
    finally:
        training.close()
    scored = {request.slot: row for request, row in zip(training.training, losses, strict=True)}
    return [_result(training, k, request, scored.get(request.slot)) for k, request in enumerate(requests)]


def curve_steps(config: ProxyConfig) -> list[int]:
    """Steps after which losses are taken: an eighth, a quarter, a half ... and the end."""
    n_steps = total_steps(config)
    return sorted({n_steps >> halvings for halvings in range(config.curve + 1)} - {0})


def _advance(training: StackTraining, last: int, checkpoints: Checkpoints | None) -> None:
    """Train up to step `last`, saving on the way when it is due."""
    while training.step < last:
        training.advance(training.step + 1 if checkpoints is not None else last)
        if checkpoints is not None and checkpoints.due():
            checkpoints.save(training.checkpoint)


def _note(training: StackTraining, losses: NDArray[np.float64]) -> None:
    for request, row in zip(training.training, losses.tolist(), strict=True):
        training.curves[request.slot][training.step] = dict(zip(training.store.domains, row, strict=True))


def _result(training: StackTraining, k: int, request: ProxyRequest, losses: NDArray[np.float64] | None) -> ProxyResult:
    """What the k-th proxy showed; `losses` is None if it was stopped early."""
    store, config = training.store, training.config
    stopped = training.stopped.get(request.slot)
    steps = training.n_steps if stopped is None else stopped
    failure = failure_of(training.health(request), losses, store.vocab_size)
    scored = {} if failure or losses is None else dict(zip(store.domains, losses.tolist(), strict=True))
    per_step = config.batch_size * config.context
    curve = {str(step * per_step): one for step, one in training.curves[request.slot].items() if _finite(one)}
    return ProxyResult(
        slot=request.slot,
        losses=scored,
        bits_per_byte={
            name: bits_per_byte(loss, store.validation_bytes_per_token(index)) for index, (name, loss) in enumerate(scored.items())
        },
        tokens=steps * per_step,
        seconds=training.seconds / len(training.blocks),
        failure=failure,
        diverged=failure is not None,
        shares=dict(zip(store.domains, training.blocks[k].shares(len(store.domains)).tolist(), strict=True)),
        curve=curve,
        stopped=stopped is not None and failure is None,
    )


def _finite(losses: Mapping[str, float]) -> bool:
    return all(map(math.isfinite, losses.values()))


def failure_of(health: NDArray[np.float32], losses: NDArray[np.float64] | None, vocab_size: int) -> str | None:
    """Say how a proxy diverged, or None.

    Args:
        health: Its loss plus the logarithm of its gradient norm, at every step. The logarithm catches the gradient that is exactly
            zero as well: weights so large that the norms' squares overflow leave logits of zero, which would pass for an honest
            ln(vocabulary).
        losses: Validation losses, nats per token; None if it never came to that.
        vocab_size: Number of token ids.
    """
    broken = np.flatnonzero(~np.isfinite(health))
    if broken.size:
        return f"diverged: loss or gradient not finite, or gradient zero, at step {broken[0] + 1} of {health.size}"
    mean = 0.0 if losses is None else float(losses.mean())
    if not mean <= DIVERGED_LOSS * math.log(vocab_size):
        return f"diverged: mean validation loss {mean:.4g} nats per token, above {DIVERGED_LOSS:g} x ln({vocab_size})"
    return None
