"""The schema's ``target``: what is minimised, as a word, as weights, or with its references and limits."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PlainValidator, Tag, TypeAdapter, model_validator

from regmix_active.config.section import Section
from regmix_active.errors import ConfigError
from regmix_active.study.spec import is_structured, number, same_targets


def _share(value: str) -> str:
    try:
        share = number(value, "this weight")
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if not 0 <= share < math.inf:
        raise ValueError("weights are finite and >= 0")
    return value


Weight = Annotated[
    Annotated[float, Field(ge=0, allow_inf_nan=False), Tag("(number)")] | Annotated[str, AfterValidator(_share), Tag("(fraction)")],
    Discriminator(lambda value: "(fraction)" if isinstance(value, str) and "/" in value else "(number)"),
]
"""A number, or a fraction such as ``7/52``."""


class _Structured(Section):
    """A section inside a value, which says itself which keys it has."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, content: Any) -> Any:
        for key in content if isinstance(content, Mapping) else ():
            if key not in cls.model_fields:
                close = difflib.get_close_matches(str(key), list(cls.model_fields), n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"the keys are: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key '{key}'; {hint}")
        return content


class LimitConfig(_Structured):
    """How large a loss may be."""

    at_most: Annotated[float, Field(ge=0)] | None = None
    """Largest loss, nats per token; or"""

    above_natural: Annotated[float, Field(gt=-1)] | None = None
    """by what share it may be above the loss of the natural mixture: 0.01 is one percent."""

    probability: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """How surely all losses of the limit shall keep it, together."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.at_most is None) == (self.above_natural is None):
            raise ValueError("needs exactly one of at_most (nats per token) and above_natural (a share, such as 0.01)")
        return self


class TargetConfig(_Structured):
    """A target with references or limits."""

    weights: Literal["mean"] | dict[str, Weight] = "mean"
    """Weights over losses, as `target` takes them."""

    worst: bool = False
    """Minimise the worst of these losses (each times its weight over the largest weight) instead of their weighed sum."""

    excess_over: Literal["natural"] | dict[str, float] | None = None
    """Count how far losses are above references: those of the natural mixture, or a number of nats per token for each."""

    relative: bool = False
    """Count excesses as shares of their references."""

    limits: dict[str, LimitConfig] = Field(default_factory=dict)
    """Limits by loss; `all` is for every loss without one of its own, such as `{all: {above_natural: 0.01, probability: 0.9}}`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _check_sum(self.weights)
        if self.relative and self.excess_over is None:
            raise ValueError("relative needs excess_over, of which the excess is a share; add excess_over: natural")
        return self


def _check_sum(weights: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(weights, dict) and not 0 < sum(number(w, "a weight") for w in weights.values()) < math.inf:
        raise ValueError("a target needs at least one weight above zero, and all of them a finite sum")
    return weights


def _named(target: object) -> object:
    return {target: 1.0} if isinstance(target, str) and target != "mean" else target


def _form(target: object) -> str:
    # Odd tags: those of pydantic's error locations that are keys of the data are taken for keys.
    return "(structured)" if is_structured(target) else "(mean)" if target == "mean" else "(weights)"


def _plain(target: TargetConfig) -> dict[str, Any]:
    """As the study keeps it: words, numbers and mappings."""
    return {"weights": target.weights, **target.model_dump(mode="json", exclude_defaults=True)}


_FORMS: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        Annotated[Literal["mean"], Tag("(mean)")]
        | Annotated[dict[str, Weight], AfterValidator(_check_sum), Tag("(weights)")]
        | Annotated[TargetConfig, AfterValidator(_plain), Tag("(structured)")],
        Discriminator(_form),
        BeforeValidator(_named),
    ]
)

TargetSpec = Annotated[Literal["mean"] | dict[str, Any], PlainValidator(_FORMS.validate_python)]
"""What is minimised. After validation always plain: ``mean``, weights by name, or the structured form as a mapping."""


def _several(targets: dict[str, Any]) -> dict[str, Any]:
    if len(targets) == 1:
        raise ValueError("a trade-off needs two or more targets; for one, use `target`")
    if (same := same_targets(list(targets.values()))) is not None:
        first, second = (list(targets)[i] for i in same)
        raise ValueError(f"{first} and {second} are the same target; a trade-off needs different ones")
    return targets


Targets = Annotated[dict[str, TargetSpec], AfterValidator(_several)]
"""Targets by name, two or more; or none."""
