"""How far each weight may go, and why, as the terminal shows it."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.space import MixtureSpace
from regmix_active.report.allowed import allowed_table


def test_ranges_and_reasons() -> None:
    eye = np.eye(3)
    bounds = (
        Bound("mixture.caps.books [a]", "cap", eye[0], high=0.3),
        Bound("mixture.floors.code", "floor", eye[1], low=0.1),
        Bound("mixture.groups.all.max", "group", eye[0] + eye[1], high=0.4),
    )
    space = MixtureSpace(("books [a]", "code", "web"), np.array([0.5, 0.3, 0.2]), Constraints(bounds))
    screen = Console(file=io.StringIO(), width=120)
    screen.print(allowed_table(space))
    lines = [" ".join(line.replace("│", " ").split()) for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert "books [a] 50.0% (not allowed) 0.00% 30.00% caps" in lines
    assert "code 30.0% 10.00% 40.00% floors" in lines
    assert "web 20.0% (not allowed) 60.00% 90.00%" in lines
