"""What ``mixture.yaml`` says of an answer, as plain values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regmix_active.report.console import target_names

if TYPE_CHECKING:
    from regmix_active.recommend.pareto import ParetoFront
    from regmix_active.recommend.simulate import Prediction, Recommendation

DECIMALS = 6
"""Places of weights and losses."""


def several_targets(found: Recommendation) -> dict[str, Any]:
    """Several targets by name; `target` is then what proxies are listed and verified by."""
    if found.pareto is None:
        return {}
    pairs = zip(target_names(found), found.history.targets, strict=True)
    return {"targets": {name: {"target": target.describe(), "unit": target.unit} for name, target in pairs}}


def predicted(found: Recommendation) -> dict[str, Any]:
    """The target of the found mixture and of its rivals; of several targets each one."""
    if found.pareto is not None:
        return _each(found, found.pareto)
    unit = found.history.target.unit
    best, doubt = found.found, found.doubt
    widened = "" if doubt is None else "; that of the found mixture is as wide as doubt.interval, with what hangs on few runs"
    return {
        "unit": f"{unit}, for the study's own seed; std is the doubt about the mean, without the noise of seeds{widened}",
        "found": _prediction(best if doubt is None else replace(best, std=doubt.std)),
        "natural": _prediction(found.natural),
        "uniform": _prediction(found.uniform),
        "best_trained": {**_prediction(found.best_trained), "slot": found.best_slot, "trained": figure(found.best_value)},
    }


def _each(found: Recommendation, front: ParetoFront) -> dict[str, Any]:
    """Several targets of the found mixture, which is the balanced one, and of the natural one."""

    def of(means: NDArray[np.float64], stds: NDArray[np.float64]) -> dict[str, Any]:
        rows = zip(target_names(found), means, stds, strict=True)
        return {name: {"mean": figure(mean), "std": figure(std)} for name, mean, std in rows}

    return {
        "unit": "that of each target, for the study's own seed; std is the doubt about the mean, without the noise of seeds",
        "found": of(front.means[front.balanced], front.stds[front.balanced]),
        "natural": of(*front.natural),
    }


def doubt_of(found: Recommendation) -> dict[str, Any]:
    """How far the answer can be trusted."""
    doubt, space = found.doubt, found.history.space
    if doubt is None:
        return {}
    told: dict[str, Any] = {
        "probability_of_intervals": doubt.level,
        "interval": [figure(end) for end in doubt.interval],
        **({} if doubt.fresh is None else {"interval_for_another_seed": [figure(end) for end in doubt.fresh]}),
        "beats_natural": figure(doubt.beats_natural),
        "beats_best_trained": figure(doubt.beats_best),
        "expected_regret": figure(doubt.regret),
        **({"limits_kept": figure(doubt.limits)} if found.history.target.limits else {}),
        "nearest_trained": {"slot": doubt.nearest_slot, "total_variation": figure(doubt.nearest)},
        "weights": {
            name: [figure(low), figure(high)] for name, (low, high) in zip(space.domains, doubt.weights.tolist(), strict=True)
        },
    }
    if doubt.noise is not None:
        told["noise_of_seeds"] = {
            "mixture": figure(doubt.noise.target_std),
            "seed": figure(doubt.noise.target_offset),
            "mixtures": doubt.noise.mixtures,
            "seeds": doubt.noise.seeds,
        }
    runs = [space.as_dict(space.round(row, DECIMALS)) for row in doubt.next_runs]
    return {"doubt": told, "next_runs": runs}


def trade_offs(found: Recommendation) -> dict[str, Any]:
    """The mixtures that no other beats in every target."""
    front, history = found.pareto, found.history
    if front is None:
        return {}
    names = target_names(found)
    limited = any(target.limits for target in history.targets)
    rows = zip(front.weights, front.means, front.stds, front.probability, front.kept, strict=True)
    members = [
        {
            "targets": {name: figure(mean) for name, mean in zip(names, means, strict=True)},
            "std": {name: figure(std) for name, std in zip(names, stds, strict=True)},
            "probability": figure(probability),
            **({"limits_kept": figure(kept)} if limited else {}),
            "weights": history.space.as_dict(history.space.round(weights, DECIMALS)),
        }
        for weights, means, stds, probability, kept in rows
    ]
    return {"pareto": {"balanced": front.balanced, "members": members}}


def _prediction(prediction: Prediction) -> dict[str, Any]:
    told: dict[str, Any] = {"mean": figure(prediction.mean), "std": figure(prediction.std)}
    return told if prediction.allowed else {**told, "allowed": False}


def figure(value: float | np.float64 | NDArray[np.float64]) -> float:
    """A number to as many places as a file shows."""
    return round(float(value), DECIMALS)
