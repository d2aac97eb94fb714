"""Training loops to measure side by side: the stacked swarm, and what one would write without it.

All train the same proxy: the same initial weights, the same blocks, the same schedule of the learning rate, the same clipping and
weight decay, so that their losses end equal but for rounding. Each rival is written as its users write it, at its best: nothing is
read back from the device during training, AdamW is fused, and nothing is logged.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ProxyError
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.blocks import BlockPlan, TokenSource, plan_blocks
from regmix_active.proxy.model.decoder import Decoder
from regmix_active.proxy.model.functions import NORM_EPS
from regmix_active.proxy.model.stacked import initial_matrices, matrix_shapes
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training.evaluate import validation_blocks
from regmix_active.proxy.training.optimizer import learning_rate, total_steps
from regmix_active.proxy.training.stack import StackTraining


class Loop(Protocol):
    """A training that can be paused, so that its first steps need not be timed."""

    def advance(self, last: int) -> None:
        """Train up to optimiser step `last` (exclusive, counted from 0)."""
        ...

    def score(self) -> list[float]:
        """Mean validation loss over all domains, nats per token, one per proxy."""
        ...


class RandomTokens:
    """One domain of random ids, in memory: a :class:`TokenSource` for measurements of speed, which does not depend on the text."""

    domains = ("random",)

    def __init__(self, vocab_size: int, tokens: int) -> None:
        self.vocab_size = vocab_size
        self._tokens = np.random.default_rng(0).integers(vocab_size, size=tokens, dtype=np.int32)

    def train(self, domain: int) -> NDArray[np.int32]:
        """All of them."""
        return self._tokens

    def validation(self, domain: int) -> NDArray[np.int32]:
        """The same, for there is nothing to learn."""
        return self._tokens

    def validation_bytes_per_token(self, domain: int) -> float:
        """There is no text."""
        return 1.0


class SwarmLoop:
    """Ours: K proxies as one stack, as a search trains them.

    Args:
        source: The tokens.
        config: Shape and training.
        requests: The proxies of the stack.
        device: A torch device.
        plan: How steps run.
    """

    def __init__(
        self, source: TokenSource, config: ProxyConfig, requests: Sequence[ProxyRequest], device: str, plan: TrainingPlan
    ) -> None:
        self._training = StackTraining(source, config, requests, device, plan)

    def advance(self, last: int) -> None:
        """See :meth:`Loop.advance`."""
        self._training.advance(last)

    def score(self) -> list[float]:
        """See :meth:`Loop.score`."""
        try:
            losses: list[float] = self._training.score().mean(axis=1).tolist()
            return losses
        finally:
            self._training.close()


class _SingleLoop(ABC):
    """What loops over one model share: how it is scored."""

    def __init__(self, source: TokenSource, config: ProxyConfig, device: str, plan: TrainingPlan) -> None:
        self._source, self._config, self._device = source, config, device
        self._precise = plan.mixed_precision == "no"
        self._step = 0

    def score(self) -> list[float]:
        """See :meth:`Loop.score`."""
        return [_validation_loss(self._loss, self._source, self._config, self._device, self._precise)]

    @abstractmethod
    def _loss(self, tokens_BT: Tensor) -> Tensor:
        """Mean cross-entropy of blocks ``(B, context + 1)``."""


class PlainLoop(_SingleLoop):
    """One model in idiomatic PyTorch: a module, ``cross_entropy``, ``clip_grad_norm_`` and a fused AdamW.

    Args:
        source: The tokens.
        config: Shape and training.
        request: The proxy.
        device: A torch device.
        plan: Its precision is used.
        compiled: Put forward pass and loss through ``torch.compile``.
    """

    def __init__(
        self,
        source: TokenSource,
        config: ProxyConfig,
        request: ProxyRequest,
        device: str,
        plan: TrainingPlan,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__(source, config, device, plan)
        self._n_steps = total_steps(config)
        self._blocks = _plan(source, config, request)
        self._model = Decoder(config, source.vocab_size, request.init_seed).to(device)
        self._optimizer = _adamw(self._model, config)
        self._training_loss: Callable[[Tensor], Tensor] = torch.compile(self._loss, dynamic=False) if compiled else self._loss

    def advance(self, last: int) -> None:
        """See :meth:`Loop.advance`."""
        batch = self._config.batch_size
        for step in range(self._step, last):
            tokens_BT = torch.from_numpy(self._blocks.gather(self._source, step * batch, (step + 1) * batch)).to(self._device)
            with _autocast(self._device, self._precise):
                loss = self._training_loss(tokens_BT)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip)
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(self._config, step, self._n_steps)
            self._optimizer.step()
            self._optimizer.zero_grad()
        self._step = last

    def _loss(self, tokens_BT: Tensor) -> Tensor:
        logits_BTV = self._model(tokens_BT[:, :-1])
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), tokens_BT[:, 1:].flatten())


class HfLoop(_SingleLoop):
    """``LlamaForCausalLM`` of `transformers` in the loop of its ``Trainer``, without that one's logging and callbacks.

    The model computes its own loss from ``labels``; blocks come from a ``DataLoader`` by way of a collator; the learning rate comes
    from a ``LambdaLR``; AdamW is fused, the default of ``Trainer``.

    Args:
        source: The tokens.
        config: Shape and training.
        request: The proxy; its initial weights are those of :class:`Decoder`.
        device: A torch device.
        plan: Its precision is used.

    Raises:
        ProxyError: If `transformers` is not installed.
    """

    def __init__(self, source: TokenSource, config: ProxyConfig, request: ProxyRequest, device: str, plan: TrainingPlan) -> None:
        super().__init__(source, config, device, plan)
        self._model = llama(config, source.vocab_size, request.init_seed).to(device)
        self._optimizer = _adamw(self._model, config)
        n_steps = total_steps(config)
        self._scheduler = LambdaLR(
            self._optimizer, lambda step: learning_rate(config, min(step, n_steps - 1), n_steps) / config.learning_rate
        )
        blocks = _plan(source, config, request)
        loader: DataLoader[int] = DataLoader(
            range(n_steps * config.batch_size),  # type: ignore[arg-type]
            batch_size=config.batch_size,
            collate_fn=lambda rows: _labelled(torch.from_numpy(blocks.gather(source, rows[0], rows[-1] + 1))),
            pin_memory=device.startswith("cuda"),
        )
        self._batches: Iterator[Any] = iter(loader)

    def advance(self, last: int) -> None:
        """See :meth:`Loop.advance`."""
        for _ in range(self._step, last):
            batch = {name: tensor.to(self._device, non_blocking=True) for name, tensor in next(self._batches).items()}
            with _autocast(self._device, self._precise):
                loss = self._model(**batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip)
            self._optimizer.step()
            self._scheduler.step()
            self._model.zero_grad()
        self._step = last

    def _loss(self, tokens_BT: Tensor) -> Tensor:
        loss: Tensor = self._model(**_labelled(tokens_BT), use_cache=False).loss
        return loss


def llama(config: ProxyConfig, vocab_size: int, init_seed: int) -> nn.Module:
    """A ``LlamaForCausalLM`` with the shape and the initial weights of one of our proxies; it computes the same logits.

    Raises:
        ProxyError: If `transformers` is not installed.
    """
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise ProxyError("transformers is not installed; pip install regmix-active[hf]") from error
    keys = config.kv_heads or config.heads
    shape = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.width,
        intermediate_size=config.ffn,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=keys,
        max_position_embeddings=config.context,
        rms_norm_eps=NORM_EPS,
        rope_theta=config.rotary_base,
        rope_parameters={"rope_type": "default", "rope_theta": config.rotary_base},  # the name since version 5
        tie_word_embeddings=config.tied_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
    model: nn.Module = transformers.LlamaForCausalLM(shape).train()
    _load(model, config, vocab_size, init_seed)
    return model


def _load(model: Any, config: ProxyConfig, vocab_size: int, seed: int) -> None:
    """Give a ``LlamaForCausalLM`` the initial weights of one of our proxies."""
    shapes = matrix_shapes(config, vocab_size)
    flat = torch.split(initial_matrices(config, shapes, seed), [rows * columns for rows, columns in shapes])
    # We keep a matrix as (inputs, outputs), a linear layer as (outputs, inputs).
    embedding, *matrices = (matrix.view(shape).T for matrix, shape in zip(flat, shapes, strict=True))
    size = config.width // config.heads
    keys = (config.kv_heads or config.heads) * size
    # Our rotary pairs are neighbouring channels of a head; theirs are a channel of its first half and one of its second.
    halves = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(embedding.T)
        for index, layer in enumerate(model.model.layers):
            qkv, out, gate_up, down = matrices[4 * index : 4 * index + 4]
            query, key, value = qkv.split([config.width, keys, keys])
            for linear, rows in ((layer.self_attn.q_proj, query), (layer.self_attn.k_proj, key)):
                linear.weight.copy_(rows.reshape(-1, size, config.width)[:, halves].flatten(0, 1))
            layer.self_attn.v_proj.weight.copy_(value)
            layer.self_attn.o_proj.weight.copy_(out)
            gate, up = gate_up.chunk(2)
            layer.mlp.gate_proj.weight.copy_(gate)
            layer.mlp.up_proj.weight.copy_(up)
            layer.mlp.down_proj.weight.copy_(down)
        if not config.tied_embeddings:
            model.lm_head.weight.copy_(matrices[-1])


def _labelled(tokens_BT: Tensor) -> dict[str, Tensor]:
    """What the model takes. Targets come shifted, so that it computes as many positions as the others and not one more."""
    targets_BT = tokens_BT[:, 1:].contiguous()
    return {"input_ids": tokens_BT[:, :-1].contiguous(), "labels": targets_BT, "shift_labels": targets_BT}


def _plan(source: TokenSource, config: ProxyConfig, request: ProxyRequest) -> BlockPlan:
    n_blocks = total_steps(config) * config.batch_size
    return plan_blocks(source, request.weights, request.data_seed, n_blocks, config.context + 1, draws=config.domain_draws)


def _adamw(model: nn.Module, config: ProxyConfig) -> torch.optim.AdamW:
    """Matrices decay and norm gains do not, as in a stack and in ``Trainer``."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def _autocast(device: str, precise: bool) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if precise else torch.autocast(torch.device(device).type, torch.bfloat16)


def _validation_loss(
    loss: Callable[[Tensor], Tensor], source: TokenSource, config: ProxyConfig, device: str, precise: bool
) -> float:
    """Mean over domains of the loss on their validation blocks, nats per token."""
    means = []
    with torch.no_grad(), _autocast(device, precise):
        for index in range(len(source.domains)):
            parts = torch.from_numpy(validation_blocks(source, index, config)).split(config.batch_size)
            means.append(sum(float(loss(part.to(device))) * len(part) for part in parts) / sum(map(len, parts)))
    return float(np.mean(means))
