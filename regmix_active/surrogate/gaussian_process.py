"""Gaussian processes, one per loss, on warped weights: the default surrogate.

:mod:`~regmix_active.surrogate.warp` says what they see of a mixture, :mod:`~regmix_active.surrogate.gp_fit` how hyperparameters are
found, :mod:`~regmix_active.surrogate.gp_exact` what follows from them; this module puts the parts together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from regmix_active.surrogate.base import Array, Paths, Posterior, Surrogate, check_observations
from regmix_active.surrogate.blend import blend
from regmix_active.surrogate.gp_exact import ExactProcesses
from regmix_active.surrogate.gp_fit import MISSING, SMOOTH, SPARSE, LengthscalePrior, Stage, fit_hyperparameters
from regmix_active.surrogate.gp_groups import fit_in_groups
from regmix_active.surrogate.residuals import error_correlation, square_root
from regmix_active.surrogate.warp import Warp
from regmix_active.threads import one_thread


class GaussianProcess(Surrogate):
    """Exact GPs with an ARD Matérn-5/2 kernel on warped weights, all losses fitted in one batch on shared inputs.

    The belief is the average over the lengthscale priors, so that doubt about the hyperparameters counts as doubt. Every fit
    depends on the observed losses alone: a search that was killed and continued proposes what the unbroken one would have.
    """

    name: ClassVar[str] = "gp"
    differentiable: ClassVar[bool] = True

    def __init__(
        self,
        warp: Warp = "cube-root",
        priors: Sequence[LengthscalePrior] = (SMOOTH, SPARSE),
        averaged_runs: int = 96,
        max_iterations: int = 30,
        coarse_runs: int = 64,
        fit_runs: int = 256,
        kernels: int = 40,
    ) -> None:
        """Choose the model.

        Args:
            warp: Of the weights: ``cube-root``, ``log`` or ``power`` (learns the exponent).
            priors: Of the lengthscales.
            averaged_runs: Up to so many runs the belief averages over all priors; with more of them priors hardly matter, and the
                first one is used.
            max_iterations: Bound on L-BFGS iterations of one fit; more of them do not rank better.
            coarse_runs: With more than `averaged_runs`, hyperparameters are first fitted on so many proxies, evenly spaced over the
                study, and then refined with a third of the iterations.
            fit_runs: Hyperparameters are fitted on at most so many proxies; the posterior uses all.
            kernels: With more losses than this, losses that behave alike share their lengthscales.
        """
        self.warp: Warp = warp
        self.priors = tuple(priors)
        self.averaged_runs = averaged_runs
        self.max_iterations = max_iterations
        self.coarse_runs = coarse_runs
        self.fit_runs = fit_runs
        self.kernels = kernels

    def fit(self, mixtures: Array, losses: Array, noise: ArrayLike | None = None) -> Self:
        """Fit the hyperparameters of all losses at once and condition on all observations; see :meth:`Surrogate.fit`."""
        X, Y, V = check_observations(mixtures, losses, noise, self)
        n, m = Y.shape
        seen = ~np.isnan(Y)
        self._centre, self._scale = np.nanmean(Y, axis=0), np.maximum(np.nanstd(Y, axis=0, ddof=1), 1e-9)
        standard = torch.from_numpy(np.where(seen, (Y - self._centre) / self._scale, 0.0))
        known = np.zeros_like(Y) if V is None else V / self._scale**2
        fixed = torch.from_numpy(np.where(seen, known, MISSING))
        weights = torch.from_numpy(X)
        given = None if seen.all() and V is None else fixed
        fit = partial(fit_in_groups, groups=self.kernels) if m > self.kernels else fit_hyperparameters
        if few := n <= self.averaged_runs:
            stages = [Stage(self.fit_runs, self.max_iterations)]
        else:
            stages = [Stage(self.coarse_runs, self.max_iterations), Stage(self.fit_runs, -(-self.max_iterations // 3))]
        settings: dict[str, Any] = {"stages": stages, "warp": self.warp, "learn_noise": V is None}
        priors = self.priors if few else self.priors[:1]
        hypers = [fit(weights, standard, given, prior=prior, **settings) for prior in priors]
        with one_thread(), torch.no_grad():
            self._parts = [ExactProcesses(weights, standard, fixed, hyper, self.warp) for hyper in hypers]
            left_out = [part.left_out() for part in self._parts]
        errors = standard.numpy() - np.mean([mean for mean, _ in left_out], axis=0)
        deviations = np.sqrt(np.mean([variance for _, variance in left_out], axis=0))
        self._correlation = error_correlation(np.where(seen, errors / deviations, np.nan))
        own = np.mean([part.hyper.noise.numpy() for part in self._parts], axis=0)
        self._noise = (own + (np.where(seen, known, 0).sum(axis=0) / seen.sum(axis=0))) * self._scale**2
        return self

    def predict(self, mixtures: Array) -> Array:
        """Posterior means, shape ``(q, m)``, of more than a thousand mixtures in single precision; see the base class."""
        with one_thread(), torch.no_grad():
            mean: Array = np.mean([part.mean(mixtures) for part in self._parts], axis=0)
        return mean * self._scale + self._centre

    def posterior(self, mixtures: Array) -> Posterior:
        """Joint posterior of the noise-free losses; see :meth:`Surrogate.posterior`."""
        with one_thread(), torch.no_grad():
            beliefs = [self._belief(part, mixtures) for part in self._parts]
        return blend(beliefs, np.full((len(beliefs), len(self._scale)), 1 / len(beliefs)))

    def _belief(self, part: ExactProcesses, mixtures: Array) -> Posterior:
        """The belief under one prior, in nats."""
        mean, variance, covariance = part.moments(mixtures)
        scale = self._scale

        def rows(some: NDArray[np.intp]) -> Array:
            with one_thread(), torch.no_grad():
                return covariance(some) * scale**2

        return Posterior(mean * scale + self._centre, variance * scale**2, rows, self.noise_variance, self._correlation)

    def paths(self, n: int, rng: np.random.Generator) -> Paths:
        """`n` functions, drawn in equal numbers from the belief under each prior; see :meth:`Surrogate.paths`."""
        root, shares = square_root(self._correlation), np.array_split(np.arange(n), len(self._parts))
        with torch.no_grad():
            drawn = [part.paths(len(share), root, rng) for part, share in zip(self._parts, shares, strict=True) if len(share)]

        scale, centre = self._scale, self._centre

        def losses(mixtures: Array) -> Array:
            with one_thread(), torch.no_grad():
                return np.concatenate([path(mixtures) for path in drawn]) * scale + centre

        return losses

    def gradients(self, mixtures: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
        """Mean and variance of a weighed sum of losses with their derivatives; see :meth:`Surrogate.gradients`."""
        X = torch.from_numpy(np.ascontiguousarray(mixtures)).requires_grad_()
        scale, correlation = torch.from_numpy(self._scale * weights), torch.from_numpy(self._correlation)
        with one_thread():
            moments = [part.weighed(X) for part in self._parts]
            means = torch.stack([mean for mean, _ in moments])
            variances = torch.stack([variance for _, variance in moments]).clamp_min(1e-12)
            spread = (variances.mean(dim=0) + means.var(dim=0, correction=0)).sqrt() * scale
            mean, variance = means.mean(dim=0) @ scale, torch.einsum("qj,jk,qk->q", spread, correlation, spread)
            slopes: list[Tensor] = [torch.autograd.grad(value.sum(), X, retain_graph=True)[0] for value in (mean, variance)]
        value = mean.detach().numpy() + float(self._centre @ weights)
        return value, variance.detach().numpy(), slopes[0].numpy(), slopes[1].numpy()

    @property
    def noise_variance(self) -> Array:
        """Observation noise per loss, shape ``(m,)``, nats² per token²."""
        return self._noise

    @property
    def lengthscales(self) -> Array:
        """Lengthscales on the warped weights, shape ``(m, d)``: a short one marks a domain that matters for that loss."""
        lengthscales: Array = self._parts[0].hyper.lengthscale.numpy()
        return lengthscales
