"""The part of the schema that says where and how proxies train; see :mod:`regmix_active.config.schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from regmix_active.config.section import Positive, Section


class SlurmConfig(Section):
    """What a SLURM job of one worker asks for (`execution.executor: slurm`); submitted through submitit, as arrays."""

    partition: str | None = None
    """Partition; default: the cluster's."""

    account: str | None = None
    """Account that pays."""

    qos: str | None = None
    """Quality of service."""

    minutes: Positive = 240
    """Time limit of one job. A job that reaches it, or is preempted, is queued again and resumes from its checkpoint."""

    cpus: Positive = 1
    """CPU cores of one job."""

    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of one job; it trains on the first."""

    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of one job, GB; default: the cluster's."""

    setup: tuple[str, ...] = ()
    """Shell lines before the job, such as `module load cuda`."""

    options: dict[str, str | int | bool] = Field(default_factory=dict)
    """Further options of sbatch, such as `{constraint: a100, exclude: node7}`."""


class RayConfig(Section):
    """What a Ray task of one worker asks for (`execution.executor: ray`, `pip install regmix-active[ray]`)."""

    address: str = "auto"
    """Cluster: `auto` (the one that runs here, or the address in `RAY_ADDRESS`), `HOST:PORT`, or `local` (start one here)."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPU cores of one task."""

    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of one task; a half lets two tasks share one."""


class ExecutionConfig(Section):
    """Where and how proxies train. Nothing here changes what a loss means, only its last digits."""

    executor: Literal["local", "slurm", "ray"] = "local"
    """`local`: the devices of this machine, or of an Accelerate launch. `slurm`: one SLURM job per worker. `ray`: tasks of a Ray
    cluster. The run folder and the corpus cache must then lie on a file system that all nodes see."""

    workers: Annotated[int, Field(ge=0)] = 0
    """Worker processes, one thread each on CPU; 0 means what `accelerate_config` says, else one per GPU, or one per CPU core. On
    SLURM: jobs at a time (0: 8). On Ray: tasks at a time; 0: as many as the cluster has room for."""

    parallel: Literal["auto", "task", "data"] = "auto"
    """`task`: every device trains proxies of its own. `data`: all devices train each proxy together (DDP, or FSDP by
    `accelerate_config`). `auto`: `data` only for a proxy that does not fit one device."""

    stack: Positive | Literal["auto"] = "auto"
    """Proxies that one worker trains at once as one stacked model; `auto`: by free memory and a short calibration."""

    micro_batch: Positive | Literal["auto"] = "auto"
    """Blocks of one proxy per forward pass (gradient accumulation); `auto`: the whole batch, or what memory allows."""

    mode: Literal["auto", "eager", "compile", "cuda-graph"] = "auto"
    """How steps run: as they are, by `torch.compile`, or as a CUDA graph; `auto`: the fastest for the work at hand, compiling
    included."""

    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """`bf16`: products in bfloat16, everything kept in float32; `auto`: on GPUs that have it."""

    accelerate_config: str | None = None
    """A file that `accelerate config` wrote: devices, precision, FSDP, several nodes. Default: this machine's devices."""

    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    """A job that trains for longer saves its state so often, and resumes at that step; 0: never."""

    attempts: Positive = 3
    """How often a job whose process died or hung is tried before its proxies count as failed."""

    deadline_minutes: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """A job that trains for longer has hung: it is ended and tried again elsewhere. `auto`: ten times the longest that has
    finished, and at least ten minutes; 0: never."""

    slurm: SlurmConfig = SlurmConfig()
    ray: RayConfig = RayConfig()

    log_with: tuple[str, ...] = ()
    """Trackers that get every result, by Accelerate's names: `tensorboard`, `wandb`, `mlflow`, `aim`, `comet_ml` ..."""
