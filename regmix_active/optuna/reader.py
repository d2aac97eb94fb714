"""Trials read as mixtures and losses."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from regmix_active.errors import ConfigError, StudyError
from regmix_active.mixture.space import TOLERANCE, Mixtures, MixtureSpace
from regmix_active.optuna.trial import LOSSES
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.study.trials import PREFIX

log = logging.getLogger(__name__)

PROPOSED = "regmix_active:mixture"
"""System attribute that holds the whole mixture of a trial before its parameters are written one by one."""


class TrialReader:
    """Reads the trials of a study whose objective trains mixtures of certain domains."""

    def __init__(self, space: MixtureSpace, target: str | Mapping[str, Any]) -> None:
        """Say what is read.

        Args:
            space: Domains, in the order of every row.
            target: ``mean`` of the losses, one's name, weights by name, or the structured form; see :meth:`Target.parse`.
        """
        self.space, self.target = space, target
        self._warned: set[str] = set()

    def history(self, trials: Sequence[FrozenTrial]) -> History:
        """Completed trials with their losses, and what is to be kept away from; slots are trial numbers.

        Raises:
            ConfigError: If the target names a loss that no trial recorded.
        """
        with_mixture = [t for t in trials if t.state.is_finished() and self.weights(t) is not None]
        complete = [t for t in with_mixture if t.state == TrialState.COMPLETE]
        if len(complete) < sum(t.state == TrialState.COMPLETE for t in trials):
            self._warn("some completed trials hold no mixture of these domains; they are not learnt from")
        recorded = [t for t in complete if LOSSES in t.user_attrs]
        if recorded:
            if len(recorded) < len(complete):
                self._warn("some completed trials have no recorded losses; they are not learnt from")
            complete = recorded
            names = tuple(dict.fromkeys(name for t in recorded for name in t.user_attrs[LOSSES]))
            target = Target.parse(self.target, names).narrowed()
            names = target.loss_names
            rows = [[t.user_attrs[LOSSES].get(name, np.nan) for name in names] for t in complete]
            broken = [any(not np.isfinite(t.user_attrs[LOSSES].get(name, 0.0)) for name in names) for t in complete]
        else:
            if complete and self.target != "mean":
                raise ConfigError(
                    f"target: {self.target!r} names losses, and no trial recorded any; call record_losses(trial, losses)"
                )
            target = Target.parse("mean", ("value",))
            rows = [[float(t.values[0])] for t in complete]
            broken = [not np.isfinite(row[0]) for row in rows]
        losses = np.array(rows, dtype=np.float64).reshape(len(complete), len(target.loss_names))
        fit = ~np.array(broken, dtype=bool) & np.isfinite(losses).any(axis=1)
        gone = [t for t, b in zip(complete, broken, strict=True) if b]
        gone += [t for t in with_mixture if t.state in (TrialState.FAIL, TrialState.PRUNED) and t.user_attrs.get("diverged", True)]
        return History(
            self.space,
            target,
            self.mixtures(complete)[fit],
            losses[fit],
            np.array([t.number for t in complete], dtype=np.int64)[fit],
            self.mixtures(gone),
            np.array([t.number for t in gone], dtype=np.int64),
        )

    def given(self, trial: FrozenTrial) -> NDArray[np.float64] | None:
        """The mixture that a trial brings along, from the queue or from an earlier look at it, shape ``(d,)``; None if it has none.

        Raises:
            StudyError: If it was enqueued with weights that are no mixture.
        """
        weights = self.weights(trial)
        fixed = {name: w for name, w in trial.system_attrs.get("fixed_params", trial.params).items() if name.startswith(PREFIX)}
        if fixed and weights is None:
            unknown = sorted(name.removeprefix(PREFIX) for name in set(fixed) - {PREFIX + name for name in self.space.domains})
            reason = f"{unknown[0]!r} is no domain" if unknown else "they are not >= 0 with sum 1"
            raise StudyError(f"trial {trial.number} was enqueued with weights that are no mixture ({reason}): {fixed}")
        return weights

    def weights(self, trial: FrozenTrial) -> NDArray[np.float64] | None:
        """The mixture of any trial, shape ``(d,)``; None if it has none of these domains."""
        found = {name.removeprefix(PREFIX): w for name, w in trial.params.items() if name.startswith(PREFIX)}
        if set(found) != set(self.space.domains):
            fixed = trial.system_attrs.get("fixed_params", {})
            enqueued = {name.removeprefix(PREFIX): w for name, w in fixed.items() if name.startswith(PREFIX)}
            found = trial.system_attrs.get(PROPOSED) or enqueued
        if not found or not set(found) <= set(self.space.domains):
            return None
        row = np.array([found.get(name, 0.0) for name in self.space.domains], dtype=np.float64)
        if not np.isfinite(row).all() or (row < 0).any() or abs(row.sum() - 1) > TOLERANCE:
            return None
        return row

    def mixtures(self, trials: Iterable[FrozenTrial]) -> Mixtures:
        """Those of the trials that have one, shape ``(k, d)``."""
        rows = [row for row in map(self.weights, trials) if row is not None]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.space.dim)

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)
