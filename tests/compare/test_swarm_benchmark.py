"""``regmix-active benchmark swarm``: equal losses of all loops, processes that start together, and honest sums."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from regmix_active.cli.benchmark_swarm import command
from regmix_active.compare import swarm
from regmix_active.compare.loops import HfLoop, Loop, PlainLoop, RandomTokens, SwarmLoop, llama
from regmix_active.compare.swarm import GpuCase, Watcher, benchmark_swarm, cpu_sections, gpu_section
from regmix_active.compare.swarm_child import Outcome, Task, measure, run_file
from regmix_active.compare.swarm_result import REPEAT_SEEDS, Measurement, Method, Section, Settings, SwarmBenchmark
from regmix_active.config.load import load_config
from regmix_active.config.schema import ProxyConfig, RunConfig
from regmix_active.corpus.build import build_store
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.model.stacked import StackedDecoder
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.planning.roofline import DevicePeak, TokenCost
from regmix_active.report.swarm import lines, loss_line, section_table, speed_plot

PROXY = ProxyConfig(
    layers=2, width=16, heads=2, ffn=24, context=16, batch_size=4, tokens=1_600, learning_rate=3e-3, validation_tokens=64, curve=0
)
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def config(tiny: Path) -> RunConfig:
    return load_config(tiny).config


@pytest.fixture(scope="module")
def store(config: RunConfig, cache: Path) -> TokenStore:
    return build_store(config.corpus, cache_dir=cache / "corpora")


def trained(loop: Loop) -> list[float]:
    loop.advance(5)
    loop.advance(25)
    return loop.score()


def test_all_loops_end_at_the_same_loss(store: TokenStore) -> None:
    requests = [ProxyRequest(i, np.array([0.5, 0.3, 0.2]), init_seed=i, data_seed=i) for i in (0, 1)]
    ours = trained(SwarmLoop(store, PROXY, requests, "cpu", TrainingPlan()))
    rivals = [trained(PlainLoop(store, PROXY, request, "cpu", TrainingPlan()))[0] for request in requests]
    assert ours == pytest.approx(rivals, abs=1e-3)
    assert abs(ours[0] - ours[1]) > 2e-3
    if find_spec("transformers") is not None:
        assert trained(HfLoop(store, PROXY, requests[0], "cpu", TrainingPlan())) == pytest.approx(ours[:1], abs=1e-3)


@needs_transformers
@pytest.mark.parametrize("change", [{}, {"kv_heads": 1, "rotary_base": 500.0}, {"tied_embeddings": False}])
def test_llama_computes_our_logits(change: dict[str, Any]) -> None:
    shape = PROXY.model_copy(update=change)
    tokens = torch.randint(40, (1, 3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = llama(shape, 40, 7)(tokens[0]).logits
    torch.testing.assert_close(theirs, StackedDecoder(shape, 40, [7]).logits(tokens)[0], rtol=1e-4, atol=1e-5)


@needs_transformers
@pytest.mark.parametrize("method", ["swarm", "hf"])
def test_tasks_of_the_gpu_run_on_random_tokens(tiny: Path, tmp_path: Path, method: str) -> None:
    section = gpu_section(GpuCase(str(tiny), (2,), batch_size=2), "cpu")
    assert section.steps == 60
    assert [m.name for m in section.methods] == ["swarm, stack of 2", "one model, CUDA graph", "HF loop"]
    chosen = section.methods[0 if method == "swarm" else 2]
    assert chosen.task is not None
    assert chosen.task.method == method
    assert chosen.task.mixed_precision == "bf16"
    outcome = measure(chosen.task.model_copy(update={"stacks": chosen.seeds(0, 0)}), tmp_path / "0.task")
    assert outcome.tokens == (2 if method == "swarm" else 1) * 50 * 2 * 16
    assert outcome.ended > outcome.began
    assert outcome.peak_bytes > 1e7


def test_without_a_gpu_its_rows_say_so() -> None:
    section = gpu_section(GpuCase("tiny-4k", (8, 32)), None)
    assert section.unmeasured == "unmeasured (no GPU)"
    assert [m.name for m in section.methods] == ["swarm, stack of 8", "swarm, stack of 32", "one model, CUDA graph", "HF loop"]


def test_random_tokens_are_a_source() -> None:
    source = RandomTokens(300, 1000)
    assert source.train(0).max() < 300
    assert len(source.validation(0)) == 1000
    assert source.validation_bytes_per_token(0) == 1.0


def test_the_peak_is_a_task_too(tmp_path: Path) -> None:
    outcome = measure(Task(method="peak", proxy=PROXY, vocab_size=40, threads=1), tmp_path / "0.task")
    assert outcome.peak_threads == 1
    assert outcome.peak_flops > 1e8
    assert outcome.peak_copy_bytes > 1e8


def test_a_task_that_fails_leaves_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "0.task"
    task = Task(method="plain", proxy=PROXY, vocab_size=40, store=tmp_path / "nowhere", stacks=((0,),), threads=1)
    file.write_text(task.model_dump_json(), encoding="utf-8")
    run_file(str(file), "cpu")
    outcome = Outcome.model_validate_json((tmp_path / "0.outcome").read_text(encoding="utf-8"))
    assert outcome.error is not None
    assert outcome.error.startswith("CorpusError: ")


def test_one_run_from_the_command_line(tiny: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGMIX_ACTIVE_CACHE", str(cache))
    monkeypatch.setattr(swarm, "find_spec", lambda name: None)
    peak = DevicePeak(1e11, 1e10, 2)
    monkeypatch.setattr(swarm, "_note_peaks", lambda found, *_: found.peaks.update({"all cores": peak}))
    line = ["--config", str(tiny), "--stacks", "3", "--tokens", "1600", "--repeats", "1", "--processes", "2", "--mode", "all-cores"]
    written = ["--json", str(tmp_path / "swarm.json"), "--plot", str(tmp_path / "swarm.svg")]
    result = CliRunner().invoke(command, [*line, *written], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert "all cores: tokens per second" in shown
    assert "swarm, 2 x stack of 3 is" in shown
    assert "times as fast as plain loops, 2 processes" in shown
    assert "all cores, HF loops, 2 processes: not run: transformers is not installed" in shown
    assert "tiny-4k on a GPU: unmeasured (no GPU)" in shown
    assert (tmp_path / "swarm.svg").stat().st_size > 1000
    content = json.loads((tmp_path / "swarm.json").read_text(encoding="utf-8"))["swarm"]
    assert torch.__version__.startswith(content["machine"]["torch"].partition("+")[0])
    cores, *gpu = content["sections"]
    assert [section["unmeasured"] for section in gpu] == ["unmeasured (no GPU)"] * 2
    assert cores["device_peak"]["threads"] == 2
    ours, plain = (next(m["repeats"][0] for m in cores["methods"] if m["repeats"] and m["stack"] == stack) for stack in (3, None))
    assert ours["loss"] == pytest.approx(plain["loss"], abs=5e-3)
    for run, tokens in ((ours, 3 * 20 * 64), (plain, (20 + 25 + 25) * 64)):  # steps of 64 tokens, the first five not timed
        assert [process["tokens"] for process in run["processes"]] == [tokens, tokens]
        began, ended = ([process[key] for process in run["processes"]] for key in ("began", "ended"))
        assert max(began) < min(ended)  # they trained at the same time
        assert run["wall_s"] == pytest.approx(max(ended) - min(began))
        assert run["speed"] == pytest.approx(2 * tokens / run["wall_s"])


def test_ctrl_c_says_what_was_lost(tiny: Path, cache: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "regmix_active", "benchmark", "swarm", "--config", str(tiny), "--tokens", "1600"]
    process = subprocess.Popen(
        [*line, "--json", "never.json"],
        env={**os.environ, "COLUMNS": "120", "REGMIX_ACTIVE_CACHE": str(cache)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "1,600 tokens per proxy" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode in {130, -signal.SIGINT}
    assert "measurements were made and are lost; nothing was written" in shown
    assert "Traceback" not in errors
    assert not (tmp_path / "never.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stacks", "4,x"], "--stacks 4,x: write numbers from 1"),
        (["--stacks", "0"], "--stacks 0: write numbers from 1"),
        (["--plot", "speeds.gif"], "--plot speeds.gif: end the name in .png"),
        (["--plot", "absent/speeds.png"], "there is no folder absent; make it"),
        (["--json", "absent/speeds.json"], "there is no folder absent; make it"),
        (["--config", "embeded"], "did you mean the preset 'embedded'"),
        (["--set", "proxy.widht=4"], "did you mean 'width'"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert message in str(caught.value)


def test_too_few_tokens_and_foreign_models_are_refused(config: RunConfig, store: TokenStore) -> None:
    with pytest.raises(ConfigError, match="--tokens 640: 10 steps are too few to be timed; give at least 1280"):
        cpu_sections(config, store, Settings(tokens=640))
    foreign = config.model_copy(update={"proxy": config.proxy.model_copy(update={"hf": "gpt2"})})
    with pytest.raises(ConfigError, match=r"proxy\.hf: the swarm stacks the built-in decoder only"):
        cpu_sections(foreign, store, Settings(tokens=1600))


def test_methods_of_the_cpu(config: RunConfig, store: TokenStore) -> None:
    single, cores = cpu_sections(config, store, Settings(stacks=(1, 2, 4), tokens=1600, processes=3))
    assert [m.stack for m in single.methods] == [1, 2, 4, None, None, None]
    assert [(m.stack, m.processes) for m in cores.methods] == [(2, 3), (4, 3), (None, 3), (None, 3), (None, 1)]
    assert cores.methods[1].seeds(2, 1) == (tuple(range(201_000, 201_004)),)
    assert cores.methods[2].seeds(2, 1) == ((201_000,), (201_001,), (201_002,))
    last = cores.methods[-1].task
    assert last is not None
    assert last.threads is None


def test_every_method_rotates_and_a_failure_is_not_repeated(
    config: RunConfig, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def execute(method: Method, repeat: int, temporary: Path) -> list[Outcome]:
        ran.append(method.name)
        if method.name == "plain loop":
            return [Outcome(error="RuntimeError: no luck")]
        loss = {repeat * REPEAT_SEEDS: 2.0}
        return [Outcome(began=1, ended=2, cpu_s=0.5, tokens=100, losses=loss, peak_flops=1e9, peak_copy_bytes=1e9)]

    monkeypatch.setattr(swarm, "_execute", execute)
    monkeypatch.setattr(swarm, "find_spec", lambda name: None)
    monkeypatch.setattr(swarm, "no_compiler", lambda: "none")
    settings = Settings(stacks=(1, 2), tokens=1600, repeats=3, mode="one-thread")
    found = benchmark_swarm(config, store, settings, Watcher())
    one, two, plain = "swarm, stack of 1", "swarm, stack of 2", "plain loop"
    assert ran == ["peak", one, two, plain, two, one, one, two, "peak"]
    assert found.failures == {("one thread", plain): "RuntimeError: no luck"}
    assert f"one thread, {plain}: not run: RuntimeError: no luck" in list(lines(found))
    monkeypatch.setattr(swarm, "_execute", lambda *_: [Outcome(error="MemoryError: no room")])
    with pytest.raises(ProxyError, match="the swarm could not be measured: MemoryError: no room"):
        benchmark_swarm(config, store, settings, Watcher())


def made_up(losses: dict[str, float]) -> SwarmBenchmark:
    """Two repeats on one thread: the swarm at 200 and 300 tokens per CPU-second, its rival at 100 and 100."""
    methods = (Method("ours", None, stack=4), Method("theirs", None))
    section = Section("one thread", "tokens per CPU-second", methods, TokenCost(1e6, 5e5, 1e3, 10), 20)
    found = SwarmBenchmark(Settings(repeats=2), (section,), {"gpu": None, "cpu": "a CPU", "cores": 2})
    found.peaks["one thread"] = DevicePeak(1e9, 1e9, 1)
    for repeat in (0, 1):
        for name, cpu_s in (("ours", (0.5, 1 / 3)[repeat]), ("theirs", 1.0)):
            first = repeat * REPEAT_SEEDS
            others = {first + i: 3 + 0.01 * i for i in range(1, 4)} if name == "ours" else {}
            outcome = Outcome(
                began=0, ended=1, cpu_s=cpu_s, tokens=100, losses={first: losses[name], **others}, peak_bytes=5_000_000
            )
            found.measurements.append(Measurement("one thread", name, repeat, 9.0, (outcome,)))
    return found


def test_ratios_are_taken_within_a_repeat() -> None:
    found = made_up({"ours": 3.0, "theirs": 3.0})
    (section,) = found.sections
    ours, theirs = section.methods
    assert found.best(section) is ours
    ratio, share = found.ratio(section, theirs), found.share(section, ours)
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((2.5, 2, 3))
    assert share == pytest.approx(0.25)  # 250 of the 1000 tokens per second that the roofline allows
    told = list(lines(found))
    assert told[0] == "one thread: ours is 2.50 (2.00–3.00) times as fast as theirs"
    assert any("this machine was busy (load average up to 9.0 on 2 cores)" in line for line in told)
    assert section_table(found, section).row_count == 2
    assert speed_plot(found).axes
    assert json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize(("loss", "equal"), [(3.001, True), (3.2, False), (float("nan"), False)])
def test_losses_that_seeds_do_not_explain_are_marked(loss: float, equal: bool) -> None:
    found = made_up({"ours": 3.0, "theirs": loss})
    assert ("NOT EQUAL" not in loss_line(found)) == equal
    assert found.as_dict()["sections"][0]["methods"][1]["loss_unequal"] != equal
