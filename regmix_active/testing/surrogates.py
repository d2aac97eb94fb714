"""What every surrogate owes the strategies, examined on losses that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from regmix_active.errors import StudyError
from regmix_active.mixture.space import Mixtures
from regmix_active.surrogate.base import Array, Posterior, Surrogate

from .problems import LOSSES, broad_mixtures, global_generators, power_law, problem_history, problem_space
from .report import Check, ConformanceReport, examine

DOMAINS = 5
RUNS = 40
QUERIES = 24
EQUAL = 1e-6
"""Differences that count as rounding between two runs of one computation, relative to the spread of the losses."""

CLOSE = 1e-3
"""Differences that count as rounding between two ways to compute the same, of which one may be in single precision."""


def check_surrogate(surrogate: Surrogate, *, seed: int = 0) -> ConformanceReport:
    """Examine a surrogate: shapes, a belief that is consistent with itself, missing losses, no memory, no global randomness.

    It is fitted some fifteen times to 40 proxies or fewer of 5 domains with three losses.

    Args:
        surrogate: What to examine, such as ``MySurrogate()``; cheap options make it faster and hide nothing.
        seed: Of the losses and of the generators that function draws are handed.

    Returns:
        What was checked, what was measured and how long it took; print it.

    Raises:
        ConformanceError: If anything is violated, with every violation and its remedy.
        TypeError: If it is not an instance of a surrogate.
    """
    __tracebackhide__ = True  # pytest shows the line that called, and the message
    if not isinstance(surrogate, Surrogate):
        hint = f"; make one: {surrogate.__name__}()" if isinstance(surrogate, type) else ""
        raise TypeError(f"check_surrogate needs an instance of a Surrogate, got {surrogate!r}{hint}")
    fit = Fitting(surrogate, seed)
    checks: Mapping[str, Callable[[Check], None]] = {
        "has a name": fit.name,
        "shapes, for 1 and 3 losses, 2 and 24 domains": fit.shapes,
        "learns: better than the mean of all losses": fit.learns,
        "equal arguments, equal belief; a new fit forgets the last": fit.reproducible,
        "no global randomness": fit.global_randomness,
        "arguments are left as they are": fit.arguments,
        "losses that are missing": fit.missing_losses,
        "too few proxies are refused": fit.too_few,
        "known noise is taken in every form": fit.known_noise,
        "one covariance: symmetric, no direction negative, its diagonal the variance": fit.covariance,
        "conditioning is Gaussian, and leaves means alone": fit.conditioning,
        "a belief outlives the next fit": fit.outlives,
        "functions drawn have the belief's mean and variance": fit.paths,
        "losses and domains in another order": fit.other_order,
    }
    if surrogate.differentiable:
        checks = {**checks, "gradients agree with differences": fit.gradients}
    return examine(str(getattr(surrogate, "name", type(surrogate).__name__)), checks)


class Fitting:
    """The checks: each fits the surrogate and looks at what it believes."""

    def __init__(self, surrogate: Surrogate, seed: int) -> None:
        self.surrogate, self.seed = surrogate, seed
        history = problem_history(DOMAINS, RUNS, seed)
        self.X, self.Y = history.mixtures, history.losses
        self.Z = broad_mixtures(history.space, QUERIES, seed + 1)
        self.spread = float(self.Y.std())

    def name(self, check: Check) -> None:
        """``--surrogate`` and the report call it by its name."""
        name = getattr(self.surrogate, "name", None)
        if not (isinstance(name, str) and name):
            check.fault(f'the class has no name (found {name!r}); add: name: ClassVar[str] = "my-surrogate"')

    def shapes(self, check: Check) -> None:
        """Every array as the protocol says, and finite."""
        for d, m in ((DOMAINS, LOSSES), (DOMAINS, 1), (2, LOSSES), (24, 1)):
            space = problem_space(d)
            X = broad_mixtures(space, RUNS, self.seed)
            if self.surrogate.fit(X, power_law(X)[:, :m]) is not self.surrogate:
                check.fault("fit does not return the surrogate itself; end it with `return self`")
            for q in (1, 7):
                Z = broad_mixtures(space, q, self.seed + 1)
                where = f"when asked for q = {q} mixtures of {d} domains with m = {m} losses"
                self._array(check, "predict(mixtures)", self.surrogate.predict(Z), (q, m), where)
                posterior = self.surrogate.posterior(Z)
                self._array(check, "posterior().mean", posterior.mean, (q, m), where)
                self._array(check, "posterior().variance", posterior.variance, (q, m), where)
                self._array(check, "posterior().covariance(0)", posterior.covariance(0), (q, m), where)
                self._array(check, "posterior().noise", posterior.noise, (m,), where)
                self._array(check, "posterior().correlation", posterior.correlation, (m, m), where)
                self._array(check, "paths(2, rng)(mixtures)", self.surrogate.paths(2, self._rng())(Z), (2, q, m), where)
                if (posterior.noise < 0).any():
                    check.fault(f"posterior().noise is {posterior.noise.min():.3g}, a variance below zero, {where}")

    def learns(self, check: Check) -> None:
        """A surrogate that predicts a constant would pass everything else."""
        mean, truth = self._fit().predict(self.Z), power_law(self.Z)
        self._differs(check, mean, self.surrogate.posterior(self.Z).mean, "predict and posterior().mean", CLOSE)
        error, constant = _rms(mean - truth), _rms(self.Y.mean(axis=0) - truth)
        inside = np.abs(mean - truth) < np.sqrt(self.surrogate.posterior(self.Z).variance)
        said = f"on {QUERIES} unseen mixtures its error is {error:.3g} nats, the error of the mean of all losses {constant:.3g}"
        if error < constant:
            check.note(f"{said}; {inside.mean():.0%} of the true losses are within one standard deviation (nominal: 68 %)")
        else:
            check.fault(said)

    def reproducible(self, check: Check) -> None:
        """A search that was stopped and goes on has no earlier fits."""
        first = self._beliefs()
        if (gap := self._gap(first, self._beliefs())) > EQUAL:
            check.fault(f"two fits to equal data differ by {gap:.2g} of the losses' spread; seed what is random in fit")
            return
        self.surrogate.fit(*self._other())
        if (gap := self._gap(first, self._beliefs())) > EQUAL:
            check.fault(f"after a fit to other data it differs by {gap:.2g} of the losses' spread; keep nothing between fits")

    def global_randomness(self, check: Check) -> None:
        """What ran before must not show."""
        with global_generators(1) as used:
            first = self._beliefs()
            self.surrogate.paths(2, self._rng())(self.Z)
        for name in used:
            check.fault(f"the global generator of {name} was used or seeded; use a generator of its own, with a fixed seed")
        with global_generators(2):
            second = self._beliefs()
        if (gap := self._gap(first, second)) > EQUAL:
            check.fault(f"another global seed changes the belief by {gap:.2g} of the losses' spread; use a generator of its own")

    def arguments(self, check: Check) -> None:
        """The history is read again by others."""
        X, Y, Z = self.X.copy(), self.Y.copy(), self.Z.copy()
        self.surrogate.fit(X, Y)
        self.surrogate.predict(Z)
        self.surrogate.posterior(Z).covariance(0)
        for what, array, before in (("mixtures", X, self.X), ("losses", Y, self.Y), ("mixtures of a question", Z, self.Z)):
            if not np.array_equal(array, before):
                check.fault(f"the {what} were changed in place; work on a copy")

    def missing_losses(self, check: Check) -> None:
        """Single metrics that some proxies lack; the other losses of such a proxy still count."""
        Y = self.Y.copy()
        Y[1::5, 1] = np.nan
        Y[0] = np.nan
        posterior = self.surrogate.fit(self.X.copy(), Y).posterior(self.Z)
        self._finite(check, posterior, "where a fifth of one loss is missing (NaN) and one proxy has none at all")
        alone = self._fit().predict(self.Z)
        change = _rms(posterior.mean - alone) / self.spread
        said = f"means move by {change:.2g} of the losses' spread when a fifth of one loss and one whole proxy are missing"
        (check.note if change < 0.5 else check.fault)(said)

    def too_few(self, check: Check) -> None:
        """With its remedy, instead of an error from inside."""
        least = self.surrogate.minimum_runs
        for n, Y in ((least - 1, self.Y[: least - 1]), (RUNS, np.where(np.arange(RUNS)[:, None] < least - 1, self.Y, np.nan))):
            try:
                self.surrogate.fit(self.X[:n].copy(), Y.copy())
            except StudyError:
                continue
            check.fault(
                f"{least - 1} observations were fitted although minimum_runs is {least} ({n} proxies); raise StudyError, "
                "as regmix_active.surrogate.base.check_observations does"
            )
        enough = self.surrogate.fit(self.X[:least].copy(), self.Y[:least].copy())
        self._finite(check, enough.posterior(self.Z), f"after {least} proxies, its least")

    def known_noise(self, check: Check) -> None:
        """One number, one per loss, one per observation."""
        noise: list[ArrayLike] = [1e-3, np.full(LOSSES, 1e-3), np.full(self.Y.shape, 1e-3)]
        for given in noise:
            posterior = self.surrogate.fit(self.X.copy(), self.Y.copy(), given).posterior(self.Z)
            self._finite(check, posterior, f"with noise of shape {np.shape(given)}")

    def covariance(self, check: Check) -> None:
        """Batches are chosen by it."""
        posterior = self._fit().posterior(self.Z)
        joint = np.stack([posterior.covariance(i) for i in range(QUERIES)]).transpose(2, 0, 1)
        unit = np.maximum(posterior.variance.max(axis=0), 1e-18)[:, None, None]
        if (gap := float((np.abs(joint - joint.transpose(0, 2, 1)) / unit).max())) > CLOSE:
            check.fault(f"covariance(i)[j] and covariance(j)[i] differ by up to {gap:.2g} of the largest variance")
        diagonal = np.einsum("mqq->qm", joint)
        if (gap := float((np.abs(diagonal - posterior.variance) / unit[:, 0].T).max())) > CLOSE:
            check.fault(f"covariance(i)[i] and variance[i] differ by up to {gap:.2g} of the largest variance")
        if (least := float((np.linalg.eigvalsh(joint) / unit[:, 0]).min())) < -CLOSE:
            check.fault(f"the covariance has an eigenvalue of {least:.2g} of the largest variance; it must not be below zero")
        correlation = posterior.correlation
        if not np.allclose(np.diag(correlation), 1) or np.linalg.eigvalsh((correlation + correlation.T) / 2).min() < -CLOSE:
            check.fault("posterior().correlation is not a correlation: ones on its diagonal, no eigenvalue below zero")

    def conditioning(self, check: Check) -> None:
        """A proxy in training takes from every variance what Gaussian algebra says."""
        posterior = self._fit().posterior(self.Z)
        for i in (0, QUERIES // 2):
            mean, variance, row = posterior.mean.copy(), posterior.variance.copy(), posterior.covariance(i)
            posterior.condition(i)
            unit = np.maximum(variance.max(axis=0), 1e-18)
            wanted = variance - row**2 / np.maximum(variance[i] + posterior.noise, 1e-18)
            if (gap := float((np.abs(posterior.variance - np.clip(wanted, 0, None)) / unit).max())) > CLOSE:
                check.fault(
                    f"after condition({i}) variances differ by up to {gap:.2g} of the largest one from "
                    "variance - covariance² / (variance + noise)"
                )
            if (posterior.variance > variance + CLOSE * unit).any():
                check.fault(f"condition({i}) raised a variance; an observation never adds doubt")
            if not (posterior.variance[i] < variance[i])[variance[i] > CLOSE * unit].all():
                check.fault(f"condition({i}) left the variance of mixture {i} itself as it was")
            if not np.array_equal(posterior.mean, mean):
                check.fault(f"condition({i}) moved a mean; the expected losses are believed")

    def outlives(self, check: Check) -> None:
        """A strategy may hold a belief while something else is fitted."""
        posterior = self._fit().posterior(self.Z)
        mean = posterior.mean.copy()
        wanted = self._fit().posterior(self.Z).covariance(1)
        self.surrogate.fit(*self._other())
        if not (np.array_equal(posterior.mean, mean) and np.allclose(posterior.covariance(1), wanted, rtol=1e-9, atol=1e-15)):
            check.fault("a posterior changed when the surrogate was fitted again; let it hold what it needs, not the surrogate")

    def paths(self, check: Check) -> None:
        """Within what 400 draws can tell: means to six standard errors, standard deviations to a fifth."""
        draws = 400
        posterior = self._fit().posterior(self.Z)
        functions = self.surrogate.paths(draws, self._rng())
        values = functions(self.Z)
        std = np.maximum(np.sqrt(posterior.variance), 1e-3 * self.spread)
        off = float((np.abs(values.mean(axis=0) - posterior.mean) / std).max())
        if off > 6 / np.sqrt(draws) + 0.1:
            check.fault(f"the mean of {draws} functions is up to {off:.2f} standard deviations off the belief's mean")
        ratio = np.sqrt((values.var(axis=0) / std**2).mean(axis=0))
        if (np.abs(ratio - 1) > 0.2).any():
            check.fault(f"functions spread by {ratio.min():.2f} to {ratio.max():.2f} of the belief's standard deviation, not by 1")
        again = self.surrogate.paths(draws, self._rng())(self.Z)
        if not np.allclose(values, again, rtol=1e-6, atol=1e-9):
            check.fault("equally seeded generators draw different functions; draw from the generator that paths is handed")
        if type(self.surrogate).paths is not Surrogate.paths:
            alone = np.concatenate([functions(self.Z[i : i + 1]) for i in range(3)], axis=1)
            if (gap := float(np.abs(alone - values[:, :3]).max()) / self.spread) > CLOSE:
                check.fault(
                    f"a function has other losses when it is asked for one mixture alone (by {gap:.2g} of the losses' spread); "
                    "draw functions, or leave `paths` to the base class"
                )

    def other_order(self, check: Check) -> None:
        """Nothing should depend on the order of losses and domains; trees break ties by it, so a little is allowed."""
        mean = self._fit().predict(self.Z)
        losses = self.surrogate.fit(self.X.copy(), self.Y[:, ::-1].copy()).predict(self.Z)[:, ::-1]
        domains = self.surrogate.fit(self.X[:, ::-1].copy(), self.Y.copy()).predict(self.Z[:, ::-1].copy())
        for what, other in (("losses", losses), ("domains", domains)):
            change = _rms(other - mean) / self.spread
            said = f"{what} in another order move the means by {change:.2g} of the losses' spread"
            (check.note if change < 0.1 else check.fault)(said)

    def gradients(self, check: Check) -> None:
        """Central differences along directions that stay on the simplex."""
        weights = np.array([0.5, 0.3, 0.2])
        self._fit()
        Z = problem_space(DOMAINS).project(self.Z + 0.05)
        mean, variance, d_mean, d_variance = self.surrogate.gradients(Z, weights)
        for what, array, shape in (("mean", mean, (QUERIES,)), ("derivative of the mean", d_mean, Z.shape)):
            if array.shape != shape:
                check.fault(f"gradients: the {what} has shape {array.shape}, not {shape}")
                return
        self._differs(check, mean, self.surrogate.predict(Z) @ weights, "gradients()'s mean and predict()", CLOSE)
        direction = np.random.default_rng(self.seed).standard_normal(Z.shape)
        direction -= direction.mean(axis=1, keepdims=True)
        step = 1e-4
        ahead, behind = (self.surrogate.gradients(Z + sign * step * direction, weights) for sign in (1, -1))
        for what, slope, plus, minus in (("mean", d_mean, ahead[0], behind[0]), ("variance", d_variance, ahead[1], behind[1])):
            expected, found = (plus - minus) / (2 * step), (slope * direction).sum(axis=1)
            gap = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))
            if gap > 1e-3:
                check.fault(f"the derivative of the {what} is off by {gap:.2g} of its largest value from central differences")
        if (variance < 0).any():
            check.fault(f"gradients: a variance is {variance.min():.3g}, below zero")

    def _fit(self) -> Surrogate:
        # Copies: what changes its arguments is one fault, not many.
        self.surrogate.fit(self.X.copy(), self.Y.copy())
        return self.surrogate

    def _other(self) -> tuple[Mixtures, Array]:
        """Data of another study: other domains, runs and losses."""
        X = broad_mixtures(problem_space(3), 20, self.seed + 2)
        return X, -power_law(X)[:, :2]

    def _beliefs(self) -> tuple[Array, Array]:
        """Mean and standard deviation after a fit."""
        posterior = self._fit().posterior(self.Z)
        return posterior.mean, np.sqrt(posterior.variance)

    def _gap(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> float:
        return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True)) / self.spread

    def _differs(self, check: Check, a: Array, b: Array, what: str, tolerance: float) -> None:
        if (gap := float(np.abs(a - b).max()) / self.spread) > tolerance:
            check.fault(f"{what} differ by up to {gap:.2g} of the losses' spread")

    def _finite(self, check: Check, posterior: Posterior, when: str) -> None:
        self._array(check, "posterior().mean", posterior.mean, (QUERIES, LOSSES), when)
        self._array(check, "posterior().variance", posterior.variance, (QUERIES, LOSSES), when)

    def _array(self, check: Check, what: str, array: Array, shape: tuple[int, ...], when: str) -> None:
        if np.shape(array) != shape:
            check.fault(f"{what} has shape {np.shape(array)}, not {shape}, {when}")
        elif not np.isfinite(array).all():
            check.fault(f"{what} holds {int((~np.isfinite(array)).sum())} values that are not finite, {when}")

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 3])


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))
