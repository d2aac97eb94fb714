"""What all sections of a configuration have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from unicodedata import category

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    """A frozen group of keys that refuses unknown ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def check_names(names: Iterable[str]) -> None:
    """Refuse names of domains that would not survive a table, a file or a terminal.

    Raises:
        ValueError: With the first of them.
    """
    for name in names:
        if not name or name != name.strip() or "/" in name or any(category(letter) in ("Cc", "Cs") for letter in name):
            raise ValueError(f"domain name {name!r}: use a non-empty name without '/', outer blanks and control characters")
