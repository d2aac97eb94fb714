"""A proxy job: one stack of proxies as a file, and the pure function that turns it into a result file.

The function knows nothing of studies and surrogates. It writes its result atomically, and running it again gives the same bytes
or, if the result is there, nothing to do. So a job may be repeated, moved to another machine or collected after a crash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regmix_active.atomic import write_atomically
from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ProxyError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.planning.plan import DEFAULT_PLAN, TrainingPlan

FORMAT = 2


@dataclass(frozen=True)
class ProxyJob:
    """One stack of proxies to train.

    Attributes:
        requests: What each proxy of the stack trains.
        proxy: Shape and training of all of them.
        store: Folder of the token store.
        fingerprint: Fingerprint that store must have.
        plan: How they train.
        trunk: Mixture of the shared trunk, shape ``(d,)``; None without one.
        stopping: Early stopping, as its ``to_json`` gives it.
        checkpoint_minutes: How often a long training is saved.
        halvings: How often the stack is halved before it is tried: because a process died of it.
    """

    requests: tuple[ProxyRequest, ...]
    proxy: ProxyConfig
    store: Path
    fingerprint: str
    plan: TrainingPlan = DEFAULT_PLAN
    trunk: tuple[float, ...] | None = None
    stopping: dict[str, Any] | None = None
    checkpoint_minutes: float = 0.0
    halvings: int = 0

    @property
    def key(self) -> str:
        """Hash of everything that the result depends on; names the job's files."""
        content = self._content()
        for how in ("store", "checkpoint_minutes", "halvings"):
            del content[how]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def result_path(self, folder: Path) -> Path:
        """Where the job's result is, or will be."""
        return folder / f"{self.key}.result.json"

    def write(self, folder: Path) -> Path:
        """Write the job file into `folder` and return its path."""
        path = folder / f"{self.key}.job.json"
        write_atomically(path, json.dumps(self._content()))
        return path

    @classmethod
    def read(cls, path: Path) -> ProxyJob:
        """The job that a file describes."""
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("format")
        content["requests"] = tuple(
            ProxyRequest(**{**one, "weights": np.array(one["weights"], dtype=np.float64)}) for one in content["requests"]
        )
        content["proxy"], content["store"] = ProxyConfig.model_validate(content["proxy"]), Path(content["store"])
        content["plan"], trunk = TrainingPlan(**content["plan"]), content["trunk"]
        return cls(**{**content, "trunk": trunk and tuple(trunk)})

    def _content(self) -> dict[str, Any]:
        requests = [{**asdict(request), "weights": request.weights.tolist()} for request in self.requests]
        return {
            "format": FORMAT,
            "requests": requests,
            "proxy": self.proxy.model_dump(),
            "fingerprint": self.fingerprint,
            "store": str(self.store),
            "plan": asdict(self.plan),
            "trunk": self.trunk and list(self.trunk),
            "stopping": self.stopping,
            "checkpoint_minutes": self.checkpoint_minutes,
            "halvings": self.halvings,
        }


def run_job(path: str, device: str) -> None:
    """Train the stack of a job file and write its result file beside it.

    A stack that does not fit into memory is halved until it does: its proxies train one half after the other, and then in smaller
    micro-batches.

    Raises:
        ProxyError: If the token store is not the one that the job was made for, or if one proxy alone does not fit.
    """
    # Imported here, so that naming the function (as the pool does in every process) does not load torch.
    from regmix_active.corpus.store import TokenStore
    from regmix_active.proxy.attempt import is_main_process, train_job

    job, folder = ProxyJob.read(Path(path)), Path(path).parent
    result = job.result_path(folder)
    # Ranks that train together must all begin: a shared file system may show a result to one of them only.
    if not job.plan.data_parallel and read_results(result) is not None:
        return
    store = TokenStore.open(job.store)
    if store.fingerprint != job.fingerprint:
        raise ProxyError(f"{job.store}: the tokens changed after {path} was written; run the search again to rebuild them")
    results = train_job(job, store, device, folder)
    if job.plan.data_parallel and not is_main_process():
        return
    write_results(result, results)
    for checkpoint in folder.glob(f"{job.key}-*.checkpoint.*"):  # those of earlier attempts, too
        checkpoint.unlink(missing_ok=True)


def write_results(path: Path, results: Sequence[ProxyResult]) -> None:
    """Write results so that the file is whole or absent, also after a power cut."""
    body = [asdict(result) for result in results]
    write_atomically(path, json.dumps({"format": FORMAT, "sha256": _digest(body), "results": body}))


def read_results(path: Path) -> list[ProxyResult] | None:
    """The results in a file, or None if there is no intact one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        intact = content["format"] == FORMAT and content["sha256"] == _digest(content["results"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [ProxyResult(**entry) for entry in content["results"]] if intact else None


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
