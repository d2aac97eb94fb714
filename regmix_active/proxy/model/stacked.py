"""K decoders as one: every parameter carries a leading axis over proxies, every product is batched over it.

A Llama-style decoder (RMSNorm [1]_, rotary positions [2]_, SwiGLU [3]_, causal attention, with grouped queries if asked for). Input
and output embeddings are tied by default: at proxy size the embedding is a third of the parameters, and tied stacks match separate
trainings more closely.

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
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.model.functions import (
    NORM_EPS,
    AttentionTape,
    NormTape,
    SwiGluTape,
    add_product,
    add_rows_in_order,
    attention,
    attention_backward,
    cross_entropy,
    product_backward,
    rms_norm,
    rms_norm_backward,
    rotary_table,
    swiglu,
    swiglu_backward,
)

__all__ = ["NORM_EPS", "StackedDecoder", "initial_matrices", "matrix_shapes"]

PASS_TOKENS = 4096
"""Tokens of all proxies together in one pass through the layers on CPU: more leave the cache, fewer pay for many calls."""


class StackedDecoder:
    """K decoders of one shape, with all their parameters in two flat buffers.

    Two buffers keep the optimiser to one call, and a row of them is one proxy, so clipping is a row norm. The matrices are apart
    from the norm gains because only matrices decay.

    Gradients are computed along with the losses, a few proxies at a time, so that the activations of a few proxies are all that
    ever exists; :meth:`backward` scales and delivers them.

    Args:
        config: Shape of one proxy.
        vocab_size: Number of token ids.
        init_seeds: One seed per proxy; its initial weights depend on nothing else, least of all on its place in the stack.
        device: Where the parameters live; they are drawn on the CPU, so that every device starts from the same weights.

    Attributes:
        matrices_KP: All matrices, the embedding first.
        gains_KP: All norm gains, ``(K, (2 x layers + 1) x width)``.
        mixed_precision: `bf16`: products run in bfloat16; parameters, gradients, norms and losses stay in float32.
    """

    def __init__(self, config: ProxyConfig, vocab_size: int, init_seeds: Sequence[int], device: str = "cpu") -> None:
        self.config = config
        self.vocab_size = vocab_size
        self.mixed_precision = "no"
        self._shapes = matrix_shapes(config, vocab_size)
        self.matrices_KP = torch.stack([initial_matrices(config, self._shapes, seed) for seed in init_seeds]).to(device)
        self.gains_KP = torch.ones(len(init_seeds), (2 * config.layers + 1) * config.width, device=device)
        self.matrices_KP.grad, self.gains_KP.grad = torch.zeros_like(self.matrices_KP), torch.zeros_like(self.gains_KP)
        # Every matrix has the width on one side, so the flat buffer is a table of rows that begins each proxy with its embedding.
        self._first_row_K11 = torch.arange(len(init_seeds), device=device).view(-1, 1, 1) * (
            self.matrices_KP.shape[1] // config.width
        )
        # Naming the parts takes as long as some products of a small stack, so it is done once for all rows.
        self._named = self._cut(self.matrices_KP, self.gains_KP)
        self._named_sums: _Weights | None = None
        # What losses() leaves for backward(): gradients of sums over tokens, how many tokens, and the handle on each loss.
        self._sums_KP: tuple[Tensor, Tensor] | None = None
        self._tokens = 0
        self._handle_K = torch.empty(0)
        self._kv_heads = config.kv_heads or config.heads
        head_size = config.width // config.heads
        # Queries and keys both carry the root of the softmax's scale.
        self._rotary_Td2 = (rotary_table(config.context, head_size, config.rotary_base) * head_size**-0.25).to(device)
        self._unrotary_Td2 = self._rotary_Td2 * torch.tensor([1.0, -1.0], device=device)
        self._mask_TT = torch.full((config.context, config.context), -math.inf, device=device).triu_(1)

    @property
    def parameters_per_proxy(self) -> int:
        """Number of parameters of one proxy."""
        return self.matrices_KP.shape[1] + self.gains_KP.shape[1]

    def logits(self, tokens_KBT: Tensor) -> Tensor:
        """Score the next token at every position, without gradients.

        Args:
            tokens_KBT: Token ids, int64, each proxy's own; T is at most the context.

        Returns:
            ``(K, B, T, V)`` logits, all at once.
        """
        with torch.no_grad(), torch.autocast(tokens_KBT.device.type, enabled=False):
            weights = self._weights(0, len(tokens_KBT))
            hidden_KNC, _ = self._forward(weights, self._rows(tokens_KBT), tokens_KBT.shape[2], train=False)
            return torch.bmm(hidden_KNC, weights.head_KCV).view(*tokens_KBT.shape, self.vocab_size)

    def losses(self, tokens_KBT: Tensor, targets_KBT: Tensor) -> Tensor:
        """Return each proxy's mean cross-entropy, and have its gradient ready for :meth:`backward` if gradients are enabled.

        Args:
            tokens_KBT: Token ids, int64.
            targets_KBT: The ids that follow them, int64.

        Returns:
            ``(K,)`` losses, nats per token.
        """
        if not torch.is_grad_enabled():
            return self.block_losses(tokens_KBT, targets_KBT).mean(1)
        losses_K = self._solve(tokens_KBT, targets_KBT, train=True).mean(1)
        self._tokens = tokens_KBT[0].numel()
        # Adding zero gives each loss a handle: by its gradient, backward() knows what the caller made of the losses.
        self._handle_K = torch.zeros_like(losses_K, requires_grad=True)
        return losses_K + self._handle_K

    def block_losses(self, tokens_KBT: Tensor, targets_KBT: Tensor) -> Tensor:
        """Return the mean cross-entropy of each block, without gradients.

        Args:
            tokens_KBT: Token ids, int64.
            targets_KBT: The ids that follow them, int64.

        Returns:
            ``(K, B)`` losses, nats per token.
        """
        return self._solve(tokens_KBT, targets_KBT, train=False).view(tokens_KBT.shape).mean(2)

    def backward(self, losses_K: Tensor) -> None:
        """Write the gradient of every proxy's own loss into ``matrices_KP.grad`` and ``gains_KP.grad``.

        Args:
            losses_K: What the last call of :meth:`losses` returned, or some of it. Its sum is differentiated, so no gradient knows
                how many others there are.

        Raises:
            RuntimeError: The losses are not those of the last call.
        """
        (share_K,) = torch.autograd.grad(losses_K.sum(), self._handle_K)
        share_K1 = (share_K / self._tokens).unsqueeze(1)
        assert self._sums_KP is not None
        for flat_KP, sums_KP in zip((self.matrices_KP, self.gains_KP), self._sums_KP, strict=True):
            torch.mul(sums_KP, share_K1, out=cast(Tensor, flat_KP.grad))

    @torch.no_grad()
    def _solve(self, tokens_KBT: Tensor, targets_KBT: Tensor, train: bool) -> Tensor:
        """Return the loss of every token, ``(K, N)``; with ``train``, leave the gradients of each proxy's sum of them."""
        if torch.is_autocast_enabled(tokens_KBT.device.type):  # types are chosen here, operation by operation
            with torch.autocast(tokens_KBT.device.type, enabled=False):
                return self._solve(tokens_KBT, targets_KBT, train)
        K, B, T = tokens_KBT.shape
        if train and self._sums_KP is None:
            self._sums_KP = (torch.empty_like(self.matrices_KP), torch.empty_like(self.gains_KP))
            self._named_sums = self._cut(*self._sums_KP)
        rows_KN, targets_KN = self._rows(tokens_KBT), targets_KBT.flatten(1)
        n_passes = 1 if tokens_KBT.is_cuda else -(-K * B * T // PASS_TOKENS)
        k_pass = -(-K // n_passes)
        # A method of its own, so that what one pass keeps for its gradients is gone before the next begins.
        losses_KN = [
            self._pass(rows_KN, targets_KN, T, slice(first, min(K, first + k_pass)), train) for first in range(0, K, k_pass)
        ]
        return losses_KN[0] if len(losses_KN) == 1 else torch.cat(losses_KN)

    def _pass(self, rows_KN: Tensor, targets_KN: Tensor, context: int, part: slice, train: bool) -> Tensor:
        """:meth:`_solve` for some of the proxies."""
        weights, rows_kN = self._weights(part.start, part.stop), rows_KN[part]
        hidden_kNC, tapes = self._forward(weights, rows_kN, context, train)
        sums = None
        if train and self._sums_KP is not None:
            whole = self._named_sums if len(rows_kN) == len(rows_KN) else None
            sums = whole or self._cut(*(sums_KP[part] for sums_KP in self._sums_KP))
        losses_kN, grad_kNC = cross_entropy(hidden_kNC, weights.head_KCV, targets_KN[part], sums.head_KCV if sums else None)
        if sums:
            self._backward(grad_kNC, weights, tapes, sums, rows_kN)
        return losses_kN

    def _rows(self, tokens_KBT: Tensor) -> Tensor:
        """Return the rows of the tokens' embeddings in the flat buffer, ``(K, N)``."""
        return (tokens_KBT + self._first_row_K11).flatten(1)

    def _forward(self, weights: _Weights, rows_KN: Tensor, context: int, train: bool) -> tuple[Tensor, list[Any]]:
        """Return the normed last hidden states ``(K, N, C)``, and what :meth:`_backward` needs."""
        width, heads, kv_heads, dtype = self.config.width, self.config.heads, self._kv_heads, weights.head_KCV.dtype
        rotary_Td2, mask_TT = self._rotary_Td2[:context], self._mask_TT[:context, :context].to(dtype)
        x_KNC = self.matrices_KP.view(-1, width).index_select(0, rows_KN.flatten()).view(*rows_KN.shape, width)
        tapes: list[Any] = []
        for layer in weights.layers:
            normed_KNC, norm = rms_norm(x_KNC, layer.attention_gain_K1C)
            normed_KNC = normed_KNC.to(dtype)
            read_KNC, attended = attention(torch.bmm(normed_KNC, layer.qkv_KCc), heads, kv_heads, rotary_Td2, mask_TT, train)
            add_product(x_KNC, read_KNC, layer.out_KCC)

            ffn_normed_KNC, ffn_norm = rms_norm(x_KNC, layer.ffn_gain_K1C)
            ffn_normed_KNC = ffn_normed_KNC.to(dtype)
            opened_KNF, gated = swiglu(torch.bmm(ffn_normed_KNC, layer.gate_up_KCf))
            add_product(x_KNC, opened_KNF, layer.down_KFC)
            if train:
                tapes.append(_LayerTape(norm, normed_KNC, attended, read_KNC, ffn_norm, ffn_normed_KNC, gated, opened_KNF))
        hidden_KNC, norm = rms_norm(x_KNC, weights.gain_K1C)
        return hidden_KNC.to(dtype), [*tapes, norm]

    def _backward(self, grad_KNC: Tensor, weights: _Weights, tapes: list[Any], sums: _Weights, rows_KN: Tensor) -> None:
        """Write the gradients of all weights; that of the head is there already."""
        heads, kv_heads, dtype = self.config.heads, self._kv_heads, weights.head_KCV.dtype
        grad_x_KNC = rms_norm_backward(grad_KNC, weights.gain_K1C, tapes[-1], sums.gain_K1C)
        for layer, gradient, tape in zip(reversed(weights.layers), reversed(sums.layers), reversed(tapes[:-1]), strict=True):
            grad = product_backward(grad_x_KNC.to(dtype), tape.opened_KNF, layer.down_KFC, gradient.down_KFC)
            grad = swiglu_backward(grad, tape.gated)
            grad = product_backward(grad, tape.ffn_normed_KNC, layer.gate_up_KCf, gradient.gate_up_KCf)
            grad_x_KNC = rms_norm_backward(grad, layer.ffn_gain_K1C, tape.ffn_norm, gradient.ffn_gain_K1C, grad_x_KNC)

            grad = product_backward(grad_x_KNC.to(dtype), tape.read_KNC, layer.out_KCC, gradient.out_KCC)
            grad = attention_backward(grad, heads, kv_heads, self._unrotary_Td2[: tape.attended.q_hTD.shape[1]], tape.attended)
            grad = product_backward(grad, tape.normed_KNC, layer.qkv_KCc, gradient.qkv_KCc)
            grad_x_KNC = rms_norm_backward(grad, layer.attention_gain_K1C, tape.norm, gradient.attention_gain_K1C, grad_x_KNC)
        if not self.config.tied_embeddings:
            sums.embedding_KVC.zero_()
        if grad_x_KNC.is_cuda:  # where index_add_ adds in any order
            add_rows_in_order(sums.embedding_KVC, rows_KN - self._first_row_K11.flatten(1), grad_x_KNC)
            return
        assert self._sums_KP is not None
        self._sums_KP[0].view(-1, self.config.width).index_add_(0, rows_KN.flatten(), grad_x_KNC.flatten(0, 1))

    def _weights(self, first: int, last: int) -> _Weights:
        """Return the weights of some proxies, in the type of products."""
        matrices_KP, gains_KP = self.matrices_KP[first:last], self.gains_KP[first:last]
        if self.mixed_precision == "bf16":
            return self._cut(matrices_KP.bfloat16(), gains_KP)
        return self._named if len(matrices_KP) == len(self.matrices_KP) else self._cut(matrices_KP, gains_KP)

    def _cut(self, matrices_KP: Tensor, gains_KP: Tensor) -> _Weights:
        """Name the parts of matrices and gains, as views."""
        sizes = [rows * columns for rows, columns in self._shapes]
        matrices = [m.view(-1, *shape) for m, shape in zip(matrices_KP.split(sizes, 1), self._shapes, strict=True)]
        gains = gains_KP.view(len(gains_KP), -1, 1, self.config.width).unbind(1)
        layers = []
        for n in range(self.config.layers):
            qkv_KCc, out_KCC, gate_up_KCf, down_KFC = matrices[4 * n + 1 : 4 * n + 5]
            layers.append(_Layer(gains[2 * n], qkv_KCc, out_KCC, gains[2 * n + 1], gate_up_KCf, down_KFC))
        head_KCV = matrices[0].transpose(1, 2) if self.config.tied_embeddings else matrices[-1]
        return _Weights(matrices[0], layers, gains[-1], head_KCV)


class _Layer(NamedTuple):
    """The weights of a layer, or their gradients."""

    attention_gain_K1C: Tensor
    qkv_KCc: Tensor
    out_KCC: Tensor
    ffn_gain_K1C: Tensor
    gate_up_KCf: Tensor
    down_KFC: Tensor


class _Weights(NamedTuple):
    """The weights of some proxies, or their gradients."""

    embedding_KVC: Tensor
    layers: list[_Layer]
    gain_K1C: Tensor
    head_KCV: Tensor


class _LayerTape(NamedTuple):
    """What a layer's gradient needs."""

    norm: NormTape
    normed_KNC: Tensor
    attended: AttentionTape
    read_KNC: Tensor
    ffn_norm: NormTape
    ffn_normed_KNC: Tensor
    gated: SwiGluTape
    opened_KNF: Tensor


def matrix_shapes(config: ProxyConfig, vocab_size: int) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of every matrix: the embedding, per layer q|k|v, attention output, gate|up and down, an own head."""
    width, ffn = config.width, config.ffn
    qkv = width + 2 * (config.kv_heads or config.heads) * (width // config.heads)
    layer = [(width, qkv), (width, width), (width, 2 * ffn), (ffn, width)]
    return [(vocab_size, width), *(layer * config.layers), *([] if config.tied_embeddings else [(width, vocab_size)])]


def initial_matrices(config: ProxyConfig, shapes: Sequence[tuple[int, int]], seed: int) -> Tensor:
    """Draw one proxy's matrices, ``(P,)``: normal, with the variance of 1 / inputs, residual outputs shrunk by depth."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for index, (rows, columns) in enumerate(shapes):
        std = config.embedding_std if index == 0 else rows**-0.5
        if index > 0 and index % 2 == 0:  # attention output and down projection write into the residual stream
            std /= math.sqrt(2 * config.layers)
        drawn.append(torch.randn(rows * columns, generator=generator) * std)
    return torch.cat(drawn)
