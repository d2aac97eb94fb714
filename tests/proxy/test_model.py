"""The stacked decoder equals a plain one, whatever its shape, and its proxies never meet."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.model import functions
from regmix_active.proxy.model.stacked import StackedDecoder

VOCAB = 40


class PlainNorm(nn.Module):
    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(gain)

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * self.gain


class PlainDecoder(nn.Module):
    """One proxy written the long way: loops over heads, explicit masks, sines and cosines."""

    def __init__(self, stack: StackedDecoder, k: int) -> None:
        super().__init__()
        config = stack.config
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        self.base = config.rotary_base
        flat, offset = stack.matrices_KP.detach()[k].clone(), 0

        def take(rows: int, columns: int) -> nn.Parameter:
            nonlocal offset
            offset += rows * columns
            return nn.Parameter(flat[offset - rows * columns : offset].view(rows, columns).clone())

        width, ffn = config.width, config.ffn
        gains = stack.gains_KP.detach()[k].view(-1, width).clone()
        self.embedding = take(stack.vocab_size, width)
        self.matrices = nn.ParameterList()
        for _ in range(config.layers):
            qkv = width + 2 * self.kv_heads * width // self.heads
            self.matrices.extend([take(width, qkv), take(width, width), take(width, 2 * ffn), take(ffn, width)])
        self.head = None if config.tied_embeddings else take(width, stack.vocab_size)
        assert offset == flat.numel()
        self.norms = nn.ModuleList(PlainNorm(gain) for gain in gains)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding[tokens]
        n_tokens = tokens.shape[1]
        mask = torch.full((n_tokens, n_tokens), -math.inf).triu(1)
        for layer in range(len(self.matrices) // 4):
            qkv, out, gate_up, down = self.matrices[4 * layer : 4 * layer + 4]
            channels = (self.norms[2 * layer](x) @ qkv).chunk(self.heads + 2 * self.kv_heads, -1)
            read = []
            for head, q_h in enumerate(channels[: self.heads]):
                shared = self.heads + head * self.kv_heads // self.heads
                k_h, v_h = channels[shared], channels[shared + self.kv_heads]
                scores = self._turn(q_h) @ self._turn(k_h).transpose(1, 2) / math.sqrt(q_h.shape[-1]) + mask
                read.append(scores.softmax(-1) @ v_h)
            x = x + torch.cat(read, -1) @ out
            gate, up = (self.norms[2 * layer + 1](x) @ gate_up).chunk(2, -1)
            x = x + (gate * torch.sigmoid(gate) * up) @ down
        return cast(Tensor, self.norms[-1](x) @ (self.embedding.T if self.head is None else self.head))

    def _turn(self, x: Tensor) -> Tensor:
        turned = torch.empty_like(x)
        for position in range(x.shape[1]):
            for pair in range(x.shape[2] // 2):
                angle = position * self.base ** (-2 * pair / x.shape[2])
                a, b = x[:, position, 2 * pair], x[:, position, 2 * pair + 1]
                turned[:, position, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
                turned[:, position, 2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
        return turned


SHAPES: dict[str, dict[str, object]] = {
    "plain": {},
    "grouped": {"heads": 4, "kv_heads": 2},
    "one-key-head": {"heads": 4, "kv_heads": 1},
    "untied": {"tied_embeddings": False},
    "rotary-base": {"rotary_base": 100.0},
    "all": {"heads": 4, "kv_heads": 2, "tied_embeddings": False, "rotary_base": 500.0, "layers": 3},
}


def build(config: ProxyConfig, seeds: Sequence[int] = (3, 4, 5)) -> StackedDecoder:
    model = StackedDecoder(config, VOCAB, seeds)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # gains of exactly 1 and tiny embeddings would hide mistakes
        model.gains_KP.copy_(1 + 0.3 * torch.randn(model.gains_KP.shape, generator=generator))
        model.matrices_KP.mul_(1.5)
    return model


@pytest.fixture
def stack(tiny_proxy: ProxyConfig) -> StackedDecoder:
    return build(tiny_proxy)


@pytest.fixture(params=SHAPES)
def shaped(request: pytest.FixtureRequest, tiny_proxy: ProxyConfig) -> StackedDecoder:
    return build(tiny_proxy.model_copy(update=SHAPES[request.param]))


def gradients(stack: StackedDecoder) -> tuple[Tensor, Tensor]:
    return cast(Tensor, stack.matrices_KP.grad).clone(), cast(Tensor, stack.gains_KP.grad).clone()


def trained(stack: StackedDecoder, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    losses = stack.losses(tokens[..., :-1], tokens[..., 1:])
    stack.backward(losses)
    return losses.detach(), *gradients(stack)


def random_tokens(*shape: int) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("short", [0, 128])  # the kernel of long contexts, and the attention written out
def test_logits_losses_and_gradients_equal_a_plain_decoder(
    shaped: StackedDecoder, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "SHORT_CONTEXT", short)
    tokens = random_tokens(3, 2, 17)
    logits, (losses, matrices, gains) = shaped.logits(tokens[..., :-1]), trained(shaped, tokens)
    for k in range(3):
        plain = PlainDecoder(shaped, k)
        expected = plain(tokens[k, :, :-1])
        torch.testing.assert_close(logits[k], expected, rtol=1e-5, atol=1e-5)
        loss = nn.functional.cross_entropy(expected.flatten(0, 1), tokens[k, :, 1:].flatten())
        torch.testing.assert_close(losses[k], loss.detach())
        loss.backward()
        owners = [plain.embedding, *plain.matrices, *([] if plain.head is None else [plain.head])]
        torch.testing.assert_close(matrices[k], torch.cat([cast(Tensor, p.grad).flatten() for p in owners]), rtol=1e-4, atol=1e-5)
        flat = torch.cat([cast(Tensor, p.grad) for p in plain.norms.parameters()])
        torch.testing.assert_close(gains[k], flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("logits", [1, 7 * VOCAB, 2 * 2 * 16 * VOCAB, 2**20])  # a token; 7; two proxies and one; all three
@pytest.mark.parametrize("tokens_at_once", [1, 2 * 32, 4096])
def test_a_step_in_many_passes_equals_one_pass(
    shaped: StackedDecoder, logits: int, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = random_tokens(3, 2, 17)
    expected = trained(shaped, tokens)
    monkeypatch.setitem(functions.LOGITS_BYTES, "cpu", 4 * logits)
    monkeypatch.setattr("regmix_active.proxy.model.stacked.PASS_TOKENS", tokens_at_once)
    for found, once in zip(trained(shaped, tokens), expected, strict=True):
        torch.testing.assert_close(found, once, rtol=1e-4, atol=1e-6)


def test_the_head_never_holds_all_logits(stack: StackedDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    largest, softmax = 0, torch.softmax

    def watched(scores: Tensor, *args: Any, **options: Any) -> Tensor:
        nonlocal largest
        if scores.shape[-1] == VOCAB:
            largest = max(largest, scores.numel())
        return softmax(scores, *args, **options)

    monkeypatch.setattr(torch, "softmax", watched)
    monkeypatch.setitem(functions.LOGITS_BYTES, "cpu", 4 * 7 * VOCAB)
    trained(stack, random_tokens(3, 2, 17))
    assert largest == 7 * VOCAB


def test_block_losses_are_what_losses_average(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 4, 17)
    blocks = stack.block_losses(tokens[..., :-1], tokens[..., 1:])
    assert blocks.shape == (3, 4)
    assert not blocks.requires_grad
    with torch.inference_mode():
        losses = stack.losses(tokens[..., :-1], tokens[..., 1:])
    assert not losses.requires_grad
    torch.testing.assert_close(losses, blocks.mean(1))
    for b in range(4):
        alone = stack.block_losses(tokens[:, b : b + 1, :-1], tokens[:, b : b + 1, 1:])
        torch.testing.assert_close(blocks[:, b : b + 1], alone)


def test_scoring_neither_touches_nor_makes_gradients(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 2, 17)
    stack.block_losses(tokens[..., :-1], tokens[..., 1:])
    assert stack._sums_KP is None
    losses = stack.losses(tokens[..., :-1], tokens[..., 1:])
    stack.backward(losses)
    before = gradients(stack)
    stack.block_losses(tokens[..., 1:], tokens[..., :-1])
    for old, new in zip(before, gradients(stack), strict=True):
        assert torch.equal(old, new)


def test_losses_of_an_earlier_call_cannot_be_differentiated(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 2, 17)
    early = stack.losses(tokens[..., :-1], tokens[..., 1:])
    stack.losses(tokens[..., 1:], tokens[..., :-1])
    with pytest.raises(RuntimeError):
        stack.backward(early)


def test_a_weighted_loss_has_a_weighted_gradient(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 2, 17)
    _, matrices, gains = trained(stack, tokens)
    weights = torch.tensor([0.5, 2.0, 0.0])
    stack.backward(stack.losses(tokens[..., :-1], tokens[..., 1:]) * weights)
    torch.testing.assert_close(gradients(stack)[0], matrices * weights[:, None])
    torch.testing.assert_close(gradients(stack)[1], gains * weights[:, None])


def test_a_proxy_is_the_same_bits_every_time_and_whoever_its_neighbours_are(tiny_proxy: ProxyConfig) -> None:
    tokens = random_tokens(3, 2, 17)
    first, again, others = build(tiny_proxy), build(tiny_proxy), build(tiny_proxy)
    with torch.no_grad():
        others.matrices_KP[[0, 2]] = math.nan
    for one, two, three in zip(trained(first, tokens), trained(again, tokens), trained(others, tokens), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one[1], three[1])
        assert three[0].isnan().any()


def test_bfloat16_products_stay_close(shaped: StackedDecoder) -> None:
    tokens = random_tokens(3, 8, 17)
    losses, matrices, gains = trained(shaped, tokens)
    shaped.mixed_precision = "bf16"
    low = trained(shaped, tokens)
    assert [t.dtype for t in low] == [torch.float32] * 3
    assert not torch.equal(low[0], losses)
    torch.testing.assert_close(low[0], losses, rtol=0.02, atol=0)
    for found, exact in ((low[1], matrices), (low[2], gains)):
        assert torch.all((found - exact).norm(dim=1) < 0.3 * exact.norm(dim=1))


def test_autocast_around_it_changes_nothing(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 2, 17)
    expected = trained(stack, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found = trained(stack, tokens)
    for one, two in zip(expected, found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch's own, which change from version to version
def test_compiled_losses_and_gradients_are_the_same(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 2, 17)
    expected = trained(stack, tokens)
    losses = torch.compile(stack.losses, dynamic=False)(tokens[..., :-1], tokens[..., 1:])
    stack.backward(losses)
    for found, eager in zip((losses.detach(), *gradients(stack)), expected, strict=True):
        torch.testing.assert_close(found, eager, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_one_loss_is_zero_in_all_other_rows(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 2, 17)
    stack.backward(stack.losses(tokens[..., :-1], tokens[..., 1:])[1:2])
    for flat in (stack.matrices_KP, stack.gains_KP):
        assert flat.grad is not None
        assert flat.grad[[0, 2]].count_nonzero() == 0
        assert flat.grad[1].count_nonzero() > 0.5 * flat.shape[1]


def test_no_position_sees_a_later_one(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 2, 16)
    changed = tokens.clone()
    changed[..., 10:] = (changed[..., 10:] + 1) % VOCAB
    before, after = stack.logits(tokens), stack.logits(changed)
    torch.testing.assert_close(before[:, :, :10], after[:, :, :10])
    assert not torch.allclose(before[:, :, 10:], after[:, :, 10:])


def test_initial_weights_depend_on_the_own_seed_only(tiny_proxy: ProxyConfig) -> None:
    many, alone = StackedDecoder(tiny_proxy, VOCAB, [7, 8, 9, 8]), StackedDecoder(tiny_proxy, VOCAB, [8])
    assert torch.equal(many.matrices_KP[1], alone.matrices_KP[0])
    assert torch.equal(many.matrices_KP[3], alone.matrices_KP[0])
    assert not torch.equal(many.matrices_KP[0], many.matrices_KP[1])


def test_an_untrained_proxy_knows_nothing(tiny_proxy: ProxyConfig) -> None:
    small = tiny_proxy.model_copy(update={"embedding_std": 0.02})
    model = StackedDecoder(small, VOCAB, range(4))
    tokens = random_tokens(4, 8, 17)
    losses = model.losses(tokens[..., :-1], tokens[..., 1:])
    torch.testing.assert_close(losses, torch.full((4,), math.log(VOCAB)), rtol=0.02, atol=0)


def test_an_impossible_token_costs_finitely_many_nats(stack: StackedDecoder) -> None:
    with torch.no_grad():
        stack.matrices_KP[0] *= 1e4
    tokens = random_tokens(3, 2, 17)
    losses = stack.losses(tokens[..., :-1], tokens[..., 1:])
    assert torch.isfinite(losses).all()
    assert losses[0] > 2 * math.log(VOCAB)


def test_parameter_count(stack: StackedDecoder) -> None:
    per_layer = 16 * 48 + 16 * 16 + 16 * 48 + 24 * 16 + 2 * 16
    assert stack.parameters_per_proxy == VOCAB * 16 + 2 * per_layer + 16


def test_an_own_head_is_drawn_after_everything_else(tiny_proxy: ProxyConfig) -> None:
    tied = StackedDecoder(tiny_proxy, VOCAB, [7])
    untied = StackedDecoder(tiny_proxy.model_copy(update={"tied_embeddings": False}), VOCAB, [7])
    assert torch.equal(untied.matrices_KP[:, : tied.matrices_KP.shape[1]], tied.matrices_KP)
    head = untied.matrices_KP[:, tied.matrices_KP.shape[1] :]
    assert head.shape == (1, 16 * VOCAB)
    torch.testing.assert_close(head.std(), torch.tensor(16**-0.5), rtol=0.1, atol=0)


def test_both_ways_of_adding_embedding_gradients_agree() -> None:
    """The one for GPUs, whose sums have a fixed order, and the one for CPUs."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(7, (3, 20), generator=generator)
    gradients = torch.randn(3, 20, 4, generator=generator)
    table = torch.randn(3, 7, 4, generator=generator)
    wanted = table.clone()
    for k in range(3):
        wanted[k].index_add_(0, tokens[k], gradients[k])
    functions.add_rows_in_order(table, tokens, gradients)
    torch.testing.assert_close(table, wanted)
