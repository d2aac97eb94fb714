"""A Gaussian process on the leaves of a forest, for one loss, calibrated on held-out proxies.

The kernel of two mixtures is the share of the trees in which they fall into the same leaf [1]. It has one feature per leaf, so
that the mean, the covariance and functions drawn from the process are sums of one value per tree.

Trees were grown on the losses that the process is conditioned on, which makes it overconfident. Its noise and scale, the share of
the boosted prediction in its mean and the width of its intervals are therefore those under which proxies are likeliest
that neither the trees nor the process have seen.

References:
    [1] Thebelt et al., Tree ensemble kernels for Bayesian optimization with known constraints, arXiv 2207.00879.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from regmix_active.surrogate.base import Array
from regmix_active.surrogate.calibration import held_out_folds, interval_scale, likeliest_noise
from regmix_active.surrogate.trees import Forest, Leaves, TreeSettings

RATIOS = np.geomspace(1e-3, 10.0, 9)
"""Candidate ratios of noise to signal variance. What leaves cannot resolve counts as noise, so that zero is not among them."""

USUAL_RATIO = 0.3
"""Median of the ratio's prior."""

BOOSTED_SHARES = np.linspace(0.0, 1.0, 5)
"""Candidate shares of the boosted prediction in the mean."""

Single = NDArray[np.float32]

CHUNK = 2048
"""Mixtures whose features are held at once."""

UNRESOLVED = 0.1
"""Share of a loss's variance that trees typically leave: known noise far below it does not make proxies count differently."""


def left_over(explained: Array) -> Array:
    """Variance that is left of one, a mixture's kernel with itself; rounding may take a little more than there is."""
    return np.maximum(1.0 - explained, 1e-9)


class Conditioned:
    """The process on a forest given observed losses, for signal variance one.

    Attributes:
        values: The posterior mean as a value per leaf, shape ``(leaves,)``, to be added to `constant`.
        constant: The mean far from the data, by generalised least squares.
    """

    def __init__(self, forest: Forest, leaves: Leaves, kernel: Array, y: Array, ridge: Array) -> None:
        """Condition on losses.

        Args:
            forest: Whose leaves they are.
            leaves: Of the observed mixtures, shape ``(n, trees)``.
            kernel: Between them, shape ``(n, n)``.
            y: Their losses, shape ``(n,)``.
            ridge: Ratio of each observation's noise to the signal variance, shape ``(n,)``.
        """
        self.forest, self._leaves, self._ridge = forest, leaves, ridge
        self._root = np.asarray(np.linalg.cholesky(kernel + np.diag(ridge)), dtype=np.float64)
        one, observed = self._solve(np.column_stack([np.ones(len(y)), y])).T
        self.constant = float(one @ observed / (one @ one))
        self.values = forest.kernel_values(leaves, self._solve(observed - self.constant * one, transposed=True))

    def explained(self, cross: Array) -> Array:
        """Variance at q mixtures that the observations take away, shape ``(q,)``, from the kernel with theirs ``(n, q)``."""
        explained: Array = (self._solve(cross) ** 2).sum(axis=0)
        return explained

    def variance(self, leaves: Leaves) -> Array:
        """Posterior variance at mixtures, shape ``(q,)``, from their leaves ``(q, trees)``."""
        whitened = self._whitened()
        return np.concatenate([self._variance(whitened, features) for features in self._chunks(leaves)])

    def covariance(self, leaves: Leaves, i: int) -> Array:
        """Posterior covariance of mixture `i` with all q, shape ``(q,)``."""
        own = self.forest.kernel_values(leaves[i : i + 1], np.ones(1))
        known = self._solve(self._solve(self.forest.total(self._leaves, own)), transposed=True)
        return self.forest.total(leaves, own - self.forest.kernel_values(self._leaves, known))

    def draw(self, n: int, rng: np.random.Generator) -> Callable[[Leaves], tuple[Array, Array]]:
        """`n` deviations from the mean: leaves ``(q, trees)`` → deviations ``(n, q)`` and their variance ``(q,)``.

        Random values per leaf, corrected by what they say at the observed mixtures (Matheron's rule).
        """
        features, whitened = self.forest.features(self._leaves, np.float64), self._whitened()
        prior = rng.standard_normal((features.shape[1], n))
        noisy = features @ prior + np.sqrt(self._ridge)[:, None] * rng.standard_normal((len(features), n))
        weights = (prior - features.T @ self._solve(self._solve(noisy), transposed=True)).astype(np.float32)

        def deviations(leaves: Leaves) -> tuple[Array, Array]:
            drawn = [(part @ weights, self._variance(whitened, part)) for part in self._chunks(leaves)]
            return np.concatenate([deviation for deviation, _ in drawn]).T, np.concatenate([variance for _, variance in drawn])

        return deviations

    def _whitened(self) -> Single:
        # Single precision: errors of some millionth of the prior's variance, in half the time.
        return self._solve(self.forest.features(self._leaves, np.float64)).astype(np.float32)

    @staticmethod
    def _variance(whitened: Single, features: Single) -> Array:
        return left_over(((whitened @ features.T) ** 2).sum(axis=0).astype(np.float64))

    def _solve(self, right: Array, transposed: bool = False) -> Array:
        solved: Array = solve_triangular(self._root, right, lower=True, trans=int(transposed), check_finite=False)
        return solved

    def _chunks(self, leaves: Leaves) -> Iterator[Single]:
        for start in range(0, len(leaves), CHUNK):
            yield self.forest.features(leaves[start : start + CHUNK], np.float32)


@dataclass(frozen=True)
class HeldOut:
    """Held-out proxies of one loss, seen by processes that were not conditioned on them.

    Attributes:
        rows: The proxies, shape ``(h,)``.
        mean: Of the process, per candidate ratio, shape ``(ratios, h)``.
        variance: Of the process with signal variance one, shape ``(ratios, h)``.
        boosted: The boosted prediction, shape ``(h,)``.
    """

    rows: NDArray[np.intp]
    mean: Array
    variance: Array
    boosted: Array


class LeafProcess:
    """What is believed about one loss.

    Attributes:
        forest: Its trees; their values are those of the mean.
        noise: Variance of the observation noise and of what leaves cannot resolve, nats² per token².
        errors: Held-out residuals over their predicted standard deviations, shape ``(n,)``; NaN where a proxy was not left out.
    """

    def __init__(self, X: Array, y: Array, noise: Array | None, settings: Sequence[TreeSettings]) -> None:
        """Grow on mixtures ``(n, d)`` and losses ``(n,)``, of known noise variance ``(n,)`` or None, and calibrate."""
        self._centre, self._unit = float(y.mean()), max(float(y.std()), 1e-9)
        standard = (y - self._centre) / self._unit
        known = np.zeros(len(y)) if noise is None else noise / self._unit**2
        weight = 1 / (UNRESOLVED + known)
        weight /= weight.mean()
        folds = held_out_folds(X)
        forests = [(Forest(X[~out], standard[~out], settings, weight[~out]), out) for out in folds]

        # Known noise counts by its ratio to the signal, which is known only after a first pass.
        signal = 1.0
        for _ in range(1 if noise is None else 2):
            held = _leave_out(forests, X, standard, known / signal)
            ratio, share, signal, errors = _calibrate(held, standard, known)

        self.errors = np.full(len(y), np.nan)
        self.errors[held.rows] = errors
        width = interval_scale(errors) ** 2
        # The process given all proxies is a little surer than those given all but a fold: variance falls with their number.
        trained = np.mean([(~out).mean() for out in folds])
        self._signal = signal * width * trained * self._unit**2
        self.noise = width * (signal * ratio + float(known.mean())) * self._unit**2
        self.forest = Forest(X, standard, settings, weight)
        leaves = self.forest.leaves(X)
        features = self.forest.features(leaves, np.float64)
        self._process = Conditioned(self.forest, leaves, features @ features.T, standard, ratio + known / signal)
        self._constant = (1 - share) * self._process.constant
        self.forest.set_values((1 - share) * self._process.values + share * self.forest.values)

    def predict(self, X: Array) -> Array:
        """Expected loss, shape ``(q,)``, nats per token."""
        return self._centre + self._unit * (self._constant + self.forest.predict(X))

    def variance(self, leaves: Leaves) -> Array:
        """Variance of the noise-free loss, shape ``(q,)``."""
        return self._signal * self._process.variance(leaves)

    def covariance(self, leaves: Leaves, i: int) -> Array:
        """Covariance of mixture `i` with all q, shape ``(q,)``."""
        return self._signal * self._process.covariance(leaves, i)

    def draw(self, n: int, rng: np.random.Generator) -> Callable[[Array], tuple[Array, Array]]:
        """`n` functions: mixtures ``(q, d)`` → deviations from the mean in standard deviations ``(n, q)``, and those ``(q,)``."""
        draw, forest, signal = self._process.draw(n, rng), self.forest, self._signal

        def deviations(X: Array) -> tuple[Array, Array]:
            drawn, variance = draw(forest.leaves(X))
            return drawn / np.sqrt(variance), np.sqrt(signal * variance)

        return deviations


def _leave_out(forests: list[tuple[Forest, NDArray[np.bool_]]], X: Array, y: Array, known: Array) -> HeldOut:
    """Predict every fold by the forest that was grown without it; `known` ``(n,)`` is added to every candidate ratio."""
    parts = []
    for forest, out in forests:
        seen, leaves = forest.leaves(X[~out]), forest.leaves(X[out])
        inside, outside = forest.features(seen, np.float64), forest.features(leaves, np.float64)
        kernel, cross = inside @ inside.T, inside @ outside.T
        processes = [Conditioned(forest, seen, kernel, y[~out], ratio + known[~out]) for ratio in RATIOS]
        mean = np.stack([process.constant + forest.total(leaves, process.values) for process in processes])
        variance = np.stack([left_over(process.explained(cross)) for process in processes])
        parts.append(HeldOut(np.flatnonzero(out), mean, variance, forest.total(leaves, forest.values)))
    return HeldOut(*(np.concatenate([getattr(part, field) for part in parts], axis=-1) for field in HeldOut.__annotations__))


def _calibrate(held: HeldOut, y: Array, known: Array) -> tuple[float, float, float, Array]:
    """The ratio of noise, the boosted prediction's share, the signal variance, and standardised residuals ``(h,)``."""
    truth, known = y[held.rows], known[held.rows]
    variance = held.variance + RATIOS[:, None]
    best, _ = likeliest_noise(truth - held.mean, variance, known, RATIOS, USUAL_RATIO)
    means = held.mean[best] + BOOSTED_SHARES[:, None] * (held.boosted - held.mean[best])
    share = int(np.argmin(((truth - means) ** 2 / variance[best]).mean(axis=1)))
    errors, chosen = truth - means[share], variance[best]
    _, signal = likeliest_noise(errors[None], chosen[None], known, RATIOS[best : best + 1], USUAL_RATIO)
    return float(RATIOS[best]), float(BOOSTED_SHARES[share]), signal, errors / np.sqrt(signal * chosen + known)
