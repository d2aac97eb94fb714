"""An objective whose best mixture is known, and a strategy that remembers what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from regmix_active.mixture.space import Mixtures
from regmix_active.optuna import MixtureSampler, record_losses, suggest_mixture
from regmix_active.strategies import Strategy
from regmix_active.study.history import History

DOMAINS = ("books", "code", "web")
BEST = {"books": 0.2, "code": 0.5, "web": 0.3}


@dataclass
class Remembering(Strategy):
    """Draws at random, or proposes always the same; keeps its arguments."""

    same: list[float] | None = None
    asked: list[tuple[History, Mixtures, int]] = field(default_factory=list)

    name = "remembering"

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        self.asked.append((history, pending, n))
        if self.same is not None:
            return np.array([self.same] * n)
        return history.space.dirichlet(n, np.ones(history.space.dim), rng)


def losses_of(mixture: dict[str, float]) -> dict[str, float]:
    """Three losses, each smallest at its own share; their mean is smallest at :data:`BEST`."""
    return {name: 3 + (mixture[name] - BEST[name]) ** 2 for name in BEST}


def objective(trial: optuna.Trial) -> float:
    losses = losses_of(suggest_mixture(trial, DOMAINS))
    record_losses(trial, losses)
    return sum(losses.values()) / len(losses)


def mixtures_of(study: optuna.Study) -> NDArray[np.float64]:
    return np.array([[t.params[f"w/{name}"] for name in DOMAINS] for t in study.trials if t.params])


def study_with(strategy: str | Strategy = "variance-reduction", **options: Any) -> optuna.Study:
    return optuna.create_study(sampler=MixtureSampler(DOMAINS, strategy=strategy, **options))
