"""Searches that never ran: histories with known losses, for conformance suites."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.study.history import History
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Array

LOSSES = 3
"""Losses of every problem."""


def power_law(mixtures: Mixtures) -> Array:
    """Losses that fall with the weights of the first domains, each helped a little by the next one, shape ``(n, 3)``."""
    d = mixtures.shape[1]
    columns = [mixtures[:, j % d] + 0.3 * mixtures[:, (j + 1) % d] for j in range(LOSSES)]
    losses: Array = 2 + (np.stack(columns, axis=1) + 0.02) ** -0.4
    return losses


def problem_space(d: int) -> MixtureSpace:
    """`d` domains of somewhat different natural shares."""
    shares = 1 + 0.1 * np.cos(np.arange(d))
    return MixtureSpace(tuple(f"domain-{i}" for i in range(d)), shares / shares.sum())


def bounded_space(d: int) -> MixtureSpace:
    """`d` domains, four or more, with a floor, a cap, a fixed share and a group."""
    space, unit = problem_space(d), np.eye(d)
    bounds = (
        Bound("mixture.floors.domain-1", "domain-1 at least 0.05", unit[1], low=0.05),
        Bound("mixture.caps.domain-0", "domain-0 at most 0.3", unit[0], high=0.3),
        Bound(f"mixture.fixed.domain-{d - 1}", f"domain-{d - 1} is 0.1", unit[-1], low=0.1, high=0.1),
        Bound("mixture.groups.front", "front at least 0.2 and at most 0.5", unit[:3].sum(axis=0), low=0.2, high=0.5),
    )
    return MixtureSpace(space.domains, space.natural, Constraints(bounds))


def sparse_space(d: int) -> MixtureSpace:
    """`d` domains of which a mixture uses two to four, each with at least a twentieth of it."""
    space = problem_space(d)
    return MixtureSpace(space.domains, space.natural, Constraints(at_least=2, at_most=4, smallest=0.05))


def broad_mixtures(space: MixtureSpace, n: int, seed: int) -> Mixtures:
    """Mixtures from nearly single domains to nearly uniform ones, shape ``(n, d)``."""
    rng = np.random.default_rng([seed, space.dim])
    strengths = rng.choice([0.3, 1.0, 3.0], size=(n, 1))
    return space.dirichlet(n, np.broadcast_to(strengths, (n, space.dim)), rng)


def problem_history(
    d: int,
    n: int,
    seed: int,
    target: str | dict[str, Any] = "mean",
    *,
    missing: bool = False,
    extra: Mixtures | None = None,
    space: MixtureSpace | None = None,
) -> History:
    """A search after its first proxies.

    Args:
        d: Number of domains.
        n: Number of finished proxies.
        seed: Source of all that is random.
        target: What is minimised; the losses are ``loss-0`` to ``loss-2``.
        missing: Leave out a fifth of the second loss and a fifth of the third.
        extra: Finished proxies besides, shape ``(k, d)``.
        space: The feasible set; default: the simplex.
    """
    space = space or problem_space(d)
    mixtures = broad_mixtures(space, n, seed)
    if extra is not None:
        mixtures = np.concatenate([mixtures, extra])
    losses = power_law(mixtures) + 0.01 * np.random.default_rng([seed, d, 1]).standard_normal((len(mixtures), LOSSES))
    if missing:
        losses[1::5, 1] = losses[2::5, 2] = np.nan
    names = [f"loss-{j}" for j in range(LOSSES)]
    return History(space, Target.parse(target, names), mixtures, losses, np.arange(len(mixtures)))


@contextlib.contextmanager
def global_generators(seed: int) -> Iterator[list[str]]:
    """Python's, NumPy's and PyTorch's global random generators, seeded. At the end the list holds the names of those that were
    used, and all are put back.
    """
    import torch

    def states() -> dict[str, object]:
        numpy_state = pickle.dumps(np.random.get_state())  # noqa: NPY002
        return {
            "random": random.getstate(),
            "numpy.random": numpy_state,
            "torch": torch.get_rng_state().numpy().tobytes(),
        }

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    used: list[str] = []
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        start = states()
        yield used
        used += [name for name, state in states().items() if state != start[name]]
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
