"""The loop. A round is: propose → plan (written before anything trains) → train → record.

Proposals are a function of the study's seed, the round's first slot and the proxies finished before it. So a search that was
killed at any moment goes on as the unbroken one would have: it first finishes the round that it finds, then proposes the next.
"""

from __future__ import annotations

import contextlib
import logging
import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from regmix_active.config.schema import SearchConfig
from regmix_active.errors import ConfigError, ProxyError, RegmixActiveError, StrategyError
from regmix_active.mixture.initial import INITIAL_DESIGNS
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyRequest, ProxyResult, ProxyRunner, StoppingRunner, StreamingRunner
from regmix_active.search.stopping import reason_to_stop, remaining_improvement
from regmix_active.strategies import Strategy
from regmix_active.study.history import History
from regmix_active.study.noise import without_offsets
from regmix_active.study.record import StudyRecord
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Surrogate
from regmix_active.surrogate.gaussian_process import GaussianProcess

log = logging.getLogger(__name__)

INITIAL_DESIGN = "initial design"
TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)
"""What counts towards the budget: proxies that finished, and those that were stopped as hopeless."""

FAILURE_WINDOW, LEAST_JUDGED = 20, 5
"""Results by which a search is judged that most proxies fail, and how many there must be."""

NOISE_RUNS, NOISE_SHARE, NOISE_BUDGET = 4, 32, 64
"""Mixtures that are trained with a second seed by default: at most so many, one per so many proxies, none of a smaller budget."""


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
        surrogate: Surrogate | None = None,
        targets: tuple[Target, ...] = (),
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
            surrogate: What says whether going on is worth it (``search.stop_when``); default: the strategy's.
            targets: Two or more of which a trade-off is sought; default: `target` alone.
        """
        self.targets = targets
        self.record, self.runner, self.strategy, self.target = record, runner, strategy, target
        self.settings, self.seed, self.common_random_numbers = settings, seed, common_random_numbers
        self.observer = observer or Observer()
        own = getattr(strategy, "surrogate", None)
        self.surrogate = surrogate or (own if isinstance(own, Surrogate) else GaussianProcess())
        self.stopped: str | None = None
        """Why the search ended before its budget; None if it did not."""
        self._failures: list[bool] = []
        self._references = np.full(len(target.loss_names), np.nan)

    def run(self) -> None:
        """Train until the study has `settings.budget` completed proxies, or until :attr:`stopped` says why there are fewer.

        Raises:
            ProxyError: If too many proxies in a row fail.
            StrategyError: If the strategy proposes something infeasible.
        """
        history = self.record.history(self.target)
        self._check_runner()
        self._references = history.references
        known = history.values[np.isfinite(history.values)]
        best = float(known.min()) if len(known) else None
        self.observer.on_start(self.record.count(*TRAINED), self.settings.budget, best)
        left = [trials for trials in self.record.rounds() if trials[0].user_attrs.get("alone") and not _all_finished(trials)]
        self._stream([self._round(trials[0].user_attrs["round"]) for trials in left], more=False)
        while (planned := self._unfinished_round()) is not None:
            self._train(planned)
        if self.settings.asynchronous:
            self.observer.on_warning(
                "search.asynchronous: what is proposed depends on the order in which proxies end; another run need not repeat it"
            )
            self._stream([], more=True)
        else:
            while not self._is_enough() and (planned := self._next_round()) is not None:
                self._train(planned)

    def _check_runner(self) -> None:
        """Refuse at once what could not be done after the initial design.

        Raises:
            ConfigError: With the key.
        """
        settings = self.settings
        if settings.pruner != "none" and not isinstance(self.runner, StoppingRunner):
            raise ConfigError(f"search.pruner: {settings.pruner} needs the swarm's learning curves; this runner has none")
        if settings.pruner != "none" and (self.target.worst or self.target.excess_over is not None):
            raise ConfigError("search.pruner: judges curves by a weighed sum of losses; set it to none for this target")
        if not settings.asynchronous:
            return
        if not isinstance(self.runner, StreamingRunner):
            raise ConfigError("search.asynchronous: this runner trains in rounds only; set it to false")
        if settings.pruner != "none":
            raise ConfigError("search.pruner: compares the proxies of rounds; set it to none, or search.asynchronous to false")
        if settings.stop_when is not None:
            raise ConfigError("search.stop_when: is looked at between rounds; leave it out, or set search.asynchronous to false")
        if settings.replicates > 1:
            raise ConfigError("search.replicates: belong to one round; set it to 1, or search.asynchronous to false")

    def _stream(self, left: list[Round], *, more: bool) -> None:
        """Keep every worker busy: with rounds that a killed search left, then with what is proposed as soon as one is free."""
        if not (left or more):
            return
        runner = self.runner
        if not isinstance(runner, StreamingRunner):
            raise ConfigError("search.asynchronous: this runner trains in rounds only; set it to false")
        waiting = list(reversed(left))

        def propose(most: int) -> list[ProxyRequest]:
            planned = waiting.pop() if waiting else self._next_company(most, runner.workers) if more else None
            if planned is None:
                return []
            self.observer.on_round(planned.index, len(planned.requests), len(planned.requests), planned.proposer)
            return planned.requests

        finished = {t.user_attrs["slot"] for t in self.record.trials() if t.state.is_finished()}
        with contextlib.closing(runner.stream(propose)) as results:
            for result in results:
                if result.slot not in finished:
                    self._take(result)

    def _train(self, planned: Round) -> None:
        self.observer.on_round(
            planned.index, len(planned.requests), len(planned.requests) - len(planned.finished), planned.proposer
        )
        log.info("round %d: %d proxies by %s", planned.index, len(planned.requests), planned.proposer)
        runner = self._stopping_early(planned)
        with contextlib.closing(runner.run(planned.requests, planned.finished)) as results:
            for result in results:
                if result.slot not in planned.finished:
                    self._take(result)

    def _take(self, result: ProxyResult) -> None:
        """Record a result and tell the observer.

        Raises:
            ProxyError: If too many of the last ones failed.
        """
        failure = self.record.finish(result)
        self._failures.append(failure is not None)
        if failure is not None:
            log.warning("proxy in slot %d failed: %s", result.slot, failure)
            self.observer.on_result(replace(result, failure=failure), None)
            self._stop_if_most_fail(failure)
        elif result.stopped:
            log.info("slot %d: stopped after %d tokens", result.slot, result.tokens)
            self.observer.on_result(result, None)
        else:
            losses = np.array([[result.losses[name] for name in self.target.loss_names]])
            value = float(self.target(losses, self._references)[0])
            # What is over the natural mixture is not known before the first round has told its losses.
            told = f"target {value:.4f} {self.target.unit}" if math.isfinite(value) else "trained"
            log.info("slot %d: %s in %.1f s", result.slot, told, result.seconds)
            self.observer.on_result(result, value)

    def _stopping_early(self, planned: Round) -> ProxyRunner:
        """The runner, told which curves are normal: those of the rounds before, so that a resumed round is stopped alike.

        The initial design trains to its end: what a stopped proxy would have lost is read off its proxies.
        """
        if self.settings.pruner == "none" or planned.proposer == INITIAL_DESIGN:
            return self.runner
        assert isinstance(self.runner, StoppingRunner)
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
        if _all_finished(trials):
            return None
        if len(trials) < size:
            return self._plan(index, first, size)
        return self._round(index)

    def _is_enough(self) -> bool:
        """Whether further proxies are expected to gain less than they should; looked at when a round of the strategy would be next.

        A function of what the study holds, so that a search that was stopped stays so when it is run again.
        """
        tolerance, first = self.settings.stop_when, self.record.count()
        if tolerance is None or self.settings.budget <= self.record.count(*TRAINED):
            return False
        history = self._history(first)
        if first < self._initial or history.known < self.strategy.least_runs:
            return False
        self.observer.on_stage("looking at what is left to gain")
        remaining = remaining_improvement(history, self.surrogate, np.random.default_rng([self.seed, first, 5]))
        log.info("after %d proxies: expected remaining improvement %.4g", first, remaining)
        self.stopped = reason_to_stop(remaining, tolerance, len(history), self.target.unit)
        if self.stopped is not None:
            log.info("stopped: %s", self.stopped)
            self.observer.on_warning(f"stopped: {self.stopped}")
        return self.stopped is not None

    def _next_round(self) -> Round | None:
        missing = self.settings.budget - self.record.count(*TRAINED)
        if missing <= 0:
            return None
        first = self.record.count()
        wanted = self._initial - first if first < self._initial else self._batch_size(first)
        if first == 0 and self._initial > 0:
            wanted += self._noise_runs
        return self._plan(len(self.record.rounds()), first, min(wanted, missing))

    def _next_company(self, most: int, workers: int) -> Round | None:
        """What one free worker of an asynchronous search trains next: its part of a round."""
        first = self.record.count()
        missing = self.settings.budget - self.record.count(*TRAINED, TrialState.RUNNING)
        size = min(most, missing, max(1, self._batch_size(first) // workers))
        return self._plan(len(self.record.rounds()), first, size, alone=True) if size > 0 else None

    def _batch_size(self, first: int) -> int:
        """Proxies in the round that begins with slot `first`."""
        if self.settings.batch_size == "auto":
            return min(max(8 * (first // 32), 8), 64)
        return self.settings.batch_size

    @property
    def _initial(self) -> int:
        """Proxies of the initial design; runs that were imported stand for as many of them."""
        return max(self.settings.initial - self.record.covered(), 0)

    @property
    def _noise_runs(self) -> int:
        """Mixtures of the initial design that are trained with a second seed.

        They belong to the first round, so that a study that was begun without any goes on without any.
        """
        settings = self.settings
        if settings.noise_runs != "auto":
            return min(settings.noise_runs, self._initial)
        if settings.asynchronous or settings.replicates > 1 or settings.budget < NOISE_BUDGET:
            return 0
        return min(NOISE_RUNS, settings.budget // NOISE_SHARE, self._initial)

    def _history(self, first: int) -> History:
        """What is known before slot `first`, as the study's own seed would have shown it."""
        history = replace(self.record.history(self.target).before(first), targets=self.targets)
        self._references = history.references
        return without_offsets(history)

    def _plan(self, index: int, first: int, size: int, *, alone: bool = False) -> Round:
        """Propose a round and write it into the study before anything trains.

        Args:
            index: Number of the round.
            first: Its first slot.
            size: Proxies in it.
            alone: It is one job beside others, which go on.
        """
        history = self._history(first)
        if first < self._initial or history.known < self.strategy.least_runs:
            proposer = INITIAL_DESIGN
            again = max(size - self._initial, 0) if first == 0 and self._initial > 0 else 0
            mixtures = self._initial_design(history.space, first, size - again)
            # Those near the natural mixture: mixtures that nobody would use are noisier by far.
            rows = np.argsort(np.abs(mixtures - history.space.natural).sum(axis=1), kind="stable")[:again]
            plan = [(row, 0) for row in mixtures] + [(mixtures[row], 1) for row in rows]
        else:
            proposer = self.strategy.name
            self.observer.on_stage(f"round {index}: choosing")
            distinct = -(-size // self.settings.replicates)
            # Diverged mixtures are as good as pending: nothing is to be learnt from another proxy there.
            pending = np.concatenate([self.record.pending(first), history.diverged.reshape(-1, history.space.dim)])
            mixtures = self._proposed(history, pending, distinct, np.random.default_rng([self.seed, first]))
            copies = self.settings.replicates
            plan = [(mixtures[i // copies], i % copies) for i in range(size)]
        requests = [self.request(first + i, weights, replicate) for i, (weights, replicate) in enumerate(plan)]
        self.record.plan(requests, index, size, proposer, alone=alone)
        return self._round(index)

    def _round(self, index: int) -> Round:
        """A round as the study holds it: what was planned before a crash stays, whatever would be proposed today."""
        trials = self.record.rounds()[index]
        finished = frozenset(trial.user_attrs["slot"] for trial in trials if trial.state.is_finished())
        return Round(index, [self.record.request(trial) for trial in trials], finished, trials[-1].user_attrs["proposer"])

    def _proposed(self, history: History, pending: Mixtures, size: int, rng: np.random.Generator) -> Mixtures:
        """The strategy's answer, checked.

        Raises:
            StrategyError: If it fails, or answers with something infeasible.
        """
        name, space = self.strategy.name, history.space
        try:
            proposed = self.strategy.propose(history, pending, size, rng)
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
        whole = max(self._initial, first + size)
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

    def _stop_if_most_fail(self, reason: str) -> None:
        """End a search that something is wrong with. Only what this process saw counts, so that a mended one may go on."""
        last = self._failures[-FAILURE_WINDOW:]
        if len(last) >= LEAST_JUDGED and sum(last) > self.settings.failure_rate * len(last):
            hint = "Lower the learning rate if they diverge; n" if reason.startswith("diverged") else "N"
            raise ProxyError(
                f"{sum(last)} of the last {len(last)} proxies failed (search.failure_rate), the last of them: {reason}. "
                f"{hint}othing that finished is lost, and running again continues"
            )


def _all_finished(trials: Sequence[FrozenTrial]) -> bool:
    return len(trials) == trials[0].user_attrs["round_size"] and all(trial.state.is_finished() for trial in trials)
