"""How fast the swarm trains, against the loops that one would write without it: one interleaved run on this machine.

Every method runs once per repeat, in an order that rotates, each time in fresh processes with a set number of threads. So what
else the machine does falls on all of them alike, and a ratio is taken within a repeat. All train the same tokens and must end at
the same loss, or the comparison is worth nothing.

Rivals are ordinary processes; the swarm's are workers of :class:`~regmix_active.execution.local.LocalExecutor`, which keep freed
memory, as they do in a search.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from regmix_active.compare.machine import load_average, machine_facts
from regmix_active.compare.swarm_child import NO_START, Outcome, Task, outcome_file, run_file
from regmix_active.compare.swarm_result import Measurement, Method, Section, Settings, SwarmBenchmark
from regmix_active.config.load import load_config
from regmix_active.config.schema import RunConfig
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution.local import LocalExecutor
from regmix_active.proxy.planning.roofline import DevicePeak, token_cost
from regmix_active.proxy.runner import mixed_domains
from regmix_active.proxy.training.optimizer import total_steps

WARM_STEPS, FEWEST_STEPS = 5, 20
"""Steps that are not timed, because the first ones compile, capture and grow memory; and the fewest of a proxy."""

VALIDATION_TOKENS = 1024
"""Per domain: enough to compare losses of proxies that train the same blocks."""

RIVAL_PROXIES = 3
"""Proxies that each process of a rival trains one after the other, where all cores work."""

GPU_STEPS, GPU_WARM_STEPS = 60, 10

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class GpuCase:
    """What is measured on a GPU.

    Attributes:
        preset: Configuration.
        stacks: Proxies per stack.
        batch_size: Blocks in a step, where the preset's batch would not fit without gradient accumulation.
    """

    preset: str
    stacks: tuple[int, ...]
    batch_size: int | None = None


GPU_CASES = (GpuCase("tiny-4k", (8, 32, 128)), GpuCase("regmix-1m", (1,), batch_size=16))


class Watcher:
    """Follows a benchmark. All methods may be left as they are."""

    def on_start(self, benchmark: SwarmBenchmark, measurements: int) -> None:
        """So many measurements will be made."""

    def on_measure(self, section: str, method: str) -> None:
        """A measurement begins."""

    def on_measured(self) -> None:
        """It has ended."""


def benchmark_swarm(config: RunConfig, store: TokenStore, settings: Settings, watcher: Watcher) -> SwarmBenchmark:
    """Measure.

    Args:
        config: Shape and training of the proxies on the CPU; the natural mixture of its domains is trained.
        store: Its tokens.
        settings: What to measure.
        watcher: Is told what happens.

    Raises:
        ConfigError: If a proxy has too few steps to be timed, or is not the built-in decoder.
        ProxyError: If the swarm itself cannot be measured.
    """
    gpu = _gpu()
    sections = (*cpu_sections(config, store, settings), *(gpu_section(case, "cuda:0" if gpu else None) for case in GPU_CASES))
    found = SwarmBenchmark(settings, sections, machine_facts(gpu))
    runs = [(s, m) for s in sections if not s.unmeasured for m in s.methods if not m.skipped]
    watcher.on_start(found, len(runs) * settings.repeats)
    with tempfile.TemporaryDirectory(prefix="regmix-active-swarm-") as temporary:
        _note_peaks(found, Path(temporary), watcher)
        for repeat in range(settings.repeats):
            shift = repeat * len(runs) // settings.repeats
            for section, method in runs[shift:] + runs[:shift]:
                watcher.on_measure(section.title, method.name)
                if (section.title, method.name) not in found.failures:
                    load = load_average()
                    outcomes = _execute(method, repeat, Path(temporary))
                    if errors := [o.error for o in outcomes if o.error]:
                        # One that waited in vain for the others has nothing to tell.
                        found.failures[section.title, method.name] = min(errors, key=lambda error: NO_START in error)
                    else:
                        found.measurements.append(Measurement(section.title, method.name, repeat, load, tuple(outcomes)))
                watcher.on_measured()
        _note_peaks(found, Path(temporary), watcher)
    found.machine["load_average_after"] = load_average()
    for section in (s for s in sections if not s.unmeasured and "GPU" not in s.title):
        if found.best(section) is None:
            raise ProxyError(f"the swarm could not be measured: {next(iter(found.failures.values()))}")
    return found


def cpu_sections(config: RunConfig, store: TokenStore, settings: Settings) -> list[Section]:
    """What is measured on the CPU.

    Raises:
        ConfigError: If a proxy has too few steps to be timed, or is not the built-in decoder.
    """
    if config.proxy.hf is not None:
        raise ConfigError("proxy.hf: the swarm stacks the built-in decoder only; benchmark a configuration without it")
    proxy = config.proxy.model_copy(
        update={
            "tokens": settings.tokens,
            "validation_tokens": min(config.proxy.validation_tokens, VALIDATION_TOKENS),
            "curve": 0,
            "trunk_tokens": 0,
        }
    )
    if (steps := total_steps(proxy)) < FEWEST_STEPS:
        least = FEWEST_STEPS * proxy.batch_size * proxy.context
        raise ConfigError(f"--tokens {settings.tokens}: {steps} steps are too few to be timed; give at least {least}")
    weights = np.where(mixed_domains(store.domains, config.score_only), store.natural_shares, 0.0)
    swarm = Task(
        method="swarm",
        proxy=proxy,
        vocab_size=store.vocab_size,
        store=store.path.resolve(),
        weights=tuple((weights / weights.sum()).tolist()),
        warm_steps=WARM_STEPS,
        threads=1,
    )
    plain, compiled, hf = (swarm.model_copy(update={"method": method}) for method in ("plain", "compiled", "hf"))
    no_hf = None if find_spec("transformers") else "transformers is not installed (pip install regmix-active[hf])"
    cost = token_cost(proxy, store.vocab_size)
    sections = []
    if settings.mode != "all-cores":
        methods = [Method(f"swarm, stack of {k}", swarm, stack=k) for k in settings.stacks]
        methods += [
            Method("plain loop", plain),
            Method("compiled loop", compiled, skipped=no_compiler()),
            Method("HF loop", hf, skipped=no_hf),
        ]
        sections.append(Section("one thread", "tokens per CPU-second", tuple(methods), cost, steps))
    if settings.mode != "one-thread":
        n = settings.processes
        methods = [Method(f"swarm, {n} x stack of {k}", swarm, stack=k, processes=n) for k in sorted(settings.stacks)[-2:]]
        all_threads = hf.model_copy(update={"threads": None})
        methods += [
            Method(f"plain loops, {n} processes", plain, processes=n, proxies=RIVAL_PROXIES),
            Method(f"HF loops, {n} processes", hf, processes=n, proxies=RIVAL_PROXIES, skipped=no_hf),
            Method("HF loop, torch's threads", all_threads, skipped=no_hf),
        ]
        sections.append(Section("all cores", "tokens per second", tuple(methods), cost, steps))
    return sections


def gpu_section(case: GpuCase, device: str | None) -> Section:
    """What is measured on a GPU, or would be if there were one.

    Args:
        case: Which preset and stacks.
        device: A torch device; None where there is no GPU.
    """
    title, unit = f"{case.preset} on a GPU", "tokens per second"
    names = [f"swarm, stack of {k}" for k in case.stacks]
    single = [] if 1 in case.stacks else ["one model, CUDA graph"]
    if device is None:
        methods = tuple(Method(name, None) for name in [*names, *single, "HF loop"])
        return Section(title, unit, methods, unmeasured="unmeasured (no GPU)")
    config = load_config(case.preset).config
    proxy, vocab_size = config.proxy, config.corpus.tokenizer.vocab_size
    batch = case.batch_size or proxy.batch_size
    tokens = GPU_STEPS * batch * proxy.context
    # Speed does not depend on the text, so the ids are random; there is nothing to validate.
    proxy = proxy.model_copy(
        update={"batch_size": batch, "tokens": tokens, "validation_tokens": proxy.context, "curve": 0, "trunk_tokens": 0}
    )
    graph = Task(
        method="swarm",
        proxy=proxy,
        vocab_size=vocab_size,
        warm_steps=GPU_WARM_STEPS,
        threads=1,
        device=device,
        mode="cuda-graph",
        mixed_precision="bf16",
    )
    hf = graph.model_copy(update={"method": "hf", "mode": "eager"})
    methods = (
        *(Method(name, graph, stack=k) for name, k in zip(names, case.stacks, strict=True)),
        *(Method(name, graph) for name in single),
        Method("HF loop", hf, skipped=None if find_spec("transformers") else "transformers is not installed"),
    )
    return Section(title, unit, methods, token_cost(proxy, vocab_size, product_bytes=2), GPU_STEPS)


def no_compiler() -> str | None:
    """Why ``torch.compile`` cannot work here, or None."""
    if any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        return None
    return "no C++ compiler (install g++, or name one in CXX)"


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _note_peaks(found: SwarmBenchmark, temporary: Path, watcher: Watcher) -> None:
    """Measure what the devices can do; the most counts, because other processes can only lower it."""
    for section in (s for s in found.sections if not s.unmeasured):
        watcher.on_measure(section.title, "the device's peak")
        task = section.methods[0].task
        assert task is not None
        threads = found.settings.processes if section.title == "all cores" else 1
        (outcome,) = _execute(Method("peak", task.model_copy(update={"method": "peak", "threads": threads})), 0, temporary)
        if outcome.error is None:
            before = found.peaks.get(section.title, DevicePeak(0, 0, threads))
            flops, copied = max(before.flops, outcome.peak_flops), max(before.bytes, outcome.peak_copy_bytes)
            found.peaks[section.title] = DevicePeak(flops, copied, outcome.peak_threads)


def _execute(method: Method, repeat: int, temporary: Path) -> list[Outcome]:
    """Run a method in fresh processes; leaving by an exception ends them."""
    assert method.task is not None
    folder = Path(tempfile.mkdtemp(dir=temporary))
    files = [folder / f"{process}.task" for process in range(method.processes)]
    launched = time.monotonic()
    for process, file in enumerate(files):
        seeds = method.seeds(repeat, process)
        task = method.task.model_copy(update={"stacks": seeds, "parties": method.processes, "launched": launched})
        file.write_text(task.model_dump_json(), encoding="utf-8")
    if method.task.method == "swarm":
        endings = _as_workers(files, method.task.device)
    else:
        endings = _as_processes(files, method.task.threads, temporary / "inductor")
    outcomes = []
    for file, ending in zip(files, endings, strict=True):
        try:
            outcomes.append(Outcome.model_validate_json(outcome_file(file).read_text(encoding="utf-8")))
        except OSError:
            outcomes.append(Outcome(error=ending or "its process ended without a result"))
    return outcomes


def _as_workers(files: list[Path], device: str) -> list[str | None]:
    """Our own executor, one worker per file. Returns how each ended."""
    ended: dict[Path, str | None] = {}
    with LocalExecutor(run_file, [device] * len(files)) as executor:
        for file in files:
            executor.submit(file)
        while len(ended) < len(files):
            ended.update(executor.poll())
    return [ended[file] for file in files]


def _as_processes(files: list[Path], threads: int | None, cache: Path) -> list[str | None]:
    """Ordinary processes, one per file. Returns how each ended."""
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    environment |= dict.fromkeys(THREADS, str(threads)) if threads else {}
    # Compiled kernels are kept for this benchmark only, so that its first repeat shows what compiling takes.
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-m", "regmix_active.compare.swarm_child"]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for file in files:
            with file.with_suffix(".errors").open("wb") as errors:
                processes.append(
                    subprocess.Popen(
                        [*command, str(file)], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
                    )
                )
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [_last_line(file, code) for file, code in zip(files, codes, strict=True)]


def _last_line(file: Path, code: int) -> str | None:
    if code == 0:
        return None
    lines = file.with_suffix(".errors").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"its process ended with code {code}{': ' + lines[-1] if lines else ''}"
