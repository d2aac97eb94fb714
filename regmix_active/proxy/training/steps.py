"""One optimiser step of a stack, in the ways that a device may run it: as it is, compiled, or as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.model.stacked import StackedDecoder
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training.optimizer import StackOptimizer

log = logging.getLogger(__name__)

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that memory ran out.

    Not every allocator of torch's has an exception for it: the CPU's, CUDA's driver and cuBLAS only have words.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and out_of_memory(before)


WARM_UP_STEPS = 3
"""Steps on a side stream before a CUDA graph is captured, as torch's documentation asks for."""


class StepRunner:
    """Runs optimiser steps of one stack.

    Args:
        model: The stack.
        optimizer: Its optimiser.
        config: Batch size and context.
        plan: How steps run. A mode that this machine lacks falls back to eager steps, with a warning that says why.
    """

    def __init__(self, model: StackedDecoder, optimizer: StackOptimizer, config: ProxyConfig, plan: TrainingPlan) -> None:
        self._model, self._optimizer = model, optimizer
        self._batch, self._context = config.batch_size, config.context
        self._micro = min(plan.micro_batch or config.batch_size, config.batch_size)
        self._losses: Callable[[Tensor, Tensor], Tensor] = model.losses
        self._sums = [torch.zeros_like(flat) for flat in (model.matrices_KP, model.gains_KP)] if self._micro < self._batch else []
        self._graph: _Graph | None = None
        if plan.mode == "compile":
            self._losses = _compiled(model.losses)
        elif plan.mode == "cuda-graph":
            if model.matrices_KP.is_cuda:
                self._graph = _Graph(self)
            else:
                log.warning("cuda-graph: there is no CUDA device; steps run eagerly")

    def run(self, tokens_KBT: Tensor, step: int, n_steps: int) -> Tensor:
        """Make one step.

        Args:
            tokens_KBT: The step's blocks, ``(K, batch_size, context + 1)``.
            step: From 0.
            n_steps: Steps in all.

        Returns:
            Loss before the step plus the logarithm of the gradient's norm, ``(K,)``: finite exactly if all went well.
        """
        self._optimizer.set_rate(step, n_steps)
        if self._graph is not None:
            try:
                return self._graph.run(tokens_KBT)
            except RuntimeError as error:
                if self._graph.captured or out_of_memory(error):
                    raise
                log.warning("cuda-graph: capturing failed (%s); steps run eagerly", str(error).split("\n")[0])
                self._graph = None
        return self.work(tokens_KBT)

    def work(self, tokens_KBT: Tensor) -> Tensor:
        """What a step does, learning rate apart."""
        losses_K = self._differentiate(tokens_KBT)
        return losses_K + self._optimizer.step().log()

    def snapshot(self) -> Callable[[], None]:
        """Remember parameters and optimiser state; the function returned brings them back, in place."""
        flat = (self._model.matrices_KP, self._model.gains_KP)
        kept, moments = [leaf.detach().clone() for leaf in flat], [moment.clone() for moment in self._optimizer.moments()]
        done = self._optimizer.steps

        def restore() -> None:
            with torch.no_grad():
                for leaf, old in zip(flat, kept, strict=True):
                    leaf.copy_(old)
            self._optimizer.restore(moments, done)

        return restore

    def _differentiate(self, tokens_KBT: Tensor) -> Tensor:
        """Write the gradients of the step's mean losses, and return these, ``(K,)``."""
        if not self._sums:
            losses_K = self._losses(tokens_KBT[..., :-1], tokens_KBT[..., 1:])
            self._model.backward(losses_K)
            return losses_K.detach()
        flat = (self._model.matrices_KP, self._model.gains_KP)
        total_K = tokens_KBT.new_zeros(len(tokens_KBT), dtype=torch.float32)
        for total in self._sums:
            total.zero_()
        for part_KBT in tokens_KBT.split(self._micro, dim=1):
            losses_K = self._losses(part_KBT[..., :-1], part_KBT[..., 1:])
            self._model.backward(losses_K)
            share = part_KBT.shape[1] / self._batch
            total_K = total_K + losses_K.detach() * share
            for total, leaf in zip(self._sums, flat, strict=True):
                assert leaf.grad is not None
                total.add_(leaf.grad, alpha=share)
        for total, leaf in zip(self._sums, flat, strict=True):
            assert leaf.grad is not None
            leaf.grad.copy_(total)
        return total_K


class _Graph:
    """A step captured once and replayed: one launch instead of some hundred."""

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tokens_KBT = torch.empty(0)
        self._health_K = torch.empty(0)

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def run(self, tokens_KBT: Tensor) -> Tensor:
        if self._graph is None:
            self._capture(tokens_KBT)
        assert self._graph is not None
        self._tokens_KBT.copy_(tokens_KBT)
        self._graph.replay()
        return self._health_K.clone()

    def _capture(self, tokens_KBT: Tensor) -> None:
        # Warming up makes real steps: what they change is put back.
        restore = self._runner.snapshot()
        try:
            self._graph = self._captured(tokens_KBT)
        finally:
            restore()

    def _captured(self, tokens_KBT: Tensor) -> torch.cuda.CUDAGraph:
        self._tokens_KBT = tokens_KBT.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self._runner.work(self._tokens_KBT)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the feed's thread pins memory meanwhile
            self._health_K = self._runner.work(self._tokens_KBT)
        return graph


def _compiled(losses: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The compiled function; eager from the first call on that the compiler fails at."""
    chosen: list[Callable[[Tensor, Tensor], Tensor]] = [torch.compile(losses, dynamic=False)]

    def run(tokens_KBT: Tensor, targets_KBT: Tensor) -> Tensor:
        try:
            return chosen[0](tokens_KBT, targets_KBT)
        except Exception as error:
            if chosen[0] is losses:
                raise
            log.warning("torch.compile failed (%s: %s); steps run eagerly", type(error).__name__, str(error).split("\n")[0])
            chosen[0] = losses
            return losses(tokens_KBT, targets_KBT)

    return run
