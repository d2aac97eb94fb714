"""Many losses, few kernels: losses that behave alike share lengthscales, each keeps its own scale, noise and mean.

A hundred benchmark metrics are noisy views of some dozen abilities. Fitting lengthscales to the mean of a group is cheaper by as
much as there are fewer groups, and steadier, because noise averages out. No loss is replaced by its group: every one is still
conditioned on its own observations, so that no target loses anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from regmix_active.surrogate.base import Array
from regmix_active.surrogate.gp_exact import unit_matern
from regmix_active.surrogate.gp_fit import MISSING, NOISE, SCALE, Hyperparameters, fit_hyperparameters
from regmix_active.surrogate.warp import Warp, warped

RATIOS = torch.logspace(-4, 2, 25, dtype=torch.float64)
"""Candidate ratios of noise to signal variance."""


def fit_in_groups(
    X: Tensor, Y: Tensor, fixed_noise: Tensor | None, *, groups: int, learn_noise: bool, warp: Warp, **options: Any
) -> Hyperparameters:
    """Hyperparameters of many losses; as :func:`gp_fit.fit_hyperparameters`, with lengthscales shared in `groups` groups."""
    seen = torch.ones_like(Y, dtype=torch.bool) if fixed_noise is None else fixed_noise < MISSING
    member = torch.from_numpy(alike(np.where(seen.numpy(), Y.numpy(), np.nan), groups))
    count = int(member.max()) + 1
    means, known = torch.zeros(len(Y), count, dtype=Y.dtype), torch.full((len(Y), count), MISSING, dtype=Y.dtype)
    for g in range(count):
        inside, own = seen[:, member == g], Y[:, member == g]
        there = inside.any(dim=1)
        mean = (own * inside).sum(dim=1)[there] / inside.sum(dim=1)[there]
        means[there, g] = mean / mean.std().clamp_min(1e-9)
        known[there, g] = 0.0
    missing = known if (known > 0).any() else None
    shared = fit_hyperparameters(X, means, missing, learn_noise=True, warp=warp, **options).rows(member)
    if not learn_noise:
        return Hyperparameters(shared.exponent, shared.lengthscale, shared.scale, torch.zeros_like(shared.noise), shared.constant)
    rows = options["stages"][-1].rows(X)
    inputs, Y, seen = warped(X[rows], warp, shared.exponent), Y[rows], seen[rows]
    fitted = [_own(inputs[seen[:, j]] / shared.lengthscale[j], Y[seen[:, j], j]) for j in range(Y.shape[1])]
    scale, noise, constant = (torch.stack(values) for values in zip(*fitted, strict=True))
    return Hyperparameters(shared.exponent, shared.lengthscale, scale, noise, constant)


def _own(inputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, noise and constant of one loss under which its observations are likeliest, given its lengthscales."""
    eigenvalues, U = torch.linalg.eigh(unit_matern(inputs, inputs))
    spread = eigenvalues.clamp_min(0) + RATIOS[:, None]
    ones, turned = U.sum(dim=0), U.T @ y
    constant = (ones * turned / spread).sum(dim=1) / (ones.square() / spread).sum(dim=1)
    scale = ((turned - constant[:, None] * ones).square() / spread).mean(dim=1)
    likelihood = -0.5 * (len(y) * scale.log() + spread.log().sum(dim=1))
    best = (likelihood + SCALE.log_prob(scale) + NOISE.log_prob(scale * RATIOS)).argmax()
    return scale[best], scale[best] * RATIOS[best], constant[best]


def alike(losses: Array, groups: int) -> Array:
    """Group of each loss, from average linkage on correlations over shared runs, shape ``(m,)``, numbered from 0."""
    seen = ~np.isnan(losses)
    z = np.where(seen, losses - np.nanmean(losses, axis=0), 0.0)
    norm = np.sqrt(np.maximum((z**2).T @ seen, 1e-300))
    distance = np.clip(1 - (z.T @ z) / np.maximum(norm * norm.T, 1e-300), 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform((distance + distance.T) / 2, checks=False), method="average")
    _, member = np.unique(fcluster(tree, groups, criterion="maxclust"), return_inverse=True)
    return member.astype(np.int64)
