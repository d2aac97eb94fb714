"""The forecast of memory against what processes really took."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

MEASURE = textwrap.dedent(
    """
    import sys
    import numpy as np, psutil, torch
    from regmix_active.config.schema import ProxyConfig
    from regmix_active.proxy.base import ProxyRequest
    from regmix_active.proxy.planning.memory import forecast
    from regmix_active.proxy.planning.plan import TrainingPlan
    from regmix_active.proxy.training.stack import StackTraining

    class Source:
        domains, vocab_size = ("a", "b"), 2000
        tokens = np.random.default_rng(0).integers(2000, size=20_000).astype(np.uint16)
        def train(self, index): return self.tokens
        def validation(self, index): return self.tokens

    def peak():
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        return int(status["VmHWM"].split()[0]) * 1024

    def train(stack, plan, **shape):
        config = ProxyConfig(tokens=3 * shape["batch_size"] * shape["context"], **shape)
        requests = [ProxyRequest(slot, np.array([0.5, 0.5]), slot, slot) for slot in range(stack)]
        StackTraining(Source(), config, requests, "cpu", plan).advance(3)
        return config

    torch.set_num_threads(1)
    train(2, TrainingPlan(), width=16, batch_size=2, context=16)  # what the first step loads
    before = psutil.Process().memory_info().rss
    stack, micro = int(sys.argv[1]), int(sys.argv[2]) or None
    shape = dict(zip(("layers", "width", "heads", "ffn", "batch_size", "context"), map(int, sys.argv[3:])))
    config = train(stack, TrainingPlan(micro_batch=micro), **shape)
    print(forecast(config, 2000, stack, TrainingPlan(micro_batch=micro), "cpu") / (peak() - before))
    """
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("stack", "micro", "shape"),
    [
        (8, 0, (2, 256, 8, 512, 4, 512)),  # most of it in parameters, a long context
        (4, 0, (6, 128, 4, 384, 32, 128)),  # most of it in activations, a short one
        (1, 2, (8, 256, 8, 1024, 8, 256)),  # micro-batches
    ],
)
def test_the_forecast_is_within_15_percent(stack: int, micro: int, shape: tuple[int, ...]) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", MEASURE, str(stack), str(micro), *map(str, shape)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert 0.85 < float(done.stdout) < 1.15
