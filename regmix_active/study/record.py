"""The record of a search: trials planned before they train, results written as they come, history read back as arrays.

A trial is one mixture. Its parameters ``w/<domain>`` are the weights (so that every Optuna tool works on them), its value is the
target that the study was started with, and its user attributes hold all losses, seeds and times:

========================  ====================================================================
``slot``, ``round``       position in the study and the round that proposed it
``round_size``            how many mixtures its round planned
``proposer``              strategy, or ``initial design``
``init_seed``             seed of the initial weights
``data_seed``             seed of the order of domains and blocks
``losses``                nats per token by domain
``bits_per_byte``         the same in bits per byte
``tokens``, ``seconds``   training tokens and seconds of its proxy
``curve``                 losses on the way, by training tokens; the target of each is an intermediate value of the trial
``failure``               why a failed proxy has no losses
========================  ====================================================================
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from regmix_active.errors import StudyError, StudyMismatchError
from regmix_active.mixture.space import MixtureSpace
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.study.estimate import estimated_losses
from regmix_active.study.history import History
from regmix_active.study.target import Target

PREFIX = "w/"
"""Parameter name of a weight: this, then the domain."""

FORMAT = 1
"""Version of what is written here; a study of a newer version is refused."""


@dataclass(frozen=True)
class Meaning:
    """What the runs of a study have in common; a configuration that differs here belongs to another study.

    Attributes:
        domains: Names, in the order of the weights.
        natural: Natural share per domain.
        loss_names: Names of the losses.
        facts: Everything else that changes what a loss means (corpus, proxy, seed), by dotted key.
    """

    domains: tuple[str, ...]
    natural: tuple[float, ...]
    loss_names: tuple[str, ...]
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As stored in the study."""
        return {
            "domains": list(self.domains),
            "natural": list(self.natural),
            "loss_names": list(self.loss_names),
            "facts": dict(self.facts),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Meaning:
        """The inverse of :meth:`to_json`."""
        return cls(tuple(data["domains"]), tuple(data["natural"]), tuple(data["loss_names"]), dict(data["facts"]))

    def differences(self, other: Meaning) -> list[str]:
        """Lines ``key: mine → other's`` for all that differs."""
        lines = []
        for field in ("domains", "loss_names"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if field == "loss_names" and (mine, theirs) == (self.domains, other.domains):
                continue  # said already
            if mine != theirs:
                gone, new = [n for n in mine if n not in theirs], [n for n in theirs if n not in mine]
                changes = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(new)}"] * bool(new)
                lines.append(f"{field}: {len(mine)} → {len(theirs)} ({'; '.join(changes) or 'in another order'})")
        if self.domains == other.domains and not np.allclose(self.natural, other.natural, rtol=0, atol=1e-6):
            lines.append(
                "natural shares: "
                + ", ".join(
                    f"{name} {a:.4g} → {b:.4g}"
                    for name, a, b in zip(self.domains, self.natural, other.natural, strict=True)
                    if not math.isclose(a, b, abs_tol=1e-6)
                )
            )
        for key in sorted(set(self.facts) | set(other.facts)):
            before, after = self.facts.get(key, "(not set)"), other.facts.get(key, "(not set)")
            if before != after:
                lines.append(f"{key}: {before} → {after}")
        return lines


class StudyRecord:
    """A study, seen as slots, rounds, mixtures and losses. Only the driver writes through it."""

    def __init__(self, study: optuna.Study) -> None:
        """Wrap a study opened with :func:`regmix_active.study.storage.open_study`.

        Raises:
            StudyError: If the study is not regmix-active's, or was written by a newer version.
        """
        self.study = study
        # Written once when the study is claimed, so it is read once: every look at a study's attributes is a query.
        self._header: dict[str, Any] | None = study.user_attrs.get("regmix_active")
        if self._header is None and study.get_trials(deepcopy=False):
            raise StudyError(
                f"study {study.study_name!r} holds trials of another program; give this search another name or storage"
            )
        if self._header is not None and self._header["format"] > FORMAT:
            raise StudyError(f"study {study.study_name!r} was written by a newer regmix-active; upgrade to read it")

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
        """The feasible set of the study."""
        return MixtureSpace(self.meaning.domains, np.array(self.meaning.natural))

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that wrote the study last."""
        return dict(self.study.user_attrs.get("config", {}))

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
            self._header = {"format": FORMAT, "meaning": meaning.to_json(), "target": target}
            self.study.set_user_attr("regmix_active", self._header)
        self.check(meaning)
        self.study.set_user_attr("config", dict(config))

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

    def plan(self, requests: Sequence[ProxyRequest], round_index: int, round_size: int, proposer: str) -> None:
        """Write proxies as RUNNING trials, before any of them trains; each in one transaction, known slots are left alone."""
        known = {trial.user_attrs.get("slot") for trial in self._trials()}
        names = [PREFIX + domain for domain in self.meaning.domains]
        distributions: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in names}
        for request in requests:
            if request.slot in known:
                continue
            attributes = {
                "slot": request.slot,
                "round": round_index,
                "round_size": round_size,
                "proposer": proposer,
                "init_seed": request.init_seed,
                "data_seed": request.data_seed,
            }
            weights = dict(zip(names, request.weights.tolist(), strict=True))
            self.study.add_trial(
                create_trial(state=TrialState.RUNNING, params=weights, distributions=distributions, user_attrs=attributes)
            )

    def finish(self, result: ProxyResult) -> str | None:
        """Write one result; a slot that is finished already keeps what it has.

        Losses that are missing or not finite make a failure: Optuna would store an infinite one as completed.

        Returns:
            Why the proxy counts as failed, or None.

        Raises:
            StudyError: If the slot was never planned.
        """
        trial = next((t for t in self._trials() if t.user_attrs.get("slot") == result.slot), None)
        if trial is None:
            raise StudyError(f"study {self.study.study_name!r} has no planned proxy in slot {result.slot}")
        if trial.state.is_finished():
            return trial.user_attrs.get("failure")
        # Optuna has no public way to write an attribute of a planned trial.
        storage, trial_id = self.study._storage, trial._trial_id
        failure = result.failure
        complete = all(math.isfinite(result.losses.get(name, math.nan)) for name in self.meaning.loss_names)
        if failure is None and not result.stopped and not complete:
            failure = "not every loss is there and finite"
        if failure is not None:
            storage.set_trial_user_attr(trial_id, "failure", failure)
            self.study.tell(trial.number, state=TrialState.FAIL)
            return failure
        target = Target.parse(self.value_target, self.meaning.loss_names)
        for key in ("bits_per_byte", "shares", "tokens", "seconds", *["curve"] * bool(result.curve), "losses"):
            storage.set_trial_user_attr(trial_id, key, _plain(getattr(result, key)))
        for tokens, losses in sorted(result.curve.items(), key=lambda point: int(point[0])):
            storage.set_trial_intermediate_value(trial_id, int(tokens), self._value(target, losses))
        if result.stopped:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self.study.tell(trial.number, self._value(target, result.losses))
        return None

    def _value(self, target: Target, losses: Mapping[str, float]) -> float:
        return float(target(np.array([[float(losses[name]) for name in self.meaning.loss_names]]))[0])

    def history(self, target: Target) -> History:
        """All completed proxies in the order of their slots, and those stopped early, at the losses that their curves led to.

        A stopped proxy is left out while too few have finished to say where such a curve ends.
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
        slots = np.array([t.user_attrs["slot"] for t in trials], dtype=np.int64)
        order = np.argsort(slots)
        mixtures = np.array([self.weights(t) for t in trials]).reshape(len(trials), len(self.meaning.domains))
        return History(self.space, target, mixtures[order], losses[order], slots[order])

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials of this search in the given states (default: all), by slot; trials that others enqueued are left out."""
        ours = [t for t in self._trials() if "slot" in t.user_attrs and (not states or t.state in states)]
        return sorted(ours, key=lambda t: int(t.user_attrs["slot"]))

    def weights(self, trial: FrozenTrial) -> NDArray[np.float64]:
        """Weights of one trial in the order of the domains, shape ``(d,)``."""
        return np.array([trial.params[PREFIX + name] for name in self.meaning.domains])

    def request(self, trial: FrozenTrial) -> ProxyRequest:
        """What was asked of a trial's proxy."""
        attributes = trial.user_attrs
        return ProxyRequest(attributes["slot"], self.weights(trial), attributes["init_seed"], attributes["data_seed"])

    def rounds(self) -> list[list[FrozenTrial]]:
        """Trials by round, each in the order of its slots."""
        rounds: dict[int, list[FrozenTrial]] = {}
        for trial in self.trials():
            rounds.setdefault(int(trial.user_attrs["round"]), []).append(trial)
        return [rounds[key] for key in sorted(rounds)]

    def count(self, *states: TrialState) -> int:
        """Number of trials of this search in the given states."""
        return len(self.trials(*states))

    def _trials(self) -> Iterable[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


def _curves(trials: Sequence[FrozenTrial]) -> list[Mapping[str, Mapping[str, float]]]:
    return [trial.user_attrs.get("curve", {}) for trial in trials]


def _plain(value: Any) -> Any:
    """JSON knows no numpy or torch scalars, which a runner of the user's may well return."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return float(value) if isinstance(value, np.floating) or hasattr(value, "item") else value


def duration(trials: Sequence[FrozenTrial]) -> datetime.timedelta:
    """Time from the first planned trial to the last finished one."""
    starts = [t.datetime_start for t in trials if t.datetime_start]
    ends = [t.datetime_complete for t in trials if t.datetime_complete]
    return max(ends) - min(starts) if starts and ends else datetime.timedelta()
