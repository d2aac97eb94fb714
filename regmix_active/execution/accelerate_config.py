"""What a file of ``accelerate config`` asks for, and how a launch of it is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regmix_active.errors import ConfigError

if TYPE_CHECKING:
    from accelerate.commands.config.config_args import ClusterConfig

RANK_MODULE = "regmix_active.execution.rank"
REMEDY = "run `accelerate config` again, or leave execution.accelerate_config out"


@dataclass(frozen=True)
class LaunchConfig:
    """What is to be started.

    Attributes:
        processes: Processes on this machine.
        machines: Number of machines.
        machine_rank: This machine's number; 0 has the driver.
        cpu: Train on the CPU.
        gpus: GPUs of this machine, by their numbers; empty: all.
        mixed_precision: The file's, or None if it does not say.
        fsdp: Shard every model over all processes.
        main_address: Host and port of machine 0, for several machines.
        file: The file, or None for this machine's devices.
    """

    processes: int
    machines: int = 1
    machine_rank: int = 0
    cpu: bool = False
    gpus: tuple[int, ...] = ()
    mixed_precision: Literal["no", "bf16"] | None = None
    fsdp: bool = False
    main_address: tuple[str, int] | None = None
    file: Path | None = None

    @property
    def size(self) -> int:
        """Processes on all machines."""
        return self.processes * self.machines


@dataclass(frozen=True)
class LaunchCommand:
    """A command line, and the environment variables that it needs besides ours."""

    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def read_accelerate_config(file: str | Path | None) -> LaunchConfig | None:
    """Read a file that ``accelerate config`` wrote.

    Args:
        file: The file; None: the user's default one, if it exists and asks for more than one process.

    Returns:
        What it asks for; None if no file was given and the default one does not matter.

    Raises:
        ConfigError: If the file is missing or damaged, or asks for what proxies cannot train on.
    """
    try:
        from accelerate.commands.config import config_args
    except ImportError as error:
        if file is None:
            return None
        raise ConfigError(f"execution.accelerate_config: needs Accelerate ({error}); pip install accelerate") from None

    if file is None:
        default = Path(config_args.default_config_file)
        if not default.is_file():
            return None
        found = _read(default, config_args.load_config_from_file)
        return found if found.size > 1 else None
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"execution.accelerate_config: {path}: there is no such file; `accelerate config --config_file {path}` writes it"
        )
    return _read(path, config_args.load_config_from_file)


def launch_of(devices: Sequence[str]) -> LaunchConfig:
    """The launch of one process per device of this machine."""
    gpus = tuple(int(device.partition(":")[2] or 0) for device in devices if device != "cpu")
    return LaunchConfig(len(devices), cpu=not gpus, gpus=gpus)


def devices_of(config: LaunchConfig) -> list[str]:
    """Torch devices of this machine's processes, for a pool of workers.

    Raises:
        ConfigError: If a GPU that the file names is not there.
    """
    if config.cpu:
        return ["cpu"] * config.processes
    import torch

    there = torch.cuda.device_count()
    wanted = config.gpus or tuple(range(min(config.processes, there)))
    missing = [i for i in wanted if i >= there]
    if missing or len(wanted) < config.processes:
        raise ConfigError(
            f"{config.file}: asks for {config.processes} processes on the GPUs {', '.join(map(str, wanted)) or 'that it finds'} "
            f"(`num_processes`, `gpu_ids`), but {there} are there; {REMEDY}"
        )
    return [f"cuda:{i}" for i in wanted[: config.processes]]


def launch_command(config: LaunchConfig, board: Path, *options: str) -> LaunchCommand:
    """The command that starts this machine's ranks, each of which serves a board.

    Args:
        config: What is started.
        board: Folder of the board.
        options: Further arguments of :mod:`regmix_active.execution.rank`.
    """
    rank = ["-m", RANK_MODULE, str(board), "--size", str(config.size), *options]
    if config.file is not None and not config.cpu:
        # A free port, where several launches share the machine; several machines must agree on one.
        port = ["--main_process_port", "0"] if config.machines == 1 and config.processes > 1 else []
        return LaunchCommand([sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config.file), *port, *rank])
    # `accelerate launch --cpu` starts one process, whatever is asked for.
    arguments = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(config.processes)]
    if config.machines == 1:
        arguments += ["--standalone"]
    elif config.main_address is not None:
        host, number = config.main_address
        arguments += ["--nnodes", str(config.machines), "--node-rank", str(config.machine_rank)]
        arguments += ["--master-addr", host, "--master-port", str(number)]
    environment = {"OMP_NUM_THREADS": "1"}
    if config.cpu:
        environment["ACCELERATE_USE_CPU"] = "true"
    elif config.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = _visible(config.gpus)
    return LaunchCommand([*arguments, *rank], environment)


def _visible(gpus: Sequence[int]) -> str:
    """GPUs as the child must name them: ours are numbers within what we may see."""
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return ",".join(seen[i] if i < len(seen) else str(i) for i in gpus)


def _read(path: Path, load: Any) -> LaunchConfig:
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.utils import DistributedType

    try:
        content = load(str(path))
    # yaml.YAMLError, a wrong type, an unknown key or value: whatever is wrong with it, it is the file.
    except Exception as error:
        raise ConfigError(f"{path}: not a file of `accelerate config` ({error}); {REMEDY}") from error
    if not isinstance(content, ClusterConfig):
        raise ConfigError(f"{path}: `compute_environment` asks for SageMaker, on which proxies cannot train; {REMEDY}")
    kind = content.distributed_type
    good = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
    if kind not in good:
        names = ", ".join(str(each.value) for each in good)
        raise ConfigError(f"{path}: `distributed_type: {kind.value}` is not supported; choose one of {names}: {REMEDY}")
    if str(content.mixed_precision or "no") not in ("no", "bf16"):
        raise ConfigError(f"{path}: `mixed_precision: {content.mixed_precision}` is not supported; write `no` or `bf16`")
    cpu = bool(content.use_cpu) or kind == DistributedType.MULTI_CPU
    total, machines = _counts(path, content)
    if not 0 <= content.machine_rank < machines:
        raise ConfigError(f"{path}: `machine_rank: {content.machine_rank}` is not below `num_machines: {machines}`; mend it")
    address = None
    if machines > 1:
        if not content.main_process_ip or not content.main_process_port:
            raise ConfigError(f"{path}: several machines need `main_process_ip` and `main_process_port`; {REMEDY}")
        address = (str(content.main_process_ip), int(content.main_process_port))
    return LaunchConfig(
        processes=total // machines,
        machines=machines,
        machine_rank=content.machine_rank,
        cpu=cpu,
        gpus=_gpus(path, content.gpu_ids) if not cpu else (),
        mixed_precision="bf16" if str(content.mixed_precision) == "bf16" else "no" if content.mixed_precision else None,
        fsdp=kind == DistributedType.FSDP,
        main_address=address,
        file=path.resolve(),
    )


def _counts(path: Path, content: ClusterConfig) -> tuple[int, int]:
    """Processes on all machines, and machines."""
    total, machines = content.num_processes, content.num_machines or 1
    if not isinstance(total, int) or total < 1:
        raise ConfigError(f"{path}: `num_processes: {total}` must be 1 or more; {REMEDY}")
    if total % machines:
        raise ConfigError(f"{path}: `num_processes: {total}` must be a multiple of `num_machines: {machines}`; mend it")
    return total, machines


def _gpus(path: Path, ids: str | int | None) -> tuple[int, ...]:
    text = "all" if ids is None else str(ids).strip()
    if text == "all":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{path}: `gpu_ids: {text}` must be `all` or numbers such as `0,1`; mend it") from None


def launched_with() -> tuple[Literal["no", "bf16"] | None, bool]:
    """Mixed precision (None: not said) and FSDP, as ``accelerate launch`` hands them to the processes that it starts.

    Raises:
        ConfigError: If the precision is not supported.
    """
    from accelerate.utils import parse_flag_from_env

    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "")
    if precision not in ("", "no", "bf16"):
        raise ConfigError(f"accelerate launch: mixed precision {precision!r} is not supported; start it with `no` or `bf16`")
    return ("bf16" if precision == "bf16" else "no" if precision else None), bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))
