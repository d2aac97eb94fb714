"""The roofline's formula against counts made by hand, and against the operations that torch itself counts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.model.decoder import Decoder
from regmix_active.proxy.planning.roofline import DevicePeak, floor_seconds, measure_peak, token_cost

SHAPE = ProxyConfig(layers=1, width=8, heads=2, ffn=16, context=8, batch_size=2, tokens=64)


def test_hand_count_of_one_shape() -> None:
    # Weights: q|k|v 8x24 = 192, out 8x8 = 64, gate|up 8x32 = 256, down 16x8 = 128, head 8x10 = 80: 720 of them.
    # Attention: 2 products x 2 x 8 channels x 4.5 positions = 144.
    cost = token_cost(SHAPE, 10)
    assert cost.flops == 3 * (2 * 720 + 144)
    assert cost.head_flops == 3 * 2 * 80
    assert cost.parameters == 720 + 3 * 8
    # Inputs and outputs: 32 + 16 + 40 + 24 + 18 = 130; q, k, v and attended: 32. Steps of 16 tokens.
    assert cost.bytes == 3 * 4 * (130 + 32 + 720 / 16) + 8 * 4 * 744 / 16


def test_grouped_keys_and_an_own_head() -> None:
    grouped = SHAPE.model_copy(update={"kv_heads": 1, "tied_embeddings": False})
    cost = token_cost(grouped, 10, product_bytes=2)
    # q|k|v is 8x16 now; the embedding is no product, so it costs its place in the optimiser alone.
    assert cost.flops == 3 * (2 * 656 + 144)
    assert cost.parameters == 656 + 80 + 24
    assert cost.bytes == 3 * 2 * (122 + 24 + 656 / 16) + 8 * 4 * 760 / 16


def test_parameters_and_flops_are_those_of_the_module() -> None:
    model = Decoder(SHAPE, 10, 0)
    cost = token_cost(SHAPE, 10)
    assert sum(p.numel() for p in model.parameters()) == cost.parameters
    tokens = torch.zeros(2, 8, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(flops for operation, flops in counted.items() if "attention" not in str(operation))
    # Attention apart: torch counts all positions, and the scores that its backward pass computes again.
    assert products == 16 * 3 * 2 * 720


def test_floor_is_the_slower_of_both() -> None:
    cost = token_cost(SHAPE, 10)
    assert floor_seconds(cost, DevicePeak(1e9, 1e30, 1)) == cost.flops / 1e9
    assert floor_seconds(cost, DevicePeak(1e30, 1e9, 1)) == cost.bytes / 1e9


def test_peak_of_this_machine() -> None:
    threads = torch.get_num_threads()
    peak = measure_peak(threads=1, seconds=0.05)
    assert 1e8 < peak.flops < 1e14
    assert 1e8 < peak.bytes < 1e13
    assert peak.threads == 1
    assert torch.get_num_threads() == threads
