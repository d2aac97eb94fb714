"""Models of `transformers` as proxies: trained from scratch, seeded, and equal to our decoder where they are the same model."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ConfigError
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.blocks import TokenSource
from regmix_active.proxy.model import hf
from regmix_active.proxy.model.decoder import Decoder
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training.together import train_together

transformers: Any = pytest.importorskip("transformers")

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32_000,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 31_999,
    "pad_token_id": 31_998,
    "dtype": "bfloat16",
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 50_257,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 8,
    "bos_token_id": 50_256,
}


@pytest.fixture
def named(tmp_path: Path, tiny_proxy: ProxyConfig) -> Callable[[dict[str, Any]], ProxyConfig]:
    def write(shape: dict[str, Any]) -> ProxyConfig:
        (tmp_path / "config.json").write_text(json.dumps(shape))
        return tiny_proxy.model_copy(update={"hf": str(tmp_path), "tokens": 3_200})

    return write


@pytest.mark.parametrize("shape", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_it_learns_and_repeats(shape: dict[str, Any], named: Callable[..., ProxyConfig], source: TokenSource) -> None:
    config = named(shape)
    request = ProxyRequest(3, np.array([0.7, 0.1, 0.1, 0.1]), 11, 12, learning_rate=2e-2)
    before = torch.get_rng_state()
    (result,) = train_together(source, config, [request], TrainingPlan(), "cpu")
    torch.manual_seed(5)
    (again,) = train_together(source, config, [request], TrainingPlan(), "cpu")
    torch.set_rng_state(before)
    assert result.failure is None
    assert result.losses == again.losses, "dropout is off, and global random state does not matter"
    assert result.losses["domain0"] < 0.9 * math.log(source.vocab_size)
    assert result.curve == again.curve
    assert result.curve


@pytest.mark.parametrize("shape", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_vocabulary_context_and_seed_are_ours(shape: dict[str, Any], named: Callable[..., ProxyConfig]) -> None:
    config = named(shape)
    state = torch.get_rng_state()
    first, same, other = (hf.build(config, 48, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    tokens = torch.randint(48, (3, config.context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = [model.eval()(tokens) for model in (first, same, other)]
    assert logits[0].shape == (3, config.context, 48)
    assert logits[0].dtype == torch.float32
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_a_file_is_as_good_as_its_folder(named: Callable[..., ProxyConfig]) -> None:
    config = named(LLAMA)
    file = config.model_copy(update={"hf": f"{config.hf}/config.json"})
    assert hf.shape_digest(file, 48) == hf.shape_digest(file, 48) != hf.shape_digest(file, 49)
    assert sum(p.numel() for p in hf.build(file, 48, 0).parameters()) == sum(
        p.numel() for p in hf.build(config, 48, 0).parameters()
    )


def test_our_decoder_is_a_llama(tiny_proxy: ProxyConfig, named: Callable[..., ProxyConfig]) -> None:
    """The same weights give the same logits; only the channels of rotary pairs lie differently."""
    ours = Decoder(tiny_proxy, 48, 3).eval()
    config = named({**LLAMA, "rms_norm_eps": 1e-5, "rope_theta": tiny_proxy.rotary_base, "max_position_embeddings": 64})
    theirs: Any = hf.build(config, 48, 0).eval()
    width, size = tiny_proxy.width, tiny_proxy.width // tiny_proxy.heads

    def halves(weight: torch.Tensor) -> torch.Tensor:
        """Neighbouring channels of a pair go half a head apart."""
        return weight.view(-1, size // 2, 2, width).transpose(1, 2).reshape(-1, width)

    with torch.no_grad():
        for parameter in ours.parameters():  # gains of one would hide a norm in the wrong place
            if parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)) + 0.5)
        model = theirs.model.model
        model.embed_tokens.weight.copy_(ours.embedding.weight)
        model.norm.weight.copy_(ours.norm.weight)
        layer: Any
        for layer, other in zip(ours.layers, model.layers, strict=True):
            q, k, v = layer.attention.qkv.weight.split([width, width, width])
            gate, up = layer.ffn.gate_up.weight.chunk(2)
            copies = [
                (other.self_attn.q_proj, halves(q)),
                (other.self_attn.k_proj, halves(k)),
                (other.self_attn.v_proj, v),
                (other.self_attn.o_proj, layer.attention.out.weight),
                (other.mlp.gate_proj, gate),
                (other.mlp.up_proj, up),
                (other.mlp.down_proj, layer.ffn.down.weight),
                (other.input_layernorm, layer.attention_norm.weight),
                (other.post_attention_layernorm, layer.ffn_norm.weight),
            ]
            for module, weight in copies:
                module.weight.copy_(weight)
        tokens = torch.randint(48, (2, tiny_proxy.context), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)


def test_unknown_models_are_refused(tmp_path: Path, named: Callable[..., ProxyConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = named(LLAMA)
    missing = config.model_copy(update={"hf": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match=r"proxy.hf: '.*nowhere' is no model that transformers knows"):
        hf.build(missing, 48, 0)
    with pytest.raises(ConfigError, match="is no model that transformers knows"):
        hf.build(named({"model_type": "unheard-of"}), 48, 0)
    with pytest.raises(ConfigError, match="is not a causal language model of transformers"):
        hf.build(named({"model_type": "clip"}), 48, 0)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install regmix-active\[hf\]"):
        hf.build(config, 48, 0)
