"""Train proxies one after the other, each over all ranks of a launch: through Accelerate, by DDP or FSDP."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ConfigError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.blocks import TokenSource
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training.checkpoint import Checkpoint, Checkpoints
from regmix_active.proxy.training.evaluate import bits_per_byte
from regmix_active.proxy.training.module import ModuleTraining
from regmix_active.proxy.training.stack import CURVE_SHARE, Stopping, curve_steps, failure_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_together(
    store: TokenSource,
    config: ProxyConfig,
    requests: Sequence[ProxyRequest],
    plan: TrainingPlan,
    device: str | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    stopping: Stopping | None = None,
) -> list[ProxyResult]:
    """Train the requested proxies, one after the other.

    If the plan is data-parallel, all ranks of the launch call this with the same arguments. If not, this process trains them alone,
    whatever launch it is in: models of `transformers` do, where every rank has jobs of its own.

    Args:
        store: The tokens.
        config: Shape and training of every proxy.
        requests: At least one; they may differ in mixture, seeds, learning rate, weight decay and clipping.
        plan: Micro-batch (blocks per rank and forward pass) and precision; steps run eagerly in every mode.
        device: A torch device; default: what Accelerate gives this rank.
        checkpoints: Where rank 0 saves the state on the way, and reads it from. Sharded models (FSDP) are not saved: theirs are
            only the finished proxies of the job.
        stopping: Ends hopeless proxies at the points of the learning curve.

    Returns:
        One result per request, in their order, the same on all ranks. A diverged proxy has a failure and no losses.

    Raises:
        ConfigError: If there are more ranks than blocks in a batch, or the model of ``proxy.hf`` cannot be built.
        CorpusError: A domain with a weight has fewer training tokens, or any domain fewer validation tokens, than one block.
    """
    accelerator = make_accelerator(device) if plan.data_parallel else Alone(device)
    if accelerator.num_processes > config.batch_size:
        raise ConfigError(
            f"proxy.batch_size: {config.batch_size} blocks cannot be shared by {accelerator.num_processes} ranks; "
            "raise it, or start fewer processes"
        )
    found = _from_main(accelerator, checkpoints.load() if checkpoints is not None and accelerator.is_main_process else None)
    done = [ProxyResult(**result) for result in found.state["done"]] if found is not None else []
    for request in requests[len(done) :]:
        training = ModuleTraining(accelerator, store, config, request, plan, torch.device(device or accelerator.device))
        try:
            if found is not None and found.state["slot"] == request.slot and found.tensors:
                training.resume(found)
            found = None
            done.append(_train(training, done, checkpoints if accelerator.is_main_process else None, stopping))
        finally:
            training.close()
    return done


class Alone:
    """What training asks of Accelerate, for one process that trains by itself; an `Accelerator` would take in its whole launch."""

    distributed_type = "NO"
    process_index = 0
    num_processes = 1
    is_main_process = True

    def __init__(self, device: str | None) -> None:
        """Train on a device; default: a GPU if there is one."""
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def prepare(self, *parts: Any) -> tuple[Any, ...]:
        """Return them as they are."""
        return parts

    def no_sync(self, model: nn.Module) -> contextlib.nullcontext[None]:
        """There is nobody to wait for."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Differentiate."""
        loss.backward()

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        """Return it as it is."""
        return tensor

    def free_memory(self) -> None:
        """Nothing is held here."""


def make_accelerator(device: str | None = None) -> Accelerator:
    """Accelerate's view of the launch; a device asked for is ours to use."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin

    from regmix_active.execution.ranks import find_place

    place = find_place()
    if device is not None and device.startswith("cuda"):
        torch.cuda.set_device(device)
    return Accelerator(
        cpu=place.device == "cpu",
        device_placement=False,
        # Autocast is BlockLosses' own, and so is the accumulation: a launcher's environment must not add its own to them.
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # Buffers are constants.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def _train(
    training: ModuleTraining, done: Sequence[ProxyResult], checkpoints: Checkpoints | None, stopping: Stopping | None
) -> ProxyResult:
    """Train one proxy to its end, or until it is hopeless."""
    stopped = False
    for mark in curve_steps(training.config):
        while training.step < mark:
            training.advance()
            if checkpoints is not None and checkpoints.due():
                checkpoints.save(lambda: training.checkpoint(done))
        if training.step == mark < training.n_steps and mark not in training.curve:
            training.curve[mark] = dict(zip(training.store.domains, training.score(CURVE_SHARE).tolist(), strict=True))
            slot = training.request.slot
            if stopping is not None and slot in stopping.hopeless({slot: training.curve}, mark):
                stopped = True
                break
    return _result(training, None if stopped else training.score())


def _result(training: ModuleTraining, losses: NDArray[np.float64] | None) -> ProxyResult:
    """What a proxy showed; `losses` is None if it was stopped early."""
    store, config = training.store, training.config
    health = training.health()
    failure = failure_of(health if losses is not None else health[: training.step], losses, store.vocab_size)
    scored = {} if failure or losses is None else dict(zip(store.domains, losses.tolist(), strict=True))
    per_step = config.batch_size * config.context
    curve = {str(step * per_step): one for step, one in training.curve.items() if all(map(math.isfinite, one.values()))}
    return ProxyResult(
        slot=training.request.slot,
        losses=scored,
        bits_per_byte={
            name: bits_per_byte(loss, store.validation_bytes_per_token(index)) for index, (name, loss) in enumerate(scored.items())
        },
        tokens=training.step * per_step,
        seconds=training.seconds,
        failure=failure,
        diverged=failure is not None,
        shares=dict(zip(store.domains, training.blocks.shares(len(store.domains)).tolist(), strict=True)),
        curve=curve,
        stopped=losses is None and failure is None,
    )


def _from_main(accelerator: Accelerator | Alone, found: Checkpoint | None) -> Checkpoint | None:
    """Rank 0's checkpoint on all ranks, whatever the others' file systems show them by now."""
    if accelerator.num_processes == 1:
        return found
    from accelerate.utils import broadcast, broadcast_object_list

    described: list[Any] = [
        found and (found.state, {name: (list(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in found.tensors.items()})
    ]
    broadcast_object_list(described, from_process=0)
    if described[0] is None:
        return None
    state, shapes = described[0]
    tensors = {}
    for name, (shape, dtype) in shapes.items():
        own = found.tensors[name] if found is not None else torch.empty(shape, dtype=getattr(torch, dtype))
        tensors[name] = broadcast(own.to(accelerator.device), from_process=0)
    return Checkpoint(tensors, state)
