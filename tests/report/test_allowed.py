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
    assert shown(space)[4:9] == [
        "books [a] 50.0% (not allowed) 0.00% 30.00% ≤ caps",
        "code 30.0% 10.00% 40.00% ≥ floors",
        "≤ groups.all.max",
        "web 20.0% (not allowed) 60.00% 90.00% ≥ groups.all.max",
        "≤ floors.code",
    ]


def test_many_reasons_are_counted() -> None:
    names = ("a", "b", "c", "d", "max")
    bounds = [Bound(f"mixture.caps.{name}", "cap", row, high=0.1) for name, row in zip(names[:4], np.eye(5), strict=False)]
    group = Bound("mixture.groups.rest.max", "group", np.eye(5)[3] + np.eye(5)[4], high=0.8)
    lines = shown(MixtureSpace(names, np.full(5, 0.2), Constraints((*bounds, group))), "without something")
    assert "max 20.0% (not allowed) 60.00% 80.00% ≥ caps.a, caps.b and 2 more" in lines
    assert "≤ groups.rest.max" in lines
    assert lines[-1] == "without something"


def test_a_narrow_terminal_shows_whole_keys() -> None:
    bound = Bound("mixture.groups.a-long-name-of-a-group.max", "", np.array([1.0, 1.0, 0.0]), high=0.4)
    space = MixtureSpace(("a", "b", "c"), np.full(3, 1 / 3), Constraints((bound,)))
    file = io.StringIO()
    Console(file=file, width=60).print(allowed_table(space))
    assert "…" not in file.getvalue()


def shown(space: MixtureSpace, caption: str | None = None) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=160).print(allowed_table(space, caption))
    lines = [" ".join(line.replace("│", " ").split()) for line in file.getvalue().splitlines()]
    return [line for line in lines if line]
