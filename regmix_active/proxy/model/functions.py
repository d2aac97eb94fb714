"""What a stacked decoder computes, forward and backward, written out.

Nothing here uses autograd. A step of a tiny decoder is a hundred small operations, and the order of a hand-written backward pass
saves a good part of the memory that autograd would walk through: a gradient is added where it belongs while it is at hand, and
what only the gradient needs is kept by the one function that knows it. Every ``f`` has its ``f_backward``, which takes the gradient
of the result and what ``f`` kept.

No function mixes the entries of the leading axis. Products run in the type of the weights they are given (float32, or bfloat16
under mixed precision); norms, softmax and everything that is added up stay in float32.

Tensor names end in their axes, as in :mod:`regmix_active.proxy.model.stacked`; besides, M counts blocks of all proxies (K x B).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-5

SHORT_CONTEXT = 128
"""Up to so many tokens the attention's probabilities are kept: fewer and faster operations than a kernel that never holds them."""

LOGITS_BYTES = {"cpu": 2**21, "cuda": 2**28}
"""Logits per pass of the output head, in bytes: what stays in the cache of a CPU core, and what a GPU does not miss."""


# Products


def add_product(x_KNC: Tensor, inputs_KNc: Tensor, matrix_KcC: Tensor) -> None:
    """Add a product to x, which stays in float32 whatever the product's type."""
    if x_KNC.dtype == matrix_KcC.dtype:
        x_KNC.baddbmm_(inputs_KNc, matrix_KcC)
    else:
        x_KNC += torch.bmm(inputs_KNc, matrix_KcC)


def product_backward(grad_KNo: Tensor, inputs_KNi: Tensor, matrix_Kio: Tensor, gradient_Kio: Tensor) -> Tensor:
    """Write the gradient of a product's matrix, and return that of its inputs."""
    gradient_Kio.copy_(torch.bmm(inputs_KNi.transpose(1, 2), grad_KNo))
    return torch.bmm(grad_KNo, matrix_Kio.transpose(1, 2))


# Embedding


def add_rows_in_order(table_KVC: Tensor, tokens_KN: Tensor, grad_KNC: Tensor) -> None:
    """Add to each token's row, always in the same order: the gradient of looking it up."""
    K, V, C = table_KVC.shape
    rows_KN = tokens_KN + torch.arange(0, K * V, V, device=tokens_KN.device).unsqueeze(1)
    table_KVC += torch.ops.aten.embedding_dense_backward(grad_KNC.flatten(0, 1), rows_KN.flatten(), K * V, -1, False).view(K, V, C)


# Norm


class NormTape(NamedTuple):
    """What the gradient of :func:`rms_norm` needs."""

    normed_KNC: Tensor
    inverse_KN1: Tensor


def rms_norm(x_KNC: Tensor, gain_K1C: Tensor) -> tuple[Tensor, NormTape]:
    """Return the rows of x at a root mean square of 1, times each proxy's own gain."""
    norm_KN1 = torch.linalg.vector_norm(x_KNC, dim=-1, keepdim=True)
    inverse_KN1 = norm_KN1.square_().mul_(1 / x_KNC.shape[-1]).add_(NORM_EPS).rsqrt_()
    normed_KNC = x_KNC * inverse_KN1
    return normed_KNC * gain_K1C, NormTape(normed_KNC, inverse_KN1)


def rms_norm_backward(
    grad_KNC: Tensor, gain_K1C: Tensor, tape: NormTape, grad_gain_K1C: Tensor, skipped_KNC: Tensor | None = None
) -> Tensor:
    """Write the gradient of the gain, and return that of x, plus ``skipped_KNC``: what reached x past the norm."""
    normed_KNC, inverse_KN1 = tape
    product_KNC = grad_KNC * normed_KNC
    torch.sum(product_KNC, 1, keepdim=True, out=grad_gain_K1C)
    # A factor costs nothing where a product can take it along; beta = 0 ignores the first argument.
    mean_KN1 = torch.baddbmm(inverse_KN1, product_KNC, gain_K1C.transpose(1, 2), beta=0, alpha=-1 / gain_K1C.shape[-1])
    inner_KNC = torch.mul(grad_KNC, gain_K1C, out=product_KNC).addcmul_(normed_KNC, mean_KN1)
    return inner_KNC.mul_(inverse_KN1) if skipped_KNC is None else skipped_KNC.addcmul_(inner_KNC, inverse_KN1)


# Feed-forward


class SwiGluTape(NamedTuple):
    """What the gradient of :func:`swiglu` needs."""

    gate_up_KNf: Tensor
    opened_KNF: Tensor


def swiglu(gate_up_KNf: Tensor) -> tuple[Tensor, SwiGluTape]:
    """Return silu(gate) x up."""
    gate_KNF, up_KNF = gate_up_KNf.chunk(2, -1)
    opened_KNF = F.silu(gate_KNF)
    return opened_KNF * up_KNF, SwiGluTape(gate_up_KNf, opened_KNF)


def swiglu_backward(grad_KNF: Tensor, tape: SwiGluTape) -> Tensor:
    """Return the gradient of gate and up as one tensor, ready for the product that made both."""
    gate_KNF, up_KNF = tape.gate_up_KNf.chunk(2, -1)
    grad_KNf = torch.empty_like(tape.gate_up_KNf)
    grad_gate_KNF, grad_up_KNF = grad_KNf.chunk(2, -1)
    torch.mul(grad_KNF, tape.opened_KNF, out=grad_up_KNF)
    torch.ops.aten.silu_backward.grad_input(grad_KNF.mul_(up_KNF), gate_KNF, grad_input=grad_gate_KNF)
    return grad_KNf


# Attention


def rotary_table(context: int, head_size: int, base: float) -> Tensor:
    """Return the cosines and sines that turn channel pairs, ``(context, head_size / 2, 2)``, float32."""
    frequencies = base ** -(torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.outer(torch.arange(context, dtype=torch.float64), frequencies)
    return torch.stack([angles.cos(), angles.sin()], -1).float()


def rotate(x: Tensor, rotary_Td2: Tensor) -> Tensor:
    """Turn neighbouring channels of ``(..., T, D)``, which must be viewable as pairs, by their position's angles."""
    pairs = x.view(*x.shape[:-1], -1, 2)
    if x.dtype == rotary_Td2.dtype and not torch.compiler.is_compiling():
        # Complex numbers do it in one pass over memory, but compilers do not know them.
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary_Td2)).view(x.shape)
    (a, b), (cos, sin) = pairs.unbind(-1), rotary_Td2.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


class AttentionTape(NamedTuple):
    """What the gradient of :func:`attention` needs: heads outermost, keys and values repeated for the heads that share them."""

    q_hTD: Tensor
    k_hTD: Tensor
    v_hTD: Tensor
    read: Tensor
    """Probabilities (h, T, T) of a short context; of a long one, what was read, with its own graph."""


def attention(
    qkv_KNc: Tensor, heads: int, kv_heads: int, rotary_Td2: Tensor, mask_TT: Tensor, train: bool
) -> tuple[Tensor, AttentionTape]:
    """Causal attention with rotary positions within each block.

    Args:
        qkv_KNc: Queries, keys and values side by side, ``(K, N, (heads + 2 x kv_heads) x D)``.
        heads: Heads of queries.
        kv_heads: Heads of keys and values; each serves as many neighbouring heads of queries.
        rotary_Td2: Rotary table times ``D**-0.25``, which scales queries and keys in passing.
        mask_TT: Zero, and minus infinity above the diagonal.
        train: Whether :func:`attention_backward` follows.

    Returns:
        What the heads read, side by side, ``(K, N, heads x D)``.
    """
    T, D = len(rotary_Td2), 2 * rotary_Td2.shape[1]
    # With the heads outermost, queries, keys and values are each contiguous, and every product one batch of plain matrices.
    apart_hMTD = qkv_KNc.view(-1, T, heads + 2 * kv_heads, D).permute(2, 0, 1, 3).contiguous()
    turned_hMTD = rotate(apart_hMTD[: heads + kv_heads], rotary_Td2)
    k_hMTD, v_hMTD = turned_hMTD[heads:], apart_hMTD[heads + kv_heads :]
    if kv_heads < heads:
        k_hMTD, v_hMTD = (shared.repeat_interleave(heads // kv_heads, 0) for shared in (k_hMTD, v_hMTD))
    q_hTD, k_hTD, v_hTD = turned_hMTD[:heads].view(-1, T, D), k_hMTD.view(-1, T, D), v_hMTD.view(-1, T, D)
    if T <= SHORT_CONTEXT:
        scores_hTT = torch.baddbmm(mask_TT, q_hTD, k_hTD.transpose(1, 2))
        kept = torch.softmax(scores_hTT, -1)
        read_hTD = torch.bmm(kept, v_hTD)
    else:
        with torch.set_grad_enabled(train):
            q_hTD, k_hTD, v_hTD = (t.detach().requires_grad_(train) for t in (q_hTD, k_hTD, v_hTD))
            # Kernels bound the number of heads, and that of batches, to 65,535 each.
            q_hMTD, k_hMTD, v_hMTD = (t.view(heads, -1, T, D) for t in (q_hTD, k_hTD, v_hTD))
            kept = F.scaled_dot_product_attention(q_hMTD, k_hMTD, v_hMTD, is_causal=True, scale=1.0)
        read_hTD = kept.detach().reshape(-1, T, D)
    read_KNC = read_hTD.view(heads, -1, T, D).permute(1, 2, 0, 3).reshape(*qkv_KNc.shape[:2], heads * D)
    return read_KNC, AttentionTape(q_hTD, k_hTD, v_hTD, kept)


def attention_backward(grad_KNC: Tensor, heads: int, kv_heads: int, unrotary_Td2: Tensor, tape: AttentionTape) -> Tensor:
    """Return the gradient of queries, keys and values, side by side; ``unrotary_Td2`` turns the other way."""
    q_hTD, k_hTD, v_hTD, kept = tape
    n_heads, T, D = q_hTD.shape
    grad_hTD = grad_KNC.view(-1, T, heads, D).permute(2, 0, 1, 3).reshape(q_hTD.shape)
    grad_qk_hTD = grad_KNC.new_empty(2 * n_heads, T, D)
    if T <= SHORT_CONTEXT:
        grad_v_hTD = torch.bmm(kept.transpose(1, 2), grad_hTD)
        grad_hTT = torch.bmm(grad_hTD, v_hTD.transpose(1, 2))
        grad_hTT = torch.ops.aten._softmax_backward_data(grad_hTT, kept, -1, grad_hTT.dtype)
        torch.bmm(grad_hTT, k_hTD, out=grad_qk_hTD[:n_heads])
        torch.bmm(grad_hTT.transpose(1, 2), q_hTD, out=grad_qk_hTD[n_heads:])
    else:
        grad_q_hTD, grad_k_hTD, grad_v_hTD = torch.autograd.grad(kept, (q_hTD, k_hTD, v_hTD), grad_hTD.view(kept.shape))
        torch.cat([grad_q_hTD, grad_k_hTD], out=grad_qk_hTD)
    turned_hMTD = rotate(grad_qk_hTD, unrotary_Td2).view(2 * heads, -1, T, D)
    grad_MThD = grad_KNC.new_empty(turned_hMTD.shape[1], T, heads + 2 * kv_heads, D)
    grad_hMTD = grad_MThD.permute(2, 0, 1, 3)
    if kv_heads == heads:
        grad_hMTD[: 2 * heads].copy_(turned_hMTD)
        grad_hMTD[2 * heads :].copy_(grad_v_hTD.view(heads, -1, T, D))
    else:
        grad_hMTD[:heads].copy_(turned_hMTD[:heads])
        shared = (kv_heads, heads // kv_heads, *turned_hMTD.shape[1:])
        grad_hMTD[heads : heads + kv_heads].copy_(turned_hMTD[heads:].view(shared).sum(1))
        grad_hMTD[heads + kv_heads :].copy_(grad_v_hTD.view(shared).sum(1))
    return grad_MThD.view(*grad_KNC.shape[:2], -1)


# Output head


def cross_entropy(hidden_KNC: Tensor, head_KCV: Tensor, targets_KN: Tensor, grad_head_KCV: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output head and cross-entropy in one, with their gradients while the logits are at hand.

    The logits are by far the largest tensor of a step. Here they never exist for more than a few proxies or tokens at a time, and
    they turn into probabilities and then into their own gradient in place.

    Args:
        hidden_KNC: What the head reads, of the head's type.
        head_KCV: The head; any strides.
        targets_KN: The ids to predict.
        grad_head_KCV: Where to write the gradient of the summed losses by the head, float32; None: no gradients.

    Returns:
        Losses ``(K, N)``, float32, and the gradient of their sum by ``hidden_KNC`` (without meaning if none was asked for).
    """
    (K, N), V = targets_KN.shape, head_KCV.shape[2]
    train, dtype = grad_head_KCV is not None, hidden_KNC.dtype
    n_logits = LOGITS_BYTES["cuda" if hidden_KNC.is_cuda else "cpu"] // 4
    k_pass, n_pass = max(1, min(K, n_logits // (N * V))), max(1, min(N, n_logits // V))
    buffer = hidden_KNC.new_empty(k_pass * n_pass * V)
    targets_KN1, losses_KN1 = targets_KN.unsqueeze(2), torch.empty(K, N, 1, device=hidden_KNC.device)
    minus_ones_kn1 = losses_KN1.new_full((1, 1, 1), -1.0).expand(k_pass, n_pass, 1)
    grad_hidden_KNC = torch.empty_like(hidden_KNC) if train else hidden_KNC
    for k in range(0, K, k_pass):
        head_kCV = head_KCV[k : k + k_pass]
        head_kVC = head_kCV.transpose(1, 2)
        grad_head_kCV = losses_KN1.new_empty(head_kCV.shape) if train else head_kCV
        tokenwise = [t[k : k + k_pass].split(n_pass, 1) for t in (hidden_KNC, grad_hidden_KNC, targets_KN1, losses_KN1)]
        for n, (hidden_knC, grad_hidden_knC, targets_kn1, losses_kn1) in enumerate(zip(*tokenwise, strict=True)):
            k_here, n_here, _ = targets_kn1.shape
            scores_knV = torch.bmm(hidden_knC, head_kCV, out=buffer[: k_here * n_here * V].view(k_here, n_here, V))
            if dtype == torch.float32:
                torch.softmax(scores_knV, -1, out=scores_knV)
            else:
                scores_knV = torch.softmax(scores_knV, -1, dtype=torch.float32)
            losses_kn1.copy_(scores_knV.gather(2, targets_kn1))
            if not train:
                continue
            # d loss / d logits = probabilities - one-hot target
            scores_knV.scatter_add_(2, targets_kn1, minus_ones_kn1[:k_here, :n_here])
            grad_knV = scores_knV.to(dtype)
            torch.bmm(grad_knV, head_kVC, out=grad_hidden_knC)
            # In this orientation, and not in that of a tied embedding, the product runs at full speed on CPU.
            if dtype == torch.float32:
                grad_head_kCV.baddbmm_(hidden_knC.transpose(1, 2), grad_knV, beta=int(n > 0))
            else:
                part_kCV = torch.bmm(hidden_knC.transpose(1, 2), grad_knV)
                grad_head_kCV = grad_head_kCV.add_(part_kCV) if n else part_kCV.float()
        if grad_head_KCV is not None:
            _copy_matrices(grad_head_KCV[k : k + k_pass], grad_head_kCV)
    # A probability that underflows would cost infinitely many nats; this bound (87 nats) keeps NaN for what is NaN.
    return losses_KN1.squeeze(2).clamp_min_(torch.finfo(torch.float32).tiny).log_().neg_(), grad_hidden_KNC


def _copy_matrices(target_KCV: Tensor, source_KCV: Tensor) -> None:
    if target_KCV.is_cuda or target_KCV.is_contiguous():
        target_KCV.copy_(source_KCV)
    else:  # on CPU, transposing is quick for single matrices only
        for target_CV, source_CV in zip(target_KCV, source_KCV, strict=True):
            target_CV.copy_(source_CV)
