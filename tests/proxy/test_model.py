"""The stacked decoder equals a plain one, and its proxies never meet."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.model import StackedDecoder

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
        self.heads = config.heads
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
            self.matrices.extend([take(width, 3 * width), take(width, width), take(width, 2 * ffn), take(ffn, width)])
        assert offset == flat.numel()
        self.norms = nn.ModuleList(PlainNorm(gain) for gain in gains)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding[tokens]
        n_tokens = tokens.shape[1]
        mask = torch.full((n_tokens, n_tokens), -math.inf).triu(1)
        for layer in range(len(self.matrices) // 4):
            qkv, out, gate_up, down = self.matrices[4 * layer : 4 * layer + 4]
            q, k, v = (self.norms[2 * layer](x) @ qkv).chunk(3, -1)
            read = []
            for q_h, k_h, v_h in zip(*(t.chunk(self.heads, -1) for t in (q, k, v)), strict=True):
                scores = self._turn(q_h) @ self._turn(k_h).transpose(1, 2) / math.sqrt(q_h.shape[-1]) + mask
                read.append(scores.softmax(-1) @ v_h)
            x = x + torch.cat(read, -1) @ out
            gate, up = (self.norms[2 * layer + 1](x) @ gate_up).chunk(2, -1)
            x = x + (gate * torch.sigmoid(gate) * up) @ down
        return cast(Tensor, self.norms[-1](x) @ self.embedding.T)

    @staticmethod
    def _turn(x: Tensor) -> Tensor:
        turned = torch.empty_like(x)
        for position in range(x.shape[1]):
            for pair in range(x.shape[2] // 2):
                angle = position * 10_000 ** (-2 * pair / x.shape[2])
                a, b = x[:, position, 2 * pair], x[:, position, 2 * pair + 1]
                turned[:, position, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
                turned[:, position, 2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
        return turned


@pytest.fixture
def stack(tiny_proxy: ProxyConfig) -> StackedDecoder:
    model = StackedDecoder(tiny_proxy, VOCAB, [3, 4, 5])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # gains of exactly 1 and tiny embeddings would hide mistakes
        model.gains_KP.copy_(1 + 0.3 * torch.randn(model.gains_KP.shape, generator=generator))
        model.matrices_KP.mul_(1.5)
    return model


def random_tokens(*shape: int) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(1))


def test_logits_and_losses_equal_a_plain_decoder(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 2, 17)
    logits, losses = stack.logits(tokens[..., :-1]), stack.losses(tokens[..., :-1], tokens[..., 1:])
    for k in range(3):
        expected = PlainDecoder(stack, k)(tokens[k, :, :-1])
        torch.testing.assert_close(logits[k], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(losses[k], nn.functional.cross_entropy(expected.flatten(0, 1), tokens[k, :, 1:].flatten()))


def test_gradients_equal_a_plain_decoder(stack: StackedDecoder) -> None:
    tokens = random_tokens(3, 2, 17)
    stack.backward(stack.losses(tokens[..., :-1], tokens[..., 1:]))
    assert stack.matrices_KP.grad is not None
    assert stack.gains_KP.grad is not None
    for k in range(3):
        plain = PlainDecoder(stack, k)
        loss = nn.functional.cross_entropy(plain(tokens[k, :, :-1]).flatten(0, 1), tokens[k, :, 1:].flatten())
        loss.backward()
        matrices = torch.cat([cast(Tensor, p.grad).flatten() for p in (plain.embedding, *plain.matrices)])
        gains = torch.cat([cast(Tensor, p.grad) for p in plain.norms.parameters()])
        torch.testing.assert_close(stack.matrices_KP.grad[k], matrices, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(stack.gains_KP.grad[k], gains, rtol=1e-4, atol=1e-6)


def test_a_step_through_many_passes_of_the_head_equals_one_pass(stack: StackedDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = random_tokens(3, 2, 17)
    seen = []
    for cached in (1, 2 * 2 * 16 * VOCAB, 2**20):  # one proxy at a time, two and then the last one, all three
        monkeypatch.setattr("regmix_active.proxy.model.CACHED_LOGITS", cached)
        losses = stack.losses(tokens[..., :-1], tokens[..., 1:])
        stack.backward(losses)
        assert stack.matrices_KP.grad is not None
        seen.append((losses.detach(), stack.matrices_KP.grad.clone()))
    for losses, gradient in seen[1:]:
        torch.testing.assert_close(losses, seen[0][0], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient, seen[0][1], rtol=1e-5, atol=1e-8)


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
