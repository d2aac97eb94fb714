"""The sampler: which mixture a trial of somebody's own Optuna study gets.

The weights are parameters ``w/<domain>``, all proposed together when an objective asks for the first of them. The mixture is first
written into the trial as a whole, then the study is read again: whoever finds it with another trial too moves on, so two processes
never train the same one.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from regmix_active.errors import ConfigError, RegmixActiveError, StrategyError, StudyError
from regmix_active.mixture.designs import around
from regmix_active.mixture.initial import BLOCK, INITIAL_DESIGNS
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.optuna.claim import claim
from regmix_active.optuna.reader import PROPOSED, TrialReader
from regmix_active.search.spaces import constrained_space
from regmix_active.study.trials import PREFIX

if TYPE_CHECKING:
    from regmix_active.strategies import Strategy
    from regmix_active.surrogate.base import Surrogate

RESOLUTION = 1e-4
"""Mixtures whose weights agree to this are the same proxy."""

ATTEMPTS = 100
"""How often a mixture that is taken is moved before that is an error."""

_one_at_a_time = threading.Lock()
"""Strategies and surrogates keep what they fitted, and each proposal of a thread shall know the one before."""


class UnfitStudyError(StudyError, ValueError):
    """A study that no mixture search can serve. Also a `ValueError`, as of all of Optuna's samplers."""


class MixtureSampler(BaseSampler):
    """Proposes mixtures as `regmix-active run` does: an initial design, then a strategy that asks a surrogate.

    What a trial gets depends on the seed, its number, and the trials that are finished, running or queued then; neither on time,
    nor on the process, nor on proposals made before. So `reseed_rng` has nothing to do, and a study goes on after a restart as it
    would have.

    What becomes of a trial's result:

    ==============  ======================================================================================================
    COMPLETE        learnt from; if a loss is not finite, as FAIL
    RUNNING         pending: its mixture is counted on
    WAITING         pending; a mixture that was enqueued trains as it is, domains left out of it have weight zero
    FAIL, NaN       not learnt from; its neighbourhood is avoided, unless its user attribute ``diverged`` is False
    PRUNED          as FAIL: its last intermediate value is no final loss, and it was stopped because it is bad
    ==============  ======================================================================================================

    Several processes may work on one study. The journal and PostgreSQL need nothing. SQLite hands one queued trial to two of them
    unless each opened it with :func:`regmix_active.study.storage.open_storage`; with a plain URL the second process is refused.
    A process that was killed leaves its trial RUNNING, hence pending: give the storage a heartbeat, or tell the trial FAIL.
    """

    def __init__(
        self,
        domains: Sequence[str] | MixtureSpace,
        *,
        natural: Sequence[float] | Mapping[str, float] | None = None,
        constraints: Mapping[str, Any] | None = None,
        strategy: str | Strategy = "variance-reduction",
        surrogate: str | Surrogate = "gp",
        target: Literal["mean"] | Mapping[str, float] | str = "mean",
        initial: int = 16,
        initial_design: str = "d-optimal",
        independent_sampler: BaseSampler | None = None,
        seed: int = 0,
    ) -> None:
        """Describe the search.

        Args:
            domains: Names; their order does not matter. Or the feasible set.
            natural: Shares or token counts of the domains, in their order or by name; default: equal. Not beside a `MixtureSpace`.
            constraints: Keys of the configuration's section ``mixture``: floors, caps, groups, epochs ... (but not
                ``match_repetition``: the objective trains the proxies). Not beside a `MixtureSpace`. What is proposed keeps them;
                what is enqueued trains as it is.
            strategy: Chooses after the initial design: a name of `regmix-active strategies`, ``file.py:Name``, or an instance.
            surrogate: Name or instance, for a strategy that is not an instance.
            target: What is minimised: ``mean`` of the losses, one's name, or weights by name.
            initial: Trials of the initial design.
            initial_design: ``d-optimal``, ``maximin`` or ``regmix``.
            independent_sampler: For parameters that are no weights; default: uniformly random. The surrogate does not see these.
            seed: Of everything random.

        Raises:
            ConfigError: If an option does not fit.
            StrategyError: If the strategy cannot be loaded.
        """
        if initial_design not in INITIAL_DESIGNS:
            raise ConfigError(f"initial_design: unknown design {initial_design!r}; choose one of: {', '.join(INITIAL_DESIGNS)}")
        if initial < 0 or seed < 0:
            raise ConfigError(f"initial and seed must be 0 or more, got {initial} and {seed}")
        self.space = _space(domains, natural, constraints)
        self._reader = TrialReader(self.space, target)
        self.initial, self.initial_design, self.seed = initial, initial_design, seed
        self._strategy, self._surrogate, self._independent = strategy, surrogate, independent_sampler
        self._loaded: Strategy | None = None
        self._design: Mixtures = np.empty((0, self.space.dim))
        # A wrong name shall not wait for the end of the initial design; but loading takes seconds, which the defaults need not yet.
        if strategy != "variance-reduction" or surrogate != "gp":
            self._load()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All weights, always."""
        return {PREFIX + name: FloatDistribution(0.0, 1.0) for name in self.space.domains}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Refuse a study or a queued trial that cannot be served, before anything trains; a trial that was made for it is failed.

        Raises:
            UnfitStudyError: If the study maximises, or has several objectives.
            StudyBusyError: If this storage lets only one process work, and another one does.
            StudyError: If the trial was enqueued with weights that are no mixture.
        """
        claim(study, trial)
        try:
            _check_directions(study)
            self._reader.given(trial)
        except RegmixActiveError:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            raise
        if self._independent is not None:
            self._independent.before_trial(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, float]:
        """The weights of a trial by parameter.

        Raises:
            StudyError: If some of them are held fixed by another sampler, or the trials' losses do not fit the target.
            StrategyError: If the strategy proposes something infeasible.
        """
        _check_directions(study)
        if fixed := [name for name in self.space.domains if PREFIX + name not in search_space]:
            raise StudyError(f"the weight of {fixed[0]!r} cannot be held fixed by itself: the weights are proposed together")
        weights = self._reader.given(trial)
        if weights is None:
            with _one_at_a_time:
                weights = self._propose(study, trial)
        return dict(zip(self.infer_relative_search_space(study, trial), weights.tolist(), strict=True))

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """A parameter that is no weight, such as a learning rate.

        Raises:
            StudyError: If it is a weight: one alone means nothing.
        """
        _check_directions(study)
        if param_name.startswith(PREFIX):
            raise StudyError(
                f"parameter {param_name!r}: weights are proposed together, between 0 and 1, for {', '.join(self.space.domains)}; "
                "use suggest_mixture(trial, domains)"
            )
        if self._independent is not None:
            return self._independent.sample_independent(study, trial, param_name, param_distribution)
        source = np.random.SeedSequence([self.seed, trial.number, zlib.crc32(param_name.encode())])
        random = RandomSampler(seed=int(source.generate_state(1)[0]))
        return random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Nothing is kept here; the sampler of other parameters may."""
        if self._independent is not None:
            self._independent.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Randomness follows from the seed and the trial's number, so copies of this sampler need no seeds of their own."""
        if self._independent is not None:
            self._independent.reseed_rng()

    def _propose(self, study: Study, trial: FrozenTrial) -> NDArray[np.float64]:
        """A mixture that no other trial has, shape ``(d,)``; written into the trial."""
        rng = np.random.default_rng([self.seed, 3, trial.number])
        trials = _others(study, trial)
        mixture = self._chosen(trials, trial.number, rng)
        for _ in range(ATTEMPTS):
            if not _is_in(mixture, self._reader.mixtures(trials)):
                study._storage.set_trial_system_attr(trial._trial_id, PROPOSED, self.space.as_dict(mixture))
                # Of two processes that hold the same mixture, the one that wrote last sees the other: so whoever sees one moves.
                trials = _others(study, trial)
                if not _is_in(mixture, self._reader.mixtures(trials)):
                    return mixture
            known = self._reader.mixtures(trials)
            near = around(self.space, mixture[None], 64, rng)
            mixture = next((row for row in near if not _is_in(row, known)), near[-1])
        raise StrategyError(
            f"trial {trial.number}: every mixture near {self.space.as_dict(mixture)} is taken; try another strategy"
        )

    def _chosen(self, trials: Sequence[FrozenTrial], number: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """What the initial design or the strategy answers for the trial of that number, shape ``(d,)``."""
        if number < self.initial:
            return self._designed(number)
        history, strategy = self._reader.history(trials), self._load()
        if len(history) < strategy.least_runs:
            return self._designed(number)
        seen = (~np.isnan(history.losses)).sum(axis=0)
        if seen.min() < strategy.least_runs:
            raise StudyError(
                f"loss {history.target.loss_names[int(seen.argmin())]!r} was recorded by {seen.min()} of {len(history)} trials; "
                "record the same losses in every trial, or name those that matter: MixtureSampler(target={...})"
            )
        open_trials = [t for t in trials if not t.state.is_finished()]
        # What was avoided is as good as pending: nothing is to be learnt there.
        pending = np.concatenate([self._reader.mixtures(open_trials), history.diverged])
        # Trials before this one whose mixtures are not known yet choose first.
        before = sum(t.state == TrialState.RUNNING and t.number < number and self._reader.weights(t) is None for t in trials)
        proposed = strategy.propose(history, pending, before + 1, rng)
        try:
            mixtures = self.space.check(proposed)
        except ValueError as error:
            raise StrategyError(f"strategy {strategy.name!r} proposed an infeasible mixture: {error}") from error
        if len(mixtures) != before + 1:
            raise StrategyError(f"strategy {strategy.name!r} proposed {len(mixtures)} mixtures where {before + 1} were wanted")
        return mixtures[-1]

    def _designed(self, number: int) -> NDArray[np.float64]:
        """Row of the initial design, which is drawn whole; failures lengthen it, by a block at a time."""
        whole = self.initial if number < self.initial else max(self.initial, BLOCK * (number // BLOCK + 1))
        design = self._design
        if len(design) != whole:
            rng = np.random.default_rng([self.seed, 0])
            self._design = design = INITIAL_DESIGNS[self.initial_design](self.space, whole, rng)
        row: NDArray[np.float64] = design[number]
        return row

    def _load(self) -> Strategy:
        if self._loaded is None:
            # Late: these import torch, which a worker of the initial design does not need.
            from regmix_active.strategies import Strategy, load_strategy
            from regmix_active.surrogate.registry import load_surrogate

            if isinstance(self._strategy, Strategy):
                self._loaded = self._strategy
            else:
                surrogate = load_surrogate(self._surrogate) if isinstance(self._surrogate, str) else self._surrogate
                self._loaded = load_strategy(self._strategy, None, surrogate)
        return self._loaded


def _space(
    domains: Sequence[str] | MixtureSpace,
    natural: Sequence[float] | Mapping[str, float] | None,
    constraints: Mapping[str, Any] | None,
) -> MixtureSpace:
    """The feasible set; names are sorted, so that proposals do not depend on their order, which a set may give any."""
    if isinstance(domains, MixtureSpace):
        for key, given in (("natural", natural), ("constraints", constraints)):
            if given is not None:
                raise ConfigError(f"{key}: the MixtureSpace has it already; leave it out")
        return domains
    if isinstance(domains, str):
        raise ConfigError(f"domains: a list of names is wanted, got the text {domains!r}")
    names = tuple(domains)
    if isinstance(natural, Mapping):
        if set(natural) != set(names):
            raise ConfigError(f"natural: needs each of {', '.join(names)}, got {', '.join(natural)}")
        natural = [natural[name] for name in names]
    shares = np.ones(len(names)) if natural is None else np.asarray(natural, dtype=np.float64)
    if shares.shape != (len(names),) or not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise ConfigError(f"natural: needs one share or token count >= 0 per domain ({', '.join(names)}), got {natural}")
    order = sorted(range(len(names)), key=names.__getitem__)
    try:
        space = MixtureSpace(tuple(names[i] for i in order), shares[order] / shares.sum())
    except ValueError as error:
        raise ConfigError(f"domains: {error}") from None
    return space if constraints is None else constrained_space(space, constraints)


def _check_directions(study: Study) -> None:
    if study.directions != [StudyDirection.MINIMIZE]:
        directions = ", ".join(direction.name.lower() for direction in study.directions)
        raise UnfitStudyError(f"this study has the direction {directions}; a mixture search minimises one target")


def _others(study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """All trials but one, as the storage has them now; also those that a pruner hides from its sampler."""
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
    return [other for other in trials if other.number != trial.number]


def _is_in(mixture: NDArray[np.float64], mixtures: Mixtures) -> bool:
    return bool((np.abs(mixtures - mixture).max(axis=1) < RESOLUTION).any())
