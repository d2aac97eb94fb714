"""How a target is written: its forms and its numbers, for configurations, command lines and stored studies alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

from regmix_active.errors import ConfigError

Natural = Literal["natural"]
NATURAL: Natural = "natural"
MEAN = "mean"

ALL = "all"
"""The limit's name that stands for every loss without a limit of its own."""

KEYS = ("weights", "worst", "excess_over", "relative", "limits")
"""Keys of the structured form."""


def is_structured(spec: object) -> bool:
    """Whether a target is in the structured form: one of its keys is that form's, with a value that is no weight.

    A loss may be called ``weights`` or ``worst``: ``{weights: 2}`` weighs it.
    """
    return isinstance(spec, Mapping) and any(key in KEYS and not _is_weight(spec[key]) for key in spec)


def _is_weight(value: object) -> bool:
    if isinstance(value, str):
        return value not in (NATURAL, MEAN)
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: object, where: str) -> float:
    """A weight: a number, or a fraction such as ``"7/52"``.

    Raises:
        ConfigError: If it is neither; `where` names the key.
    """
    try:
        if isinstance(value, str):
            return float(Fraction(value.replace(" ", "")))
        if isinstance(value, bool):
            raise ValueError
        return float(value)  # type: ignore[arg-type]
    except ZeroDivisionError:
        raise ConfigError(f"{where} is {value}; a fraction is not divided by zero") from None
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{where} is {value!r}; write a number, or a fraction such as 7/52") from None


def same_targets(specs: Sequence[object]) -> tuple[int, int] | None:
    """The first two targets that say the same in other words, such as ``books`` and ``{books: 2}``; None if all are different."""
    plain = [_canonical(spec) for spec in specs]
    return next(((plain.index(one), i) for i, one in enumerate(plain) if one in plain[:i]), None)


def _canonical(spec: object) -> object:
    """A target without its words: weights as shares, and what the structured form says besides."""
    content = dict(spec) if isinstance(spec, Mapping) and is_structured(spec) else {"weights": spec}
    weights = content.pop("weights", None) or MEAN
    if isinstance(weights, str) and weights != MEAN:
        weights = {weights: 1}
    if isinstance(weights, Mapping):
        numbers = {name: number(weight, f"target: the weight of '{name}'") for name, weight in weights.items()}
        total = sum(numbers.values()) or 1.0
        weights = {name: round(weight / total, 12) for name, weight in numbers.items() if weight}
    return weights, {key: value for key, value in content.items() if value}
