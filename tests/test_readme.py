"""The README keeps its promises: its Python runs, its commands parse, its strategy is short."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from regmix_active.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(set(re.findall(r"^\$? ?(regmix-active [^#\n]*)", README, re.MULTILINE)))


def test_python_example_runs(tiny: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGMIX_ACTIVE_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    code = EXAMPLES[0]
    smaller = code.replace('"embedded"', repr(str(tiny))).replace("budget=64", "budget=10")
    assert smaller != code
    (tmp_path / "example.py").write_text(smaller, encoding="utf-8")
    result = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "'books'" in result.stdout
    rows = (tmp_path / "runs" / "curious" / "trials.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 11
    assert "curious" in rows[-1]


def test_sampler_example_runs() -> None:
    (code,) = EXAMPLES[1:]
    smaller = code.replace("n_trials=64", "n_trials=6")
    space: dict[str, Any] = {"train_and_score": lambda mixture: {name: 3 - weight**0.5 for name, weight in mixture.items()}}
    exec(smaller, space)
    assert len(space["study"].trials) == 6
    assert all(abs(sum(trial.params.values()) - 1) < 1e-9 for trial in space["study"].trials)


def test_strategy_of_the_example_takes_ten_lines_or_fewer() -> None:
    code = EXAMPLES[0]
    strategy = code[: code.index("if __name__")]
    assert len([line for line in strategy.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    verb, *arguments = shlex.split(line)[1:]
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None, verb
    command.make_context(verb, arguments)


def test_readme_names_every_verb_and_file() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
    for verb in cli.list_commands(click.Context(cli)):
        assert f"| `{verb}` |" in README
