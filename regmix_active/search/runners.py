"""Who trains a search's proxies: the swarm on the configuration's corpus, or the user's command, on an executor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyRunner
from regmix_active.search.matching import match_pools, match_shares
from regmix_active.search.meanings import command_meaning, swarm_meaning
from regmix_active.study.meaning import Meaning

if TYPE_CHECKING:
    from regmix_active.corpus.store import TokenStore
    from regmix_active.execution.choose import Machines
    from regmix_active.execution.ranks import Member
    from regmix_active.proxy.planning.planner import SwarmPlan


@dataclass(frozen=True)
class Training:
    """A runner that is ready.

    Attributes:
        runner: Trains proxies until its context is left.
        meaning: What its losses mean.
        plan: How its swarm trains, for the run folder; None where there is no swarm.
    """

    runner: ProxyRunner
    meaning: Meaning
    plan: SwarmPlan | None = None


@contextlib.contextmanager
def ready_to_train(
    config: RunConfig, jobs: Path, plans: Path, observer: Observer, member: Member | None = None
) -> Iterator[Training]:
    """The configuration's runner on its executor.

    Args:
        config: Says which.
        jobs: Folder of job and result files.
        plans: File of the plan that the study began with.
        observer: Told what takes time.
        member: Rank 0 of a launch, whose ranks then train.

    Raises:
        ConfigError: If the devices, the engine or the command are not there as configured.
        CorpusError: If the text cannot be read.
    """
    # Late, so that a search with a runner of its own needs neither torch's training nor worker processes.
    from regmix_active.execution.choose import find_machines, open_executor

    machines = find_machines(config.execution, member)
    execution = machines.settled(config.execution)
    if config.runner.command is not None:
        from regmix_active.proxy.command import CommandRunner, check_command, run_command_job

        check_command(config.runner.command)
        if machines.member is not None or (machines.launch is not None and machines.launch.machines > 1):
            raise ConfigError(
                "runner.command: ranks of a launch train the built-in proxies only; start the search without a launcher, on "
                "several machines by execution.executor: slurm or ray"
            )
        meaning = command_meaning(config)
        told = match_shares(config, meaning)
        for warning in told.warnings if told is not None else ():
            observer.on_warning(warning)
        with open_executor(machines, execution, task=run_command_job, folder=jobs) as executor:
            cwd, shares = Path(config.runner.folder or "."), told.shares if told is not None else None
            yield Training(CommandRunner(config.runner, executor, jobs, cwd, execution, len(machines.devices), shares), meaning)
        return
    from regmix_active.proxy.job import run_job
    from regmix_active.proxy.runner import SwarmRunner

    store = _corpus(config, observer)
    meaning, matched = swarm_meaning(config, store), match_pools(config, store)
    for warning in matched.warnings if matched is not None else ():
        observer.on_warning(warning)
    plan = _planned(config.model_copy(update={"execution": execution}), machines, store, jobs, plans, observer.on_stage)
    together = plan.training.data_parallel
    with open_executor(machines, execution, together=together, task=run_job, folder=jobs) as executor:
        pools = matched.pools if matched is not None else None
        runner = SwarmRunner(store, config.proxy, plan, executor, jobs, config.score_only, execution, pools)
        yield Training(runner, meaning, plan)


def _corpus(config: RunConfig, observer: Observer) -> TokenStore:
    from regmix_active.corpus.build import build_store
    from regmix_active.corpus.fit import check_fit

    observer.on_stage("reading the corpus")
    store = build_store(config.corpus, progress=observer.on_stage)
    if (warning := check_fit(config, store)) is not None:
        observer.on_warning(warning)
    for domain in store.manifest.domains:
        if domain.skipped:
            places = "; ".join(domain.first_skipped)
            observer.on_warning(f"domain {domain.name}: {domain.skipped} lines skipped ({places})")
    return store


def _planned(
    config: RunConfig, machines: Machines, store: TokenStore, jobs: Path, plans: Path, report: Callable[[str], None]
) -> SwarmPlan:
    proxy, execution, budget = config.proxy, config.execution, config.search.budget
    if not machines.cluster:
        from regmix_active.proxy.planning.planner import plan_swarm

        return plan_swarm(store, proxy, execution, machines.devices, budget, plans, report)
    from regmix_active.execution.choose import open_executor
    from regmix_active.proxy.planning.elsewhere import plan_on_cluster

    opened = partial(open_executor, machines, execution, folder=jobs)
    workers = len(machines.devices)
    return plan_on_cluster(store, proxy, execution, workers, budget, plans, jobs, lambda task: opened(task=task), report)
