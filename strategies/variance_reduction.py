"""Learn where it matters: the proxy that is expected to tell most about the best region.

References:
    [1] Cohn, Neural Network Exploration Using Optimal Experiment Design, Neural Networks 9, 1996: the expected variance over a
        region of interest, not the largest one, decides what is observed next.
    [2] Seo et al., Gaussian Process Regression: Active Data Selection and Test Point Rejection, IJCNN 2000: for Gaussian processes.
    [3] Gorodetsky and Marzouk, Mercer Kernels and Integrated Variance Experimental Design, SIAM/ASA J. Uncertainty Quantification
        4, 2016: the integral as a sum over points that represent the measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from regmix_active.surrogate.belief import TargetBelief

from .base import AcquisitionStrategy
from .candidates import likely
from .registry import strategy


@strategy("variance-reduction")
@dataclass
class VarianceReduction(AcquisitionStrategy):
    """The mixture whose proxy shrinks the doubt about the best region most, wherever that mixture lies.

    The region is the `top` candidates that are likeliest to beat the smallest expected target and keep the target's limits, as the
    answer will be averaged from their like; each counts with that probability.

    Attributes:
        top: Size of the best region.
        representatives: So many of its mixtures, evenly spaced over their ranks, stand for all.
    """

    pointwise: ClassVar[bool] = False

    top: int = 128
    representatives: int = 32

    def __post_init__(self) -> None:
        """Refuse sizes that leave no region."""
        super().__post_init__()
        if not 1 <= self.representatives <= self.top:
            raise ValueError(f"representatives must be between 1 and top = {self.top}, got {self.representatives}")

    def score(self, belief: TargetBelief) -> NDArray[np.float64]:
        """Weighed mean of the variances that one observation takes from the region [2, 3], nats² per token²."""
        # Not the best one so far: once much is expected to beat it, the surest improvements would be the region, not the best ones.
        kept = np.zeros(len(belief.mean)) if belief.log_kept is None else belief.log_kept
        bar = min(belief.best, float(belief.mean[likely(kept)].min()))
        better = log_ndtr((bar - belief.mean) / np.maximum(belief.std, 1e-12)) + kept
        region = np.argsort(-better, kind="stable")[: self.top]
        rows = region[np.linspace(0, len(region) - 1, min(self.representatives, len(region))).round().astype(np.intp)]
        weights = np.exp(better[rows] - better[rows].max())
        observed = np.maximum(belief.std**2 + belief.noise**2, 1e-18)
        reduction: NDArray[np.float64] = weights @ belief.covariance(rows) ** 2 / (weights.sum() * observed)
        return reduction
