"""The roofline of proxy training: what a token costs at least, what a device can do at most, and so how fast training can be.

Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures", 2009.

Only matrix products and attention are counted. The work on single elements (norms, SwiGLU, rotary positions, softmax, arithmetic of
the optimiser) is taken to be free, its memory traffic to be fused into the products beside it, and nothing to stay in a cache from
one product to the next. So the floor on compute is one that nothing gets below; the floor on memory traffic is one of unfused
products, and a kernel that keeps logits in a cache may beat it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from regmix_active.config.schema import ProxyConfig

PASSES = 3
"""Products per forward product in training: itself, the gradient of its input, and that of its weight."""

OPTIMISER_ELEMENTS = 8
"""Reads and writes per parameter and step: clipping reads the gradient, AdamW reads four tensors and writes three."""

OPTIMISER_BYTES = 4
"""Parameters, gradients and moments are float32 on every device."""


@dataclass(frozen=True)
class TokenCost:
    """What one training token of a proxy costs, forward, backward and its share of the optimiser's step.

    Attributes:
        flops: Floating-point operations; a multiplication and an addition count as two.
        head_flops: Those of the output head among them.
        bytes: Traffic to and from memory.
        parameters: Parameters of one proxy.
    """

    flops: float
    head_flops: float
    bytes: float
    parameters: int


@dataclass(frozen=True)
class DevicePeak:
    """What a device was measured to reach.

    Attributes:
        flops: Floating-point operations per second of a large matrix product (float32 on CPU, bfloat16 on GPU).
        bytes: Bytes per second of a large copy, read and written bytes both counted.
        threads: CPU threads it was measured with.
    """

    flops: float
    bytes: float
    threads: int


def token_cost(config: ProxyConfig, vocab_size: int, product_bytes: int = 4) -> TokenCost:
    """Count what a training token costs.

    A product from ``i`` to ``o`` channels costs ``2 x i x o`` operations per token forward and three times that in training. Causal
    attention meets ``(context + 1) / 2`` positions on average, twice: for scores and for values. As to traffic, each of the three
    products reads two of (input, output, weight) and writes the third.

    Args:
        config: Shape, context and batch size.
        vocab_size: Number of token ids.
        product_bytes: Bytes of a number that enters a product: 4 for float32, 2 for bfloat16.
    """
    width, ffn, vocab = config.width, config.ffn, vocab_size
    keys = width * (config.kv_heads or config.heads) // config.heads
    layer = [(width, width + 2 * keys), (width, width), (width, 2 * ffn), (ffn, width)]
    head = (width, vocab)
    products = [*layer * config.layers, head]
    weights = sum(i * o for i, o in products)
    embedding = 0 if config.tied_embeddings else vocab * width
    parameters = weights + embedding + (2 * config.layers + 1) * width
    met = (config.context + 1) / 2
    attention_flops = config.layers * 2 * 2 * width * met
    attention_elements = config.layers * (2 * width + 2 * keys)  # queries, outputs; keys, values

    step_tokens = config.batch_size * config.context
    elements = sum(i + o for i, o in products) + attention_elements
    traffic = PASSES * (elements + weights / step_tokens) * product_bytes
    traffic += OPTIMISER_ELEMENTS * parameters / step_tokens * OPTIMISER_BYTES
    return TokenCost(
        flops=PASSES * (2 * weights + attention_flops), head_flops=PASSES * 2 * width * vocab, bytes=traffic, parameters=parameters
    )


def floor_seconds(cost: TokenCost, peak: DevicePeak) -> float:
    """Seconds per token below which training cannot be, by compute or by memory traffic, whichever is slower."""
    return max(cost.flops / peak.flops, cost.bytes / peak.bytes)


def measure_peak(device: str = "cpu", threads: int | None = None, seconds: float = 0.4) -> DevicePeak:
    """Measure a device with one large matrix product and one large copy; the fastest of many tries counts.

    Args:
        device: A torch device.
        threads: Threads of torch for the measurement; None leaves them as they are.
        seconds: Time for each of the two.
    """
    import torch

    gpu = device.startswith("cuda")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        # The product is short enough to be done between two turns of other processes; the copy is beyond every cache.
        size, length = (8192, 2**28) if gpu else (768, 2**25)
        numbers = torch.ones(size, size, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
        product = torch.empty_like(numbers)
        source = torch.ones(length, device=device)
        target = torch.empty_like(source)
        # One thread is measured by what the processor gave it, as training on one thread is.
        clock = time.process_time if not gpu and torch.get_num_threads() == 1 else time.perf_counter
        wait = torch.cuda.synchronize if gpu else None
        product_seconds = _fastest(lambda: torch.mm(numbers, numbers, out=product), clock, wait, seconds)
        copy_seconds = _fastest(lambda: target.copy_(source), clock, wait, seconds)
        return DevicePeak(2 * size**3 / product_seconds, 2 * 4 * length / copy_seconds, torch.get_num_threads())
    finally:
        torch.set_num_threads(before)


def _fastest(work: Callable[[], object], clock: Callable[[], float], wait: Callable[[], object] | None, seconds: float) -> float:
    """Seconds of the fastest call by a clock, after two to warm up."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 4 or time.perf_counter() - began < seconds:
        start = clock()
        work()
        if wait is not None:
            wait()
        times.append(clock() - start)
    return min(times[2:])
