"""K decoders as one: every parameter carries a leading axis over proxies, every product is batched over it.

A Llama-style decoder (RMSNorm [1]_, rotary positions [2]_, SwiGLU [3]_, causal attention) whose input and output embeddings are
tied: at proxy size the embedding is a third of the parameters, and tied stacks match separate trainings more closely.

The proxies never interact: no operation mixes entries of the leading axis, so the gradient of the sum of their losses is each
proxy's own gradient, and a proxy that diverges spoils nobody else.

Tensor names end in their axes:

====  ==========================================
K     proxies in the stack
B     blocks in a batch
T     tokens in a block (context)
N     B x T
C     model width
H     attention heads, of size D = C / H
F     hidden size of the feed-forward layer
V     vocabulary
P     parameters of one proxy
====  ==========================================

References:
.. [1] Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
.. [2] Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021. Pairs are neighbouring channels.
.. [3] Shazeer, "GLU Variants Improve Transformer", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from regmix_active.config.schema import ProxyConfig

ROTARY_BASE = 10_000.0
NORM_EPS = 1e-5

CACHED_LOGITS = 2**18
"""Logits that fit into the cache of a CPU core, beside all else: 1 MiB."""


class StackedDecoder:
    """K decoders of one shape, with all their parameters in two flat buffers.

    Two leaves keep the optimiser to one call, and a row of them is one proxy, so clipping is a row norm. The matrices are apart
    from the norm gains because only matrices decay.

    Args:
        config: Shape of one proxy.
        vocab_size: Number of token ids.
        init_seeds: One seed per proxy; its initial weights depend on nothing else, least of all on its place in the stack.
        device: Where the parameters live; they are drawn on the CPU, so that every device starts from the same weights.

    Attributes:
        matrices_KP: All matrices, the embedding first.
        gains_KP: All norm gains, ``(K, (2 x layers + 1) x width)``.
    """

    def __init__(self, config: ProxyConfig, vocab_size: int, init_seeds: Sequence[int], device: str = "cpu") -> None:
        self.config = config
        self.vocab_size = vocab_size
        shapes = _matrix_shapes(config, vocab_size)
        self.matrices_KP = torch.stack([_initial_matrices(config, shapes, seed) for seed in init_seeds]).to(device)
        self.gains_KP = torch.ones(len(init_seeds), (2 * config.layers + 1) * config.width, device=device)
        self._leaves: list[Tensor] = []
        self._gradients: list[Tensor] = []
        for flat_KP, cuts in ((self.matrices_KP, shapes), (self.gains_KP, [(1, config.width)] * (2 * config.layers + 1))):
            gradient_KP = torch.zeros_like(flat_KP)
            flat_KP.grad = gradient_KP
            self._leaves += [view.requires_grad_() for view in _cut(flat_KP, cuts)]
            self._gradients += _cut(gradient_KP, cuts)
        self._rotary_T1d = _rotary_table(config.context, config.width // config.heads).to(device)
        self._first_row_K11 = torch.arange(len(init_seeds), device=device).view(-1, 1, 1) * vocab_size

    @property
    def parameters_per_proxy(self) -> int:
        """Number of parameters of one proxy."""
        return self.matrices_KP.shape[1] + self.gains_KP.shape[1]

    def logits(self, tokens_KBT: Tensor) -> Tensor:
        """Score the next token at every position.

        Args:
            tokens_KBT: Token ids, int64, each proxy's own; T is at most the context.

        Returns:
            ``(K, B, T, V)`` logits.
        """
        embedding_KVC, hidden_KNC = self._decode(tokens_KBT)
        return torch.bmm(hidden_KNC, embedding_KVC.transpose(1, 2)).view(*tokens_KBT.shape, self.vocab_size)

    def losses(self, tokens_KBT: Tensor, targets_KBT: Tensor) -> Tensor:
        """Return each proxy's mean cross-entropy.

        Args:
            tokens_KBT: Token ids, int64.
            targets_KBT: The ids that follow them, int64.

        Returns:
            ``(K,)`` losses, nats per token.
        """
        embedding_KVC, hidden_KNC = self._decode(tokens_KBT)
        return _apply(_TiedCrossEntropy, hidden_KNC, embedding_KVC, targets_KBT.flatten(1))

    def backward(self, losses_K: Tensor) -> None:
        """Write the gradient of every proxy's own loss into ``matrices_KP.grad`` and ``gains_KP.grad``.

        Args:
            losses_K: What :meth:`losses` returned. Their sum is differentiated, so no gradient knows how many others there are.
        """
        # Differentiating the cutting of the flat buffers as well would concatenate all gradients anew at every step.
        torch._foreach_copy_(self._gradients, torch.autograd.grad(losses_K.sum(), self._leaves))

    def _decode(self, tokens_KBT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding ``(K, V, C)`` and the normed last hidden states ``(K, N, C)``."""
        K, B, T = tokens_KBT.shape
        C, heads = self.config.width, self.config.heads
        embedding_KVC, *layers = self._leaves[: 1 + 4 * self.config.layers]
        gains_K1C = self._leaves[1 + 4 * self.config.layers :]
        rotary_T1d = self._rotary_T1d[:T]

        rows_KBT = tokens_KBT + self._first_row_K11
        x_KNC = F.embedding(rows_KBT.flatten(1), embedding_KVC.reshape(-1, C))
        for layer in range(self.config.layers):
            qkv_KCc, out_KCC, gate_up_KCf, down_KFC = layers[4 * layer : 4 * layer + 4]

            normed_KNC = _apply(_RmsNorm, x_KNC, gains_K1C[2 * layer])
            qkv = torch.bmm(normed_KNC, qkv_KCc).view(K * B, T, 3 * heads, C // heads)
            qk, v = torch.split(qkv, [2 * heads, heads], 2)
            q, k = torch.split(_rotate(qk, rotary_T1d), heads, 2)
            attended = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
            x_KNC = torch.baddbmm(x_KNC, attended.transpose(1, 2).reshape(K, B * T, C), out_KCC)

            normed_KNC = _apply(_RmsNorm, x_KNC, gains_K1C[2 * layer + 1])
            x_KNC = torch.baddbmm(x_KNC, _apply(_SwiGlu, torch.bmm(normed_KNC, gate_up_KCf)), down_KFC)
        return embedding_KVC, _apply(_RmsNorm, x_KNC, gains_K1C[-1])


class _RmsNorm(torch.autograd.Function):
    """RMSNorm with each proxy's own gain: half the passes over memory of the same formula left to autograd."""

    @staticmethod
    def forward(ctx: Any, x_KNC: Tensor, gain_K1C: Tensor) -> Tensor:
        inverse_KN1 = x_KNC.square().mean(-1, keepdim=True).add_(NORM_EPS).rsqrt_()
        normed_KNC = x_KNC * inverse_KN1
        ctx.save_for_backward(normed_KNC, inverse_KN1, gain_K1C)
        return normed_KNC * gain_K1C

    @staticmethod
    def backward(ctx: Any, grad_KNC: Tensor) -> tuple[Tensor, Tensor]:
        normed_KNC, inverse_KN1, gain_K1C = ctx.saved_tensors
        product_KNC = grad_KNC * normed_KNC
        grad_gain_K1C = product_KNC.sum(1, keepdim=True)
        mean_KN1 = torch.bmm(product_KNC, gain_K1C.transpose(1, 2)).div_(-gain_K1C.shape[-1])
        grad_x_KNC = (grad_KNC * gain_K1C).addcmul_(normed_KNC, mean_KN1).mul_(inverse_KN1)
        return grad_x_KNC, grad_gain_K1C


class _SwiGlu(torch.autograd.Function):
    """silu(gate) x up, whose gradient is written as one tensor for both halves of the product that made them."""

    @staticmethod
    def forward(ctx: Any, gate_up_KNf: Tensor) -> Tensor:
        gate_KNF, up_KNF = gate_up_KNf.chunk(2, -1)
        opened_KNF = F.silu(gate_KNF)
        ctx.save_for_backward(gate_up_KNf, opened_KNF)
        return opened_KNF * up_KNF

    @staticmethod
    def backward(ctx: Any, grad_KNF: Tensor) -> Tensor:
        gate_up_KNf, opened_KNF = ctx.saved_tensors
        gate_KNF, up_KNF = gate_up_KNf.chunk(2, -1)
        grad_KNf = torch.empty_like(gate_up_KNf)
        grad_gate_KNF, grad_up_KNF = grad_KNf.chunk(2, -1)
        torch.mul(grad_KNF, opened_KNF, out=grad_up_KNF)
        torch.ops.aten.silu_backward.grad_input(grad_KNF * up_KNF, gate_KNF, grad_input=grad_gate_KNF)
        return grad_KNf


class _TiedCrossEntropy(torch.autograd.Function):
    """Output head and cross-entropy in one, with their gradients computed in the forward pass while the logits are at hand.

    The logits are by far the largest tensor of a step. Here they never exist for more than a few proxies at a time, and they
    turn into probabilities and then into their own gradient in place; the usual chain holds three tensors of all their sizes.
    """

    @staticmethod
    def forward(ctx: Any, hidden_KNC: Tensor, embedding_KVC: Tensor, targets_KN: Tensor) -> Tensor:
        K, N = targets_KN.shape
        V = embedding_KVC.shape[1]
        # On a CPU a pass should stay in the cache of its core; a GPU wants everything at once.
        n_pass = K if hidden_KNC.is_cuda else min(K, max(1, CACHED_LOGITS // (N * V)))
        logits_kNV, minus_one = hidden_KNC.new_empty(n_pass, N, V), hidden_KNC.new_full((1, 1, 1), -1.0).expand(n_pass, N, 1)
        losses_KN = hidden_KNC.new_empty(K, N)
        train = any(ctx.needs_input_grad)
        grad_hidden_KNC = torch.empty_like(hidden_KNC) if train else hidden_KNC
        grad_embedding_KVC = torch.empty_like(embedding_KVC, memory_format=torch.contiguous_format) if train else embedding_KVC
        for first in range(0, K, n_pass):
            part = slice(first, first + n_pass)
            hidden, embedding, targets = hidden_KNC[part], embedding_KVC[part], targets_KN[part].unsqueeze(-1)
            scores = logits_kNV[: len(hidden)]
            torch.bmm(hidden, embedding.transpose(1, 2), out=scores)
            torch.softmax(scores, -1, out=scores)
            losses_KN[part] = scores.gather(-1, targets).squeeze(-1)
            if train:
                # d loss / d logits = probabilities - one-hot target; the division by N follows in backward.
                scores.scatter_add_(-1, targets, minus_one[: len(hidden)])
                torch.bmm(scores, embedding, out=grad_hidden_KNC[part])
                torch.bmm(scores.transpose(1, 2), hidden, out=grad_embedding_KVC[part])
        if train:
            ctx.save_for_backward(grad_hidden_KNC, grad_embedding_KVC)
            ctx.n_tokens = N
        # A probability that underflows would cost infinitely many nats; this bound (87 nats) keeps NaN for what is NaN.
        return losses_KN.clamp_min_(torch.finfo(losses_KN.dtype).tiny).log_().neg_().mean(1)

    @staticmethod
    def backward(ctx: Any, grad_K: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden_KNC, grad_embedding_KVC = ctx.saved_tensors
        scale_K11 = (grad_K / ctx.n_tokens).view(-1, 1, 1)
        return grad_hidden_KNC * scale_K11, grad_embedding_KVC * scale_K11, None


def _apply(function: type[torch.autograd.Function], *inputs: Tensor) -> Tensor:
    return cast(Tensor, function.apply(*inputs))


def _cut(flat_KP: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return views ``(K, *shape)`` of a flat buffer, in order."""
    sizes = [math.prod(shape) for shape in shapes]
    return [flat.view(-1, *shape) for flat, shape in zip(torch.split(flat_KP, sizes, 1), shapes, strict=True)]


def _matrix_shapes(config: ProxyConfig, vocab_size: int) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of every matrix: the embedding, then per layer q|k|v, attention output, gate|up, down."""
    width, ffn = config.width, config.ffn
    return [(vocab_size, width), *([(width, 3 * width), (width, width), (width, 2 * ffn), (ffn, width)] * config.layers)]


def _initial_matrices(config: ProxyConfig, shapes: Sequence[tuple[int, int]], seed: int) -> Tensor:
    """Draw one proxy's matrices, ``(P,)``: normal, with the variance of 1 / inputs, residual outputs shrunk by depth."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for index, (rows, columns) in enumerate(shapes):
        std = config.embedding_std if index == 0 else rows**-0.5
        if index > 0 and index % 2 == 0:  # attention output and down projection write into the residual stream
            std /= math.sqrt(2 * config.layers)
        drawn.append(torch.randn(rows * columns, generator=generator) * std)
    return torch.cat(drawn)


def _rotary_table(context: int, head_size: int) -> Tensor:
    """Return the unit complex numbers that turn channel pairs, ``(context, 1, head_size / 2)``."""
    frequencies = ROTARY_BASE ** -(torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.outer(torch.arange(context, dtype=torch.float64), frequencies)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64).unsqueeze(1)


def _rotate(x: Tensor, rotary_T1d: Tensor) -> Tensor:
    """Turn neighbouring channels of ``(batch, T, heads, D)`` by their position's angles."""
    pairs = torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotary_T1d).flatten(-2)
