"""Training one model over many ranks equals training it on one, and one rank equals the stack; resumed trainings end alike."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regmix_active.config.load import load_config
from regmix_active.config.schema import ProxyConfig
from regmix_active.corpus.build import build_store
from regmix_active.errors import ConfigError
from regmix_active.execution.accelerate_config import launch_command, launch_of
from regmix_active.execution.launched import LaunchedExecutor
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.blocks import TokenSource
from regmix_active.proxy.job import ProxyJob
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.training import block_losses
from regmix_active.proxy.training import module as module_training
from regmix_active.proxy.training import together as data_parallel
from regmix_active.proxy.training.block_losses import BlockLosses
from regmix_active.proxy.training.checkpoint import Checkpoints
from regmix_active.proxy.training.module import ModuleTraining, parameter_groups, share
from regmix_active.proxy.training.stack import train_stack
from regmix_active.proxy.training.together import train_together

PLAN = TrainingPlan()
TASKS = Path(__file__).parents[1] / "execution"


def requests() -> list[ProxyRequest]:
    own = ProxyRequest(1, np.array([0.1, 0.1, 0.3, 0.5]), 5, 6, learning_rate=1e-3, weight_decay=0.0, clip=0.1)
    return [ProxyRequest(0, np.array([0.7, 0.2, 0.1, 0.0]), 3, 4), own]


def without_time(results: Sequence[ProxyResult]) -> list[ProxyResult]:
    return [dataclasses.replace(result, seconds=0.0) for result in results]


def losses(results: Sequence[ProxyResult]) -> list[list[float]]:
    return [list(result.losses.values()) for result in results]


@pytest.fixture(scope="module")
def short(tiny_proxy: ProxyConfig) -> ProxyConfig:
    return tiny_proxy.model_copy(update={"tokens": 1_280})


@pytest.fixture(scope="module")
def plain(source: TokenSource, short: ProxyConfig) -> list[ProxyResult]:
    return train_together(source, short, requests(), PLAN, "cpu")


def test_one_rank_equals_the_stack(source: TokenSource, short: ProxyConfig, plain: list[ProxyResult]) -> None:
    stacked = train_stack(source, short, requests())
    np.testing.assert_allclose(losses(plain), losses(stacked), rtol=1e-5)
    for one, other in zip(plain, stacked, strict=True):
        assert (one.slot, one.tokens, one.shares, one.failure) == (other.slot, other.tokens, other.shares, None)
        assert one.bits_per_byte == pytest.approx(other.bits_per_byte, rel=1e-5)
        assert one.curve.keys() == other.curve.keys() != set()
        for tokens, at in one.curve.items():
            assert at == pytest.approx(other.curve[tokens], rel=1e-5)


def test_a_launch_of_one_gives_the_same_bits(source: TokenSource, short: ProxyConfig, plain: list[ProxyResult]) -> None:
    common = train_together(source, short, requests(), TrainingPlan(data_parallel=True), "cpu")
    assert without_time(common) == without_time(plain)


def test_a_rank_that_trains_alone_asks_no_other(
    source: TokenSource, short: ProxyConfig, plain: list[ProxyResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_parallel, "make_accelerator", lambda device: pytest.fail("this would wait for the other ranks"))
    assert without_time(train_together(source, short, requests()[:1], PLAN, "cpu")) == without_time(plain[:1])


def test_micro_batches_change_rounding_only(source: TokenSource, short: ProxyConfig, plain: list[ProxyResult]) -> None:
    parts = train_together(source, short, requests(), TrainingPlan(micro_batch=3), "cpu")
    np.testing.assert_allclose(losses(parts), losses(plain), rtol=1e-5)


def test_bfloat16_stays_near(source: TokenSource, short: ProxyConfig, plain: list[ProxyResult]) -> None:
    half = train_together(source, short, requests(), TrainingPlan(mixed_precision="bf16"), "cpu")
    assert losses(half) != losses(plain)
    np.testing.assert_allclose(losses(half), losses(plain), rtol=2e-2)


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 10))
def test_every_block_is_computed_once(n_blocks: int, ranks: int, micro_batch: int) -> None:
    parts = [share(n_blocks, rank, ranks, micro_batch) for rank in range(ranks)]
    assert len({len(own) for own in parts}) == 1, "all ranks take part in everything"
    computed = [block for own in parts for first, last, weight in own if weight for block in range(first, last)]
    assert computed == list(range(n_blocks))
    assert all(0 <= first < last <= n_blocks and last - first <= micro_batch for own in parts for first, last, _ in own)


@pytest.mark.parametrize("chunk", [1, 100, 2**22])
def test_cross_entropy_in_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_losses, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(11, (3, 6), generator=generator)
    table = torch.randn(11, 11, generator=generator).mul_(3).requires_grad_()

    class Table(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return table[tokens]

    weights = torch.tensor([1.0, 0.0, -2.0])
    found = BlockLosses(Table(), "no")(blocks)
    (gradient,) = torch.autograd.grad((found * weights).sum(), table)
    wanted = F.cross_entropy(table[blocks[:, :-1]].transpose(1, 2), blocks[:, 1:], reduction="none").mean(1)
    (right,) = torch.autograd.grad((wanted * weights).sum(), table)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, right)


def test_only_matrices_decay(tiny_proxy: ProxyConfig) -> None:
    model = module_training.build_model(tiny_proxy, 48, 0)
    decaying, others = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(others["params"]) == 2 * tiny_proxy.layers + 1
    assert sum(len(group["params"]) for group in (decaying, others)) == len(list(model.parameters()))


def test_a_broken_proxy_leaves_the_next_alone(
    source: TokenSource, short: ProxyConfig, plain: list[ProxyResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = module_training.build_model

    def break_one(config: ProxyConfig, vocab_size: int, seed: int) -> nn.Module:
        model = build(config, vocab_size, seed)
        if seed == 3:
            next(model.parameters()).data.fill_(math.nan)
        return model

    monkeypatch.setattr(module_training, "build_model", break_one)
    broken, good = train_together(source, short, requests(), PLAN, "cpu")
    assert broken.failure == "diverged: loss or gradient not finite, or gradient zero, at step 1 of 20"
    assert not broken.losses
    assert not broken.bits_per_byte
    assert not broken.curve
    assert without_time([good]) == without_time(plain[1:])


def test_hopeless_proxies_are_stopped(source: TokenSource, short: ProxyConfig) -> None:
    class Impatient:
        def hopeless(self, curves: Any, step: int) -> set[int]:
            return {0} & set(curves) if step == 10 else set()

    first, second = train_together(source, short, requests(), PLAN, "cpu", stopping=Impatient())
    assert (first.stopped, first.losses, first.failure, first.tokens) == (True, {}, None, 10 * 64)
    assert list(first.curve) == ["128", "320", "640"]
    assert not second.stopped


@pytest.mark.parametrize(("slot", "step"), [(0, 7), (1, 0), (1, 19)])
def test_an_interrupted_job_ends_with_the_same_bits(
    source: TokenSource,
    short: ProxyConfig,
    plain: list[ProxyResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slot: int,
    step: int,
) -> None:
    checkpoints = Checkpoints(tmp_path / "job", "meaning", 1e-9)
    steps: list[tuple[int, int]] = []
    advance = ModuleTraining.advance

    def interrupted(self: ModuleTraining) -> None:
        if (self.request.slot, self.step) == (slot, step) and len(steps) == slot * 20 + step:
            steps.append((-1, -1))
            raise KeyboardInterrupt
        steps.append((self.request.slot, self.step))
        advance(self)

    monkeypatch.setattr(ModuleTraining, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_together(source, short, requests(), PLAN, "cpu", checkpoints=checkpoints)
    assert not list(tmp_path.glob("*.pkl"))
    resumed = train_together(source, short, requests(), PLAN, "cpu", checkpoints=Checkpoints(tmp_path / "job", "meaning", 1e-9))
    assert without_time(resumed) == without_time(plain)
    assert len(set(steps)) == len(steps) == 41, "no step was trained twice"


def test_more_ranks_than_blocks_are_refused(source: TokenSource, short: ProxyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_parallel, "make_accelerator", lambda device: SimpleNamespace(num_processes=5))
    with pytest.raises(ConfigError, match=r"proxy.batch_size: 4 blocks cannot be shared by 5 ranks"):
        train_together(source, short, requests(), TrainingPlan(data_parallel=True))


def test_two_ranks_resume_where_one_of_them_was_killed(
    tmp_path: Path, tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TASKS))
    store = build_store(load_config(tiny).config.corpus, cache_dir=cache)
    proxy = load_config(tiny).config.proxy.model_copy(update={"tokens": 1_920, "learning_rate": 3e-3})
    asked = tuple(ProxyRequest(slot, np.array([0.2, 0.3, 0.5]), slot, 2) for slot in range(2))
    plan = TrainingPlan(data_parallel=True)
    job = ProxyJob(asked, proxy, store.path, store.fingerprint, plan, checkpoint_minutes=1.0)
    path = job.write(tmp_path)
    kill = Path(f"{path}.kill")
    kill.write_text("20")
    launch = partial(_launch, 2)
    with LaunchedExecutor(launch, tmp_path / "boards", together=True) as executor:
        executor.submit(path)
        ((_, reason),) = executor.poll()
        assert reason is not None  # that the launch died, or that rank 0 lost its peer: whoever says it first
        assert not kill.exists()
        executor.submit(path)
        assert executor.poll() == [(path, None)]
    alone = train_together(store, proxy, asked, PLAN, "cpu")
    for rank in range(2):
        told = json.loads((tmp_path / f"{job.key}.job.rank{rank}").read_text())
        assert (told["size"], told["backend"]) == (2, "gloo")
        assert told["began"] in ({"slot": 1, "step": 19}, {"slot": 1, "step": 20})
        results = [ProxyResult(**result) for result in told["results"]]
        np.testing.assert_allclose(losses(results), losses(alone), rtol=1e-5)
        assert [result.shares for result in results] == [result.shares for result in alone]


def _launch(ranks: int, board: Path) -> Any:
    return launch_command(launch_of(["cpu"] * ranks), board, "--task", "rank_tasks:train_all")
