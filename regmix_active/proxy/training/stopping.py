"""Early stopping of hopeless proxies by Optuna's pruners, from their learning curves.

A job never sees the study. It carries the curves that were known when it was written, and asks the pruner in a study of its own in
memory: what is stopped depends on the job file alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.training.optimizer import total_steps

if TYPE_CHECKING:
    from regmix_active.proxy.training.stack import Curve


@dataclass(frozen=True)
class EarlyStopping:
    """Which proxies of a stack are hopeless; a :class:`~regmix_active.proxy.training.stack.Stopping`.

    Attributes:
        pruner: ``median`` (worse than half of those before it), ``asha`` (asynchronous successive halving) or ``hyperband``.
        weights: Weights of the target over losses, by name.
        n_steps: Optimiser steps of a whole training.
        finished: Curves of finished proxies, oldest first: the target by optimiser steps done.
    """

    pruner: str
    weights: Mapping[str, float]
    n_steps: int
    finished: Sequence[Mapping[int, float]] = ()

    @classmethod
    def of_curves(
        cls, pruner: str, weights: Mapping[str, float], finished: Sequence[Mapping[str, Mapping[str, float]]], config: ProxyConfig
    ) -> EarlyStopping:
        """Judge by the curves of finished proxies, as :attr:`ProxyResult.curve` holds them (by tokens)."""
        per_step = config.batch_size * config.context
        own = cls(pruner, weights, total_steps(config))
        curves = [{int(tokens) // per_step: own.value(losses) for tokens, losses in curve.items()} for curve in finished]
        return replace(own, finished=[curve for curve in curves if curve])

    def hopeless(self, curves: Mapping[int, Curve], step: int) -> set[int]:
        """See :class:`~regmix_active.proxy.training.stack.Stopping`."""
        own = {slot: {mark: self.value(losses) for mark, losses in curve.items()} for slot, curve in sorted(curves.items())}
        marks = sorted({mark for values in own.values() for mark in values})
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study(study_name="stack", pruner=_pruner(self.pruner, marks[0], self.n_steps))
            for values in self.finished:
                trial = study.ask()
                for mark, value in sorted(values.items()):
                    trial.report(value, mark)
                    trial.should_prune()  # a pruner may keep books of what it was asked
                study.tell(trial, values[max(values)])
            broken = {slot for slot, values in own.items() if not all(map(math.isfinite, values.values()))}
            running = {slot: study.ask() for slot in own if slot not in broken}
            stop: set[int] = set()
            # One moment after the other, all proxies at each: as if they trained side by side, which they do.
            for mark in marks:
                for slot, trial in running.items():
                    trial.report(own[slot][mark], mark)
                stop = {slot for slot, trial in running.items() if trial.should_prune()}
            return stop | broken
        finally:
            optuna.logging.set_verbosity(verbosity)

    def value(self, losses: Mapping[str, float]) -> float:
        """The target of one point of a curve."""
        return sum(weight * losses[name] for name, weight in self.weights.items() if weight)

    def to_json(self) -> dict[str, Any]:
        """As written in a job file."""
        finished = [[[mark, value] for mark, value in values.items()] for values in self.finished]
        return {"pruner": self.pruner, "weights": dict(self.weights), "n_steps": self.n_steps, "finished": finished}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EarlyStopping:
        """The inverse of :meth:`to_json`."""
        finished = [{int(mark): float(value) for mark, value in values} for values in data["finished"]]
        return cls(data["pruner"], data["weights"], data["n_steps"], finished)


def _pruner(name: str, first: int, n_steps: int) -> BasePruner:
    if name == "median":
        return MedianPruner(n_startup_trials=8)
    if name == "asha":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
    return HyperbandPruner(min_resource=first, max_resource=n_steps, reduction_factor=2)
