"""The command line's surface is frozen here: a change shows in review. It loads nothing heavy."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from regmix_active.cli import VERBS, cli

SURFACE = {
    "run": "--accelerate-config --async --budget --config --excess-over --executor --limit --name --out --relative --seed --set "
    "--storage --strategy --surrogate --target --verify --workers --worst",
    "status": "--storage RUN",
    "recommend": "--excess-over --interval --limit --relative --rule --simulations --storage --surrogate --target --top-k --worst "
    "RUN",
    "export": "--drop-below --force --format --lengths --mixture --option --output --paths --sequence-length --target-tokens "
    "--tokens RUN",
    "import": "--absent-is-zero --config --dry-run --map --out --scale --set --storage --study SOURCE",
    "study": "",
    "study fork": "--config --dry-run --merge --out --set --split --storage OLD",
    "study list": "PLACE",
    "verify": "--seeds --storage --workers RUN",
    "evaluate": "--folds --jobs --json --losses --mixtures --plots --scale --seeds --sizes --surrogate --target --test "
    "--test-losses --test-mixtures TABLE",
    "benchmark": "",
    "benchmark search": "--batch --budget --game --initial-design --jobs --json --methods --noise --plots --pool-runs "
    "--regmix-runs --scale --seeds --strategy --surrogate --target TABLES",
    "benchmark decision": "--batch --jobs --json --level --max-ratio --natural --runs --scale --seeds --study-runs --target TABLE",
    "benchmark swarm": "--config --json --mode --plot --processes --repeats --set --stacks --tokens",
    "benchmark proxy": "--config --jobs --json --mixtures --noise --out --plot --reference-seeds --reference-set --seeds --set",
    "strategies": "--check",
    "doctor": "--budget --config",
    "init": "--force --output --preset FOLDER",
}


def find(verb: str) -> click.Command:
    command: click.Command = cli
    for name in verb.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None, name
        command = found
    return command


def test_every_verb_is_frozen() -> None:
    nested = []
    for verb in VERBS:
        if isinstance(group := find(verb), click.Group):
            nested += [f"{verb} {name}" for name in group.list_commands(click.Context(group))]
    assert set(SURFACE) == {*VERBS, *nested}


@pytest.mark.parametrize("verb", list(SURFACE))
def test_options_of_each_verb(verb: str) -> None:
    command = find(verb)
    options = [p for p in command.params if isinstance(p, click.Option)]
    arguments = [p.name.upper() for p in command.params if isinstance(p, click.Argument) and p.name]
    names = sorted([max(option.opts, key=len) for option in options] + arguments)
    assert " ".join(names) == SURFACE[verb]
    assert all(option.help for option in options)
    assert (command.help or "").strip()


@pytest.mark.parametrize(
    "code",
    [
        "import regmix_active",
        "from regmix_active.cli import cli; cli.main(['--help'])",
        "from regmix_active.cli import cli; cli.main(['benchmark', '--help'])",
        "from regmix_active.cli import cli; cli.main(['benchmark', 'swarm', '--help'])",
    ],
)
def test_import_and_help_load_nothing_heavy(code: str) -> None:
    check = (
        "import sys\ntry:\n    "
        + code
        + "\nexcept SystemExit:\n    pass\n"
        + "heavy = {'torch', 'optuna', 'numpy', 'pydantic', 'rich', 'datasets', 'lightgbm', 'botorch', 'pandas', 'matplotlib'}\n"
        + "heavy &= set(sys.modules)\n"
        + "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_measurements_are_listed_without_their_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "regmix_active.cli.benchmark_proxy", None)  # importing it would raise
    shown = CliRunner().invoke(cli, ["benchmark", "--help"])
    assert shown.exit_code == 0
    assert all(f"\n  {name} " in shown.output for name in ("search", "swarm", "proxy"))
    unknown = CliRunner().invoke(cli, ["benchmark", "swarms"])
    assert unknown.exit_code == 2
    assert "No such command 'swarms'" in unknown.output


def test_measurements_of_the_readme_parse() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^regmix-active benchmark ([^#\n]*)", readme, re.MULTILINE)
    assert lines
    for line in lines:
        name, *arguments = shlex.split(line)
        find(f"benchmark {name}").make_context(name, arguments)


def test_every_public_name_exists() -> None:
    import regmix_active

    for name in regmix_active.__all__:
        assert getattr(regmix_active, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = regmix_active.nothing
