"""Any causal language model of `transformers` as a proxy, trained from scratch."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ConfigError


class CausalModel(nn.Module):
    """A model of `transformers` with the one method that training needs.

    Args:
        model: A causal language model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits, ``(B, T, V)``."""
        # Without a mask: blocks have no padding. Without a cache: nothing is generated.
        logits_BTV: Tensor = self.model(input_ids=tokens_BT, use_cache=False).logits
        return logits_BTV


def build(config: ProxyConfig, vocab_size: int, init_seed: int) -> nn.Module:
    """Build the model that ``proxy.hf`` names, with fresh weights in float32, by the initialisation of its own code.

    The rest of the process's random state is neither read nor changed. Code from the hub is never run.

    Args:
        config: Names the model, and gives the context that it must cover.
        vocab_size: Number of token ids, instead of the model's own.
        init_seed: Seed of the initial weights.

    Returns:
        A module from token ids ``(B, T)`` to logits ``(B, T, V)``.

    Raises:
        ConfigError: If `transformers` is missing, or the model is unknown, cannot be fetched or is not a causal language model.
    """
    shape = read_shape(config, vocab_size)
    import transformers

    factory: Any = transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed all GPUs as well.
        torch.default_generator.manual_seed(init_seed)
        try:
            model = factory.from_config(shape, dtype=torch.float32)
        except ValueError as error:
            reason = str(error).split("\n")[0]
            raise ConfigError(f"proxy.hf: {config.hf} is not a causal language model of transformers ({reason})") from error
    return CausalModel(model)


def read_shape(config: ProxyConfig, vocab_size: int) -> Any:
    """The `transformers` configuration that ``proxy.hf`` names, for our vocabulary and context.

    Raises:
        ConfigError: If it is unknown or cannot be fetched, or `transformers` is missing.
    """
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ConfigError(f"proxy.hf: needs transformers ({error}); pip install regmix-active[hf]") from None

    name = str(config.hf)
    try:
        shape = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        # OSError, ValueError, KeyError, or the hub's own: the library has no common one.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(
            f"proxy.hf: {name!r} is no model that transformers knows ({reason}). Write a hub name such as "
            "EleutherAI/pythia-14m (fetched once, over the internet), or the folder or path of a config.json"
        ) from error
    shape.vocab_size = vocab_size
    # They name tokens of the model's own vocabulary, and training needs none of them.
    shape.pad_token_id = shape.bos_token_id = shape.eos_token_id = None
    if (getattr(shape, "max_position_embeddings", None) or config.context) < config.context:
        shape.max_position_embeddings = config.context
    return shape


def shape_digest(config: ProxyConfig, vocab_size: int) -> str:
    """Hash of :func:`read_shape`: a folder may hold another model tomorrow under the same name."""
    shape = read_shape(config, vocab_size).to_dict()
    for written_by in ("transformers_version", "_name_or_path"):
        shape.pop(written_by, None)
    return hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()[:16]
