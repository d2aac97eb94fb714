"""The command line's surface is frozen here: a change shows in review. It loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from regmix_active.cli import VERBS, cli

SURFACE = {
    "run": "--budget --config --name --out --seed --set --storage --strategy --surrogate --target --verify --workers",
    "status": "--storage RUN",
    "recommend": "--simulations --storage --surrogate --target --top-k RUN",
    "verify": "--seeds --storage --workers RUN",
    "evaluate": "--folds --jobs --json --losses --mixtures --plots --scale --seeds --sizes --surrogate --target --test "
    "--test-losses --test-mixtures TABLE",
    "benchmark": "--batch --budget --game --initial-design --jobs --json --methods --noise --plots --pool-runs --regmix-runs "
    "--scale --seeds --strategy --surrogate --target TABLES",
    "strategies": "--check",
    "doctor": "--budget --config",
    "init": "--force --output FOLDER",
}


@pytest.mark.parametrize("verb", list(VERBS))
def test_options_of_each_verb(verb: str) -> None:
    context = click.Context(cli)
    command = cli.get_command(context, verb)
    assert command is not None
    options = [p for p in command.params if isinstance(p, click.Option)]
    arguments = [p.name.upper() for p in command.params if isinstance(p, click.Argument) and p.name]
    names = sorted([max(option.opts, key=len) for option in options] + arguments)
    assert " ".join(names) == SURFACE[verb]
    assert all(option.help for option in options)
    assert (command.help or "").strip()


@pytest.mark.parametrize("code", ["import regmix_active", "from regmix_active.cli import cli; cli.main(['--help'])"])
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


def test_every_public_name_exists() -> None:
    import regmix_active

    for name in regmix_active.__all__:
        assert getattr(regmix_active, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = regmix_active.nothing
