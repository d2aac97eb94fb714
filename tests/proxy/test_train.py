"""Training a stack equals training each proxy alone, and repeats bit for bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import CorpusError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.blocks import TokenSource
from regmix_active.proxy.model import stacked as model_module
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training.checkpoint import Checkpoint, Checkpoints
from regmix_active.proxy.training.optimizer import clip_per_proxy, learning_rate, total_steps
from regmix_active.proxy.training.stack import Curve, curve_steps, train_stack
from regmix_active.proxy.training.trunk import trunks

MIXTURES = ([0.7, 0.2, 0.1, 0.0], [0.05, 0.05, 0.4, 0.5], [0.25, 0.25, 0.25, 0.25])


def requests(n: int = 3) -> list[ProxyRequest]:
    """Proxies that differ in everything they may differ in."""
    return [
        ProxyRequest(slot=10 + k, weights=np.array(weights), init_seed=100 + k, data_seed=200 + k)
        for k, weights in enumerate(MIXTURES[:n])
    ]


def losses(results: Sequence[ProxyResult]) -> list[list[float]]:
    return [list(result.losses.values()) for result in results]


def without_time(results: Sequence[ProxyResult]) -> list[ProxyResult]:
    return [dataclasses.replace(result, seconds=0.0) for result in results]


@pytest.fixture(scope="module")
def stacked(source: TokenSource, tiny_proxy: ProxyConfig) -> list[ProxyResult]:
    return train_stack(source, tiny_proxy, requests())


def test_a_stack_equals_separate_trainings(source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult]) -> None:
    assert total_steps(tiny_proxy) == 100
    alone = [train_stack(source, tiny_proxy, [request])[0] for request in requests()]
    np.testing.assert_allclose(losses(stacked), losses(alone), rtol=1e-5)
    assert [r.shares for r in stacked] == [r.shares for r in alone]


def test_the_place_in_the_stack_does_not_matter(source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult]) -> None:
    backwards = train_stack(source, tiny_proxy, requests()[::-1])[::-1]
    assert [r.slot for r in backwards] == [10, 11, 12]
    np.testing.assert_allclose(losses(backwards), losses(stacked), rtol=1e-5)


def test_the_same_requests_give_the_same_bits(source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult]) -> None:
    torch.manual_seed(123)  # global state must not matter
    np.random.seed(123)  # noqa: NPY002
    assert without_time(train_stack(source, tiny_proxy, requests())) == without_time(stacked)


def test_every_seed_matters(source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult]) -> None:
    request = requests()[0]
    for changed in (dataclasses.replace(request, init_seed=1), dataclasses.replace(request, data_seed=1)):
        other = train_stack(source, tiny_proxy, [changed])[0]
        assert not np.allclose(losses([other]), losses(stacked[:1]), rtol=1e-4)


def test_a_result_says_what_was_trained(source: TokenSource, stacked: list[ProxyResult]) -> None:
    for request, result in zip(requests(), stacked, strict=True):
        assert result.slot == request.slot
        assert result.failure is None
        assert result.tokens == 6_400
        assert result.seconds > 0
        assert tuple(result.losses) == tuple(result.shares) == tuple(result.bits_per_byte) == source.domains
        np.testing.assert_allclose(list(result.shares.values()), request.weights, atol=2 / 400)
        for index, name in enumerate(source.domains):
            assert result.bits_per_byte[name] == pytest.approx(result.losses[name] / math.log(2) / (2 + index))


def test_a_proxy_learns_what_it_is_shown(source: TokenSource, tiny_proxy: ProxyConfig) -> None:
    config = tiny_proxy.model_copy(update={"learning_rate": 1e-2, "tokens": 12_800})
    pure = [ProxyRequest(slot=i, weights=np.eye(4)[i], init_seed=0, data_seed=0) for i in range(4)]
    matrix = np.array(losses(train_stack(source, config, pure)))
    assert (np.argmin(matrix, axis=0) == np.arange(4)).all()  # nobody knows a domain better than who read nothing else
    assert (np.diag(matrix) < 0.6 * math.log(source.vocab_size)).all()


def test_more_tokens_lower_the_loss(source: TokenSource, tiny_proxy: ProxyConfig) -> None:
    short = train_stack(source, tiny_proxy.model_copy(update={"tokens": 640}), requests())
    long = train_stack(source, tiny_proxy, requests())
    assert (np.mean(losses(long), axis=1) < np.mean(losses(short), axis=1)).all()


@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e30])
def test_a_broken_proxy_leaves_its_neighbours_alone(
    source: TokenSource,
    tiny_proxy: ProxyConfig,
    stacked: list[ProxyResult],
    monkeypatch: pytest.MonkeyPatch,
    broken: float,
) -> None:
    draw = model_module.initial_matrices

    def break_one(config: ProxyConfig, shapes: Sequence[tuple[int, int]], seed: int) -> torch.Tensor:
        matrices = draw(config, shapes, seed)
        return matrices * broken if seed == 101 else matrices

    monkeypatch.setattr(model_module, "initial_matrices", break_one)
    first, second, third = train_stack(source, tiny_proxy, requests())
    assert second.failure is not None
    assert second.failure.startswith("diverged: loss or gradient not finite, or gradient zero, at step 1 of 100")
    assert second.losses == {} == second.bits_per_byte
    assert second.slot == 11
    assert [first.failure, third.failure] == [None, None]
    np.testing.assert_allclose(losses([first, third]), losses([stacked[0], stacked[2]]), rtol=1e-6)


def test_a_proxy_worse_than_knowing_nothing_diverged(source: TokenSource, tiny_proxy: ProxyConfig) -> None:
    wild = tiny_proxy.model_copy(update={"learning_rate": 10.0, "tokens": 1_280, "final_learning_rate": 1.0})
    (result,) = train_stack(source, wild, requests(1))
    assert result.failure is not None
    assert "mean validation loss" in result.failure
    assert "2 x ln(48)" in result.failure
    assert result.losses == {}


def test_short_domains_are_named(make_source: Callable[..., TokenSource], tiny_proxy: ProxyConfig) -> None:
    with pytest.raises(CorpusError, match="'domain3' has 10 training tokens"):
        train_stack(make_source([4_000, 3_000, 2_000, 10]), tiny_proxy, requests())
    quick = tiny_proxy.model_copy(update={"tokens": 64})
    with pytest.raises(CorpusError, match="'domain0' has 10 validation tokens"):
        train_stack(make_source([400] * 4, validation_tokens=10), quick, requests())


def test_learning_rate_schedule() -> None:
    config = ProxyConfig(learning_rate=0.5, final_learning_rate=0.2, warmup=0.1)
    rates = [learning_rate(config, step, 200) for step in range(200)]
    np.testing.assert_allclose(rates[:20], 0.5 * np.arange(1, 21) / 20)
    assert rates[20] == pytest.approx(0.5)
    assert (np.diff(rates[20:]) < 0).all()
    assert rates[-1] == pytest.approx(0.1)
    assert rates[110] == pytest.approx((0.5 + 0.1) / 2, rel=0.02)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_learning_rate_of_very_short_trainings(warmup: float, n_steps: int) -> None:
    config = ProxyConfig(learning_rate=0.5, warmup=warmup)
    rates = [learning_rate(config, step, n_steps) for step in range(n_steps)]
    assert all(0 < rate <= 0.5 for rate in rates)
    assert max(rates) == 0.5


def test_clipping_is_per_proxy() -> None:
    matrices, gains = torch.zeros(4, 3), torch.zeros(4, 1)
    matrices.grad = torch.tensor([[0.0, 3, 0], [0.1, 0, 0], [math.nan, 0, 0], [0, 0, 0]])
    gains.grad = torch.tensor([[4.0], [0.2], [1], [0]])
    norms = clip_per_proxy([matrices, gains], 1.0)
    torch.testing.assert_close(norms, torch.tensor([5, math.sqrt(0.05), math.nan, 0]), equal_nan=True)
    torch.testing.assert_close(matrices.grad[[0, 1, 3]], torch.tensor([[0, 0.6, 0], [0.1, 0, 0], [0, 0, 0]]))
    torch.testing.assert_close(gains.grad[[0, 1, 3]], torch.tensor([[0.8], [0.2], [0]]))


def test_reading_ahead_changes_nothing(
    source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmix_active.proxy.training.feed.READ_AHEAD_STEPS", 7)
    assert without_time(train_stack(source, tiny_proxy, requests())) == without_time(stacked)


@pytest.mark.parametrize("k", [1, 3, 16])
def test_two_hundred_steps_of_a_stack_equal_separate_trainings(source: TokenSource, tiny_proxy: ProxyConfig, k: int) -> None:
    config = tiny_proxy.model_copy(update={"tokens": 200 * 64})
    rng = np.random.default_rng(k)
    asked = [ProxyRequest(slot, rng.dirichlet(np.full(4, 0.5)), slot, 50 + slot) for slot in range(k)]
    alone = [train_stack(source, config, [request])[0] for request in asked]
    np.testing.assert_allclose(losses(train_stack(source, config, asked)), losses(alone), rtol=1e-5)


def test_every_proxy_may_learn_in_its_own_way(source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult]) -> None:
    asked = requests()
    asked[0] = dataclasses.replace(asked[0], learning_rate=1e-3)
    asked[1] = dataclasses.replace(asked[1], weight_decay=2.0, clip=0.1)
    results = train_stack(source, tiny_proxy, asked)
    alone = [train_stack(source, tiny_proxy, [request])[0] for request in asked]
    np.testing.assert_allclose(losses(results), losses(alone), rtol=1e-5)
    assert not np.allclose(losses(results[:1]), losses(stacked[:1]), rtol=1e-3)
    assert not np.allclose(losses(results[1:2]), losses(stacked[1:2]), rtol=1e-3)
    np.testing.assert_allclose(losses(results[2:]), losses(stacked[2:]), rtol=1e-5)


def test_micro_batches_add_up(source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult]) -> None:
    for micro_batch in (1, 2):
        parts = train_stack(source, tiny_proxy, requests(), plan=TrainingPlan(micro_batch=micro_batch))
        np.testing.assert_allclose(losses(parts), losses(stacked), rtol=1e-5)


def test_the_learning_curve(source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult]) -> None:
    assert curve_steps(tiny_proxy) == [12, 25, 50, 100]
    for result in stacked:
        assert list(result.curve) == ["768", "1600", "3200"]
        means = [float(np.mean(list(point.values()))) for point in result.curve.values()]
        assert means[0] > means[-1] > np.mean(list(result.losses.values()))
    without = train_stack(source, tiny_proxy.model_copy(update={"curve": 0}), requests())
    assert losses(without) == losses(stacked)
    assert [result.curve for result in without] == [{}, {}, {}]


class StopSecond:
    """Finds slot 11 hopeless after 25 steps."""

    def hopeless(self, curves: Mapping[int, Curve], step: int) -> set[int]:
        return {11} if step == 25 else set()


def test_a_stopped_proxy_leaves_its_neighbours_alone(
    source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult]
) -> None:
    first, second, third = train_stack(source, tiny_proxy, requests(), stopping=StopSecond())
    assert second.stopped
    assert (second.losses, second.failure, second.tokens) == ({}, None, 25 * 64)
    assert list(second.curve) == ["768", "1600"]
    np.testing.assert_allclose(losses([first, third]), losses([stacked[0], stacked[2]]), rtol=1e-6)


def test_a_stack_may_be_stopped_whole(source: TokenSource, tiny_proxy: ProxyConfig) -> None:
    class StopAll:
        def hopeless(self, curves: Mapping[int, Curve], step: int) -> set[int]:
            return set(curves)

    results = train_stack(source, tiny_proxy, requests(), stopping=StopAll())
    assert all(result.stopped and result.tokens == 12 * 64 for result in results)


class KilledAt(Checkpoints):
    """Saves at one step, and dies of it."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(path, "job", 1)
        self.left = step

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0

    def save(self, make: Callable[[], Checkpoint]) -> None:
        super().save(make)
        raise KeyboardInterrupt


@pytest.mark.parametrize("stopping", [None, StopSecond()])
@pytest.mark.parametrize("step", [7, 12, 60, 100])
def test_a_killed_training_resumes_at_its_step_with_the_same_bits(
    source: TokenSource, tiny_proxy: ProxyConfig, tmp_path: Path, step: int, stopping: StopSecond | None
) -> None:
    asked = requests()
    asked[0] = dataclasses.replace(asked[0], learning_rate=1e-3)  # every proxy a group of the optimiser
    unbroken = train_stack(source, tiny_proxy, asked, stopping=stopping)
    with pytest.raises(KeyboardInterrupt):
        train_stack(source, tiny_proxy, asked, checkpoints=KilledAt(tmp_path / "c", step), stopping=stopping)
    found = Checkpoints(tmp_path / "c", "job", 1).load()
    assert found is not None
    assert found.state["step"] == step
    resumed = train_stack(source, tiny_proxy, asked, checkpoints=Checkpoints(tmp_path / "c", "job", 1), stopping=stopping)
    assert without_time(resumed) == without_time(unbroken)


def test_a_mode_that_the_machine_lacks_falls_back(
    source: TokenSource, tiny_proxy: ProxyConfig, stacked: list[ProxyResult], caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA graphs")
    found = train_stack(source, tiny_proxy, requests(), plan=TrainingPlan(mode="cuda-graph"))
    assert without_time(found) == without_time(stacked)
    assert "no CUDA device" in caplog.text


def test_a_trunk_is_trained_once_and_started_from(source: TokenSource, tiny_proxy: ProxyConfig, tmp_path: Path) -> None:
    config = tiny_proxy.model_copy(update={"trunk_tokens": 6_400, "tokens": 640})
    asked = [dataclasses.replace(request, init_seed=5) for request in requests()]
    start = trunks(source, "f", config, np.full(4, 0.25), [5, 5, 5], tmp_path)
    assert [part.shape[0] for part in start] == [3, 3]
    warm = train_stack(source, config, asked, start=start)
    cold = train_stack(source, config, asked)
    assert (np.mean(losses(warm), axis=1) < np.mean(losses(cold), axis=1)).all()
    (kept,) = tmp_path.glob("*.safetensors")
    written = kept.stat().st_mtime_ns
    again = trunks(source, "f", config, np.full(4, 0.25), [5], tmp_path)
    assert kept.stat().st_mtime_ns == written
    assert torch.equal(again[0][0], start[0][1])
    trunks(source, "other tokens", config, np.full(4, 0.25), [5], tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
