"""How fast a stack trains here: the planner's short calibration, made in a process like a worker's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from regmix_active.config.schema import ProxyConfig
from regmix_active.corpus.store import TokenStore
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.planning.plan import Mode, TrainingPlan
from regmix_active.proxy.training.stack import StackTraining
from regmix_active.proxy.training.steps import out_of_memory
from regmix_active.threads import one_thread

log = logging.getLogger(__name__)

WARM_UP_STEPS = 3
MEASURED_STEPS = 10_000
"""A training long enough that a calibration does not reach its end."""

ROUNDS = 3
"""The best of so many is taken: whatever else the machine does only slows down."""

WORSE = 0.97
"""Growing stacks are tried until two in a row do not gain a thirtieth."""


@dataclass(frozen=True)
class Speed:
    """What one setting reached.

    Attributes:
        stack: Proxies at once.
        mode: How steps ran.
        tokens_per_second: Of all proxies of the stack; per second of CPU time on a CPU.
        start_seconds: Before the first step was through: compiling, capturing.
    """

    stack: int
    mode: Mode
    tokens_per_second: float
    start_seconds: float


@dataclass(frozen=True)
class Calibration:
    """What to try.

    Attributes:
        store: Folder of the token store.
        proxy: Shape and training.
        device: A torch device.
        plan: What is settled already.
        stacks: Numbers of proxies, rising.
        modes: How steps may run.
        seconds: Of measurement for each.
    """

    store: Path
    proxy: ProxyConfig
    device: str
    plan: TrainingPlan
    stacks: tuple[int, ...]
    modes: tuple[Mode, ...]
    seconds: float = 0.3


def calibrate(task: Calibration) -> list[Speed]:
    """Measure every mode at growing stacks, each until they gain no more or memory runs out.

    A mode that fails for another reason is left out, if there is another one to go on with.
    """
    store = TokenStore.open(task.store)
    found: list[Speed] = []
    if task.device.startswith("cuda"):
        torch.cuda.set_device(task.device)
    with one_thread():
        for mode in task.modes:
            best, idle = 0.0, 0
            for stack in task.stacks:
                try:
                    found.append(speed(store, task.proxy, stack, replace(task.plan, mode=mode), task.device, task.seconds))
                except RuntimeError as error:
                    if not out_of_memory(error) and len(task.modes) == 1:
                        raise
                    log.warning("stacks of %d, %s: %s", stack, mode, str(error).split("\n")[0])
                    break
                reached = found[-1].tokens_per_second
                idle = idle + 1 if reached * WORSE <= best else 0
                best = max(best, reached)
                if idle == 2:
                    break
    return found


def speed(store: TokenStore, proxy: ProxyConfig, stack: int, plan: TrainingPlan, device: str, seconds: float) -> Speed:
    """Train a stack for a moment.

    Args:
        store: The tokens.
        proxy: Shape and training.
        stack: Proxies at once.
        plan: How steps run.
        device: A torch device.
        seconds: At least so long, after warming up.
    """
    config = proxy.model_copy(update={"tokens": MEASURED_STEPS * proxy.batch_size * proxy.context})
    requests = [ProxyRequest(slot, store.natural_shares, 0, 1) for slot in range(stack)]
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    training = StackTraining(store, config, requests, device, plan)
    try:
        began = time.perf_counter()
        training.advance(1)
        _wait(device)
        start = time.perf_counter() - began
        training.advance(WARM_UP_STEPS)
        _wait(device)
        rates = [_rate(training, device, clock, seconds / ROUNDS) for _ in range(ROUNDS)]
        return Speed(stack, plan.mode, max(rates) * proxy.batch_size * proxy.context * stack, start)
    finally:
        training.close()


def _rate(training: StackTraining, device: str, clock: Callable[[], float], seconds: float) -> float:
    """Steps per second over at least so many seconds."""
    first, began, steps = training.step, clock(), 1
    while clock() - began < seconds:
        training.advance(training.step + steps)
        _wait(device)
        steps = min(2 * steps, 64)
    return (training.step - first) / (clock() - began)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
