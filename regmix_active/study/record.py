"""The record of a search: trials planned before they train, results written as they come, history read back as arrays.

What a trial holds is told in :mod:`regmix_active.study.trials`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from regmix_active.errors import StudyError, StudyMismatchError
from regmix_active.mixture.space import MixtureSpace
from regmix_active.proxy.base import ABSURD_LOSS, ProxyRequest, ProxyResult
from regmix_active.study.durable import Durable
from regmix_active.study.estimate import estimated_losses
from regmix_active.study.history import History
from regmix_active.study.imported import ImportedRun
from regmix_active.study.meaning import Meaning
from regmix_active.study.soundness import REMEDY, check_header, check_trial
from regmix_active.study.target import Target
from regmix_active.study.trials import PREFIX, imported_trial, plain, planned_trial

FORMAT = 1
"""Version of what is written here; a study of a newer version is refused."""


class StudyRecord:
    """A study, seen as slots, rounds, mixtures and losses. Only the driver writes through it.

    Every call of the storage is tried for a minute while a restart of its server may mend it; a write may then happen twice, and
    changes nothing the second time. What fails for good is a :class:`~regmix_active.study.durable.StorageError`.
    """

    def __init__(self, study: optuna.Study, guard: Callable[[], None] | None = None) -> None:
        """Wrap a study opened with :func:`regmix_active.study.storage.open_study`.

        Args:
            study: The study.
            guard: Called before every write, and raises if this process may no longer write;
                ``ensure`` of :func:`regmix_active.study.lock.study_lock`.

        Raises:
            StudyError: If the study is not regmix-active's, or was written by a newer version.
        """
        self.study = study
        self._durable = Durable(f"study {study.study_name!r}", guard)
        self._sound: set[tuple[int, TrialState]] = set()
        self._space: MixtureSpace | None = None
        # Written once when the study is claimed, so it is read once: every look at a study's attributes is a query.
        self._header: dict[str, Any] | None = self._attributes().get("regmix_active")
        if self._header is None and self._trials():
            raise StudyError(
                f"study {study.study_name!r} holds trials of another program; give this search another name or storage"
            )
        if self._header is None:
            return
        written = self._header.get("format", math.inf) if isinstance(self._header, dict) else None
        if isinstance(written, int | float) and written > FORMAT:
            raise StudyError(f"study {study.study_name!r} was written by a newer regmix-active; upgrade to read it")
        check_header(study.study_name, self._header)

    @property
    def is_new(self) -> bool:
        """Whether no search has claimed the study yet."""
        return self._header is None

    @property
    def meaning(self) -> Meaning:
        """What the study's runs have in common.

        Raises:
            StudyError: If no search has claimed the study yet.
        """
        return Meaning.from_json(self._claimed["meaning"])

    @property
    def space(self) -> MixtureSpace:
        """The feasible set: what :meth:`allow` was told, else all mixtures of the study's domains."""
        if self._space is None:
            self._space = MixtureSpace(self.meaning.domains, np.array(self.meaning.natural))
        return self._space

    def allow(self, space: MixtureSpace) -> None:
        """Narrow the feasible set for this process. What was trained before stays known, whether it is allowed or not."""
        self._space = space

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that wrote the study last."""
        config = self._attributes().get("config", {})
        return dict(config) if isinstance(config, Mapping) else {}

    @property
    def value_target(self) -> Any:
        """Specification of the target that Optuna's values are in: the study's first one, so that all values compare."""
        return self._claimed["target"]

    @property
    def _claimed(self) -> dict[str, Any]:
        if self._header is None:
            raise StudyError(f"study {self.study.study_name!r} is empty; start it with `regmix-active run`")
        return self._header

    def claim(self, meaning: Meaning, config: Mapping[str, Any], target: Any) -> None:
        """Begin the study, or check that continuing it keeps its meaning.

        Raises:
            StudyMismatchError: With one line per difference.
        """
        if self.is_new:
            header = {"format": FORMAT, "meaning": meaning.to_json(), "target": target}
            self._durable.write(lambda: self.study.set_user_attr("regmix_active", header))
            self._header = header
        self.check(meaning)
        self._durable.write(lambda: self.study.set_user_attr("config", dict(config)))

    def check(self, meaning: Meaning) -> None:
        """Refuse a configuration under which losses would mean something else.

        Raises:
            StudyMismatchError: With one line per difference.
        """
        if lines := self.meaning.differences(meaning):
            raise StudyMismatchError(
                f"study {self.study.study_name!r} means something else than this configuration (study → configuration):\n  "
                + "\n  ".join(lines)
                + "\nGo back to the study's settings, or start a new study with another --name or --out."
            )

    def plan(
        self, requests: Sequence[ProxyRequest], round_index: int, round_size: int, proposer: str, *, alone: bool = False
    ) -> None:
        """Write proxies as RUNNING trials, before any of them trains; each in one transaction, known slots are left alone."""
        known = {trial.user_attrs.get("slot") for trial in self._trials()}
        meaning = self.meaning
        for request in requests:
            if request.slot in known:
                continue
            details = {"round": round_index, "round_size": round_size, "proposer": proposer, "key": self.key(request)}
            self._add(planned_trial(meaning, request, {**details, **({"alone": True} if alone else {})}))

    def key(self, request: ProxyRequest) -> str:
        """Hash of everything that a proxy's losses depend on: its slot, weights and seeds, the data and the proxy's shape."""
        asked = [request.slot, request.weights.tolist(), request.init_seed, request.data_seed]
        text = json.dumps([asked, self.meaning.to_json()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def add_imported(self, runs: Sequence[ImportedRun], source: str) -> int:
        """Add finished runs of others, each in one transaction, with slots -1, -2, ...; those that are there already are left out.

        Args:
            runs: What was trained, and its losses.
            source: Where they are from, for tables.

        Returns:
            How many were added.
        """
        there = {trial.user_attrs["key"] for trial in self.imported()}
        meaning, target, before = self.meaning, Target.parse(self.value_target, self.meaning.loss_names), len(there)
        for run in runs:
            if run.key not in there:
                there.add(run.key)
                self._add(imported_trial(meaning, run, -len(there), source, target))
        return len(there) - before

    def covered(self) -> int:
        """Imported runs that stand for an initial design: those that know every loss, and those that used every domain."""
        imported = self.imported()
        known = min(sum(name in t.user_attrs["losses"] for t in imported) for name in self.meaning.loss_names)
        used = min(sum(t.params[PREFIX + name] > 0 for t in imported) for name in self.meaning.domains)
        return min(known, used)

    def imported(self) -> list[FrozenTrial]:
        """Runs of others, in the order of their import. Those without a value in the study's target are FAIL for Optuna only."""
        theirs = [t for t in self._trials() if t.user_attrs.get("slot", 0) < 0]
        return sorted(theirs, key=lambda t: -int(t.user_attrs["slot"]))

    def finish(self, result: ProxyResult) -> str | None:
        """Write one result; a slot that is finished already keeps what it has.

        Losses that are missing or not finite make a failure: Optuna would store an infinite one as completed.

        Returns:
            Why the proxy counts as failed, or None.

        Raises:
            StudyError: If the slot was never planned.
        """
        try:
            return self._durable.write(lambda: self._finish(result))
        except UpdateFinishedTrialError:  # a write that seemed lost arrived in the meantime
            return self._finish(result)

    def _finish(self, result: ProxyResult) -> str | None:
        """As :meth:`finish`; from its beginning again after a fault, for what is written twice is the same."""
        trial = self._in_slot(result.slot)
        if trial is None:
            raise StudyError(f"study {self.study.study_name!r} has no planned proxy in slot {result.slot}")
        if trial.state.is_finished():
            return trial.user_attrs.get("failure")
        # Optuna has no public way to write an attribute of a planned trial.
        storage, trial_id = self.study._storage, trial._trial_id
        failure, diverged = result.failure, result.diverged
        if failure is None and not result.stopped:
            missing = [name for name in self.meaning.loss_names if name not in result.losses]
            absurd = [name for name in self.meaning.loss_names if not abs(result.losses.get(name, 0.0)) <= ABSURD_LOSS]
            if missing:
                failure = f"no loss called {', '.join(missing)}"
            elif absurd:
                failure, diverged = f"diverged: the loss {absurd[0]} is {result.losses[absurd[0]]:.4g}", True
        if failure is not None:
            storage.set_trial_user_attr(trial_id, "diverged", diverged)
            storage.set_trial_user_attr(trial_id, "failure", failure)
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            return failure
        target = Target.parse(self.value_target, self.meaning.loss_names)
        for key in ("bits_per_byte", "shares", "tokens", "seconds", *["curve"] * bool(result.curve), "losses"):
            storage.set_trial_user_attr(trial_id, key, plain(getattr(result, key)))
        for tokens, losses in sorted(result.curve.items(), key=lambda point: int(point[0])):
            storage.set_trial_intermediate_value(trial_id, int(tokens), self._value(target, losses))
        if result.stopped:
            self.study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self.study.tell(trial.number, self._value(target, result.losses), skip_if_finished=True)
        return None

    def _value(self, target: Target, losses: Mapping[str, float]) -> float:
        return float(target(np.array([[float(losses[name]) for name in self.meaning.loss_names]]))[0])

    def history(self, target: Target) -> History:
        """All completed proxies in the order of their slots, and those stopped early, at the losses that their curves led to.

        Imported runs come first. A stopped proxy is left out while too few have finished to say where such a curve ends.
        """
        trials = self.trials(TrialState.COMPLETE)
        names = target.loss_names
        losses = np.array([[t.user_attrs["losses"][name] for name in names] for t in trials], dtype=np.float64)
        losses = losses.reshape(len(trials), len(names))
        if stopped := self.trials(TrialState.PRUNED):
            guessed = estimated_losses(_curves(stopped), _curves(trials), losses, names)
            known = np.flatnonzero(np.isfinite(guessed.sum(axis=1)))
            trials = [*trials, *(stopped[i] for i in known)]
            losses = np.concatenate([losses, guessed[known]])
        if imported := self.imported():
            theirs = np.array([[t.user_attrs["losses"].get(name, math.nan) for name in names] for t in imported])
            trials, losses = [*imported, *trials], np.concatenate([theirs, losses])
        order = np.argsort(self._slots(trials), kind="stable")
        diverged = [t for t in self.trials(TrialState.FAIL) if t.user_attrs.get("diverged")]
        return History(
            self.space,
            target,
            self._mixtures(trials)[order],
            losses[order],
            self._slots(trials)[order],
            self._mixtures(diverged),
            self._slots(diverged),
            replicates=self.seed_numbers(trials)[order],
        )

    def seed_numbers(self, trials: Sequence[FrozenTrial]) -> NDArray[np.int64]:
        """Number of each trial's seed, in the order in which seeds came up; zeros where every proxy has a seed of its own."""
        planned = [self._seeds(t) for t in self.trials()]
        number = {seeds: i for i, seeds in enumerate(dict.fromkeys(planned))}
        if len(number) == len(planned):
            number = {}
        return np.array([number.get(self._seeds(t), 0) for t in trials], dtype=np.int64)

    @staticmethod
    def _seeds(trial: FrozenTrial) -> tuple[Any, Any]:
        return trial.user_attrs.get("init_seed"), trial.user_attrs.get("data_seed")

    def _mixtures(self, trials: Sequence[FrozenTrial]) -> NDArray[np.float64]:
        return np.array([self.weights(t) for t in trials]).reshape(len(trials), len(self.meaning.domains))

    @staticmethod
    def _slots(trials: Sequence[FrozenTrial]) -> NDArray[np.int64]:
        return np.array([t.user_attrs["slot"] for t in trials], dtype=np.int64)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Proxies of this search in the given states (default: all), by slot; what others enqueued or trained is left out."""
        # Should a slot be there twice, by drivers that did not see each other or a server that committed late: the first counts.
        first: dict[int, FrozenTrial] = {}
        for trial in self._trials():
            if trial.user_attrs.get("slot", -1) >= 0:
                first.setdefault(int(trial.user_attrs["slot"]), trial)
        return [first[slot] for slot in sorted(first) if not states or first[slot].state in states]

    def weights(self, trial: FrozenTrial) -> NDArray[np.float64]:
        """Weights of one trial in the order of the domains, shape ``(d,)``."""
        return np.array([trial.params[PREFIX + name] for name in self.meaning.domains])

    def request(self, trial: FrozenTrial) -> ProxyRequest:
        """What was asked of a trial's proxy.

        Raises:
            StudyError: If it was changed since.
        """
        attributes = trial.user_attrs
        request = ProxyRequest(attributes["slot"], self.weights(trial), attributes["init_seed"], attributes["data_seed"])
        if attributes.get("key", self.key(request)) != self.key(request):
            raise StudyError(
                f"study {self.study.study_name!r}: trial {trial.number} (slot {request.slot}) was changed after it was "
                "planned: its weights or seeds no longer fit its key; restore the study from a copy, or start a new one"
            )
        return request

    def pending(self, slot: int) -> NDArray[np.float64]:
        """Mixtures planned before `slot` that still train, shape ``(p, d)``."""
        return self._mixtures([t for t in self.trials(TrialState.RUNNING) if t.user_attrs["slot"] < slot])

    def rounds(self) -> list[list[FrozenTrial]]:
        """Trials by round, each in the order of its slots."""
        rounds: dict[int, list[FrozenTrial]] = {}
        for trial in self.trials():
            rounds.setdefault(int(trial.user_attrs["round"]), []).append(trial)
        return [rounds[key] for key in sorted(rounds)]

    def count(self, *states: TrialState) -> int:
        """Number of trials of this search in the given states."""
        return len(self.trials(*states))

    def _trials(self) -> list[FrozenTrial]:
        """All trials. Ours are examined, each once in every state.

        Raises:
            StudyError: If one was changed behind our back.
        """
        try:
            trials = self._durable.read(lambda: self.study.get_trials(deepcopy=False))
        except (ValueError, AssertionError, KeyError) as error:  # Optuna's, of rows that it has not written
            name = self.study.study_name
            raise StudyError(f"study {name!r}: a trial cannot be read ({type(error).__name__}: {error}); {REMEDY}") from None
        if self._header is not None:
            meaning = self.meaning
            for trial in trials:
                if (known := (trial.number, trial.state)) not in self._sound:
                    check_trial(self.study.study_name, trial, meaning, PREFIX)
                    if trial.user_attrs.get("slot", -1) >= 0:
                        self.request(trial)
                    self._sound.add(known)
        return trials

    def _attributes(self) -> dict[str, Any]:
        return self._durable.read(lambda: self.study.user_attrs)

    def _in_slot(self, slot: int) -> FrozenTrial | None:
        return next((trial for trial in self._trials() if trial.user_attrs.get("slot") == slot), None)

    def _add(self, trial: FrozenTrial) -> None:
        """Add a trial, once: an insertion whose acknowledgement was lost is found by its slot."""
        slot = trial.user_attrs["slot"]
        self._durable.write(lambda: self.study.add_trial(trial), lambda: self._in_slot(slot) is not None)


def _curves(trials: Sequence[FrozenTrial]) -> list[Mapping[str, Mapping[str, float]]]:
    return [trial.user_attrs.get("curve", {}) for trial in trials]
