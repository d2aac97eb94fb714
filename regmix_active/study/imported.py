"""Finished runs of others, ready to enter a study, and those that may not, with the reason."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEY_DECIMALS = 9
"""Runs are the same if they agree to so many decimals: a file that went through another program has other last digits."""


NEGLIGIBLE = 1e-6
"""A weight up to this is none."""


@dataclass(frozen=True, eq=False)
class ImportedRun:
    """A finished run of someone else.

    Attributes:
        name: What its source calls it.
        weights: Shape ``(d,)``, sum 1, in the order of the study's domains.
        losses: Nats per token, by the study's loss names; what is missing was not measured.
        notes: How it was made to fit, in words.
    """

    name: str
    weights: NDArray[np.float64]
    losses: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Hash of mixture and losses: the same run, whichever file it came from."""
        losses = {name: round(loss, KEY_DECIMALS) for name, loss in sorted(self.losses.items()) if math.isfinite(loss)}
        weights = (np.round(self.weights, KEY_DECIMALS) + 0.0).tolist()  # + 0.0: no negative zeros
        return hashlib.sha256(json.dumps([weights, losses]).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Refusal:
    """Why one run may not enter.

    Attributes:
        run: What its source calls it.
        reason: In words that other runs share; ``{share}`` or ``{value}`` stands for what is this run's own.
        amount: What that is.
    """

    run: str
    reason: str
    amount: float = math.nan


@dataclass(frozen=True)
class Intake:
    """What became of the runs of a source.

    Attributes:
        runs: Those that may enter.
        refused: The others.
        notes: What was left out or changed for all of them, in words.
    """

    runs: tuple[ImportedRun, ...]
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()


def describe_refusals(refusals: Sequence[Refusal], most: int = 3) -> list[str]:
    """One line per reason, the most frequent first: ``41 runs: spent 3–62 % on 'code', which is gone (3, 7, 12 and 38 more)``."""
    groups: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        groups.setdefault(refusal.reason, []).append(refusal)
    lines = []
    for reason, members in sorted(groups.items(), key=lambda group: -len(group[1])):
        amounts = [member.amount for member in members if math.isfinite(member.amount)]
        text = reason.replace("{share}", f"{_range([100 * a for a in amounts], '.2g')} %", 1).replace(
            "{value}", _range(amounts, ".4g"), 1
        )
        names = ", ".join(member.run for member in members[:most])
        more = f" and {len(members) - most} more" if len(members) > most else ""
        lines.append(f"{len(members)} {'run' if len(members) == 1 else 'runs'}: {text} ({names}{more})")
    return lines


def _range(amounts: Sequence[float], form: str) -> str:
    if not amounts:
        return "something that is not a number"
    # 17 %, not 1.7e+01 %
    low, high = (f"{a:.0f}" if form == ".2g" and a >= 10 else f"{a:{form}}" for a in (min(amounts), max(amounts)))
    return low if low == high else f"{low}–{high}"
