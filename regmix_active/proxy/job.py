"""A proxy job: one stack of proxies as a file, and the pure function that turns it into a result file.

The function knows nothing of studies and surrogates. It writes its result atomically, and running it again gives the same bytes
or, if the result is there, nothing to do. So a job may be repeated, moved to another machine or collected after a crash.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from regmix_active.atomic import write_atomically
from regmix_active.config.schema import ProxyConfig
from regmix_active.errors import ProxyError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.planning.plan import DEFAULT_PLAN, TrainingPlan
from regmix_active.proxy.pools import PooledSource, Pools

log = logging.getLogger(__name__)

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
        pools: The part of each domain that they draw from; None: all of it.
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
    pools: Pools | None = None

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

    def again(self, attempt: int) -> ProxyJob:
        """The job as it is tried again: whole from its checkpoint, and then, for want of memory perhaps, in halves."""
        return replace(self, halvings=attempt - 2)

    def write(self, folder: Path) -> Path:
        """Write the job file into `folder` and return its path."""
        path = folder / f"{self.key}.job.json"
        write_atomically(path, json.dumps(self._content()))
        return path

    @classmethod
    def read(cls, path: Path) -> ProxyJob:
        """The job that a file describes.

        Raises:
            ProxyError: If it is not a job file of this version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError("it is of another version")
            content["requests"] = tuple(
                ProxyRequest(**{**one, "weights": np.array(one["weights"], dtype=np.float64)}) for one in content["requests"]
            )
            content["proxy"], content["store"] = ProxyConfig.model_validate(content["proxy"]), Path(content["store"])
            content["plan"], trunk = TrainingPlan(**content["plan"]), content["trunk"]
            pools = Pools.from_json(content["pools"]) if "pools" in content else None
            return cls(**{**content, "trunk": trunk and tuple(trunk), "pools": pools})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProxyError(f"{path}: not a job file that can be read ({_line(error)}); run the search again") from None

    def _content(self) -> dict[str, Any]:
        requests = [{**asdict(request), "weights": request.weights.tolist()} for request in self.requests]
        # Only where there are any: jobs without pools keep their names.
        pools = {} if self.pools is None else {"pools": self.pools.to_json()}
        return {
            "format": FORMAT,
            "requests": requests,
            "proxy": self.proxy.model_dump(),
            "fingerprint": self.fingerprint,
            "store": str(self.store.absolute()),  # jobs of other nodes start elsewhere
            "plan": asdict(self.plan),
            "trunk": self.trunk and list(self.trunk),
            "stopping": self.stopping,
            "checkpoint_minutes": self.checkpoint_minutes,
            "halvings": self.halvings,
            **pools,
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

    if device == "cuda":  # of a job with several GPUs; a command of the user's takes them all
        device = "cuda:0"
    job, folder = ProxyJob.read(Path(path)), Path(path).parent
    result = job.result_path(folder)
    # Ranks that train together must all begin: a shared file system may show a result to one of them only.
    if not job.plan.data_parallel and read_results(result, [request.slot for request in job.requests]) is not None:
        return
    store = TokenStore.open(job.store)
    if store.fingerprint != job.fingerprint:
        raise ProxyError(f"{job.store}: the tokens changed after {path} was written; run the search again to rebuild them")
    source = store if job.pools is None else PooledSource(store, job.pools, job.proxy.context + 1)
    results = train_job(job, source, device, folder)
    if job.plan.data_parallel and not is_main_process():
        return
    write_results(result, results)
    for checkpoint in folder.glob(f"{job.key}-*.checkpoint.*"):  # those of earlier attempts, too
        checkpoint.unlink(missing_ok=True)


def write_results(path: Path, results: Sequence[ProxyResult]) -> None:
    """Write results so that the file is whole or absent, also after a power cut."""
    body = [asdict(result) for result in results]
    write_atomically(path, json.dumps({"format": FORMAT, "sha256": _digest(body), "results": body}))


def read_results(path: Path, slots: Collection[int] | None = None) -> list[ProxyResult] | None:
    """The results in a file, or None if there is no intact one; the log says why.

    Args:
        path: The file.
        slots: Whose results they must be, each once; None: whoever's.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["sha256"] != _digest(content["results"]):
            raise ValueError("damaged, or of another version")
        results = [_result(entry) for entry in content["results"]]
        found = sorted(result.slot for result in results)
        if found != sorted(set(found) if slots is None else slots):
            raise ValueError(f"results of slots {found}, which are not those that were asked for")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s: not used (%s)", path, _line(error))
        return None
    return results


def _result(entry: dict[str, Any]) -> ProxyResult:
    """One result.

    Raises:
        TypeError: If a field holds something else than :func:`write_results` writes.
    """
    result = ProxyResult(**entry)
    tables = (result.losses, result.bits_per_byte, result.shares, *result.curve.values())
    numbers = [result.slot, result.tokens, result.seconds, *(value for table in tables for value in table.values())]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise TypeError(f"slot {result.slot!r} has text where numbers belong")
    if not isinstance(result.failure, str | None) or not all(isinstance(flag, bool) for flag in (result.stopped, result.diverged)):
        raise TypeError(f"slot {result.slot!r} has a failure that is none")
    return result


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
