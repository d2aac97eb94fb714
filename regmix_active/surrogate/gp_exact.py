"""Exact Gaussian processes with given hyperparameters, one per loss, conditioned on finished proxies.

What a search needs again and again: means of a million mixtures in constant memory, covariances of some thousand candidates,
functions drawn from the posterior, and what each proxy's losses looked like without itself.

References:
    [1] Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equations 2.25, 2.26 and 5.12.
    [2] Wilson et al., Efficiently Sampling Functions from Gaussian Process Posteriors, ICML 2020.
    [3] Rahimi and Recht, Random Features for Large-Scale Kernel Machines, NeurIPS 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regmix_active.surrogate.base import Array
from regmix_active.surrogate.gp_fit import Hyperparameters
from regmix_active.surrogate.warp import Warp, warped

CHUNK = 1024
"""Mixtures predicted at once: what fits a core's cache."""

SOLVED = 256
"""Mixtures whose covariances are solved for at once; more of them leave the cache."""

HELD = 2**26
"""Numbers of the matrix V that are held between calls; a larger one is computed when a covariance is asked for, in float32."""

FEATURES = 1024
"""Random Fourier features of a drawn function."""


class ExactProcesses:
    """m Gaussian processes on standardised losses, Matérn-5/2 on warped weights."""

    def __init__(self, X: Tensor, Y: Tensor, fixed_noise: Tensor, hyper: Hyperparameters, warp: Warp) -> None:
        """Condition on observations.

        Args:
            X: Weights, shape ``(n, d)``.
            Y: Standardised losses, shape ``(n, m)``; any number where missing.
            fixed_noise: Noise variance beside `hyper`'s, shape ``(n, m)``; :data:`gp_fit.MISSING` where missing.
            hyper: Hyperparameters.
            warp: Of the weights.
        """
        self.hyper, self.warp = hyper, warp
        n, m = Y.shape
        self._middle = warped(X, warp, hyper.exponent).mean(dim=0)
        self._inputs = self._scaled(X)
        K = self._kernel(self._inputs, self._inputs)
        noise = hyper.noise[:, None] + fixed_noise.T
        self._noise = noise
        self._L = _cholesky(K + torch.diag_embed(noise))
        self._residual = (Y.T - hyper.constant[:, None])[..., None]
        self._alpha = torch.cholesky_solve(self._residual, self._L)
        self._single = self._inputs.float(), (self._alpha[..., 0] * hyper.scale[:, None]).float()
        self._shape = n, m

    def mean(self, mixtures: Array) -> Array:
        """Posterior means, shape ``(q, m)``, standardised; in chunks, and in single precision where there are several."""
        if len(mixtures) <= CHUNK:
            cross = self._kernel(self._inputs, self._scaled(torch.from_numpy(mixtures)))
            exact: Array = (self.hyper.constant[:, None] + (cross.mT @ self._alpha)[..., 0]).T.numpy()
            return exact
        lengthscale, (inputs, alpha) = self.hyper.lengthscale.float(), self._single
        result = np.empty((len(mixtures), self._shape[1]))
        for start in range(0, len(mixtures), CHUNK):
            Z = warped(torch.from_numpy(mixtures[start : start + CHUNK]), self.warp, self.hyper.exponent)
            Z = (Z - self._middle).float()
            for j in range(self._shape[1]):
                result[start : start + len(Z), j] = alpha[j] @ unit_matern(inputs[j], Z / lengthscale[j])
        return result + self.hyper.constant.numpy()

    def moments(self, mixtures: Array) -> tuple[Array, Array, Callable[[NDArray[np.intp]], Array]]:
        """Means ``(q, m)``, variances ``(q, m)`` and covariances of some with all, ``(r,)`` → ``(r, q, m)``; standardised [1]."""
        n, m = self._shape
        Z = self._scaled(torch.from_numpy(mixtures))
        q = Z.shape[1]
        mean, variance = np.empty((q, m)), np.empty((q, m))
        held = np.empty((m, n, q), dtype=np.float64) if m * n * q <= HELD else None
        for start, cross, V in self._solved(Z):
            rows = slice(start, start + V.shape[2])
            mean[rows] = (self.hyper.constant[:, None] + (cross.mT @ self._alpha)[..., 0]).T.numpy()
            variance[rows] = (self.hyper.scale[:, None] - V.square().sum(dim=1)).T.numpy()
            if held is not None:
                held[:, :, rows] = V.numpy()
        cache = [held] if held is not None else []

        def covariance(rows: NDArray[np.intp]) -> Array:
            if not cache:
                cache.append(np.concatenate([V.float().numpy() for _, _, V in self._solved(Z)], axis=2))
            (V,) = cache
            prior = self._kernel(Z[:, torch.from_numpy(rows)], Z).numpy()
            return (prior - V[:, :, rows].transpose(0, 2, 1) @ V).transpose(1, 2, 0)

        return mean, variance, covariance

    def weighed(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances ``(q, m)`` as differentiable functions of the weights `X`, shape ``(q, d)``."""
        cross = self._kernel(self._inputs, self._scaled(X))
        V = torch.linalg.solve_triangular(self._L, cross, upper=False)
        mean = self.hyper.constant[:, None] + (cross.mT @ self._alpha)[..., 0]
        return mean.T, (self.hyper.scale[:, None] - V.square().sum(dim=1)).T

    def left_out(self) -> tuple[Array, Array]:
        """Mean and variance of each observation from all others, with noise, each ``(n, m)`` (equation 5.12 of [1])."""
        inverse = torch.cholesky_inverse(self._L)
        variance = 1 / torch.diagonal(inverse, dim1=1, dim2=2)
        error = self._alpha[..., 0] * variance
        return ((self._residual[..., 0] + self.hyper.constant[:, None]) - error).T.numpy(), variance.T.numpy()

    def paths(self, s: int, mixing: Array, rng: np.random.Generator) -> Callable[[Array], Array]:
        """`s` functions drawn from the posterior: weights ``(q, d)`` → standardised losses ``(s, q, m)``.

        A draw of the prior by random Fourier features [3], corrected by what the observations make of its values there [2].

        Args:
            s: Number of functions.
            mixing: Square root of the correlation between losses, shape ``(m, m)``: their draws err together.
            rng: Source of randomness.
        """
        n, m = self._shape
        d = self._inputs.shape[2]
        # Matérn-5/2 is a Gaussian kernel whose inverse squared lengthscale is Gamma(5/2) distributed: Student-t frequencies.
        frequencies = torch.from_numpy(rng.standard_normal((FEATURES, d)) / np.sqrt(rng.chisquare(5, (FEATURES, 1)) / 5))
        phases = torch.from_numpy(rng.uniform(0, 2 * math.pi, FEATURES))
        root = torch.from_numpy(mixing)
        heights = torch.einsum("jk,skf->jsf", root, torch.from_numpy(rng.standard_normal((s, m, FEATURES))))
        heights = heights * (2 * self.hyper.scale / FEATURES).sqrt()[:, None, None]

        def prior(inputs: Tensor) -> Tensor:
            """Shape ``(m, q, s)``."""
            return torch.cos(inputs @ frequencies.T + phases) @ heights.mT

        jitter = torch.einsum("jk,skn->jns", root, torch.from_numpy(rng.standard_normal((s, m, n))))
        seen = self._residual - prior(self._inputs) - jitter * self._noise.sqrt()[..., None]
        update = torch.cholesky_solve(seen, self._L)

        def drawn(mixtures: Array) -> Array:
            parts = []
            for chunk in np.array_split(mixtures, math.ceil(len(mixtures) / CHUNK)):
                Z = self._scaled(torch.from_numpy(chunk))
                parts.append(prior(Z) + self._kernel(self._inputs, Z).mT @ update)
            losses: Array = (torch.cat(parts, dim=1) + self.hyper.constant[:, None, None]).permute(2, 1, 0).numpy()
            return losses

        return drawn

    def _scaled(self, X: Tensor) -> Tensor:
        """Warped weights by lengthscales, shape ``(m, n, d)``; centred, which keeps distances accurate in single precision."""
        return (warped(X, self.warp, self.hyper.exponent) - self._middle) / self.hyper.lengthscale[:, None, :]

    def _kernel(self, A: Tensor, B: Tensor) -> Tensor:
        """Prior covariance of scaled inputs ``(m, n, d)`` and ``(m, q, d)``, shape ``(m, n, q)``."""
        r = math.sqrt(5) * torch.cdist(A, B)
        return self.hyper.scale[:, None, None] * (1 + r + r.square() / 3) * torch.exp(-r)

    def _solved(self, Z: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """By chunks of the mixtures: where it starts, covariance with the observations and V = L⁻¹ of it, ``(m, n, chunk)``."""
        for start in range(0, Z.shape[1], SOLVED):
            cross = self._kernel(self._inputs, Z[:, start : start + SOLVED])
            yield start, cross, torch.linalg.solve_triangular(self._L, cross, upper=False)


def unit_matern(A: Tensor, B: Tensor) -> Tensor:
    """Matérn-5/2 of scaled inputs ``(n, d)`` and ``(q, d)``, shape ``(n, q)``; in place, for speed."""
    squares = torch.addmm(A.square().sum(dim=1, keepdim=True) + B.square().sum(dim=1), A, B.T, alpha=-2)
    r = squares.mul_(5).clamp_min_(0).sqrt_()
    decay = torch.exp(-r)
    return r.square().div_(3).add_(r).add_(1).mul_(decay)


def _cholesky(K: Tensor) -> Tensor:
    """Cholesky factors, with as little on the diagonal as makes them exist."""
    for jitter in (0.0, 1e-8, 1e-6, 1e-4):
        L, info = torch.linalg.cholesky_ex(K + jitter * torch.eye(K.shape[-1], dtype=K.dtype))
        if not info.any():
            return L
    return torch.linalg.cholesky(K + 1e-2 * torch.eye(K.shape[-1], dtype=K.dtype))
