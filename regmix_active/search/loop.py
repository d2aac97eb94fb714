"""The loop. A round is: propose → plan (written before anything trains) → train → record.

Proposals are a function of the study's seed, the round's first slot and the proxies finished before it. So a search that was
killed at any moment goes on as the unbroken one would have: it first finishes the round that it finds, then proposes the next.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from dataclasses import dataclass, replace

import numpy as np
from optuna.trial import TrialState

from regmix_active.config.schema import SearchConfig
from regmix_active.errors import ConfigError, ProxyError, RegmixActiveError, StrategyError
from regmix_active.mixture.initial import INITIAL_DESIGNS
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyRequest, ProxyRunner, StoppingRunner
from regmix_active.strategies import Strategy
from regmix_active.study.history import History
from regmix_active.study.record import StudyRecord
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Surrogate

log = logging.getLogger(__name__)

INITIAL_DESIGN = "initial design"
TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)
"""What counts towards the budget: proxies that finished, and those that were stopped as hopeless."""

LEAST_RUNS = 8
"""Finished proxies without which no surrogate is asked; more random ones are trained first, should the initial ones fail."""


@dataclass(frozen=True)
class Round:
    """A planned round: its number, its proxies, and which of them are finished."""

    index: int
    requests: list[ProxyRequest]
    finished: frozenset[int]
    proposer: str


class SearchLoop:
    """Drives one study to its budget. Holds no state that is not in the study."""

    def __init__(
        self,
        record: StudyRecord,
        runner: ProxyRunner,
        strategy: Strategy,
        target: Target,
        settings: SearchConfig,
        seed: int,
        *,
        common_random_numbers: bool = True,
        observer: Observer | None = None,
    ) -> None:
        """Bring the parts together.

        Args:
            record: The study, claimed already.
            runner: Trains proxies.
            strategy: Chooses them after the initial design.
            target: What is minimised.
            settings: Budget and sizes.
            seed: Seed of the study.
            common_random_numbers: Same initial weights and block order for all proxies.
            observer: Told what happens.
        """
        self.record, self.runner, self.strategy, self.target = record, runner, strategy, target
        self.settings, self.seed, self.common_random_numbers = settings, seed, common_random_numbers
        self.observer = observer or Observer()

    def run(self) -> None:
        """Train until the study has `settings.budget` completed proxies.

        Raises:
            ProxyError: If too many proxies in a row fail.
            StrategyError: If the strategy proposes something infeasible.
        """
        history = self.record.history(self.target)
        best = float(history.values.min()) if len(history) else None
        self.observer.on_start(len(history), self.settings.budget, best)
        while (planned := self._unfinished_round() or self._next_round()) is not None:
            self._train(planned)

    def _train(self, planned: Round) -> None:
        self.observer.on_round(
            planned.index, len(planned.requests), len(planned.requests) - len(planned.finished), planned.proposer
        )
        log.info("round %d: %d proxies by %s", planned.index, len(planned.requests), planned.proposer)
        runner = self._stopping_early(planned)
        with contextlib.closing(runner.run(planned.requests, planned.finished)) as results:
            for result in results:
                if result.slot in planned.finished:
                    continue
                failure = self.record.finish(result)
                if failure is not None:
                    log.warning("proxy in slot %d failed: %s", result.slot, failure)
                    self.observer.on_result(replace(result, failure=failure), None)
                    continue
                if result.stopped:
                    log.info("slot %d: stopped after %d tokens", result.slot, result.tokens)
                    self.observer.on_result(result, None)
                    continue
                losses = np.array([[result.losses[name] for name in self.target.loss_names]])
                value = float(self.target(losses)[0])
                log.info("slot %d: target %.4f in %.1f s", result.slot, value, result.seconds)
                self.observer.on_result(result, value)
        self._stop_after_failures()

    def _stopping_early(self, planned: Round) -> ProxyRunner:
        """The runner, told which curves are normal: those of the rounds before, so that a resumed round is stopped alike.

        The initial design trains to its end: what a stopped proxy would have lost is read off its proxies.
        """
        if self.settings.pruner == "none" or planned.proposer == INITIAL_DESIGN:
            return self.runner
        if not isinstance(self.runner, StoppingRunner):
            raise ConfigError(f"search.pruner: {self.settings.pruner} needs the swarm's learning curves; this runner has none")
        first = min(request.slot for request in planned.requests)
        finished = [t.user_attrs for t in self.record.trials(TrialState.COMPLETE) if t.user_attrs["slot"] < first]
        weights = dict(zip(self.target.loss_names, self.target.weights.tolist(), strict=True))
        return self.runner.stopping_early(self.settings.pruner, weights, [attributes.get("curve", {}) for attributes in finished])

    def _unfinished_round(self) -> Round | None:
        """The last round, if a killed driver left it half planned or half trained."""
        rounds = self.record.rounds()
        if not rounds:
            return None
        trials, index = rounds[-1], len(rounds) - 1
        first, size = trials[0].user_attrs["slot"], trials[0].user_attrs["round_size"]
        if len(trials) == size and all(trial.state.is_finished() for trial in trials):
            return None
        if len(trials) < size:
            return self._plan(index, first, size)
        return self._round(index)

    def _next_round(self) -> Round | None:
        missing = self.settings.budget - self.record.count(*TRAINED)
        if missing <= 0:
            return None
        first = self.record.count()
        if first < self.settings.initial:
            wanted = self.settings.initial - first
        elif self.settings.batch_size == "auto":
            wanted = min(max(8 * (first // 32), 8), 64)
        else:
            wanted = self.settings.batch_size
        return self._plan(len(self.record.rounds()), first, min(wanted, missing))

    def _plan(self, index: int, first: int, size: int) -> Round:
        """Propose a round and write it into the study before anything trains."""
        history = self.record.history(self.target).before(first)
        if first < self.settings.initial or len(history) < self._least_runs:
            proposer = INITIAL_DESIGN
            mixtures = self._initial_design(history.space, first, size)
        else:
            proposer = self.strategy.name
            self.observer.on_stage(f"round {index}: choosing")
            distinct = -(-size // self.settings.replicates)
            mixtures = self._proposed(history, distinct, np.random.default_rng([self.seed, first]))
        copies = self.settings.replicates if proposer != INITIAL_DESIGN else 1
        requests = [self.request(first + i, mixtures[i // copies], i % copies) for i in range(size)]
        self.record.plan(requests, index, size, proposer)
        return self._round(index)

    def _round(self, index: int) -> Round:
        """A round as the study holds it: what was planned before a crash stays, whatever would be proposed today."""
        trials = self.record.rounds()[index]
        finished = frozenset(trial.user_attrs["slot"] for trial in trials if trial.state.is_finished())
        return Round(index, [self.record.request(trial) for trial in trials], finished, trials[-1].user_attrs["proposer"])

    @property
    def _least_runs(self) -> int:
        surrogate = getattr(self.strategy, "surrogate", None)
        return max(LEAST_RUNS, surrogate.minimum_runs) if isinstance(surrogate, Surrogate) else LEAST_RUNS

    def _proposed(self, history: History, size: int, rng: np.random.Generator) -> Mixtures:
        """The strategy's answer, checked.

        Raises:
            StrategyError: If it fails, or answers with something infeasible.
        """
        name, space = self.strategy.name, history.space
        try:
            proposed = self.strategy.propose(history, np.empty((0, space.dim)), size, rng)
        except RegmixActiveError:
            raise
        except Exception as error:
            log.exception("strategy %s failed", name)
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise StrategyError(
                f"strategy {name!r} failed at {place.filename}:{place.lineno}: {type(error).__name__}: {error} "
                "(the traceback is in run.log)"
            ) from error
        try:
            mixtures = space.check(proposed)
        except ValueError as error:
            raise StrategyError(f"strategy {name!r} proposed an infeasible mixture: {error}") from error
        if len(mixtures) != size:
            raise StrategyError(f"strategy {name!r} proposed {len(mixtures)} mixtures where {size} were wanted")
        return mixtures

    def _initial_design(self, space: MixtureSpace, first: int, size: int) -> Mixtures:
        """A part of one design, drawn whole, so that it does not matter in how many rounds it trains. Failures lengthen it."""
        whole = max(self.settings.initial, first + size)
        design = INITIAL_DESIGNS[self.settings.initial_design]
        return design(space, whole, np.random.default_rng([self.seed, 0]))[first : first + size]

    def request(self, slot: int, weights: Mixtures, replicate: int = 0) -> ProxyRequest:
        """The proxy of one slot; its seeds follow from the study's seed and the replicate, and from the slot unless random numbers
        are common.
        """
        source = [self.seed, 1] if self.common_random_numbers else [self.seed, 2, slot]
        source += [replicate] if replicate else []
        init_seed, data_seed = (int(s) for s in np.random.SeedSequence(source).generate_state(2))
        return ProxyRequest(slot, weights, init_seed, data_seed)

    def _stop_after_failures(self) -> None:
        last = self.record.trials(*TRAINED, TrialState.FAIL)[-self.settings.max_failures :]
        if len(last) == self.settings.max_failures and all(trial.state == TrialState.FAIL for trial in last):
            reason = last[-1].user_attrs.get("failure", "unknown")
            raise ProxyError(
                f"the last {len(last)} proxies failed (search.max_failures), the last of them: {reason}. "
                "Lower proxy.learning_rate if they diverge; nothing that finished is lost, and running again continues"
            )
