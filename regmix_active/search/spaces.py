"""The feasible set of a search, from its configuration: names become indices, limits on epochs become caps, groups become sums."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from regmix_active.config.load import _explain, _Place
from regmix_active.config.mixture import MixtureConfig
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.mixture.constraints import Bound, Constraints, Region, Units
from regmix_active.mixture.explain import clash, redundant
from regmix_active.mixture.geometry import InfeasibleError
from regmix_active.mixture.programs import minimise
from regmix_active.mixture.pull import Pull
from regmix_active.mixture.space import MixtureSpace
from regmix_active.search.finite import check_token_names, target_tokens_of
from regmix_active.search.names import check_known
from regmix_active.study.meaning import Meaning

Array = NDArray[np.float64]


def feasible_space(config: RunConfig, meaning: Meaning, *, searched: bool = True) -> MixtureSpace:
    """The mixtures that the configuration allows.

    Args:
        config: Its section ``mixture`` says which.
        meaning: Domains, natural shares and token counts of the study.
        searched: Whether there shall be something to search: a set of one mixture is refused.

    Raises:
        ConfigError: If a name is unknown, groups contain each other, or only one mixture is allowed where there shall be more.
        InfeasibleError: If no mixture is allowed; names the smallest set of constraints that clash.
    """
    settings, domains = config.mixture, meaning.domains
    natural = np.array(meaning.natural)
    natural = natural / natural.sum()
    check_token_names(settings.tokens, domains, config.score_only)
    tokens = target_tokens_of(config, meaning) if settings.target_tokens is not None else None
    constraints = _Builder(settings, domains, natural, config.score_only).build(tokens)
    if (found := clash(constraints, natural, domains) if not constraints.none else None) is not None:
        raise InfeasibleError(str(found))
    prior = None if settings.prior is None and settings.temperature == 2 else _prior(settings, domains, natural, config.score_only)
    space = MixtureSpace(domains, natural, constraints, prior)  # type: ignore[arg-type]  # filled in when it is None
    if searched:
        _check_several(space)
    if settings.pull.strength == 0:
        return space
    towards = {"natural": space.natural, "prior": space.prior, "uniform": space.uniform}[settings.pull.towards]
    return MixtureSpace(domains, natural, constraints, space.prior, Pull(towards, settings.pull.strength, settings.pull.kind))


def constrained_space(space: MixtureSpace, mixture: Mapping[str, Any]) -> MixtureSpace:
    """A space without constraints, narrowed by the keys of a section ``mixture``.

    Raises:
        ConfigError: If a key or a name is unknown, or no mixture is allowed.
    """
    if not isinstance(mixture, Mapping):
        raise ConfigError(f"constraints: keys of the section mixture are wanted, such as {{'caps': {{...}}}}, got {mixture!r}")
    if mixture.get("match_repetition", False) is not False:
        raise ConfigError(
            "mixture.match_repetition: proxies are trained by your objective, which would have to match it; leave it out"
        )
    written = {"mixture": dict(mixture)}
    try:
        config = RunConfig.model_validate(written)
    except ValidationError as error:
        raise ConfigError(_explain(error, written, _Place("constraints", None, frozenset()))) from None
    return feasible_space(config, Meaning(space.domains, tuple(space.natural.tolist()), space.domains, {}))


def needless(space: MixtureSpace, *, thorough: bool = False) -> list[str]:
    """Constraints that were asked for and change nothing, because the others imply them; in words.

    Args:
        space: The feasible set.
        thorough: Look at however many constraints, which may take seconds: each is a program. Default: nothing is said where there
            are more than :data:`QUICK`, or used domains are counted.
    """
    if not thorough and (space.constraints.counted or len(space.constraints.bounds) > QUICK):
        return []
    typed = [bound for bound in redundant(space.constraints, space.natural) if bound.key.startswith(ASKED)]
    return [f"{bound.key}: {bound.text}; the other constraints imply it" for bound in typed]


def quickly_explained(space: MixtureSpace) -> MixtureSpace:
    """The space, without limits on the used domains where these are too many to be counted for each of them in a few seconds.

    What the larger set implies, the space does too.
    """
    if not space.constraints.counted or space.dim <= COUNTABLE:
        return space
    return replace(space, constraints=replace(space.constraints, at_least=1, at_most=None, smallest=0.0))


ASKED = ("mixture.floors", "mixture.caps", "mixture.groups")
"""Constraints that a user named one by one; limits on epochs are there for every domain, and bind for few."""

QUICK = 60
"""Constraints that a run looks at before it starts, in a fraction of a second."""

COUNTABLE = 40
"""Domains for each of which mixed-integer programs are solved."""

POINT = 1e-6
"""Weights that agree to this are the same."""


def _check_several(space: MixtureSpace) -> None:
    """Refuse a set of one mixture.

    Raises:
        ConfigError: With the mixture.
    """
    if not space.constrained or (only := _only(space)) is None:
        return
    shown = [f"{name}: {weight:.4g}" for name, weight in sorted(only.items(), key=lambda item: -item[1]) if weight > POINT]
    rest = [f"and {len(shown) - LISTED} more"] if len(shown) > LISTED else []
    keys = {".".join(bound.key.split(".")[:2]) for bound in space.constraints.bounds}
    keys |= {"mixture.groups"} if space.constraints.tied else set()
    keys |= {"mixture.active"} if space.constraints.counted else set()
    raise ConfigError(
        f"mixture: the constraints allow one mixture only: {{{', '.join([*shown[:LISTED], *rest])}}}; there is nothing to search. "
        f"Train the model with it, or loosen {', '.join(sorted(keys))}"
    )


def _only(space: MixtureSpace) -> dict[str, float] | None:
    """The only mixture that is allowed; None where there are others."""
    units = Units.of(space.natural, space.constraints.tied)
    region = Region.of(space.constraints, units)
    some = minimise(region, np.zeros(region.dim))
    if some is None or not _is_point(region.with_support(some.active) if region.counted else region):
        return None  # seen at once, where it would be slow to look at all choices of used domains
    if region.counted and not _is_point(region):
        return None
    return space.as_dict(units.expand(some.weights[None])[0])


def _is_point(region: Region) -> bool:
    """Whether a set holds one mixture: a linear function then has one value.

    On a larger set it has one only for coefficients that random ones almost never are.
    """
    cost = np.random.default_rng(0).random(region.dim)  # part of the test, not of any draw
    low, high = minimise(region, cost), minimise(region, -cost)
    return low is not None and high is not None and bool(np.abs(low.weights - high.weights).max() <= POINT)


LISTED = 12
"""Weights that a message lists."""


class _Builder:
    """Turns names into coefficients."""

    def __init__(self, settings: MixtureConfig, domains: Sequence[str], natural: Array, score_only: Sequence[str]) -> None:
        self.settings, self.domains, self.natural, self.score_only = settings, tuple(domains), natural, score_only
        self._members: dict[str, frozenset[str]] = {}
        # What bounds nothing must be spelt right too: a cap of 1 may become one of 0.3, and then it matters.
        for key, names in (("floors", settings.floors), ("caps", settings.caps), ("fixed", settings.fixed)):
            check_known(f"mixture.{key}", names, self.domains, score_only)
        for name in settings.groups:
            if name in self.domains:
                raise ConfigError(f"mixture.groups.{name}: there is a domain of this name; give the group another")
        for name, group in settings.groups.items():
            self._resolved(name, ())
            if group.within is not None:
                check_known(f"mixture.groups.{name}.within", [group.within], settings.groups, what="group")
        for name in settings.groups:
            self._check_within(name)

    def build(self, tokens: Array | None) -> Constraints:
        """All constraints.

        Args:
            tokens: That the target run has of each domain, shape ``(d,)``.
        """
        settings, active = self.settings, self.settings.active
        bounds = [*self._domain_bounds(), *self._group_bounds()]
        if settings.max_ratio is not None:
            bounds += self._caps("max_ratio", settings.max_ratio * self.natural, f"{settings.max_ratio:g} times its natural share")
        if settings.target_tokens is not None and tokens is not None:
            share = settings.max_epochs * tokens / settings.target_tokens
            bounds += self._caps("max_epochs", share, f"{settings.max_epochs:g} epochs in {settings.target_tokens:.3g} tokens")
        most = active.at_most if active.at_most is not None and active.at_most < len(self.domains) else None
        if active.at_least is not None and active.at_least > len(self.domains):
            raise ConfigError(
                f"mixture.active.at_least: {active.at_least}, and there are {len(self.domains)} domains; ask for fewer"
            )
        return Constraints(tuple(bounds), active.at_least or 1, most, active.smallest, tuple(self._tied()))

    def _domain_bounds(self) -> Iterable[Bound]:
        settings = self.settings
        for name, share in settings.floors.items():
            if share > 0:
                yield Bound(f"mixture.floors.{name}", f"{name} at least {share:g}", self._row([name]), low=share)
        for name, share in settings.caps.items():
            if share < 1:
                yield Bound(f"mixture.caps.{name}", f"{name} at most {share:g}", self._row([name]), high=share)
        for name, share in settings.fixed.items():
            yield Bound(f"mixture.fixed.{name}", f"{name} is {share:g}", self._row([name]), share, share)

    def _caps(self, key: str, shares: Array, why: str) -> Iterable[Bound]:
        for row, name, share in zip(np.eye(len(self.domains)), self.domains, shares.tolist(), strict=True):
            if share < 1:
                yield Bound(f"mixture.{key}.{name}", f"{name} at most {share:.4g} ({why})", row, high=share)

    def _group_bounds(self) -> Iterable[Bound]:
        for name, group in self.settings.groups.items():
            row = self._row(self._resolved(name, ()))
            whole, of = np.zeros(len(self.domains)), ""
            if group.within is not None:
                whole, of = self._row(self._resolved(group.within, ())), f" of {group.within}"
            for bound, side in ((group.min, "at least"), (group.max, "at most")):
                if bound is None or (side == "at least" and bound == 0) or (side == "at most" and bound == 1 and not of):
                    continue
                text = f"{name} {side} {bound:g}{of}"
                key = f"mixture.groups.{name}.{'min' if side == 'at least' else 'max'}"
                limit = 0.0 if of else bound
                coefficients = row - bound * whole
                low, high = (limit, np.inf) if side == "at least" else (-np.inf, limit)
                yield Bound(key, text, coefficients, low, high)

    def _check_within(self, name: str) -> None:
        """A share of a group is one of a larger group that holds it all."""
        groups, key = self.settings.groups, f"mixture.groups.{name}"
        above, parent = [name], groups[name].within
        while parent is not None and parent not in above:
            above, parent = [*above, parent], groups[parent].within
        if parent == name:
            chain = "itself" if len(above) == 1 else f"itself ({' → '.join((*above, name))})"
            raise ConfigError(
                f"{key}.within: the group is within {chain}; name a larger group, or leave it out: a share of all tokens"
            )
        if (parent := groups[name].within) is None:
            return
        members, outer = self._resolved(name, ()), self._resolved(parent, ())
        if outside := [domain for domain in self.domains if domain in members - outer]:
            listed = ", ".join(outside)
            raise ConfigError(
                f"{key}.within: '{parent}' does not contain {listed}; add it to mixture.groups.{parent}.members, name a group that "
                "contains all members, or leave it out: a share of all tokens"
            )
        if members == outer:
            raise ConfigError(
                f"{key}.within: '{parent}' has the same domains, so the share is always 1; name a larger group, or leave it out: "
                "a share of all tokens"
            )

    def _tied(self) -> Iterable[tuple[int, ...]]:
        """Groups that keep natural proportions; those in others are one with them."""
        tied: list[set[int]] = []
        for name, group in self.settings.groups.items():
            if group.proportions == "natural":
                members = {self.domains.index(member) for member in self._resolved(name, ())}
                for other in [other for other in tied if other & members]:
                    members |= other
                    tied.remove(other)
                tied.append(members)
        return sorted(tuple(sorted(members)) for members in tied if len(members) > 1)

    def _resolved(self, name: str, above: tuple[str, ...]) -> frozenset[str]:
        """Domains of a group."""
        if name in above:
            raise ConfigError(f"mixture.groups.{name}: contains itself ({' → '.join((*above, name))})")
        if name not in self._members:
            found: set[str] = set()
            groups = self.settings.groups
            for member in groups[name].members:
                if member in self.domains:
                    found.add(member)
                elif member in groups:
                    found |= self._resolved(member, (*above, name))
                elif matched := fnmatch.filter(self.domains, member):
                    found.update(matched)
                else:
                    check_known(f"mixture.groups.{name}.members", [member], [*self.domains, *groups], self.score_only, "name")
            self._members[name] = frozenset(found)
        return self._members[name]

    def _row(self, names: Collection[str]) -> Array:
        """Ones at some domains, shape ``(d,)``."""
        return np.array([float(name in names) for name in self.domains])


def _prior(settings: MixtureConfig, domains: Sequence[str], natural: Array, score_only: Sequence[str]) -> Array:
    """The given or the natural mixture, flattened, shape ``(d,)``."""
    given: Mapping[str, float] | None = settings.prior
    shares = natural
    if given is not None:
        check_known("mixture.prior", given, domains, score_only)
        if missing := [name for name in domains if name not in given]:
            raise ConfigError(f"mixture.prior: needs a share of every domain; {', '.join(missing)} is missing")
        shares = np.array([given[name] for name in domains])
    # The largest becomes 1, which stays 1 whatever the power: not all of them underflow.
    flattened = (shares / shares.max()) ** (1 / settings.temperature)
    return np.asarray(flattened / flattened.sum())
