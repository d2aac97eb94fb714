"""Noisy expected improvement on the target, in logarithms.

References:
    [1] Ament et al., Unexpected Improvements to Expected Improvement for Bayesian Optimization, NeurIPS 2023.
    [2] Gardner et al., Bayesian Optimization with Inequality Constraints, ICML 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from botorch.utils.probability.utils import log_phi
from numpy.typing import NDArray

from regmix_active.surrogate.belief import TargetBelief

from .base import AcquisitionStrategy
from .registry import strategy


@strategy("expected-improvement")
@dataclass
class ExpectedImprovement(AcquisitionStrategy):
    """By how much a mixture is expected to beat the best one so far.

    The target is a weighed sum of losses, each with its own surrogate, and the best so far is the smallest *expected* target
    among the trained mixtures: a proxy that was lucky with its seed does not raise the bar. Where the target has limits, the
    improvement counts with the probability that they are kept [2].
    """

    logarithmic: ClassVar[bool] = True

    def score(self, belief: TargetBelief) -> NDArray[np.float64]:
        """Logarithm of the expected improvement, stable where it is tiny [1]."""
        std = np.maximum(belief.std, 1e-12)
        return np.log(std) + log_improvement((belief.best - belief.mean) / std)


def log_improvement(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(φ(u) + u Φ(u)), accurate where the sum cancels (equation 9 of [1]).

    Args:
        u: Standardised improvements, shape ``(q,)``.
    """
    z = torch.from_numpy(np.asarray(u, dtype=np.float64))
    low, high = z.clamp(max=0.0), z.clamp(min=0.0)
    # Below zero φ is taken out and Φ/φ comes from erfcx; what remains tends to 1/u², which is used where it would round to zero.
    inner = 1 + low * math.sqrt(math.pi / 2) * torch.special.erfcx(-low / math.sqrt(2))
    inner = torch.where(low < -1e5, 1 / low.clamp(max=-1.0) ** 2, inner)
    direct = torch.exp(log_phi(high)) + high * torch.special.ndtr(high)
    result: NDArray[np.float64] = torch.where(z < 0, log_phi(low) + torch.log(inner), torch.log(direct)).numpy()
    return result
