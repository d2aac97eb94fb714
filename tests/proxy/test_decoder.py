"""The module form of a decoder is one row of a stack."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.model.decoder import Decoder
from regmix_active.proxy.model.stacked import StackedDecoder

VOCAB = 40
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"heads": 4, "kv_heads": 2},
    "untied": {"tied_embeddings": False},
    "rotary-base": {"rotary_base": 100.0},
    "all": {"heads": 4, "kv_heads": 1, "tied_embeddings": False, "rotary_base": 500.0, "layers": 3},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_gradients_are_those_of_a_stack(shape: str, tiny_proxy: ProxyConfig) -> None:
    config = tiny_proxy.model_copy(update=SHAPES[shape])
    stack, module = StackedDecoder(config, VOCAB, [3, 4]), Decoder(config, VOCAB, 4)
    tokens = torch.randint(VOCAB, (2, 3, 17), generator=torch.Generator().manual_seed(1))
    stack.backward(stack.losses(tokens[..., :-1], tokens[..., 1:]))
    logits = module(tokens[1, :, :-1])
    torch.testing.assert_close(logits, stack.logits(tokens[..., :-1])[1], rtol=1e-5, atol=1e-5)
    nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1, :, 1:].flatten()).backward()

    # A linear layer keeps its matrix as (outputs, inputs), a stack as (inputs, outputs).
    matrices = [
        gradient_of(owner).T if isinstance(owner, nn.Linear) else gradient_of(owner)
        for owner in module.modules()
        if isinstance(owner, nn.Embedding | nn.Linear)
    ]
    gains = [gradient_of(owner) for owner in module.modules() if isinstance(owner, nn.RMSNorm)]
    for flat_KP, parts in ((stack.matrices_KP, matrices), (stack.gains_KP, gains)):
        found = torch.cat([part.flatten() for part in parts])
        torch.testing.assert_close(found, cast(Tensor, flat_KP.grad)[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_as_many(shape: str, tiny_proxy: ProxyConfig) -> None:
    config = tiny_proxy.model_copy(update=SHAPES[shape])
    n_parameters = sum(parameter.numel() for parameter in Decoder(config, VOCAB, 0).parameters())
    assert n_parameters == StackedDecoder(config, VOCAB, [0]).parameters_per_proxy


def test_bfloat16_autocast_stays_close(tiny_proxy: ProxyConfig) -> None:
    module = Decoder(tiny_proxy, VOCAB, 0)
    tokens = torch.randint(VOCAB, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        low = module(tokens)
    torch.testing.assert_close(low.float(), module(tokens), rtol=0.1, atol=0.05)


def gradient_of(owner: nn.Module) -> Tensor:
    return cast(Tensor, cast(nn.Parameter, owner.weight).grad)
