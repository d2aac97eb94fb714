"""One measurement in a process of its own: a task file is read, an outcome file is written beside it.

Run by ``python -m regmix_active.compare.swarm_child FILE``, which makes an ordinary process of it, or as a job of the executor,
whose workers are prepared as in a search. Start-up and the first steps (compiling, graph capture, memory growth) are timed apart.
Processes that measure together wait for each other before their clocks start.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from regmix_active.atomic import write_atomically
from regmix_active.config.schema import ProxyConfig

if TYPE_CHECKING:
    from regmix_active.compare.loops import Loop
    from regmix_active.proxy.blocks import TokenSource

NO_START = "another process of the group did not come to the start"

LONGEST_WAIT_S = 300.0
"""A process that waits so long for the others gives up: one of them was killed."""

Method = Literal["swarm", "plain", "compiled", "hf", "peak"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Task(_Record):
    """What a process measures."""

    method: Method
    """A training loop, or `peak`: what the device can do."""

    proxy: ProxyConfig
    vocab_size: int
    store: Path | None = None
    """Folder of the token store; None: random tokens."""

    weights: tuple[float, ...] = (1.0,)
    """Mixture of every proxy."""

    stacks: tuple[tuple[int, ...], ...] = ()
    """Seeds of the proxies: trained one stack after the other; the rivals' stacks hold one."""

    warm_steps: int = 0
    """Steps of the first stack that are not timed."""

    threads: int | None = None
    """Threads of torch; None: its default."""

    device: str = "cpu"
    mode: Literal["eager", "compile", "cuda-graph"] = "eager"
    mixed_precision: Literal["no", "bf16"] = "no"
    parties: int = 1
    """Processes that start together; their files are in one folder."""

    launched: float = 0.0
    """When the process was asked for, by the monotonic clock, seconds."""


class Outcome(_Record):
    """What a process measured."""

    error: str | None = None
    """Why there is nothing else, or None."""

    startup_s: float = 0.0
    """From being launched until the first stack stands: Python, imports, initial weights."""

    warm_s: float = 0.0
    """Wall time of the first steps."""

    began: float = 0.0
    ended: float = 0.0
    """Of the timed steps, by the monotonic clock that all processes share, seconds."""

    cpu_s: float = 0.0
    """CPU time of all threads of the process in between."""

    tokens: int = 0
    """Tokens trained on in between."""

    losses: dict[int, float] = {}
    """Mean validation loss over all domains by seed, nats per token."""

    peak_bytes: int = 0
    """Most memory that the process ever held."""

    gpu_peak_bytes: int = 0
    """Most GPU memory allocated."""

    peak_flops: float = 0.0
    peak_copy_bytes: float = 0.0
    """For `peak`: operations and copied bytes per second."""

    peak_threads: int = 0


def outcome_file(task: Path) -> Path:
    """Where the outcome of a task file is written."""
    return task.with_suffix(".outcome")


def run_file(path: str, device: str) -> None:
    """Measure a task file on its own device; the executor's choice of one, `device`, is the same. Never raises."""
    file = Path(path)
    try:
        outcome = measure(Task.model_validate_json(file.read_text(encoding="utf-8")), file)
    except Exception as error:  # noqa: BLE001 - whatever stops one method is reported beside the others' figures
        first = (str(error).strip() or "no message").splitlines()[0]
        outcome = Outcome(error=f"{type(error).__name__}: {first}")
    write_atomically(outcome_file(file), outcome.model_dump_json())


def measure(task: Task, file: Path) -> Outcome:
    """Carry out a task.

    Args:
        task: What to measure.
        file: Its file; the files of those that start together lie beside it.

    Raises:
        ProxyError: If a package is missing, or another process of the group fails before the start.
    """
    import torch

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    if task.method == "peak":
        return _measure_peak(task)

    from regmix_active.compare.loops import RandomTokens
    from regmix_active.corpus.store import TokenStore
    from regmix_active.proxy.training.optimizer import total_steps

    source: TokenSource = TokenStore.open(task.store) if task.store else RandomTokens(task.vocab_size, 2_000_000)
    n_steps = total_steps(task.proxy)
    loops: list[Loop] = [_loop(task, source, task.stacks[0])]
    warming = time.monotonic()
    loops[0].advance(task.warm_steps)
    _synchronize(task.device)
    warm_s = time.monotonic() - warming
    _meet(file, task.parties)

    began, cpu_began = time.monotonic(), time.process_time()
    loops[0].advance(n_steps)
    for seeds in task.stacks[1:]:
        loops.append(_loop(task, source, seeds))
        loops[-1].advance(n_steps)
    _synchronize(task.device)
    ended, cpu_ended = time.monotonic(), time.process_time()

    # Memory before scoring, which is another work than training.
    peak, gpu_peak = peak_memory(), torch.cuda.max_memory_allocated() if task.device.startswith("cuda") else 0
    losses = {
        seed: loss for seeds, loop in zip(task.stacks, loops, strict=True) for seed, loss in zip(seeds, loop.score(), strict=True)
    }
    proxies = sum(map(len, task.stacks))
    per_step = task.proxy.batch_size * task.proxy.context
    return Outcome(
        startup_s=warming - task.launched,
        warm_s=warm_s,
        began=began,
        ended=ended,
        cpu_s=cpu_ended - cpu_began,
        tokens=(proxies * n_steps - len(task.stacks[0]) * task.warm_steps) * per_step,
        losses=losses,
        peak_bytes=peak,
        gpu_peak_bytes=gpu_peak,
    )


def peak_memory() -> int:
    """Most memory that this process ever held, bytes."""
    try:
        # Not `ru_maxrss`: it begins with what the parent held when it started this process.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        import resource

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024


def _measure_peak(task: Task) -> Outcome:
    from regmix_active.proxy.planning.roofline import measure_peak

    peak = measure_peak(task.device, task.threads)
    return Outcome(peak_flops=peak.flops, peak_copy_bytes=peak.bytes, peak_threads=peak.threads)


def _loop(task: Task, source: TokenSource, seeds: tuple[int, ...]) -> Loop:
    from regmix_active.compare.loops import HfLoop, PlainLoop, SwarmLoop
    from regmix_active.proxy.base import ProxyRequest
    from regmix_active.proxy.planning.plan import TrainingPlan

    weights = np.array(task.weights)
    requests = [ProxyRequest(slot, weights, init_seed=seed, data_seed=seed) for slot, seed in enumerate(seeds)]
    plan = TrainingPlan(mode=task.mode, mixed_precision=task.mixed_precision)
    if task.method == "swarm":
        return SwarmLoop(source, task.proxy, requests, task.device, plan)
    if task.method == "hf":
        return HfLoop(source, task.proxy, requests[0], task.device, plan)
    return PlainLoop(source, task.proxy, requests[0], task.device, plan, compiled=task.method == "compiled")


def _synchronize(device: str) -> None:
    """Wait until the GPU has done what it was told: before a clock is read."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _meet(file: Path, parties: int) -> None:
    """Wait until all processes of the group are ready."""
    from regmix_active.errors import ProxyError

    if parties == 1:
        return
    file.with_suffix(".ready").touch()
    waiting = time.monotonic()
    while len(list(file.parent.glob("*.ready"))) < parties:
        if list(file.parent.glob("*.outcome")) or time.monotonic() - waiting > LONGEST_WAIT_S:
            raise ProxyError(NO_START)
        time.sleep(0.002)


if __name__ == "__main__":
    run_file(sys.argv[1], "")
