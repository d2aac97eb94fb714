"""The planner: how many proxies a device trains at once, in what pieces and how, from its memory and a short calibration.

A plan is kept in the run folder, so that a search that continues trains as it began, and in the user's cache, so that the next
search on this machine need not measure again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import TypeAdapter

from regmix_active.atomic import write_atomically
from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.schema import ProxyConfig
from regmix_active.corpus.build import default_cache_dir
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ConfigError
from regmix_active.execution.parallel import compute
from regmix_active.proxy.planning.measure import Calibration, Speed, calibrate
from regmix_active.proxy.planning.memory import forecast
from regmix_active.proxy.planning.plan import DEFAULT_PLAN, Mode, TrainingPlan

log = logging.getLogger(__name__)

FORMAT = 1

STACKS = {"cpu": (2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)}
MEMORY_SHARE = 0.8
"""Of the free memory; the rest is for what a forecast does not see."""

CLOSE = 0.97
"""The smallest stack within this share of the fastest is taken: it leaves less work undone when a process dies."""

COMPILE_FROM_SECONDS = 1_200.0
"""Training per worker below which compiling (up to a minute per worker) is not even tried."""


@dataclass(frozen=True)
class SwarmPlan:
    """How a search trains on its devices.

    Attributes:
        stack: Proxies that one worker trains at once, at most.
        workers: Workers that a round is spread over.
        training: How each of them trains.
        forecast: Peak memory of one worker's stack, bytes, without what the process itself takes.
        tokens_per_second: Of one worker; 0 if it was not measured.
        reasons: Why, in words.
        key: Hash of what the plan depends on.
    """

    stack: int
    workers: int
    training: TrainingPlan = DEFAULT_PLAN
    forecast: int = 0
    tokens_per_second: float = 0.0
    reasons: tuple[str, ...] = ()
    key: str = ""

    def seconds(self, proxy: ProxyConfig) -> float:
        """Seconds that one proxy takes one worker (0 if nothing was measured)."""
        return proxy.tokens / self.tokens_per_second if self.tokens_per_second else 0.0

    def to_json(self) -> dict[str, Any]:
        """As kept in files."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SwarmPlan:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: If it is something else.
        """
        found = TypeAdapter(cls).validate_python(data)
        if found.stack < 1 or found.workers < 1 or not 0 <= found.tokens_per_second < math.inf:
            raise ValueError("a plan has at least one worker and one proxy")
        return found


def plan_swarm(
    store: TokenStore,
    proxy: ProxyConfig,
    execution: ExecutionConfig,
    devices: Sequence[str],
    proxies: int,
    kept: Path | None = None,
    report: Callable[[str], None] = lambda stage: None,
) -> SwarmPlan:
    """Plan, or read the plan made before.

    Args:
        store: The tokens.
        proxy: Shape and training.
        execution: What the user has settled.
        devices: One torch device per worker.
        proxies: How many will train: whether compiling pays.
        kept: File of :func:`keep`: a search that continues trains in the stacks that it began with.
        report: Told what takes time.

    Raises:
        ConfigError: If not even one block of one proxy fits into memory, or a setting contradicts another.
    """
    key = _key(store, proxy, execution, devices)
    if kept is not None and (found := kept_plan(kept, key)) is not None:
        return found
    # Whether compiling pays depends on how much there is to train; a search that continues does not ask again.
    cached = f"{key}-{len(str(proxies * proxy.tokens))}"
    found = kept_plan(default_cache(), cached)
    if found is not None and found.forecast <= MEMORY_SHARE * free_memory(devices):
        return replace(found, workers=len(devices), key=key)
    found = replace(_plan(store, proxy, execution, devices, proxies, report), key=key)
    log.info("plan: %s", "; ".join(found.reasons))
    try:
        keep(default_cache(), replace(found, key=cached))
    except OSError as error:  # a cache that cannot be written costs a measurement, not the search
        log.warning("%s: the plan is not kept (%s)", default_cache(), error.strerror)
    return found


def measured(plan: SwarmPlan, store: TokenStore, proxy: ProxyConfig, device: str) -> SwarmPlan:
    """The plan with its speed, also where there was nothing to choose."""
    if plan.tokens_per_second:
        return plan
    task = Calibration(store.path, proxy, device, plan.training, (plan.stack,), (plan.training.mode,))
    return replace(plan, tokens_per_second=_measured(task)[-1].tokens_per_second)


def keep(place: Path, plan: SwarmPlan) -> None:
    """Write a plan into a file of plans, unless it is there."""
    plans = _plans(place)
    if plans.get(plan.key) != plan.to_json():
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, json.dumps({"plans": {**plans, plan.key: plan.to_json()}}, indent=1))


def default_cache() -> Path:
    """File of the plans of this machine: ``plans.json`` in ``$REGMIX_ACTIVE_CACHE``, or in the user's cache folder."""
    return default_cache_dir().parent / "plans.json"


def _plan(
    store: TokenStore,
    proxy: ProxyConfig,
    execution: ExecutionConfig,
    devices: Sequence[str],
    proxies: int,
    report: Callable[[str], None],
) -> SwarmPlan:
    device, kind = devices[0], "cuda" if devices[0].startswith("cuda") else "cpu"
    precision, modes = _precision(execution, kind), _modes(execution, kind)
    free = free_memory(devices)
    reasons = [f"{free / 2**30:.1f} GiB of memory for each of {len(devices)} workers ({kind})"]

    def need(stack: int, plan: TrainingPlan) -> int:
        return forecast(proxy, store.vocab_size, stack, plan, kind)

    base = TrainingPlan(mixed_precision=precision)
    alone = proxy.hf is not None or execution.parallel == "data"
    if alone and execution.mode not in ("auto", "eager"):
        raise ConfigError(f"execution.mode: {execution.mode} is for stacked proxies; use auto with proxy.hf or parallel: data")
    micro = _micro_batch(proxy, execution, lambda blocks: need(1, replace(base, micro_batch=blocks)) <= MEMORY_SHARE * free)
    if alone and proxy.trunk_tokens:
        raise ConfigError("proxy.trunk_tokens: a shared trunk is for stacked proxies; set it to 0 with proxy.hf or parallel: data")
    if execution.parallel == "data" or (micro is None and execution.parallel == "auto" and len(devices) > 1):
        reasons.append("data-parallel: all devices train each proxy together")
        plan = replace(base, micro_batch=micro or 1, data_parallel=True)
        return SwarmPlan(1, len(devices), plan, need(1, plan), 0.0, tuple(reasons))
    if micro is None:
        raise ConfigError(
            f"one block of one proxy needs about {need(1, replace(base, micro_batch=1)) / 2**30:.1f} GiB, more than the "
            f"{MEMORY_SHARE * free / 2**30:.1f} GiB at hand for each of {len(devices)} workers: lower proxy.width or "
            "proxy.context, use fewer execution.workers, or several devices with execution.parallel: data"
        )
    if micro < proxy.batch_size:
        reasons.append(f"micro-batches of {micro} blocks: the whole batch of {proxy.batch_size} does not fit")
    base = replace(base, micro_batch=micro if micro < proxy.batch_size else None)
    if proxy.hf is not None:
        reasons.append("transformers models train one at a time")
        return SwarmPlan(1, len(devices), base, need(1, base), 0.0, tuple(reasons))
    stacks = (execution.stack,) if execution.stack != "auto" else STACKS[kind]
    fitting = [stack for stack in stacks if need(stack, base) <= MEMORY_SHARE * free]
    if not fitting and execution.stack != "auto":
        most = next(stack for stack in range(execution.stack, 0, -1) if need(stack, base) <= MEMORY_SHARE * free)
        raise ConfigError(
            f"execution.stack: {execution.stack} proxies need about {need(execution.stack, base) / 2**30:.1f} GiB, more than the "
            f"{MEMORY_SHARE * free / 2**30:.1f} GiB at hand for each of {len(devices)} workers; {most} fit, or leave it auto"
        )
    if len(fitting) < len(stacks):
        fitting = fitting or [1]
        reasons.append(f"stacks of more than {fitting[-1]} do not fit into memory")
    if len(fitting) == 1 and len(modes) == 1:
        plan = replace(base, mode=modes[0])
        return SwarmPlan(fitting[0], len(devices), plan, need(fitting[0], plan), 0.0, tuple(reasons))

    report("measuring how many proxies to train at once")
    task = Calibration(store.path, proxy, device, base, tuple(fitting), modes)
    speeds = _measured(task)
    if not speeds:  # what the forecast promised did not fit; jobs halve what they cannot hold
        reasons.append("nothing could be measured: memory ran out; proxies train one at a time")
        plan = replace(base, mode=modes[0])
        return SwarmPlan(1, len(devices), plan, need(1, plan), 0.0, tuple(reasons))
    chosen = _choose(speeds)
    reasons.append(f"stacks of {chosen.stack}, {chosen.mode}: " + _listed(speeds))
    rest = proxies * proxy.tokens / chosen.tokens_per_second / len(devices)
    if execution.mode == "auto" and rest >= COMPILE_FROM_SECONDS:
        report("measuring whether compiling pays")
        for compiled in _measured(replace(task, stacks=(chosen.stack,), modes=("compile",))):
            shorter = rest * chosen.tokens_per_second / compiled.tokens_per_second + compiled.start_seconds
            reasons.append(f"compiled: {compiled.tokens_per_second:,.0f} tokens/s after {compiled.start_seconds:.0f} s")
            chosen = compiled if shorter < 0.98 * rest else chosen
    plan = replace(base, mode=chosen.mode)
    return SwarmPlan(chosen.stack, len(devices), plan, need(chosen.stack, plan), chosen.tokens_per_second, tuple(reasons))


def free_memory(devices: Sequence[str]) -> int:
    """Bytes that each of the workers may take."""
    if devices[0].startswith("cuda"):
        return int(torch.cuda.mem_get_info(devices[0])[0]) // max(1, devices.count(devices[0]))
    return int(psutil.virtual_memory().available) // len(devices)


def _precision(execution: ExecutionConfig, kind: str) -> Any:
    if execution.mixed_precision != "auto":
        return execution.mixed_precision
    return "bf16" if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def _micro_batch(proxy: ProxyConfig, execution: ExecutionConfig, fits: Callable[[int], bool]) -> int | None:
    """Blocks per forward pass: the user's number, or the largest part of the batch that fits; None if nothing does."""
    if execution.micro_batch != "auto":
        if proxy.batch_size % execution.micro_batch:
            raise ConfigError(
                f"execution.micro_batch: {execution.micro_batch} does not divide proxy.batch_size ({proxy.batch_size}); "
                f"choose a divisor, or auto"
            )
        return execution.micro_batch
    divisors = [blocks for blocks in range(proxy.batch_size, 0, -1) if proxy.batch_size % blocks == 0]
    return next((blocks for blocks in divisors if fits(blocks)), None)


def _modes(execution: ExecutionConfig, kind: str) -> tuple[Mode, ...]:
    if execution.mode == "cuda-graph" and kind != "cuda":
        raise ConfigError("execution.mode: cuda-graph needs a GPU, and this machine has none; use auto or eager")
    if execution.mode != "auto":
        return (execution.mode,)
    return ("eager", "cuda-graph") if kind == "cuda" else ("eager",)


def _measured(task: Calibration) -> list[Speed]:
    # In a process of its own, prepared like a worker's: allocator and threads decide the figures.
    ((_, found),) = compute(calibrate, [task], 2)
    if isinstance(found, Exception):
        raise found
    return found


def _choose(speeds: Sequence[Speed]) -> Speed:
    best = max(speed.tokens_per_second for speed in speeds)
    return min((s for s in speeds if s.tokens_per_second >= CLOSE * best), key=lambda s: (s.stack, -s.tokens_per_second))


def _listed(speeds: Sequence[Speed]) -> str:
    return ", ".join(f"{speed.stack} {speed.mode} {speed.tokens_per_second:,.0f}" for speed in speeds) + " tokens/s"


def _key(store: TokenStore, proxy: ProxyConfig, execution: ExecutionConfig, devices: Sequence[str]) -> str:
    """Everything that a plan depends on, but for the number of workers and their memory at the moment."""
    gpu = devices[0].startswith("cuda")
    name = torch.cuda.get_device_name(devices[0]) if gpu else f"{platform.machine()} {platform.processor()} {psutil.cpu_count()}"
    settled = execution.model_dump(include={"parallel", "stack", "micro_batch", "mode", "mixed_precision"})
    content = [FORMAT, name, len(devices) > 1, torch.__version__, store.vocab_size, proxy.model_dump(exclude={"tokens"}), settled]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def kept_plan(place: Path, key: str) -> SwarmPlan | None:
    """The plan of that key in a file of :func:`keep`, if it is there."""
    try:
        return SwarmPlan.from_json(_plans(place)[key])
    except KeyError:
        return None
    except ValueError as error:
        log.warning("%s: the plan %s is not used (%s); planning again", place, key, str(error).splitlines()[0])
        return None


def _plans(place: Path) -> dict[str, Any]:
    try:
        plans = json.loads(place.read_text(encoding="utf-8"))["plans"]
        if not isinstance(plans, dict):
            raise TypeError("plans are kept by key")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s: not a file of plans (%s); planning again", place, type(error).__name__)
        return {}
    return plans
