"""Do imported losses mean what the study's own do? A surrogate that is fitted to one side predicts the other.

Nobody can prove it: another tokenizer, another validation text or another learning rate shifts all losses, and the surrogate
would take the shift for an effect of the mixture. The mean error of the predictions shows a shift; their scatter and the
surrogate's own doubt say how exactly it is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.study.history import History
from regmix_active.study.imported import ImportedRun
from regmix_active.surrogate.base import Surrogate

LEAST_FITTED = 8
"""Runs of one side without which nothing is compared."""

LEAST_PREDICTED = 2
MOST_PREDICTED = 256
"""Runs of the other side that are predicted, evenly chosen: the surrogate's joint doubt about all of them is needed."""

WARN_ERRORS, WARN_NATS = 3.0, 0.02
"""Imported losses are suspicious when they are off by more than so many standard errors, and by more than so many nats."""


@dataclass(frozen=True)
class Offset:
    """How far imported runs lie above the study's own at the same mixture.

    Attributes:
        loss: Name of the loss.
        mean: Nats per token; positive where imported runs are worse.
        error: Standard error of it.
        fitted: Runs that the surrogate was fitted to.
        predicted: Runs that it predicted.
    """

    loss: str
    mean: float
    error: float
    fitted: int
    predicted: int

    @property
    def suspicious(self) -> bool:
        """Whether chance does not explain it, and it is large enough to matter."""
        return abs(self.mean) > max(WARN_ERRORS * self.error, WARN_NATS)


def compare_losses(imported: Sequence[ImportedRun], own: History, surrogate: Surrogate) -> list[Offset]:
    """The mean difference per loss, of all losses of which both sides have enough runs.

    Args:
        imported: Runs of others.
        own: The study's; imported runs in it are left out.
        surrogate: Fitted here, to the side with more runs of a loss.
    """
    ours = own.slots >= 0
    X, Y = own.mixtures[ours], own.losses[ours]
    theirs = np.array([run.weights for run in imported]).reshape(-1, own.space.dim)
    names = own.target.loss_names
    losses = np.array([[run.losses.get(name, math.nan) for name in names] for run in imported]).reshape(-1, len(names))
    least = max(LEAST_FITTED, surrogate.minimum_runs)
    offsets: dict[int, Offset] = {}
    # Losses are fitted together where the same side has more of them, and enough.
    a, b = (np.sum(~np.isnan(side), axis=0) for side in (Y, losses))
    comparable = (np.maximum(a, b) >= least) & (np.minimum(a, b) >= LEAST_PREDICTED)
    for columns, fit, predict, sign in (
        (np.flatnonzero(comparable & (a >= b)), (X, Y), (theirs, losses), 1.0),
        (np.flatnonzero(comparable & (a < b)), (theirs, losses), (X, Y), -1.0),
    ):
        if len(columns):
            found = _predicted(surrogate, fit[0], fit[1][:, columns], predict[0], predict[1][:, columns])
            for column, (mean, error, fitted, predicted) in zip(columns.tolist(), found, strict=True):
                offsets[column] = Offset(names[column], sign * mean, error, fitted, predicted)
    return [offsets[column] for column in sorted(offsets)]


def _predicted(
    surrogate: Surrogate,
    X: NDArray[np.float64],
    Y: NDArray[np.float64],
    others: NDArray[np.float64],
    losses: NDArray[np.float64],
) -> list[tuple[float, float, int, int]]:
    """Per loss: mean of observed minus predicted, its standard error, and both numbers of runs."""
    chosen = np.unique(np.linspace(0, len(others) - 1, min(MOST_PREDICTED, len(others))).round().astype(int))
    surrogate.fit(X, Y)
    posterior = surrogate.posterior(others[chosen])
    joint, result = posterior.joint(), []
    for j in range(Y.shape[1]):
        seen = np.flatnonzero(~np.isnan(losses[chosen, j]))
        error = losses[chosen[seen], j] - posterior.mean[seen, j]
        n = max(len(seen), 1)
        scatter = max(float(error.var(ddof=1)) if len(seen) > 1 else 0.0, float(posterior.noise[j])) / n
        # The predictions err together, so their doubt does not shrink with the number of runs.
        doubt = float(joint[j][np.ix_(seen, seen)].mean()) if len(seen) else math.inf
        mean = float(error.mean()) if len(seen) else math.nan
        result.append((mean, math.sqrt(scatter + max(doubt, 0.0)), int(np.sum(~np.isnan(Y[:, j]))), len(seen)))
    return result
