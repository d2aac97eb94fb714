"""An ensemble of the surrogates, and the choice of one of them: both by cross-validation inside the finished proxies."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from regmix_active.errors import StudyError
from regmix_active.surrogate.base import Array, Paths, Posterior, Surrogate, check_observations
from regmix_active.surrogate.blend import blend
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.surrogate.held_out import FOLDS, HeldOut, held_out, stacking_weights
from regmix_active.surrogate.lightgbm import LightGBM
from regmix_active.surrogate.log_linear import LogLinear

log = logging.getLogger(__name__)

MEMBERS: Mapping[str, Callable[[], Surrogate]] = {"gp": GaussianProcess, "lightgbm": LightGBM, "log-linear": LogLinear}

ENOUGH = -(-max(cls.minimum_runs for cls in (GaussianProcess, LightGBM, LogLinear)) * FOLDS // (FOLDS - 1))
"""Runs of which all but one fold are enough for every member."""


class Ensemble(Surrogate):
    """The Gaussian process, LightGBM and the log-linear law, each loss with the shares under which held-out runs are likeliest.

    Attributes:
        weights: Share of each member in each loss, shape ``(3, m)``, after a fit.
    """

    name: ClassVar[str] = "ensemble"
    minimum_runs: ClassVar[int] = ENOUGH

    def __init__(self, members: Mapping[str, Surrogate] | None = None) -> None:
        """Choose the members; default: one of each kind."""
        self.members = dict(members) if members is not None else {name: build() for name, build in MEMBERS.items()}
        self.weights = np.full((len(self.members), 1), 1 / len(self.members))

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        """Cross-validate, then fit every member to all runs; see :meth:`Surrogate.fit`."""
        X, Y, V = check_observations(mixtures, losses, noise, self)
        return self.combine(held_out(self.members, X, Y, V), X, Y, V)

    def combine(self, predicted: HeldOut, mixtures: Array, losses: Array, noise: Array | None) -> Self:
        """Fit with shares from held-out predictions that are there already."""
        self.weights = stacking_weights(predicted.density)
        for member in self.members.values():
            member.fit(mixtures, losses, noise)
        return self

    def predict(self, mixtures: Array) -> Array:
        """Means of the members by their shares, shape ``(q, m)``; see :meth:`Surrogate.predict`."""
        means = np.stack([member.predict(mixtures) for member in self.members.values()])
        mean: Array = np.einsum("km,kqm->qm", self.weights, means)
        return mean

    def posterior(self, mixtures: Array) -> Posterior:
        """The members' beliefs as one; their disagreement is doubt; see :meth:`Surrogate.posterior`."""
        return blend([member.posterior(mixtures) for member in self.members.values()], self.weights)

    def paths(self, n: int, rng: np.random.Generator) -> Paths:
        """Each function of each loss is drawn by a member, chosen by its share; see :meth:`Surrogate.paths`."""
        drawn = [member.paths(n, rng) for member in self.members.values()]
        chosen = (rng.random((n, 1, self.weights.shape[1])) > np.cumsum(self.weights, axis=0)[:-1, None, None, :]).sum(axis=0)
        return lambda mixtures: np.take_along_axis(
            np.stack([path(mixtures) for path in drawn]), np.broadcast_to(chosen, (n, len(mixtures), chosen.shape[2]))[None], axis=0
        )[0]


class Auto(Surrogate):
    """Whichever of the Gaussian process, LightGBM, the log-linear law and their ensemble predicts held-out runs best.

    The ensemble is taken where it beats the best of the three by more than one standard error over the runs.

    The measure is the mean log likelihood of the held-out observations over all losses that are fitted: it rewards accuracy and
    honest doubt, both of which a search needs. Only finished proxies decide, never test runs.

    Attributes:
        reason: Why the last fit chose what it chose, for people.
        chosen: The surrogate that it chose.
    """

    name: ClassVar[str] = "auto"
    minimum_runs: ClassVar[int] = ENOUGH

    def __init__(self) -> None:
        """Nothing is chosen before a fit."""
        self.reason = ""
        self.chosen: Surrogate = GaussianProcess()

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        """Cross-validate, then fit the best to all runs; see :meth:`Surrogate.fit`."""
        X, Y, V = check_observations(mixtures, losses, noise, self)
        members = {name: build() for name, build in MEMBERS.items()}
        predicted = held_out(members, X, Y, V)
        runs = (~np.isnan(predicted.density)).any(axis=(0, 2))
        if runs.sum() < FOLDS:
            raise StudyError(
                f"the surrogate {self.name!r} can be cross-validated on {runs.sum()} proxies only, other losses are too rare; "
                "choose another surrogate, or leave the rare losses out"
            )
        each = dict(zip(predicted.names, np.nanmean(predicted.density[:, runs], axis=2), strict=True))
        best = max(each, key=lambda name: float(each[name].mean()))
        each[Ensemble.name] = np.nanmean(_stacked(predicted)[runs], axis=1)
        gain = each[Ensemble.name] - each[best]
        # One member is quicker, and may have gradients: the ensemble must be better by more than chance.
        if gain.mean() > gain.std(ddof=1) / math.sqrt(len(gain)):
            best = Ensemble.name
            self.chosen = Ensemble(members).combine(predicted, X, Y, V)
        else:
            self.chosen = members[best].fit(X, Y, V)
        explained = dict(zip(predicted.names, predicted.explained.tolist(), strict=True))
        scores = ", ".join(
            f"{name} {values.mean():.3f}" + (f" (explains {explained[name]:.1%})" if name in explained else "")
            for name, values in sorted(each.items(), key=lambda item: -item[1].mean())
        )
        ahead = each[best].mean() >= each[Ensemble.name].mean()
        verdict = "predicts held-out runs best" if ahead else "is chosen: the ensemble's lead is within a standard error"
        self.reason = f"{best} {verdict}: log likelihood per loss, {FOLDS} folds of {len(X)} runs: {scores}"
        log.info("auto: %s", self.reason)
        return self

    def predict(self, mixtures: Array) -> Array:
        """As the chosen surrogate."""
        return self.chosen.predict(mixtures)

    def posterior(self, mixtures: Array) -> Posterior:
        """As the chosen surrogate."""
        return self.chosen.posterior(mixtures)

    def paths(self, n: int, rng: np.random.Generator) -> Paths:
        """As the chosen surrogate."""
        return self.chosen.paths(n, rng)


def _stacked(predicted: HeldOut) -> Array:
    """Held-out log likelihoods of the ensemble, shape ``(n, m)``: each fold with the shares that the other folds give."""
    density = np.full(predicted.density.shape[1:], np.nan)
    fold = predicted.fold
    for f in np.unique(fold):
        weights = stacking_weights(predicted.density[:, fold != f])
        there = np.nan_to_num(predicted.density[:, fold == f])
        density[fold == f] = np.logaddexp.reduce(there + np.log(weights)[:, None], axis=0)
    return np.where(np.isnan(predicted.density[0]), np.nan, density)
