"""How a proxy trains on a device: chosen by the planner, recorded in its job. It changes a loss's last digits, not its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["eager", "compile", "cuda-graph"]
Precision = Literal["no", "bf16"]


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of one job.

    Attributes:
        micro_batch: Blocks of one proxy per forward pass; None: the whole batch. Divides the batch.
        mode: How steps run.
        mixed_precision: ``bf16``: products in bfloat16, parameters, gradients and optimiser state in float32.
        data_parallel: All ranks of the launch train each proxy together.
    """

    micro_batch: int | None = None
    mode: Mode = "eager"
    mixed_precision: Precision = "no"
    data_parallel: bool = False


DEFAULT_PLAN = TrainingPlan()
"""The whole batch at once, eagerly, in float32."""
