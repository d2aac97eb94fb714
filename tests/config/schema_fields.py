"""Every key of the schema, with its type."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from regmix_active.config.schema import DomainConfig, RunConfig


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the schema that is no section, with its type."""
    for name, found in model.model_fields.items():
        annotation = found.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from fields(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", annotation


def kinds(annotation: Any) -> set[Any]:
    """Plain types somewhere in an annotation."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return {type(value) for value in inner}
    return set[Any]().union(*(kinds(one) for one in inner)) if inner else {annotation}


FIELDS = [*fields(RunConfig), *((f"corpus.domains.a.{name}", kind) for name, kind in fields(DomainConfig))]
