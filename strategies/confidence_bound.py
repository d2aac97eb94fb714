"""Confidence bound on the target.

References:
    [1] Srinivas et al., Gaussian Process Optimization in the Bandit Setting, ICML 2010.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.surrogate.belief import TargetBelief

from .base import AcquisitionStrategy
from .registry import strategy


@strategy("confidence-bound")
@dataclass
class ConfidenceBound(AcquisitionStrategy):
    """The mixture that might be best: expected target less `beta` standard deviations (the "upper" bound of maximisers).

    Attributes:
        beta: Standard deviations of optimism; 0 is greedy, larger explores more.
    """

    beta: float = 2.0

    def score(self, belief: TargetBelief) -> NDArray[np.float64]:
        """The negated lower confidence bound [1]."""
        return self.beta * belief.std - belief.mean
