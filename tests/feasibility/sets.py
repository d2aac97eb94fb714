"""Configurations whose feasible set is known to hold a mixture: one is drawn first, and the constraints are put around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regmix_active.config.schema import RunConfig
from regmix_active.mixture.space import MixtureSpace
from regmix_active.search.spaces import feasible_space
from regmix_active.study.meaning import Meaning

LARGEST = 200
"""Domains."""


def names(d: int) -> tuple[str, ...]:
    return tuple(f"d{i}" for i in range(d))


def feasible_set(seed: int, largest: int = LARGEST) -> tuple[MixtureSpace, NDArray[np.float64]]:
    """A feasible set of 3 to `largest` domains, and a mixture that it holds, shape ``(d,)``."""
    rng = np.random.default_rng([seed, 6])
    d = int(np.round(np.exp(rng.uniform(np.log(3), np.log(largest + 0.49)))))
    natural = rng.dirichlet(np.full(d, 0.7))
    natural = np.maximum(natural, 1e-5) / np.maximum(natural, 1e-5).sum()
    counted = rng.random() < 0.4
    inside = rng.dirichlet(np.full(d, 0.8))
    active: dict[str, Any] = {}
    if counted:
        used = int(rng.integers(1, min(d, 12) + 1))
        smallest = float(rng.choice([0.0, 0.01, 0.5 / used]))
        chosen = rng.choice(d, used, replace=False)
        inside = np.zeros(d)
        inside[chosen] = smallest + (1 - smallest * used) * rng.dirichlet(np.ones(used))
        active = {"at_most": used + int(rng.integers(3)), "smallest": smallest}
        if smallest > 0:
            active["at_least"] = max(1, used - int(rng.integers(3)))
    mixture: dict[str, Any] = {"active": active} if active else {}
    _bound_domains(mixture, inside, rng)
    _bound_groups(mixture, inside, rng)
    if rng.random() < 0.5:  # finite data: at most four epochs of what there is
        tokens = np.maximum(inside * (1 + rng.random(d)), 0.02) * 1e9 / 4
        mixture |= {"target_tokens": 1e9, "tokens": dict(zip(names(d), tokens.tolist(), strict=True))}
    return made(mixture, natural), inside


def made(mixture: dict[str, Any], natural: NDArray[np.float64]) -> MixtureSpace:
    """The feasible set of a ``mixture`` section."""
    domains = names(len(natural))
    config = RunConfig.model_validate({"mixture": mixture})
    return feasible_space(config, Meaning(domains, tuple(natural.tolist()), domains, {}), searched=False)


def _bound_domains(mixture: dict[str, Any], inside: NDArray[np.float64], rng: np.random.Generator) -> None:
    floors, caps, fixed = {}, {}, {}
    for name, weight in zip(names(len(inside)), inside.tolist(), strict=True):
        kind = rng.random()
        if kind < 0.25:
            caps[name] = min(1.0, weight * (1 + 2 * rng.random()) + 0.01)
        elif kind < 0.4:
            floors[name] = weight * rng.random()
        elif kind < 0.44 and weight > 0:
            fixed[name] = weight
    mixture |= {"floors": floors, "caps": caps, "fixed": fixed}


def _bound_groups(mixture: dict[str, Any], inside: NDArray[np.float64], rng: np.random.Generator) -> None:
    d, groups = len(inside), {}
    blocks = [block.tolist() for block in np.array_split(rng.permutation(d), 4)]
    nested = rng.random() < 0.5
    for i in range(int(rng.integers(5))):
        # Blocks side by side and blocks in blocks; or groups that overlap as they like.
        members = (
            blocks[i % 4] + (blocks[(i + 1) % 4] if i >= 2 else []) if nested else np.flatnonzero(rng.random(d) < 0.3).tolist()
        )
        if len(members) < 2:
            continue
        share = float(inside[members].sum())
        low, high = share * rng.random(), min(1.0, share * (1 + rng.random()) + 0.01)
        groups[f"g{i}"] = {"members": [f"d{j}" for j in members], "min": low, "max": high}
        part = members[: len(members) // 2]
        if rng.random() < 0.3 and share > 0 and part:
            relative = min(1.0, float(inside[part].sum()) / share * 1.1 + 0.02)
            groups[f"g{i}-part"] = {"members": [f"d{j}" for j in part], "max": relative, "within": f"g{i}"}
    mixture["groups"] = groups


def impossible(seed: int) -> tuple[dict[str, Any], NDArray[np.float64], int]:
    """A ``mixture`` section without any mixture, the natural mixture, and how many constraints clash at least."""
    rng = np.random.default_rng([seed, 7])
    d = int(rng.integers(4, 60))
    natural = rng.dirichlet(np.ones(d))
    kind = seed % 5
    noise = {f"d{i}": float(rng.uniform(0.9, 0.99)) for i in rng.choice(d, d // 2, replace=False)}
    if kind == 0:  # floors that sum to more than one
        first, second = (float(x) for x in rng.uniform(0.55, 0.8, 2))
        return (
            {"floors": {"d0": first, "d1": second}, "caps": {n: c for n, c in noise.items() if n not in ("d0", "d1")}},
            natural,
            2,
        )
    if kind == 1:  # caps that sum to less than one
        return {"caps": dict.fromkeys(names(d), 0.9 / d)}, natural, d
    if kind == 2:  # a group below a member's floor
        group = {"members": ["d0", "d1"], "max": 0.2}
        return {"floors": {"d0": 0.3}, "groups": {"code": group}, "caps": {n: c for n, c in noise.items() if n != "d0"}}, natural, 2
    if kind == 3:  # more domains than their smallest weight lets in
        used = int(rng.integers(3, d + 1))
        return {"active": {"at_least": used, "smallest": 1.2 / used}}, natural, 2
    # Too few tokens: together they last for less than the target run.
    tokens = rng.dirichlet(np.ones(d)) * 0.2e9
    return {"target_tokens": 1e9, "tokens": dict(zip(names(d), tokens.tolist(), strict=True))}, natural, d
