"""Trade-offs between several targets: the mixtures that are expected to push the front of non-dominated ones out most.

References:
    [1] Daulton, Balandat and Bakshy, Parallel Bayesian Optimization of Multiple Noisy Objectives with Expected Hypervolume
        Improvement, NeurIPS 2021.
    [2] Ament et al., Unexpected Improvements to Expected Improvement for Bayesian Optimization, NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from gpytorch.distributions import MultitaskMultivariateNormal
from numpy.typing import NDArray
from torch import Tensor

from regmix_active.mixture.designs import around, trusted
from regmix_active.mixture.space import Mixtures
from regmix_active.study.history import History
from regmix_active.surrogate.belief import TargetModel
from regmix_active.surrogate.fronts import JointTargets, all_kept, joint_targets, layers, non_dominated
from regmix_active.threads import one_thread

from .candidates import allowed, likely, structured_pool, untaken
from .expected_improvement import ExpectedImprovement
from .registry import strategy

OPTIMISM = 1.0
"""Standard deviations below their means at which candidates are compared for the shortlist."""


@strategy("hypervolume")
@dataclass
class Hypervolume(ExpectedImprovement):
    """By how much a mixture is expected to enlarge what the trained mixtures dominate (qLogNEHVI [1, 2]), for two or more targets.

    Targets are combined from the same losses, so their errors are correlated, and that counts. A batch is filled one by one, each
    counting on those before it and on the proxies in training. With one target it is `expected-improvement`.

    Attributes:
        shortlist: Candidates that are compared: those that may be non-dominated.
        draws: Quasi-random draws of two targets; half as many for each target more, as boxes under a front grow fast with them.
    """

    pointwise: ClassVar[bool] = True

    shortlist: int = 96
    draws: int = 64

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to choose from."""
        super().__post_init__()
        if self.shortlist < 1 or self.draws < 1:
            raise ValueError(f"shortlist and draws must be 1 or more, got {self.shortlist} and {self.draws}")

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        """See :meth:`Strategy.propose`."""
        if len(history.targets) < 2:
            return super().propose(history, pending, n, rng)
        models = TargetModel.several(history, self.surrogate)
        candidates = self._trade_offs(models, history, pending, n, rng)
        return candidates[self._fill(models, history, pending, candidates, n, rng)]

    def select(
        self, history: History, pending: Mixtures, candidates: Mixtures, n: int, rng: np.random.Generator
    ) -> NDArray[np.intp]:
        """See :meth:`AcquisitionStrategy.select`."""
        if len(history.targets) < 2:
            return super().select(history, pending, candidates, n, rng)
        models = TargetModel.several(history, self.surrogate)
        rows = _shortlist(models, candidates, max(self.shortlist, n))
        return rows[self._fill(models, history, pending, candidates[rows], n, rng)]

    def _trade_offs(
        self, models: Sequence[TargetModel], history: History, pending: Mixtures, n: int, rng: np.random.Generator
    ) -> Mixtures:
        """Mixtures that may be non-dominated: from all over the feasible set, then from around the most promising of these."""
        space, size = history.space, max(self.shortlist, 2 * n)
        trained = allowed(space, history.mixtures)
        leaders = trained[_shortlist(models, trained, self.leaders)]
        taken = np.concatenate([history.mixtures, pending.reshape(len(pending), space.dim)])
        pool = structured_pool(space, leaders, self.candidates, rng)
        found = untaken(pool, taken)
        for _ in range(2):
            found = found if len(found) else pool
            best = found[_shortlist(models, found, size)]
            found = untaken(np.concatenate([best, around(space, best, self.candidates // 2, rng)]), taken)
        safe = found[trusted(found, history.diverged, history.mixtures)]
        found = safe if len(safe) >= n else found
        if len(found) < n:  # few mixtures are feasible: some are trained again
            found = np.concatenate([found, pool])
            found = found[np.arange(max(n, len(found))) % len(found)]
        return found[_shortlist(models, found, size)]

    def _fill(
        self,
        models: Sequence[TargetModel],
        history: History,
        pending: Mixtures,
        candidates: Mixtures,
        n: int,
        rng: np.random.Generator,
    ) -> NDArray[np.intp]:
        """Rows of candidates, one by one, each counting on those before it, shape ``(n,)``."""
        known = _baseline(models, history)
        pending = pending.reshape(-1, history.space.dim)
        q, b, p = len(candidates), len(known), len(pending)
        with one_thread():
            joint = joint_targets(models, np.concatenate([candidates, known, pending]))
            log_kept = all_kept(models, candidates).log_probability
            seed = int(rng.integers(2**31))
            trained = torch.arange(q, q + b)
            acquisition = _acquisition(joint, trained, seed, max(8, self.draws >> max(0, len(models) - 2)))
            waiting, free, chosen = [*range(q + b, q + b + p)], np.ones(q, dtype=bool), list[int]()
            for _ in range(n):
                if waiting:
                    acquisition.set_X_pending(_encoded(torch.tensor(waiting)))
                rows = np.flatnonzero(free)
                with torch.no_grad():
                    gain = acquisition(_encoded(torch.from_numpy(rows))[:, None]).numpy() + log_kept[rows]
                chosen.append(int(rows[np.argmax(np.nan_to_num(gain, nan=-np.inf))]))
                free[chosen[-1]] = False
                waiting.append(chosen[-1])
        return np.array(chosen, dtype=np.intp)


class _LookUp(Model):
    """A belief about some mixtures that was computed before; they are asked for by their row."""

    def __init__(self, joint: JointTargets) -> None:
        super().__init__()
        self.mean = torch.from_numpy(joint.mean)
        self.covariance = torch.from_numpy(joint.covariance)

    @property
    def num_outputs(self) -> int:
        """Targets."""
        return self.mean.shape[1]

    @property
    def batch_shape(self) -> torch.Size:
        """None."""
        return torch.Size()

    def posterior(self, X: Tensor, *args: Any, **kwargs: Any) -> GPyTorchPosterior:
        """Joint belief about the targets, which are maximised here, of rows ``(..., q, 1)``."""
        rows = X[..., 0].round().long()
        q, t = rows.shape[-1], self.num_outputs
        blocks = self.covariance[rows[..., :, None], :, rows[..., None, :], :].movedim(-2, -3)
        covariance = blocks.reshape(*rows.shape[:-1], q * t, q * t)
        return GPyTorchPosterior(MultitaskMultivariateNormal(self.mean[rows], covariance))


def _acquisition(joint: JointTargets, trained: Tensor, seed: int, draws: int) -> qLogNoisyExpectedHypervolumeImprovement:
    """The acquisition (qLogNEHVI) over rows of a joint belief.

    Targets are negated, as BoTorch maximises, and scaled by their spread over the trained mixtures, in which it smooths.
    """
    rows = trained.numpy()
    scale = np.maximum(joint.mean[rows].std(axis=0), np.sqrt(np.einsum("itit->it", joint.covariance)[rows].mean(axis=0)))
    scale = np.maximum(scale, 1e-9)
    mean = -(joint.mean - joint.mean[rows].mean(axis=0)) / scale
    covariance = joint.covariance / (scale[:, None, None] * scale)
    # Mixtures near each other are nearly one variable.
    i, t = np.ogrid[: len(mean), : len(scale)]
    covariance[i, t, i, t] += 1e-6
    observed = torch.from_numpy(mean[rows])
    front = torch.from_numpy(mean[rows][non_dominated(-mean[rows])])
    reference = infer_reference_point(front)
    if len(front) < 2:
        # One mixture is best at everything: whatever is better at anything than most counts.
        reference = observed.quantile(0.5, dim=0).minimum(front.min(dim=0).values - 0.1)
    return qLogNoisyExpectedHypervolumeImprovement(
        model=_LookUp(JointTargets(mean, covariance)),
        ref_point=reference,
        X_baseline=_encoded(trained),
        sampler=SobolQMCNormalSampler(torch.Size([draws]), seed=seed),
        prune_baseline=False,
        cache_root=False,
    )


def _encoded(rows: Tensor) -> Tensor:
    return rows.double()[:, None]


def _optimistic(models: Sequence[TargetModel], mixtures: Mixtures) -> NDArray[np.float64]:
    """What every target may be at best, shape ``(q, t)``."""
    return np.stack([model.pessimistic(mixtures, -OPTIMISM) for model in models], axis=1)


def _shortlist(models: Sequence[TargetModel], mixtures: Mixtures, size: int) -> NDArray[np.intp]:
    """Rows of the mixtures that may be non-dominated, those that are likely to keep all limits first, shape ``(k,)``."""
    log_kept = all_kept(models, mixtures).log_probability
    preferred = np.flatnonzero(likely(log_kept))
    rows = preferred[layers(_optimistic(models, mixtures[preferred]), size)]
    if len(rows) < min(size, len(mixtures)):
        others = np.setdiff1d(np.arange(len(mixtures)), rows)
        rows = np.concatenate([rows, others[np.argsort(-log_kept[others], kind="stable")[: size - len(rows)]]])
    return rows


BASELINE = 48
"""Trained mixtures that may be non-dominated; the others never are, and cost time."""


def _baseline(models: Sequence[TargetModel], history: History) -> Mixtures:
    """Trained mixtures that new ones have to beat: feasible, likely to keep all limits, the nearest to the front."""
    trained = history.mixtures[history.space.feasible(history.mixtures, tolerance=1e-6)]
    trained = trained if len(trained) else allowed(history.space, history.mixtures)
    log_kept = all_kept(models, trained).log_probability
    trained = trained[likely(log_kept)]
    means = np.stack([model.predict(trained) for model in models], axis=1)
    return trained[layers(means, max(8, BASELINE >> max(0, len(models) - 2)))]
