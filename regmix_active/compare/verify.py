"""The proof: the found mixture and those it must beat are trained again with fresh seeds.

Every seed trains all mixtures from the same initial weights and block order, so that differences between mixtures are paired
by seed; their standard errors are those of the paired differences.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from regmix_active.errors import ProxyError
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyRequest, ProxyRunner
from regmix_active.study.target import Target

FOUND = "found"
CHANCE = 0.05
"""How often a difference may be called one where there is none (two-sided, Student's t over the seeds)."""

STANDARD_ERRORS = 2.0
"""Never call fewer standard errors than this a difference."""

LEAST_DIFFERENCE = 1e-6
"""Nats per token below which mixtures are the same: a repeated training has a standard error of zero."""


@dataclass(frozen=True)
class Rival:
    """One mixture, trained again.

    Attributes:
        name: What it is called.
        weights: Shape ``(d,)``.
        values: Target of each seed, nats per token, shape ``(s,)``.
        gain: Mean of its target minus the found mixture's: positive where the found one is better.
        gain_error: Standard error of that mean, from paired seeds; zero for the found mixture itself.
    """

    name: str
    weights: NDArray[np.float64]
    values: NDArray[np.float64]
    gain: float
    gain_error: float

    @property
    def mean(self) -> float:
        """Mean target over the seeds, nats per token."""
        return float(self.values.mean())

    @property
    def error(self) -> float:
        """Standard error of :attr:`mean`."""
        return float(self.values.std(ddof=1) / math.sqrt(len(self.values)))

    @property
    def beaten(self) -> bool:
        """Whether the found mixture is significantly better."""
        return self.gain > self._threshold

    @property
    def better(self) -> bool:
        """Whether it is significantly better than the found mixture."""
        return self.gain < -self._threshold

    @property
    def _threshold(self) -> float:
        quantile = float(student.ppf(1 - CHANCE / 2, len(self.values) - 1))
        return max(max(quantile, STANDARD_ERRORS) * self.gain_error, LEAST_DIFFERENCE)


@dataclass(frozen=True)
class Verification:
    """All mixtures, trained again; the found one first."""

    target: Target
    seeds: tuple[int, ...]
    rivals: tuple[Rival, ...]

    @property
    def passed(self) -> bool:
        """Whether the found mixture beats the natural and the uniform one, and the best trained one is not better."""
        others = {rival.name: rival for rival in self.rivals}
        return others["natural"].beaten and others["uniform"].beaten and not others["best trained"].better

    @property
    def verdict(self) -> str:
        """One sentence for the terminal and the files."""
        parts = []
        for rival in self.rivals[1:]:
            word = "beats" if rival.beaten else "is worse than" if rival.better else "cannot be told from"
            parts.append(f"{word} the {rival.name} mixture ({rival.gain:+.4f} ± {rival.gain_error:.4f} nats)")
        return f"{'PASSED' if self.passed else 'NOT PROVEN'}: the found mixture {', '.join(parts)}"


def verify(
    mixtures: Mapping[str, NDArray[np.float64]],
    runner: ProxyRunner,
    target: Target,
    seeds: int,
    study_seed: int,
    observer: Observer | None = None,
) -> Verification:
    """Train every mixture with `seeds` fresh seeds.

    Args:
        mixtures: By name; must hold ``found``, ``natural``, ``uniform`` and ``best trained``.
        runner: Trains them.
        target: What is compared.
        seeds: Number of seeds; none of them was used in the search.
        study_seed: The study's seed, from which the fresh ones derive.
        observer: Told of every result.

    Raises:
        ProxyError: If a proxy fails: nothing can be said then.
    """
    watcher = observer or Observer()
    drawn = [int(s) for s in np.random.SeedSequence([study_seed, 3]).generate_state(seeds)]
    names = list(mixtures)
    requests = [
        ProxyRequest(i * len(names) + j, mixtures[name], seed, seed + 1)
        for i, seed in enumerate(drawn)
        for j, name in enumerate(names)
    ]
    values = np.full((seeds, len(names)), np.nan)
    with contextlib.closing(runner.run(requests)) as results:
        for result in results:
            if result.failure is not None:
                raise ProxyError(f"verification: the {names[result.slot % len(names)]} mixture failed to train: {result.failure}")
            losses = np.array([[result.losses[name] for name in target.loss_names]])
            values[divmod(result.slot, len(names))] = target(losses)[0]
            watcher.on_result(result, float(values[divmod(result.slot, len(names))]))
    if not np.isfinite(values).all():
        missing = names[int(np.argmin(np.isfinite(values).all(axis=0)))]
        raise ProxyError(f"verification: the runner gave no finite losses for the {missing} mixture")
    found = values[:, names.index(FOUND)]
    rivals = []
    for j, name in enumerate(names):
        gains = values[:, j] - found
        rivals.append(Rival(name, mixtures[name], values[:, j], float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(seeds))))
    return Verification(target, tuple(drawn), tuple(rivals))
