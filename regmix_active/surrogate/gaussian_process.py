"""Gaussian processes, one per loss, on warped weights.

A loss answers to a domain's weight roughly as a power law, so that the step from 0 to 1 % matters more than that from 30 to
40 %: each weight is warped on its own (cube root) before an ARD Matérn-5/2 kernel. Warping every domain separately keeps the
lengthscales readable as relevances of domains; log-ratio coordinates would not.

References:
    [1] Balandat et al., BoTorch: A Framework for Efficient Monte-Carlo Bayesian Optimization, NeurIPS 2020.
    [2] Hvarfner et al., Vanilla Bayesian Optimization Performs Great in High Dimensions, ICML 2024 (dimension-scaled priors).
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.exceptions.warnings import OptimizationWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.utils.sampling import manual_seed
from gpytorch.constraints import Interval
from gpytorch.kernels import Kernel, MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import GammaPrior, LogNormalPrior
from numpy.typing import ArrayLike
from torch import Tensor

from regmix_active.errors import StudyError
from regmix_active.surrogate.base import Array, Posterior, Surrogate

log = logging.getLogger(__name__)

CHUNK = 4096
"""Mixtures predicted at once: bounds the memory of a simulation."""


class GaussianProcess(Surrogate):
    """One exact GP per loss, all fitted in one batch on shared inputs (BoTorch [1], priors of [2]).

    Every fit starts from the same hyperparameters, so that a belief depends on the observed losses alone: a search that was killed
    and continued must propose what the unbroken one would have. (Starting from the previous fit's was measured to save no time.)
    """

    name: ClassVar[str] = "gp"

    def __init__(self, exponent: float = 1 / 3, max_iterations: int = 30, fit_runs: int = 256) -> None:
        """Choose the warp.

        Args:
            exponent: Power applied to each weight; between 0.25 and 0.5 the choice hardly matters.
            max_iterations: Bound on L-BFGS iterations of one fit; more of them do not rank better.
            fit_runs: Hyperparameters are fitted on at most so many proxies, evenly spaced over the study; the posterior uses all.
        """
        self.exponent = exponent
        self.max_iterations = max_iterations
        self.fit_runs = fit_runs

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        """Maximise the marginal likelihood plus priors of all losses at once; see :meth:`Surrogate.fit`."""
        n = len(mixtures)
        if n < self.minimum_runs:
            raise StudyError(f"a Gaussian process needs {self.minimum_runs} finished proxies or more; the study has {n}")
        self._centre, self._scale = losses.mean(axis=0), np.maximum(losses.std(axis=0, ddof=1), 1e-9)
        X, Y = self._warp(mixtures), torch.from_numpy((losses - self._centre) / self._scale)
        some = np.unique(np.linspace(0, n - 1, min(n, self.fit_runs)).round().astype(int))
        model = self._model(X[some], Y[some])
        mll = ExactMarginalLogLikelihood(model.likelihood, model)
        # Seeded, because a fit that fails is tried again from hyperparameters drawn at random.
        with _one_thread(), warnings.catch_warnings(), manual_seed(0):
            # Stopping at max_iterations is a choice here, not a fault.
            warnings.simplefilter("ignore", OptimizationWarning)
            try:
                fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": self.max_iterations}})
            except ModelFittingError as error:
                log.warning("Gaussian process fit failed (%s); using the prior's hyperparameters", error)
                model = self._model(X[some], Y[some])
        with torch.no_grad():
            self._condition(model.eval().requires_grad_(False), X, Y)
        return self

    def predict(self, mixtures: Array) -> Array:
        """Posterior means, shape ``(q, m)``; see :meth:`Surrogate.predict`."""
        means = [self._mean(self._cross(self._warp(chunk))) for chunk in np.array_split(mixtures, math.ceil(len(mixtures) / CHUNK))]
        return np.concatenate(means)

    def posterior(self, mixtures: Array) -> Posterior:
        """Joint posterior of the noise-free losses; see :meth:`Surrogate.posterior`."""
        Z, unit, kernel = self._warp(mixtures), torch.from_numpy(self._scale), self._kernel
        with torch.no_grad():
            cross = self._cross(Z)
            V = torch.linalg.solve_triangular(self._L, cross, upper=False) * unit[:, None, None]
            prior = (kernel.outputscale.reshape(-1) * unit**2).numpy()
            W = V.numpy()

        def rows(i: int) -> Array:
            with torch.no_grad():
                cross = (kernel(Z[i : i + 1], Z).to_dense().reshape(len(unit), len(Z)) * unit[:, None] ** 2).numpy()
            return cross.T - np.einsum("mn,mnq->qm", W[:, :, i], W)

        return Posterior(self._mean(cross), prior - np.einsum("mnq,mnq->qm", W, W), rows, self.noise_variance)

    @property
    def noise_variance(self) -> Array:
        """Fitted observation noise per loss, shape ``(m,)``, nats² per token²."""
        return self._noise * self._scale**2

    @property
    def lengthscales(self) -> Array:
        """Fitted lengthscales on the warped weights, shape ``(m, d)``: a short one marks a domain that matters for that loss."""
        return self._lengthscales

    def _warp(self, mixtures: Array) -> Tensor:
        return torch.from_numpy(np.clip(mixtures, 0.0, 1.0) ** self.exponent)

    @staticmethod
    def _model(X: Tensor, Y: Tensor) -> SingleTaskGP:
        d, batch = X.shape[-1], torch.Size([Y.shape[-1]]) if Y.shape[-1] > 1 else torch.Size([])
        matern = MaternKernel(
            nu=2.5,
            ard_num_dims=d,
            batch_shape=batch,
            lengthscale_prior=LogNormalPrior(math.sqrt(2) + math.log(d) / 2, math.sqrt(3)),
            lengthscale_constraint=Interval(0.02, 200.0, initial_value=math.sqrt(d)),
        )
        kernel = ScaleKernel(
            matern, batch_shape=batch, outputscale_prior=GammaPrior(2.0, 0.5), outputscale_constraint=Interval(0.02, 100.0)
        )
        likelihood = GaussianLikelihood(
            batch_shape=batch, noise_prior=LogNormalPrior(-5.0, 1.5), noise_constraint=Interval(1e-5, 1.0, initial_value=1e-2)
        )
        # Standardised by hand: the posterior below is ours, in nats.
        return SingleTaskGP(X, Y, covar_module=kernel, likelihood=likelihood, outcome_transform=None)

    def _condition(self, model: SingleTaskGP, X: Tensor, Y: Tensor) -> None:
        m = Y.shape[-1]
        self._X = X
        self._kernel: Kernel = model.covar_module
        self._noise = model.likelihood.noise.reshape(m).numpy()
        self._constant = model.mean_module.constant.reshape(m, 1)
        self._lengthscales = model.covar_module.base_kernel.lengthscale.reshape(m, -1).numpy()
        K = self._kernel(X).to_dense().reshape(m, len(X), len(X))
        K = K + torch.diag_embed(torch.from_numpy(self._noise)[:, None].expand(m, len(X)))
        self._L = torch.linalg.cholesky(K)
        self._alpha = torch.cholesky_solve((Y.T - self._constant)[..., None], self._L)

    def _cross(self, Z: Tensor) -> Tensor:
        """Prior covariance of the training mixtures with `Z`, shape ``(m, n, q)``, standardised losses."""
        with torch.no_grad():
            cross: Tensor = self._kernel(self._X, Z).to_dense()
        return cross.reshape(len(self._constant), len(self._X), len(Z))

    def _mean(self, cross: Tensor) -> Array:
        mean: Array = (self._constant + (cross.mT @ self._alpha)[..., 0]).T.numpy()
        return mean * self._scale + self._centre


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Fit with one thread of torch: on matrices of this size a second one makes it two to five times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
