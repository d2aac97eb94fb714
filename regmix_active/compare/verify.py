"""The proof: the found mixture and those it must beat are trained again with fresh seeds.

Every seed trains all mixtures from the same initial weights and block order, so that differences between mixtures are paired
by seed; their standard errors are those of the paired differences. What a target or a limit counts over the natural mixture is over
its fresh losses of the same seed, too.
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
from regmix_active.study.spec import NATURAL
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
        values: Target of each seed, in the target's unit, shape ``(s,)``.
        gain: Mean of its target minus the found mixture's: positive where the found one is better.
        gain_error: Standard error of that mean, from paired seeds; zero for the found mixture itself.
        broken: By how much its mean losses break the limit of the target that they break most, nats per token; 0 if none.
        allowed: Whether it satisfies the constraints on mixtures.
    """

    name: str
    weights: NDArray[np.float64]
    values: NDArray[np.float64]
    gain: float
    gain_error: float
    broken: float = 0.0
    allowed: bool = True

    @property
    def counts(self) -> bool:
        """Whether it could be an answer: allowed, and no limit broken."""
        return self.allowed and self.broken == 0

    @property
    def mean(self) -> float:
        """Mean target over the seeds, in the target's unit."""
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
        """Whether the found mixture beats the natural and the uniform one, the best trained one is not better, and all limits are
        kept.

        Rivals that could not be an answer are not counted against it; but something must be beaten.
        """
        others = {rival.name: rival for rival in self.rivals[1:]}
        beats = all(others[name].beaten for name in ("natural", "uniform") if others[name].counts)
        stands = not (others["best trained"].counts and others["best trained"].better)
        return beats and stands and self.rivals[0].broken == 0 and any(rival.beaten for rival in others.values())

    @property
    def verdict(self) -> str:
        """One sentence for the terminal and the files."""
        parts = []
        for rival in self.rivals[1:]:
            word = "beats" if rival.beaten else "is worse than" if rival.better else "cannot be told from"
            unit = "of the reference" if self.target.relative else "nats"
            why = "" if rival.counts else "; breaks a limit" if rival.allowed else "; not allowed"
            parts.append(f"{word} the {rival.name} mixture ({rival.gain:+.4f} ± {rival.gain_error:.4f} {unit}{why})")
        words = f"{'PASSED' if self.passed else 'NOT PROVEN'}: the found mixture {', '.join(parts)}"
        if not self.target.limits:
            return words
        broken = self.rivals[0].broken
        return f"{words}; it {f'breaks a limit of the target by {broken:.4f} nats' if broken else 'keeps the limits of the target'}"


def verify(
    mixtures: Mapping[str, NDArray[np.float64]],
    runner: ProxyRunner,
    target: Target,
    seeds: int,
    study_seed: int,
    observer: Observer | None = None,
    allowed: Mapping[str, bool] | None = None,
) -> Verification:
    """Train every mixture with `seeds` fresh seeds.

    Args:
        mixtures: By name; must hold ``found``, ``natural``, ``uniform`` and ``best trained``.
        runner: Trains them.
        target: What is compared.
        seeds: Number of seeds; none of them was used in the search.
        study_seed: The study's seed, from which the fresh ones derive.
        observer: Told of every result; of a target over the natural mixture NaN, until that is trained with the same seed.
        allowed: Which mixtures satisfy the constraints; default: all.

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
    losses = np.full((seeds, len(names), len(target.loss_names)), np.nan)
    natural = names.index(NATURAL)
    with contextlib.closing(runner.run(requests)) as results:
        for result in results:
            if result.failure is not None:
                raise ProxyError(f"verification: the {names[result.slot % len(names)]} mixture failed to train: {result.failure}")
            i, j = divmod(result.slot, len(names))
            losses[i, j] = [result.losses[name] for name in target.loss_names]
            watcher.on_result(result, float(target(losses[i, j : j + 1], losses[i, natural])[0]))
    values = np.stack([target(of_seed, of_seed[natural]) for of_seed in losses])
    if not np.isfinite(values).all():
        missing = names[int(np.argmin(np.isfinite(values).all(axis=0)))]
        raise ProxyError(f"verification: the runner gave no finite losses for the {missing} mixture")
    found, means = values[:, names.index(FOUND)], losses.mean(axis=0)
    broken = target.violations(means, means[natural])
    rivals = []
    for j, name in enumerate(names):
        gains = values[:, j] - found
        rivals.append(
            Rival(
                name,
                mixtures[name],
                values[:, j],
                float(gains.mean()),
                float(gains.std(ddof=1) / math.sqrt(seeds)),
                float(broken[j]),
                True if allowed is None else allowed[name],
            )
        )
    return Verification(target, tuple(drawn), tuple(rivals))
