"""Greedy: train what the surrogate predicts to be best.

References:
    [1] Diao et al., CLIMB: CLustering-based Iterative Data Mixture Bootstrapping for Language Model Pre-training, arXiv 2504.13161.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.belief import TargetBelief

from .base import AcquisitionStrategy
from .registry import strategy


@strategy("greedy")
@dataclass
class Greedy(AcquisitionStrategy):
    """The smallest predicted target, whatever the doubt (CLIMB's rule [1])."""

    def score(self, belief: TargetBelief) -> NDArray[np.float64]:
        """The negated expected target."""
        return -belief.mean
