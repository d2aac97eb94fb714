"""Whether what is handed over is a mixture that the run allows: the set is the search's own (``mixture`` in its configuration)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regmix_active.config.plain_yaml import parse_yaml
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.search.finite import target_tokens_of

from .handover import Handover
from .sources import cached_store

if TYPE_CHECKING:
    from regmix_active.mixture.space import MixtureSpace
    from regmix_active.study.meaning import Meaning

TOLERANCE = 1e-9
"""How far a constraint may be overstepped, in shares of the tokens."""

ROUNDED = 1e-6
"""How far natural shares of ``mixture.yaml`` may be from the study's: they have six decimals."""


class RunConstraints:
    """The feasible set of a run, as far as it is known without its study."""

    def __init__(self, folder: Path, config: RunConfig, handover: Handover) -> None:
        """Build the set.

        Args:
            folder: The run folder.
            config: Its configuration.
            handover: Its mixture, with the tokens that the run knows of: before the user's files.

        Raises:
            ConfigError: If the configuration names what is not there.
            InfeasibleError: If it allows no mixture at all.
        """
        self._folder = folder
        self.notes: list[str] = []
        self._tolerance = TOLERANCE
        settings = config.mixture.model_copy(update={"tokens": {**config.mixture.tokens, **handover.tokens}})
        config = config.model_copy(update={"mixture": settings})
        self._space = self._built(config, handover)

    def check(self, handover: Handover, remedy: str | None = None) -> None:
        """Refuse a mixture outside.

        Args:
            handover: With the run's domains.
            remedy: What to do; by default to let the run recommend again.

        Raises:
            ConfigError: Names the constraint.
        """
        if self._space is None:
            return
        weights = handover.shares
        if self._space.feasible(weights, self._tolerance)[0]:
            return
        remedy = remedy or f"recommend again: regmix-active recommend {self._folder}"
        raise ConfigError(f"{self._folder}: the mixture breaks a constraint of the run: {self._broken(weights)}; {remedy}")

    def _built(self, config: RunConfig, handover: Handover) -> MixtureSpace | None:
        from regmix_active.search.spaces import feasible_space
        from regmix_active.study.meaning import Meaning

        domains = handover.domains
        natural = self._natural(config, handover)
        if natural is None:
            if _needs_natural(config):
                self.notes.append(
                    "the run's constraints were not checked, for lack of its natural shares: neither mixture.yaml has them, nor "
                    "the cache its corpus"
                )
                return None
            natural = dict.fromkeys(domains, 1.0)
        total = math.fsum(natural.values())
        meaning = Meaning(domains, tuple(natural[name] / total for name in domains), domains, {})
        return feasible_space(self._countable(config, meaning), meaning)

    def _countable(self, config: RunConfig, meaning: Meaning) -> RunConfig:
        """Without the limit on epochs if nothing says how many tokens there are."""
        if config.mixture.target_tokens is None:
            return config
        try:
            target_tokens_of(config, meaning)
        except ConfigError as error:
            self.notes.append(f"the run's limit on epochs was not checked ({error})")
            settings = config.mixture.model_copy(update={"target_tokens": None, "match_repetition": False})
            return config.model_copy(update={"mixture": settings})
        return config

    def _natural(self, config: RunConfig, handover: Handover) -> dict[str, float] | None:
        """Natural shares or counts of the mixture's domains: as the search has them, or rounded ones; None if unknown."""
        names = set(handover.domains)
        known: dict[str, float] = {}
        if config.runner.command is not None:
            known = dict(config.runner.domains)
        elif (store := cached_store(config.corpus)) is not None:
            known = dict(zip(store.domains, np.asarray(store.natural_shares).tolist(), strict=True))
        if names <= set(known):
            return {name: known[name] for name in handover.domains}
        content, _ = parse_yaml((self._folder / "mixture.yaml").read_text(encoding="utf-8"), str(self._folder / "mixture.yaml"))
        rounded = content.get("natural_weights")
        if not isinstance(rounded, dict) or set(rounded) != names or not all(_is_share(share) for share in rounded.values()):
            return None
        # A share rounded to zero is none; limits that are multiples of a share are off by as many roundings.
        if _needs_natural(config):
            self._tolerance = ROUNDED * max(1.0, config.mixture.max_ratio or 1.0)
        return {name: max(float(rounded[name]), ROUNDED / 2) for name in handover.domains}

    def _broken(self, weights: np.ndarray) -> str:
        """The constraint that is broken most, in words."""
        assert self._space is not None
        bounds = self._space.constraints.bounds
        excess = [float(bound.excess(weights[None])[0]) for bound in bounds]
        if excess and max(excess) > self._tolerance:
            worst = bounds[int(np.argmax(excess))]
            return f"{worst.text} ({worst.key}); it is off by {max(excess):.3g}"
        try:
            self._space.check(weights)
        except ValueError as error:
            return str(error).removeprefix("mixture 0: ")
        return "domains that are tied to their natural proportions are not in them (mixture.groups)"


def _needs_natural(config: RunConfig) -> bool:
    return config.mixture.max_ratio is not None or any(group.proportions == "natural" for group in config.mixture.groups.values())


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
