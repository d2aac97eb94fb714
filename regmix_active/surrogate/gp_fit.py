"""Hyperparameters of Gaussian processes: one per loss, fitted in one batch by BoTorch.

Two lengthscale priors are fitted and averaged. With few or noisy runs a maximum of the posterior is a gamble: a wide prior finds
the few domains that a loss depends on when losses are clean, and takes noise for such a dependence when they are not; a narrow one
around long lengthscales is the reverse. Their average ranks better than either, and better than choosing one by leave-one-out
likelihood, which prefers the one that follows the noise.

References:
    [1] Balandat et al., BoTorch: A Framework for Efficient Monte-Carlo Bayesian Optimization, NeurIPS 2020.
    [2] Hvarfner et al., Vanilla Bayesian Optimization Performs Great in High Dimensions, ICML 2024: priors that grow with sqrt(d).
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.exceptions.warnings import OptimizationWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.utils.sampling import manual_seed
from gpytorch.constraints import Interval
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.likelihoods.noise_models import HomoskedasticNoise
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import GammaPrior, LogNormalPrior
from torch import Tensor

from regmix_active.mixture.designs import farthest_first
from regmix_active.surrogate.warp import Warp, WeightWarp
from regmix_active.threads import one_thread

log = logging.getLogger(__name__)

MISSING = 1e6
"""Noise variance, in units of the loss's own, of an observation that is missing: it teaches nothing."""


@dataclass(frozen=True)
class Stage:
    """One fit.

    Attributes:
        runs: At most so many, those that are farthest from each other.
        iterations: Bound on those of L-BFGS.
    """

    runs: int
    iterations: int

    def rows(self, X: Tensor) -> Tensor:
        """Which of the runs, weights ``(n, d)``, it is made on.

        An active search trains most of its proxies where it hopes to win. A fit on a fair sample of them would not see what a
        domain does that no good mixture holds, and the posterior would promise wonders of it.
        """
        if len(X) <= self.runs:
            return torch.arange(len(X))
        return torch.tensor(sorted(farthest_first(np.cbrt(X.numpy()), self.runs)))


@dataclass(frozen=True)
class LengthscalePrior:
    """Log-normal prior on lengthscales of warped weights, scaled with the square root of the number of domains [2].

    Attributes:
        mode: Most probable lengthscale for one domain.
        spread: Standard deviation of the logarithm.
    """

    mode: float
    spread: float

    def build(self, d: int) -> LogNormalPrior:
        """The prior for d domains."""
        return LogNormalPrior(math.log(self.mode) + math.log(d) / 2 + self.spread**2, self.spread)


SCALE = GammaPrior(2.0, 0.5)
"""Prior of the signal variance of a standardised loss."""

NOISE = LogNormalPrior(math.log(0.007) + 2.0**2, 2.0)
"""Prior of its noise variance: from a clean loss (1e-4 of its variance) to a metric that is mostly noise."""

SMOOTH = LengthscalePrior(mode=4.0, spread=1.0)
SPARSE = LengthscalePrior(mode=0.2, spread=math.sqrt(3))


@dataclass(frozen=True)
class Hyperparameters:
    """Of m Gaussian processes on standardised losses; torch tensors of float64.

    Attributes:
        exponent: Power of the warp, shape ``(1,)``.
        lengthscale: Shape ``(m, d)``.
        scale: Signal variance, shape ``(m,)``.
        noise: Noise variance, beside what was given per observation, shape ``(m,)``.
        constant: Prior mean, shape ``(m,)``.
    """

    exponent: Tensor
    lengthscale: Tensor
    scale: Tensor
    noise: Tensor
    constant: Tensor

    def rows(self, index: Tensor) -> Hyperparameters:
        """Those of some losses, or of one loss for several."""
        return Hyperparameters(self.exponent, self.lengthscale[index], self.scale[index], self.noise[index], self.constant[index])


def fit_hyperparameters(
    X: Tensor,
    Y: Tensor,
    fixed_noise: Tensor | None,
    *,
    stages: Sequence[Stage],
    prior: LengthscalePrior,
    warp: Warp,
    learn_noise: bool,
) -> Hyperparameters:
    """Maximise the marginal likelihood plus priors of all losses at once [1], in stages.

    A fit that fails is tried again by BoTorch from hyperparameters drawn from the priors; when that fails too, those that it
    started from are used and a warning is logged.

    Args:
        X: Weights, shape ``(n, d)``.
        Y: Standardised losses, shape ``(n, m)``, without NaN.
        fixed_noise: Known noise variances, shape ``(n, m)``, or None.
        stages: Each starts from what the one before it found: a fit of few runs is a good and cheap start for one of many.
        prior: Of the lengthscales.
        warp: Of the weights.
        learn_noise: Whether noise is estimated (beside `fixed_noise`).
    """
    found: Hyperparameters | None = None
    for stage in stages:
        rows = stage.rows(X)
        data = X[rows], Y[rows], None if fixed_noise is None else fixed_noise[rows]
        found = _fit(partial(_model, *data, prior, warp, learn_noise, found), stage.iterations, Y.shape[1], learn_noise)
    if found is None:
        raise ValueError("a fit needs a stage")
    return found


def _fit(build: Callable[[], SingleTaskGP], iterations: int, m: int, learn_noise: bool) -> Hyperparameters:
    model = build()
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    # Seeded, because a fit that fails is tried again from hyperparameters drawn at random.
    with one_thread(), warnings.catch_warnings(), manual_seed(0):
        # Stopping at the bound is a choice here, not a fault.
        warnings.simplefilter("ignore", OptimizationWarning)
        try:
            fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": iterations}})
        except (ModelFittingError, RuntimeError) as error:
            log.warning("Gaussian process fit failed (%s); using the hyperparameters that it started from", error)
            model = build()
    return _read(model.eval().requires_grad_(False), m, learn_noise)


def _model(
    X: Tensor,
    Y: Tensor,
    fixed_noise: Tensor | None,
    prior: LengthscalePrior,
    warp: Warp,
    learn_noise: bool,
    start: Hyperparameters | None,
) -> SingleTaskGP:
    d, m = X.shape[-1], Y.shape[-1]
    batch = torch.Size([m]) if m > 1 else torch.Size([])
    matern = MaternKernel(
        nu=2.5,
        ard_num_dims=d,
        batch_shape=batch,
        lengthscale_prior=prior.build(d),
        lengthscale_constraint=Interval(0.02, 1e3, initial_value=math.sqrt(d)),
    )
    kernel = ScaleKernel(matern, batch_shape=batch, outputscale_prior=SCALE, outputscale_constraint=Interval(0.02, 100.0))
    noise = {
        "noise_prior": NOISE,
        "noise_constraint": Interval(1e-5, 3.0, initial_value=0.03),
        "batch_shape": batch,
    }
    if fixed_noise is None:
        likelihood = GaussianLikelihood(**noise)
    else:
        per_loss = fixed_noise.T if m > 1 else fixed_noise[:, 0]
        likelihood = FixedNoiseGaussianLikelihood(per_loss.clamp_min(1e-6), learn_additional_noise=learn_noise, batch_shape=batch)
        if learn_noise:
            likelihood.second_noise_covar = HomoskedasticNoise(**noise)
    # Standardised by the caller, whose posterior is in nats.
    model = SingleTaskGP(
        X, Y, covar_module=kernel, likelihood=likelihood, outcome_transform=None, input_transform=WeightWarp(warp)
    ).double()
    if start is not None:
        _begin(model, start, learn_noise)
    return model


def _begin(model: SingleTaskGP, start: Hyperparameters, learn_noise: bool) -> None:
    if isinstance(model.input_transform, WeightWarp) and model.input_transform.kind == "power":
        model.input_transform.set_exponent(start.exponent)
    kernel, likelihood, m = model.covar_module, model.likelihood, len(start.scale)
    batch = (m,) if m > 1 else ()
    kernel.base_kernel.lengthscale = start.lengthscale.reshape(*batch, 1, -1)
    kernel.outputscale = start.scale.reshape(batch)
    model.mean_module.constant.data.copy_(start.constant.reshape(batch))
    if learn_noise and isinstance(likelihood, FixedNoiseGaussianLikelihood):
        likelihood.second_noise_covar.noise = start.noise.reshape(*batch, 1)
    elif learn_noise:
        likelihood.noise = start.noise.reshape(*batch, 1)


def _read(model: SingleTaskGP, m: int, learn_noise: bool) -> Hyperparameters:
    likelihood, warp = model.likelihood, cast("WeightWarp", model.input_transform)
    if not learn_noise:
        noise = torch.zeros(m, dtype=torch.float64)
    elif isinstance(likelihood, FixedNoiseGaussianLikelihood):
        noise = likelihood.second_noise.reshape(m)
    else:
        noise = likelihood.noise.reshape(m)
    return Hyperparameters(
        exponent=warp.exponent,
        lengthscale=model.covar_module.base_kernel.lengthscale.reshape(m, -1),
        scale=model.covar_module.outputscale.reshape(m),
        noise=noise,
        constant=model.mean_module.constant.reshape(m),
    )
