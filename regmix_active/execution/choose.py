"""What this search trains on: the devices that the user, Accelerate or a launcher gives it, and the executor that uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from regmix_active.config.execution import ExecutionConfig
from regmix_active.errors import ConfigError
from regmix_active.execution.accelerate_config import (
    LaunchConfig,
    devices_of,
    launch_command,
    launch_of,
    launched_with,
    read_accelerate_config,
)
from regmix_active.execution.base import Executor
from regmix_active.execution.local import LocalExecutor, Task, local_devices

if TYPE_CHECKING:
    from regmix_active.execution.ranks import Member


SLURM_WORKERS = 8
"""Jobs at a time where nothing else was said."""


@dataclass(frozen=True)
class Machines:
    """What there is to train on.

    Attributes:
        devices: A torch device per worker, this machine's first.
        launch: What the user's Accelerate configuration asks for, if there is one.
        member: This process's place in a launch (``accelerate launch``, ``torchrun``), if it is in one.
        cluster: Jobs go to an engine, and `devices` says how many at a time and of which kind.
    """

    devices: Sequence[str]
    launch: LaunchConfig | None = None
    member: Member | None = None
    cluster: bool = False

    def settled(self, execution: ExecutionConfig) -> ExecutionConfig:
        """The settings, with what the Accelerate configuration says where they leave it open."""
        if self.launch is not None:
            precision, fsdp = self.launch.mixed_precision, self.launch.fsdp
        elif self.member is not None:  # the launcher hands its configuration over in the environment
            precision, fsdp = launched_with()
        else:
            return execution
        update: dict[str, str] = {}
        if execution.mixed_precision == "auto" and precision is not None:
            update["mixed_precision"] = precision
        if execution.parallel == "auto" and fsdp:
            update["parallel"] = "data"
        return execution.model_copy(update=update)


def find_machines(execution: ExecutionConfig, member: Member | None = None) -> Machines:
    """Look for devices.

    Args:
        execution: The settings: number of workers, Accelerate configuration.
        member: Of a launch, whose ranks are the workers then.

    Raises:
        ConfigError: If the Accelerate configuration cannot be used here.
    """
    if execution.executor != "local":
        if member is not None or execution.accelerate_config is not None:
            raise ConfigError(
                f"execution.executor: {execution.executor} brings its own processes; start the search without a launcher and "
                "without execution.accelerate_config, or set execution.executor to local"
            )
        if execution.parallel == "data":
            raise ConfigError(f"execution.parallel: data needs the devices of this machine or a launcher, not {execution.executor}")
        return Machines(_cluster_devices(execution), cluster=True)
    if member is not None:
        return Machines([member.place.device] * member.place.size, None, member)
    launch = None if execution.workers else read_accelerate_config(execution.accelerate_config)
    if launch is None:
        return Machines(local_devices(execution.workers))
    devices = devices_of(launch)
    return Machines(devices * launch.machines, launch)


def _cluster_devices(execution: ExecutionConfig) -> list[str]:
    if execution.executor == "slurm":
        return ["cuda:0" if execution.slurm.gpus else "cpu"] * (execution.workers or SLURM_WORKERS)
    from regmix_active.execution.ray import places

    return ["cuda:0" if execution.ray.gpus else "cpu"] * (execution.workers or places(execution.ray))


def open_executor(machines: Machines, execution: ExecutionConfig, *, task: Task, folder: Path, together: bool = False) -> Executor:
    """The executor for these machines.

    Args:
        machines: What there is.
        execution: What an engine's jobs ask for.
        task: What is done with a job file.
        folder: Where a launch's board, or an engine's files, may be.
        together: All devices train each proxy.
    """
    if execution.executor == "slurm":
        from regmix_active.execution.slurm import SlurmExecutor

        return SlurmExecutor(task, execution.slurm, folder, workers=len(machines.devices))
    if execution.executor == "ray":
        from regmix_active.execution.ray import RayExecutor

        return RayExecutor(task, execution.ray, workers=len(machines.devices))
    from regmix_active.execution.launched import LaunchedExecutor
    from regmix_active.execution.ranks import RankExecutor

    if machines.member is not None:
        return RankExecutor(machines.member, task, together=together)
    several = machines.launch is not None and machines.launch.machines > 1
    if several or (together and len(machines.devices) > 1):
        launch = machines.launch or launch_of(machines.devices)
        return LaunchedExecutor(partial(launch_command, launch), folder / "board", together=together)
    # One machine needs no launcher: in a pool, a process that dies costs its own job alone.
    return LocalExecutor(task, machines.devices)
