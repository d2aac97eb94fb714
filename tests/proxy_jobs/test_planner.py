"""The planner: what fits, what is fastest, and what is remembered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ConfigError
from regmix_active.proxy.planning import planner
from regmix_active.proxy.planning.measure import Calibration, Speed
from regmix_active.proxy.planning.memory import forecast
from regmix_active.proxy.planning.plan import TrainingPlan
from regmix_active.proxy.planning.planner import SwarmPlan, keep, plan_swarm

STORE: Any = SimpleNamespace(vocab_size=1024, path=Path("/store"))
PROXY = ProxyConfig()
GIB = 2**30


class Machine:
    """Memory and speeds of a pretended machine; counts its measurements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, free: int = 8 * GIB) -> None:
        self.speeds = {2: 120e3, 4: 140e3, 8: 142e3, 16: 143e3}
        self.compiled, self.compile_seconds = 200e3, 30.0
        self.asked: list[Calibration] = []
        monkeypatch.setattr(planner, "_measured", self.measured)
        monkeypatch.setattr(planner, "free_memory", lambda devices: free // len(devices))
        monkeypatch.setattr(planner, "default_cache", lambda: tmp_path / "cache" / "plans.json")

    def measured(self, task: Calibration) -> list[Speed]:
        self.asked.append(task)
        if task.modes == ("compile",):
            return [Speed(stack, "compile", self.compiled, self.compile_seconds) for stack in task.stacks]
        return [Speed(stack, mode, self.speeds[stack], 0.0) for stack in task.stacks for mode in task.modes]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def plan(proxies: int = 1, workers: int = 2, kept: Path | None = None, proxy: ProxyConfig = PROXY, **settled: Any) -> SwarmPlan:
    return plan_swarm(STORE, proxy, ExecutionConfig(**settled), ["cpu"] * workers, proxies, kept)


def test_the_smallest_stack_that_is_about_as_fast(machine: Machine) -> None:
    found = plan()
    assert (found.stack, found.training.mode, found.tokens_per_second) == (4, "eager", 140e3)
    assert found.seconds(PROXY) == PROXY.tokens / 140e3
    assert "stacks of 4, eager" in " ".join(found.reasons)


def test_a_plan_is_measured_once_and_kept_with_the_study(machine: Machine, tmp_path: Path) -> None:
    study = tmp_path / "run" / "plan.json"
    keep(study, plan(workers=2))
    assert plan(workers=4) == SwarmPlan(**{**vars(plan(workers=2)), "workers": 4}), "the cache knows speeds, not workers"
    assert plan(workers=4, kept=study).workers == 2, "a search goes on as it began"
    assert len(machine.asked) == 1
    plan(proxy=PROXY.model_copy(update={"width": 64}))
    assert len(machine.asked) == 2
    plan(proxy=PROXY.model_copy(update={"tokens": 800_000}))
    assert len(machine.asked) == 2, "a longer training runs as fast"
    plan(proxies=10)
    assert len(machine.asked) == 3, "but for ten times the work, compiling may pay"
    assert plan(proxies=10, kept=study).workers == 2


def test_damaged_files_of_plans_are_measured_anew(machine: Machine, tmp_path: Path) -> None:
    plan()
    for content in ("{", '{"plans": 3}', '{"plans": {}}'):
        (tmp_path / "cache" / "plans.json").write_text(content)
        assert plan().stack == 4
    assert len(machine.asked) == 4


def test_what_the_user_settles_is_not_measured(machine: Machine) -> None:
    found = plan(stack=16, mode="eager", micro_batch=2)
    assert (found.stack, found.training.micro_batch) == (16, 2)
    assert machine.asked == []


def test_compiling_is_tried_where_there_is_much_to_train_and_taken_where_it_pays(machine: Machine, tmp_path: Path) -> None:
    much = 10_000
    assert plan(proxies=much).training.mode == "compile"
    machine.compiled = 141e3
    assert plan(proxies=much, proxy=PROXY.model_copy(update={"width": 64})).training.mode == "eager"


def test_memory_bounds_the_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need = forecast(PROXY, 1024, 2, TrainingPlan(), "cpu")
    machine = Machine(monkeypatch, tmp_path, free=int(2 * need * 1.3))
    assert plan(workers=2).stack == 2
    assert machine.asked == [], "nothing is left to choose"


def test_a_stack_that_does_not_fit_is_refused_with_one_that_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need = forecast(PROXY, 1024, 5, TrainingPlan(), "cpu")
    Machine(monkeypatch, tmp_path, free=int(need / 0.79))
    with pytest.raises(ConfigError, match=r"execution\.stack: 1000 proxies need about .* 5 fit, or leave it auto"):
        plan(workers=1, stack=1000)


def test_where_nothing_can_be_measured_proxies_train_one_at_a_time(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_measured", lambda task: [])
    found = plan()
    assert found.stack == 1
    assert "memory ran out" in " ".join(found.reasons)


def test_a_compiler_that_runs_out_of_memory_costs_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_measured", lambda task: [] if task.modes == ("compile",) else machine.measured(task))
    assert plan(proxies=10_000).training.mode == "eager"


LARGE = ProxyConfig(layers=4, width=512, heads=8, ffn=1536, context=512, batch_size=32, tokens=10**6)


def test_memory_bounds_the_micro_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room = forecast(LARGE, 1024, 1, TrainingPlan(micro_batch=4), "cpu")
    Machine(monkeypatch, tmp_path, free=int(room / 0.79))
    found = plan(workers=1, proxy=LARGE, stack=1)
    assert found.training.micro_batch == 4
    assert "micro-batches of 4" in " ".join(found.reasons)


def test_what_fits_no_worker_is_trained_together_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Machine(monkeypatch, tmp_path, free=2**20)
    assert plan(workers=2, proxy=LARGE).training.data_parallel
    with pytest.raises(ConfigError, match=r"lower proxy\.width"):
        plan(workers=1, proxy=LARGE)
    with pytest.raises(ConfigError, match=r"execution\.parallel: data"):
        plan(workers=2, proxy=LARGE, parallel="task")


def test_settings_that_contradict_are_refused(machine: Machine) -> None:
    with pytest.raises(ConfigError, match=r"execution\.micro_batch: 3 does not divide"):
        plan(micro_batch=3)
    with pytest.raises(ConfigError, match="needs a GPU"):
        plan(mode="cuda-graph")
