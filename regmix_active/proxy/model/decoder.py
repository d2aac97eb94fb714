"""One decoder as an ordinary module: what a stack of one is, in the form that Accelerate, DDP, FSDP and ``torch.compile`` take.

It has the parameters of one row of a :class:`~regmix_active.proxy.model.stacked.StackedDecoder`, drawn from the same seed, and
computes the same losses. Proxies too large for one device train in this form; at proxy size it is the plain loop that a stack is
compared with.

Tensor names end in their axes, as in :mod:`regmix_active.proxy.model.stacked`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.model.functions import NORM_EPS, rotary_table, rotate
from regmix_active.proxy.model.stacked import initial_matrices, matrix_shapes


class Attention(nn.Module):
    """Causal attention with rotary positions; neighbouring heads may share keys and values."""

    def __init__(self, config: ProxyConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        keys = self.kv_heads * (config.width // config.heads)
        self.qkv = nn.Linear(config.width, config.width + 2 * keys, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTC: Tensor, rotary_Td2: Tensor) -> Tensor:
        """Return ``(B, T, C)``."""
        B, T, C = x_BTC.shape
        qkv_BHTD = self.qkv(x_BTC).view(B, T, self.heads + 2 * self.kv_heads, C // self.heads).transpose(1, 2)
        q, k, v = qkv_BHTD.split([self.heads, self.kv_heads, self.kv_heads], 1)
        if self.kv_heads < self.heads:  # repeated, because not every kernel knows groups
            k, v = (shared.repeat_interleave(self.heads // self.kv_heads, 1) for shared in (k, v))
        attended = F.scaled_dot_product_attention(rotate(q, rotary_Td2), rotate(k, rotary_Td2), v, is_causal=True)
        out: Tensor = self.out(attended.transpose(1, 2).reshape(B, T, C))
        return out


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ProxyConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return ``(B, T, C)``."""
        gate, up = self.gate_up(x_BTC).chunk(2, -1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class Layer(nn.Module):
    """One decoder layer: what FSDP wraps as a unit."""

    def __init__(self, config: ProxyConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.ffn = FeedForward(config)

    def forward(self, x_BTC: Tensor, rotary_Td2: Tensor) -> Tensor:
        """Return ``(B, T, C)``."""
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC), rotary_Td2)
        out: Tensor = x_BTC + self.ffn(self.ffn_norm(x_BTC))
        return out


class Decoder(nn.Module):
    """A Llama-style decoder.

    Args:
        config: Shape.
        vocab_size: Number of token ids.
        init_seed: Seed of the initial weights.
    """

    rotary_Td2: Tensor

    def __init__(self, config: ProxyConfig, vocab_size: int, init_seed: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.head = None if config.tied_embeddings else nn.Linear(config.width, vocab_size, bias=False)
        table_Td2 = rotary_table(config.context, config.width // config.heads, config.rotary_base)
        self.register_buffer("rotary_Td2", table_Td2, persistent=False)
        self._load(config, vocab_size, init_seed)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits, ``(B, T, V)``.

        Args:
            tokens_BT: Token ids, int64; T is at most the context.
        """
        x_BTC = self.embedding(tokens_BT)
        for layer in self.layers:
            x_BTC = layer(x_BTC, self.rotary_Td2[: tokens_BT.shape[1]])
        return F.linear(self.norm(x_BTC), self.embedding.weight if self.head is None else self.head.weight)

    def _load(self, config: ProxyConfig, vocab_size: int, seed: int) -> None:
        shapes = matrix_shapes(config, vocab_size)
        matrices = torch.split(initial_matrices(config, shapes, seed), [rows * columns for rows, columns in shapes])
        owners: Sequence[nn.Module] = [m for m in self.modules() if isinstance(m, nn.Embedding | nn.Linear)]
        with torch.no_grad():
            for index, (owner, flat, shape) in enumerate(zip(owners, matrices, shapes, strict=True)):
                weight = flat.view(shape)
                # A linear layer keeps its matrix as (outputs, inputs), a stack as (inputs, outputs).
                owner.weight.copy_(weight if index == 0 else weight.T)  # type: ignore[operator]
