"""The feasible set in the terminal: how far every weight may go, and what holds it there."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from regmix_active.mixture.space import MixtureSpace
from regmix_active.report.limits import CLOSE, limits

LISTED = 3
"""Constraints that a cell lists; where there are more, each of them says little."""


def allowed_table(space: MixtureSpace, caption: str | None = None) -> Table:
    """Domain by domain: natural share, smallest and largest weight that all constraints together allow, and what asks for them.

    Args:
        space: The feasible set.
        caption: What the table leaves out.
    """
    table = Table(title="allowed mixtures", title_justify="left", caption=caption, caption_justify="left")
    table.add_column("domain", overflow="fold")
    for column in ("natural share", "at least", "at most"):
        table.add_column(column, justify="right")
    table.add_column("because", overflow="fold")
    for name, share, (low, high) in zip(space.domains, space.natural, limits(space), strict=True):
        outside = " (not allowed)" if not low.weight - CLOSE <= share <= high.weight + CLOSE else ""
        why = [f"{sign} {_because(end.keys, name)}" for sign, end in (("≥", low), ("≤", high)) if end.keys]
        table.add_row(escape(name), f"{share:.1%}{outside}", f"{low.weight:.2%}", f"{high.weight:.2%}", escape("\n".join(why)))
    return table


def _because(keys: Sequence[str], domain: str) -> str:
    """Keys as a reader of the section ``mixture`` knows them; those of the domain itself without its name."""
    short = [key.removeprefix("mixture.") for key in keys]
    short = [key if key.startswith("groups.") else key.removesuffix(f".{domain}") for key in short]
    if len(short) <= LISTED:
        return ", ".join(short)
    return f"{', '.join(short[: LISTED - 1])} and {len(short) - LISTED + 1} more"
