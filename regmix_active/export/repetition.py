"""How often OLMo-core must be allowed to repeat a domain; olmix hands the same number through."""

from __future__ import annotations

import math

from .handover import Handover

STEP = 1000
"""The ratio is rounded up to multiples of 1 / STEP: the trainer counts in whole tokens."""


ROOM = 1.01
"""One per cent more is allowed than the tokens demand, whose numbers are often rounded; OLMo-core takes no more than it needs."""


def needed_repetition(handover: Handover, name: str) -> float:
    """``max_repetition_ratio`` of a domain: 1 where its tokens suffice, else the epochs of the target run and some room.

    OLMo-core compares ``int(tokens x ratio)`` with ``int(requested tokens x share)`` and refuses the mixture if it is smaller
    (``SourceMixtureDatasetConfig.build``).

    Raises:
        ValueError: If the epochs are unknown.
    """
    epochs = handover.epochs(name)
    if epochs is None:
        raise ValueError(f"the epochs of {name} are unknown")
    if epochs * ROOM <= 1:
        return 1.0
    return (math.floor(epochs * ROOM * STEP) + 1) / STEP
