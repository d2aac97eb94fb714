"""Random Dirichlet mixtures: RegMix itself, and the baseline of every other strategy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regmix_active.mixture.designs import regmix_design
from regmix_active.mixture.space import Mixtures
from regmix_active.study.history import History

from .base import Strategy
from .registry import strategy


@strategy("dirichlet")
@dataclass
class Dirichlet(Strategy):
    """Random mixtures sampled as RegMix does, blind to every loss."""

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        """See :meth:`Strategy.propose`."""
        return regmix_design(history.space, n, rng)
