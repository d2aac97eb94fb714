"""The answer of a search: many simulated mixtures, the best of them averaged.

References:
    [1] Liu et al., RegMix, arXiv 2407.01492, section 3.3: 100,000 simulated mixtures, the mean of the best 128.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.designs import around, spread, trusted
from regmix_active.mixture.space import Mixtures
from regmix_active.recommend.doubt import doubt_of
from regmix_active.recommend.draws import BROKEN, Draws, votes
from regmix_active.recommend.left_out import LeftOut
from regmix_active.recommend.modes import Average, average
from regmix_active.recommend.pareto import ParetoFront, pareto_front
from regmix_active.recommend.passes import MARGIN, first_pass, sizes
from regmix_active.recommend.recommendation import Doubt, Prediction, Recommendation
from regmix_active.study.history import History
from regmix_active.study.noise import seed_noise, without_offsets
from regmix_active.surrogate.base import Surrogate
from regmix_active.surrogate.belief import TargetModel

__all__ = ["Doubt", "Prediction", "Recommendation", "judge", "recommend", "simulate"]

Array = NDArray[np.float64]
Rule = Literal["bound", "mean", "thompson"]

CHUNK = 32_768
"""Mixtures simulated at once: memory does not grow with the number of simulations."""

PASSED = 2048
"""Mixtures of a pass whose doubt is looked at."""

PIECE = 256
"""Mixtures whose doubt is looked at at once."""

FRONT = 12
"""Trade-offs that are told where several targets are asked for."""

HANGING = (
    "the best simulated mixtures hang on few runs: without some of them they would be expected to be worse than mixtures that were "
    "trained; the answer is the best of those that do not"
)
"""What the user is told where a safer answer was taken."""

VOTERS = 256
"""Functions that vote with the rule `thompson`."""

Watch = Callable[[str, int, int], None]
"""Told what is done, how much of it is, and how much there is."""


@dataclass(frozen=True)
class Simulated:
    """What a simulation found.

    Attributes:
        best: The best mixtures, best first, shape ``(k, d)``.
        pool: Good mixtures and others, for whoever asks what else might be the best, shape ``(q, d)``.
        size: Number of mixtures simulated.
    """

    best: Mixtures
    pool: Mixtures
    size: int


def recommend(
    history: History,
    surrogate: Surrogate,
    simulations: int,
    top_k: int,
    rng: np.random.Generator,
    caution: float = 1.0,
    *,
    rule: Rule = "bound",
    level: float = 0.9,
    draws: int | None = None,
    watch: Watch | None = None,
) -> Recommendation:
    """Fit the surrogate to all finished proxies, simulate the feasible set and average the best mixtures.

    A quarter of the mixtures is drawn around the natural one as RegMix does [1], a quarter all over the feasible set, the rest
    around and between the best trained proxies; then the neighbourhood of the best is simulated again. An active search knows more
    about that region than a hundred thousand blind draws would hit.

    The best of many predictions are also the luckiest ones. So mixtures are passed on by their expected target, and those that
    pass are ranked by what it may well be: the expectation and `caution` standard deviations. Where the target sets limits, those
    that keep them as surely as it asks come first.

    Args:
        history: Finished proxies.
        surrogate: Fitted here.
        simulations: Number of mixtures of the first pass; the refinements add a half of it together.
        top_k: Number of mixtures that are averaged.
        rng: Source of randomness.
        caution: Standard deviations that count as loss with the rule `bound`; 0 is RegMix's rule.
        rule: By what mixtures are ranked: `bound`, `mean` (the expectation) or `thompson` (by how many functions drawn from the
            posterior have the mixture among their `top_k` best).
        level: Probability of the intervals.
        draws: Functions drawn from the posterior to see how far the answer can be trusted; None: do not look.
        watch: Told how it goes.

    Raises:
        StudyError: If there are too few finished proxies to fit.
    """
    tell: Watch = watch or _silent
    tell("fitting the surrogate", 0, 1)
    noise = seed_noise(history)
    known = history if noise is None else noise.corrected(history)
    front = pareto_front(known, surrogate, simulations, FRONT, rng) if len(known.targets) > 1 else None
    model = TargetModel.of(known, surrogate)
    refits = LeftOut.of(model, known) if front is None else LeftOut(model, [])

    def look(weights: Array, pool: Mixtures) -> Doubt | None:
        if draws is None:
            return None
        tell("looking at the doubt", 0, 1)
        wide = np.concatenate([pool, spread(known.space, PASSED // 4, rng), known.space.project(_leaders(known, model))])
        return doubt_of(model, known, weights, wide, rng, level=level, draws=draws, refits=refits, noise=noise)

    if front is not None:
        return _balanced(history, model, front, simulations)
    caution = 0.0 if rule == "mean" else caution
    found = simulate(known, model, simulations, top_k, rng, caution, rule=rule, watch=tell)
    space = known.space

    short = max(0.0, float(model.kept(found.best[:1]).short[0]))

    def allowed(mixtures: Mixtures) -> NDArray[np.bool_]:
        return trusted(mixtures, known.diverged, known.mixtures, MARGIN) & (model.kept(mixtures).short <= short)

    def judged(mixtures: Mixtures) -> Array:
        return _ranked(model, mixtures, caution)

    mean = average(space, found.best, partial(_expected, model), judged, allowed)
    notes = [mean.note] if mean.note else []
    if rule == "bound" and caution and (safer := _safer(known, refits, mean.weights, found, caution, allowed)) is not None:
        mean, notes = safer, [HANGING]
    if not model.kept(mean.weights[None]).surely[0]:
        notes.append(_unsure(float(model.probability(mean.weights[None])[0])))
    doubt = look(mean.weights, found.pool)
    return judge(
        history, surrogate, mean.weights, found.size, mean.averaged, model=model, rule=rule, notes=tuple(notes), doubt=doubt
    )


def _safer(
    history: History,
    refits: LeftOut,
    answer: Array,
    found: Simulated,
    caution: float,
    allowed: Callable[[Mixtures], NDArray[np.bool_]],
) -> Average | None:
    """Another answer where the first one hangs on few runs: where, as far as refits without some of them say, it may well be worse
    than a mixture that was trained. None where the first one is good.
    """
    trained = history.mixtures[history.feasible]
    if not (refits.known and len(trained)):
        return None
    if refits.pessimistic(answer[None], caution)[0] <= refits.pessimistic(trained, caution).min():
        return None
    pool = np.concatenate([found.best, found.pool, trained])
    pool = pool[allowed(pool)]
    if not len(pool):
        return None
    worst = refits.pessimistic(pool, caution)
    best = pool[np.argsort(worst, kind="stable")[: max(len(found.best) // 4, 1)]]
    judged = partial(refits.pessimistic, caution=caution)
    return average(history.space, best, judged, judged, allowed)


def _balanced(history: History, model: TargetModel, front: ParetoFront, simulations: int) -> Recommendation:
    """The balanced trade-off between several targets as the answer, with all of them beside it."""
    row = front.balanced
    notes = [f"the balanced one of {len(front.weights)} trade-offs between {len(history.targets)} targets (pareto)"]
    if not front.surely[row]:
        notes.append(_unsure(float(front.kept[row])))
    answer = judge(history, model.surrogate, front.weights[row], simulations, 1, model=model, rule="pareto", notes=tuple(notes))
    return replace(answer, pareto=front)


def _unsure(probability: float) -> str:
    """The note that no mixture keeps the limits."""
    return f"no mixture keeps the target's limits as surely as it asks; this one keeps them with probability {probability:.2f}"


def simulate(
    history: History,
    model: TargetModel,
    simulations: int,
    top_k: int,
    rng: np.random.Generator,
    caution: float = 1.0,
    *,
    rule: Rule = "bound",
    watch: Watch | None = None,
) -> Simulated:
    """The best of very many mixtures; memory does not grow with their number. Arguments are those of :func:`recommend`."""
    space, tell = history.space, watch or _silent
    leaders = _leaders(history, model)
    passes = sizes(simulations, top_k)
    first = partial(first_pass, space, leaders, rng=rng)
    # Voters are drawn from a generator of their own, so that the rule does not change which mixtures are simulated.
    voters = Draws(model, VOTERS, rng.spawn(1)[0]) if rule == "thompson" else None
    best, values, simulated = np.empty((0, space.dim)), np.empty(0), 0
    pools = []
    for i, size in enumerate(passes):
        draw = first if i == 0 else partial(around, space, best, rng=rng)
        passed = _passed(model, draw, size, max(PASSED, top_k), partial(_progress, tell, simulated, sum(passes)))
        safe = trusted(passed, history.diverged, history.mixtures, MARGIN)
        passed = passed[safe] if safe.any() else passed
        simulated += size
        if i in (0, len(passes) - 1):
            pools.append(passed[: PASSED // 4])
        if voters is not None:
            together = np.concatenate([best, passed])
            order = np.lexsort((_expected(model, together), -votes(voters.ranked(together), top_k)))[:top_k]
            best = together[order]
            continue
        worst = _ranked(model, passed, caution)
        best, values = _smallest(np.concatenate([best, passed]), np.concatenate([values, worst]), top_k)
    return Simulated(best, np.concatenate([best[: PASSED // 16], *pools]), simulated)


def _leaders(history: History, model: TargetModel) -> Mixtures:
    """The trained mixtures that are expected to be best; with constraints, feasible ones near them, shape ``(16, d)``."""
    leaders = history.mixtures[np.argsort(_expected(model, history.mixtures), kind="stable")[:16]]
    return history.space.project(leaders) if history.space.constrained else leaders


def _expected(model: TargetModel, mixtures: Mixtures) -> Array:
    """Expected target; far above where a limit is expected to be broken, shape ``(q,)``."""
    expected = model.predict(mixtures)
    return expected + BROKEN * model.violations(mixtures) if model.target.limits else expected


def _ranked(model: TargetModel, mixtures: Mixtures, caution: float) -> Array:
    """What the target may well be; far above where limits are kept less surely than asked, shape ``(q,)``."""
    if caution:
        # In pieces that fit a core's cache: the same numbers in less than half of the time.
        pieces = [mixtures[start : start + PIECE] for start in range(0, len(mixtures), PIECE)]
        worst = np.concatenate([model.pessimistic(piece, caution) for piece in pieces])
    else:
        worst = model.predict(mixtures)
    return worst + BROKEN * np.maximum(model.kept(mixtures).short, 0.0) if model.target.limits else worst


def _passed(model: TargetModel, draw: Callable[[int], Mixtures], size: int, n: int, tell: Callable[[int], None]) -> Mixtures:
    """The `n` of `size` drawn mixtures with the smallest expected target, in chunks: memory does not grow with `size`."""
    best, values, left = draw(0), np.empty(0), size
    while left > 0:
        drawn = draw(min(CHUNK, left))
        left -= len(drawn)
        best, values = _smallest(np.concatenate([best, drawn]), np.concatenate([values, _expected(model, drawn)]), n)
        tell(size - left)
    return best


def judge(
    history: History,
    surrogate: Surrogate,
    found: Array,
    simulated: int,
    averaged: int,
    *,
    model: TargetModel | None = None,
    rule: str = "bound",
    notes: tuple[str, ...] = (),
    doubt: Doubt | None = None,
) -> Recommendation:
    """What a surrogate expects of a mixture, beside those that it should beat.

    Args:
        history: Finished proxies, as they were recorded.
        surrogate: Fitted here, at the end to all losses.
        found: The mixture, shape ``(d,)``.
        simulated: Number of mixtures that were simulated for it.
        averaged: Number of mixtures that were averaged for it.
        model: The surrogate, if it is fitted already.
        rule: By what simulated mixtures were ranked.
        notes: What the user should know of how it was found.
        doubt: How far it can be trusted.
    """
    known = without_offsets(history)
    space, needed = known.space, known.target.needed
    model = model or TargetModel.of(known, surrogate)
    choice = str(getattr(surrogate, "reason", ""))  # before it is fitted to other losses
    best = known.best
    rows = np.stack([found, space.natural, space.uniform, known.mixtures[best]])
    means, stds = model.moments(rows)
    posterior = surrogate.posterior(rows)
    losses, variance = np.empty((len(rows), len(needed))), np.empty((len(rows), len(needed)))
    losses[:, needed], variance[:, needed] = posterior.mean, posterior.variance
    if not needed.all():  # fitted once, for the table, not simulated a hundred thousand times
        every = surrogate.fit(known.mixtures, known.losses).posterior(rows)
        losses[:, ~needed], variance[:, ~needed] = every.mean[:, ~needed], every.variance[:, ~needed]
    allowed = space.feasible(rows, tolerance=1e-6)
    predictions = [
        Prediction(row, float(mean), float(std), own, own_std, bool(kept))
        for row, mean, std, own, own_std, kept in zip(rows, means, stds, losses, np.sqrt(variance), allowed, strict=True)
    ]
    return Recommendation(
        history=history,
        surrogate=surrogate.name,
        choice=choice,
        found=predictions[0],
        natural=predictions[1],
        uniform=predictions[2],
        best_trained=predictions[3],
        best_slot=int(known.slots[best]),
        best_value=float(known.values[best]),
        simulated=simulated,
        averaged=averaged,
        rule=rule,
        notes=notes,
        doubt=doubt,
    )


def _smallest(mixtures: Mixtures, values: Array, k: int) -> tuple[Mixtures, Array]:
    order = np.argsort(values, kind="stable")[:k]
    return mixtures[order], values[order]


def _progress(tell: Watch, before: int, total: int, done: int) -> None:
    tell("simulating", before + done, total)


def _silent(text: str, done: int, total: int) -> None:
    pass
