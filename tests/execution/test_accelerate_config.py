"""Files of `accelerate config`: what they ask for, what is refused, and the command that starts them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config import config_args

from regmix_active.errors import ConfigError
from regmix_active.execution.accelerate_config import (
    LaunchConfig,
    devices_of,
    launch_command,
    launch_of,
    read_accelerate_config,
)

BASE: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "MULTI_GPU",
    "gpu_ids": "all",
    "machine_rank": 0,
    "main_training_function": "main",
    "mixed_precision": "bf16",
    "num_machines": 1,
    "num_processes": 2,
    "rdzv_backend": "static",
    "same_network": True,
    "use_cpu": False,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "accelerate.yaml"


def read(file: Path, **changed: Any) -> LaunchConfig:
    file.write_text(json.dumps({**BASE, **changed}))  # which is YAML, too
    found = read_accelerate_config(file)
    assert found is not None
    return found


def test_gpus_become_devices(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    found = read(file)
    assert found == LaunchConfig(2, mixed_precision="bf16", file=file)
    assert devices_of(found) == ["cuda:0", "cuda:1"]
    assert devices_of(read(file, gpu_ids="1,3")) == ["cuda:1", "cuda:3"]
    assert devices_of(read(file, gpu_ids="2", num_processes=1, distributed_type="NO")) == ["cuda:2"]
    for changed in ({"gpu_ids": "1,4"}, {"num_processes": 5}, {"gpu_ids": "0"}):
        with pytest.raises(ConfigError, match=rf"{file.name}: asks for .* \(`num_processes`, `gpu_ids`\), but 4 are there"):
            devices_of(read(file, **changed))


def test_the_cpu_becomes_devices(file: Path) -> None:
    for changed in ({"distributed_type": "MULTI_CPU"}, {"use_cpu": True}, {"use_cpu": True, "distributed_type": "NO"}):
        found = read(file, num_processes=3, mixed_precision=None, **changed)
        assert (found.cpu, found.mixed_precision, devices_of(found)) == (True, None, ["cpu"] * 3)


def test_fsdp_and_machines(file: Path) -> None:
    machines = {"num_machines": 2, "num_processes": 8, "machine_rank": 1, "main_process_ip": "10.0.0.1", "main_process_port": 29500}
    found = read(file, distributed_type="FSDP", fsdp_config={"fsdp_version": 2}, mixed_precision="no", **machines)
    assert (found.fsdp, found.processes, found.machines, found.machine_rank, found.size) == (True, 4, 2, 1, 8)
    assert (found.main_address, found.mixed_precision) == (("10.0.0.1", 29500), "no")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distributed_type": "DEEPSPEED"}, "`distributed_type: DEEPSPEED` is not supported; choose one of NO, MULTI_CPU"),
        ({"distributed_type": "XLA"}, "`distributed_type: XLA` is not supported"),
        ({"distributed_type": "BANANA"}, "not a file of `accelerate config`"),
        ({"mixed_precision": "fp16"}, "`mixed_precision: fp16` is not supported; write `no` or `bf16`"),
        ({"gpu_ids": "a,b"}, "`gpu_ids: a,b` must be `all` or numbers"),
        ({"num_processes": 0}, "`num_processes: 0` must be 1 or more"),
        ({"num_machines": 2, "num_processes": 3}, "`num_processes: 3` must be a multiple of `num_machines: 2`"),
        ({"num_machines": 2}, "several machines need `main_process_ip` and `main_process_port`"),
        ({"num_machines": 2, "machine_rank": 2}, "`machine_rank: 2` is not below `num_machines: 2`"),
        ({"color": "blue"}, "unknown keys"),
    ],
)
def test_what_cannot_be_run_is_refused(file: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file, **changed)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_other_files_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such file; `accelerate config --config_file .*accelerate.yaml` writes it"):
        read_accelerate_config(file)
    file.write_text(": [")
    with pytest.raises(ConfigError, match="not a file of `accelerate config`"):
        read_accelerate_config(file)
    sage = {"compute_environment": "AMAZON_SAGEMAKER", "distributed_type": "DATA_PARALLEL", "mixed_precision": "no"}
    file.write_text(json.dumps({**sage, "ec2_instance_type": "p3", "iam_role_name": "me"}))
    with pytest.raises(ConfigError, match="`compute_environment` asks for SageMaker"):
        read_accelerate_config(file)


def test_the_default_file_counts_if_it_asks_for_several_processes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_args, "default_config_file", str(file))
    assert read_accelerate_config(None) is None
    read(file, num_processes=1, distributed_type="NO")
    assert read_accelerate_config(None) is None
    assert read(file, num_processes=2) == read_accelerate_config(None)


def test_commands(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    rank = ["-m", "regmix_active.execution.rank", str(tmp_path), "--size", "2"]
    gpus = launch_command(read(file), tmp_path)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    assert gpus.arguments == [*launch, "--main_process_port", "0", *rank]

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    cpu = launch_command(read(file, use_cpu=True, distributed_type="MULTI_CPU"), tmp_path, "--task", "a:b")
    assert cpu.arguments == [*torchrun, "--standalone", *rank, "--task", "a:b"]
    assert cpu.environment == {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}

    machines = {"num_machines": 2, "num_processes": 4, "machine_rank": 1, "main_process_ip": "host0", "main_process_port": 1234}
    assert launch_command(read(file, **machines), tmp_path).arguments == [*launch, *rank[:-1], "4"]
    several = launch_command(read(file, use_cpu=True, **machines), tmp_path)
    address = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "host0", "--master-port", "1234"]
    assert several.arguments == [*torchrun, *address, *rank[:-1], "4"]


def test_a_launch_of_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch_of(["cpu", "cpu"]) == LaunchConfig(2, cpu=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    found = launch_of(["cuda:0", "cuda:2"])
    assert found == LaunchConfig(2, gpus=(0, 2))
    assert launch_command(found, tmp_path).environment["CUDA_VISIBLE_DEVICES"] == "4,7"
