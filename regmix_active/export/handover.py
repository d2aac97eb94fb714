"""What is handed over: a mixture, and what is known about the data that it is to be trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from regmix_active.config.plain_yaml import UNNAMED
from regmix_active.errors import ConfigError

Unit = Literal["token", "sequence", "example"]
"""What a trainer's weight is a share of. A sequence is a training row of fixed length; an example is a document of any length."""

Paths = Mapping[str, str | Iterable[str]]

NEGLIGIBLE = 1e-12
"""Shares up to this are zeros: one token in a trillion."""

DUST = 1e-6
"""Shares below this are named: what remains of a rounding rather than a choice."""

TOLERANCE = 1e-9
"""How far from 1 the sum of the weights may lie."""


@dataclass(frozen=True)
class Handover:
    """A mixture and its data.

    Attributes:
        study: Name of the study that found it; a comment in the files.
        weights: Share of the training tokens by domain, in the order in which they are written; at least 0, sum 1.
        tokens: Training tokens there are, by domain; where unknown, the domain is missing.
        lengths: Mean length of a document in tokens, by domain.
        paths: Training data by domain, as the trainer names it (file, prefix, folder, hub name); one or several.
        validation_paths: Likewise, of validation data.
        test_paths: Likewise, of test data.
        target_tokens: Tokens that the target model is trained on.
        sequence_length: Tokens in one of its training rows.
        text_keys: Field of a document that holds its text, by domain; where unknown, the domain is missing.
        splits: Split of a data set of the hub, likewise.
        notes: What was done to the mixture before, for people to read.

    Raises:
        ConfigError: If the weights are no mixture, or a name, a path or a number cannot be right.
    """

    study: str
    weights: Mapping[str, float]
    tokens: Mapping[str, float] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)
    paths: Paths = field(default_factory=dict)
    validation_paths: Paths = field(default_factory=dict)
    test_paths: Paths = field(default_factory=dict)
    target_tokens: int | None = None
    sequence_length: int | None = None
    text_keys: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.study, *self.weights):
            if not name or UNNAMED.search(name):
                raise ConfigError(f"the name {name!a}: use one that is not empty and holds no control characters")
        object.__setattr__(self, "weights", {name: float(weight) for name, weight in self.weights.items()})
        self._check_weights()
        for key, unit in (("tokens", "a number of tokens"), ("lengths", "a mean length in tokens")):
            for name, value in getattr(self, key).items():
                if not 0 < value < math.inf:
                    raise ConfigError(f"{key} of {name!r} is {value!r}, not {unit}; leave the domain out where it is unknown")
        for key in ("paths", "validation_paths", "test_paths"):
            object.__setattr__(self, key, {name: _tuple(name, value) for name, value in getattr(self, key).items()})
        for key in ("target_tokens", "sequence_length"):
            number = getattr(self, key)
            if number is not None and number < 1:
                raise ConfigError(f"{key} is {number}, not a number of tokens of at least 1")

    def _check_weights(self) -> None:
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:  # which nan is not, either
                raise ConfigError(f"the weight of {name!r} is {weight!r}; a weight is a share of the training tokens, at least 0")
        total = math.fsum(self.weights.values())
        if abs(total - 1) > TOLERANCE:
            remedy = f"divide each by {total!r}" if total > 0 else "give at least one domain a weight above 0"
            raise ConfigError(f"the weights are no mixture: they sum to {total!r}, not to 1; {remedy}")

    @property
    def domains(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self.weights)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Shares of the training tokens, shape ``(d,)``; sums to 1."""
        return np.array(list(self.weights.values()), dtype=np.float64)

    def active(self) -> Self:
        """Without the domains of weight zero (:data:`NEGLIGIBLE`); the others' shares are renormalised."""
        kept = {name: weight for name, weight in self.weights.items() if weight > NEGLIGIBLE}
        total = math.fsum(kept.values())
        return replace(self, weights={name: weight / total for name, weight in kept.items()})

    def without_below(self, share: float) -> Self:
        """Shares below one become zero, and the others are renormalised; a note says so.

        Args:
            share: Of the training tokens, between 0 and 1.

        Raises:
            ConfigError: If nothing would be left.
        """
        dropped = {name: weight for name, weight in self.weights.items() if NEGLIGIBLE < weight < share}
        total = math.fsum(weight for weight in self.weights.values() if weight >= share)
        if total == 0:
            raise ConfigError(f"no domain has a share of {share:g}; the largest is {max(self.weights.values()):.4g}: drop less")
        if not dropped:
            return self
        weights = {name: weight / total if weight >= share else 0.0 for name, weight in self.weights.items()}
        note = (
            f"left out, below {share:g}: {', '.join(dropped)}, together {math.fsum(dropped.values()):.2g} of the tokens; "
            f"the other shares were divided by {total:.9g}"
        )
        return replace(self, weights=weights, notes=(*self.notes, note))

    def dust(self) -> tuple[str, ...]:
        """Domains whose share is so small that the target run may make nothing of it.

        Below :data:`DUST`, or fewer tokens than one training row where the target's tokens and the sequence's length are known.
        """
        least = DUST
        if self.target_tokens is not None and self.sequence_length is not None:
            least = max(least, self.sequence_length / self.target_tokens)
        return tuple(name for name, weight in self.weights.items() if NEGLIGIBLE < weight < least)

    def in_unit(self, unit: Unit) -> dict[str, float]:
        """The mixture as shares of a trainer's unit.

        Of sequences, which all have one length, the share is that of the tokens. Of examples it is proportional to ``weight / mean
        length``: a domain of documents twice as long is drawn half as often for the same tokens.

        Raises:
            KeyError: If examples are wanted, and a domain's mean length is unknown.
        """
        if unit != "example":
            return dict(self.weights)
        drawn = {name: weight / self.lengths[name] for name, weight in self.weights.items()}
        total = math.fsum(drawn.values())
        return {name: value / total for name, value in drawn.items()}

    def epochs(self, name: str) -> float | None:
        """How often the target run sees a domain's tokens; None if it is unknown what there is, or what is wanted."""
        available = self.tokens.get(name)
        if available is None or self.target_tokens is None:
            return None
        return self.weights[name] * self.target_tokens / available

    def files(self, name: str) -> tuple[str, ...]:
        """Paths of a domain's training data; empty if unknown."""
        return _tuple(name, self.paths.get(name, ()))


def _tuple(name: str, value: str | Iterable[str]) -> tuple[str, ...]:
    paths = (value,) if isinstance(value, str) else tuple(value)
    for path in paths:
        if not path or UNNAMED.search(path):
            raise ConfigError(f"a path of {name!r} is {path!a}; use one that is not empty and holds no control characters")
    return paths
