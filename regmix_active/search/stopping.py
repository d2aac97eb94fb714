"""When further proxies are no longer worth their time.

A search is worth going on as long as a better mixture may be found. What can still be gained is the expected regret: functions
are drawn from the posterior, each with a best mixture of its own, and the answer is worse than these by so much on average. That
is what perfect knowledge would gain, so no search can be expected to gain more. On the emulator of RegMix's runs it was two to
three times what searches gained from 24, 32 and 48 proxies to 64 (25 searches). The largest expected improvement by one next
proxy was half of what they gained: it would end searches too early.

References:
    [1] Frazier, Powell and Dayanik, The Knowledge-Gradient Policy for Correlated Normal Beliefs, INFORMS Journal on Computing 21,
        2009: the value of information as the expected gain of the final answer; that of perfect information bounds it.
    [2] Makarova et al., Automatic Termination for Hyperparameter Optimization, AutoML 2022: a bound on the regret, against a
        tolerance.
"""

from __future__ import annotations

import numpy as np

from regmix_active.mixture.designs import spread
from regmix_active.recommend.doubt import expected_regret
from regmix_active.recommend.simulate import simulate
from regmix_active.study.history import History
from regmix_active.surrogate.base import Surrogate
from regmix_active.surrogate.belief import TargetModel

SIMULATIONS = 8192
"""Mixtures simulated to see what the answer would be now."""

AVERAGED = 128
"""Best of them that are averaged."""

DRAWS = 128
"""Functions drawn from the posterior."""


def remaining_improvement(history: History, surrogate: Surrogate, rng: np.random.Generator) -> float:
    """By how much a search that went on for ever would be expected to improve the answer, in the target's unit.

    Of several targets the one that has most to gain counts.

    Args:
        history: Finished proxies, without the offsets of other seeds.
        surrogate: Fitted here.
        rng: Source of randomness.

    Raises:
        StudyError: If there are too few finished proxies to fit.
    """
    gains = []
    for model in TargetModel.several(history, surrogate):
        simulated = simulate(history, model, SIMULATIONS, AVERAGED, rng)
        found = history.space.project(simulated.best.mean(axis=0))[0]
        leaders = history.space.project(history.mixtures)
        pool = np.concatenate([simulated.pool, spread(history.space, AVERAGED * 4, rng), leaders])
        gains.append(expected_regret(model, history, found, pool, rng, DRAWS))
    return max(gains)


def reason_to_stop(remaining: float, tolerance: float, proxies: int, unit: str) -> str | None:
    """Why a search ends before its budget; None if it goes on.

    Args:
        remaining: See :func:`remaining_improvement`.
        tolerance: ``search.stop_when``.
        proxies: Proxies that are in the study.
        unit: What both are in.
    """
    if remaining >= tolerance:
        return None
    return (
        f"after {proxies} proxies, all further ones are expected to improve the answer by {remaining:.2g} {unit} at most, which is "
        f"less than search.stop_when ({tolerance:g})"
    )
