"""Which devices, which executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regmix_active.config.execution import ExecutionConfig
from regmix_active.errors import ConfigError
from regmix_active.execution.board import Board
from regmix_active.execution.choose import Machines, find_machines, open_executor
from regmix_active.execution.launched import LaunchedExecutor
from regmix_active.execution.local import LocalExecutor
from regmix_active.execution.ranks import Member, Place, RankExecutor


def task(path: str, device: str) -> None:
    raise AssertionError


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(**keys: Any) -> str:
        lines = {
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": "MULTI_CPU",
            "use_cpu": True,
            "num_processes": 3,
            **keys,
        }
        path = tmp_path / "accelerate.yaml"
        path.write_text(
            "".join(f"{key}: {str(value).lower() if value in (True, False) else value}\n" for key, value in lines.items())
        )
        return str(path)

    return write


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(Place(0, 3, "cpu"), Board.create(tmp_path / "ranks"))


def test_a_file_of_accelerates_is_the_pools_size(config: Any, tmp_path: Path) -> None:
    machines = find_machines(ExecutionConfig(accelerate_config=config(mixed_precision="bf16")))
    assert list(machines.devices) == ["cpu"] * 3
    assert machines.settled(ExecutionConfig()).mixed_precision == "bf16"
    assert machines.settled(ExecutionConfig(mixed_precision="no")).mixed_precision == "no"
    assert isinstance(open_executor(machines, ExecutionConfig(), task=task, folder=tmp_path), LocalExecutor)
    assert isinstance(open_executor(machines, ExecutionConfig(), together=True, task=task, folder=tmp_path), LaunchedExecutor)


def test_own_workers_win(config: Any) -> None:
    assert len(find_machines(ExecutionConfig(accelerate_config=config(), workers=2)).devices) == 2


def test_several_machines_are_launched(config: Any, tmp_path: Path) -> None:
    several = {"num_machines": 2, "num_processes": 4, "machine_rank": 0, "main_process_ip": "127.0.0.1", "main_process_port": 29511}
    machines = find_machines(ExecutionConfig(accelerate_config=config(**several)))
    assert len(machines.devices) == 4
    assert isinstance(open_executor(machines, ExecutionConfig(), task=task, folder=tmp_path), LaunchedExecutor)


def test_a_launchs_ranks_are_the_workers(member: Member, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machines = find_machines(ExecutionConfig(workers=7), member)
    assert list(machines.devices) == ["cpu"] * 3
    assert isinstance(open_executor(machines, ExecutionConfig(), task=task, folder=tmp_path), RankExecutor)
    assert machines.settled(ExecutionConfig()) == ExecutionConfig()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    settled = machines.settled(ExecutionConfig())
    assert (settled.mixed_precision, settled.parallel) == ("bf16", "data")
    assert machines.settled(ExecutionConfig(parallel="task")).parallel == "task"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ConfigError, match="'fp8' is not supported"):
        machines.settled(ExecutionConfig())


def test_nothing_said_is_this_machine() -> None:
    machines = find_machines(ExecutionConfig(workers=2))
    assert machines == Machines(["cpu", "cpu"])
