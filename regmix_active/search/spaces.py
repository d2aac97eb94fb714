"""The feasible set of a search, from its configuration: names become indices, limits on epochs become caps, groups become sums."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from regmix_active.config.mixture import GroupConfig, MixtureConfig
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.explain import clash, redundant
from regmix_active.mixture.geometry import InfeasibleError
from regmix_active.mixture.pull import Pull
from regmix_active.mixture.space import MixtureSpace
from regmix_active.search.finite import target_tokens_of
from regmix_active.study.meaning import Meaning

Array = NDArray[np.float64]


def feasible_space(config: RunConfig, meaning: Meaning) -> MixtureSpace:
    """The mixtures that the configuration allows.

    Args:
        config: Its section ``mixture`` says which.
        meaning: Domains, natural shares and token counts of the study.

    Raises:
        ConfigError: If a name is unknown, or groups contain each other.
        InfeasibleError: If no mixture is allowed; names the smallest set of constraints that clash.
    """
    settings, domains = config.mixture, meaning.domains
    natural = np.array(meaning.natural)
    natural = natural / natural.sum()
    tokens = target_tokens_of(config, meaning) if settings.target_tokens is not None else None
    constraints = _Builder(settings, domains, natural, config.score_only).build(tokens)
    if (found := clash(constraints, natural) if not constraints.none else None) is not None:
        raise InfeasibleError(str(found))
    prior = None if settings.prior is None and settings.temperature == 2 else _prior(settings, domains, natural)
    space = MixtureSpace(domains, natural, constraints, prior)  # type: ignore[arg-type]  # filled in when it is None
    if settings.pull.strength == 0:
        return space
    towards = {"natural": space.natural, "prior": space.prior, "uniform": space.uniform}[settings.pull.towards]
    return MixtureSpace(domains, natural, constraints, space.prior, Pull(towards, settings.pull.strength, settings.pull.kind))


def constrained_space(space: MixtureSpace, mixture: Mapping[str, Any]) -> MixtureSpace:
    """A space without constraints, narrowed by the keys of a section ``mixture``.

    Raises:
        ConfigError: If a key or a name is unknown, or no mixture is allowed.
    """
    try:
        config = RunConfig.model_validate({"mixture": mixture})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return feasible_space(config, Meaning(space.domains, tuple(space.natural.tolist()), space.domains, {}))


def needless(space: MixtureSpace) -> list[str]:
    """Constraints that were asked for and change nothing, because the others imply them; in words."""
    typed = [bound for bound in redundant(space.constraints, space.natural) if bound.key.startswith(ASKED)]
    return [f"{bound.key}: {bound.text}; the other constraints imply it" for bound in typed]


ASKED = ("mixture.floors", "mixture.caps", "mixture.groups")
"""Constraints that a user named one by one; limits on epochs are there for every domain, and bind for few."""


class _Builder:
    """Turns names into coefficients."""

    def __init__(self, settings: MixtureConfig, domains: Sequence[str], natural: Array, score_only: Sequence[str]) -> None:
        self.settings, self.domains, self.natural, self.score_only = settings, tuple(domains), natural, score_only
        self._members: dict[str, frozenset[str]] = {}
        for name in settings.groups:
            if name in self.domains:
                raise ConfigError(f"mixture.groups.{name}: there is a domain of this name; give the group another")

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
                yield Bound(f"mixture.floors.{name}", f"{name} at least {share:g}", self._row([name], "floors"), low=share)
        for name, share in settings.caps.items():
            if share < 1:
                yield Bound(f"mixture.caps.{name}", f"{name} at most {share:g}", self._row([name], "caps"), high=share)
        for name, share in settings.fixed.items():
            yield Bound(f"mixture.fixed.{name}", f"{name} is {share:g}", self._row([name], "fixed"), share, share)

    def _caps(self, key: str, shares: Array, why: str) -> Iterable[Bound]:
        for row, name, share in zip(np.eye(len(self.domains)), self.domains, shares.tolist(), strict=True):
            if share < 1:
                yield Bound(f"mixture.{key}.{name}", f"{name} at most {share:.4g} ({why})", row, high=share)

    def _group_bounds(self) -> Iterable[Bound]:
        for name, group in self.settings.groups.items():
            row = self._row(sorted(self._resolved(name, ())), f"groups.{name}")
            whole, of = np.zeros(len(self.domains)), ""
            if group.within is not None:
                whole, of = self._parent(name, group), f" of {group.within}"
            for bound, side in ((group.min, "at least"), (group.max, "at most")):
                if bound is None or (side == "at least" and bound == 0) or (side == "at most" and bound == 1 and not of):
                    continue
                text = f"{name} {side} {bound:g}{of}"
                key = f"mixture.groups.{name}.{'min' if side == 'at least' else 'max'}"
                limit = 0.0 if of else bound
                coefficients = row - bound * whole
                low, high = (limit, np.inf) if side == "at least" else (-np.inf, limit)
                yield Bound(key, text, coefficients, low, high)

    def _parent(self, name: str, group: GroupConfig) -> Array:
        assert group.within is not None
        if group.within not in self.settings.groups:
            self._unknown(f"groups.{name}.within", group.within, self.settings.groups)
        return self._row(sorted(self._resolved(group.within, ())), f"groups.{name}.within")

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
                    self._unknown(f"groups.{name}.members", member, [*self.domains, *groups])
            self._members[name] = frozenset(found)
        return self._members[name]

    def _row(self, names: Iterable[str], key: str) -> Array:
        row = np.zeros(len(self.domains))
        for name in names:
            if name not in self.domains:
                self._unknown(key, name, self.domains)
            row[self.domains.index(name)] = 1.0
        return row

    def _unknown(self, key: str, name: str, known: Iterable[str]) -> NoReturn:
        if name in self.score_only:
            raise ConfigError(f"mixture.{key}: '{name}' is only scored (score_only), it has no weight")
        close = difflib.get_close_matches(name, list(known), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known)}"
        raise ConfigError(f"mixture.{key}: unknown name '{name}'; {hint}")


def _prior(settings: MixtureConfig, domains: Sequence[str], natural: Array) -> Array:
    """The given or the natural mixture, flattened."""
    given: Mapping[str, float] | None = settings.prior
    shares = natural
    if given is not None:
        if missing := [name for name in domains if name not in given]:
            raise ConfigError(f"mixture.prior: needs a share of every domain; {', '.join(missing)} is missing")
        if unknown := [name for name in given if name not in domains]:
            raise ConfigError(f"mixture.prior: unknown name '{unknown[0]}'; there are: {', '.join(domains)}")
        shares = np.array([given[name] for name in domains])
        shares = shares / shares.sum()
    flattened = shares ** (1 / settings.temperature)
    return np.asarray(flattened / flattened.sum())
