"""The page of examples is what the commands on it write, today."""

from __future__ import annotations

import pytest

from regmix_active.export import available
from tests.export import parsers
from tests.export.examples import COMMANDS, FOLDER, PAGE, page, run, short, table

MIXTURE = {"books": 0.25, "code": 0.3, "web": 0.4375, "chat": 0.0125}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m tests.export.examples"


def test_the_table_of_the_readme_is_up_to_date() -> None:
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    assert table() in readme, f"put it there:\n{table()}"


@pytest.mark.parametrize("form", list(COMMANDS))
def test_commands_of_the_table_run(form: str) -> None:
    assert all(run(short(form))[0].values())


def test_every_format_is_on_it() -> None:
    assert set(COMMANDS) == set(available()) == set(parsers.PARSERS)


@pytest.mark.parametrize("form", [form for form in COMMANDS if form not in ("hf-interleave", "torchtitan", "levanter")])
def test_examples_hold_the_mixture(form: str) -> None:
    shares = parsers.PARSERS[form](run(COMMANDS[form])[0])
    found = sorted(share for share in shares.values() if share > 0)
    assert found == pytest.approx(sorted(MIXTURE.values()), abs=1e-9)


@pytest.mark.parametrize("form", list(COMMANDS))
def test_repetitions_are_warned_of(form: str) -> None:
    _, shown = run(COMMANDS[form])
    assert "note: books would be repeated 8.3 times" in shown
    assert "12.50 !" in shown
