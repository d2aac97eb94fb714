"""What a trial of ours is to Optuna.

A trial is one mixture. Its parameters ``w/<domain>`` are the weights (so that every Optuna tool works on them), its value is the
target that the study was started with, and its user attributes hold all losses, seeds and times:

========================  ====================================================================
``slot``, ``round``       position in the study and the round that proposed it; slots of imported runs are negative
``key``                   hash of slot, weights, seeds and of what the study's runs have in common
``round_size``            how many mixtures its round planned
``alone``                 whether the round is one job beside others, of an asynchronous search
``proposer``              strategy, or ``initial design``
``init_seed``             seed of the initial weights
``data_seed``             seed of the order of domains and blocks
``losses``                nats per token by domain
``bits_per_byte``         the same in bits per byte
``tokens``, ``seconds``   training tokens and seconds of its proxy
``curve``                 losses on the way, by training tokens; the target of each is an intermediate value of the trial
``failure``               why a failed proxy has no losses
``diverged``              whether that was the mixture's own doing
``source``                where an imported run is from
========================  ====================================================================
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from regmix_active.proxy.base import ProxyRequest
from regmix_active.study.imported import ImportedRun
from regmix_active.study.meaning import Meaning
from regmix_active.study.target import Target

PREFIX = "w/"
"""Parameter name of a weight: this, then the domain."""


def planned_trial(meaning: Meaning, request: ProxyRequest, details: Mapping[str, Any]) -> FrozenTrial:
    """A proxy that is to be trained.

    Args:
        meaning: Of its study.
        request: What is asked of it.
        details: Further attributes: its round, who proposed it, its key.
    """
    asked = {"slot": request.slot, "init_seed": request.init_seed, "data_seed": request.data_seed}
    return _trial(meaning, request.weights.tolist(), TrialState.RUNNING, None, {**asked, **details})


def imported_trial(meaning: Meaning, run: ImportedRun, slot: int, source: str, target: Target) -> FrozenTrial:
    """A finished run of someone else.

    Args:
        meaning: Of the study that it enters.
        run: Its mixture and losses.
        slot: Its place in the study, below zero.
        source: Where it is from.
        target: What the study's values are in.
    """
    losses = {name: float(loss) for name, loss in run.losses.items() if math.isfinite(loss)}
    attributes = {"slot": slot, "key": run.key, "source": source, "run": run.name, "notes": list(run.notes), "losses": losses}
    value = float(target(np.array([[losses.get(name, math.nan) for name in meaning.loss_names]]))[0])
    # Without all that the target weighs there is no value, and Optuna completes no trial without one.
    known = math.isfinite(value)
    state = TrialState.COMPLETE if known else TrialState.FAIL
    return _trial(meaning, run.weights.tolist(), state, value if known else None, attributes)


def _trial(
    meaning: Meaning, weights: Sequence[float], state: TrialState, value: float | None, attributes: dict[str, Any]
) -> FrozenTrial:
    names = [PREFIX + domain for domain in meaning.domains]
    return create_trial(
        state=state,
        value=value,
        params=dict(zip(names, weights, strict=True)),
        distributions={name: FloatDistribution(0.0, 1.0) for name in names},
        user_attrs=attributes,
    )


def plain(value: Any) -> Any:
    """A value as JSON knows it: no numpy or torch scalars, which a runner of the user's may well return."""
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    return float(value) if isinstance(value, np.floating) or hasattr(value, "item") else value


def duration(trials: Sequence[FrozenTrial]) -> datetime.timedelta:
    """Time from the first planned trial to the last finished one."""
    starts = [t.datetime_start for t in trials if t.datetime_start]
    ends = [t.datetime_complete for t in trials if t.datetime_complete]
    # Clocks may have been set in between.
    return max(max(ends) - min(starts), datetime.timedelta()) if starts and ends else datetime.timedelta()
