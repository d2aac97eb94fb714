"""The loss of every block, as a module around any model that gives logits: what DDP and FSDP wrap.

The logits of a large vocabulary are by far the largest tensor of a step. Cross-entropy by the book holds them four times: as they
are, in float32, as log-probabilities and as gradients. Here they turn into their gradients chunk by chunk while they are at hand.

Tensor names end in their axes, as in :mod:`regmix_active.proxy.model.stacked`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from regmix_active.proxy.planning.plan import Precision

CHUNK = 2**22
"""Logits that are float32 at once: 16 MiB."""


class BlockLosses(nn.Module):
    """Scores blocks with a model; its own forward pass holds no state besides the model's.

    Args:
        model: From token ids ``(B, T)`` to logits ``(B, T, V)``.
        mixed_precision: ``bf16`` computes the model's products in bfloat16, the loss in float32.
    """

    def __init__(self, model: nn.Module, mixed_precision: Precision) -> None:
        super().__init__()
        self.model, self.mixed_precision = model, mixed_precision
        # Where Accelerate looks for the layers that FSDP shards one by one, unless the user's file names others.
        self._no_split_modules = list(getattr(model, "_no_split_modules", None) or ())

    def forward(self, blocks_BL: Tensor) -> Tensor:
        """Return each block's mean cross-entropy, ``(B,)``, nats per token; L is T + 1."""
        tokens_BT, targets_BT = blocks_BL[:, :-1], blocks_BL[:, 1:]
        with torch.autocast(blocks_BL.device.type, torch.bfloat16, enabled=self.mixed_precision == "bf16"):
            logits_BTV = self.model(tokens_BT)
        losses_N = _apply(_CrossEntropy, logits_BTV.flatten(0, 1), targets_BT.flatten())
        return losses_N.view(targets_BT.shape).mean(1)


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy per token whose gradient is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        train = ctx.needs_input_grad[0]
        grad_NV = torch.empty_like(logits_NV) if train else logits_NV
        losses = []
        for first in range(0, len(targets_N), rows := max(1, CHUNK // logits_NV.shape[1])):
            part = slice(first, first + rows)
            scores_nV, targets_n1 = torch.log_softmax(logits_NV[part].float(), -1), targets_N[part].unsqueeze(1)
            losses.append(-scores_nV.gather(1, targets_n1).squeeze(1))
            if train:
                # d loss / d logits = probabilities - one-hot target.
                scores_nV.exp_().scatter_add_(1, targets_n1, scores_nV.new_full((1, 1), -1.0).expand(len(targets_n1), 1))
                grad_NV[part] = scores_nV
        if train:
            ctx.save_for_backward(grad_NV)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grad_NV,) = ctx.saved_tensors
        # In place: nobody differentiates twice.
        return grad_NV.mul_(gradients[0].unsqueeze(1)), None


def _apply(function: type[torch.autograd.Function], *inputs: Tensor) -> Tensor:
    return cast(Tensor, function.apply(*inputs))
