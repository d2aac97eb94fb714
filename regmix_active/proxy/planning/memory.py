"""How much memory a stack takes in training, before it is tried."""

from __future__ import annotations

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.model.functions import LOGITS_BYTES, SHORT_CONTEXT
from regmix_active.proxy.model.stacked import PASS_TOKENS, matrix_shapes
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training.feed import READ_AHEAD_BYTES, READ_AHEAD_STEPS

FLOAT = 4


def parameters(config: ProxyConfig, vocab_size: int) -> int:
    """Parameters of one proxy, embeddings included."""
    return sum(rows * columns for rows, columns in matrix_shapes(config, vocab_size)) + (2 * config.layers + 1) * config.width


def forecast(config: ProxyConfig, vocab_size: int, stack: int, plan: TrainingPlan, kind: str) -> int:
    """Peak memory of a stack in training, bytes, without what torch itself takes.

    Parameters, their gradients (once as sums over tokens, once as the optimiser takes them) and AdamW's two moments are held in
    float32 for all proxies. What the backward pass needs exists for one pass only: on a CPU a few proxies, on a GPU all of them.

    Args:
        config: Shape and training.
        vocab_size: Number of token ids.
        stack: Proxies at once.
        plan: How they train.
        kind: ``cpu`` or ``cuda``.
    """
    blocks = plan.micro_batch or config.batch_size
    tokens = blocks * config.context
    passes = 1 if kind == "cuda" else -(-stack * tokens // PASS_TOKENS)
    together = -(-stack // min(passes, stack))
    copies = 5 + (blocks < config.batch_size)
    fixed = copies * stack * parameters(config, vocab_size)

    head_size = config.width // config.heads
    read, shared = config.width, (config.kv_heads or config.heads) * head_size
    # Queries and keys as they are and turned, values; probabilities, or what a kernel keeps instead of them.
    attended = 2 * (read + shared) + shared + (config.heads * config.context if config.context <= SHORT_CONTEXT else 2 * read)
    layer = 5 * config.width + attended + read + 4 * config.ffn
    passing = max(3 * config.ffn, 4 * config.width + 2 * (attended - 2 * (read + shared)))
    kept = together * tokens * (config.layers * layer + 5 * config.width + passing)
    logits = min(LOGITS_BYTES[kind] // FLOAT, together * tokens * vocab_size)
    # The head's gradient before it is copied to its place; on a GPU, that of the embedding as well.
    head = logits + (1 + (kind == "cuda")) * together * vocab_size * config.width
    if plan.mixed_precision == "bf16":
        # Weights and what passes between products once more, in half the bytes.
        fixed += together * parameters(config, vocab_size) // 2
        head += logits
    step_ids = stack * config.batch_size * (config.context + 1) * 8
    ids = 2 * step_ids * max(1, min(READ_AHEAD_STEPS, READ_AHEAD_BYTES // step_ids))
    return FLOAT * (fixed + kept + head) + ids
