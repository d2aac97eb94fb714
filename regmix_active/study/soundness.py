"""What a study of ours must hold. One that somebody, or a fault, has changed is refused by trial, slot and key, never believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from regmix_active.errors import StudyError
from regmix_active.mixture.space import TOLERANCE
from regmix_active.study.imported import ImportedRun
from regmix_active.study.meaning import Meaning

REMEDY = "restore the study from a copy, or start a new one"

PLANNED = {"slot": int, "round": int, "round_size": int, "init_seed": int, "data_seed": int, "proposer": str}
"""Attributes of a planned proxy, and their types."""

IMPORTED = {"slot": int, "key": str, "source": str, "run": str, "losses": dict}
"""Those of a run that was imported."""


def check_header(study: str, header: Any) -> None:
    """Refuse a header that no version of ours has written.

    Raises:
        StudyError: If it is one.
    """
    try:
        meaning = Meaning.from_json(header["meaning"])
        natural = np.array(meaning.natural, dtype=np.float64)
        fine = natural.shape == (len(meaning.domains),) and abs(natural.sum() - 1) <= TOLERANCE and bool((natural >= 0).all())
        fine = fine and type(header["format"]) is int and "target" in header
        fine = fine and all(isinstance(name, str) for name in (*meaning.domains, *meaning.loss_names))
    except (KeyError, TypeError, ValueError, AttributeError):
        fine = False
    if not fine:
        raise StudyError(f"study {study!r}: its attribute 'regmix_active' was changed, or is not ours; {REMEDY}")


def check_trial(study: str, trial: FrozenTrial, meaning: Meaning, prefix: str) -> None:
    """Refuse a trial of ours that lacks something, or holds something else; those of others pass.

    Args:
        study: Its name, for messages.
        trial: The trial.
        meaning: What the study's runs have in common.
        prefix: Parameter name of a weight: this, then the domain.

    Raises:
        StudyError: With trial, slot and key.
    """
    attributes = trial.user_attrs
    if not attributes.keys() & {"slot", "key", "round"}:
        return

    def refuse(key: str, problem: str) -> StudyError:
        slot = attributes.get("slot", "unknown")
        return StudyError(f"study {study!r}: trial {trial.number} (slot {slot}) was changed: {key} {problem}; {REMEDY}")

    slot = attributes.get("slot")
    for key, kind in (IMPORTED if type(slot) is int and slot < 0 else PLANNED).items():
        if key not in attributes:
            raise refuse(f"its attribute {key!r}", "is missing")
        if type(attributes[key]) is not kind:
            raise refuse(f"its attribute {key!r}", f"is {attributes[key]!r}")
    weights = [trial.params.get(prefix + name) for name in meaning.domains]
    if not all(isinstance(weight, int | float) and 0 <= weight <= 1 for weight in weights):
        raise refuse("its weights", f"are {weights}")
    losses = attributes.get("losses")
    if attributes["slot"] < 0:
        if not _numbers(losses, ()):
            raise refuse("its losses", f"are {losses!r}")
        if ImportedRun("", np.array(weights), losses or {}).key != attributes["key"]:
            raise refuse("its weights or losses", "no longer fit its key")
    elif trial.state == TrialState.COMPLETE and not _numbers(losses, meaning.loss_names):
        raise refuse("its losses", f"are {losses!r}")
    curve = attributes.get("curve", {})
    if not isinstance(curve, dict) or not all(
        str(at).isdecimal() and _numbers(point, meaning.loss_names) for at, point in curve.items()
    ):
        raise refuse("its learning curve", f"is {str(curve)[:100]!r}")


def _numbers(values: Any, names: tuple[str, ...]) -> bool:
    """Whether these are finite numbers by name, all of `names` (none: of all that is there)."""
    if not isinstance(values, Mapping):
        return False
    found = [values.get(name) for name in names or values]
    return all(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in found)
