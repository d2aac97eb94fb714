"""What every room must keep on a feasible set: nothing that it makes is outside."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import StrategyError
from regmix_active.export import Handover, export
from regmix_active.mixture.designs import around, between, spread
from regmix_active.mixture.initial import INITIAL_DESIGNS
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.recommend.simulate import recommend
from regmix_active.strategies import load_strategy
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.testing.problems import LOSSES, power_law


def check_geometry(space: MixtureSpace, seed: int) -> None:
    """Projection, random mixtures and rounding."""
    rng = np.random.default_rng([seed, 1])
    assert space.feasible(space.centre).all()
    anywhere = rng.dirichlet(np.full(space.dim, 0.3), 24)
    near = space.project(anywhere)
    _feasible(space, near, "project")
    assert np.abs(space.project(near) - near).max() < 1e-9, "a feasible mixture is moved"
    _feasible(space, space.sample(16, rng), "sample")
    _feasible(space, space.dirichlet(16, 3 * space.prior, rng), "dirichlet")
    for row in near[:3]:
        rounded = space.round(row)
        _feasible(space, rounded[None], "round")
        assert np.abs(rounded - row).max() <= 1.01e-6
        assert abs(rounded.sum() - 1) < 1e-12


def check_designs(space: MixtureSpace, seed: int) -> None:
    """Initial designs, and what candidates are drawn with."""
    rng = np.random.default_rng([seed, 2])
    for name, design in INITIAL_DESIGNS.items():
        refused = None
        try:
            _feasible(space, design(space, 6, rng), name)
        except StrategyError as error:  # a set that is hardly more than a point holds no six different mixtures
            refused = str(error)
        assert refused is None or _holds_few(space, rng), f"{name}: {refused}"
    leaders = space.sample(4, rng)
    for what, rows in (("around", around(space, leaders, 24, rng)), ("between", between(space, leaders, 24, rng))):
        _feasible(space, rows, what)
    _feasible(space, spread(space, 24, rng), "spread")


def history_of(space: MixtureSpace, seed: int, runs: int = 12) -> History:
    """A search on the set after its first proxies, one of which is outside, as after a change of constraints."""
    rng = np.random.default_rng([seed, 3])
    mixtures = np.concatenate([rng.dirichlet(np.ones(space.dim), 1), spread(space, runs - 1, rng)])
    losses = power_law(mixtures) + 0.01 * rng.standard_normal((runs, LOSSES))
    target = Target.parse("mean", [f"loss-{j}" for j in range(LOSSES)])
    return History(space, target, mixtures, losses, np.arange(runs))


def _feasible(space: MixtureSpace, mixtures: Mixtures, what: str) -> None:
    inside: NDArray[np.bool_] = space.feasible(mixtures)
    assert inside.all(), f"{what}: {space.constraints} does not hold {mixtures[~inside][0]}"


def check_strategy_batch(space: MixtureSpace, seed: int, name: str) -> None:
    """A strategy's batch."""
    history = history_of(space, seed)
    options: dict[str, object] = {} if name == "dirichlet" else {"candidates": 64, "climbers": 4}
    strategy = load_strategy(name.replace("_", "-"), options, GaussianProcess(max_iterations=3))
    rng = np.random.default_rng([seed, 4])
    try:
        batch = strategy.propose(history, np.empty((0, space.dim)), 4, rng)
    except StrategyError as error:
        refused = str(error)
        assert _holds_few(space, rng), refused
        return
    _feasible(space, batch, name)


def check_answer(space: MixtureSpace, seed: int) -> None:
    """Simulation and recommendation."""
    rng = np.random.default_rng([seed, 5])
    found = recommend(history_of(space, seed), GaussianProcess(max_iterations=3), 1000, 32, rng)
    _feasible(space, space.round(found.found.weights)[None], "recommend")


def check_export(space: MixtureSpace, seed: int) -> None:
    """What is handed over, read again."""
    weights = space.round(space.sample(1, np.random.default_rng([seed, 6]))[0])
    (text,) = export("json", Handover("feasibility", space.as_dict(weights))).values()
    written = json.loads(text)["weights"]
    _feasible(space, np.array([[written.get(name, 0.0) for name in space.domains]]), "export")


def _holds_few(space: MixtureSpace, rng: np.random.Generator) -> bool:
    """Whether the set is hardly more than some points, as where one domain alone may be used."""
    return len(np.unique(np.rint(space.sample(128, rng) / 2e-4), axis=0)) < 12
