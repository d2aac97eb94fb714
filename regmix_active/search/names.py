"""Names in a section ``mixture``, and what to say of one that nothing has."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Literal

from regmix_active.errors import ConfigError


def check_known(
    key: str,
    names: Iterable[str],
    known: Collection[str],
    score_only: Collection[str] = (),
    what: Literal["domain", "group", "name"] = "domain",
) -> None:
    """Refuse names that nothing has.

    Args:
        key: Where they are written, such as ``mixture.caps``.
        names: As written.
        known: Those that there are.
        score_only: Domains that are only scored, and may not be named here.
        what: That the names are of; a ``name`` is a domain's or a group's.

    Raises:
        ConfigError: With the first unknown name, and the known one that is most like it.
    """
    for name in names:
        if name in known:
            continue
        if name in score_only:
            raise ConfigError(f"{key}: '{name}' is only scored (score_only), it has no weight; leave it out")
        close = difflib.get_close_matches(name, known, n=1)
        start = "there are" if what == "name" else f"the {what}s are"
        hint = f"did you mean '{close[0]}'?" if close else f"{start}: {', '.join(known) or 'none'}"
        raise ConfigError(f"{key}: unknown {what} '{name}'; {hint}")
