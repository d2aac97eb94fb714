"""Runners: who turns mixtures into losses. The swarm trains stacks of proxies on an executor; a function is for tests and toys."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.schema import ProxyConfig
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution.base import Executor
from regmix_active.proxy.base import Propose, ProxyRequest, ProxyResult
from regmix_active.proxy.flight import Flight, fly, fly_on
from regmix_active.proxy.job import ProxyJob
from regmix_active.proxy.pools import Pools

if TYPE_CHECKING:
    from regmix_active.proxy.planning.planner import SwarmPlan
    from regmix_active.proxy.training.stopping import EarlyStopping

DEFAULT_EXECUTION = ExecutionConfig(checkpoint_minutes=0)


class SwarmRunner:
    """Trains proxies as stacks, one job file per stack, wherever the executor has room.

    How requests are stacked depends on the requests and the study's plan alone, never on which of them are finished or how many
    workers there are today: a proxy trained again after a crash has the same company, and so the same bits.
    """

    def __init__(
        self,
        store: TokenStore,
        proxy: ProxyConfig,
        plan: SwarmPlan,
        executor: Executor,
        folder: Path,
        score_only: Collection[str] = (),
        execution: ExecutionConfig = DEFAULT_EXECUTION,
        pools: Pools | None = None,
    ) -> None:
        """Bind the runner to its tokens and its devices.

        Args:
            store: The tokens.
            proxy: Shape and training of every proxy.
            plan: Proxies per job, and how they train.
            executor: Where jobs run.
            folder: Where job and result files are kept.
            score_only: Domains of the store that are never trained on.
            execution: How often a long job is saved, how long it may take and how often it is tried.
            pools: The part of each domain that proxies draw from; None: all of it.

        Raises:
            ConfigError: If one of them is not in the store, or fewer than two domains remain to be mixed.
        """
        self._store, self._proxy, self._plan, self._executor, self._folder = store, proxy, plan, executor, folder
        self._trained = mixed_domains(store.domains, score_only)
        self._execution, self._pools = execution, pools
        self._stopping: EarlyStopping | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """See :attr:`ProxyRunner.domains`."""
        return tuple(name for name, trained in zip(self._store.domains, self._trained, strict=True) if trained)

    @property
    def natural(self) -> NDArray[np.float64]:
        """Natural shares of :attr:`domains`, shape ``(d,)``, sum 1."""
        shares: NDArray[np.float64] = self._store.natural_shares[self._trained]
        return shares / shares.sum()

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Every domain's own loss, also of those that are only scored."""
        return self._store.domains

    def stopping_early(
        self, pruner: str, weights: Mapping[str, float], finished: Sequence[Mapping[str, Mapping[str, float]]]
    ) -> SwarmRunner:
        """See :meth:`StoppingRunner.stopping_early`."""
        from regmix_active.proxy.training.stopping import EarlyStopping

        other = copy.copy(self)
        other._stopping = EarlyStopping.of_curves(pruner, weights, finished, self._proxy)
        return other

    def jobs(self, requests: Sequence[ProxyRequest], workers: int | None = None) -> list[ProxyJob]:
        """The stacks of a round, of even size, in the order of the slots: as few as the plan allows, but one for every worker.

        None holds a single proxy if it can be helped: libraries multiply one matrix by other code than several, with other last
        digits, so only then would a loss depend on how many workers share a round.
        """
        ordered = [self._widened(request) for request in sorted(requests, key=lambda request: request.slot)]
        n, stack = len(ordered), self._plan.stack
        if not n:
            return []
        pieces = -(-n // stack) if stack == 1 else max(-(-n // stack), min(workers or self._plan.workers, n // 2), 1)
        uniform = self._store.proxy_weights(self._trained / self._trained.sum()) if self._proxy.trunk_tokens else None
        trunk = None if uniform is None else tuple(uniform.tolist())
        return [
            ProxyJob(
                tuple(ordered[i] for i in part),
                self._proxy,
                self._store.path,
                self._store.fingerprint,
                self._plan.training,
                trunk,
                self._stopping.to_json() if self._stopping is not None else None,
                self._execution.checkpoint_minutes,
                pools=self._pools,
            )
            for part in np.array_split(np.arange(n), pieces)
        ]

    @property
    def workers(self) -> int:
        """See :attr:`StreamingRunner.workers`."""
        return self._plan.workers

    @property
    def stack(self) -> int:
        """See :attr:`StreamingRunner.stack`."""
        return self._plan.stack

    def _widened(self, request: ProxyRequest) -> ProxyRequest:
        """The request with weights for all domains of the store: zero for those that are only scored."""
        weights = np.zeros(len(self._trained))
        weights[self._trained] = request.weights
        return replace(request, weights=self._store.proxy_weights(weights))

    def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
        """See :meth:`ProxyRunner.run`.

        Raises:
            ProxyError: If the executor cannot run anything at all.
        """
        jobs = [job for job in self.jobs(requests) if not all(request.slot in known for request in job.requests)]
        yield from fly(self._flight(), jobs)

    def stream(self, propose: Propose) -> Generator[ProxyResult, None, None]:
        """See :meth:`StreamingRunner.stream`.

        Raises:
            ProxyError: If the executor cannot run anything at all.
        """
        return fly_on(self._flight(), lambda: self.jobs(propose(self.stack), workers=1), self.workers)

    def _flight(self) -> Flight:
        return Flight(self._executor, self._folder, self._execution, self._plan.seconds(self._proxy) * self._plan.stack)


def mixed_domains(domains: Sequence[str], score_only: Collection[str]) -> NDArray[np.bool_]:
    """Which domains are trained on, shape ``(len(domains),)``: all that are not scored only.

    Raises:
        ConfigError: If a name is unknown, or fewer than two domains remain to be mixed.
    """
    for name in score_only:
        if name not in domains:
            raise ConfigError(f"score_only: unknown domain '{name}'; the domains are: {', '.join(domains)}")
    mixed = np.array([name not in score_only for name in domains])
    if mixed.sum() < 2:
        raise ConfigError("score_only: leaves fewer than two domains to be mixed")
    return mixed


class FunctionRunner:
    """Asks a Python function for the losses of a mixture: for tests, toys and recorded tables."""

    def __init__(self, domains: Sequence[str], losses: Callable[[NDArray[np.float64]], Mapping[str, float]]) -> None:
        """Wrap a function.

        Args:
            domains: Names, in the order of the weights that the function gets.
            losses: From weights, shape ``(d,)``, to one loss per domain; may raise :class:`ProxyError` for a failed proxy.
        """
        self.domains = tuple(domains)
        self.loss_names = tuple(losses(np.full(len(self.domains), 1 / len(self.domains))))
        self._losses = losses

    def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
        """See :meth:`ProxyRunner.run`."""
        for request in requests:
            if request.slot in known:
                continue
            try:
                losses = self._losses(request.weights)
                yield ProxyResult(request.slot, {name: float(loss) for name, loss in losses.items()})
            except ProxyError as error:
                yield ProxyResult(request.slot, {}, failure=str(error))
