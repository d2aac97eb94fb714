"""The feasible set in the terminal: how far every weight may go, and what holds it there."""

from __future__ import annotations

import numpy as np
from rich.markup import escape
from rich.table import Table

from regmix_active.mixture.constraints import Bound
from regmix_active.mixture.explain import domain_ranges
from regmix_active.mixture.space import MixtureSpace

CLOSE = 1e-6


def allowed_table(space: MixtureSpace) -> Table:
    """Domain by domain: natural share, smallest and largest weight that all constraints together allow, and what asks for them."""
    table = Table(title="allowed mixtures", title_justify="left")
    table.add_column("domain")
    for column in ("natural share", "at least", "at most"):
        table.add_column(column, justify="right")
    table.add_column("because")
    for i, (name, (low, high)) in enumerate(zip(space.domains, domain_ranges(space.constraints, space.natural), strict=True)):
        why = [b.key.removeprefix("mixture.").removesuffix(f".{name}") for b in space.constraints.bounds if _holds(b, i, low, high)]
        share = f"{space.natural[i]:.1%}"
        outside = " (not allowed)" if not low - CLOSE <= space.natural[i] <= high + CLOSE else ""
        table.add_row(escape(name), share + outside, f"{low:.2%}", f"{high:.2%}", escape(", ".join(why)))
    return table


def _holds(bound: Bound, domain: int, low: float, high: float) -> bool:
    """Whether a bound on one domain alone is what limits it; groups and sums limit several at once."""
    if np.count_nonzero(bound.coefficients) != 1 or bound.coefficients[domain] != 1:
        return False
    return abs(bound.low - low) < CLOSE or abs(bound.high - high) < CLOSE
