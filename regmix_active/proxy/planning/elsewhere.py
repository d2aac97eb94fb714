"""Planning for a cluster: the plan is made by a job there, because the driver's machine is another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from regmix_active.atomic import write_atomically
from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.schema import ProxyConfig
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ProxyError
from regmix_active.execution.base import Executor
from regmix_active.execution.local import Task
from regmix_active.proxy.planning.planner import SwarmPlan, kept_plan, plan_swarm


def plan_on_cluster(
    store: TokenStore,
    proxy: ProxyConfig,
    execution: ExecutionConfig,
    workers: int,
    proxies: int,
    kept: Path,
    folder: Path,
    open_executor: Callable[[Task], Executor],
    report: Callable[[str], None] = lambda stage: None,
) -> SwarmPlan:
    """Plan on one of the cluster's nodes, or read the plan made before.

    Args:
        store: The tokens.
        proxy: Shape and training.
        execution: What the user has settled.
        workers: Jobs at a time.
        proxies: How many will train.
        kept: File of :func:`regmix_active.proxy.planning.planner.keep`.
        folder: Where request and plan are, on a file system that the nodes see.
        open_executor: The cluster, given what its job does.
        report: Told what takes time.

    Raises:
        ProxyError: If the job fails; the message holds its reason.
    """
    settled = execution.model_dump(exclude={"workers", "log_with", "attempts", "deadline_minutes", "checkpoint_minutes"})
    content = [store.vocab_size, proxy.model_dump(exclude={"tokens"}), settled]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    if (found := kept_plan(kept, key)) is not None:
        return replace(found, workers=workers)
    report(f"planning on a node ({execution.executor})")
    request = folder / f"{key[:16]}.plan.json"
    answer = _answer(request)
    folder.mkdir(parents=True, exist_ok=True)
    answer.unlink(missing_ok=True)
    local = execution.model_copy(update={"executor": "local"}).model_dump()
    asked = {"store": str(store.path), "proxy": proxy.model_dump(), "execution": local, "proxies": proxies, "workers": workers}
    write_atomically(request, json.dumps(asked))
    reason: str | None = None
    with open_executor(plan_job) as executor:
        executor.submit(request)
        while not (ended := executor.poll(60.0)):
            pass
        reason = ended[0][1]
    try:
        plan = SwarmPlan.from_json(json.loads(answer.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        raise ProxyError(
            f"the job that plans the swarm on a node ended without a plan ({reason or 'no reason known'}); see its log in "
            f"{folder}. The run folder and the corpus cache must lie where the nodes see them (REGMIX_ACTIVE_CACHE)"
        ) from None
    return replace(plan, workers=workers, key=key)


def plan_job(path: str, device: str) -> None:
    """Plan for the device of this node and write the plan beside the request."""
    asked = json.loads(Path(path).read_text(encoding="utf-8"))
    proxy, execution = ProxyConfig.model_validate(asked["proxy"]), ExecutionConfig.model_validate(asked["execution"])
    store = TokenStore.open(Path(asked["store"]))
    # One worker's share: what all of them train, over how many there are.
    plan = plan_swarm(store, proxy, execution, [device], -(-asked["proxies"] // asked["workers"]))
    write_atomically(_answer(Path(path)), json.dumps(plan.to_json()))


def _answer(request: Path) -> Path:
    return request.with_name(request.name.replace(".plan.json", ".planned.json"))
